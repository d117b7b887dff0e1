//! Names of `publicIPAddresses` give way to the addresses that they stand for, before the topology is decoded.

use std::{collections::HashMap, net::IpAddr};

use serde_json::Value as Json;

use crate::{
    diagnostic::{Finding, Reporter, nearest},
    positions::Positions,
};

/// Sections whose entries have a list `publicIPAddresses`.
const HOLDERS: &[&str] = &["azureFirewalls", "virtualNetworkGateways", "natGateways", "routeServers"];

/// Puts addresses in place of names. A name that nothing has is reported and left out.
pub(crate) fn resolve(topology: &mut Json, positions: &mut Positions, reporter: &mut Reporter<'_>) {
    let named = topology.get("publicIPAddresses").and_then(Json::as_object);
    let known: HashMap<String, Json> = named
        .into_iter()
        .flatten()
        .filter_map(|(name, entry)| Some((name.clone(), entry.get("ipAddress")?.clone())))
        .collect();
    let mut resolver = Resolver { known, positions, reporter };
    for section in HOLDERS {
        for (name, entry) in topology.get_mut(section).and_then(Json::as_object_mut).into_iter().flatten() {
            resolver.list(entry, &format!("{section}.{name}"));
        }
    }
    let machines = topology.get_mut("virtualMachines").and_then(Json::as_object_mut);
    for (name, machine) in machines.into_iter().flatten() {
        let nics = machine.get_mut("networkInterfaces").and_then(Json::as_array_mut);
        for (index, nic) in nics.into_iter().flatten().enumerate() {
            resolver.list(nic, &format!("virtualMachines.{name}.networkInterfaces[{index}]"));
        }
    }
}

struct Resolver<'a, 'r> {
    known: HashMap<String, Json>,
    positions: &'a mut Positions,
    reporter: &'a mut Reporter<'r>,
}

impl Resolver<'_, '_> {
    fn list(&mut self, holder: &mut Json, path: &str) {
        let Some(Json::Array(list)) = holder.get_mut("publicIPAddresses") else { return };
        let list_path = self.positions.in_file(&format!("{path}.publicIPAddresses")).into_owned();
        let (mut resolved, mut kept) = (Vec::with_capacity(list.len()), Vec::with_capacity(list.len()));
        let count = list.len();
        for (index, value) in list.drain(..).enumerate() {
            let is_name = value.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err());
            let at = format!("{list_path}[{index}]");
            if let Some(value) = if is_name { self.named(&value, &at) } else { Some(value) } {
                resolved.push(value);
                kept.push(index);
            }
        }
        if kept.len() < count {
            self.positions.keep(&list_path, kept);
        }
        *list = resolved;
    }

    fn named(&mut self, value: &Json, path: &str) -> Option<Json> {
        let name = value.as_str().unwrap_or_default();
        if let Some(address) = self.known.get(name) {
            return Some(address.clone());
        }
        let span = self.positions.find(path);
        // What is there but wrong has its own error.
        if !self.positions.is_dropped(&format!("publicIPAddresses.{name}")) {
            let shown = crate::validate::shown(name);
            let message = format!("'{shown}' is neither an address nor one of publicIPAddresses");
            let help = match nearest(name, self.known.keys().map(String::as_str)) {
                Some(known) => format!("did you mean '{known}'?"),
                None => "write an address such as 203.0.113.10, or add the name under publicIPAddresses"
                    .to_owned(),
            };
            let finding = Finding::error("unknown-reference", message).code("InvalidResourceReference");
            self.reporter.report(span, path, finding.help(help));
        }
        self.positions.touch(path);
        None
    }
}
