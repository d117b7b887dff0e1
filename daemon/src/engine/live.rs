//! What is happening in a lab: flows, drops, tunnels.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_analysis::impact::{ImpactReport, LiveState};
use vnet_api::{
    ConfigFormat, DropCount, DropReport, FlowEndpoints, FlowEntry, FlowReport, FlowVerdict, GatewayReport,
    PeerConfig, RunsIn, TunnelState, TunnelStatus,
};
use vnet_dataplane::{Action, FlowState, Nanos, PortId, Reason};
use vnet_fabric::azure_rule::AzureRule;
use vnet_fabric::snapshot::{
    ApplianceKind, CounterKind, FunctionKind, LimiterSpec, PortKind, Snapshot, TunnelPeer, TunnelSpec,
};
use vnet_fabric::{State, Verdict};
use vnet_gateway::{ConnectionStatus, PORT};
use vnet_router::{DropRecord, FlowRecord};

use super::input::Input;
use super::keys;
use super::lab::Lab;
use super::scrape::tunnel_shaper;
use crate::worker::monotonic;

/// The live flows of a lab, busiest first.
pub(super) fn flows(lab: &Lab, limit: usize) -> FlowReport {
    let mut records = flow_records(lab);
    let total = records.len();
    records.sort_by_key(|record| std::cmp::Reverse(record.bytes));
    records.truncate(limit);
    let snapshot = lab.snapshot();
    FlowReport { value: records.iter().map(|record| flow_entry(&snapshot, record)).collect(), total }
}

/// What an apply of the file would do to those who talk.
pub(super) fn impact(lab: &Lab, input: &Input) -> ImpactReport {
    let mut state = State::clone(&lab.view().state);
    state.step(input.event(), monotonic());
    let after = vnet_fabric::compile(&input.topology, &state);
    let before = lab.snapshot();
    // The flows first: each that is judged has its sessions then.
    let flows = vnet_router::conversations(&before, flow_records(lab));
    let sessions = lab.shared.standing_sessions();
    vnet_analysis::impact::impact(&before, &after, &LiveState { flows, sessions })
}

/// Every flow of every worker.
pub(super) fn flow_records(lab: &Lab) -> Vec<FlowRecord> {
    let answers = lab.workers.iter().filter_map(|worker| worker.ask(|router, now| router.flows(now)));
    joined(answers.collect())
}

/// Each flow once: the kernel may have handed a flow's packets first to one worker and then to another.
fn joined(mut answers: Vec<Vec<FlowRecord>>) -> Vec<FlowRecord> {
    if answers.len() < 2 {
        return answers.pop().unwrap_or_default();
    }
    let mut all: Vec<FlowRecord> = Vec::new();
    let mut places = HashMap::new();
    for record in answers.into_iter().flatten() {
        match places.entry((record.port, record.tuple)) {
            Entry::Vacant(place) => {
                place.insert(all.len());
                all.push(record);
            }
            Entry::Occupied(place) => join(&mut all[*place.get()], record),
        }
    }
    all
}

/// The one that was seen last says what the flow is; both say what it has counted.
fn join(known: &mut FlowRecord, mut other: FlowRecord) {
    let (packets, bytes) = (known.packets + other.packets, known.bytes + other.bytes);
    let offloaded = known.offloaded || other.offloaded;
    if other.idle < known.idle {
        std::mem::swap(known, &mut other);
    }
    (known.packets, known.bytes, known.offloaded) = (packets, bytes, offloaded);
}

fn flow_entry(snapshot: &Snapshot, record: &FlowRecord) -> FlowEntry {
    let reason = match record.verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    };
    FlowEntry {
        from: port_name(snapshot, record.port),
        to: match record.verdict {
            Verdict::Deliver(port) => port_name(snapshot, port),
            Verdict::Seal(tunnel) => {
                snapshot.tunnel(tunnel).map(|spec| spec.name.to_string()).unwrap_or_default()
            }
            Verdict::Drop(_) => String::new(),
        },
        protocol: record.tuple.protocol.to_string(),
        source: record.tuple.source,
        source_port: record.tuple.source_port,
        destination: record.tuple.destination,
        destination_port: record.tuple.destination_port,
        leaves_as: (record.leaves_as != record.tuple && reason.is_none()).then_some(FlowEndpoints {
            source: record.leaves_as.source,
            source_port: record.leaves_as.source_port,
            destination: record.leaves_as.destination,
            destination_port: record.leaves_as.destination_port,
        }),
        verdict: if reason.is_some() { FlowVerdict::Deny } else { FlowVerdict::Allow },
        reason: reason.map(|reason| reason.name().to_owned()),
        via: via(snapshot, record),
        rule: record.decided_by.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.reference.name.clone()),
        state: match record.state {
            FlowState::Opening => "new",
            FlowState::Established | FlowState::Datagram => "established",
            FlowState::Closing => "closing",
            FlowState::Dropped => "denied",
        }
        .to_owned(),
        packets: record.packets,
        bytes: record.bytes,
        idle_ms: record.idle.as_millis() as u64,
        runs_in: if record.offloaded { RunsIn::Kernel } else { RunsIn::Userspace },
    }
}

/// The appliances that a flow passes between its port and its end: what carried it, not what was predicted.
pub(super) fn via(snapshot: &Snapshot, record: &FlowRecord) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if names.last().map(String::as_str) != Some(name) {
            names.push(name.to_owned());
        }
    };
    if let Some(PortKind::Tunnel(id)) = snapshot.port(record.port).map(|port| &port.kind)
        && let Some(spec) = snapshot.tunnel(*id)
        && !spec.at_site
    {
        add(&spec.gateway);
    }
    let functions = record.functions.iter().filter_map(|function| snapshot.function(*function));
    let mut firewalls = functions.filter(|info| info.kind == FunctionKind::Firewall);
    for action in record.actions.iter() {
        match action {
            Action::Count(counter) => {
                let taken = snapshot.counters().iter().find(|spec| spec.id == *counter);
                if let Some(CounterKind::Gateway { gateway }) = taken.map(|spec| &spec.kind) {
                    add(gateway);
                }
            }
            // A firewall is a hop that answers nothing.
            Action::DecrementTtl { answer_from: None } => {
                if let Some(info) = firewalls.next() {
                    add(info.name.strip_prefix("firewall/").unwrap_or(&info.name));
                }
            }
            _ => {}
        }
    }
    // A firewall that knows the flow and drops it is on its way, and no hop of it.
    for info in firewalls {
        add(info.name.strip_prefix("firewall/").unwrap_or(&info.name));
    }
    if let Verdict::Seal(tunnel) = record.verdict
        && let Some(spec) = snapshot.tunnel(tunnel)
        && !spec.at_site
    {
        add(&spec.gateway);
    }
    names
}

/// The name of a port as users know it.
pub(super) fn port_name(snapshot: &Snapshot, port: PortId) -> String {
    snapshot.port(port).map_or_else(|| format!("port {}", port.0), |port| port.name.to_string())
}

/// The machine or appliance behind a port: the `vm` label of its drops.
pub(super) fn owner_name(snapshot: &Snapshot, port: PortId) -> String {
    match snapshot.port(port).map(|port| &port.kind) {
        Some(PortKind::Nic { vm, .. }) => vm.to_string(),
        Some(PortKind::PrivateEndpoint { name: host } | PortKind::SiteHost { host, .. }) => host.to_string(),
        Some(PortKind::Appliance {
            kind: ApplianceKind::Firewall | ApplianceKind::Gateway, name, ..
        }) => name.to_string(),
        Some(PortKind::Tunnel(id)) => {
            snapshot.tunnel(*id).map_or_else(|| "tunnel".to_owned(), |spec| spec.gateway.to_string())
        }
        Some(PortKind::Platform) => "platform".to_owned(),
        Some(PortKind::InternetEdge) => "internet".to_owned(),
        None => format!("port {}", port.0),
    }
}

/// Drops by machine and reason since the lab came up, those of ports that are gone among them.
pub(super) fn drops(lab: &Lab) -> DropReport {
    let snapshot = lab.snapshot();
    let now = monotonic();
    let mut last: HashMap<(PortId, Reason), DropRecord> = HashMap::new();
    // The workers wait for this lock: the log is only copied under it.
    last.extend(lab.shared.drops().since(0).map(|record| ((record.port, record.reason), *record)));
    let mut value: Vec<DropCount> = Vec::new();
    for (port, owner, reason, packets) in drop_counts(lab) {
        let last = last.get(&(port, reason));
        value.push(DropCount {
            vm: owner,
            reason: reason.name().to_owned(),
            packets,
            last: last.and_then(|record| record.tuple).map(|tuple| tuple.to_string()),
            rule: last
                .and_then(|record| snapshot.rule(record.rule?))
                .map(|rule| rule.reference.name.clone())
                .or_else(|| AzureRule::of_drop(reason).map(|rule| rule.text().to_owned())),
            last_ms_ago: last.map(|record| now.since(record.at).as_millis() as u64),
        });
    }
    DropReport { value }
}

/// Every port that the lab has or had, its owner, and how many packets were dropped there for each reason.
pub(super) fn drop_counts(lab: &Lab) -> Vec<(PortId, String, Reason, u64)> {
    let mut owners: Vec<(PortId, String)> =
        lab.owners().iter().map(|(port, owner)| (*port, owner.clone())).collect();
    owners.sort_by_key(|(port, _)| port.0);
    let mut counts = Vec::new();
    for (port, owner) in owners {
        for reason in Reason::ALL {
            let ledgers = lab.workers.iter().filter_map(|worker| worker.ledger.port(port));
            let packets: u64 = ledgers.map(|counts| counts.drops[*reason as usize].get()).sum();
            if packets > 0 {
                counts.push((port, owner.clone(), *reason, packets));
            }
        }
    }
    counts
}

/// Both ends of each tunnel.
pub(super) fn gateways(lab: &Lab) -> GatewayReport {
    let snapshot = lab.snapshot();
    let now = monotonic();
    let statuses = tunnel_statuses(lab, &snapshot, now);
    let control = Arc::clone(&lab.view().state);
    let value = snapshot
        .tunnels()
        .zip(statuses)
        .map(|(spec, status)| {
            let is_down = spec.is_held && !control.is_being_made(&spec.gateway);
            let unknown = if is_down { TunnelState::NotConnected } else { TunnelState::Unknown };
            let state = status.as_ref().map_or(unknown, |status| match status.status {
                ConnectionStatus::Connected => TunnelState::Connected,
                ConnectionStatus::Connecting => TunnelState::Connecting,
                ConnectionStatus::NotConnected => TunnelState::NotConnected,
                ConnectionStatus::Unknown => TunnelState::Unknown,
            });
            TunnelStatus {
                gateway: spec.gateway.to_string(),
                connection: spec.connection.to_string(),
                tunnel: spec.index.to_string(),
                state,
                why: why(spec, status.as_ref()),
                local: SocketAddr::new(spec.local, PORT),
                remote: status.as_ref().map_or(SocketAddr::new(spec.remote, PORT), |status| status.remote),
                handshake_ms_ago: status
                    .as_ref()
                    .and_then(|status| status.last_handshake)
                    .map(|age| age.as_millis() as u64),
                egress_bytes: status.as_ref().map_or(0, |status| status.sent_bytes),
                ingress_bytes: status.as_ref().map_or(0, |status| status.received_bytes),
                throughput_mbps: limiter_of(&snapshot, spec)
                    .map(|limiter| limiter.bits_per_second / 1_000_000),
                packets_per_second: own_limiter(&snapshot, spec)
                    .and_then(|limiter| limiter.packets_per_second),
                queueing_delay_us: tunnel_shaper(lab, &snapshot, spec, now).delay_ns / 1000,
            }
        })
        .collect();
    GatewayReport { value }
}

/// How each tunnel end of the snapshot stands, in its order; asked at once, since the workers wait meanwhile.
pub(super) fn tunnel_statuses(
    lab: &Lab,
    snapshot: &Snapshot,
    now: Nanos,
) -> Vec<Option<vnet_gateway::TunnelStatus>> {
    let tunnels = lab.shared.tunnels();
    snapshot.tunnels().map(|spec| tunnels.status(spec.id, now)).collect()
}

/// The limiter of packets into a tunnel that is the tunnel's alone.
fn own_limiter<'a>(snapshot: &'a Snapshot, spec: &'a TunnelSpec) -> Option<&'a LimiterSpec> {
    let own = format!("tunnel/{}/egress", spec.name);
    snapshot.gateway_limiters(&spec.gateway).find(|limiter| *limiter.name == *own)
}

/// The slower of the limiters that packets into a tunnel pass: the gateway's and its own.
fn limiter_of<'a>(snapshot: &'a Snapshot, spec: &'a TunnelSpec) -> Option<&'a LimiterSpec> {
    let own = format!("tunnel/{}/egress", spec.name);
    snapshot
        .gateway_limiters(&spec.gateway)
        .filter(|limiter| limiter.name.starts_with("gateway/") || *limiter.name == *own)
        .min_by_key(|limiter| limiter.bits_per_second)
}

fn why(spec: &TunnelSpec, status: Option<&vnet_gateway::TunnelStatus>) -> Option<String> {
    if spec.is_held {
        return spec.status.reason().map(str::to_owned);
    }
    let status = status?;
    if status.status == ConnectionStatus::Connected {
        return None;
    }
    if spec.peer == TunnelPeer::Missing {
        return Some(format!("nothing in the lab answers at {}, or it has no connection back", spec.remote));
    }
    status.failure.as_ref().map(ToString::to_string)
}

/// What the device at the connection's other end needs, private key included. `None` if the lab has no such
/// connection.
pub(super) fn peer_config(lab: &Lab, connection: &str, format: ConfigFormat) -> Option<PeerConfig> {
    let (view, snapshot) = (lab.view(), lab.snapshot());
    // A client may have the name of a connection, which stands before it.
    let own = |roaming| {
        let mut ends = snapshot.tunnels().filter(|spec| !spec.at_site && spec.roaming == roaming);
        ends.find(|spec| &*spec.connection == connection)
    };
    let spec = own(false).or_else(|| own(true))?;
    let keys = PeerKeys {
        private: view.keys.get(&keys::far_end(&snapshot, spec))?,
        public: view.keys.get(&spec.name)?.public_key().to_string(),
        preshared: keys::preshared(spec),
    };
    let text = match format {
        ConfigFormat::Json => peer_json(spec, &keys)?,
        ConfigFormat::WgQuick => peer_wg(spec, &keys, true),
        ConfigFormat::Wg => peer_wg(spec, &keys, false),
    };
    Some(PeerConfig { connection: connection.to_owned(), text })
}

/// What the device at a connection's other end has to know.
struct PeerKeys {
    private: vnet_gateway::PrivateKey,
    public: String,
    preshared: Option<vnet_gateway::PresharedKey>,
}

fn peer_json(spec: &TunnelSpec, keys: &PeerKeys) -> Option<String> {
    let preshared = keys.preshared.as_ref().map(|key| key.to_base64());
    let interface = match spec.roaming {
        false => serde_json::json!({"listenPort": PORT}),
        true => serde_json::json!({"addresses": spec.allowed_ips}),
    };
    let config = serde_json::json!({
        "interface": merged(interface, serde_json::json!({"privateKey": &*keys.private.to_base64(), "mtu": 1400})),
        "peer": {
            "publicKey": keys.public,
            "presharedKey": preshared.as_ref().map(|key| key.as_str()),
            "endpoint": SocketAddr::new(spec.local, PORT),
            "allowedIPs": spec.announced,
            "persistentKeepalive": 25,
        },
    });
    serde_json::to_string_pretty(&config).ok()
}

fn merged(mut object: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// The form of wg(8), or of wg-quick(8) with the MTU, a client's address, and without a default route of its own. A client
/// takes any port.
fn peer_wg(spec: &TunnelSpec, keys: &PeerKeys, quick: bool) -> String {
    let list = |prefixes: &[IpNet]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("[Interface]\nPrivateKey = {}\n", &*keys.private.to_base64());
    if !spec.roaming {
        text.push_str(&format!("ListenPort = {PORT}\n"));
    }
    if quick {
        if spec.roaming {
            text.push_str(&format!("Address = {}\n", list(&spec.allowed_ips)));
        }
        text.push_str("MTU = 1400\n");
        if spec.announced.iter().any(|prefix| prefix.prefix_len() == 0) {
            text.push_str("Table = off\n");
        }
    }
    text.push_str(&format!("\n[Peer]\nPublicKey = {}\n", keys.public));
    if let Some(key) = &keys.preshared {
        text.push_str(&format!("PresharedKey = {}\n", key.to_base64().as_str()));
    }
    let allowed = list(&spec.announced);
    let endpoint = SocketAddr::new(spec.local, PORT);
    text.push_str(&format!("Endpoint = {endpoint}\nAllowedIPs = {allowed}\nPersistentKeepalive = 25\n"));
    text
}
