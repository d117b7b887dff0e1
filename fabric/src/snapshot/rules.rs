//! Ordered rules over addresses, protocol and ports, as security groups and firewalls have them.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::PortRange;
use vnet_dataplane::classifier::{Classifier, Field, RuleSpec};
use vnet_dataplane::{FiveTuple, Protocol};

use super::lpm::{contains, covers, subtract};
use crate::trace::RuleId;

/// Which addresses a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSet {
    /// Every address of both families.
    Any,
    /// The addresses of these prefixes.
    Prefixes(Vec<IpNet>),
}

impl AddressSet {
    /// Whether the address is one of the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            AddressSet::Any => true,
            AddressSet::Prefixes(prefixes) => contains(prefixes, address),
        }
    }

    /// Joins two sets.
    pub fn union(self, other: AddressSet) -> AddressSet {
        match (self, other) {
            (AddressSet::Prefixes(mut left), AddressSet::Prefixes(right)) => {
                left.extend(right);
                left.sort();
                left.dedup();
                AddressSet::Prefixes(left)
            }
            _ => AddressSet::Any,
        }
    }
}

/// Which protocols a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// Every protocol.
    pub const ANY: Protocols = Protocols(0x80);
    /// No protocol yet.
    pub const NONE: Protocols = Protocols(0);
    /// TCP.
    pub const TCP: Protocols = Protocols(1);
    /// UDP.
    pub const UDP: Protocols = Protocols(2);
    /// ICMP of either family.
    pub const ICMP: Protocols = Protocols(4);
    /// ESP.
    pub const ESP: Protocols = Protocols(8);
    /// AH.
    pub const AH: Protocols = Protocols(16);

    /// Both.
    pub const fn and(self, other: Protocols) -> Protocols {
        Protocols(self.0 | other.0)
    }

    /// Whether the protocol is one of these.
    pub fn contains(self, protocol: Protocol) -> bool {
        let bit = match protocol {
            Protocol::TCP => Protocols::TCP,
            Protocol::UDP => Protocols::UDP,
            Protocol::ICMP | Protocol::ICMPV6 => Protocols::ICMP,
            Protocol::ESP => Protocols::ESP,
            Protocol::AH => Protocols::AH,
            _ => Protocols::NONE,
        };
        self.0 & (Protocols::ANY.0 | bit.0) != 0
    }

    /// As effective rules print it: `All`, or the one protocol.
    pub fn name(self) -> &'static str {
        match self {
            Protocols::TCP => "Tcp",
            Protocols::UDP => "Udp",
            Protocols::ICMP => "Icmp",
            Protocols::ESP => "Esp",
            Protocols::AH => "Ah",
            _ => "All",
        }
    }

    /// In the classifier's words.
    fn field(self) -> Field<Protocol> {
        if self.0 & Protocols::ANY.0 != 0 {
            return Field::Any;
        }
        let named =
            [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6, Protocol::ESP, Protocol::AH];
        Field::OneOf(named.into_iter().filter(|protocol| self.contains(*protocol)).collect())
    }

    /// Whether none of these protocols has ports.
    pub fn portless(self) -> bool {
        self.0 & (Protocols::ANY.0 | Protocols::TCP.0 | Protocols::UDP.0) == 0
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// For counters and the explanation.
    pub id: RuleId,
    /// Passes, or drops.
    pub allow: bool,
    /// Protocols.
    pub protocols: Protocols,
    /// Sources.
    pub source: AddressSet,
    /// Source ports; empty means every port.
    pub source_ports: Vec<PortRange>,
    /// Destinations.
    pub destination: AddressSet,
    /// Destination ports; empty means every port.
    pub destination_ports: Vec<PortRange>,
    /// How the user wrote it.
    pub written: Written,
}

/// What effective rules show beside the compiled sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The smallest first; zero where rules are in written order.
    pub priority: u32,
    /// Sources as written: prefixes, tags, application security groups.
    pub source: Vec<String>,
    /// Destinations as written.
    pub destination: Vec<String>,
}

impl Rule {
    /// Whether the rule is for this packet. A rule with ports is for protocols that have some.
    pub fn matches(&self, tuple: &FiveTuple) -> bool {
        let has_ports = matches!(tuple.protocol, Protocol::TCP | Protocol::UDP);
        let port = |ranges: &[PortRange], port: u16| {
            ranges.is_empty() || (has_ports && ranges.iter().any(|range| range.contains(port)))
        };
        self.protocols.contains(tuple.protocol)
            && port(&self.destination_ports, tuple.destination_port)
            && port(&self.source_ports, tuple.source_port)
            && self.source.contains(tuple.source)
            && self.destination.contains(tuple.destination)
    }
}

/// A kind of packet: every packet of these protocols, addresses and destination ports, from any port.
#[derive(Clone, Debug)]
pub(crate) struct PacketSet {
    /// None means every protocol.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) source: AddressSet,
    pub(crate) destination: AddressSet,
    pub(crate) destination_ports: PortRange,
}

/// How much of a kind of packet a rule, or a field of it, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Overlap {
    None,
    Part,
    Whole,
}

/// A rule held against a kind of packet, field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleMatch {
    pub(crate) protocol: Overlap,
    pub(crate) source: Overlap,
    pub(crate) source_port: Overlap,
    pub(crate) destination: Overlap,
    pub(crate) destination_port: Overlap,
}

impl RuleMatch {
    /// The rule as a whole is for the packets that every field is for.
    pub(crate) fn overall(&self) -> Overlap {
        let fields = [self.protocol, self.source, self.source_port, self.destination, self.destination_port];
        fields.into_iter().min().unwrap_or(Overlap::Whole)
    }
}

impl PacketSet {
    /// How much of these packets a rule is for.
    pub(crate) fn against(&self, rule: &Rule) -> RuleMatch {
        let without_ports =
            self.protocol.is_some_and(|protocol| !matches!(protocol, Protocol::TCP | Protocol::UDP));
        // A rule with ports is for protocols that have some: for none of these packets, or for some of every protocol.
        let ports = |ranges: &[PortRange], asked: PortRange| match () {
            () if ranges.is_empty() => Overlap::Whole,
            () if without_ports => Overlap::None,
            () if self.protocol.is_none() => ports_overlap(ranges, asked).min(Overlap::Part),
            () => ports_overlap(ranges, asked),
        };
        RuleMatch {
            protocol: match self.protocol {
                Some(protocol) if rule.protocols.contains(protocol) => Overlap::Whole,
                Some(_) => Overlap::None,
                None if rule.protocols == Protocols::ANY => Overlap::Whole,
                None => Overlap::Part,
            },
            source: addresses_overlap(&rule.source, &self.source),
            source_port: ports(&rule.source_ports, PortRange::ANY),
            destination: addresses_overlap(&rule.destination, &self.destination),
            destination_port: ports(&rule.destination_ports, self.destination_ports),
        }
    }
}

fn addresses_overlap(rule: &AddressSet, asked: &AddressSet) -> Overlap {
    let AddressSet::Prefixes(rule) = rule else { return Overlap::Whole };
    let everything = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
    let asked = match asked {
        AddressSet::Any => &everything[..],
        AddressSet::Prefixes(asked) => asked,
    };
    if subtract(asked, rule).is_empty() {
        return Overlap::Whole;
    }
    let meets = |asked: &IpNet| rule.iter().any(|own| covers(own, asked) || covers(asked, own));
    if asked.iter().any(meets) { Overlap::Part } else { Overlap::None }
}

fn ports_overlap(ranges: &[PortRange], asked: PortRange) -> Overlap {
    let mut sorted: Vec<PortRange> = ranges.to_vec();
    sorted.sort_by_key(|range| range.from);
    // The lowest asked port that no range so far holds; past the last port there is none.
    let mut open = u32::from(asked.from);
    let mut touched = false;
    for range in sorted {
        touched |= range.from <= asked.to && asked.from <= range.to;
        if u32::from(range.from) <= open {
            open = open.max(u32::from(range.to) + 1);
        }
    }
    match () {
        () if open > u32::from(asked.to) => Overlap::Whole,
        () if touched => Overlap::Part,
        () => Overlap::None,
    }
}

/// Port ranges as rules hold them: empty for every port.
pub fn port_list(ranges: &[PortRange]) -> Vec<PortRange> {
    if ranges.iter().any(|range| range.is_any()) { Vec::new() } else { ranges.to_vec() }
}

/// Up to this many rules are scanned; more are classified by bit vectors.
const SCANNED_MAX: usize = 16;

/// Rules in processing order: the first that matches decides.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    classifier: Option<Classifier>,
}

impl RuleSet {
    /// Rules in processing order.
    pub fn new(rules: Vec<Rule>) -> RuleSet {
        let classifier =
            (rules.len() > SCANNED_MAX).then(|| Classifier::new(&rules.iter().map(spec).collect::<Vec<_>>()));
        RuleSet { rules, classifier }
    }

    /// The rules in processing order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule that decides about a packet with this tuple.
    pub fn first_match(&self, tuple: &FiveTuple) -> Option<&Rule> {
        match &self.classifier {
            Some(classifier) => classifier.classify(tuple).map(|index| &self.rules[index]),
            None => self.rules.iter().find(|rule| rule.matches(tuple)),
        }
    }
}

/// The rule in the classifier's words.
fn spec(rule: &Rule) -> RuleSpec {
    let addresses = |set: &AddressSet| match set {
        AddressSet::Any => Field::Any,
        AddressSet::Prefixes(prefixes) => Field::OneOf(prefixes.clone()),
    };
    let ports = |ranges: &[PortRange]| {
        if ranges.is_empty() {
            Field::Any
        } else {
            Field::OneOf(ranges.iter().map(|range| range.from..=range.to).collect())
        }
    };
    RuleSpec {
        sources: addresses(&rule.source),
        destinations: addresses(&rule.destination),
        protocols: rule.protocols.field(),
        source_ports: ports(&rule.source_ports),
        destination_ports: ports(&rule.destination_ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: Protocol, port: u16) -> FiveTuple {
        FiveTuple {
            protocol,
            source: "10.1.0.4".parse().unwrap(),
            destination: "10.2.0.4".parse().unwrap(),
            source_port: 80,
            destination_port: port,
        }
    }

    fn rule(id: u32, protocols: Protocols, ports: &[PortRange]) -> Rule {
        Rule {
            id: RuleId(id),
            allow: true,
            protocols,
            source: AddressSet::Any,
            source_ports: Vec::new(),
            destination: AddressSet::Prefixes(vec!["10.2.0.0/16".parse().unwrap()]),
            destination_ports: port_list(ports),
            written: Written::default(),
        }
    }

    #[test]
    fn any_protocol_with_ports_means_those_that_have_ports() {
        let set = RuleSet::new(vec![rule(1, Protocols::ANY, &["80".parse().unwrap()])]);
        assert!(set.first_match(&tuple(Protocol::TCP, 80)).is_some());
        assert!(set.first_match(&tuple(Protocol::UDP, 80)).is_some());
        assert!(set.first_match(&tuple(Protocol::ICMP, 80)).is_none());
        assert!(set.first_match(&tuple(Protocol::TCP, 81)).is_none());
    }

    #[test]
    fn the_first_match_decides() {
        let set = RuleSet::new(vec![
            rule(1, Protocols::UDP, &[]),
            rule(2, Protocols::ANY, &[]),
            rule(3, Protocols::TCP, &[]),
        ]);
        assert_eq!(set.first_match(&tuple(Protocol::TCP, 1)).unwrap().id, RuleId(2));
    }

    proptest::proptest! {
        #[test]
        fn many_rules_are_classified_as_if_they_were_scanned(
            rules in proptest::collection::vec((0u8..5, 0u8..4, 0u16..4, 0u8..2), SCANNED_MAX + 1..60),
            probes in proptest::collection::vec((0u8..4, 0u16..6, 0u8..3), 50),
        ) {
            let protocols = [Protocols::ANY, Protocols::TCP, Protocols::UDP, Protocols::ICMP, Protocols::TCP.and(Protocols::ESP)];
            let rules: Vec<Rule> = rules
                .iter()
                .enumerate()
                .map(|(id, (protocol, net, port, any))| Rule {
                    destination: if *any == 0 {
                        AddressSet::Any
                    } else {
                        AddressSet::Prefixes(vec![format!("10.{net}.0.0/16").parse().unwrap()])
                    },
                    ..rule(u32::try_from(id).unwrap(), protocols[usize::from(*protocol)], &[PortRange { from: *port, to: *port + 1 }])
                })
                .collect();
            let set = RuleSet::new(rules.clone());
            proptest::prop_assert!(set.classifier.is_some());
            let kinds = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ESP];
            for (kind, port, net) in probes {
                let tuple = FiveTuple { destination: format!("10.{net}.0.4").parse().unwrap(), ..tuple(kinds[usize::from(kind)], port) };
                let scanned = rules.iter().find(|rule| rule.matches(&tuple)).map(|rule| rule.id);
                proptest::prop_assert_eq!(set.first_match(&tuple).map(|rule| rule.id), scanned);
            }
        }
    }
}
