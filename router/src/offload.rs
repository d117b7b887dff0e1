//! Flows that somebody else replays: which are offered and when, what is merged of their counts, when they come back.
//!
//! Nothing here runs per packet. A look at a flow that the table asks for makes it a candidate; candidates are offered
//! and records settled between two batches. An entry counts only in the epoch that decided it, so that nothing has to
//! be withdrawn at once when the policy changes: the first packet that comes is decided anew, and the entry is renewed
//! if that has changed nothing.

use std::sync::Arc;
use std::time::Duration;

use vnet_dataplane::{
    Action, FLOW_UNDER_WAY_PACKETS, FlowId, FlowKey, FlowState, Nanos, OffloadCounts, OffloadEntry,
    OffloadSlot, PacketMeta, PortId, Protocol, TcpFlags,
};
use vnet_fabric::snapshot::{PortKind, Snapshot};

use crate::core::Core;
use crate::handover::Handed;
use crate::output::Output;
use crate::router::Router;

/// Candidates of one batch; more wait for their next look.
const CANDIDATES_MAX: usize = 256;
/// Records that one timer's turn merges.
const MERGE_BUDGET: usize = 4096;
/// So long after a withdrawal is asked whether anything is still under way.
const DRAIN: Duration = Duration::from_millis(100);
/// Longer than an entry's stamps lag behind the router's clock.
const LAG: Duration = Duration::from_millis(20);
/// A flow that has packets is looked at once in this time.
const VISIT: Duration = Duration::from_secs(1);
/// An entry that replays nothing for so long gives its place to others; the flow lives on.
const IDLE: Duration = Duration::from_secs(30);

/// An entry as the router knows it.
#[derive(Debug)]
struct Record {
    slot: OffloadSlot,
    entry: OffloadEntry,
    /// What every packet of it counts for, though the flow may have gone since.
    actions: Arc<[Action]>,
    /// The flow that holds this record.
    flow: Option<FlowId>,
    /// What has been merged.
    merged: OffloadCounts,
    entered: Nanos,
    withdrawn: Option<Nanos>,
    /// When packets of the flow last came to the router all the same.
    visited: Nanos,
    /// The worker that the flow was given to.
    heir: Option<u32>,
}

impl Record {
    fn new(
        slot: OffloadSlot,
        entry: OffloadEntry,
        actions: Arc<[Action]>,
        flow: Option<FlowId>,
        now: Nanos,
    ) -> Record {
        Record {
            slot,
            entry,
            actions,
            flow,
            merged: OffloadCounts::default(),
            entered: now,
            withdrawn: None,
            visited: Nanos::ZERO,
            heir: None,
        }
    }

    /// Packets come to the router although the entry should replay them.
    fn is_passed_by(&self) -> bool {
        self.visited > self.entered.max(self.merged.last_seen) + LAG
    }

    fn replays(&self, epoch: u32) -> bool {
        self.withdrawn.is_none() && self.entry.epoch == epoch && !self.is_passed_by()
    }
}

/// The offloaded flows of one worker.
#[derive(Debug)]
pub(crate) struct Offloading {
    enabled: bool,
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    candidates: Vec<FlowKey>,
    /// The record at which the next turn of the timer begins.
    cursor: usize,
}

impl Offloading {
    pub(crate) fn new(enabled: bool) -> Offloading {
        Offloading {
            enabled,
            records: Vec::new(),
            free: Vec::new(),
            candidates: Vec::with_capacity(if enabled { CANDIDATES_MAX } else { 0 }),
            cursor: 0,
        }
    }

    /// Nothing is replayed elsewhere, or was and is not yet booked.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.len() == self.free.len()
    }

    fn add(&mut self, record: Record) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.records[index as usize] = Some(record);
                index
            }
            None => {
                self.records.push(Some(record));
                (self.records.len() - 1) as u32
            }
        }
    }

    fn get(&self, index: u32) -> Option<&Record> {
        self.records.get(index as usize)?.as_ref()
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.records.get_mut(index as usize)?.as_mut()
    }

    fn free(&mut self, index: u32) {
        if self.records[index as usize].take().is_some() {
            self.free.push(index);
        }
    }

    fn withdraw(&mut self, index: u32, now: Nanos, out: &mut impl Output) {
        if let Some(record) = self.get_mut(index) {
            record.flow = None;
            if record.withdrawn.is_none() {
                record.withdrawn = Some(now);
                out.withdraw(record.slot);
            }
        }
    }
}

/// The port and the TTL's decrement, if that and counting is all that these actions do.
fn plain(actions: &[Action]) -> Option<(PortId, u8)> {
    let mut ttl_decrement = 0;
    for action in actions.iter().take_while(|action| action.is_plain()) {
        match *action {
            Action::DecrementTtl { .. } => ttl_decrement += 1,
            Action::Deliver(port) => return Some((port, ttl_decrement)),
            _ => {}
        }
    }
    None
}

fn is_nic(snapshot: &Snapshot, port: PortId) -> bool {
    snapshot.port(port).is_some_and(|port| matches!(port.kind, PortKind::Nic { .. }))
}

impl Core {
    /// What can be offered of a flow: decided as plain delivery from one machine's NIC to another's.
    fn offer_of(&self, key: &FlowKey, actions: &[Action], epoch: u32) -> Option<OffloadEntry> {
        let (target, ttl_decrement) = plain(actions)?;
        let ingress = key.ingress();
        let carried = matches!(key.protocol(), Protocol::TCP | Protocol::UDP);
        let nics = is_nic(&self.snapshot, ingress) && is_nic(&self.snapshot, target) && ingress != target;
        (carried && nics).then_some(OffloadEntry { key: *key, target, ttl_decrement, epoch })
    }

    /// Books what was replayed elsewhere since the last time, under the names that the router's own replay uses.
    fn book(&self, record: &Record, packets: u64, bytes: u64) {
        self.ledger.received(record.entry.key.ingress(), packets, bytes);
        self.ledger.sent(record.entry.target, packets, bytes);
        self.ledger.replayed_elsewhere(packets, bytes);
        for action in record.actions.iter() {
            if let Action::Count(counter) = *action {
                self.ledger.count(counter, packets, bytes);
            }
        }
    }
}

impl Router {
    /// Takes note of a flow that was looked at: it may be worth an offer, or its entry may have to end.
    pub(crate) fn consider(&mut self, id: FlowId, now: Nanos) {
        if !self.offloading.enabled {
            return;
        }
        let flow = self.flows.get(id);
        let lives = matches!(flow.state(), FlowState::Established | FlowState::Datagram);
        match flow.offload() {
            Some(index) => {
                if let Some(record) = self.offloading.get_mut(index) {
                    record.visited = now;
                }
            }
            None => self.core.shared.handover.claim(&flow.key(), self.worker),
        }
        match flow.offload() {
            Some(_) if !lives => self.flows.loosen(id),
            None if lives
                && flow.packets >= FLOW_UNDER_WAY_PACKETS
                && self.flows.may_offer(id, now)
                && !self.is_tapped(flow.key().ingress(), self.flows.actions(id))
                && self.offloading.candidates.len() < CANDIDATES_MAX =>
            {
                let key = self.flows.get(id).key();
                self.offloading.candidates.push(key);
            }
            _ => {}
        }
    }

    /// Ends, renews and enters what the batch has brought up.
    pub fn settle_offloads(&mut self, now: Nanos, out: &mut impl Output) {
        if let Some(mail) = self.core.shared.handover.take(self.worker) {
            for (key, heir) in mail.claims {
                self.hand_over(&key, heir, now, out);
            }
            for Handed { key, packets, bytes, last_seen } in mail.handed {
                if let Some(id) = self.flows.lookup(&key) {
                    self.flows.absorb(id, packets, bytes, last_seen);
                }
            }
        }
        while let Some(index) = self.flows.take_loosened() {
            if !self.renew(index, out) {
                self.withdraw(index, now, out);
            }
        }
        while let Some(key) = self.offloading.candidates.pop() {
            if let Some(id) = self.flows.lookup(&key) {
                self.offer(id, now, out);
            }
        }
    }

    fn withdraw(&mut self, index: u32, now: Nanos, out: &mut impl Output) {
        if let Some(record) = self.offloading.get(index) {
            self.core.shared.handover.ended(&record.entry.key, self.worker);
        }
        self.offloading.withdraw(index, now, out);
    }

    /// Gives a flow up to the worker that its packets come to, with what was counted here.
    fn hand_over(&mut self, key: &FlowKey, heir: u32, now: Nanos, out: &mut impl Output) {
        let Some(id) = self.flows.lookup(key) else { return };
        let offload = self.flows.get(id).offload();
        if let Some(index) = offload {
            self.merge_one(index, now, out);
            if let Some(record) = self.offloading.get_mut(index) {
                record.heir = Some(heir);
            }
        }
        let flow = self.flows.get(id);
        // One that ends here is nobody else's.
        if offload.is_none() && !matches!(flow.state(), FlowState::Established | FlowState::Datagram) {
            return;
        }
        let (packets, bytes, last_seen) = (flow.packets, flow.bytes, flow.last_seen());
        self.core.shared.handover.hand(heir, Handed { key: *key, packets, bytes, last_seen });
        // Its record is loosened with it, and withdrawn.
        self.flows.remove(id);
    }

    /// Lets an entry go on whose flow was decided anew, in another epoch and with the same outcome.
    fn renew(&mut self, index: u32, out: &mut impl Output) -> bool {
        let Some(record) = self.offloading.get_mut(index).filter(|record| record.withdrawn.is_none()) else {
            return false;
        };
        let Some(id) = self.flows.lookup(&record.entry.key) else { return false };
        let flow = self.flows.get(id);
        let lives = matches!(flow.state(), FlowState::Established | FlowState::Datagram);
        let same = lives
            && flow.offload().is_none()
            && flow.epoch != record.entry.epoch
            && **self.flows.actions(id) == *record.actions
            && !self.taps.iter().any(|tap| tap.takes_flow(record.entry.key.ingress(), &record.actions))
            && self.core.offer_of(&flow.key(), &record.actions, flow.epoch).is_some();
        if !same || !out.renew(record.slot, flow.epoch) {
            return false;
        }
        record.entry.epoch = flow.epoch;
        record.flow = Some(id);
        self.flows.set_offload(id, Some(index));
        true
    }

    fn offer(&mut self, id: FlowId, now: Nanos, out: &mut impl Output) {
        let flow = self.flows.get(id);
        let lives = matches!(flow.state(), FlowState::Established | FlowState::Datagram);
        if !lives || flow.epoch != self.epoch() || !self.flows.may_offer(id, now) {
            return;
        }
        let actions = self.flows.actions(id);
        if self.is_tapped(flow.key().ingress(), actions) {
            return;
        }
        let entry = self.core.offer_of(&flow.key(), actions, flow.epoch);
        let entered = entry
            .filter(|_| self.core.are_sessions_open(flow.sessions()))
            .and_then(|entry| Some((entry, out.offload(&entry)?)));
        let Some((entry, slot)) = entered else {
            self.flows.offer_refused(id, now);
            return;
        };
        let actions = Arc::clone(actions);
        self.core.shared.handover.entered(&entry.key, self.worker);
        let index = self.offloading.add(Record::new(slot, entry, actions, Some(id), now));
        self.flows.set_offload(id, Some(index));
    }

    /// Takes back the flows that `wanted` names by ingress and actions; the next settling ends their entries.
    pub(crate) fn recall(&mut self, wanted: impl Fn(PortId, &[Action]) -> bool) {
        for record in self.offloading.records.iter().flatten() {
            if let Some(id) = record.flow.filter(|_| wanted(record.entry.key.ingress(), &record.actions)) {
                self.flows.loosen(id);
            }
        }
    }

    /// Merges what every entry has counted: flows, counters and sessions are up to date then.
    pub fn merge_offloads(&mut self, now: Nanos, out: &mut impl Output) {
        self.merge(0..self.offloading.records.len(), now, out);
        self.settle_offloads(now, out);
    }

    /// Merges a part of the entries, the next ones at each call.
    pub(crate) fn merge_some(&mut self, now: Nanos, out: &mut impl Output) {
        if self.offloading.is_empty() {
            return;
        }
        let (begin, count) = (self.offloading.cursor, self.offloading.records.len());
        let end = count.min(begin + MERGE_BUDGET);
        self.offloading.cursor = if end == count { 0 } else { end };
        self.merge(begin.min(end)..end, now, out);
    }

    fn merge(&mut self, range: std::ops::Range<usize>, now: Nanos, out: &mut impl Output) {
        for index in range {
            self.merge_one(index as u32, now, out);
        }
    }

    fn merge_one(&mut self, index: u32, now: Nanos, out: &mut impl Output) {
        let Some(record) = self.offloading.get_mut(index) else { return };
        let is_final = record.withdrawn.is_some() && out.is_final(record.slot);
        let Some(counts) = out.offloaded(record.slot) else {
            // Whoever replayed it has lost it: it comes to the router again.
            let (slot, flow, key) = (record.slot, record.flow, record.entry.key);
            out.release(slot);
            if let Some(id) = flow {
                self.flows.set_offload(id, None);
            }
            self.core.shared.handover.ended(&key, self.worker);
            self.offloading.free(index);
            return;
        };
        let packets = counts.packets.saturating_sub(record.merged.packets);
        let bytes = counts.bytes.saturating_sub(record.merged.bytes);
        record.merged = counts;
        let quiet = now.since(record.entered.max(counts.last_seen)) >= IDLE;
        let is_waited_for = record.withdrawn.is_some_and(|at| now.since(at) >= DRAIN);
        let (slot, flow, key, heir) = (record.slot, record.flow, record.entry.key, record.heir);
        // Asked before the counts are read that are the last ones then.
        let drained = is_waited_for && is_final;
        if record.withdrawn.is_none() && record.is_passed_by() && now.since(record.visited) < VISIT {
            out.unmoved(key.ingress());
        }
        if packets > 0 || bytes > 0 {
            if let Some(record) = self.offloading.get(index) {
                self.core.book(record, packets, bytes);
            }
            // What was under way at the withdrawal still belongs to the flow, if it is there.
            if let Some(id) = flow.or_else(|| self.flows.lookup(&key)) {
                self.flows.absorb(id, packets, bytes, counts.last_seen);
            } else if let Some(heir) = heir {
                let handed = Handed { key, packets, bytes, last_seen: counts.last_seen };
                self.core.shared.handover.hand(heir, handed);
            }
        }
        if drained {
            out.release(slot);
            self.offloading.free(index);
            return;
        }
        let Some(id) = flow else { return };
        let moved = (packets > 0).then_some(counts.last_seen);
        if quiet || !self.core.keep_sessions(self.flows.get(id).sessions(), moved) {
            self.flows.set_offload(id, None);
            self.flows.look_soon(id);
            self.withdraw(index, now, out);
        }
    }

    /// Whether a flow's packets go elsewhere at present.
    pub(crate) fn is_offloaded(&self, record: Option<u32>) -> bool {
        let record = record.and_then(|index| self.offloading.get(index));
        record.is_some_and(|record| record.replays(self.epoch()))
    }

    /// How many flows are replayed elsewhere.
    pub fn offloaded_flows(&self) -> u64 {
        let records = self.offloading.records.iter().flatten();
        records.filter(|record| record.replays(self.epoch())).count() as u64
    }

    /// Takes over entries that a former router has entered. Each flow is decided anew as its next packet would be; what
    /// is still the same plain delivery goes on, everything else is withdrawn. All that an entry has counted since it
    /// was entered counts as this router's.
    pub fn adopt_offloads(
        &mut self,
        entries: impl IntoIterator<Item = (OffloadSlot, OffloadEntry)>,
        now: Nanos,
        out: &mut impl Output,
    ) {
        for (slot, entry) in entries {
            let id = self.decide_adopted(&entry, now);
            let wanted = OffloadEntry { epoch: self.epoch(), ..entry };
            let kept = id.filter(|id| {
                let offer = self.core.offer_of(&entry.key, self.flows.actions(*id), wanted.epoch);
                self.offloading.enabled
                    && !self.is_tapped(entry.key.ingress(), self.flows.actions(*id))
                    && self.flows.get(*id).offload().is_none()
                    && offer == Some(wanted)
                    && out.renew(slot, wanted.epoch)
            });
            let actions = kept.map_or_else(|| Arc::from([]), |id| Arc::clone(self.flows.actions(id)));
            let index = self.offloading.add(Record::new(slot, wanted, actions, kept, now));
            match kept {
                Some(id) => {
                    self.flows.set_offload(id, Some(index));
                    self.core.shared.handover.entered(&entry.key, self.worker);
                    self.core.shared.handover.claim_from_all(&entry.key, self.worker);
                }
                None => self.offloading.withdraw(index, now, out),
            }
        }
        self.merge_offloads(now, out);
    }

    /// Decides a flow that was under way before this router began, unless a packet of it has come first.
    fn decide_adopted(&mut self, entry: &OffloadEntry, now: Nanos) -> Option<FlowId> {
        let key = entry.key;
        if !is_nic(&self.core.snapshot, key.ingress()) {
            return None;
        }
        if let Some(id) = self.flows.lookup(&key).filter(|id| self.flows.get(*id).epoch == self.epoch()) {
            return Some(id);
        }
        let tcp = key.protocol() == Protocol::TCP;
        let meta = PacketMeta {
            tuple: key.tuple(),
            tcp_flags: TcpFlags(if tcp { TcpFlags::ACK } else { 0 }),
            icmp: None,
            embedded: None,
            ttl: u8::MAX,
            length: 0,
        };
        self.decide_meta(key, &meta, now).ok()
    }
}
