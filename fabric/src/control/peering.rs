//! The two halves of each peering: their states and whether they hold the networks' present ranges.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::Topology;

use super::Effect;

/// `peeringState` of one half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeeringState {
    /// Only this half exists.
    #[default]
    Initiated,
    /// Both halves exist.
    Connected,
    /// The other half was deleted.
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
    /// The local network's ranges that are in force for this peering.
    pub local_address_space: Vec<IpNet>,
    /// The remote network's ranges that are in force for this peering.
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

/// Brings every pair to what the file says: a pair with both halves is connected, re-created where one half was
/// disconnected, and holds the present ranges. A half that is alone is Initiated, or Disconnected where it was connected.
pub(crate) fn converge(peerings: &mut BTreeMap<String, PeeringStatus>, topology: &Topology) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut next = BTreeMap::new();
    for (local, network) in &topology.virtual_networks {
        for remote in network.peerings.keys() {
            let Some(remote_network) = topology.virtual_networks.get(remote) else { continue };
            let earlier = peerings.get(&key(local, remote));
            let both = remote_network.peerings.contains_key(local);
            let state = match (both, earlier.map(|earlier| earlier.state)) {
                (true, _) => PeeringState::Connected,
                (false, None | Some(PeeringState::Initiated)) => PeeringState::Initiated,
                (false, Some(_)) => PeeringState::Disconnected,
            };
            let status = PeeringStatus {
                state,
                local_address_space: network.address_space.clone(),
                remote_address_space: remote_network.address_space.clone(),
            };
            if let Some(earlier) = earlier.filter(|_| both) {
                let (local, remote) = (local.clone(), remote.clone());
                if earlier.state == PeeringState::Disconnected {
                    effects.push(Effect::PeeringRecreated { local, remote });
                } else if earlier.state == PeeringState::Connected && *earlier != status {
                    effects.push(Effect::PeeringSynced { local, remote });
                }
            }
            next.insert(key(local, remote), status);
        }
    }
    *peerings = next;
    effects
}

/// Both halves take over the present ranges; says whether anything changed.
pub(crate) fn sync(
    peerings: &mut BTreeMap<String, PeeringStatus>,
    topology: &Topology,
    local: &str,
    remote: &str,
) -> bool {
    let (Some(here), Some(there)) =
        (topology.virtual_networks.get(local), topology.virtual_networks.get(remote))
    else {
        return false;
    };
    let mut changed = false;
    for (key, own, other) in [(key(local, remote), here, there), (key(remote, local), there, here)] {
        if let Some(status) = peerings.get_mut(&key) {
            let before = status.clone();
            status.local_address_space.clone_from(&own.address_space);
            status.remote_address_space.clone_from(&other.address_space);
            changed |= *status != before;
        }
    }
    changed
}
