//! Security groups with their default rules, tags and application security groups spelled out.

use std::collections::HashMap;
use std::sync::Arc;

use vnet_config::model::{
    Access, AddressSpec, Direction, NetworkSecurityGroup, PortRange, SecurityProtocol, SecurityRule,
};
use vnet_dataplane::Protocol;

use super::Builder;
use super::tags::TagPlace;
use crate::azure_rule::AzureRule;
use crate::snapshot::HitKind;
use crate::snapshot::network::Nsg;
use crate::snapshot::rules::{AddressSet, Protocols, Rule, RuleSet, Written, port_list};
use crate::snapshot::tags::{PlatformService, Tags, platform_service};

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

/// Groups that were compiled already, by name and by what tags and members depend on.
type Compiled = HashMap<(String, TagPlace), Arc<Nsg>>;

impl Builder<'_> {
    pub(super) fn security_groups(&mut self) {
        let topology = self.topology;
        let mut compiled = Compiled::new();
        for index in 0..self.snapshot.nics.len() {
            if !self.is_judged(index) {
                continue;
            }
            let subnet = self.snapshot.nics[index].subnet;
            let (network_name, subnet_name) = split(&self.snapshot.subnets[subnet].name);
            let of_subnet = topology.virtual_networks[network_name.as_str()].subnets[subnet_name.as_str()]
                .network_security_group
                .as_deref();
            let of_nic = self.nic_group(index);
            let subnet_nsg = self.security_group(&mut compiled, of_subnet, subnet);
            let nic_nsg = self.security_group(&mut compiled, of_nic.as_deref(), subnet);
            self.snapshot.nics[index].subnet_nsg = subnet_nsg;
            self.snapshot.nics[index].nic_nsg = nic_nsg;
        }
    }

    /// The group of this name as a subnet has it.
    fn security_group(
        &mut self,
        compiled: &mut Compiled,
        name: Option<&str>,
        subnet: usize,
    ) -> Option<Arc<Nsg>> {
        let name = name?;
        let group = self.topology.network_security_groups.get(name)?;
        let key = (name.to_owned(), self.tag_place(subnet));
        if let Some(known) = compiled.get(&key) {
            return Some(known.clone());
        }
        let place = Place { network: self.snapshot.subnets[subnet].network, tags: self.tags(subnet) };
        let nsg = Arc::new(Nsg {
            name: name.into(),
            inbound: RuleSet::new(self.direction(name, group, &place, Direction::Inbound)),
            outbound: RuleSet::new(self.direction(name, group, &place, Direction::Outbound)),
            platform: RuleSet::new(self.platform_rules(name, group, &place)),
            flush: group.flush_connection,
            tags: place.tags,
        });
        compiled.insert(key, nsg.clone());
        Some(nsg)
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

    fn direction(
        &mut self,
        name: &str,
        group: &NetworkSecurityGroup,
        place: &Place,
        direction: Direction,
    ) -> Vec<Rule> {
        let own = in_order(group, direction);
        let mut rules: Vec<Rule> =
            own.into_iter().map(|rule| self.security_rule(name, rule, place)).collect();
        let defaults = if direction == Direction::Inbound { DEFAULT_INBOUND } else { DEFAULT_OUTBOUND };
        for (rule, priority, source, destination, access) in defaults {
            let shown = format!("defaultSecurityRules/{rule}");
            let full = format!("{name}/{shown}");
            let id =
                self.rule("", &full, AzureRule::NsgDefault, Some(nsg_hits(name, shown, direction, access)));
            rules.push(Rule {
                id,
                allow: access == Access::Allow,
                protocols: Protocols::ANY,
                source: place.tags.addresses(&[parse(source)]),
                source_ports: Vec::new(),
                destination: place.tags.addresses(&[parse(destination)]),
                destination_ports: Vec::new(),
                written: Written {
                    priority,
                    source: vec![source.to_owned()],
                    destination: vec![destination.to_owned()],
                },
            });
        }
        rules
    }

    fn security_rule(&mut self, group: &str, rule: &SecurityRule, place: &Place) -> Rule {
        let shown = format!("securityRules/{}", rule.name);
        let full = format!("{group}/{shown}");
        let hits = nsg_hits(group, shown, rule.direction, rule.access);
        let id = self.rule("", &full, AzureRule::NsgFirstMatch, Some(hits));
        let protocols = protocols(rule.protocol);
        let ports = |ranges: &[PortRange]| if protocols.portless() { Vec::new() } else { port_list(ranges) };
        Rule {
            id,
            allow: rule.access == Access::Allow,
            protocols,
            source: self.side(&rule.source_address_prefixes, &rule.source_application_security_groups, place),
            source_ports: ports(&rule.source_port_ranges),
            destination: self.side(
                &rule.destination_address_prefixes,
                &rule.destination_application_security_groups,
                place,
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

    /// Of the outbound rules those that name a tag of the platform, cut down to the services that the tags mean.
    fn platform_rules(&mut self, name: &str, group: &NetworkSecurityGroup, place: &Place) -> Vec<Rule> {
        let mut rules = Vec::new();
        for rule in in_order(group, Direction::Outbound) {
            let services = rule.destination_address_prefixes.iter().filter_map(|spec| match spec {
                AddressSpec::Tag(tag) => platform_service(tag),
                _ => None,
            });
            for service in services {
                let compiled = self.security_rule(name, rule, place);
                rules.extend(for_service(compiled, service));
            }
        }
        rules
    }

    fn side(&self, prefixes: &[AddressSpec], groups: &[String], place: &Place) -> AddressSet {
        if groups.is_empty() {
            return if prefixes.is_empty() { AddressSet::Any } else { place.tags.addresses(prefixes) };
        }
        // An application security group lives in one network; elsewhere its addresses may be another machine's.
        let members = groups
            .iter()
            .filter_map(|group| self.asg_members.get(&(group.clone(), place.network)))
            .flatten()
            .copied()
            .collect();
        place.tags.addresses(prefixes).union(AddressSet::Prefixes(members))
    }
}

/// Where a group hangs.
struct Place {
    network: usize,
    tags: Arc<Tags>,
}

fn in_order(group: &NetworkSecurityGroup, direction: Direction) -> Vec<&SecurityRule> {
    let mut rules: Vec<&SecurityRule> =
        group.security_rules.iter().filter(|rule| rule.direction == direction).collect();
    rules.sort_by_key(|rule| rule.priority);
    rules
}

fn protocols(protocol: SecurityProtocol) -> Protocols {
    match protocol {
        SecurityProtocol::Any => Protocols::ANY,
        SecurityProtocol::Tcp => Protocols::TCP,
        SecurityProtocol::Udp => Protocols::UDP,
        SecurityProtocol::Icmp => Protocols::ICMP,
        SecurityProtocol::Esp => Protocols::ESP,
        SecurityProtocol::Ah => Protocols::AH,
    }
}

/// What a rule says about one service of the platform; nothing where its protocol or ports leave the service out.
fn for_service(rule: Rule, service: &PlatformService) -> Option<Rule> {
    let named = rule.destination_ports.is_empty()
        || rule.destination_ports.iter().any(|range| range.contains(service.port));
    let of = |protocol: &Protocol| if *protocol == Protocol::UDP { Protocols::UDP } else { Protocols::TCP };
    let spoken = service.protocols.iter().filter(|protocol| rule.protocols.contains(**protocol));
    let protocols = spoken.map(of).fold(Protocols::NONE, Protocols::and);
    (named && protocols != Protocols::NONE).then(|| Rule {
        protocols,
        destination: AddressSet::Prefixes(vec![service.address.into()]),
        destination_ports: vec![PortRange { from: service.port, to: service.port }],
        ..rule
    })
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
