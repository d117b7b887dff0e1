//! What is in force at a NIC or subnet, in the shape of Azure's own answers.

mod nsg;
mod routes;

pub use nsg::{
    Association, EffectiveNsg, EffectiveNsgList, EffectiveSecurityRule, FlowDirection, FlowQuery,
    FlowVerdict, ResourceId, effective_nsg, ip_flow_verify,
};
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
