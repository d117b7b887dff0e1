//! The resources of a lab as `show` lists them: what the file says, with what is in force.

use serde_json::{Map, Value, json};
use vnet_api::{RESOURCE_KINDS, Resource};
use vnet_fabric::control::{PeeringSyncLevel, State};
use vnet_fabric::effective::{self, EffectivePeering};
use vnet_fabric::snapshot::{Snapshot, TunnelSpec, TunnelStatus};

use super::lab::Lab;
use super::public_addresses;
use super::scrape::machine_shapers;
use crate::metrics::ShaperQueue;

/// Listed with what uses them, and with those that the file does not name.
const PUBLIC_ADDRESSES: &str = "publicIPAddresses";

/// Everything of the lab, in the order of [`RESOURCE_KINDS`] but for what no section of the file holds: that comes last.
pub(super) fn all(lab: &Lab) -> Vec<Resource> {
    let view = lab.view();
    // The file's types hide their secrets when they are serialised.
    let Ok(Value::Object(file)) = serde_json::to_value(&*view.topology) else { return Vec::new() };
    let halves = effective::peerings(&view.topology, &view.state);
    let snapshot = lab.snapshot();
    let mut all = Vec::new();
    // What is no section of the file is not found in it.
    for section in RESOURCE_KINDS.iter().filter(|kind| **kind != PUBLIC_ADDRESSES) {
        let Some(Value::Object(entries)) = file.get(*section) else { continue };
        for (name, properties) in entries {
            all.push(resource(section, name, properties.clone(), (&view.state, &snapshot)));
            if *section == "virtualNetworks" {
                let prefix = format!("{name}/");
                all.extend(halves.iter().filter(|half| half.name.starts_with(&prefix)).map(peering));
            }
        }
    }
    show_queues(&mut all, &machine_shapers(lab, &snapshot));
    all.extend(public_addresses::all(&view.topology, &snapshot));
    all.push(offload(lab));
    all
}

/// Where plain flows run, and why.
fn offload(lab: &Lab) -> Resource {
    let failure = lab.kernel.as_ref().ok().and_then(|kernel| kernel.failure());
    let (state, summary) = match (&lab.kernel, &failure) {
        (Ok(_), None) => ("On", "plain flows run in the kernel once they are decided".to_owned()),
        (Ok(_), Some(why)) => ("Impaired", format!("some flows pass the daemon: {why}")),
        (Err(why), _) => ("Off", format!("every packet passes the daemon: {why}")),
    };
    Resource {
        kind: "offload".to_owned(),
        name: lab.name.clone(),
        location: None,
        state: state.to_owned(),
        properties: json!({
            "enabled": lab.kernel.is_ok(),
            "reason": lab.kernel.as_ref().err().or(failure.as_ref()),
        }),
        summary,
    }
}

/// Adds to machines with a bandwidth what waits for it at present.
fn show_queues(all: &mut [Resource], queues: &[(String, ShaperQueue)]) {
    for (machine, queue) in queues {
        let found = all.iter_mut().find(|own| own.kind == "virtualMachines" && own.name == *machine);
        let Some(Resource { properties: Value::Object(properties), .. }) = found else { continue };
        let shown = json!({"bytes": queue.bytes, "delayMs": queue.delay_ns as f64 / 1e6});
        properties.insert("bandwidthQueue".to_owned(), shown);
    }
}

fn resource(kind: &str, name: &str, properties: Value, (state, snapshot): (&State, &Snapshot)) -> Resource {
    let summary = summary(kind, name, &properties, state);
    Resource {
        kind: kind.to_owned(),
        name: name.to_owned(),
        location: properties.get("location").and_then(Value::as_str).map(str::to_owned),
        state: match kind {
            "virtualMachines" => "Running".to_owned(),
            "connections" => connection_state(name, (state, snapshot)).to_owned(),
            "virtualNetworkGateways" if state.is_being_made(name) => "Updating".to_owned(),
            "vpnClients" => client_state(name, snapshot).to_owned(),
            _ => "Succeeded".to_owned(),
        },
        summary,
        properties,
    }
}

/// A client is what the gateway's end of its tunnel is; a revoked one has none.
fn client_state(name: &str, snapshot: &Snapshot) -> &'static str {
    let own = snapshot.tunnels().find(|spec| spec.roaming && !spec.at_site && &*spec.connection == name);
    match own.map(|spec| &spec.status) {
        Some(TunnelStatus::Connected) => "Connected",
        Some(TunnelStatus::Connecting) => "Connecting",
        Some(TunnelStatus::NotConnected(_)) => "NotConnected",
        None => "Revoked",
    }
}

/// A connection is what the best of its tunnels is, as its gateway's side sees them.
fn connection_state(name: &str, (state, snapshot): (&State, &Snapshot)) -> &'static str {
    let own = snapshot.tunnels().filter(|spec| &*spec.connection == name && !spec.at_site && !spec.roaming);
    let rank = |spec: &TunnelSpec| match spec.status {
        _ if state.is_being_made(&spec.gateway) => 0,
        TunnelStatus::Connected => 3,
        TunnelStatus::Connecting => 2,
        TunnelStatus::NotConnected(_) => 1,
    };
    ["Unknown", "NotConnected", "Connecting", "Connected"][own.map(rank).max().unwrap_or(0)]
}

fn peering(half: &EffectivePeering) -> Resource {
    let sync = match half.peering_sync_level {
        PeeringSyncLevel::FullyInSync => String::new(),
        level => format!(", {level:?}"),
    };
    Resource {
        kind: "peerings".to_owned(),
        name: half.name.clone(),
        location: None,
        state: format!("{:?}{sync}", half.peering_state),
        summary: half.summary(),
        properties: serde_json::to_value(half).unwrap_or_default(),
    }
}

fn summary(kind: &str, name: &str, properties: &Value, state: &State) -> String {
    let list = |key: &str| texts(properties.get(key)).join(", ");
    let text = |key: &str| texts(properties.get(key)).join("");
    match kind {
        "virtualNetworks" => {
            let encryption = properties.get("encryption").filter(|own| own["enabled"] == Value::Bool(true));
            let enforcement =
                encryption.map(|own| format!(", encryption {}", texts(own.get("enforcement")).join("")));
            list("addressSpace") + &enforcement.unwrap_or_default()
        }
        "virtualMachines" => {
            let nics =
                properties.get("networkInterfaces").and_then(Value::as_array).cloned().unwrap_or_default();
            let of = |nic: &Value| {
                let device = texts(nic.get("name")).join("");
                let mut addresses = texts(nic.get("privateIPAddresses"));
                let dynamic = state.addresses.of(&format!("{name}/{device}")).iter().map(ToString::to_string);
                addresses.extend(dynamic);
                addresses.dedup();
                format!("{} {}", texts(nic.get("subnet")).join(""), addresses.join(", "))
            };
            let rate = properties.get("bandwidthMbps").and_then(Value::as_u64);
            nics.iter().map(of).collect::<Vec<_>>().join("; ")
                + &rate.map(|rate| format!(", {rate} Mb/s")).unwrap_or_default()
        }
        "azureFirewalls" | "virtualNetworkGateways" => format!("{} {}", text("virtualNetwork"), text("sku")),
        "localNetworkGateways" => {
            format!("{} {}", text("gatewayIpAddress"), list("localNetworkAddressSpace"))
        }
        "connections" => {
            format!(
                "{} {}{}",
                text("virtualNetworkGateway1"),
                text("virtualNetworkGateway2"),
                text("localNetworkGateway2")
            )
        }
        "vpnClients" => {
            let own = state.addresses.of(&format!("vpnClients/{name}")).iter().map(ToString::to_string);
            format!("{} {}", text("gateway"), own.collect::<Vec<_>>().join(", "))
        }
        "onPremisesSites" => list("addressSpace"),
        "natGateways" => {
            format!("{} {}, {} min", list("publicIPAddresses"), text("sku"), text("idleTimeoutInMinutes"))
        }
        "privateEndpoints" => {
            let given = texts(properties.get("privateIPAddress"));
            let dynamic = state.addresses.of(name).iter().map(ToString::to_string);
            let mut addresses: Vec<String> = given.into_iter().chain(dynamic).collect();
            addresses.dedup();
            format!("{} {}", text("subnet"), addresses.join(", "))
        }
        "routeTables" => counted(properties, "routes"),
        "networkSecurityGroups" => counted(properties, "securityRules"),
        "firewallPolicies" => counted(properties, "ruleCollectionGroups"),
        _ => String::new(),
    }
}

fn counted(properties: &Value, key: &str) -> String {
    let count = properties.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    format!("{count} {key}")
}

/// A value's texts: itself, or the items of a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items.iter().flat_map(|item| texts(Some(item))).collect(),
        Some(Value::Object(object)) => object_texts(object),
        Some(Value::Null) | None => Vec::new(),
        Some(other) => vec![other.to_string()],
    }
}

fn object_texts(object: &Map<String, Value>) -> Vec<String> {
    object.get("name").map(|name| texts(Some(name))).unwrap_or_default()
}
