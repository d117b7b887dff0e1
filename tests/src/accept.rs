//! What the topology file's validation says.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use vnet_config::{Severity, Topology};

use crate::golden::{Capacity, Case, patched};

/// Loads a topology that is given as a value.
///
/// # Errors
/// Codes and messages of everything that is wrong with it.
pub fn load(topology: &Value) -> Result<Topology, Vec<(String, String)>> {
    let text = serde_json::to_string_pretty(topology).expect("a value is text");
    match vnet_config::load(&text, "example", None) {
        Ok(loaded) => Ok(loaded.topology),
        Err(diagnostics) => {
            let said = diagnostics.list.iter().filter(|one| one.severity == Severity::Error);
            Err(said
                .map(|one| (one.code.as_deref().unwrap_or(&one.rule).to_owned(), one.message.clone()))
                .collect())
        }
    }
}

/// Everything in which validation differs from what a case says of it.
pub fn check(topology: &Value, case: &Case) -> Vec<String> {
    let mut wrong: Vec<String> = case.capacity.iter().flat_map(capacity).collect();
    let result = load(&patched(topology, &case.patch));
    match (&case.rejects, result) {
        (None, Err(said)) if case.model_only.is_none() => wrong.push(format!("is refused: {said:?}")),
        (Some(code), Ok(_)) => wrong.push(format!("is accepted, {code} was expected")),
        (Some(code), Err(said)) if !said.iter().any(|(got, _)| got == code) => {
            wrong.push(format!("is refused, but not with {code}: {said:?}"));
        }
        _ => {}
    }
    wrong
}

/// A machine may have the first and the last usable address and none beside them.
fn capacity(capacity: &Capacity) -> Vec<String> {
    let Capacity { subnet, first, last, .. } = capacity;
    let with = |address: Option<IpAddr>| {
        let range = subnet.supernet().and_then(|wider| wider.supernet()).unwrap_or(*subnet);
        let mut machines = json!({});
        if let Some(address) = address {
            machines = json!({"m": {"subnet": "v/s", "privateIPAddress": address}});
        }
        load(&json!({
            "name": "ex",
            "virtualNetworks": {"v": {"addressSpace": [range], "subnets": {"s": subnet}}},
            "virtualMachines": machines,
        }))
        .is_ok()
    };
    let (Some(first), Some(last)) = (*first, *last) else {
        return if with(None) { vec![format!("{subnet} is accepted")] } else { Vec::new() };
    };
    let beside = |address: IpAddr, by: i64| match (address, subnet) {
        (IpAddr::V4(v4), IpNet::V4(_)) => IpAddr::V4((u32::from(v4).wrapping_add_signed(by as i32)).into()),
        _ => unreachable!("capacities are asked of IPv4 subnets"),
    };
    let probes = [(first, true), (last, true), (beside(first, -1), false), (beside(last, 1), false)];
    let wrong = probes.into_iter().filter(|(address, accepted)| with(Some(*address)) != *accepted);
    wrong.map(|(address, accepted)| format!("{subnet}: {address} should be accepted: {accepted}")).collect()
}
