//! What is in force at a NIC or subnet, in the shape of Azure's own answers.

mod diagnostics;
mod flow;
mod nsg;
mod peerings;
mod public;
mod routes;

pub use diagnostics::{
    DiagnosticProfile, DiagnosticQuery, EvaluatedNetworkSecurityGroup, MatchedRule,
    NetworkSecurityGroupResult, NsgDiagnostic, NsgDiagnostics, RuleEvaluation, nsg_diagnostics,
};
pub use flow::{FlowDirection, FlowQuery, FlowVerdict, ip_flow_verify};
pub use nsg::{
    Association, EffectiveNsg, EffectiveNsgList, EffectiveSecurityRule, ResourceId, effective_nsg,
};
pub use peerings::{AddressSpace, EffectivePeering, PeeringEnd, RemoteEncryption, peerings};
pub use routes::{EffectiveRoute, EffectiveRoutes, NextHopAnswer, effective_routes, next_hop};
pub(crate) use routes::{is_global, next_hop_addresses, source_name, type_name};

use crate::snapshot::Snapshot;
use crate::snapshot::network::Nic;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Nothing has this name.
    #[error("nothing in lab {lab} is called '{name}'{}", hint(.known))]
    Unknown {
        /// The lab.
        lab: String,
        /// The name.
        name: String,
        /// What the name may have meant.
        known: Vec<String>,
    },
    /// The name stands for something that has no such answer.
    #[error("'{0}' has no network interface in a virtual network")]
    NoNic(String),
    /// The address is none of the machine's own.
    #[error("SourceIpDoesNotMatchNicIp: no network interface of '{target}' has the address {address}")]
    NotLocal {
        /// The machine or NIC.
        target: String,
        /// The address.
        address: std::net::IpAddr,
    },
    /// The topology has no prefixes for a service tag.
    #[error("the topology has no prefixes for the service tag '{0}'")]
    EmptyTag(String),
    /// The two ends have no address family in common.
    #[error("'{0}' and '{1}' have no address family in common")]
    NoCommonFamily(String, String),
}

fn hint(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; known are {}", known.join(", ")) }
}

pub(crate) fn unknown(snapshot: &Snapshot, name: &str) -> QuestionError {
    let mut known: Vec<String> = snapshot.machines().map(str::to_owned).collect();
    known.extend(snapshot.site_hosts().map(str::to_owned));
    known.extend(snapshot.internet_hosts().map(str::to_owned));
    known.truncate(20);
    QuestionError::Unknown { lab: snapshot.lab().to_owned(), name: name.to_owned(), known }
}

/// The NICs of a machine, the primary first, or the one that `VM/NIC` names.
pub(crate) fn find_nics<'a>(snapshot: &'a Snapshot, target: &str) -> Option<Vec<&'a Nic>> {
    let (vm, nic) = target.split_once('/').map_or((target, None), |(vm, nic)| (vm, Some(nic)));
    let nics = snapshot.names.machines.get(vm)?.iter().map(|index| &snapshot.nics[*index]);
    let found: Vec<&Nic> = match nic {
        None => nics.collect(),
        Some(_) => {
            nics.filter(|nic| snapshot.port(nic.port).is_some_and(|port| &*port.name == target)).collect()
        }
    };
    (!found.is_empty()).then_some(found)
}

/// The subnet whose routes a VM, NIC, subnet, firewall or gateway uses.
pub(crate) fn find_subnet(snapshot: &Snapshot, target: &str) -> Result<usize, QuestionError> {
    if let Some(nics) = find_nics(snapshot, target) {
        return Ok(nics[0].subnet);
    }
    if let Some(subnet) = snapshot.names.subnets.get(target) {
        return Ok(*subnet);
    }
    let firewall =
        snapshot.firewalls.iter().find(|firewall| &*firewall.name == target).map(|firewall| firewall.subnet);
    let gateway =
        || snapshot.gateways.iter().find(|gateway| &*gateway.name == target).map(|gateway| gateway.subnet);
    firewall.or_else(gateway).ok_or_else(|| unknown(snapshot, target))
}
