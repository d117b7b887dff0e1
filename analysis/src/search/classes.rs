//! Cells between the places where a prefix or a range begins or ends.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use vnet_config::model::PortRange;

use crate::space::{bounds, joined};

/// Addresses that nothing tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressClass {
    /// The lowest of them: it stands for all.
    pub(crate) first: IpAddr,
    pub(crate) prefixes: Vec<IpNet>,
}

/// The classes into which prefixes cut a set of addresses of one family.
pub(super) fn address_classes(set: &[IpNet], boundaries: &[IpNet]) -> Vec<AddressClass> {
    let Some(v4) = set.first().map(|net| net.addr().is_ipv4()) else { return Vec::new() };
    let mut starts: BTreeSet<u128> = BTreeSet::new();
    for net in boundaries.iter().filter(|net| net.addr().is_ipv4() == v4) {
        let (from, to) = bounds(net);
        starts.insert(from);
        starts.extend(to.checked_add(1));
    }
    let mut classes = Vec::new();
    for (from, to) in joined(set.iter().map(bounds).collect()) {
        let mut first = from;
        for next in starts.range(from..=to).copied().filter(|start| *start > from) {
            classes.push(class(first, next - 1, v4));
            first = next;
        }
        classes.push(class(first, to, v4));
    }
    classes
}

fn class(first: u128, last: u128, v4: bool) -> AddressClass {
    if v4 {
        // Numbers of IPv4 addresses have 32 bits.
        let [first, last] = [first, last].map(|number| Ipv4Addr::from(number as u32));
        let prefixes = Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect();
        AddressClass { first: IpAddr::V4(first), prefixes }
    } else {
        let [first, last] = [first, last].map(Ipv6Addr::from);
        let prefixes = Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect();
        AddressClass { first: IpAddr::V6(first), prefixes }
    }
}

/// The classes of ports between two ends.
pub(super) struct Ports {
    pub(super) source: Vec<PortRange>,
    pub(super) destination: Vec<PortRange>,
}

impl Ports {
    /// `asked` is the one destination port that counts, if so.
    pub(super) fn new(source: &BTreeSet<u16>, destination: &BTreeSet<u16>, asked: Option<u16>) -> Ports {
        let destination = match asked {
            Some(port) => vec![PortRange { from: port, to: port }],
            None => port_classes(destination),
        };
        Ports { source: port_classes(source), destination }
    }
}

/// The ranges that begin at these ports; 0 is one of them.
pub(super) fn port_classes(starts: &BTreeSet<u16>) -> Vec<PortRange> {
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    starts.iter().zip(ends).map(|(from, to)| PortRange { from: *from, to }).collect()
}

/// Adds a range behind the others, joined to the last where they touch.
pub(super) fn append(ranges: &mut Vec<PortRange>, next: PortRange) {
    match ranges.last_mut() {
        Some(last) if last.to.checked_add(1) == Some(next.from) => last.to = next.to,
        _ => ranges.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn classes_are_the_cells_between_prefixes_and_cover_the_set() {
        let classes = address_classes(
            &nets(&["10.0.0.0/8"]),
            &nets(&["10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd00::/8"]),
        );
        let firsts: Vec<String> = classes.iter().map(|class| class.first.to_string()).collect();
        assert_eq!(firsts, ["10.0.0.0", "10.1.0.0", "10.1.2.0", "10.1.3.0", "10.2.0.0"]);
        let all: Vec<IpNet> = classes.into_iter().flat_map(|class| class.prefixes).collect();
        assert_eq!(IpNet::aggregate(&all), nets(&["10.0.0.0/8"]));
        assert_eq!(address_classes(&[], &nets(&["10.0.0.0/8"])), Vec::new());
    }

    #[test]
    fn the_last_address_of_each_family_is_in_a_class() {
        for whole in ["0.0.0.0/0", "::/0"] {
            let net = nets(&[whole]);
            assert_eq!(address_classes(&net, &net)[0].prefixes, net);
        }
    }

    #[test]
    fn port_classes_cover_every_port_once() {
        let classes = port_classes(&BTreeSet::from([0, 22, 23, 65_535]));
        let ends: Vec<(u16, u16)> = classes.iter().map(|range| (range.from, range.to)).collect();
        assert_eq!(ends, [(0, 21), (22, 22), (23, 65_534), (65_535, 65_535)]);
        let mut whole = Vec::new();
        classes.into_iter().for_each(|range| append(&mut whole, range));
        assert_eq!(whole, [PortRange::ANY]);
    }
}
