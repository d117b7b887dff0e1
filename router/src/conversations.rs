//! Flows put together to conversations: a router's flow is one direction at one port, and what two sides say to each other is
//! several of them where it passes tunnels, machines that forward, or translations.

use std::cmp::Reverse;
use std::collections::HashMap;

use vnet_dataplane::{FiveTuple, FlowState, PortId, Protocol, SessionSide};
use vnet_fabric::Verdict;
use vnet_fabric::path::LiveFlow;
use vnet_fabric::snapshot::{PortKind, Snapshot, TunnelPeer};

use crate::router::FlowRecord;

/// Where packets enter, and as what.
type Entrance = (PortId, FiveTuple);

/// The conversations that live, by the flows of all workers and the snapshot in force: each once, told by the side that
/// began it. What is dropped or over, and a connection of which one side alone comes through, is none.
pub fn conversations(snapshot: &Snapshot, records: Vec<FlowRecord>) -> Vec<LiveFlow> {
    let legs = Legs::new(snapshot, records);
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    let members = legs.members();
    for leg in (0..legs.records.len()).filter(|leg| legs.begins_somewhere(*leg)) {
        groups.entry(members[leg]).or_default().push(leg);
    }
    let mut found: Vec<LiveFlow> = groups.values().filter_map(|heads| legs.conversation(heads)).collect();
    found.sort_by_key(|flow| (Reverse(flow.bytes), flow.port, flow.tuple));
    found
}

/// Flows and what follows on each.
struct Legs<'a> {
    snapshot: &'a Snapshot,
    records: Vec<FlowRecord>,
    /// For each, the one that takes its packets further.
    onward: Vec<Option<usize>>,
    /// For each, the one in which its receiver answers.
    answer: Vec<Option<usize>>,
    /// Whether another one leads to it.
    is_led_to: Vec<bool>,
}

impl<'a> Legs<'a> {
    fn new(snapshot: &'a Snapshot, records: Vec<FlowRecord>) -> Legs<'a> {
        let records = merged(records);
        let index: HashMap<Entrance, usize> =
            records.iter().enumerate().map(|(leg, record)| ((record.port, record.tuple), leg)).collect();
        let machines = machines(snapshot);
        let find = |places: Vec<Entrance>| places.into_iter().find_map(|place| index.get(&place).copied());
        let (mut onward, mut answer, mut is_led_to) = (Vec::new(), Vec::new(), vec![false; records.len()]);
        for (leg, record) in records.iter().enumerate() {
            let (further, back) = neighbours(snapshot, &machines, record);
            let further = find(further).filter(|next| *next != leg);
            if let Some(next) = further {
                is_led_to[next] = true;
            }
            onward.push(further);
            answer.push(find(back).filter(|next| *next != leg));
        }
        Legs { snapshot, records, onward, answer, is_led_to }
    }

    /// For each leg the number of its conversation.
    fn members(&self) -> Vec<usize> {
        let mut parent: Vec<usize> = (0..self.records.len()).collect();
        fn root(parent: &mut [usize], mut leg: usize) -> usize {
            while parent[leg] != leg {
                parent[leg] = parent[parent[leg]];
                leg = parent[leg];
            }
            leg
        }
        for leg in 0..self.records.len() {
            for other in [self.onward[leg], self.answer[leg]].into_iter().flatten() {
                let (one, other) = (root(&mut parent, leg), root(&mut parent, other));
                parent[one] = other;
            }
        }
        (0..parent.len()).map(|leg| root(&mut parent, leg)).collect()
    }

    /// How far a leg is from being where one of the two sides sends: a machine or host before a tunnel, behind which a user's
    /// device may be. None of a leg in the middle of a way, or whose packets reach nobody.
    fn distance(&self, leg: usize) -> Option<u8> {
        let record = &self.records[leg];
        let port = self.snapshot.port(record.port)?;
        match &port.kind {
            PortKind::InternetEdge | PortKind::Platform => Some(0),
            PortKind::Tunnel(_) => Some(1),
            _ if port.has_address(record.tuple.source) => Some(0),
            _ => None,
        }
    }

    fn begins_somewhere(&self, leg: usize) -> bool {
        !self.is_led_to[leg] && self.distance(leg).is_some() && self.passes(leg)
    }

    /// The leg and those that take its packets further, to their end.
    fn chain(&self, leg: usize) -> impl Iterator<Item = usize> {
        // A way that goes in a circle is cut at as many legs as there are.
        std::iter::successors(Some(leg), |leg| self.onward[*leg]).take(self.records.len())
    }

    fn passes(&self, leg: usize) -> bool {
        self.chain(leg).all(|leg| !matches!(self.records[leg].verdict, Verdict::Drop(_)))
    }

    /// By what the sessions of its legs know: whether its packets run as the first one did, and since when; the oldest counts.
    fn began(&self, leg: usize) -> Option<(u32, SessionSide)> {
        self.chain(leg).filter_map(|leg| self.records[leg].began).min_by_key(|(created_s, _)| *created_s)
    }

    /// The leg in which the other side sends.
    fn answers(&self, head: usize, heads: &[usize]) -> Option<usize> {
        let answer = |head: usize| self.chain(head).last().and_then(|last| self.answer[last]);
        let others = || heads.iter().copied().filter(|other| *other != head);
        answer(head)
            .filter(|other| self.passes(*other))
            .or_else(|| others().find(|other| answer(*other) == Some(head)))
    }

    /// What the heads of one conversation make: those of its legs to which no other leads.
    fn conversation(&self, heads: &[usize]) -> Option<LiveFlow> {
        let beginner = heads.iter().copied().min_by_key(|head| {
            let record = &self.records[*head];
            let side = self.began(*head).map(|(_, side)| side);
            let answers = side == Some(SessionSide::Reply);
            let begins = side == Some(SessionSide::Original);
            // Without a session that has seen both sides, whose packet came first has begun; within a quarter of a second the
            // port has to tell.
            let tuple = record.tuple;
            (answers, self.distance(*head), record.created, !begins, tuple.destination_port, tuple)
        })?;
        let answers = self.answers(beginner, heads);
        let is_over = |leg: usize| self.records[leg].state == FlowState::Closing;
        let record = &self.records[beginner];
        // A connection takes two: of one that is cut one side may still send.
        let is_half = answers.is_none() && record.tuple.protocol == Protocol::TCP;
        let ends = [Some(beginner), answers];
        let is_users = ends.into_iter().flatten().any(|leg| self.is_users(leg));
        if !is_users || is_half || ends.into_iter().flatten().all(is_over) {
            return None;
        }
        let answers = answers.map(|leg| &self.records[leg]);
        Some(LiveFlow {
            port: record.port,
            tuple: record.tuple,
            answers: answers.map(|record| (record.port, record.tuple)),
            bytes: record.bytes + answers.map_or(0, |record| record.bytes),
        })
    }

    /// Whether a leg begins at somebody of the user's: gateways talk among themselves too.
    fn is_users(&self, leg: usize) -> bool {
        let kind = self.snapshot.port(self.records[leg].port).map(|port| &port.kind);
        kind.is_some_and(|kind| !matches!(kind, PortKind::Appliance { .. } | PortKind::Platform))
    }
}

/// One record for each entrance, however many workers have seen its packets.
fn merged(records: Vec<FlowRecord>) -> Vec<FlowRecord> {
    let mut index: HashMap<Entrance, usize> = HashMap::new();
    let mut merged: Vec<FlowRecord> = Vec::with_capacity(records.len());
    for record in records {
        match index.get(&(record.port, record.tuple)) {
            None => {
                index.insert((record.port, record.tuple), merged.len());
                merged.push(record);
            }
            Some(known) => {
                let known = &mut merged[*known];
                let bytes = known.bytes + record.bytes;
                let created = known.created.min(record.created);
                if record.idle < known.idle {
                    *known = record;
                }
                (known.bytes, known.created) = (bytes, created);
            }
        }
    }
    merged
}

/// The ports of each machine, by any of them.
fn machines(snapshot: &Snapshot) -> HashMap<PortId, Vec<PortId>> {
    let mut by_name: HashMap<&str, Vec<PortId>> = HashMap::new();
    for port in snapshot.ports() {
        if let PortKind::Nic { vm, .. } = &port.kind {
            by_name.entry(vm).or_default().push(port.id);
        }
    }
    let all = by_name.into_values();
    all.flat_map(|ports| ports.clone().into_iter().map(move |port| (port, ports.clone()))).collect()
}

/// Where the packets of a flow may enter again, and where its receiver's answers may, the likeliest first.
fn neighbours(
    snapshot: &Snapshot,
    machines: &HashMap<PortId, Vec<PortId>>,
    record: &FlowRecord,
) -> (Vec<Entrance>, Vec<Entrance>) {
    let tuple = record.leaves_as;
    match record.verdict {
        Verdict::Drop(_) => (Vec::new(), Vec::new()),
        Verdict::Seal(tunnel) => {
            let spec = snapshot.tunnel(tunnel);
            let own = spec.map(|spec| (spec.ingress, tuple.reversed()));
            let peer = spec.and_then(|spec| match spec.peer {
                TunnelPeer::Tunnel(peer) => snapshot.tunnel(peer).map(|peer| (peer.ingress, tuple)),
                _ => None,
            });
            (Vec::from_iter(peer), Vec::from_iter(own.filter(|_| peer.is_none())))
        }
        Verdict::Deliver(port) => {
            let own = [port];
            let ports = machines.get(&port).map_or(&own[..], Vec::as_slice);
            let is_end = snapshot.port(port).is_none_or(|port| port.has_address(tuple.destination));
            let back = std::iter::once(port).chain(ports.iter().copied());
            let back = back.map(|port| (port, tuple.reversed())).collect();
            if is_end || !machines.contains_key(&port) {
                return (Vec::new(), back);
            }
            // A machine that forwards, or puts its own address in the place of the sender's.
            let further = ports.iter().map(|port| (*port, tuple));
            (further.chain(translated(snapshot, ports, &tuple)).collect(), back)
        }
    }
}

/// What a machine would send that translates sources to its own addresses, and keeps their ports.
fn translated(snapshot: &Snapshot, ports: &[PortId], tuple: &FiveTuple) -> Vec<Entrance> {
    let infos = ports.iter().filter_map(|port| snapshot.port(*port));
    let has_ports = matches!(tuple.protocol, Protocol::TCP | Protocol::UDP);
    infos
        .filter(|_| has_ports)
        .flat_map(|info| info.addresses.iter().map(|own| (info.id, own.addr())))
        .filter(|(_, own)| own.is_ipv4() == tuple.source.is_ipv4())
        .map(|(port, source)| (port, FiveTuple { source, ..*tuple }))
        .collect()
}
