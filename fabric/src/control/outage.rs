//! Instances of gateways that carry nothing for a while: one that has failed, and a gateway that is still being made.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vnet_config::model::{GatewayType, Topology};
use vnet_dataplane::Nanos;

use super::{ChangedLayer, Effect, State};
use crate::snapshot::TunnelStatus;

/// How long Azure takes to make a VPN gateway: about half an hour.
const PROVISIONING: Duration = Duration::from_secs(30 * 60);
/// An interruption by maintenance that Azure plans: the middle of 10 to 15 seconds.
const PLANNED: Duration = Duration::from_millis(12_500);
/// One that nobody has planned: the middle of 1 to 3 minutes.
const UNPLANNED: Duration = Duration::from_secs(120);
/// Whatever the scale, nothing takes longer.
const OUTAGE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why an instance carries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutageCause {
    /// Its gateway is being made.
    Provisioning,
    /// Maintenance.
    Planned,
    /// A failure.
    Unplanned,
}

/// An instance that carries nothing for a while. Of an active-standby gateway the other takes its place then, by the same public
/// address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// Name of the gateway.
    pub gateway: String,
    /// The instance, from 0; of an active-standby gateway the one that is active is 0.
    pub instance: usize,
    /// Why.
    pub cause: OutageCause,
    /// When it ends, in nanoseconds of the clock that events come with.
    pub until_ns: u64,
}

impl Outage {
    /// What a tunnel's status says of it.
    pub fn reason(&self) -> String {
        match self.cause {
            OutageCause::Provisioning => format!("{} is being made", self.gateway),
            OutageCause::Planned => {
                format!("instance {} of {} is down for planned maintenance", self.instance, self.gateway)
            }
            OutageCause::Unplanned => format!("instance {} of {} has failed", self.instance, self.gateway),
        }
    }
}

/// How many instances of a gateway carry tunnels.
fn instances(topology: &Topology, gateway: &str) -> Option<usize> {
    let gateway = topology.virtual_network_gateways.get(gateway)?;
    let carries = gateway.gateway_type == GatewayType::Vpn;
    carries.then_some(if gateway.active_active { 2 } else { 1 })
}

fn scaled(topology: &Topology, duration: Duration) -> Duration {
    let seconds = duration.as_secs_f64() * topology.provisioning.time_scale;
    Duration::try_from_secs_f64(seconds).unwrap_or(OUTAGE_MAX).min(OUTAGE_MAX)
}

impl State {
    /// The outage of a gateway's instance, if it has one.
    pub fn outage(&self, gateway: &str, instance: usize) -> Option<&Outage> {
        self.outages.iter().find(|outage| outage.gateway == gateway && outage.instance == instance)
    }

    /// Whether a gateway is still being made.
    pub fn is_being_made(&self, gateway: &str) -> bool {
        let is_of = |outage: &Outage| outage.gateway == gateway && outage.cause == OutageCause::Provisioning;
        self.outages.iter().any(is_of)
    }

    /// When [`super::Event::Timer`] is due next.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.outages.iter().map(|outage| Nanos(outage.until_ns)).min()
    }

    /// An instance fails. One that is down already stays so for the longer of the two times.
    pub(super) fn fail_instance(
        &mut self,
        gateway: &str,
        instance: usize,
        planned: bool,
        now: Nanos,
    ) -> Vec<Effect> {
        let Some(topology) = self.topology.clone() else { return Vec::new() };
        if instances(&topology, gateway).is_none_or(|count| instance >= count) {
            return Vec::new();
        }
        let (cause, time) =
            if planned { (OutageCause::Planned, PLANNED) } else { (OutageCause::Unplanned, UNPLANNED) };
        self.begin_outage(gateway, instance, cause, now + scaled(&topology, time));
        vec![self.recompile(ChangedLayer::Tunnels)]
    }

    fn begin_outage(&mut self, gateway: &str, instance: usize, cause: OutageCause, until: Nanos) {
        let known =
            self.outages.iter().position(|outage| outage.gateway == gateway && outage.instance == instance);
        let standing = known.map(|index| self.outages.swap_remove(index));
        let new = Outage { gateway: gateway.to_owned(), instance, cause, until_ns: until.0 };
        self.outages.push(match standing {
            Some(standing) if standing.until_ns > new.until_ns => standing,
            _ => new,
        });
        self.outages.sort_by(|a, b| (&a.gateway, a.instance).cmp(&(&b.gateway, b.instance)));
        self.forget_sessions(gateway, instance);
    }

    /// Ends the outages whose time has come.
    pub(super) fn end_outages(&mut self, now: Nanos) -> Vec<Effect> {
        let before = self.outages.len();
        self.outages.retain(|outage| outage.until_ns > now.0);
        if self.outages.len() == before { Vec::new() } else { vec![self.recompile(ChangedLayer::Tunnels)] }
    }

    /// No session of an instance outlives it.
    fn forget_sessions(&mut self, gateway: &str, instance: usize) {
        let Some(topology) = self.topology.clone() else { return };
        for tunnel in crate::compile::tunnels_of(&topology, gateway, instance) {
            if let Some(status) = self.tunnels.get_mut(&tunnel) {
                *status = TunnelStatus::Connecting;
            }
        }
    }

    /// Gateways that the file has anew take their time to be made; what it has no more has no outage.
    pub(super) fn provision(&mut self, former: Option<&Topology>, now: Nanos) {
        let Some(topology) = self.topology.clone() else { return };
        self.outages.retain(|outage| {
            instances(&topology, &outage.gateway).is_some_and(|count| outage.instance < count)
        });
        let time = scaled(&topology, PROVISIONING);
        if time.is_zero() {
            return;
        }
        let is_known =
            |name: &String| former.is_some_and(|former| former.virtual_network_gateways.contains_key(name));
        let new: Vec<&String> =
            topology.virtual_network_gateways.keys().filter(|name| !is_known(name)).collect();
        for gateway in new {
            for instance in 0..instances(&topology, gateway).unwrap_or(0) {
                self.begin_outage(gateway, instance, OutageCause::Provisioning, now + time);
            }
        }
    }
}
