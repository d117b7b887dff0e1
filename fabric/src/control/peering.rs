//! The two halves of each peering: their states and whether they hold the networks' present ranges.
//!
//! A half is an object of its network. Writing and deleting one changes the state of the other; that is what Azure does
//! with each request. A plain apply goes on until the file is reached; one "as Azure" makes the file's requests only.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::{Peering, Topology, VirtualNetwork};

use super::Effect;

/// `peeringState` of one half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeeringState {
    /// Only this half exists.
    #[default]
    Initiated,
    /// Both halves exist.
    Connected,
    /// The other half was deleted, or the remote network with it.
    Disconnected,
}

/// `peeringSyncLevel` of one half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeeringSyncLevel {
    /// Both networks' present ranges are in force.
    #[default]
    FullyInSync,
    /// The local network's ranges changed since.
    LocalNotInSync,
    /// The remote network's ranges changed since.
    RemoteNotInSync,
    /// Both did.
    LocalAndRemoteNotInSync,
}

/// One half of a peering.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeeringStatus {
    /// The half's state.
    pub state: PeeringState,
    /// The local network's ranges that are in force for this peering; of a subnet peering, the prefixes of its subnets.
    pub local_address_space: Vec<IpNet>,
    /// The remote network's ranges that are in force for this peering; of a subnet peering, the prefixes of its subnets.
    pub remote_address_space: Vec<IpNet>,
}

impl PeeringStatus {
    /// The sync level against the ranges that the networks have now.
    pub fn sync_level(&self, local_now: &[IpNet], remote_now: &[IpNet]) -> PeeringSyncLevel {
        match (self.local_address_space == local_now, self.remote_address_space == remote_now) {
            (true, true) => PeeringSyncLevel::FullyInSync,
            (false, true) => PeeringSyncLevel::LocalNotInSync,
            (true, false) => PeeringSyncLevel::RemoteNotInSync,
            (false, false) => PeeringSyncLevel::LocalAndRemoteNotInSync,
        }
    }
}

/// The key of a half in the state.
pub(crate) fn key(local: &str, remote: &str) -> String {
    format!("{local} -> {remote}")
}

/// How an apply treats what the file's own differences do not bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The file is reached: what is Disconnected is created anew, changed ranges are synced.
    Reach,
    /// The file's requests are made, and nothing else.
    AsAzure,
}

/// What a half offers of one of its two networks: all ranges, or the prefixes of the named subnets. A subnet peering is of
/// IPv4 prefixes unless it is of IPv6 alone.
pub(crate) fn offered(network: &VirtualNetwork, half: &Peering, subnets: &[String]) -> Vec<IpNet> {
    if half.peer_complete_vnets {
        let all = network.address_space.iter().copied();
        return all.filter(|range| !half.enable_only_ipv6_peering || range.addr().is_ipv6()).collect();
    }
    let named = subnets.iter().filter_map(|name| network.subnets.get(name));
    named
        .flat_map(|subnet| subnet.address_prefixes.iter().copied())
        .filter(|prefix| prefix.addr().is_ipv6() == half.enable_only_ipv6_peering)
        .collect()
}

/// The ranges that a half would hold if it were synced now: local, remote.
pub(crate) fn present(topology: &Topology, local: &str, remote: &str) -> Option<(Vec<IpNet>, Vec<IpNet>)> {
    let (here, there) = (topology.virtual_networks.get(local)?, topology.virtual_networks.get(remote)?);
    let half = here.peerings.get(remote)?;
    Some((offered(here, half, &half.local_subnet_names), offered(there, half, &half.remote_subnet_names)))
}

/// The half as a topology writes it.
pub(super) fn written<'t>(topology: &'t Topology, local: &str, remote: &str) -> Option<&'t Peering> {
    topology.virtual_networks.get(local)?.peerings.get(remote)
}

/// Whether a half is of another type than before: whole networks or subnets, which nothing but deleting both halves changes.
pub(super) fn retyped(before: &Peering, after: &Peering) -> bool {
    before.peer_complete_vnets != after.peer_complete_vnets
}

/// One change of all peerings.
struct Change<'a> {
    earlier: &'a BTreeMap<String, PeeringStatus>,
    before: Option<&'a Topology>,
    after: &'a Topology,
    manner: Manner,
}

/// Brings every half to what follows from the file and from what was before it. `before` is the file that was in force.
pub(crate) fn converge(
    peerings: &mut BTreeMap<String, PeeringStatus>,
    before: Option<&Topology>,
    after: &Topology,
    manner: Manner,
) -> Vec<Effect> {
    let change = Change { earlier: peerings, before, after, manner };
    let mut effects = Vec::new();
    let mut next = BTreeMap::new();
    for (local, network) in &after.virtual_networks {
        for remote in network.peerings.keys() {
            let Some(status) = change.next(local, remote) else { continue };
            // What happens to both halves is told once, at the first.
            if !next.contains_key(&key(remote, local)) {
                effects.extend(change.effect(local, remote, &status));
            }
            next.insert(key(local, remote), status);
        }
    }
    *peerings = next;
    effects
}

impl Change<'_> {
    fn earlier(&self, local: &str, remote: &str) -> Option<&PeeringStatus> {
        self.earlier.get(&key(local, remote))
    }

    fn state(&self, local: &str, remote: &str) -> Option<PeeringState> {
        self.earlier(local, remote).map(|earlier| earlier.state)
    }

    /// Whether the half was there and the file writes it anew. A restored state knows no earlier file: nothing is.
    fn rewritten(&self, local: &str, remote: &str) -> bool {
        let before = self.before.and_then(|before| written(before, local, remote));
        before.is_some_and(|before| Some(before) != written(self.after, local, remote))
    }

    fn retyped(&self, local: &str, remote: &str) -> bool {
        let before = self.before.and_then(|before| written(before, local, remote));
        before.zip(written(self.after, local, remote)).is_some_and(|(before, after)| retyped(before, after))
    }

    /// A half that nothing but a request of its own takes out of Disconnected.
    fn stuck(&self, local: &str, remote: &str) -> bool {
        self.state(local, remote) == Some(PeeringState::Disconnected) && !self.rewritten(local, remote)
    }

    fn next(&self, local: &str, remote: &str) -> Option<PeeringStatus> {
        if !self.after.virtual_networks.contains_key(remote) {
            return self.orphaned(local, remote);
        }
        let (local_address_space, remote_address_space) = present(self.after, local, remote)?;
        let both = written(self.after, remote, local).is_some();
        let earlier = self.earlier(local, remote);
        let connects =
            self.manner == Manner::Reach || !(self.stuck(local, remote) || self.stuck(remote, local));
        let state = match (both, earlier.map(|earlier| earlier.state)) {
            (true, _) if connects => PeeringState::Connected,
            (_, Some(PeeringState::Disconnected)) if self.stuck(local, remote) => PeeringState::Disconnected,
            (false, Some(PeeringState::Connected)) => PeeringState::Disconnected,
            _ => PeeringState::Initiated,
        };
        let keeps = self.manner == Manner::AsAzure && state != PeeringState::Initiated;
        match earlier.filter(|earlier| keeps && earlier.state == state) {
            Some(earlier) => Some(earlier.clone()),
            None => Some(PeeringStatus { state, local_address_space, remote_address_space }),
        }
    }

    /// What is left of a half whose remote network was deleted.
    fn orphaned(&self, local: &str, remote: &str) -> Option<PeeringStatus> {
        let earlier = self.earlier(local, remote)?;
        Some(PeeringStatus { state: PeeringState::Disconnected, ..earlier.clone() })
    }

    /// What is worth telling of a pair, or of a half that is alone.
    fn effect(&self, local: &str, remote: &str, status: &PeeringStatus) -> Option<Effect> {
        let (here, there) = (local.to_owned(), remote.to_owned());
        if status.state == PeeringState::Disconnected {
            let was_connected = self.state(local, remote) == Some(PeeringState::Connected);
            return was_connected.then_some(Effect::PeeringDisconnected { local: here, remote: there });
        }
        if status.state != PeeringState::Connected {
            return None;
        }
        let was = |local, remote, state| self.state(local, remote) == Some(state);
        let disconnected = [(local, remote), (remote, local)]
            .into_iter()
            .find(|(local, remote)| was(local, remote, PeeringState::Disconnected));
        if let Some((local, remote)) = disconnected.filter(|_| self.manner == Manner::Reach) {
            let (local, remote) = (local.to_owned(), remote.to_owned());
            return Some(Effect::PeeringRecreated { local, remote });
        }
        let earlier =
            self.earlier(local, remote).filter(|earlier| earlier.state == PeeringState::Connected)?;
        if self.retyped(local, remote) {
            return Some(Effect::PeeringRecreated { local: here, remote: there });
        }
        if *earlier != *status {
            return Some(Effect::PeeringSynced { local: here, remote: there });
        }
        let (local_now, remote_now) = present(self.after, local, remote)?;
        let level = status.sync_level(&local_now, &remote_now);
        let is_synced = level == PeeringSyncLevel::FullyInSync;
        (!is_synced).then_some(Effect::PeeringNotInSync { local: here, remote: there, level })
    }
}

/// Both halves take over the present ranges; says whether anything changed.
pub(crate) fn sync(
    peerings: &mut BTreeMap<String, PeeringStatus>,
    topology: &Topology,
    local: &str,
    remote: &str,
) -> bool {
    let mut changed = false;
    for (local, remote) in [(local, remote), (remote, local)] {
        let Some(now) = present(topology, local, remote) else { continue };
        let Some(status) = peerings.get_mut(&key(local, remote)) else { continue };
        if status.state == PeeringState::Connected {
            let before = (&status.local_address_space, &status.remote_address_space);
            changed |= before != (&now.0, &now.1);
            (status.local_address_space, status.remote_address_space) = now;
        }
    }
    changed
}
