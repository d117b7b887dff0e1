//! Ordered rules over addresses, protocol and ports, as security groups and firewalls have them.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::PortRange;
use vnet_dataplane::classifier::{Classifier, Field, RuleSpec};
use vnet_dataplane::{FiveTuple, Protocol};

use super::lpm::contains;
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
