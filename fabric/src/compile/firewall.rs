//! Firewall policies flattened into one list of rules, in the order in which they are processed.

use vnet_config::model::{
    AddressSpec, FirewallPolicy, FirewallProtocol, FirewallRule, NetworkRule, RuleAction, RuleCollection,
    RuleCollectionGroup, RuleCollectionType,
};

use super::Builder;
use crate::azure_rule::AzureRule;
use crate::snapshot::HitKind;
use crate::snapshot::rules::{AddressSet, Protocols, Rule, RuleSet, Written, port_list};
use crate::snapshot::tags::Tags;

/// A policy inherits through at most this many parents.
const PARENTS_MAX: usize = 8;

impl<'a> Builder<'a> {
    pub(super) fn firewall_rules(&mut self) {
        let topology = self.topology;
        for index in 0..self.snapshot.firewalls.len() {
            let name = self.snapshot.firewalls[index].name.clone();
            let policy = topology.azure_firewalls[&*name].firewall_policy.as_deref();
            let tags = self.tags(self.snapshot.firewalls[index].subnet);
            let mut rules = Vec::new();
            for policy in self.policies(policy) {
                for (group, collection) in in_order(policy) {
                    self.collection(&name, group, collection, &tags, &mut rules);
                }
            }
            self.snapshot.firewalls[index].rules = RuleSet::new(rules);
        }
    }

    /// The policy with its parents, the outermost first.
    fn policies(&self, name: Option<&str>) -> Vec<&'a FirewallPolicy> {
        let topology = self.topology;
        let mut chain = Vec::new();
        let mut next = name;
        while let Some(policy) = next.and_then(|name| topology.firewall_policies.get(name)) {
            if chain.len() > PARENTS_MAX {
                break;
            }
            chain.push(policy);
            next = policy.base_policy.as_deref();
        }
        chain.reverse();
        chain
    }

    fn collection(
        &mut self,
        firewall: &str,
        group: &RuleCollectionGroup,
        collection: &RuleCollection,
        tags: &Tags,
        rules: &mut Vec<Rule>,
    ) {
        for rule in &collection.rules {
            let FirewallRule::NetworkRule(rule) = rule else { continue };
            let allow = collection.action == RuleAction::Allow;
            let hits = HitKind::Firewall {
                firewall: firewall.into(),
                group: group.name.as_str().into(),
                collection: collection.name.as_str().into(),
                rule: rule.name.as_str().into(),
                allow,
            };
            let shown = format!("{}/{}/{}", group.name, collection.name, rule.name);
            let id = self.rule(firewall, &shown, AzureRule::FirewallOrder, Some(hits));
            rules.push(Rule {
                id,
                allow,
                protocols: protocols(rule),
                source: self.party(&rule.source_addresses, &rule.source_ip_groups, tags),
                source_ports: Vec::new(),
                destination: self.party(&rule.destination_addresses, &rule.destination_ip_groups, tags),
                destination_ports: port_list(&rule.destination_ports),
                written: Written::default(),
            });
        }
    }

    fn party(&self, specs: &[AddressSpec], groups: &[String], tags: &Tags) -> AddressSet {
        let groups = groups.iter().filter_map(|group| self.topology.ip_groups.get(group));
        let all: Vec<AddressSpec> =
            specs.iter().chain(groups.flat_map(|group| &group.ip_addresses)).cloned().collect();
        tags.addresses(&all)
    }
}

/// The filter collections of a policy in processing order: groups by priority, in them collections by priority.
fn in_order(policy: &FirewallPolicy) -> Vec<(&RuleCollectionGroup, &RuleCollection)> {
    let mut groups: Vec<&RuleCollectionGroup> = policy.rule_collection_groups.iter().collect();
    groups.sort_by_key(|group| group.priority);
    let mut ordered = Vec::new();
    for group in groups {
        let mut collections: Vec<&RuleCollection> = group.rule_collections.iter().collect();
        collections.sort_by_key(|collection| collection.priority);
        let filters = collections
            .into_iter()
            .filter(|collection| collection.rule_collection_type == RuleCollectionType::Filter);
        ordered.extend(filters.map(|collection| (group, collection)));
    }
    ordered
}

fn protocols(rule: &NetworkRule) -> Protocols {
    rule.ip_protocols.iter().fold(Protocols::NONE, |all, protocol| {
        all.and(match protocol {
            FirewallProtocol::Tcp => Protocols::TCP,
            FirewallProtocol::Udp => Protocols::UDP,
            FirewallProtocol::Icmp => Protocols::ICMP,
            FirewallProtocol::Any => Protocols::ANY,
        })
    })
}
