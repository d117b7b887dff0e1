//! Static NAT rules of VPN gateways: what an address is called on the other side of one.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::lab::Lab;
use super::site::Connection;

/// A NAT rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatRule {
    /// Its name.
    pub name: String,
    /// Ranges before.
    pub internal_mappings: Vec<IpNet>,
    /// Ranges after.
    pub external_mappings: Vec<IpNet>,
}

/// Which way a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the internal to the external one.
    Out,
    /// Back.
    In,
}

fn rules<'a>(
    lab: &'a Lab,
    connection: &Connection,
    names: &'a [String],
) -> impl Iterator<Item = &'a NatRule> {
    let all = &lab.virtual_network_gateways[connection.virtual_network_gateway1.as_str()].nat_rules;
    names.iter().filter_map(move |name| all.iter().find(|rule| rule.name == *name))
}

fn pairs(rule: &NatRule, way: Way) -> impl Iterator<Item = (IpNet, IpNet)> {
    let pairs = rule.internal_mappings.iter().copied().zip(rule.external_mappings.iter().copied());
    pairs.map(
        move |(internal, external)| if way == Way::Out { (internal, external) } else { (external, internal) },
    )
}

/// The bits behind the prefix stay, those of the prefix are the other range's.
fn moved(address: IpAddr, to: IpNet) -> IpAddr {
    match (address, to) {
        (IpAddr::V4(address), IpNet::V4(to)) => {
            let host = u32::from(address) & u32::from(to.hostmask());
            IpAddr::V4((u32::from(to.network()) | host).into())
        }
        (IpAddr::V6(address), IpNet::V6(to)) => {
            let host = u128::from(address) & u128::from(to.hostmask());
            IpAddr::V6((u128::from(to.network()) | host).into())
        }
        (address, _) => address,
    }
}

/// What an address is called by the first of these rules that has it.
pub fn name(lab: &Lab, connection: &Connection, names: &[String], way: Way, address: IpAddr) -> IpAddr {
    let mut all = rules(lab, connection, names).flat_map(|rule| pairs(rule, way));
    all.find(|(from, _)| from.contains(&address)).map_or(address, |(_, to)| moved(address, to))
}

/// What prefixes of the internal side are called on the external one.
pub fn names(lab: &Lab, connection: &Connection, names: &[String], prefixes: &[IpNet]) -> Vec<IpNet> {
    let all: Vec<(IpNet, IpNet)> =
        rules(lab, connection, names).flat_map(|rule| pairs(rule, Way::Out)).collect();
    let mut out: Vec<IpNet> = Vec::new();
    for prefix in prefixes {
        let mut inside = all.iter().filter(|(from, _)| from.contains(prefix)).peekable();
        if inside.peek().is_none() {
            out.push(*prefix);
            out.extend(all.iter().filter(|(from, _)| prefix.contains(from)).map(|(_, to)| *to));
        }
        for (_, to) in inside {
            let first = moved(prefix.network(), *to);
            out.push(IpNet::new(first, prefix.prefix_len()).expect("the length is the prefix's own"));
        }
    }
    out
}

/// Internal ranges of these rules.
pub fn internal(lab: &Lab, connection: &Connection, names: &[String]) -> Vec<IpNet> {
    rules(lab, connection, names).flat_map(|rule| rule.internal_mappings.iter().copied()).collect()
}
