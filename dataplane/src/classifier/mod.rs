//! First-match classification by bit vectors (Lakshman and Stiliadis 1998, aggregated as Baboescu and Varghese
//! 2001): each dimension gives the set of rules that it allows, and the lowest rule in all sets wins.
//!
//! A set is kept as the rules that say "any" in the dimension, once, and the others by the value's interval,
//! where only words with a bit in them are stored. One word of summary stands for 64 words of a set, so that
//! 10,000 rules take three of them.

mod bitset;
mod plane;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::tuple::{FiveTuple, Protocol};

use bitset::Row;
use plane::Plane;

/// What a rule says about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field<T> {
    /// Every value.
    Any,
    /// These values; none if it is empty.
    OneOf(Vec<T>),
}

impl<T> Field<T> {
    fn values(&self) -> Option<&[T]> {
        match self {
            Field::Any => None,
            Field::OneOf(values) => Some(values),
        }
    }
}

/// A rule's five fields; all must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Source prefixes of either family.
    pub sources: Field<IpNet>,
    /// Destination prefixes of either family.
    pub destinations: Field<IpNet>,
    /// Protocols.
    pub protocols: Field<Protocol>,
    /// Source ports. A rule that names ports, other than all of them, matches TCP and UDP only.
    pub source_ports: Field<RangeInclusive<u16>>,
    /// Destination ports, likewise.
    pub destination_ports: Field<RangeInclusive<u16>>,
}

impl RuleSpec {
    /// Matches everything.
    pub const ANY: RuleSpec = RuleSpec {
        sources: Field::Any,
        destinations: Field::Any,
        protocols: Field::Any,
        source_ports: Field::Any,
        destination_ports: Field::Any,
    };

    /// Whether the rule matches, field by field: what [`Classifier`] is held against.
    pub fn matches(&self, tuple: &FiveTuple) -> bool {
        let address = |field: &Field<IpNet>, address: IpAddr| {
            field.values().is_none_or(|nets| nets.iter().any(|net| net.contains(&address)))
        };
        let has_ports = has_ports(tuple.protocol);
        let port = |field: &Field<RangeInclusive<u16>>, port: u16| {
            field.values().is_none_or(|ranges| {
                ranges.iter().any(|range| is_all(range) || (has_ports && range.contains(&port)))
            })
        };
        address(&self.sources, tuple.source)
            && address(&self.destinations, tuple.destination)
            && self.protocols.values().is_none_or(|protocols| protocols.contains(&tuple.protocol))
            && port(&self.source_ports, tuple.source_port)
            && port(&self.destination_ports, tuple.destination_port)
    }
}

fn has_ports(protocol: Protocol) -> bool {
    protocol == Protocol::TCP || protocol == Protocol::UDP
}

fn is_all(range: &RangeInclusive<u16>) -> bool {
    *range == (0..=u16::MAX)
}

/// An immutable set of rules, in order.
#[derive(Clone, Debug)]
pub struct Classifier {
    rules: usize,
    source_v4: Plane<u32>,
    source_v6: Plane<u128>,
    destination_v4: Plane<u32>,
    destination_v6: Plane<u128>,
    protocol: Plane<u8>,
    source_port: Plane<u16>,
    destination_port: Plane<u16>,
}

impl Classifier {
    /// Builds the sets; the first rule is the one that wins.
    pub fn new(rules: &[RuleSpec]) -> Classifier {
        let ports = |field: fn(&RuleSpec) -> &Field<RangeInclusive<u16>>| {
            Plane::build(rules.iter().map(|rule| {
                let ranges = field(rule).values()?;
                if ranges.iter().any(is_all) {
                    return None;
                }
                Some(
                    ranges
                        .iter()
                        .filter(|range| !range.is_empty())
                        .map(|range| (*range.start(), *range.end()))
                        .collect(),
                )
            }))
        };
        Classifier {
            rules: rules.len(),
            source_v4: Plane::build(rules.iter().map(|rule| ranges_v4(&rule.sources))),
            source_v6: Plane::build(rules.iter().map(|rule| ranges_v6(&rule.sources))),
            destination_v4: Plane::build(rules.iter().map(|rule| ranges_v4(&rule.destinations))),
            destination_v6: Plane::build(rules.iter().map(|rule| ranges_v6(&rule.destinations))),
            protocol: Plane::build(rules.iter().map(|rule| {
                let protocols = rule.protocols.values()?;
                Some(protocols.iter().map(|protocol| (protocol.0, protocol.0)).collect())
            })),
            source_port: ports(|rule| &rule.source_ports),
            destination_port: ports(|rule| &rule.destination_ports),
        }
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// There is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// The index of the first rule that matches.
    pub fn classify(&self, tuple: &FiveTuple) -> Option<usize> {
        let source = match tuple.source {
            IpAddr::V4(v4) => self.source_v4.row(v4.to_bits()),
            IpAddr::V6(v6) => self.source_v6.row(v6.to_bits()),
        };
        let destination = match tuple.destination {
            IpAddr::V4(v4) => self.destination_v4.row(v4.to_bits()),
            IpAddr::V6(v6) => self.destination_v6.row(v6.to_bits()),
        };
        let (source_port, destination_port) = if has_ports(tuple.protocol) {
            (self.source_port.row(tuple.source_port), self.destination_port.row(tuple.destination_port))
        } else {
            (self.source_port.any(), self.destination_port.any())
        };
        let rows = [source, destination, self.protocol.row(tuple.protocol.0), source_port, destination_port];
        first_in_all(&rows, self.rules)
    }
}

fn first_in_all(rows: &[Row<'_>; 5], rules: usize) -> Option<usize> {
    let words = rules.div_ceil(64);
    for block in 0..words.div_ceil(64) {
        let mut candidates = rows.iter().fold(u64::MAX, |all, row| all & row.summary(block));
        while candidates != 0 {
            let word = block * 64 + candidates.trailing_zeros() as usize;
            let found = rows.iter().fold(u64::MAX, |all, row| all & row.word(word));
            if found != 0 {
                return Some(word * 64 + found.trailing_zeros() as usize);
            }
            candidates &= candidates - 1;
        }
    }
    None
}

fn ranges_v4(field: &Field<IpNet>) -> Option<Vec<(u32, u32)>> {
    let nets = field.values()?.iter().filter_map(|net| match net {
        IpNet::V4(v4) => Some((v4.network().to_bits(), v4.broadcast().to_bits())),
        IpNet::V6(_) => None,
    });
    whole_space_is_any(nets.collect())
}

fn ranges_v6(field: &Field<IpNet>) -> Option<Vec<(u128, u128)>> {
    let nets = field.values()?.iter().filter_map(|net| match net {
        IpNet::V6(v6) => Some((v6.network().to_bits(), v6.broadcast().to_bits())),
        IpNet::V4(_) => None,
    });
    whole_space_is_any(nets.collect())
}

fn whole_space_is_any<K: plane::Key>(ranges: Vec<(K, K)>) -> Option<Vec<(K, K)>> {
    if ranges.contains(&(K::MIN, K::MAX)) { None } else { Some(ranges) }
}

#[cfg(test)]
mod tests;
