//! VPN gateways without BGP: whose gateway a network uses, what it knows, and where its tunnels lead.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_dataplane::Reason;

use super::lab::{Connection, Lab};
use super::{nat, negotiation, peering};

/// The network's own VPN gateway.
pub fn own<'a>(lab: &'a Lab, vnet: &str) -> Option<&'a str> {
    let mut all = lab.virtual_network_gateways.iter();
    all.find(|(_, gateway)| gateway.virtual_network == vnet && gateway.gateway_type == "Vpn")
        .map(|(name, _)| name.as_str())
}

/// The gateway that a network uses and the network in which it stands: its own, or by gateway transit a peer's.
pub fn effective<'a>(lab: &'a Lab, vnet: &'a str) -> Option<(&'a str, &'a str)> {
    if let Some(gateway) = own(lab, vnet) {
        return Some((gateway, vnet));
    }
    for remote in peering::peers(lab, vnet) {
        let (here, there) = peering::connected(lab, vnet, remote).expect("a working peering has both halves");
        if here.use_remote_gateways && there.allow_gateway_transit {
            return own(lab, remote).map(|gateway| (gateway, remote));
        }
    }
    None
}

/// The gateway to which a user's route to `VirtualNetworkGateway` leads: the effective one, where it is a VPN
/// gateway. An ExpressRoute gateway beside it comes first, and is none that routes can name.
pub fn for_routes<'a>(lab: &'a Lab, vnet: &'a str) -> Option<(&'a str, &'a str)> {
    let (gateway, at) = effective(lab, vnet)?;
    let mut all = lab.virtual_network_gateways.values();
    let express = all.any(|gateway| gateway.virtual_network == at && gateway.gateway_type == "ExpressRoute");
    (!express).then_some((gateway, at))
}

/// Networks that use the gateway of `hub` by transit.
pub fn users<'a>(lab: &'a Lab, hub: &'a str) -> impl Iterator<Item = &'a str> {
    peering::peers(lab, hub).filter(move |spoke| effective(lab, spoke).is_some_and(|(_, at)| at == hub))
}

/// Prefixes that a connection's far side is known to hold: the local network gateway's, or the ranges of the
/// other gateway's own network.
pub fn behind<'a>(lab: &'a Lab, connection: &Connection) -> &'a [IpNet] {
    if let Some(site) = &connection.local_network_gateway2 {
        return lab.local_network_gateways[site.as_str()].local_network_address_space.list();
    }
    let Some(other) = &connection.virtual_network_gateway2 else { return &[] };
    lab.vnet(&lab.virtual_network_gateways[other.as_str()].virtual_network).address_space.list()
}

/// Everything that no other route takes goes over this connection.
fn is_default(lab: &Lab, connection: &Connection) -> bool {
    let gateway = &lab.virtual_network_gateways[connection.virtual_network_gateway1.as_str()];
    gateway.gateway_default_site.is_some()
        && gateway.gateway_default_site == connection.local_network_gateway2
}

/// Sources that packets out of a connection's tunnel may have.
pub fn sources(lab: &Lab, connection: &Connection) -> Vec<IpNet> {
    let mut all = behind(lab, connection).to_vec();
    all.extend(nat::internal(lab, connection, &connection.ingress_nat_rules));
    all.extend(is_default(lab, connection).then(IpNet::default));
    all
}

/// What is behind a connection, as the network calls it.
pub fn seen_behind(lab: &Lab, connection: &Connection) -> Vec<IpNet> {
    let mut all = nat::names(lab, connection, &connection.ingress_nat_rules, behind(lab, connection));
    all.extend(is_default(lab, connection).then(IpNet::default));
    all
}

/// What the gateway that a network uses knows: what the user wrote for each of its connections. (Only of what it
/// learns by BGP does a gateway refuse ranges of its own network and of those that use it.)
pub fn learned_by(lab: &Lab, vnet: &str) -> Vec<IpNet> {
    let Some((gateway, _)) = effective(lab, vnet) else { return Vec::new() };
    let mut learned: Vec<IpNet> = Vec::new();
    for connection in
        lab.connections.values().filter(|connection| connection.virtual_network_gateway1 == gateway)
    {
        for prefix in seen_behind(lab, connection) {
            if !learned.contains(&prefix) {
                learned.push(prefix);
            }
        }
    }
    learned
}

/// What a subnet knows of it: with a peering of some subnets only these use the other network's gateway.
pub fn known_in(lab: &Lab, vnet: &str, subnet: &str) -> Vec<IpNet> {
    let remote = effective(lab, vnet).map(|(_, at)| at).filter(|at| *at != vnet);
    match remote {
        Some(at) if !peering::takes_part(lab, (vnet, subnet), at) => Vec::new(),
        _ => learned_by(lab, vnet),
    }
}

/// Connections with the prefixes to which each leads.
type Led<'a> = Vec<(&'a str, Vec<IpNet>)>;

/// The connections that lead to an address by the longest prefix: several where they have it in common, over which
/// flows are spread.
fn longest<'a>(led: Led<'a>, destination: IpAddr) -> Vec<&'a str> {
    let length = |prefixes: &[IpNet]| {
        let held = prefixes.iter().filter(|prefix| prefix.contains(&destination));
        held.map(IpNet::prefix_len).max()
    };
    let best = led.iter().filter_map(|(_, prefixes)| length(prefixes)).max();
    let fitting = led.into_iter().filter(|(_, prefixes)| best.is_some() && length(prefixes) == best);
    fitting.map(|(name, _)| name).collect()
}

fn led_by<'a>(lab: &'a Lab, gateway: &str) -> Led<'a> {
    let own = lab.connections.iter().filter(|(_, connection)| connection.virtual_network_gateway1 == gateway);
    own.map(|(name, connection)| (name.as_str(), seen_behind(lab, connection))).collect()
}

fn led_by_site<'a>(lab: &'a Lab, site: &str) -> Led<'a> {
    let own = lab.connections.iter().filter(|(_, connection)| site_of(lab, connection) == Some(site));
    own.map(|(name, connection)| (name.as_str(), routed_by_site(lab, site, connection))).collect()
}

/// The connections of a gateway that lead to an address.
pub fn towards<'a>(lab: &'a Lab, gateway: &str, destination: IpAddr) -> Vec<&'a str> {
    longest(led_by(lab, gateway), destination)
}

/// Some prefix is behind several connections of a gateway or of a site.
pub fn spreads(lab: &Lab) -> bool {
    let twice = |led: Led<'_>| {
        led.iter().enumerate().any(|(index, (_, prefixes))| {
            let others = led.iter().skip(index + 1);
            others.flat_map(|(_, others)| others).any(|other| prefixes.contains(other))
        })
    };
    lab.virtual_network_gateways.keys().any(|gateway| twice(led_by(lab, gateway)))
        || lab.on_premises_sites.keys().any(|site| twice(led_by_site(lab, site)))
}

/// The connection that the other gateway of a Vnet2Vnet pair holds.
pub fn counterpart<'a>(lab: &'a Lab, connection: &Connection) -> Option<&'a Connection> {
    let other = connection.virtual_network_gateway2.as_deref()?;
    lab.connections.values().find(|candidate| {
        candidate.virtual_network_gateway1 == other
            && candidate.virtual_network_gateway2.as_deref() == Some(&connection.virtual_network_gateway1)
    })
}

/// The site at which a connection ends: the one whose device has the local network gateway's address.
pub fn site_of<'a>(lab: &'a Lab, connection: &Connection) -> Option<&'a str> {
    let local = &lab.local_network_gateways[connection.local_network_gateway2.as_deref()?];
    let mut sites = lab.on_premises_sites.iter();
    sites
        .find(|(_, site)| {
            site.vpn_device.as_ref().map(|device| device.public) == local.gateway_ip_address
                && local.gateway_ip_address.is_some()
        })
        .map(|(name, _)| name.as_str())
}

/// Where a tunnel lets a packet out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// At another gateway.
    Gateway(String),
    /// At a site's device.
    Site(String),
}

/// Both ends of a connection exist and have the same key.
pub fn is_up(lab: &Lab, connection: &Connection) -> bool {
    match &connection.virtual_network_gateway2 {
        Some(_) => counterpart(lab, connection).is_some_and(|back| {
            back.shared_key == connection.shared_key && negotiation::agree(connection, back)
        }),
        None => agreed_site(lab, connection).is_ok(),
    }
}

/// Sends a packet of this source through a connection of a gateway.
///
/// # Errors
/// `TunnelDown` where the far side is missing or has another key; `PrefixNotAllowed` where it doesn't know
/// the source.
pub fn pass(lab: &Lab, connection: &Connection, source: IpAddr) -> Result<FarEnd, Reason> {
    if let Some(other) = &connection.virtual_network_gateway2 {
        let back = counterpart(lab, connection).filter(|_| is_up(lab, connection));
        let back = back.ok_or(Reason::TunnelDown)?;
        if !sources(lab, back).iter().any(|prefix| prefix.contains(&source)) {
            return Err(Reason::PrefixNotAllowed);
        }
        return Ok(FarEnd::Gateway(other.clone()));
    }
    let site = agreed_site(lab, connection)?;
    if !routed_by_site(lab, site, connection).iter().any(|prefix| prefix.contains(&source)) {
        return Err(Reason::PrefixNotAllowed);
    }
    Ok(FarEnd::Site(site.to_owned()))
}

/// The site at which a connection ends, if its device has the connection's key.
///
/// # Errors
/// `TunnelDown`.
fn agreed_site<'a>(lab: &'a Lab, connection: &Connection) -> Result<&'a str, Reason> {
    let site = site_of(lab, connection).ok_or(Reason::TunnelDown)?;
    let key = lab.on_premises_sites[site].vpn_device.as_ref().map(|device| &device.shared_key);
    let differs = key.is_some_and(|key| !key.is_null() && *key != connection.shared_key);
    if differs { Err(Reason::TunnelDown) } else { Ok(site) }
}

/// What a site's device routes into a connection's tunnel: what the user says, or what the gateway would
/// advertise: its own network's ranges and those of the networks that use it.
pub fn routed_by_site(lab: &Lab, site: &str, connection: &Connection) -> Vec<IpNet> {
    let device = lab.on_premises_sites[site].vpn_device.as_ref();
    if let Some(said) = device.and_then(|device| device.remote_address_space.as_ref()) {
        return said.list().to_vec();
    }
    let hub = &lab.virtual_network_gateways[connection.virtual_network_gateway1.as_str()].virtual_network;
    let mut prefixes = lab.vnet(hub).address_space.list().to_vec();
    for user in users(lab, hub) {
        prefixes.extend(peering::routed(lab, hub, user));
    }
    nat::names(lab, connection, &connection.egress_nat_rules, &prefixes)
}

/// The connections by which a site's device sends to an address.
pub fn from_site<'a>(lab: &'a Lab, site: &str, destination: IpAddr) -> Vec<&'a str> {
    longest(led_by_site(lab, site), destination)
}
