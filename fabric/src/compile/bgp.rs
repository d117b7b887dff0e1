//! BGP: over which connections routes come by it, and what each instance of a gateway tells and whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::{
    BgpSettings, Connection, ConnectionType, GatewayType, Topology, VirtualNetworkGateway,
};

use super::Builder;
use super::tunnels::{PlannedEnd, PlannedSide, carrying, plan};
use crate::snapshot::bgp::{BgpPeer, BgpPrefix, BgpSpeaker, BgpWay};
use crate::snapshot::lpm::covers;

/// The AS number of gateways that are given none.
const AZURE_ASN: u32 = 65_515;

fn asn(settings: Option<&BgpSettings>) -> u32 {
    settings.map_or(AZURE_ASN, |settings| settings.asn)
}

/// Whether routes come over the connection by BGP: both of its ends say so.
pub(super) fn is_spoken(topology: &Topology, connection: &Connection) -> bool {
    let speaks = |name: &str| {
        let gateway = topology.virtual_network_gateways.get(name);
        gateway.is_some_and(|gateway| gateway.enable_bgp && gateway.gateway_type == GatewayType::Vpn)
    };
    if !connection.enable_bgp || !speaks(&connection.virtual_network_gateway1) {
        return false;
    }
    match connection.connection_type {
        ConnectionType::IPsec => device_speaker(topology, connection).is_some(),
        ConnectionType::Vnet2Vnet => {
            let second = connection.virtual_network_gateway2.as_deref().unwrap_or_default();
            let mut others = topology.connections.values();
            speaks(second)
                && others.any(|back| {
                    back.connection_type == ConnectionType::Vnet2Vnet
                        && back.enable_bgp
                        && back.virtual_network_gateway1 == second
                        && back.virtual_network_gateway2.as_deref()
                            == Some(&connection.virtual_network_gateway1)
                })
        }
        ConnectionType::ExpressRoute => false,
    }
}

/// Address and AS number of the speaker of a VPN device.
fn device_speaker(topology: &Topology, connection: &Connection) -> Option<(IpAddr, u32)> {
    let name = connection.local_network_gateway2.as_ref()?;
    let settings = topology.local_network_gateways.get(name)?.bgp_settings.as_ref()?;
    Some((settings.bgp_peering_address?, settings.asn))
}

/// The number of the instance with this public address.
fn instance_of(gateway: &VirtualNetworkGateway, public: IpAddr) -> usize {
    carrying(gateway).iter().position(|own| *own == public).unwrap_or(0)
}

impl Builder<'_> {
    /// The host routes to the speakers at a connection's other end, which are there without being listed.
    pub(super) fn peer_addresses(&self, connection: &Connection) -> Vec<IpNet> {
        match connection.connection_type {
            ConnectionType::Vnet2Vnet => {
                let second = connection.virtual_network_gateway2.as_deref().unwrap_or_default();
                let count = self
                    .topology
                    .virtual_network_gateways
                    .get(second)
                    .map_or(0, |gateway| carrying(gateway).len());
                let addresses = (0..count).filter_map(|instance| self.speaker_address(second, instance));
                addresses.map(|address| IpNet::from(IpAddr::V4(address))).collect()
            }
            _ => device_speaker(self.topology, connection)
                .map(|(address, _)| IpNet::from(address))
                .into_iter()
                .collect(),
        }
    }

    /// The address by which an instance speaks: its own of IPv4.
    fn speaker_address(&self, gateway: &str, instance: usize) -> Option<Ipv4Addr> {
        let addresses = self.state.addresses.of(&format!("{gateway}/{instance}")).iter();
        addresses.copied().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    fn speaker_address_v6(&self, gateway: &str, instance: usize) -> Option<Ipv6Addr> {
        let addresses = self.state.addresses.of(&format!("{gateway}/{instance}")).iter();
        addresses.copied().find_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }

    /// The speakers of all gateways, after their tunnels.
    pub(super) fn speakers(&mut self) {
        let planned = plan(self.topology);
        let topology = self.topology;
        for (name, gateway) in &topology.virtual_network_gateways {
            let Some(index) = self.gateways.get(name).copied().filter(|_| gateway.enable_bgp) else {
                continue;
            };
            let own_side = self.own_side(name);
            let originated = self.originated(name, gateway);
            for (instance, port) in
                self.snapshot.gateways[index].instances.iter().map(|instance| instance.port).enumerate()
            {
                let Some(address) = self.speaker_address(name, instance) else { continue };
                let peers = self.peers(name, gateway, instance, address, &planned);
                self.snapshot.speakers.push(BgpSpeaker {
                    gateway: name.as_str().into(),
                    instance: u16::try_from(instance).unwrap_or(u16::MAX),
                    port,
                    asn: asn(gateway.bgp_settings.as_ref()),
                    address,
                    address_v6: self.speaker_address_v6(name, instance),
                    originated: originated.clone(),
                    own_side: own_side.clone(),
                    peers,
                });
            }
        }
    }

    /// Those at the other ends of the instance's tunnels, and the gateway's other instance.
    fn peers(
        &self,
        name: &str,
        gateway: &VirtualNetworkGateway,
        instance: usize,
        local: Ipv4Addr,
        planned: &[PlannedEnd<'_>],
    ) -> Vec<BgpPeer> {
        let local = IpAddr::V4(local);
        let mut peers: Vec<BgpPeer> = Vec::new();
        let own = PlannedSide::Gateway { gateway: name, instance };
        for end in planned.iter().filter(|end| end.end == own) {
            let connection = &self.topology.connections[end.connection];
            let Some((address, asn)) = self.other_speaker(connection, end.remote) else { continue };
            if !is_spoken(self.topology, connection) || peers.iter().any(|peer| peer.address == address) {
                continue;
            }
            let carries = self.tunnel_status(end).carries() && self.is_up(&end.name);
            let way = BgpWay { connection: end.connection.into(), tunnel: end.name.as_str().into(), carries };
            let passive = connection.connection_type == ConnectionType::Vnet2Vnet && local < address;
            peers.push(BgpPeer { address, asn, local, passive, way: Some(way) });
        }
        let count = carrying(gateway).len();
        for other in (0..count).filter(|other| *other != instance) {
            if let Some(address) = self.speaker_address(name, other) {
                let asn = asn(gateway.bgp_settings.as_ref());
                let address = IpAddr::V4(address);
                peers.push(BgpPeer { address, asn, local, passive: local < address, way: None });
            }
        }
        peers
    }

    /// Whether a tunnel end has its session, and not only the prospect of one.
    fn is_up(&self, tunnel: &str) -> bool {
        self.state.tunnels.get(tunnel) == Some(&crate::snapshot::TunnelStatus::Connected)
    }

    /// Address and AS number of the speaker behind the public address `remote` of a connection.
    fn other_speaker(&self, connection: &Connection, remote: IpAddr) -> Option<(IpAddr, u32)> {
        if connection.connection_type != ConnectionType::Vnet2Vnet {
            return device_speaker(self.topology, connection);
        }
        let name = connection.virtual_network_gateway2.as_ref()?;
        let gateway = self.topology.virtual_network_gateways.get(name)?;
        let address = self.speaker_address(name, instance_of(gateway, remote))?;
        Some((IpAddr::V4(address), asn(gateway.bgp_settings.as_ref())))
    }

    /// What a gateway tells of its own: the ranges of its side, those of its network and of the networks that use it, summed up
    /// where its network says so; what is behind its connections without BGP; and its clients' addresses.
    fn originated(&self, name: &str, gateway: &VirtualNetworkGateway) -> Vec<BgpPrefix> {
        let network = self.topology.virtual_networks.get(&gateway.virtual_network);
        let summary =
            network.map(|network| network.summarized_gateway_prefixes.as_slice()).unwrap_or_default();
        let own = self.own_ranges(name);
        let mut prefixes = self.own_side(name);
        if !summary.is_empty() {
            prefixes.retain(|prefix| {
                !own.contains(prefix) && !summary.iter().any(|summed| covers(summed, prefix))
            });
            prefixes.extend(summary);
        }
        if let Some(clients) = &gateway.vpn_client_configuration {
            prefixes.extend(&clients.vpn_client_address_pool);
        }
        prefixes.sort();
        prefixes.dedup();
        let mut all: Vec<BgpPrefix> =
            prefixes.into_iter().map(|prefix| BgpPrefix { prefix, connection: None }).collect();
        for (connection_name, connection) in &self.topology.connections {
            let local = connection
                .local_network_gateway2
                .as_ref()
                .filter(|_| connection.virtual_network_gateway1 == name)
                .and_then(|local| self.topology.local_network_gateways.get(local));
            let connection: Arc<str> = connection_name.as_str().into();
            let behind = local.into_iter().flat_map(|local| &local.local_network_address_space);
            all.extend(behind.filter(|prefix| prefix.prefix_len() != 0).map(|prefix| BgpPrefix {
                prefix: prefix.trunc(),
                connection: Some(Arc::clone(&connection)),
            }));
        }
        all
    }
}
