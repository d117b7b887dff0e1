//! Every rule that is evaluated for a kind of packet, as `az network watcher run-configuration-diagnostic` shows them.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::{AddressSpec, PortRange, SecurityProtocol};
use vnet_dataplane::Protocol;

use super::flow::find_local;
use super::nsg::{access, rule_name};
use super::public::{PublicWay, is_public};
use super::{FlowDirection, QuestionError, find_nics, unknown};
use crate::azure_rule::AzureRule;
use crate::snapshot::Snapshot;
use crate::snapshot::network::{Nic, Nsg, is_platform};
use crate::snapshot::rules::{AddressSet, Overlap, PacketSet, RuleMatch, RuleSet};

/// The packets that are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosticQuery {
    /// Which way.
    pub direction: FlowDirection,
    /// The protocol, or all of them.
    pub protocol: SecurityProtocol,
    /// Any address, an address, a prefix or a service tag.
    pub source: AddressSpec,
    /// The same.
    pub destination: AddressSpec,
    /// Destination ports; [`PortRange::ANY`] means every port.
    pub destination_port: PortRange,
}

/// The answer of `az network watcher run-configuration-diagnostic`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NsgDiagnostics {
    /// One entry for each question.
    pub results: Vec<NsgDiagnostic>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NsgDiagnostic {
    /// The question.
    pub profile: DiagnosticProfile,
    /// The answer.
    pub network_security_group_result: NetworkSecurityGroupResult,
}

/// The packets that were asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosticProfile {
    /// To where.
    pub destination: String,
    /// A port, a range or `*`.
    pub destination_port: String,
    /// Which way.
    pub direction: FlowDirection,
    /// `TCP`, `UDP`, `ICMP`, `ESP`, `AH` or `*`.
    pub protocol: String,
    /// From where.
    pub source: String,
}

impl DiagnosticProfile {
    /// `Inbound` or `Outbound`.
    pub fn direction_name(&self) -> &'static str {
        match self.direction {
            FlowDirection::Inbound => "Inbound",
            FlowDirection::Outbound => "Outbound",
        }
    }
}

/// What the groups at the NIC say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSecurityGroupResult {
    /// The groups in their order; without a group, the check of a Standard public address as one without a name.
    pub evaluated_network_security_groups: Vec<EvaluatedNetworkSecurityGroup>,
    /// `Allow` where every group allows.
    pub security_rule_access_result: String,
    /// What the result leaves open: that no public address leads to where the packets are to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What one group says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluatedNetworkSecurityGroup {
    /// The NIC or subnet that the group hangs at.
    pub applied_to: String,
    /// The rule that decides; none for packets to the platform that no rule names.
    pub matched_rule: Option<MatchedRule>,
    /// The group; empty where none is there.
    pub network_security_group_id: String,
    /// Rules before the matched one that decide about a part of the packets: for those the answer may be another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partly_matched_rules: Vec<String>,
    /// Every rule that was evaluated, in order; the matched one is the last.
    pub rules_evaluation_result: Vec<RuleEvaluation>,
}

/// The rule that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchedRule {
    /// `Allow` or `Deny`.
    pub action: String,
    /// `UserRule_NAME` or `DefaultRule_NAME`, as Azure's diagnostics name them.
    pub rule_name: String,
}

/// One rule, field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleEvaluation {
    /// Every destination that was asked about is one of the rule's.
    pub destination_matched: bool,
    /// The same of destination ports.
    pub destination_port_matched: bool,
    /// `UserRule_NAME` or `DefaultRule_NAME`.
    pub name: String,
    /// The same of protocols.
    pub protocol_matched: bool,
    /// The same of sources.
    pub source_matched: bool,
    /// The same of source ports: the question leaves them open.
    pub source_port_matched: bool,
}

/// Holds each rule of the groups at a NIC against a kind of packet. `target` is `VM` or `VM/NIC`; of a machine's NICs
/// that which has the asked address, else the primary one.
///
/// # Errors
/// No machine has that name, or a tag has no prefixes.
pub fn nsg_diagnostics(
    snapshot: &Snapshot,
    target: &str,
    query: &DiagnosticQuery,
) -> Result<NsgDiagnostics, QuestionError> {
    let nics = find_nics(snapshot, target).ok_or_else(|| unknown(snapshot, target))?;
    let inbound = query.direction == FlowDirection::Inbound;
    let nic = match if inbound { &query.destination } else { &query.source } {
        AddressSpec::Prefix(prefix) => find_local(snapshot, &nics, prefix.addr()),
        _ => None,
    };
    let nic = nic.unwrap_or(nics[0]);
    let mut evaluated = Vec::new();
    for group in nic.groups(inbound) {
        evaluated.push(evaluate(snapshot, nic, group, query)?);
    }
    let mut note = None;
    if inbound && !nic.guarded() {
        match from_internet(snapshot, nic, query) {
            Some((PublicWay::NeedsGroup, share)) => evaluated.push(needs_group(snapshot, nic, share)),
            Some((PublicWay::None, Overlap::Whole)) => note = Some(PublicWay::no_address(snapshot, nic)),
            _ => {}
        }
    }
    let denied = |group: &EvaluatedNetworkSecurityGroup| {
        group.matched_rule.as_ref().is_some_and(|rule| rule.action == access(false))
    };
    let result = access(!evaluated.iter().any(denied)).to_owned();
    let profile = DiagnosticProfile {
        destination: asked(&query.destination),
        destination_port: query.destination_port.to_string(),
        direction: query.direction,
        protocol: number(query.protocol)
            .map_or("*".to_owned(), |protocol| protocol.to_string().to_uppercase()),
        source: asked(&query.source),
    };
    let network_security_group_result = NetworkSecurityGroupResult {
        evaluated_network_security_groups: evaluated,
        security_rule_access_result: result,
        note,
    };
    Ok(NsgDiagnostics { results: vec![NsgDiagnostic { profile, network_security_group_result }] })
}

/// What becomes of the packets that come from the Internet, and whether those are all that were asked about.
fn from_internet(snapshot: &Snapshot, nic: &Nic, query: &DiagnosticQuery) -> Option<(PublicWay, Overlap)> {
    let (share, is_ipv4) = match &query.source {
        AddressSpec::Any => (Overlap::Part, None),
        AddressSpec::Tag(tag) if tag.eq_ignore_ascii_case("Internet") => (Overlap::Whole, None),
        AddressSpec::Prefix(prefix) if prefix.prefix_len() == 0 => {
            (Overlap::Part, Some(prefix.addr().is_ipv4()))
        }
        AddressSpec::Prefix(prefix) if is_public(snapshot, nic, prefix.network()) => {
            (Overlap::Whole, Some(prefix.addr().is_ipv4()))
        }
        _ => return None,
    };
    let port = snapshot.port(nic.port)?;
    let asked_about = |address: &IpAddr| {
        is_ipv4.is_none_or(|is_ipv4| address.is_ipv4() == is_ipv4)
            && match &query.destination {
                AddressSpec::Prefix(prefix) => prefix.contains(address),
                _ => true,
            }
    };
    let own = port.addresses.iter().map(|own| own.addr()).filter(asked_about);
    let mut ways = own.map(|address| PublicWay::to(snapshot, nic, address));
    let first = ways.next()?;
    let way = ways.fold(first, |met, way| if met == PublicWay::None { way } else { met });
    Some((way, share))
}

/// The check of a Standard public address without a group, as a group of its own.
fn needs_group(snapshot: &Snapshot, nic: &Nic, share: Overlap) -> EvaluatedNetworkSecurityGroup {
    let name = AzureRule::NsgPublicNeedsNsg.id().to_owned();
    let whole = share == Overlap::Whole;
    EvaluatedNetworkSecurityGroup {
        applied_to: snapshot.port(nic.port).map(|port| port.name.to_string()).unwrap_or_default(),
        matched_rule: whole
            .then(|| MatchedRule { action: access(false).to_owned(), rule_name: name.clone() }),
        network_security_group_id: String::new(),
        partly_matched_rules: if whole { Vec::new() } else { vec![name.clone()] },
        rules_evaluation_result: vec![RuleEvaluation {
            destination_matched: true,
            destination_port_matched: true,
            name,
            protocol_matched: true,
            source_matched: whole,
            source_port_matched: true,
        }],
    }
}

fn evaluate(
    snapshot: &Snapshot,
    nic: &Nic,
    group: &Nsg,
    query: &DiagnosticQuery,
) -> Result<EvaluatedNetworkSecurityGroup, QuestionError> {
    let asked = PacketSet {
        protocol: number(query.protocol),
        source: addresses(group, &query.source)?,
        destination: addresses(group, &query.destination)?,
        destination_ports: query.destination_port,
    };
    let mut result = EvaluatedNetworkSecurityGroup {
        applied_to: applied_to(snapshot, nic, group),
        matched_rule: None,
        network_security_group_id: group.name.to_string(),
        partly_matched_rules: Vec::new(),
        rules_evaluation_result: Vec::new(),
    };
    for rule in rules(group, query).rules() {
        let matched = asked.against(rule);
        let name = azure_name(rule_name(snapshot, rule));
        result.rules_evaluation_result.push(evaluation(name.clone(), &matched));
        match matched.overall() {
            Overlap::Whole => {
                result.matched_rule =
                    Some(MatchedRule { action: access(rule.allow).to_owned(), rule_name: name });
                break;
            }
            Overlap::Part => result.partly_matched_rules.push(name),
            Overlap::None => {}
        }
    }
    Ok(result)
}

/// A single address as it was asked for, without the length of its prefix.
fn asked(spec: &AddressSpec) -> String {
    match spec {
        AddressSpec::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
            prefix.addr().to_string()
        }
        other => other.to_string(),
    }
}

/// No number stands for every protocol. A rule for ICMP is for that of either family.
fn number(protocol: SecurityProtocol) -> Option<Protocol> {
    match protocol {
        SecurityProtocol::Any => None,
        SecurityProtocol::Tcp => Some(Protocol::TCP),
        SecurityProtocol::Udp => Some(Protocol::UDP),
        SecurityProtocol::Icmp => Some(Protocol::ICMP),
        SecurityProtocol::Esp => Some(Protocol::ESP),
        SecurityProtocol::Ah => Some(Protocol::AH),
    }
}

fn rules<'a>(group: &'a Nsg, query: &DiagnosticQuery) -> &'a RuleSet {
    let outbound = query.direction == FlowDirection::Outbound;
    let to_platform = matches!(&query.destination, AddressSpec::Prefix(prefix)
        if prefix.prefix_len() == prefix.max_prefix_len() && is_platform(prefix.addr()));
    if outbound && to_platform { &group.platform } else { group.rules(!outbound) }
}

fn addresses(group: &Nsg, spec: &AddressSpec) -> Result<AddressSet, QuestionError> {
    let set = group.tags.addresses(std::slice::from_ref(spec));
    match spec {
        AddressSpec::Tag(tag) if set == AddressSet::Prefixes(Vec::new()) => {
            Err(QuestionError::EmptyTag(tag.clone()))
        }
        _ => Ok(set),
    }
}

fn applied_to(snapshot: &Snapshot, nic: &Nic, group: &Nsg) -> String {
    let of_nic = nic.nic_nsg.as_deref().is_some_and(|own| std::ptr::eq(own, group));
    let of_subnet = nic.subnet_nsg.as_deref().is_some_and(|own| std::ptr::eq(own, group));
    match snapshot.port(nic.port) {
        Some(port) if of_nic && !of_subnet => port.name.to_string(),
        _ => snapshot.subnets[nic.subnet].name.to_string(),
    }
}

/// Diagnostics name rules as flow logs do.
fn azure_name(name: &str) -> String {
    match name.split_once('/') {
        Some(("defaultSecurityRules", name)) => format!("DefaultRule_{name}"),
        Some((_, name)) => format!("UserRule_{name}"),
        None => name.to_owned(),
    }
}

fn evaluation(name: String, matched: &RuleMatch) -> RuleEvaluation {
    RuleEvaluation {
        destination_matched: matched.destination == Overlap::Whole,
        destination_port_matched: matched.destination_port == Overlap::Whole,
        name,
        protocol_matched: matched.protocol == Overlap::Whole,
        source_matched: matched.source == Overlap::Whole,
        source_port_matched: matched.source_port == Overlap::Whole,
    }
}
