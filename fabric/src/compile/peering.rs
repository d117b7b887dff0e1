//! Halves of peerings, with the ranges that they hold.

use ipnet::IpNet;

use super::Builder;
use crate::azure_rule::AzureRule;
use crate::control::PeeringState;
use crate::snapshot::CounterKind;
use crate::snapshot::network::{PeeringHalf, PeeringRules};

impl Builder<'_> {
    pub(super) fn peerings(&mut self) {
        let topology = self.topology;
        for (local_index, (local, network)) in topology.virtual_networks.iter().enumerate() {
            for (remote, peering) in &network.peerings {
                let Some(remote_index) = topology.virtual_networks.get_index_of(remote.as_str()) else {
                    continue;
                };
                let name = format!("peering {local} -> {remote}");
                let rules = PeeringRules {
                    connected: self.rule("", &name, AzureRule::PeeringState, None),
                    not_connected: self.rule("not connected", &name, AzureRule::PeeringState, None),
                    access: self.rule(
                        "",
                        &format!("{name}: allowVirtualNetworkAccess"),
                        AzureRule::PeeringAccess,
                        None,
                    ),
                    forwarded: self.rule(
                        "",
                        &format!("{name}: allowForwardedTraffic"),
                        AzureRule::PeeringForwarded,
                        None,
                    ),
                };
                let counter =
                    CounterKind::Peering { from: local.as_str().into(), to: remote.as_str().into() };
                let here = self.network_location(local_index, None);
                let there = self.network_location(remote_index, None);
                let half = PeeringHalf {
                    local: local_index,
                    remote: remote_index,
                    reverse: None,
                    state: self.peering_state(local, remote),
                    allow_access: peering.allow_virtual_network_access,
                    allow_forwarded: peering.allow_forwarded_traffic,
                    global: here.region != there.region,
                    counter: self.add_counter(&format!("peering/{local}/{remote}"), counter),
                    rules,
                };
                self.add_half(half);
            }
        }
        for index in 0..self.snapshot.peerings.len() {
            let half = &self.snapshot.peerings[index];
            let reverse = self.halves.get(&(half.remote, half.local)).copied();
            self.snapshot.peerings[index].reverse = reverse;
        }
    }

    fn add_half(&mut self, half: PeeringHalf) {
        let index = self.snapshot.peerings.len();
        self.halves.insert((half.local, half.remote), index);
        for range in self.ranges_in_force(&half) {
            self.snapshot.networks[half.local].peering_ranges.insert(range, index);
        }
        self.snapshot.networks[half.local].peerings.push(index);
        self.snapshot.peerings.push(half);
    }

    fn peering_state(&self, local: &str, remote: &str) -> PeeringState {
        self.state
            .peerings
            .get(&format!("{local} -> {remote}"))
            .map(|status| status.state)
            .unwrap_or_default()
    }

    /// The remote network's ranges, as this half holds them since its last sync.
    pub(super) fn ranges_in_force(&self, half: &PeeringHalf) -> Vec<IpNet> {
        let (local, remote) = (&self.snapshot.networks[half.local], &self.snapshot.networks[half.remote]);
        match self.state.peerings.get(&format!("{} -> {}", local.name, remote.name)) {
            Some(status) => status.remote_address_space.clone(),
            None => remote.ranges.clone(),
        }
    }

    /// This network's connected halves.
    pub(super) fn connected(&self, network: usize) -> Vec<usize> {
        let halves = self.snapshot.networks[network].peerings.iter().copied();
        halves.filter(|half| self.snapshot.peerings[*half].state == PeeringState::Connected).collect()
    }
}
