//! Security groups with their default rules, tags and application security groups spelled out.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use vnet_config::model::{
    Access, AddressSpec, Direction, NetworkSecurityGroup, PortRange, SecurityProtocol, SecurityRule,
};

use super::Builder;
use super::routes::reserved_prefixes;
use crate::azure_rule::AzureRule;
use crate::snapshot::lpm::subtract;
use crate::snapshot::network::Nsg;
use crate::snapshot::rules::{AddressSet, Protocols, Rule, RuleSet, Written, port_list};
use crate::snapshot::{HitKind, PLATFORM_ADDRESS};

/// Ranges beside the private ones that are no part of the Internet.
const NOT_PUBLIC: [&str; 6] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "224.0.0.0/3", "ff00::/8"];

/// What the service tags stand for in one subnet.
pub(super) struct Tags {
    virtual_network: Vec<IpNet>,
    internet: Vec<IpNet>,
}

/// Which way a default rule judges, and what it says.
type DefaultRule = (&'static str, u32, &'static str, &'static str, Access);

const DEFAULT_INBOUND: [DefaultRule; 3] = [
    ("AllowVnetInBound", 65000, "VirtualNetwork", "VirtualNetwork", Access::Allow),
    ("AllowAzureLoadBalancerInBound", 65001, "AzureLoadBalancer", "*", Access::Allow),
    ("DenyAllInBound", 65500, "*", "*", Access::Deny),
];
const DEFAULT_OUTBOUND: [DefaultRule; 3] = [
    ("AllowVnetOutBound", 65000, "VirtualNetwork", "VirtualNetwork", Access::Allow),
    ("AllowInternetOutBound", 65001, "*", "Internet", Access::Allow),
    ("DenyAllOutBound", 65500, "*", "*", Access::Deny),
];

impl Builder<'_> {
    pub(super) fn security_groups(&mut self) {
        let topology = self.topology;
        let mut compiled: HashMap<(String, usize), Arc<Nsg>> = HashMap::new();
        let mut tags: HashMap<usize, Arc<Tags>> = HashMap::new();
        for index in 0..self.snapshot.nics.len() {
            if !self.is_judged(index) {
                continue;
            }
            let subnet = self.snapshot.nics[index].subnet;
            let (network_name, subnet_name) = split(&self.snapshot.subnets[subnet].name);
            let subnet_group = topology.virtual_networks[network_name.as_str()].subnets[subnet_name.as_str()]
                .network_security_group
                .clone();
            let nic_group = self.nic_group(index);
            let mut get = |builder: &mut Self, name: Option<String>| {
                let name = name?;
                let group = topology.network_security_groups.get(&name)?;
                let tags = tags.entry(subnet).or_insert_with(|| Arc::new(builder.tags(subnet))).clone();
                let entry = compiled.entry((name.clone(), subnet));
                Some(entry.or_insert_with(|| Arc::new(builder.security_group(&name, group, &tags))).clone())
            };
            let subnet_nsg = get(self, subnet_group);
            let nic_nsg = get(self, nic_group);
            self.snapshot.nics[index].subnet_nsg = subnet_nsg;
            self.snapshot.nics[index].nic_nsg = nic_nsg;
        }
    }

    fn nic_group(&self, nic: usize) -> Option<String> {
        let port = self.snapshot.port(self.snapshot.nics[nic].port)?;
        let (vm, nic) = split(&port.name);
        let machine = self.topology.virtual_machines.get(&vm)?;
        machine
            .network_interfaces
            .iter()
            .find(|candidate| candidate.name == nic)?
            .network_security_group
            .clone()
    }

    /// The tags as a subnet sees them. VirtualNetwork: the network's ranges, those of connected peers that it allows, the
    /// prefixes of its effective gateway, the platform's address and the prefixes of the subnet's route table.
    pub(super) fn tags(&self, subnet: usize) -> Tags {
        let subnet = &self.snapshot.subnets[subnet];
        let network = &self.snapshot.networks[subnet.network];
        let mut inside = network.ranges.clone();
        for half in self.connected(subnet.network) {
            let half = &self.snapshot.peerings[half];
            if half.allow_access {
                inside.extend(self.ranges_in_force(half));
            }
        }
        let mut virtual_network = inside.clone();
        virtual_network.push(PLATFORM_ADDRESS.into());
        if let Some(gateway) = network.gateway.index() {
            virtual_network.extend(self.snapshot.gateways[gateway].table.iter().map(|(prefix, _)| prefix));
        }
        if let Some(user) = &subnet.routes.user {
            virtual_network.extend(user.iter().map(|(prefix, _)| prefix));
        }
        virtual_network.sort();
        virtual_network.dedup();
        let mut excluded: Vec<IpNet> = reserved_prefixes().chain(inside).collect();
        excluded.extend(
            NOT_PUBLIC
                .iter()
                .map(|text| text.parse::<IpNet>().expect("the special ranges are well-formed prefixes")),
        );
        let everything = [
            IpNet::V4(Default::default()),
            "2000::/3".parse().expect("the global unicast range is a well-formed prefix"),
        ];
        Tags { virtual_network, internet: subtract(&everything, &excluded) }
    }

    fn security_group(&mut self, name: &str, group: &NetworkSecurityGroup, tags: &Tags) -> Nsg {
        Nsg {
            name: name.into(),
            inbound: self.direction(name, group, tags, Direction::Inbound),
            outbound: self.direction(name, group, tags, Direction::Outbound),
        }
    }

    fn direction(
        &mut self,
        name: &str,
        group: &NetworkSecurityGroup,
        tags: &Tags,
        direction: Direction,
    ) -> RuleSet {
        let mut own: Vec<&SecurityRule> =
            group.security_rules.iter().filter(|rule| rule.direction == direction).collect();
        own.sort_by_key(|rule| rule.priority);
        let mut rules: Vec<Rule> = own.into_iter().map(|rule| self.security_rule(name, rule, tags)).collect();
        let defaults = if direction == Direction::Inbound { DEFAULT_INBOUND } else { DEFAULT_OUTBOUND };
        for (rule, priority, source, destination, access) in defaults {
            let shown = format!("defaultSecurityRules/{rule}");
            let hits = nsg_hits(name, shown.clone(), direction, access);
            let id = self.rule(name, &shown, AzureRule::NsgDefault, Some(hits));
            rules.push(Rule {
                id,
                allow: access == Access::Allow,
                protocols: Protocols::ANY,
                source: addresses(&[parse(source)], Some(tags)),
                source_ports: Vec::new(),
                destination: addresses(&[parse(destination)], Some(tags)),
                destination_ports: Vec::new(),
                written: Written {
                    priority,
                    source: vec![source.to_owned()],
                    destination: vec![destination.to_owned()],
                },
            });
        }
        RuleSet::new(rules)
    }

    fn security_rule(&mut self, group: &str, rule: &SecurityRule, tags: &Tags) -> Rule {
        let hits = nsg_hits(group, format!("securityRules/{}", rule.name), rule.direction, rule.access);
        let id = self.rule("", &format!("{group}/{}", rule.name), AzureRule::NsgFirstMatch, Some(hits));
        let protocols = match rule.protocol {
            SecurityProtocol::Any => Protocols::ANY,
            SecurityProtocol::Tcp => Protocols::TCP,
            SecurityProtocol::Udp => Protocols::UDP,
            SecurityProtocol::Icmp => Protocols::ICMP,
            SecurityProtocol::Esp => Protocols::ESP,
            SecurityProtocol::Ah => Protocols::AH,
        };
        let ports = |ranges: &[PortRange]| if protocols.portless() { Vec::new() } else { port_list(ranges) };
        Rule {
            id,
            allow: rule.access == Access::Allow,
            protocols,
            source: self.side(&rule.source_address_prefixes, &rule.source_application_security_groups, tags),
            source_ports: ports(&rule.source_port_ranges),
            destination: self.side(
                &rule.destination_address_prefixes,
                &rule.destination_application_security_groups,
                tags,
            ),
            destination_ports: ports(&rule.destination_port_ranges),
            written: Written {
                priority: u32::from(rule.priority),
                source: written(&rule.source_address_prefixes, &rule.source_application_security_groups),
                destination: written(
                    &rule.destination_address_prefixes,
                    &rule.destination_application_security_groups,
                ),
            },
        }
    }

    fn side(&self, prefixes: &[AddressSpec], groups: &[String], tags: &Tags) -> AddressSet {
        if groups.is_empty() {
            return if prefixes.is_empty() { AddressSet::Any } else { addresses(prefixes, Some(tags)) };
        }
        let members =
            groups.iter().filter_map(|group| self.asg_members.get(group)).flatten().copied().collect();
        addresses(prefixes, Some(tags)).union(AddressSet::Prefixes(members))
    }
}

fn written(prefixes: &[AddressSpec], groups: &[String]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).chain(groups.iter().cloned()).collect()
}

fn split(name: &str) -> (String, String) {
    let (first, second) = name.split_once('/').unwrap_or((name, ""));
    (first.to_owned(), second.to_owned())
}

fn parse(text: &str) -> AddressSpec {
    text.parse().expect("the default rules name * or a service tag")
}

fn nsg_hits(nsg: &str, rule: String, direction: Direction, access: Access) -> HitKind {
    HitKind::Nsg {
        nsg: nsg.into(),
        rule: rule.into(),
        inbound: direction == Direction::Inbound,
        allow: access == Access::Allow,
    }
}

/// The addresses that a list of prefixes, ranges and tags stands for. Tags that are not known here hold nothing.
pub(super) fn addresses(specs: &[AddressSpec], tags: Option<&Tags>) -> AddressSet {
    let mut prefixes = Vec::new();
    for spec in specs {
        match spec {
            AddressSpec::Any => return AddressSet::Any,
            AddressSpec::Prefix(prefix) if prefix.prefix_len() == 0 => return AddressSet::Any,
            AddressSpec::Prefix(prefix) => prefixes.push(*prefix),
            AddressSpec::Range(std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                prefixes.extend(Ipv4Subnets::new(*from, *to, 0).map(IpNet::V4));
            }
            AddressSpec::Range(std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                prefixes.extend(Ipv6Subnets::new(*from, *to, 0).map(IpNet::V6));
            }
            AddressSpec::Range(..) => {}
            AddressSpec::Tag(tag) => match (tag.as_str(), tags) {
                ("VirtualNetwork", Some(tags)) => prefixes.extend(&tags.virtual_network),
                ("Internet", Some(tags)) => prefixes.extend(&tags.internet),
                ("AzureLoadBalancer", _) => prefixes.push(PLATFORM_ADDRESS.into()),
                _ => {}
            },
        }
    }
    prefixes.sort();
    prefixes.dedup();
    AddressSet::Prefixes(prefixes)
}
