//! What a change of a design does to those who talk: pairs whose packets would be dropped, allowed or sent another way, and
//! the flows that live at the moment.
//!
//! The same engine as a search's judges every header by both policies side by side, in classes that are cut by the
//! boundaries of both. Machines that no prefix, rule or subnet of either policy tells apart are judged once.

mod live;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::Topology;
use vnet_config::model::PortRange;
use vnet_dataplane::{Nanos, PortId};
use vnet_fabric::Snapshot;
use vnet_fabric::control::{Event, State};
use vnet_fabric::snapshot::PortKind;
use vnet_fabric::survey::NicClass;

use crate::search::engine::{Engine, Set, Side};
pub use live::{FlowChange, LiveState};
pub use vnet_fabric::path::{LiveFlow, StandingSessions};

use crate::search::sources::{INTERNET, outside};
use crate::search::{SearchProtocol, Verdict};
use crate::space::{bounds, number};

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// They got their answer, and no longer do.
    Drop,
    /// They got none, and do now.
    Allow,
    /// They get their answer by another way, or the receiver sees another source address.
    Reroute,
}

/// Packets to which a change does the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairChange {
    /// What it does.
    pub effect: Effect,
    /// Who sends: machines and hosts that nothing tells apart, or `internet`.
    pub from: Vec<String>,
    /// Who answers, each to every sender but itself, or `internet`.
    pub to: Vec<String>,
    /// The senders' addresses, where only some of them are meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub source_addresses: Vec<IpNet>,
    /// The addresses that they are sent to, where only some of the Internet's are meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub destination_addresses: Vec<IpNet>,
    /// The public address that they are sent to, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_address: Option<IpAddr>,
    /// The protocol.
    pub protocol: SearchProtocol,
    /// Source ports; empty where the protocol has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports; empty where the protocol has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub destination_ports: Vec<PortRange>,
    /// What becomes of the packets now.
    pub before: Verdict,
    /// What would become of them.
    pub after: Verdict,
}

/// What a change does to those who talk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImpactReport {
    /// Packets between machines that are there before and after, drops first.
    pub pairs: Vec<PairChange>,
    /// Live flows that would be dropped or sent another way, drops first.
    pub flows: Vec<FlowChange>,
    /// Live flows that were looked at, each conversation once.
    pub flows_total: usize,
    /// Machines and hosts that come, or come back with other addresses.
    pub added: Vec<String>,
    /// Machines and hosts that go, or lose their addresses.
    pub removed: Vec<String>,
    /// How many classes of headers were judged.
    pub classes: usize,
}

impl ImpactReport {
    /// Whether the change does nothing to anybody.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.flows.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// What a change from one snapshot to the other does. Both are of one state: their handles mean the same.
pub fn impact(before: &Snapshot, after: &Snapshot, state: &LiveState) -> ImpactReport {
    let mut report = ImpactReport::default();
    let ends = common(before, after, &mut report);
    let groups = grouped(before, after, ends);
    let sides = [before, after].map(|snapshot| Side {
        snapshot,
        target: String::new(),
        ports: Vec::new(),
        outward: false,
    });
    let mut engine = Engine::new(sides.into(), None);
    for to in &groups {
        for from in &groups {
            let Some((asks, answers)) = pair(from, to) else { continue };
            engine.aim(&answers.name, &answers.ports);
            let sources: Vec<IpNet> = asks.addresses.iter().map(|ip| IpNet::from(*ip)).collect();
            let public = answers.public.iter().map(|ip| (*ip, true));
            for (destination, is_public) in answers.addresses.iter().map(|ip| (*ip, false)).chain(public) {
                for protocol in SearchProtocol::ALL {
                    for set in engine.sets(&asks.ports, &sources, destination, protocol) {
                        let Some(mut change) = changed(&set, protocol) else { continue };
                        change.from = names(from);
                        change.to = names(to);
                        change.public_address = is_public.then_some(destination);
                        report.pairs.push(change);
                    }
                }
            }
        }
        from_the_internet(&mut engine, (before, after), to, &mut report);
    }
    to_the_internet(&mut engine, (before, after), &groups, &mut report);
    report.pairs.sort_by_key(|change| change.effect);
    report.classes = engine.classes();
    (report.flows, report.flows_total) = live::live(before, after, state);
    report
}

/// A machine's NIC or a host that is there before and after.
struct End {
    name: String,
    /// Its port before, and after.
    ports: [PortId; 2],
    addresses: Vec<IpAddr>,
    /// Public addresses that stand for it before and after.
    public: Vec<IpAddr>,
}

/// Ends by the names of their ports.
fn ends(snapshot: &Snapshot) -> IndexMap<String, (String, PortId, Vec<IpAddr>)> {
    let mut all = IndexMap::new();
    for port in snapshot.ports() {
        let name = match &port.kind {
            PortKind::Nic { vm, .. } => vm.to_string(),
            PortKind::SiteHost { host, .. } => host.to_string(),
            _ => continue,
        };
        let addresses = port.addresses.iter().map(IpNet::addr).collect();
        all.insert(port.name.to_string(), (name, port.id, addresses));
    }
    all
}

fn common(before: &Snapshot, after: &Snapshot, report: &mut ImpactReport) -> Vec<End> {
    let (old, new) = (ends(before), ends(after));
    let mut found = Vec::new();
    for (port, (name, was, addresses)) in &old {
        match new.get(port) {
            Some((_, is, same)) if same == addresses => {
                let left: BTreeSet<IpAddr> = before.public_addresses(*was).into_iter().collect();
                let public = after.public_addresses(*is).into_iter().filter(|ip| left.contains(ip)).collect();
                let (name, addresses) = (name.clone(), addresses.clone());
                found.push(End { name, ports: [*was, *is], addresses, public });
            }
            _ => report.removed.push(port.clone()),
        }
    }
    let comes = |port: &&String| old.get(*port).is_none_or(|(_, _, addresses)| *addresses != new[*port].2);
    report.added = new.keys().filter(comes).cloned().collect();
    found
}

/// What tells two ends apart: what they are, and the cells in which their addresses lie.
type Kind = ([Option<NicClass>; 2], Vec<(bool, u128)>, Option<[PortId; 2]>);

fn grouped(before: &Snapshot, after: &Snapshot, ends: Vec<End>) -> Vec<Vec<End>> {
    let mut starts: BTreeSet<(bool, u128)> = BTreeSet::new();
    for net in before.prefix_boundaries().into_iter().chain(after.prefix_boundaries()) {
        let (v4, (from, to)) = (net.addr().is_ipv4(), bounds(&net));
        starts.insert((v4, from));
        starts.extend(to.checked_add(1).map(|next| (v4, next)));
    }
    let cell = |ip: &IpAddr| {
        let at = (ip.is_ipv4(), number(*ip));
        starts.range((at.0, 0)..=at).next_back().copied().unwrap_or((at.0, 0))
    };
    let mut groups: IndexMap<Kind, Vec<End>> = IndexMap::new();
    for end in ends {
        let classes = [before.nic_class(end.ports[0]), after.nic_class(end.ports[1])];
        // A host of a site is like no other.
        let own = classes[0].is_none().then_some(end.ports);
        let cells = end.addresses.iter().map(cell).collect();
        groups.entry((classes, cells, own)).or_default().push(end);
    }
    groups.into_values().collect()
}

/// Two ends that stand for those of two groups; none where a group has nobody else to talk to.
fn pair<'g>(from: &'g [End], to: &'g [End]) -> Option<(&'g End, &'g End)> {
    let answers = to.first()?;
    let asks = from.iter().find(|end| end.name != answers.name)?;
    Some((asks, answers))
}

fn names(group: &[End]) -> Vec<String> {
    let mut names: Vec<String> = group.iter().map(|end| end.name.clone()).collect();
    names.dedup();
    names
}

/// A host of the Internet, or all that is not simulated of it, with its addresses.
type Outside = (String, Vec<IpNet>);

/// Hosts of the Internet and all of its other addresses, as they are before and after.
fn internet(before: &Snapshot, after: &Snapshot) -> Option<([PortId; 2], Vec<Outside>)> {
    let edges = [before.internet_edge()?, after.internet_edge()?];
    let olds = outside(before, edges[0]);
    let mut both = Vec::new();
    for source in outside(after, edges[1]) {
        // Addresses that are the lab's own before or after belong to nobody outside.
        let Some(old) = olds.iter().find(|old| old.name == source.name) else { continue };
        let common = |net: &IpNet, other: &IpNet| match (net.contains(other), other.contains(net)) {
            (true, _) => Some(*other),
            (false, true) => Some(*net),
            (false, false) => None,
        };
        let addresses =
            source.addresses.iter().flat_map(|net| old.addresses.iter().filter_map(|o| common(net, o)));
        both.push((source.name.clone(), addresses.collect()));
    }
    Some((edges, both))
}

fn to_the_internet(
    engine: &mut Engine<'_>,
    (before, after): (&Snapshot, &Snapshot),
    groups: &[Vec<End>],
    report: &mut ImpactReport,
) {
    let Some((edges, hosts)) = internet(before, after) else { return };
    for (name, addresses) in hosts {
        engine.aim(&name, &edges);
        let classes = engine.destinations(&addresses);
        for (from, asks) in groups.iter().filter_map(|group| Some((group, group.first()?))) {
            let sources: Vec<IpNet> = asks.addresses.iter().map(|ip| IpNet::from(*ip)).collect();
            let mut found: Vec<PairChange> = Vec::new();
            for (class, protocol) in classes.iter().flat_map(|class| SearchProtocol::ALL.map(|p| (class, p)))
            {
                for set in engine.sets(&asks.ports, &sources, class.first, protocol) {
                    let Some(mut change) = changed(&set, protocol) else { continue };
                    change.from = names(from);
                    change.to = vec![name.clone()];
                    if name == INTERNET {
                        change.destination_addresses.clone_from(&class.prefixes);
                    }
                    merge(&mut found, change);
                }
            }
            report.pairs.extend(found);
        }
    }
}

/// Adds a change; to one that differs in addresses of the Internet alone those are added.
fn merge(found: &mut Vec<PairChange>, change: PairChange) {
    let same = |known: &&mut PairChange| {
        let destination_addresses = known.destination_addresses.clone();
        **known == PairChange { destination_addresses, ..change.clone() }
    };
    match found.iter_mut().find(same) {
        Some(known) => {
            known.destination_addresses.extend(change.destination_addresses);
            known.destination_addresses = IpNet::aggregate(&known.destination_addresses);
        }
        None => found.push(change),
    }
}

fn from_the_internet(
    engine: &mut Engine<'_>,
    (before, after): (&Snapshot, &Snapshot),
    to: &[End],
    report: &mut ImpactReport,
) {
    if to.iter().all(|end| end.public.is_empty()) {
        return;
    }
    let Some((edges, hosts)) = internet(before, after) else { return };
    for answers in to.iter().filter(|end| !end.public.is_empty()) {
        engine.aim(&answers.name, &answers.ports);
        for (name, addresses) in &hosts {
            for destination in &answers.public {
                for protocol in SearchProtocol::ALL {
                    for set in engine.sets(&edges, addresses, *destination, protocol) {
                        let Some(mut change) = changed(&set, protocol) else { continue };
                        change.from = vec![name.clone()];
                        change.to = vec![answers.name.clone()];
                        change.source_addresses = set.source_addresses.clone();
                        change.public_address = Some(*destination);
                        report.pairs.push(change);
                    }
                }
            }
        }
    }
}

/// Of a packet that gets its answer: by whom it goes, and as whose.
fn way(verdict: &Verdict) -> (&[String], &[String], Option<IpAddr>) {
    (&verdict.via, &verdict.via_reverse, verdict.source_seen_as)
}

fn effect(before: &Verdict, after: &Verdict) -> Option<Effect> {
    match (before.allowed, after.allowed) {
        (true, false) => Some(Effect::Drop),
        (false, true) => Some(Effect::Allow),
        (true, true) if way(before) != way(after) => Some(Effect::Reroute),
        _ => None,
    }
}

/// What the change does to a set. Where flows are spread over ways that differ, one flow that is worse off counts.
fn changed(set: &Set, protocol: SearchProtocol) -> Option<PairChange> {
    let [old, new] = &set.verdicts[..] else { return None };
    if old == new {
        return None;
    }
    let found = old.iter().flat_map(|before| new.iter().map(move |after| (before, after)));
    let worst = found.filter_map(|(before, after)| Some((effect(before, after)?, before, after)));
    let (effect, before, after) = worst.min_by_key(|(effect, ..)| *effect)?;
    Some(PairChange {
        effect,
        from: Vec::new(),
        to: Vec::new(),
        source_addresses: Vec::new(),
        destination_addresses: Vec::new(),
        public_address: None,
        protocol,
        source_ports: set.source_ports.clone(),
        destination_ports: set.destination_ports.clone(),
        before: before.clone(),
        after: after.clone(),
    })
}

/// What a change from one file to the other does, as an apply on a fresh lab of the first would. Nothing lives in it.
pub fn impact_of_files(old: &Topology, new: &Topology) -> ImpactReport {
    let mut state = State::default();
    let mut apply = |topology: &Topology| {
        state.step(Event::Apply(Arc::new(topology.clone())), Nanos::ZERO);
        vnet_fabric::compile(topology, &state)
    };
    let (before, after) = (apply(old), apply(new));
    impact(&before, &after, &LiveState::default())
}
