//! The flows that live: what a change makes of their next packets.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_dataplane::{FiveTuple, PortId, Protocol};
use vnet_fabric::Snapshot;
use vnet_fabric::path::{LiveFlow, Outcome, Sends, StandingSessions, judge_leg, judge_live};

use super::{Effect, way};
use crate::search::Verdict;
use crate::search::engine::verdict;

/// A flow that lives, and what the change does to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowChange {
    /// Dropped, or sent another way.
    pub effect: Effect,
    /// Where packets of the side that began it come in: `web/eth0`, `internet`.
    pub from: String,
    /// `tcp`, `udp`, `icmp`, ...
    pub protocol: String,
    /// Source address.
    pub source: IpAddr,
    /// Source port or ICMP identifier.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port or ICMP identifier.
    pub destination_port: u16,
    /// Bytes that it has carried in both directions.
    pub bytes: u64,
    /// Whether it is dropped only if one of the two sides is the first to send, and lives on otherwise: a security group that
    /// has no session of a flow takes whoever sends first for the side that begins it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub depends_on_first_sender: bool,
    /// What becomes of its packets now.
    pub before: Verdict,
    /// What would become of the next ones. Security groups keep sessions that they have let in, firewalls judge them anew, and
    /// a flow to the Internet keeps the address that it has left with.
    pub after: Verdict,
}

/// What the router knows of the flows that live, as data.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    /// Each conversation once.
    pub flows: Vec<LiveFlow>,
    /// The sessions of all stateful functions.
    pub sessions: StandingSessions,
}

/// The flows that would be dropped or sent another way, and how many were looked at.
pub(super) fn live(before: &Snapshot, after: &Snapshot, state: &LiveState) -> (Vec<FlowChange>, usize) {
    let judged = state.flows.iter().filter_map(|flow| {
        let view = View { before, after, sessions: &state.sessions, flow };
        view.whole().or_else(|| view.first_leg())
    });
    let all: Vec<Option<FlowChange>> = judged.collect();
    let total = all.len();
    let mut changes: Vec<FlowChange> = all.into_iter().flatten().collect();
    changes.sort_by(|a, b| a.effect.cmp(&b.effect).then(b.bytes.cmp(&a.bytes)));
    (changes, total)
}

struct View<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    sessions: &'a StandingSessions,
    flow: &'a LiveFlow,
}

impl View<'_> {
    /// What the change does to it from end to end and back. The outer value is none where the packets of the side that began
    /// it do not arrive as things are.
    fn whole(&self) -> Option<Option<FlowChange>> {
        let was = judge_live(self.before, self.sessions, self.flow, Sends::Beginner);
        if !was.arrives {
            return None;
        }
        let after = |first| judge_live(self.after, self.sessions, self.flow, first);
        let (asked, answered) = (after(Sends::Beginner), after(Sends::Answerer));
        let drops = [&asked, &answered].map(|is| self.effect(&was, is).is_some());
        let worse = if drops[1] && !drops[0] { &answered } else { &asked };
        let depends_on_first_sender = drops[0] != drops[1];
        Some(self.change(&was, worse).map(|change| FlowChange { depends_on_first_sender, ..change }))
    }

    /// The same of the way to the first machine alone: that may translate by rules of its own, which nobody here knows.
    fn first_leg(&self) -> Option<Option<FlowChange>> {
        let was = judge_leg(self.before, self.sessions, self.flow);
        was.arrives.then(|| self.change(&was, &judge_leg(self.after, self.sessions, self.flow)))
    }

    fn change(&self, was: &Outcome, is: &Outcome) -> Option<FlowChange> {
        let effect = self.effect(was, is);
        let FiveTuple { protocol, source, source_port, destination, destination_port } = self.flow.tuple;
        let before = verdict(self.before, was, source, None);
        let after = verdict(self.after, is, source, self.other_reason(was, is));
        let effect = match effect {
            None if way(&before) != way(&after) => Effect::Reroute,
            effect => effect?,
        };
        Some(FlowChange {
            effect,
            from: self.before.port(self.flow.port).map(|port| port.name.to_string()).unwrap_or_default(),
            protocol: protocol.to_string(),
            source,
            source_port,
            destination,
            destination_port,
            bytes: self.flow.bytes,
            depends_on_first_sender: false,
            before,
            after,
        })
    }

    /// A drop where packets of a side that arrived no longer do, or come as somebody else's.
    fn effect(&self, was: &Outcome, is: &Outcome) -> Option<Effect> {
        let passed = was.reason.is_none();
        let ends =
            was.arrives && !is.arrives || passed && is.reason.is_some() || self.loses_its_peer(was, is);
        ends.then_some(Effect::Drop)
    }

    /// Whether a connection's packets come to another machine, or as others': whoever gets them answers with a reset.
    fn loses_its_peer(&self, was: &Outcome, is: &Outcome) -> bool {
        let name = |snapshot: &Snapshot, port: PortId| snapshot.port(port).map(|port| port.name.clone());
        let at =
            |snapshot, outcome: &Outcome| outcome.arrived.map(|(port, tuple)| (name(snapshot, port), tuple));
        let (old, new) = (at(self.before, was), at(self.after, is));
        self.flow.tuple.protocol == Protocol::TCP && old.is_some() && new.is_some() && old != new
    }

    /// Why it ends though none of the fabric's reasons drops it, or before one of them could.
    fn other_reason(&self, was: &Outcome, is: &Outcome) -> Option<String> {
        if self.after.port(self.flow.port).is_none() {
            return Some("the sender goes".to_owned());
        }
        if is.arrives && self.flow.answers.is_some_and(|(port, _)| self.after.port(port).is_none()) {
            return Some("the other side goes".to_owned());
        }
        let lost = is.reason.is_none() && self.loses_its_peer(was, is);
        let (port, tuple) = is.arrived.filter(|_| lost)?;
        let name = self.after.port(port).map_or("", |port| &port.name);
        Some(format!("arrives at {name} as {tuple}, which has no such connection"))
    }
}
