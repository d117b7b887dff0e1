//! Worked examples as data: a topology, changes to it, and what each must show.
//!
//! A file is YAML: `example` (its number), `rule` (what it shows), `topology` (as users write it), and `cases`.
//! A case's `patch` is a JSON merge patch (RFC 7396) of the topology.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::subject::SOURCE_PORT;
use crate::subject::{Line, Probe, Subject};

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Example {
    /// `EX-2.3`.
    pub example: String,
    /// What it shows, in a sentence.
    pub rule: String,
    /// The topology that the cases start from.
    pub topology: Value,
    /// At least one.
    pub cases: Vec<Case>,
}

/// One row of an example.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// A merge patch of the topology.
    pub patch: Value,
    /// What only the model knows yet, and why.
    pub model_only: Option<String>,
    /// Validation refuses it with Azure's code, or with the rule's own name where Azure's is not known.
    pub rejects: Option<String>,
    /// Whole effective route tables by `VNET/SUBNET`, as lines `SOURCE STATE PREFIX TYPE [IP]`, in any order.
    pub routes: BTreeMap<String, Vec<String>>,
    /// Which route a packet takes.
    pub next_hops: Vec<NextHop>,
    /// What becomes of packets.
    pub paths: Vec<PathCheck>,
    /// What the groups at a NIC say, as `test-ip-flow` asks.
    pub flows: Vec<FlowCheck>,
    /// A policy's collections in the order of processing.
    pub order: BTreeMap<String, Vec<String>>,
    /// How many machines a subnet takes.
    pub capacity: Vec<Capacity>,
    /// How many links join every two of so many networks.
    pub meshes: Vec<Mesh>,
    /// Peering requests, one after the other.
    pub requests: Vec<Request>,
    /// A session that is open when the topology changes.
    pub session: Option<SessionCheck>,
}

/// The route for a destination.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NextHop {
    /// `VNET/SUBNET`.
    pub from: String,
    /// Destination.
    pub to: IpAddr,
    /// The line that is selected, as in `routes`; the state is left out.
    pub route: String,
    /// How the identifier of its route table ends, as the command prints it; `System Route` without one.
    pub table: Option<String>,
}

/// What becomes of a packet and its answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathCheck {
    /// A machine or host.
    pub from: String,
    /// A machine, host or address.
    pub to: String,
    /// `icmp`, `tcp`, `udp`.
    #[serde(default = "icmp")]
    pub protocol: String,
    /// Destination port.
    #[serde(default)]
    pub port: u16,
    /// Source port.
    #[serde(default = "source_port")]
    pub source_port: u16,
    /// Both the packet and its answer arrive, the packet is dropped, or the answer is.
    pub verdict: Verdict,
    /// Why.
    pub reason: Option<String>,
    /// Appliances on the way out.
    pub via: Option<Vec<String>>,
    /// Appliances on the way back.
    pub via_reverse: Option<Vec<String>>,
    /// The NSG or firewall rule that decided.
    pub rule: Option<String>,
    /// The source address that the receiver sees.
    pub source_seen_as: Option<IpAddr>,
    /// A segment from the middle of a TCP connection that nobody remembers.
    #[serde(default)]
    pub mid_stream: bool,
    /// What traceroute prints: addresses, `*` for a hop that stays silent; the destination last.
    pub hops: Option<Vec<String>>,
}

impl PathCheck {
    /// The packet that is asked about.
    pub fn probe(&self) -> Probe {
        let PathCheck { port, source_port, mid_stream, .. } = *self;
        Probe { protocol: self.protocol.clone(), port, source_port, mid_stream }
    }
}

fn icmp() -> String {
    "icmp".to_owned()
}

fn source_port() -> u16 {
    SOURCE_PORT
}

/// How a path ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Question and answer arrive.
    Allow,
    /// The question does not arrive.
    Deny,
    /// The question arrives, its answer does not.
    ReplyLost,
}

/// What the groups at a NIC say.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowCheck {
    /// The machine.
    pub vm: String,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The machine's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// `Allow` or `Deny`.
    pub access: String,
    /// `defaultSecurityRules/NAME` or `securityRules/NAME`.
    pub rule_name: String,
}

/// How many machines a subnet takes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// The subnet's range.
    pub subnet: IpNet,
    /// Addresses that machines may have; absent where no such subnet may exist.
    pub usable: Option<u64>,
    /// The first of them.
    pub first: Option<IpAddr>,
    /// The last of them.
    pub last: Option<IpAddr>,
}

/// Networks of which every two are peered.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    /// How many networks.
    pub networks: usize,
    /// Pairs of halves.
    pub links: usize,
}

/// A request about one half of a peering or a network's ranges, and the state after it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Request {
    /// `LOCAL REMOTE`: the half is made.
    pub create: Option<String>,
    /// `LOCAL REMOTE`: the half is deleted.
    pub delete: Option<String>,
    /// The network's ranges become these.
    pub resize: Option<Resize>,
    /// `LOCAL REMOTE`: the half is synchronised.
    pub sync: Option<String>,
    /// The code with which Azure refuses it.
    pub fails: Option<String>,
    /// State of each half that exists, by `LOCAL REMOTE`.
    pub states: BTreeMap<String, String>,
    /// Sync level of halves, by `LOCAL REMOTE`.
    pub levels: BTreeMap<String, String>,
    /// Ranges of the second network to which the first has routes, by `LOCAL REMOTE`.
    pub routed: BTreeMap<String, Vec<IpNet>>,
    /// A machine of the first network reaches one of the second.
    pub reaches: Option<bool>,
}

/// New ranges of a network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resize {
    /// The network.
    pub network: String,
    /// All its ranges.
    pub ranges: Vec<IpNet>,
}

/// A session, and what becomes of it when rules change.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionCheck {
    /// The packet that opens it.
    pub open: PathCheck,
    /// The change.
    pub patch: Value,
    /// What a later packet of the session meets.
    pub ongoing: Verdict,
    /// Why, where it is dropped.
    pub reason: Option<String>,
    /// What a new session meets.
    pub again: Verdict,
}

/// Every example below a folder, with its file.
///
/// # Panics
/// Where a file can't be read: a broken example is a failed test.
pub fn discover(folder: &Path) -> Vec<(PathBuf, Example)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder of examples can be read") {
            let path = entry.expect("its entries too").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).expect("an example can be read");
                // YAML 1.2, as topology files are: `n` is a name.
                let options = serde_saphyr::options! { strict_booleans: true };
                let example = serde_saphyr::from_str_with_options(&text, options)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.push((path, example));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// A merge patch (RFC 7396).
pub fn patched(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return if patch.is_null() { target.clone() } else { patch.clone() };
    };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (key, change) in patch {
        if change.is_null() {
            merged.shift_remove(key);
        } else {
            let before = merged.get(key).cloned().unwrap_or(Value::Null);
            let after = if change.is_object() { patched(&before, change) } else { change.clone() };
            merged.insert(key.clone(), after);
        }
    }
    Value::Object(merged)
}

/// Everything in a case that a subject gets wrong, one sentence each.
pub fn check<S: Subject>(topology: &Value, case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    let topology = patched(topology, &case.patch);
    if case.rejects.is_some() {
        return wrong;
    }
    for capacity in &case.capacity {
        wrong.extend(S::capacity(capacity));
    }
    for mesh in &case.meshes {
        let links = S::links(&meshed(mesh.networks));
        if links != Ok(mesh.links) {
            wrong.push(format!("{} networks: expected {} links, got {links:?}", mesh.networks, mesh.links));
        }
    }
    if !case.requests.is_empty() {
        wrong.extend(S::requests(&topology, &case.requests));
    }
    let subject = match S::build(&topology) {
        Ok(subject) => subject,
        Err(error) => return vec![format!("is not accepted: {error}")],
    };
    for (subnet, expected) in &case.routes {
        if let Some(got) = subject.routes(subnet) {
            wrong.extend(check_table(subnet, expected, got));
        }
    }
    for hop in &case.next_hops {
        let Some(got) = subject.next_hop(&hop.from, hop.to) else { continue };
        let got = got.map(|line| line.selected());
        if !got.as_deref().is_some_and(|got| same_line(&hop.route, got)) {
            wrong.push(format!("{} to {}: expected {:?}, got {got:?}", hop.from, hop.to, hop.route));
        }
        let table = subject.route_table(&hop.from, hop.to);
        if let (Some(expected), Some(got)) = (&hop.table, table)
            && !got.ends_with(expected.as_str())
        {
            wrong.push(format!("{} to {}: expected the table {expected}, got {got}", hop.from, hop.to));
        }
    }
    for path in &case.paths {
        wrong.extend(check_path(path, &subject));
    }
    for flow in &case.flows {
        let Some((allowed, rule)) = subject.flow(flow) else { continue };
        if allowed != (flow.access == "Allow") || rule != flow.rule_name {
            let got = if allowed { "Allow" } else { "Deny" };
            wrong.push(format!("{flow:?}: got {got} by {rule}"));
        }
    }
    for (policy, expected) in &case.order {
        let got = subject.order(policy);
        if got.as_ref().is_some_and(|got| got != expected) {
            wrong.push(format!("order of {policy}: expected {expected:?}, got {got:?}"));
        }
    }
    if let Some(session) = &case.session {
        wrong.extend(subject.session(&topology, session));
    }
    wrong
}

/// So many networks, every two of them peered.
fn meshed(networks: usize) -> Value {
    let name = |network: usize| format!("v{network}");
    let network = |local: usize| {
        let others = (0..networks).filter(|remote| *remote != local);
        let peerings: serde_json::Map<_, _> = others.map(|remote| (name(remote), json!({}))).collect();
        let range = format!("10.{}.{}.0/24", local / 256, local % 256);
        (name(local), json!({"addressSpace": [range], "peerings": peerings}))
    };
    let all: serde_json::Map<_, _> = (0..networks).map(network).collect();
    json!({"name": "mesh", "virtualNetworks": all})
}

/// A line matches where every word that the example gives is the same; what it leaves out at the end is free.
fn same_line(expected: &str, got: &str) -> bool {
    let mut got = got.split_whitespace();
    expected.split_whitespace().all(|word| got.next() == Some(word))
}

fn check_table(subnet: &str, expected: &[String], got: Vec<Line>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut left: Vec<String> = got.iter().map(Line::to_string).collect();
    for line in expected {
        match left.iter().position(|got| same_line(line, got)) {
            Some(index) => {
                left.remove(index);
            }
            None => wrong.push(format!("{subnet}: lacks {line:?}")),
        }
    }
    wrong.extend(left.into_iter().map(|line| format!("{subnet}: has {line:?} besides")));
    wrong
}

/// Everything in which a path differs from what is expected.
pub fn check_path<S: Subject>(path: &PathCheck, subject: &S) -> Vec<String> {
    let probe = path.probe();
    let got = subject.path(&path.from, &path.to, &probe);
    let reason = got.reason.as_ref().or(got.reply_reason.as_ref());
    let verdict = match (&got.reason, &got.reply_reason) {
        (Some(_), _) => Verdict::Deny,
        (None, Some(_)) => Verdict::ReplyLost,
        (None, None) => Verdict::Allow,
    };
    let said = [
        verdict == path.verdict,
        path.reason.is_none() || path.reason.as_ref() == reason,
        path.via.as_ref().is_none_or(|via| *via == got.via),
        path.via_reverse.as_ref().is_none_or(|via| *via == got.via_reverse),
        path.rule.is_none() || path.rule == got.rule,
        path.source_seen_as.is_none() || path.source_seen_as == got.source_seen_as,
    ];
    let mut wrong = Vec::new();
    if said.into_iter().any(|right| !right) {
        wrong.push(format!("expected {path:?}, got {got:?}"));
    }
    if let Some(expected) = &path.hops {
        let got = subject.hops(&path.from, &path.to, &probe);
        if *expected != got {
            wrong.push(format!("{} to {}: expected the hops {expected:?}, got {got:?}", path.from, path.to));
        }
    }
    wrong
}
