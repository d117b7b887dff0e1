//! Which tunnels the file's connections ask for, end by end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vnet_config::model::{
    Connection, ConnectionMode, ConnectionType, GatewayType, Topology, VirtualNetworkGateway, VpnDeviceKind,
};

/// One end of a tunnel that the file asks for.
#[derive(Debug)]
pub(super) struct PlannedEnd<'a> {
    pub(super) name: String,
    pub(super) connection: &'a str,
    pub(super) end: PlannedSide<'a>,
    pub(super) index: u16,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) peer: PlannedPeer<'a>,
    pub(super) key: Option<&'a str>,
    pub(super) initiates: bool,
    /// Why it can't come up, where the file says so already.
    pub(super) problem: Option<String>,
}

/// Whose end it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlannedSide<'a> {
    Gateway { gateway: &'a str, instance: usize },
    Site(&'a str),
}

/// The other end.
#[derive(Clone, Debug)]
pub(super) enum PlannedPeer<'a> {
    Tunnel(String),
    External(&'a str),
    Missing,
}

/// Names of the tunnel ends that the file asks for.
pub(crate) fn tunnel_names(topology: &Topology) -> BTreeSet<String> {
    plan(topology).into_iter().map(|end| end.name).collect()
}

/// All tunnel ends that the file asks for, in the order of its connections.
pub(super) fn plan(topology: &Topology) -> Vec<PlannedEnd<'_>> {
    let mut ends = Vec::new();
    for (name, connection) in &topology.connections {
        let Some(gateway) = vpn_gateway(topology, &connection.virtual_network_gateway1) else { continue };
        match connection.connection_type {
            ConnectionType::IPsec => plan_site(topology, name, connection, gateway, &mut ends),
            ConnectionType::Vnet2Vnet => plan_network(topology, name, connection, gateway, &mut ends),
            ConnectionType::ExpressRoute => {}
        }
    }
    ends
}

fn vpn_gateway<'a>(topology: &'a Topology, name: &str) -> Option<&'a VirtualNetworkGateway> {
    topology.virtual_network_gateways.get(name).filter(|gateway| gateway.gateway_type == GatewayType::Vpn)
}

/// Public addresses that carry tunnels: both of an active-active gateway, the first of an active-standby one.
pub(super) fn carrying(gateway: &VirtualNetworkGateway) -> &[IpAddr] {
    let count = if gateway.active_active { 2 } else { 1 };
    &gateway.public_ip_addresses[..count.min(gateway.public_ip_addresses.len())]
}

fn key(connection: &Connection) -> Option<&str> {
    connection.shared_key.as_ref().map(|key| key.expose())
}

fn plan_site<'a>(
    topology: &'a Topology,
    name: &'a str,
    connection: &'a Connection,
    gateway: &'a VirtualNetworkGateway,
    ends: &mut Vec<PlannedEnd<'a>>,
) {
    let Some(local_gateway) =
        connection.local_network_gateway2.as_ref().and_then(|name| topology.local_network_gateways.get(name))
    else {
        return;
    };
    let remote = local_gateway.gateway_ip_address;
    let site = topology.on_premises_sites.iter().find_map(|(name, site)| {
        let device = site.vpn_device.as_ref()?;
        (device.public_ip_address == remote).then_some((name.as_str(), device))
    });
    for (instance, local) in carrying(gateway).iter().enumerate() {
        let index = u16::try_from(instance).unwrap_or(u16::MAX);
        let own_name = format!("{name}/{index}");
        let builtin = site.filter(|(_, device)| device.kind == VpnDeviceKind::Builtin);
        let device_key = builtin
            .and_then(|(_, device)| device.shared_key.as_ref().map(|key| key.expose()))
            .or(key(connection));
        let problem = match site {
            None => Some(format!("no VPN device of the lab has the public address {remote}")),
            Some(_) if device_key != key(connection) => {
                Some("the two ends have different shared keys".to_owned())
            }
            Some(_) => None,
        };
        let peer = match site {
            None => PlannedPeer::Missing,
            Some((site, device)) if device.kind == VpnDeviceKind::External => PlannedPeer::External(site),
            Some((site, _)) => PlannedPeer::Tunnel(format!("{site}/{own_name}")),
        };
        if let Some((site, _)) = builtin {
            ends.push(PlannedEnd {
                name: format!("{site}/{own_name}"),
                connection: name,
                end: PlannedSide::Site(site),
                index,
                local: remote,
                remote: *local,
                peer: PlannedPeer::Tunnel(own_name.clone()),
                key: device_key,
                initiates: connection.connection_mode != ConnectionMode::InitiatorOnly,
                problem: problem.clone(),
            });
        }
        ends.push(PlannedEnd {
            name: own_name,
            connection: name,
            end: PlannedSide::Gateway { gateway: &connection.virtual_network_gateway1, instance },
            index,
            local: *local,
            remote,
            peer,
            key: key(connection),
            initiates: connection.connection_mode != ConnectionMode::ResponderOnly,
            problem,
        });
    }
}

fn plan_network<'a>(
    topology: &'a Topology,
    name: &'a str,
    connection: &'a Connection,
    gateway: &'a VirtualNetworkGateway,
    ends: &mut Vec<PlannedEnd<'a>>,
) {
    let Some(remote_name) = connection.virtual_network_gateway2.as_deref() else { return };
    let Some(remote_gateway) = vpn_gateway(topology, remote_name) else { return };
    let back = topology.connections.iter().find(|(_, back)| {
        back.connection_type == ConnectionType::Vnet2Vnet
            && back.virtual_network_gateway1 == remote_name
            && back.virtual_network_gateway2.as_deref() == Some(&connection.virtual_network_gateway1)
    });
    let (here, there) = (carrying(gateway), carrying(remote_gateway));
    for (instance, local) in here.iter().enumerate() {
        for (far, remote) in there.iter().enumerate() {
            let index = instance * there.len() + far;
            let problem = match back {
                None => Some(format!(
                    "no connection leads back from {remote_name} to {}",
                    connection.virtual_network_gateway1
                )),
                Some((_, back)) if key(back) != key(connection) => {
                    Some("the two ends have different shared keys".to_owned())
                }
                Some(_) => None,
            };
            let peer = match back {
                Some((back, _)) => PlannedPeer::Tunnel(format!("{back}/{}", far * here.len() + instance)),
                None => PlannedPeer::Missing,
            };
            ends.push(PlannedEnd {
                name: format!("{name}/{index}"),
                connection: name,
                end: PlannedSide::Gateway { gateway: &connection.virtual_network_gateway1, instance },
                index: u16::try_from(index).unwrap_or(u16::MAX),
                local: *local,
                remote: *remote,
                peer,
                key: key(connection),
                initiates: connection.connection_mode != ConnectionMode::ResponderOnly,
                problem,
            });
        }
    }
}
