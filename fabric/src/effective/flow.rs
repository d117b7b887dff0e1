//! What the security groups at a NIC say about one packet, as `az network watcher test-ip-flow` does.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, Protocol};

use super::nsg::{access, rule_name};
use super::public::{PublicWay, is_public};
use super::{QuestionError, find_nics, unknown};
use crate::azure_rule::AzureRule;
use crate::snapshot::Snapshot;
use crate::snapshot::network::{Judgement, Nic};

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

impl FlowQuery {
    /// A question with the protocol in users' words.
    ///
    /// # Errors
    /// The two addresses are of different families.
    pub fn new(
        direction: FlowDirection,
        protocol: ProbeProtocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<FlowQuery, QuestionError> {
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(QuestionError::NoCommonFamily(local.ip().to_string(), remote.ip().to_string()));
        }
        let protocol = match protocol {
            ProbeProtocol::Tcp => Protocol::TCP,
            ProbeProtocol::Udp => Protocol::UDP,
            ProbeProtocol::Icmp if local.is_ipv4() => Protocol::ICMP,
            ProbeProtocol::Icmp => Protocol::ICMPV6,
        };
        Ok(FlowQuery {
            direction,
            protocol,
            local: (local.ip(), local.port()),
            remote: (remote.ip(), remote.port()),
        })
    }
}

/// The answer of `az network watcher test-ip-flow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowVerdict {
    /// `Allow` or `Deny`.
    pub access: String,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`; `NSG-PUBLIC-NEEDS-NSG` where a Standard public address without
    /// a group keeps the packet out; else empty where no group judges.
    pub rule_name: String,
    /// The group that the rule is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_security_group: Option<String>,
    /// What the verdict leaves open: that no public address leads to where the packet is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the groups at a NIC say about the first packet of a flow: the rule that denies, or the last one that allows. Where
/// no group guards the NIC, a Standard public address takes nothing from the Internet.
///
/// # Errors
/// No machine has that name, or none of its NICs has the local address.
pub fn ip_flow_verify(
    snapshot: &Snapshot,
    target: &str,
    query: &FlowQuery,
) -> Result<FlowVerdict, QuestionError> {
    let nics = find_nics(snapshot, target).ok_or_else(|| unknown(snapshot, target))?;
    let address = query.local.0;
    let nic = find_local(snapshot, &nics, address)
        .ok_or_else(|| QuestionError::NotLocal { target: target.to_owned(), address })?;
    let inbound = query.direction == FlowDirection::Inbound;
    let ((source, source_port), (destination, destination_port)) =
        if inbound { (query.remote, query.local) } else { (query.local, query.remote) };
    let tuple = FiveTuple { protocol: query.protocol, source, destination, source_port, destination_port };
    let mut verdict = FlowVerdict {
        access: access(true).to_owned(),
        rule_name: String::new(),
        network_security_group: None,
        note: None,
    };
    if inbound && !nic.guarded() && is_public(snapshot, nic, query.remote.0) {
        match PublicWay::to(snapshot, nic, address) {
            PublicWay::NeedsGroup => {
                access(false).clone_into(&mut verdict.access);
                AzureRule::NsgPublicNeedsNsg.id().clone_into(&mut verdict.rule_name);
            }
            PublicWay::None => verdict.note = Some(PublicWay::no_address(snapshot, nic)),
            PublicWay::Open => {}
        }
    }
    for group in nic.groups(inbound) {
        let rule = match group.judge(inbound, &tuple) {
            Judgement::By(rule) => rule,
            Judgement::Exempt | Judgement::Unmatched => continue,
        };
        rule_name(snapshot, rule).clone_into(&mut verdict.rule_name);
        verdict.network_security_group = Some(group.name.to_string());
        if !rule.allow {
            access(false).clone_into(&mut verdict.access);
            break;
        }
    }
    Ok(verdict)
}

/// The NIC that has the address.
pub(super) fn find_local<'a>(snapshot: &Snapshot, nics: &[&'a Nic], address: IpAddr) -> Option<&'a Nic> {
    let has = |nic: &&&'a Nic| snapshot.port(nic.port).is_some_and(|port| port.has_address(address));
    nics.iter().find(has).copied()
}
