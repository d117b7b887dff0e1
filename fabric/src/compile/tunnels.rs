//! Which tunnels the file's connections ask for, end by end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vnet_config::ipsec;
use vnet_config::model::{
    Connection, ConnectionMode, ConnectionType, GatewayType, Topology, VirtualNetworkGateway, VpnDevice,
    VpnDeviceKind,
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
    /// What the two sides have negotiated; the file's default where nothing negotiates.
    pub(super) agreed: Option<ipsec::Agreed>,
    /// Whose traffic selectors hold, where packets have to match any.
    pub(super) selectors: Option<Proposal<'a>>,
    /// Why it can't come up, where the file says so already.
    pub(super) problem: Option<Problem>,
}

/// Traffic selectors as the side that starts proposes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal<'a> {
    /// The proposing side's connection.
    pub(super) connection: &'a Connection,
    /// Whether this end is the other side.
    pub(super) is_theirs: bool,
}

/// Why a tunnel can't come up.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) why: String,
    /// Whether the ends must not even try: what keeps them apart is nothing that their handshake would find out.
    pub(super) is_held: bool,
}

impl Problem {
    fn found_out(why: String) -> Problem {
        Problem { why, is_held: false }
    }

    fn held(why: String) -> Problem {
        Problem { why, is_held: true }
    }
}

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    let clients = super::clients::plan(topology);
    let of_clients = clients.iter().flat_map(|client| [client.gateway_end(), client.own_end()]);
    plan(topology).into_iter().map(|end| end.name).chain(of_clients.flatten()).collect()
}

/// Names of the ends that an instance of a gateway has.
pub(crate) fn tunnels_of(topology: &Topology, gateway: &str, instance: usize) -> Vec<String> {
    let own = PlannedSide::Gateway { gateway, instance };
    let clients = super::clients::plan(topology).into_iter();
    let of_clients = clients
        .filter(|planned| instance == 0 && planned.client.gateway == gateway)
        .filter_map(|planned| planned.gateway_end());
    plan(topology).into_iter().filter(|end| end.end == own).map(|end| end.name).chain(of_clients).collect()
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

/// The selectors that a connection proposes where it starts; none stands for any to any.
fn proposal<'a>(connection: &'a Connection, is_theirs: bool) -> Option<Proposal<'a>> {
    connection.use_policy_based_traffic_selectors.then_some(Proposal { connection, is_theirs })
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
    let builtin = site.filter(|(_, device)| device.kind == VpnDeviceKind::Builtin);
    let device_key = builtin
        .and_then(|(_, device)| device.shared_key.as_ref().map(|key| key.expose()))
        .or(key(connection));
    // A device is set up for what the gateway offers, and starts with any to any: a gateway takes what it is offered.
    let device_side = ipsec::Side { mode: ConnectionMode::Default, ..connection.into() };
    let agreed = ipsec::matches(connection.into(), device_side).ok();
    let starts = connection.connection_mode != ConnectionMode::ResponderOnly;
    let selectors = proposal(connection, false).filter(|_| starts);
    for (instance, local) in carrying(gateway).iter().enumerate() {
        let index = u16::try_from(instance).unwrap_or(u16::MAX);
        let own_name = format!("{name}/{index}");
        let problem = site_problem(site, remote, device_key, key(connection));
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
                agreed,
                selectors: selectors.map(|own| Proposal { is_theirs: true, ..own }),
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
            initiates: starts,
            agreed,
            selectors,
            problem,
        });
    }
}

fn site_problem(
    site: Option<(&str, &VpnDevice)>,
    remote: IpAddr,
    device_key: Option<&str>,
    key: Option<&str>,
) -> Option<Problem> {
    match site {
        None => Some(Problem::found_out(format!("no VPN device of the lab has the public address {remote}"))),
        Some(_) if device_key != key => {
            Some(Problem::found_out("the two ends have different shared keys".to_owned()))
        }
        Some(_) => None,
    }
}

/// What the two connections of a pair of gateways come to. Where both may start, the one that stands first in the file does,
/// seen from either side.
struct Negotiated<'a> {
    agreed: Option<ipsec::Agreed>,
    selectors: Option<Proposal<'a>>,
    problem: Option<Problem>,
}

fn negotiate<'a>(
    topology: &Topology,
    (name, connection): (&str, &'a Connection),
    (back_name, back): (&str, &'a Connection),
) -> Negotiated<'a> {
    if key(back) != key(connection) {
        let problem = Problem::found_out("the two ends have different shared keys".to_owned());
        return Negotiated { agreed: None, selectors: None, problem: Some(problem) };
    }
    let place = |name: &str| topology.connections.get_index_of(name);
    let is_first = place(name) < place(back_name);
    let (first, second) = if is_first { (connection, back) } else { (back, connection) };
    match ipsec::matches(first.into(), second.into()) {
        Ok(agreed) => {
            let first_starts = agreed.initiator == ipsec::End::Left;
            let starter = if first_starts { first } else { second };
            let selectors = proposal(starter, first_starts != is_first);
            Negotiated { agreed: Some(agreed), selectors, problem: None }
        }
        Err(_) => {
            // Its words are this side's.
            let why =
                ipsec::matches(connection.into(), back.into()).err().map(|mismatch| mismatch.to_string());
            let problem = Problem::held(why.unwrap_or_default());
            Negotiated { agreed: None, selectors: None, problem: Some(problem) }
        }
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
    let negotiated = match back {
        Some((back_name, back)) => negotiate(topology, (name, connection), (back_name, back)),
        None => {
            let own = &connection.virtual_network_gateway1;
            let why = format!("no connection leads back from {remote_name} to {own}");
            Negotiated { agreed: None, selectors: None, problem: Some(Problem::found_out(why)) }
        }
    };
    let (here, there) = (carrying(gateway), carrying(remote_gateway));
    for (instance, local) in here.iter().enumerate() {
        for (far, remote) in there.iter().enumerate() {
            let index = instance * there.len() + far;
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
                agreed: negotiated.agreed,
                selectors: negotiated.selectors,
                problem: negotiated.problem.clone(),
            });
        }
    }
}
