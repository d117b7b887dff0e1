//! The slow path: the first packet of a flow, and the first after a change of policy, is judged by Azure's rules.

use std::sync::Arc;

use arrayvec::ArrayVec;
use vnet_dataplane::flow_table::FLOW_SESSIONS_MAX;
use vnet_dataplane::session::NewSession;
use vnet_dataplane::{
    ActionList, FiveTuple, FlowDecision, FlowEntry, FlowId, FlowKey, FlowState, FunctionId, Nanos,
    PacketMeta, PortId, Reason, SessionRef, TcpFlags,
};
use vnet_fabric::snapshot::PortKind;
use vnet_fabric::{Decision, NoTrace, RuleId, Verdict};

use crate::core::{Core, Packet, seconds};
use crate::drops::DropRecord;
use crate::router::Router;
use crate::shared::{Sessions, View};

/// The sessions that a flow keeps alive.
type Held = ArrayVec<SessionRef, FLOW_SESSIONS_MAX>;

/// How the sessions of a flow stand after a packet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All are there and through their handshake, or the flow has none.
    Open,
    /// One waits for packets of its handshake.
    Opening,
    /// One is gone: what it allowed or translated does not hold any more.
    Gone,
}

impl Router {
    /// Decides a packet's flow and enters it into the table.
    pub(crate) fn decide_flow(
        &mut self,
        key: FlowKey,
        packet: &Packet<'_>,
        now: Nanos,
    ) -> Result<FlowId, Reason> {
        self.decide_meta(key, &packet.headers.meta, now)
    }

    /// Decides the flow of a packet of which this is known, and enters it into the table.
    pub(crate) fn decide_meta(
        &mut self,
        key: FlowKey,
        meta: &PacketMeta,
        now: Nanos,
    ) -> Result<FlowId, Reason> {
        if self.is_full_of(&key) {
            return Err(Reason::FlowLimit);
        }
        let held = self.core.judge(&mut self.decision, key.ingress(), meta, now)?;
        let decision = &*self.decision;
        let entry = FlowDecision {
            epoch: self.epoch,
            actions: &decision.actions,
            decided_by: decision.decided_by.map(|rule| rule.0),
            sessions: &held,
        };
        for open in &decision.opens {
            // An answer that was dropped before this session was there must not stay dropped.
            self.flows.forget_drops(&open.tuple);
        }
        self.flows.insert(key, entry, meta.tcp_flags, now)
    }

    /// Whether a NIC has as many flows as Azure lets it have, and this is not one of them.
    fn is_full_of(&self, key: &FlowKey) -> bool {
        let port = key.ingress();
        self.flows.of_port(port) >= self.nic_flows_max
            && self.core.snapshot.port(port).is_some_and(|port| matches!(port.kind, PortKind::Nic { .. }))
            && self.flows.lookup(key).is_none()
    }

    /// Decides a packet that makes no flow.
    pub(crate) fn decide_once(&mut self, packet: &Packet<'_>, now: Nanos) -> ActionList {
        let meta = &packet.headers.meta;
        match self.core.judge(&mut self.decision, packet.ingress, meta, now) {
            Ok(_) => self.decision.actions.clone(),
            Err(reason) => ActionList::from_iter([vnet_dataplane::Action::Drop(reason)]),
        }
    }
}

impl Core {
    /// Decides a packet, and carries out what the decision says of sessions and counters. Fails where a session found no
    /// room: the packet is dropped then, since its answer would be. The sessions are held from the one to the other, so
    /// that no other worker takes the port that a decision has chosen for a translation.
    fn judge(
        &self,
        decision: &mut Decision,
        port: PortId,
        meta: &PacketMeta,
        now: Nanos,
    ) -> Result<Held, Reason> {
        let mut sessions = self.shared.sessions();
        let view = View { sessions: &sessions, opens: meta.opens() };
        vnet_fabric::decide_into(decision, &self.snapshot, &view, port, meta, &mut NoTrace);
        for rule in &decision.hits {
            self.ledger.hit(*rule);
        }
        for (function, tuple) in &decision.revoked {
            if let Some(found) = sessions.find(*function, tuple) {
                sessions.remove(found.session);
            }
        }
        if let Verdict::Drop(reason) = decision.verdict {
            drop(sessions);
            self.note_drop(port, Some(meta.tuple), reason, decision.decided_by, now);
            return Ok(Held::new());
        }
        hold_sessions(&mut sessions, decision, meta.tcp_flags, seconds(now))
    }

    fn note_drop(
        &self,
        port: PortId,
        tuple: Option<FiveTuple>,
        reason: Reason,
        rule: Option<RuleId>,
        now: Nanos,
    ) {
        self.shared.drops().push(DropRecord { number: 0, at: now, port, tuple, reason, rule });
    }

    /// Drops a packet outside of any decision: counts and remembers it.
    pub(crate) fn refuse(
        &self,
        port: PortId,
        tuple: Option<FiveTuple>,
        reason: Reason,
        rule: Option<RuleId>,
        packets: u64,
        now: Nanos,
    ) {
        self.ledger.dropped(port, reason, packets);
        self.note_drop(port, tuple, reason, rule, now);
    }

    /// Tells a flow's sessions of a packet.
    pub(crate) fn touch_sessions(&self, flow: &FlowEntry, flags: TcpFlags, now: Nanos) -> Standing {
        if flow.sessions().is_empty() {
            return Standing::Open;
        }
        let mut sessions = self.shared.sessions();
        let mut standing = Standing::Open;
        for session in flow.sessions() {
            sessions.touch(*session, flags, seconds(now));
            match sessions.get(*session).map(|record| record.state()) {
                None => standing = Standing::Gone,
                Some(FlowState::Opening) if standing == Standing::Open => standing = Standing::Opening,
                Some(_) => {}
            }
        }
        standing
    }

    /// Whether all of these sessions are there and past their handshake: one that opens has to see whose packets come.
    pub(crate) fn are_sessions_open(&self, refs: &[SessionRef]) -> bool {
        if refs.is_empty() {
            return true;
        }
        let sessions = self.shared.sessions();
        refs.iter().all(|session| {
            let state = sessions.get(*session).map(|record| record.state());
            matches!(state, Some(FlowState::Established | FlowState::Datagram))
        })
    }

    /// Whether all of these sessions are there and none is closing; keeps them alive if their flow was seen at `seen`.
    pub(crate) fn keep_sessions(&self, refs: &[SessionRef], seen: Option<Nanos>) -> bool {
        if refs.is_empty() {
            return true;
        }
        let mut sessions = self.shared.sessions();
        refs.iter().all(|session| {
            let Some(record) = sessions.get(*session) else { return false };
            let lives = record.state() != FlowState::Closing;
            let last = record.last_seen_s();
            if let Some(seen) = seen.filter(|seen| seconds(*seen) > last) {
                sessions.touch(*session, TcpFlags(TcpFlags::ACK), seconds(seen));
            }
            lives
        })
    }

    /// Ends sessions that were idle too long. True where the budget did not suffice.
    pub(crate) fn expire_sessions(&self, now: Nanos, budget: usize) -> bool {
        let mut sessions = self.shared.sessions();
        sessions.expire(seconds(now), budget, |_| {});
        sessions.is_behind(seconds(now))
    }

    /// Takes the snapshot in force. True if it is another one than before.
    pub(crate) fn refresh(&mut self) -> bool {
        let current = self.shared.snapshot.load();
        if Arc::ptr_eq(&current, &self.snapshot) {
            return false;
        }
        self.snapshot = Arc::clone(&current);
        self.shared.rates().adopt(&self.snapshot);
        self.departures.adopt(&self.snapshot);
        true
    }
}

fn hold_sessions(
    sessions: &mut Sessions,
    decision: &Decision,
    flags: TcpFlags,
    now_s: u32,
) -> Result<Held, Reason> {
    let mut held = Held::new();
    for open in &decision.opens {
        let new = NewSession {
            function: open.function,
            tuple: open.tuple,
            rule: open.rule.0,
            reply: open.reply,
            idle_minutes: open.idle_minutes,
        };
        let session = sessions.open(&new, flags, now_s)?;
        let _ = held.try_push(session);
    }
    for (function, tuple) in &decision.passed {
        if let Some(session) = passed(sessions, *function, tuple) {
            sessions.touch(session, flags, now_s);
            let _ = held.try_push(session);
        }
    }
    Ok(held)
}

fn passed(sessions: &Sessions, function: FunctionId, tuple: &FiveTuple) -> Option<SessionRef> {
    sessions.find(function, tuple).map(|found| found.session)
}
