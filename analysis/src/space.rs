//! Sets of packet headers as boxes: intervals of addresses, protocols and ports, and what is left of one when others are
//! taken away.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::PortRange;
use vnet_dataplane::Protocol;
use vnet_fabric::snapshot::rules::{AddressSet, Protocols, Rule};

/// An interval, both ends included.
type Span<T> = (T, T);

/// The protocols that rules tell apart; the last stands for all others.
const KINDS: [Protocol; 7] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::ICMP,
    Protocol::ICMPV6,
    Protocol::ESP,
    Protocol::AH,
    // RFC 3692 keeps it for experiments: no rule can name it.
    Protocol(253),
];
/// TCP and UDP, which have ports.
const WITH_PORTS: u8 = 0b11;
const ALL_PORTS: Span<u16> = (0, u16::MAX);

/// A box of headers of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cube {
    v4: bool,
    source: Span<u128>,
    destination: Span<u128>,
    /// One bit for each of `KINDS`.
    protocols: u8,
    source_ports: Span<u16>,
    destination_ports: Span<u16>,
}

/// An address as a number; those of different families are not compared.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The first and the last address of a prefix.
pub(crate) fn bounds(net: &IpNet) -> Span<u128> {
    (number(net.network()), number(net.broadcast()))
}

fn every_address(v4: bool) -> Span<u128> {
    (0, if v4 { u128::from(u32::MAX) } else { u128::MAX })
}

/// Joins intervals that touch; the result is in order.
pub(crate) fn joined(mut spans: Vec<Span<u128>>) -> Vec<Span<u128>> {
    spans.sort_unstable();
    let mut out: Vec<Span<u128>> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match out.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

fn addresses(set: &AddressSet, v4: bool) -> Vec<Span<u128>> {
    match set {
        AddressSet::Any => vec![every_address(v4)],
        AddressSet::Prefixes(prefixes) => {
            joined(prefixes.iter().filter(|net| matches!(net, IpNet::V4(_)) == v4).map(bounds).collect())
        }
    }
}

fn ports(ranges: &[PortRange]) -> Vec<Span<u16>> {
    if ranges.is_empty() {
        vec![ALL_PORTS]
    } else {
        ranges.iter().map(|range| (range.from, range.to)).collect()
    }
}

fn kinds(protocols: Protocols) -> u8 {
    let bits = KINDS.iter().enumerate().filter(|(_, kind)| protocols.contains(**kind));
    bits.fold(0, |mask, (index, _)| mask | 1 << index)
}

/// The boxes that a rule matches; none where there are more than `most`.
pub fn cubes(rule: &Rule, most: usize) -> Option<Vec<Cube>> {
    let has_ports = !(rule.source_ports.is_empty() && rule.destination_ports.is_empty());
    // A rule with ports is for the protocols that have some.
    let protocols = kinds(rule.protocols) & if has_ports { WITH_PORTS } else { u8::MAX };
    let (sports, dports) = (ports(&rule.source_ports), ports(&rule.destination_ports));
    let mut out = Vec::new();
    for v4 in [true, false] {
        let (sources, destinations) = (addresses(&rule.source, v4), addresses(&rule.destination, v4));
        let count = sources.len() * destinations.len() * sports.len() * dports.len();
        if protocols == 0 || count + out.len() > most {
            if count + out.len() > most {
                return None;
            }
            continue;
        }
        for source in &sources {
            for destination in &destinations {
                for source_ports in &sports {
                    out.extend(dports.iter().map(|destination_ports| Cube {
                        v4,
                        source: *source,
                        destination: *destination,
                        protocols,
                        source_ports: *source_ports,
                        destination_ports: *destination_ports,
                    }));
                }
            }
        }
    }
    Some(out)
}

fn cut<T: Copy + Ord>(a: Span<T>, b: Span<T>) -> Option<Span<T>> {
    let span = (a.0.max(b.0), a.1.min(b.1));
    (span.0 <= span.1).then_some(span)
}

/// What of `a` lies below and above `b`.
fn beside<T: Copy + Ord>(
    a: Span<T>,
    b: Span<T>,
    before: impl Fn(T) -> T,
    after: impl Fn(T) -> T,
) -> [Option<Span<T>>; 2] {
    [(a.0 < b.0).then(|| (a.0, before(b.0))), (a.1 > b.1).then(|| (after(b.1), a.1))]
}

impl Cube {
    /// What both hold.
    pub fn meet(&self, other: &Cube) -> Option<Cube> {
        let protocols = self.protocols & other.protocols;
        if self.v4 != other.v4 || protocols == 0 {
            return None;
        }
        Some(Cube {
            v4: self.v4,
            source: cut(self.source, other.source)?,
            destination: cut(self.destination, other.destination)?,
            protocols,
            source_ports: cut(self.source_ports, other.source_ports)?,
            destination_ports: cut(self.destination_ports, other.destination_ports)?,
        })
    }

    /// What is left when `other` is taken away: disjoint boxes.
    pub fn less(&self, other: &Cube) -> Vec<Cube> {
        let Some(common) = self.meet(other) else { return vec![*self] };
        let mut rest = *self;
        let mut out = Vec::new();
        for source in beside(rest.source, common.source, |x| x - 1, |x| x + 1).into_iter().flatten() {
            out.push(Cube { source, ..rest });
        }
        rest.source = common.source;
        for destination in
            beside(rest.destination, common.destination, |x| x - 1, |x| x + 1).into_iter().flatten()
        {
            out.push(Cube { destination, ..rest });
        }
        rest.destination = common.destination;
        for source_ports in
            beside(rest.source_ports, common.source_ports, |x| x - 1, |x| x + 1).into_iter().flatten()
        {
            out.push(Cube { source_ports, ..rest });
        }
        rest.source_ports = common.source_ports;
        let dports = beside(rest.destination_ports, common.destination_ports, |x| x - 1, |x| x + 1);
        for destination_ports in dports.into_iter().flatten() {
            out.push(Cube { destination_ports, ..rest });
        }
        rest.destination_ports = common.destination_ports;
        let protocols = rest.protocols & !common.protocols;
        if protocols != 0 {
            out.push(Cube { protocols, ..rest });
        }
        out
    }
}

/// Whether every header of `cubes` lies in one of `covers`. None where that takes more than `steps_max` cuts to find out.
pub fn covered(cubes: &[Cube], covers: &[Cube], steps_max: usize) -> Option<bool> {
    let mut steps = 0;
    let mut open: Vec<(Cube, usize)> = cubes.iter().map(|cube| (*cube, 0)).collect();
    // The deepest piece first: one that survives to the end settles the question at once.
    while let Some((piece, from)) = open.pop() {
        steps += 1;
        if steps > steps_max {
            return None;
        }
        match covers[from..].iter().position(|cover| cover.meet(&piece).is_some()) {
            None => return Some(false),
            Some(offset) => {
                let index = from + offset;
                open.extend(piece.less(&covers[index]).into_iter().map(|rest| (rest, index + 1)));
            }
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cube(source: Span<u128>, dports: Span<u16>, protocols: u8) -> Cube {
        Cube {
            v4: true,
            source,
            destination: (0, 255),
            protocols,
            source_ports: ALL_PORTS,
            destination_ports: dports,
        }
    }

    fn holds(cube: &Cube, source: u128, port: u16, kind: u8) -> bool {
        (cube.source.0..=cube.source.1).contains(&source)
            && (cube.destination_ports.0..=cube.destination_ports.1).contains(&port)
            && cube.protocols & 1 << kind != 0
    }

    prop_compose! {
        fn any_cube()(a in 0u128..12, b in 0u128..12, c in 0u16..12, d in 0u16..12, p in 1u8..8) -> Cube {
            cube((a.min(b), a.max(b)), (c.min(d), c.max(d)), p)
        }
    }

    proptest! {
        #[test]
        fn a_difference_holds_what_is_in_one_and_not_in_the_other(a in any_cube(), b in any_cube()) {
            let rest = a.less(&b);
            for source in 0..12 {
                for port in 0..12 {
                    for kind in 0..3 {
                        let expected = holds(&a, source, port, kind) && !holds(&b, source, port, kind);
                        let found = rest.iter().filter(|cube| holds(cube, source, port, kind)).count();
                        prop_assert_eq!(found, usize::from(expected));
                    }
                }
            }
        }

        #[test]
        fn coverage_is_that_of_every_point(a in any_cube(), covers in proptest::collection::vec(any_cube(), 0..8)) {
            let every = (0..12).all(|source| (0..12).all(|port| (0..3).all(|kind| {
                !holds(&a, source, port, kind) || covers.iter().any(|cover| holds(cover, source, port, kind))
            })));
            prop_assert_eq!(covered(&[a], &covers, 100_000), Some(every));
        }
    }
}
