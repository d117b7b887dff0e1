//! Network security groups: which rule judges a packet.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_dataplane::Protocol;

use super::lab::{Lab, Many, Nic, SecurityRule};
use super::walk::Packet;
use super::{gateway, peering, routes};

/// Which way a packet passes a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the machine.
    Inbound,
    /// From the machine.
    Outbound,
}

impl Direction {
    /// The other one.
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }

    /// As Azure spells it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "Inbound",
            Direction::Outbound => "Outbound",
        }
    }
}

/// The judgement of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It passes.
    pub allowed: bool,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`.
    pub rule: String,
}

/// Where a group judges: its tags depend on the subnet.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The network.
    pub vnet: &'a str,
    /// The subnet.
    pub subnet: &'a str,
    /// User-defined routes lead packets from there: not those of a private endpoint whose subnet's policies are off.
    pub has_user_routes: bool,
}

/// The groups that judge at a NIC, in order.
pub fn order<'a>(lab: &'a Lab, nic: &'a Nic, direction: Direction) -> impl Iterator<Item = &'a str> {
    let (vnet, subnet) = nic.place();
    let of_subnet = lab.vnet(vnet).subnets[subnet].nsg.as_deref();
    let of_nic = nic.nsg.as_deref();
    let order = match direction {
        Direction::Inbound => [of_subnet, of_nic],
        Direction::Outbound => [of_nic, of_subnet],
    };
    order.into_iter().flatten()
}

const PLATFORM: &str = "168.63.129.16";

/// The first rule of a group that matches, by priority; the default rules come last.
pub fn judge(lab: &Lab, group: &str, place: Place<'_>, direction: Direction, packet: &Packet) -> Judgement {
    let mut rules: Vec<&SecurityRule> = lab.network_security_groups[group].security_rules.iter().collect();
    rules.retain(|rule| rule.direction.eq_ignore_ascii_case(direction.name()));
    rules.sort_by_key(|rule| rule.priority);
    for rule in rules {
        if matches(lab, rule, place, packet) {
            let allowed = rule.access.eq_ignore_ascii_case("Allow");
            return Judgement { allowed, rule: format!("securityRules/{}", rule.name) };
        }
    }
    by_default(lab, place, direction, packet)
}

fn by_default(lab: &Lab, place: Place<'_>, direction: Direction, packet: &Packet) -> Judgement {
    let within =
        virtual_network(lab, place, packet.source) && virtual_network(lab, place, packet.destination);
    let (allowed, name) = match direction {
        Direction::Inbound if within => (true, "AllowVnetInBound"),
        Direction::Inbound if packet.source == platform() => (true, "AllowAzureLoadBalancerInBound"),
        Direction::Inbound => (false, "DenyAllInBound"),
        Direction::Outbound if within => (true, "AllowVnetOutBound"),
        Direction::Outbound if internet(lab, place, packet.destination) => (true, "AllowInternetOutBound"),
        Direction::Outbound => (false, "DenyAllOutBound"),
    };
    Judgement { allowed, rule: format!("defaultSecurityRules/{name}") }
}

fn platform() -> IpAddr {
    PLATFORM.parse().expect("a constant address")
}

fn matches(lab: &Lab, rule: &SecurityRule, place: Place<'_>, packet: &Packet) -> bool {
    let sources = [&rule.source_address_prefix, &rule.source_address_prefixes];
    let destinations = [&rule.destination_address_prefix, &rule.destination_address_prefixes];
    let source_ports = [&rule.source_port_range, &rule.source_port_ranges];
    let destination_ports = [&rule.destination_port_range, &rule.destination_port_ranges];
    protocol_matches(&rule.protocol, packet.protocol)
        && side_matches(lab, place, sources, &rule.source_application_security_groups, packet.source)
        && side_matches(
            lab,
            place,
            destinations,
            &rule.destination_application_security_groups,
            packet.destination,
        )
        && ports_match(source_ports, packet.source_port, packet.protocol)
        && ports_match(destination_ports, packet.destination_port, packet.protocol)
}

fn protocol_matches(wanted: &str, protocol: Protocol) -> bool {
    match wanted.to_ascii_lowercase().as_str() {
        "*" => true,
        "tcp" => protocol == Protocol::TCP,
        "udp" => protocol == Protocol::UDP,
        "icmp" => protocol.is_icmp(),
        "esp" => protocol == Protocol::ESP,
        "ah" => protocol == Protocol::AH,
        _ => false,
    }
}

fn side_matches(lab: &Lab, place: Place<'_>, sides: [&Many; 2], groups: &[String], address: IpAddr) -> bool {
    let texts = sides.into_iter().flat_map(Many::texts);
    let by_text = texts.into_iter().any(|text| match text.as_str() {
        "*" => true,
        "VirtualNetwork" => virtual_network(lab, place, address),
        "Internet" => internet(lab, place, address),
        "AzureLoadBalancer" => address == platform(),
        // 0.0.0.0/0 stands for any address, of either family.
        "0.0.0.0/0" => true,
        other => holds(other, address) || tagged(lab, other, address),
    });
    by_text || labelled(lab, place.vnet, groups, address)
}

/// A NIC of the group's own network has the address and one of the labels.
fn labelled(lab: &Lab, vnet: &str, groups: &[String], address: IpAddr) -> bool {
    let nics = lab.virtual_machines.values().flat_map(|vm| &vm.nics);
    let mut near = nics.filter(|nic| nic.place().0 == vnet);
    near.any(|nic| nic.addresses.contains(&address) && nic.groups.iter().any(|group| groups.contains(group)))
}

/// A tag whose prefixes the file gives.
fn tagged(lab: &Lab, tag: &str, address: IpAddr) -> bool {
    lab.tag(tag).is_some_and(|prefixes| prefixes.iter().any(|prefix| prefix.contains(&address)))
}

/// A prefix or a single address holds the address; a tag that the model doesn't know holds nothing.
fn holds(text: &str, address: IpAddr) -> bool {
    match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(prefix), _) => prefix.contains(&address),
        (_, Ok(one)) => one == address,
        _ => false,
    }
}

/// Ports as `*`, `80`, `80-90`. What has no ports matches only rules that ask for none.
pub fn ports_match(ranges: [&Many; 2], port: u16, protocol: Protocol) -> bool {
    let texts: Vec<String> = ranges.into_iter().flat_map(Many::texts).flat_map(|text| split(&text)).collect();
    let any = texts.iter().any(|text| text == "*" || text == "0-65535");
    if any || texts.is_empty() {
        return true;
    }
    if protocol != Protocol::TCP && protocol != Protocol::UDP {
        return false;
    }
    texts.iter().any(|text| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let bound = |text: &str| text.trim().parse::<u16>().expect("validation accepts only ports");
        (bound(low)..=bound(high)).contains(&port)
    })
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// The tag VirtualNetwork as the group of a subnet's NIC sees it: own ranges, those of working peerings that
/// allow access, what the gateway knows, the platform's address, and the prefixes of the subnet's user routes.
pub fn virtual_network(lab: &Lab, place: Place<'_>, address: IpAddr) -> bool {
    if known(lab, place, address) || address == platform() {
        return true;
    }
    let skips_default = lab.semantics.virtual_network_tag_default_route.as_deref() == Some("exclude");
    let table = lab.table(place.vnet, place.subnet).filter(|_| place.has_user_routes);
    let routes = table.into_iter().flat_map(|table| &table.routes);
    let mut prefixes = routes.flat_map(|route| routes::destinations(lab, &route.address_prefix));
    prefixes.any(|prefix| prefix.contains(&address) && !(skips_default && prefix.prefix_len() == 0))
}

fn known(lab: &Lab, place: Place<'_>, address: IpAddr) -> bool {
    near(lab, place, address)
        || gateway::known_in(lab, place.vnet, place.subnet).iter().any(|prefix| prefix.contains(&address))
}

fn near(lab: &Lab, place: Place<'_>, address: IpAddr) -> bool {
    if lab.vnet(place.vnet).address_space.hold(address) {
        return true;
    }
    for remote in peering::peers(lab, place.vnet) {
        let allowed = lab.vnet(place.vnet).peerings[remote].allow_virtual_network_access;
        let offered = peering::routed(lab, place.vnet, remote);
        if allowed && offered.iter().any(|prefix| prefix.contains(&address)) {
            return true;
        }
    }
    false
}

/// The tag Internet: public addresses outside the network's own ranges and its peers'.
pub fn internet(lab: &Lab, place: Place<'_>, address: IpAddr) -> bool {
    const PRIVATE: [&str; 8] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "168.63.129.16/32",
        "fc00::/7",
        "fe80::/10",
    ];
    !PRIVATE.iter().any(|prefix| holds(prefix, address)) && !near(lab, place, address)
}
