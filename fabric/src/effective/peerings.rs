//! Halves of peerings as Azure lists them: what the file says, with state and ranges in force.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::{Encryption, Peering, Topology, VirtualNetwork};

use crate::control::peering::{key, present};
use crate::control::{PeeringState, PeeringSyncLevel, State};

/// Ranges, in Azure's envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressSpace {
    /// The ranges.
    pub address_prefixes: Vec<String>,
}

impl From<&[IpNet]> for AddressSpace {
    fn from(ranges: &[IpNet]) -> AddressSpace {
        AddressSpace { address_prefixes: ranges.iter().map(ToString::to_string).collect() }
    }
}

/// One end of a peering.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeeringEnd {
    /// The network's name; its full resource id where it names a subscription.
    pub id: String,
    /// Its region.
    pub location: String,
    /// The subscription that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// The tenant that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Virtual network encryption of the remote network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteEncryption {
    /// Whether it is on.
    pub enabled: bool,
    /// `AllowUnencrypted` or `DropUnencrypted`.
    pub enforcement: String,
}

/// One half of a peering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectivePeering {
    /// `LOCAL/REMOTE`.
    pub name: String,
    /// `Initiated`, `Connected` or `Disconnected`.
    pub peering_state: PeeringState,
    /// Whether the ranges in force are those that the networks have now.
    pub peering_sync_level: PeeringSyncLevel,
    /// Whose half it is.
    pub virtual_network: PeeringEnd,
    /// The other network.
    pub remote_virtual_network: PeeringEnd,
    /// Whether the two are in different regions.
    pub is_global: bool,
    /// The local ranges in force; of a subnet peering, the prefixes of its subnets.
    pub local_address_space: AddressSpace,
    /// The local ranges that there are now.
    pub local_virtual_network_address_space: AddressSpace,
    /// The remote ranges in force: those that the local network has routes to while it is connected.
    pub remote_address_space: AddressSpace,
    /// The remote ranges that there are now.
    pub remote_virtual_network_address_space: AddressSpace,
    /// As in the file.
    pub allow_virtual_network_access: bool,
    /// As in the file.
    pub allow_forwarded_traffic: bool,
    /// As in the file.
    pub allow_gateway_transit: bool,
    /// As in the file.
    pub use_remote_gateways: bool,
    /// As in the file.
    pub do_not_verify_remote_gateways: bool,
    /// As in the file.
    pub peer_complete_vnets: bool,
    /// As in the file.
    #[serde(rename = "enableOnlyIPv6Peering")]
    pub enable_only_ipv6_peering: bool,
    /// As in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_subnet_names: Vec<String>,
    /// As in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_subnet_names: Vec<String>,
    /// The remote network's encryption, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_virtual_network_encryption: Option<RemoteEncryption>,
}

impl EffectivePeering {
    /// What a table shows beside the name: how far it reaches, the flags that are set, the subnets, the labels that differ.
    pub fn summary(&self) -> String {
        let flags = [
            (self.is_global, "global"),
            (!self.allow_virtual_network_access, "no allowVirtualNetworkAccess"),
            (self.allow_forwarded_traffic, "allowForwardedTraffic"),
            (self.allow_gateway_transit, "allowGatewayTransit"),
            (self.use_remote_gateways, "useRemoteGateways"),
            (self.enable_only_ipv6_peering, "enableOnlyIPv6Peering"),
        ];
        let mut parts: Vec<String> =
            flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()).collect();
        if !self.peer_complete_vnets {
            let (local, remote) = (self.local_subnet_names.join(" "), self.remote_subnet_names.join(" "));
            parts.push(format!("subnets {local} <-> {remote}"));
        }
        let (near, far) = (&self.virtual_network, &self.remote_virtual_network);
        for (label, own, other) in
            [("subscription", &near.subscription, &far.subscription), ("tenant", &near.tenant, &far.tenant)]
        {
            if own != other {
                let named = |label: &Option<String>| label.clone().unwrap_or_else(|| "none".to_owned());
                parts.push(format!("{label} {} -> {}", named(own), named(other)));
            }
        }
        if let Some(encryption) = &self.remote_virtual_network_encryption {
            parts.push(format!("remote encryption {}", encryption.enforcement));
        }
        parts.join(", ")
    }
}

/// Every half of a peering, in the order of the file.
pub fn peerings(topology: &Topology, state: &State) -> Vec<EffectivePeering> {
    let networks = topology.virtual_networks.iter();
    networks
        .flat_map(|(local, network)| {
            network
                .peerings
                .iter()
                .filter_map(move |(remote, half)| one(topology, state, (local, remote), half))
        })
        .collect()
}

fn one(
    topology: &Topology,
    state: &State,
    (local, remote): (&str, &str),
    half: &Peering,
) -> Option<EffectivePeering> {
    let here = topology.virtual_networks.get(local)?;
    let there = topology.virtual_networks.get(remote);
    let status = state.peerings.get(&key(local, remote)).cloned().unwrap_or_default();
    // Of a network that is gone the half has what it held last.
    let (local_now, remote_now) = present(topology, local, remote)
        .unwrap_or_else(|| (status.local_address_space.clone(), status.remote_address_space.clone()));
    let near = end(topology, local, here);
    let far = match there {
        Some(there) => end(topology, remote, there),
        None => PeeringEnd { id: remote.to_owned(), ..near.clone() },
    };
    let encryption =
        there.and_then(|there| there.encryption.as_ref()).filter(|encryption| encryption.enabled);
    Some(EffectivePeering {
        name: format!("{local}/{remote}"),
        peering_state: status.state,
        peering_sync_level: status.sync_level(&local_now, &remote_now),
        is_global: near.location != far.location,
        virtual_network: near,
        remote_virtual_network: far,
        local_address_space: status.local_address_space.as_slice().into(),
        local_virtual_network_address_space: local_now.as_slice().into(),
        remote_address_space: status.remote_address_space.as_slice().into(),
        remote_virtual_network_address_space: remote_now.as_slice().into(),
        allow_virtual_network_access: half.allow_virtual_network_access,
        allow_forwarded_traffic: half.allow_forwarded_traffic,
        allow_gateway_transit: half.allow_gateway_transit,
        use_remote_gateways: half.use_remote_gateways,
        do_not_verify_remote_gateways: half.do_not_verify_remote_gateways,
        peer_complete_vnets: half.peer_complete_vnets,
        enable_only_ipv6_peering: half.enable_only_ipv6_peering,
        local_subnet_names: half.local_subnet_names.clone(),
        remote_subnet_names: half.remote_subnet_names.clone(),
        remote_virtual_network_encryption: encryption.map(remote_encryption),
    })
}

fn remote_encryption(encryption: &Encryption) -> RemoteEncryption {
    RemoteEncryption { enabled: encryption.enabled, enforcement: format!("{:?}", encryption.enforcement) }
}

fn end(topology: &Topology, name: &str, network: &VirtualNetwork) -> PeeringEnd {
    let id = match &network.subscription {
        Some(subscription) => format!(
            "/subscriptions/{subscription}/resourceGroups/{}/providers/Microsoft.Network/virtualNetworks/{name}",
            topology.name
        ),
        None => name.to_owned(),
    };
    PeeringEnd {
        id,
        location: network.location.clone().unwrap_or_else(|| topology.location.clone()),
        subscription: network.subscription.clone(),
        tenant: network.tenant.clone(),
    }
}
