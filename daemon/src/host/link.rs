//! Devices, addresses and routes of one namespace, brought to a specification.
//!
//! What the daemon sets carries [`ORIGIN`] as its address and route protocol. So an apply finds what it set before, even
//! after a crash, changes only what differs, and leaves alone what programs inside (`ip`, BIRD) have added.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::{HostError, Result};
use super::netlink::{Netlink, Request};
use super::netns::Netns;

/// Marks addresses (IFA_PROTO, Linux 5.18) and routes (rtm_protocol) as the daemon's. A number that neither the kernel
/// nor iproute2's `rt_protos` assigns.
pub const ORIGIN: u8 = 118;

/// The kernel's number of `lo`, the first device of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What a device of a namespace shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSpec {
    /// `lo`, `eth0`, …; the device exists already.
    pub name: String,
    /// Bytes of the largest IP packet; none leaves it.
    pub mtu: Option<u32>,
    /// Addresses with the prefix that is on the link. IPv6 addresses are never checked for duplicates.
    pub addresses: Vec<IpNet>,
    /// Routes of the main table that leave by this device.
    pub routes: Vec<RouteSpec>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteSpec {
    /// What it leads to; the host bits are ignored.
    pub destination: IpNet,
    /// The neighbour that it leads by; none where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel chooses for it; none leaves the choice to the kernel.
    pub source: Option<IpAddr>,
}

impl RouteSpec {
    /// A route whose destination is on the link.
    #[must_use]
    pub fn on_link(destination: IpNet) -> Self {
        Self { destination: destination.trunc(), gateway: None, source: None }
    }

    /// The default routes of both families, on the link.
    #[must_use]
    pub fn defaults() -> [Self; 2] {
        [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())].map(Self::on_link)
    }
}

/// A device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The kernel's number of the device.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Packets that the guest sent and the kernel threw away, as the device's queue was full.
    pub tx_dropped: u64,
    /// Packets that the daemon delivered and the kernel threw away.
    pub rx_dropped: u64,
}

/// Brings a device to its specification and up; counts the changes that it took.
///
/// # Errors
/// A missing device, or whatever the kernel refuses.
pub fn apply(netlink: &mut Netlink, spec: &LinkSpec) -> Result<usize> {
    let state = existing(netlink, &spec.name)?;
    let mut changes = bring_up(netlink, spec, &state)?;
    changes += apply_addresses(netlink, spec, state.index)?;
    changes += apply_routes(netlink, spec, state.index)?;
    Ok(changes)
}

fn existing(netlink: &mut Netlink, name: &str) -> Result<LinkState> {
    find(netlink, name)?.ok_or_else(|| HostError::Mismatch {
        object: format!("device {name}"),
        detail: "it is missing".into(),
    })
}

/// Brings several devices of `ns` to their specifications over one socket, with `lo` up before them.
///
/// # Errors
/// As [`apply`].
pub fn apply_in(ns: &Netns, specs: &[LinkSpec]) -> Result<usize> {
    let mut netlink = Netlink::open_in(ns)?;
    apply_all(&mut netlink, specs)
}

/// As [`apply_in`], over a socket that is open already.
///
/// # Errors
/// As [`apply`].
pub fn apply_all(netlink: &mut Netlink, specs: &[LinkSpec]) -> Result<usize> {
    let mut changes = 0;
    if specs.iter().all(|spec| spec.name != "lo") {
        changes += apply(netlink, &LinkSpec { name: "lo".into(), ..LinkSpec::default() })?;
    }
    for spec in specs {
        changes += apply(netlink, spec)?;
    }
    Ok(changes)
}

/// As [`apply_all`] for a namespace that was just made: nothing is there yet that would have to be looked at, so that all goes
/// in one message. Devices get no queueing discipline: a TUN drops what the daemon does not fetch in time, whatever is before it, and the
/// usual disciplines of a multi-queue device take the kernel 20 ms and 6 MB each.
///
/// # Errors
/// As [`apply`].
pub fn apply_fresh(netlink: &mut Netlink, specs: &[LinkSpec]) -> Result<()> {
    let mut batch = vec![Request {
        action: "set up device",
        object: "lo".to_owned(),
        message: up_message(LOOPBACK_INDEX, None),
        flags: 0,
        may_fail: false,
    }];
    for spec in specs {
        let is_loopback = spec.name == "lo";
        let index = if is_loopback { LOOPBACK_INDEX } else { existing(netlink, &spec.name)?.index };
        if !is_loopback {
            batch.push(without_queueing(index, &spec.name));
        }
        let mut add = |action, object: String, message, flags| {
            batch.push(Request { action, object, message, flags, may_fail: false });
        };
        if !is_loopback || spec.mtu.is_some() {
            add("set up device", spec.name.clone(), up_message(index, spec.mtu), 0);
        }
        for address in &spec.addresses {
            let message = new_address_message(index, *address);
            add("add address", address.to_string(), message, NLM_F_CREATE | NLM_F_REPLACE);
        }
        for route in &spec.routes {
            let message = RouteNetlinkMessage::NewRoute(route_message(index, route));
            add("add route", route.destination.to_string(), message, NLM_F_CREATE | NLM_F_REPLACE);
        }
    }
    netlink.batch(batch)
}

/// A kernel without disciplines to choose from refuses it and has none anyway.
fn without_queueing(index: u32, device: &str) -> Request {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
    Request {
        action: "take the queueing discipline of",
        object: device.to_owned(),
        message: RouteNetlinkMessage::NewQueueDiscipline(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        may_fail: true,
    }
}

fn up_message(index: u32, mtu: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    RouteNetlinkMessage::SetLink(message)
}

/// Looks a device up by its name.
///
/// # Errors
/// Where the kernel fails; a missing device is `None`.
pub fn find(netlink: &mut Netlink, name: &str) -> Result<Option<LinkState>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answers = match netlink.get("look up device", name, RouteNetlinkMessage::GetLink(message)) {
        Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link_state(&link)),
        _ => None,
    }))
}

/// Every address of the namespace, with the number of the device that has it.
///
/// # Errors
/// Where the kernel fails.
pub fn all_addresses(netlink: &mut Netlink) -> Result<Vec<(u32, IpNet)>> {
    let message = AddressMessage::default();
    let answers = netlink.dump("list", "addresses", RouteNetlinkMessage::GetAddress(message))?;
    let parsed = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => Some((address.header.index, parse_address(address)?.0)),
        _ => None,
    });
    Ok(parsed.collect())
}

/// Names of the devices by which the namespace's IPv4 default routes leave.
///
/// # Errors
/// Where the kernel fails.
pub fn default_devices(netlink: &mut Netlink) -> Result<Vec<String>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let answers = netlink.dump("list", "routes", RouteNetlinkMessage::GetRoute(message))?;
    let mut indices: Vec<u32> = answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
        .filter(|route| {
            route.header.destination_prefix_length == 0
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.kind == RouteType::Unicast
        })
        .flat_map(devices_of)
        .collect();
    indices.sort_unstable();
    indices.dedup();
    let links = netlink.dump("list", "devices", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let named = links.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if indices.contains(&link.header.index) => {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })
        }
        _ => None,
    });
    Ok(named.collect())
}

/// The devices of a route, several where it has several next hops.
fn devices_of(route: &RouteMessage) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

/// Removes a device; one that is not there is no error.
///
/// # Errors
/// Where the kernel refuses.
pub fn delete(netlink: &mut Netlink, name: &str) -> Result<()> {
    let Some(state) = find(netlink, name)? else { return Ok(()) };
    let mut message = LinkMessage::default();
    message.header.index = state.index;
    match netlink.request("remove device", name, RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// Lays a cable between two namespaces: a veth pair with one end in each. A pair that is there already is kept; half of one is
/// replaced.
///
/// # Errors
/// Where the kernel refuses, or one of the names belongs to another device.
pub fn veth(near: &Netns, near_name: &str, far: &Netns, far_name: &str) -> Result<()> {
    let mut netlink = Netlink::open_in(near)?;
    let mut far_netlink = Netlink::open_in(far)?;
    match (find(&mut netlink, near_name)?.is_some(), find(&mut far_netlink, far_name)?.is_some()) {
        (true, true) => return Ok(()),
        (true, false) => delete(&mut netlink, near_name)?,
        (false, true) => delete(&mut far_netlink, far_name)?,
        (false, false) => {}
    }
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(far_name.to_owned()));
    peer.attributes.push(LinkAttribute::NetNsFd(far.as_fd().as_raw_fd()));
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(near_name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    netlink.request(
        "create veth pair",
        near_name,
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn link_state(link: &LinkMessage) -> LinkState {
    let mut state = LinkState {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        tx_dropped: 0,
        rx_dropped: 0,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
            LinkAttribute::Stats64(stats) => {
                state.tx_dropped = stats.tx_dropped;
                state.rx_dropped = stats.rx_dropped;
            }
            _ => {}
        }
    }
    state
}

fn bring_up(netlink: &mut Netlink, spec: &LinkSpec, state: &LinkState) -> Result<usize> {
    let mut message = LinkMessage::default();
    message.header.index = state.index;
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu != state.mtu) {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    if !state.up {
        netlink.batch(vec![without_queueing(state.index, &spec.name)])?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    } else if message.attributes.is_empty() {
        return Ok(0);
    }
    netlink.request("set up device", &spec.name, RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(1)
}

/// Adds before it removes, so that a machine whose address changes is never without one.
fn apply_addresses(netlink: &mut Netlink, spec: &LinkSpec, index: u32) -> Result<usize> {
    let present = addresses(netlink, &spec.name, index)?;
    let mut changes = 0;
    for address in &spec.addresses {
        if present.iter().all(|(there, _)| there != address) {
            add_address(netlink, index, *address)?;
            changes += 1;
        }
    }
    let stale = |(there, ours): &&(IpNet, bool)| *ours && !spec.addresses.contains(there);
    let mut removed = false;
    for (address, _) in present.iter().filter(stale) {
        remove_address(netlink, index, *address)?;
        removed = true;
        changes += 1;
    }
    if removed {
        // Without promote_secondaries the kernel takes the others of a subnet along with its first address.
        let present = addresses(netlink, &spec.name, index)?;
        for address in
            spec.addresses.iter().filter(|wanted| present.iter().all(|(there, _)| there != *wanted))
        {
            add_address(netlink, index, *address)?;
        }
    }
    Ok(changes)
}

/// Runs after the addresses, as removing an address takes the routes along that hang on it.
fn apply_routes(netlink: &mut Netlink, spec: &LinkSpec, index: u32) -> Result<usize> {
    let present = routes(netlink, &spec.name, index)?;
    let mut changes = 0;
    for route in present.iter().filter(|there| !spec.routes.contains(there)) {
        // A route of the same destination is replaced in place below.
        if spec.routes.iter().all(|wanted| wanted.destination != route.destination) {
            let message = RouteNetlinkMessage::DelRoute(route_message(index, route));
            match netlink.request("remove route", &route.destination.to_string(), message, 0) {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
            changes += 1;
        }
    }
    for route in spec.routes.iter().filter(|wanted| !present.contains(wanted)) {
        let message = RouteNetlinkMessage::NewRoute(route_message(index, route));
        netlink.request(
            "add route",
            &route.destination.to_string(),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )?;
        changes += 1;
    }
    Ok(changes)
}

fn addresses(netlink: &mut Netlink, device: &str, index: u32) -> Result<Vec<(IpNet, bool)>> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let answers = netlink.dump("list addresses of", device, RouteNetlinkMessage::GetAddress(message))?;
    let parsed = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) if address.header.index == index => parse_address(address),
        _ => None,
    });
    Ok(parsed.collect())
}

fn parse_address(message: &AddressMessage) -> Option<(IpNet, bool)> {
    let (mut local, mut address, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ORIGIN,
            _ => {}
        }
    }
    // IPv6 has no local address apart; on a point-to-point link the other one is the peer's.
    Some((IpNet::new(local.or(address)?, message.header.prefix_len).ok()?, ours))
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.header.scope =
        if address.addr().is_loopback() { AddressScope::Host } else { AddressScope::Universe };
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message
}

fn add_address(netlink: &mut Netlink, index: u32, address: IpNet) -> Result<()> {
    let message = new_address_message(index, address);
    netlink.request("add address", &address.to_string(), message, NLM_F_CREATE | NLM_F_REPLACE)
}

fn new_address_message(index: u32, address: IpNet) -> RouteNetlinkMessage {
    let mut message = address_message(index, address);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ORIGIN)));
    if address.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    RouteNetlinkMessage::NewAddress(message)
}

fn remove_address(netlink: &mut Netlink, index: u32, address: IpNet) -> Result<()> {
    let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
    match netlink.request("remove address", &address.to_string(), message, 0) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// The daemon's own routes by this device.
fn routes(netlink: &mut Netlink, device: &str, index: u32) -> Result<Vec<RouteSpec>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump("list routes of", device, RouteNetlinkMessage::GetRoute(message))?;
        found.extend(answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => parse_route(route, index),
            _ => None,
        }));
    }
    Ok(found)
}

fn parse_route(message: &RouteMessage, index: u32) -> Option<RouteSpec> {
    if u8::from(message.header.protocol) != ORIGIN {
        return None;
    }
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut destination, mut gateway, mut source, mut device) = (any, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Oif(oif) => device = Some(*oif),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    (device == Some(index)).then_some(RouteSpec { destination, gateway, source })
}

fn route_message(index: u32, route: &RouteSpec) -> RouteMessage {
    let destination = route.destination.trunc();
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ORIGIN);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (route.gateway, destination) {
        (None, IpNet::V4(_)) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.addr())));
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        // The neighbour may be outside of the device's own prefixes.
        message.header.flags |= RouteFlags::Onlink;
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    message
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_survives_the_way_through_its_message() {
        let specs = [
            RouteSpec::on_link("10.1.2.3/16".parse().unwrap()),
            RouteSpec {
                gateway: Some("fd00::1".parse().unwrap()),
                ..RouteSpec::on_link("2001:db8::/32".parse().unwrap())
            },
            RouteSpec { source: Some("192.0.2.1".parse().unwrap()), ..RouteSpec::defaults()[0].clone() },
        ];
        for spec in specs {
            let message = route_message(7, &spec);
            assert_eq!(parse_route(&message, 7), Some(spec.clone()));
            assert_eq!(parse_route(&message, 8), None, "a route by another device");
        }
    }

    #[test]
    fn routes_of_others_are_not_taken_for_ours() {
        let mut message = route_message(7, &RouteSpec::defaults()[1]);
        message.header.protocol = RouteProtocol::Bird;
        assert_eq!(parse_route(&message, 7), None);
    }

    #[test]
    fn an_address_is_the_local_one_and_knows_its_origin() {
        let net: IpNet = "10.1.0.4/24".parse().unwrap();
        let mut message = address_message(3, net);
        assert_eq!(parse_address(&message), Some((net, false)));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ORIGIN)));
        message.attributes.insert(0, AddressAttribute::Address("10.1.0.9".parse().unwrap()));
        assert_eq!(parse_address(&message), Some((net, true)));
    }
}
