//! Effective security rules, in the shape of `az network nic list-effective-nsg`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use vnet_config::model::PortRange;

use super::{QuestionError, find_nics, unknown};
use crate::snapshot::network::Nsg;
use crate::snapshot::rules::{AddressSet, Rule, RuleSet};
use crate::snapshot::{HitKind, Snapshot};

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
    /// The first of the list below.
    #[serde(default)]
    pub destination_address_prefix: Option<String>,
    /// As written; `0.0.0.0/0` for every address.
    #[serde(default, deserialize_with = "list")]
    pub destination_address_prefixes: Vec<String>,
    /// The first of the list below.
    #[serde(default)]
    pub destination_port_range: Option<String>,
    /// From and to: `443-443`, `0-65535` for every port.
    #[serde(default, deserialize_with = "list")]
    pub destination_port_ranges: Vec<String>,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// Tags and groups spelled out; empty where there is none.
    #[serde(default, deserialize_with = "list")]
    pub expanded_destination_address_prefix: Vec<String>,
    /// Tags and groups spelled out; empty where there is none.
    #[serde(default, deserialize_with = "list")]
    pub expanded_source_address_prefix: Vec<String>,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`.
    pub name: String,
    /// The smallest first.
    pub priority: u32,
    /// `Tcp`, `Udp`, `Icmp`, `Esp`, `Ah` or `All`.
    pub protocol: String,
    /// The first of the list below.
    #[serde(default)]
    pub source_address_prefix: Option<String>,
    /// As written; `0.0.0.0/0` for every address.
    #[serde(default, deserialize_with = "list")]
    pub source_address_prefixes: Vec<String>,
    /// The first of the list below.
    #[serde(default)]
    pub source_port_range: Option<String>,
    /// From and to: `443-443`, `0-65535` for every port.
    #[serde(default, deserialize_with = "list")]
    pub source_port_ranges: Vec<String>,
}

/// Azure's tools write null for an empty list.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
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
    let (sources, destinations) = (written(&rule.written.source), written(&rule.written.destination));
    let (source_ports, destination_ports) = (ports(&rule.source_ports), ports(&rule.destination_ports));
    EffectiveSecurityRule {
        access: access(rule.allow).to_owned(),
        destination_address_prefix: destinations.first().cloned(),
        destination_port_range: destination_ports.first().cloned(),
        direction: direction.to_owned(),
        expanded_destination_address_prefix: expanded(&rule.destination, &destinations),
        expanded_source_address_prefix: expanded(&rule.source, &sources),
        name: rule_name(snapshot, rule).to_owned(),
        priority: rule.written.priority,
        protocol: rule.protocols.name().to_owned(),
        source_address_prefix: sources.first().cloned(),
        source_port_range: source_ports.first().cloned(),
        destination_address_prefixes: destinations,
        destination_port_ranges: destination_ports,
        source_address_prefixes: sources,
        source_port_ranges: source_ports,
    }
}

/// Effective rules have no `*`.
fn written(specs: &[String]) -> Vec<String> {
    specs.iter().map(|spec| if spec == "*" { "0.0.0.0/0".to_owned() } else { spec.clone() }).collect()
}

fn ports(ranges: &[PortRange]) -> Vec<String> {
    let of = |range: &PortRange| format!("{}-{}", range.from, range.to);
    if ranges.is_empty() { vec![of(&PortRange::ANY)] } else { ranges.iter().map(of).collect() }
}

fn expanded(set: &AddressSet, written: &[String]) -> Vec<String> {
    match set {
        AddressSet::Any => Vec::new(),
        AddressSet::Prefixes(prefixes) => {
            let spelled: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            let mut sorted = written.to_vec();
            sorted.sort();
            let mut same = spelled.clone();
            same.sort();
            if same == sorted { Vec::new() } else { spelled }
        }
    }
}

/// `Allow` or `Deny`.
pub(super) fn access(allow: bool) -> &'static str {
    if allow { "Allow" } else { "Deny" }
}

/// `securityRules/NAME` or `defaultSecurityRules/NAME`.
pub(super) fn rule_name<'a>(snapshot: &'a Snapshot, rule: &Rule) -> &'a str {
    match snapshot.rule(rule.id).and_then(|info| info.hits.as_ref()) {
        Some(HitKind::Nsg { rule, .. }) => rule,
        _ => "",
    }
}
