//! Delay lines between regions and zones.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use vnet_config::model::{LatencyPreset, RegionLatency};

use super::Builder;
use crate::snapshot::DelaySpec;
use crate::snapshot::network::Location;

/// Median round-trip times between Azure's regions, in milliseconds: `from,to,rtt_ms_p50`.
const PUBLISHED: &str = include_str!("../../data/azure-region-latency.csv");
/// Round trip inside an availability zone.
const ZONE_RTT_MS: f64 = 0.3;
/// Round trip between availability zones of a region.
const CROSS_ZONE_RTT_MS: f64 = 1.0;

type Table = HashMap<(String, String), f64>;

fn published() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let rows = PUBLISHED.lines().skip(1).filter_map(|line| {
            let mut fields = line.split(',');
            let (from, to) = (fields.next()?, fields.next()?);
            Some(((from.to_owned(), to.to_owned()), fields.next()?.trim().parse().ok()?))
        });
        rows.collect()
    })
}

impl Builder<'_> {
    /// A delay line for every pair of places in use, unless the file switches latency off.
    pub(super) fn delays(&mut self) {
        let table: Table = match &self.topology.regions.latency {
            RegionLatency::Preset(LatencyPreset::None) => return,
            RegionLatency::Preset(LatencyPreset::Default) => published().clone(),
            RegionLatency::Table(table) => table
                .iter()
                .flat_map(|(from, row)| row.iter().map(|(to, rtt)| ((from.clone(), to.clone()), *rtt)))
                .collect(),
        };
        let places: HashSet<Location> = self.places();
        let mut places: Vec<Location> = places.into_iter().collect();
        places.sort_by_key(|place| (place.region, place.zone));
        for from in &places {
            for to in &places {
                self.delay(&table, *from, *to);
            }
        }
    }

    fn places(&self) -> HashSet<Location> {
        let snapshot = &self.snapshot;
        let nics = snapshot.nics.iter().map(|nic| nic.location);
        let firewalls = snapshot.firewalls.iter().map(|firewall| firewall.location);
        let gateways = snapshot.gateways.iter().map(|gateway| gateway.location);
        let tunnels = snapshot.tunnels.iter().map(|tunnel| tunnel.remote_location);
        nics.chain(firewalls)
            .chain(gateways)
            .chain(tunnels)
            .chain(snapshot.sites.iter().map(|site| site.location))
            .collect()
    }

    fn delay(&mut self, table: &Table, from: Location, to: Location) {
        let region = |place: Location| self.regions[usize::from(place.region)].clone();
        let (from_region, to_region) = (region(from), region(to));
        let (name, rtt) = if from.region != to.region {
            let key = (from_region.clone(), to_region.clone());
            let reverse = (to_region.clone(), from_region.clone());
            let Some(rtt) = table.get(&key).or_else(|| table.get(&reverse)) else { return };
            (format!("{from_region} -> {to_region}"), *rtt)
        } else if from.zone != 0 && to.zone != 0 && from.zone != to.zone {
            (format!("{from_region}, between zones"), CROSS_ZONE_RTT_MS)
        } else {
            (format!("{from_region}, in a zone"), ZONE_RTT_MS)
        };
        let id = self.ids.delay(&name);
        self.snapshot.delay_of.insert((from, to), id);
        if self.snapshot.delays.iter().all(|delay| delay.id != id) {
            self.snapshot.delays.push(DelaySpec { id, name: name.into(), delay_ns: one_way_ns(rtt) });
        }
    }
}

/// Half a round trip, in nanoseconds.
fn one_way_ns(rtt_ms: f64) -> u64 {
    let nanoseconds = (rtt_ms * 500_000.0).round();
    if nanoseconds.is_finite() && nanoseconds > 0.0 { nanoseconds as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_table_is_read() {
        let key = ("eastus".to_owned(), "westeurope".to_owned());
        assert_eq!(published().get(&key), Some(&83.0));
        assert_eq!(one_way_ns(83.0), 41_500_000);
    }
}
