//! Effective security rules and what they say about one packet.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::PortRange;
use vnet_dataplane::{FiveTuple, Protocol};

use super::{QuestionError, find_nics, unknown};
use crate::snapshot::network::{Nic, Nsg};
use crate::snapshot::rules::{AddressSet, Rule, RuleSet};
use crate::snapshot::{HitKind, METADATA_ADDRESS, PLATFORM_ADDRESS, Snapshot};

/// The answer of `az network nic list-effective-nsg`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveNsgList {
    /// One entry for each group: the subnet's, then the NIC's, for each NIC.
    pub value: Vec<EffectiveNsg>,
}

/// One group that guards a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveNsg {
    /// Where it hangs.
    pub association: Association,
    /// Its rules by direction and priority, default rules included.
    pub effective_security_rules: Vec<EffectiveSecurityRule>,
    /// The group.
    pub network_security_group: ResourceId,
}

/// Where a group hangs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Association {
    /// The NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_interface: Option<ResourceId>,
    /// The subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<ResourceId>,
}

/// A resource by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceId {
    /// The name in the topology.
    pub id: String,
}

/// One rule with its tags spelled out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSecurityRule {
    /// `Allow` or `Deny`.
    pub access: String,
    /// As written.
    pub destination_address_prefixes: Vec<String>,
    /// As written, `0-65535` for every port.
    pub destination_port_ranges: Vec<String>,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// Tags and groups spelled out; empty where there is none.
    pub expanded_destination_address_prefix: Vec<String>,
    /// Tags and groups spelled out; empty where there is none.
    pub expanded_source_address_prefix: Vec<String>,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`.
    pub name: String,
    /// The smallest first.
    pub priority: u32,
    /// `Tcp`, `Udp`, `Icmp`, `Esp`, `Ah` or `All`.
    pub protocol: String,
    /// As written.
    pub source_address_prefixes: Vec<String>,
    /// As written, `0-65535` for every port.
    pub source_port_ranges: Vec<String>,
}

/// The groups that guard the NICs of `VM`, or the one `VM/NIC`.
///
/// # Errors
/// No machine has that name.
pub fn effective_nsg(snapshot: &Snapshot, target: &str) -> Result<EffectiveNsgList, QuestionError> {
    let nics = find_nics(snapshot, target).ok_or_else(|| unknown(snapshot, target))?;
    let mut value = Vec::new();
    for nic in nics {
        let id = |text: &str| Some(ResourceId { id: text.to_owned() });
        if let Some(group) = &nic.subnet_nsg {
            let association =
                Association { network_interface: None, subnet: id(&snapshot.subnets[nic.subnet].name) };
            value.push(describe(snapshot, group, association));
        }
        if let Some(group) = &nic.nic_nsg {
            let name = snapshot.port(nic.port).map_or("", |port| &port.name);
            value.push(describe(snapshot, group, Association { network_interface: id(name), subnet: None }));
        }
    }
    Ok(EffectiveNsgList { value })
}

fn describe(snapshot: &Snapshot, group: &Nsg, association: Association) -> EffectiveNsg {
    let rows = |rules: &RuleSet, direction: &str| -> Vec<EffectiveSecurityRule> {
        rules.rules().iter().map(|rule| describe_rule(snapshot, rule, direction)).collect()
    };
    let mut effective_security_rules = rows(&group.inbound, "Inbound");
    effective_security_rules.extend(rows(&group.outbound, "Outbound"));
    EffectiveNsg {
        association,
        effective_security_rules,
        network_security_group: ResourceId { id: group.name.to_string() },
    }
}

fn describe_rule(snapshot: &Snapshot, rule: &Rule, direction: &str) -> EffectiveSecurityRule {
    EffectiveSecurityRule {
        access: if rule.allow { "Allow" } else { "Deny" }.to_owned(),
        destination_address_prefixes: rule.written.destination.clone(),
        destination_port_ranges: ports(&rule.destination_ports),
        direction: direction.to_owned(),
        expanded_destination_address_prefix: expanded(&rule.destination, &rule.written.destination),
        expanded_source_address_prefix: expanded(&rule.source, &rule.written.source),
        name: rule_name(snapshot, rule),
        priority: rule.written.priority,
        protocol: rule.protocols.name().to_owned(),
        source_address_prefixes: rule.written.source.clone(),
        source_port_ranges: ports(&rule.source_ports),
    }
}

fn ports(ranges: &[PortRange]) -> Vec<String> {
    if ranges.is_empty() {
        vec!["0-65535".to_owned()]
    } else {
        ranges.iter().map(ToString::to_string).collect()
    }
}

fn expanded(set: &AddressSet, written: &[String]) -> Vec<String> {
    match set {
        AddressSet::Any => Vec::new(),
        AddressSet::Prefixes(prefixes) => {
            let spelled: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            if spelled == written { Vec::new() } else { spelled }
        }
    }
}

fn rule_name(snapshot: &Snapshot, rule: &Rule) -> String {
    match snapshot.rule(rule.id).and_then(|info| info.hits.as_ref()) {
        Some(HitKind::Nsg { rule, .. }) => rule.to_string(),
        _ => String::new(),
    }
}

/// Which way a packet passes the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FlowDirection {
    /// Towards it.
    Inbound,
    /// From it.
    Outbound,
}

/// A question of `az network watcher test-ip-flow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowQuery {
    /// Which way.
    pub direction: FlowDirection,
    /// TCP or UDP; others are judged too.
    pub protocol: Protocol,
    /// The machine's address and port.
    pub local: (IpAddr, u16),
    /// The other side's address and port.
    pub remote: (IpAddr, u16),
}

/// The answer of `az network watcher test-ip-flow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowVerdict {
    /// `Allow` or `Deny`.
    pub access: String,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`; empty where no group judges.
    pub rule_name: String,
    /// The group that the rule is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_security_group: Option<String>,
}

/// What the groups at a NIC say about the first packet of a flow: the rule that denies, or the last one that allows.
///
/// # Errors
/// No machine has that name.
pub fn ip_flow_verify(
    snapshot: &Snapshot,
    target: &str,
    query: &FlowQuery,
) -> Result<FlowVerdict, QuestionError> {
    let nics = find_nics(snapshot, target).ok_or_else(|| unknown(snapshot, target))?;
    let by_address =
        |nic: &&&Nic| snapshot.port(nic.port).is_some_and(|port| port.has_address(query.local.0));
    let nic = nics.iter().find(by_address).unwrap_or(&nics[0]);
    let ((source, source_port), (destination, destination_port)) = match query.direction {
        FlowDirection::Inbound => (query.remote, query.local),
        FlowDirection::Outbound => (query.local, query.remote),
    };
    let tuple = FiveTuple { protocol: query.protocol, source, destination, source_port, destination_port };
    let groups = match query.direction {
        FlowDirection::Inbound => [&nic.subnet_nsg, &nic.nic_nsg],
        FlowDirection::Outbound => [&nic.nic_nsg, &nic.subnet_nsg],
    };
    let mut verdict =
        FlowVerdict { access: "Allow".to_owned(), rule_name: String::new(), network_security_group: None };
    if query.remote.0 == METADATA_ADDRESS
        || (query.remote.0 == PLATFORM_ADDRESS && query.direction == FlowDirection::Outbound)
    {
        return Ok(verdict);
    }
    for group in groups.into_iter().flatten() {
        let rules = if query.direction == FlowDirection::Inbound { &group.inbound } else { &group.outbound };
        let Some(rule) = rules.first_match(&tuple) else { continue };
        verdict.rule_name = rule_name(snapshot, rule);
        verdict.network_security_group = Some(group.name.to_string());
        if !rule.allow {
            verdict.access = "Deny".to_owned();
            break;
        }
    }
    Ok(verdict)
}
