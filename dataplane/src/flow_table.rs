//! The flow table: an exact match on ingress port and tuple gives the actions that were decided for a flow.
//!
//! Bounded; a full table takes closing flows, drops, half-open and datagram flows in that order and never an
//! established TCP flow. An entry costs 192 octets, its place in the index at most 12.

mod entry;
mod key;

use std::sync::Arc;

use crate::action::Action;
use crate::action_lists::ActionLists;
use crate::hash::TupleHash;
use crate::index::Index;
use crate::list::{Lists, NIL, Wheel};
use crate::port::PortId;
use crate::reason::Reason;
use crate::session::SessionRef;
use crate::time::Nanos;
use crate::timeouts::{FlowState, Timeouts};
use crate::tuple::{FiveTuple, Protocol, TcpFlags};

pub use entry::FlowEntry;
use entry::{Entries, StateLinks, WheelLinks};
pub use key::FlowKey;

/// At most this many sessions are kept alive by one flow.
pub const FLOW_SESSIONS_MAX: usize = 6;

/// Packets after which a flow is under way: it is looked at then, and is worth being offered to be replayed elsewhere. Most
/// flows never have so many.
pub const FLOW_UNDER_WAY_PACKETS: u64 = 8;

const TICK_NS: u64 = 250_000_000;
const TICKS_PER_SECOND: u32 = 4;
const OFFER_DOUBLINGS_MAX: u8 = 8;
/// A datagram flow that is older than this many others but was just used gets another turn, this often.
const SECOND_CHANCES: usize = 8;

fn tick_of(now: Nanos) -> u32 {
    // 250 ms ticks fill 32 bits in 34 years.
    (now.0 / TICK_NS) as u32
}

/// A flow's place in the table, valid until the flow is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(u32);

/// What was decided for a flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowDecision<'a> {
    /// Epoch of the snapshot that decided.
    pub epoch: u32,
    /// The actions to replay; the last one is terminal.
    pub actions: &'a [Action],
    /// The rule that decided, as the snapshot numbers it.
    pub decided_by: Option<u32>,
    /// Sessions that the flow keeps alive; those beyond [`FLOW_SESSIONS_MAX`] are left out.
    pub sessions: &'a [SessionRef],
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    hash: TupleHash,
    timeouts: Timeouts,
    capacity: usize,
    index: Index,
    /// Dropped flows by the symmetric hash of their tuple: a session may turn their verdict.
    drops: Index,
    entries: Entries,
    lists: ActionLists,
    wheel: Wheel,
    /// Flows by state, oldest in that state first; established ones are in none.
    by_state: Lists,
    counts: [usize; FlowState::ALL.len() + 1],
    /// Flows that are not dropped, by the port that they enter.
    by_port: Vec<u32>,
    /// Offload records of flows that went or were decided anew.
    loosened: Vec<u32>,
}

impl FlowTable {
    /// An empty table for at most `capacity` flows. Memory is taken as flows come.
    pub fn new(capacity: usize, timeouts: Timeouts, seed: u64) -> FlowTable {
        FlowTable {
            hash: TupleHash::new(seed),
            timeouts,
            capacity: capacity.min(NIL as usize - 1),
            index: Index::new(),
            drops: Index::new(),
            entries: Entries::default(),
            lists: ActionLists::new(seed),
            wheel: Wheel::new(0),
            by_state: Lists::new(FlowState::ALL.len() + 1),
            counts: [0; FlowState::ALL.len() + 1],
            by_port: Vec::new(),
            loosened: Vec::new(),
        }
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No flow is in the table.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// At most this many flows.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Flows in this state.
    pub fn count(&self, state: FlowState) -> usize {
        self.counts[state as usize]
    }

    /// Different action lists in use.
    pub fn action_lists(&self) -> usize {
        self.lists.len()
    }

    /// The flow of this key.
    pub fn lookup(&self, key: &FlowKey) -> Option<FlowId> {
        self.find(key, key.hash(&self.hash))
    }

    fn find(&self, key: &FlowKey, hash: u64) -> Option<FlowId> {
        self.index.find(hash, |slot| self.entries.get(slot).has_key(key)).map(FlowId)
    }

    /// The entry of a flow.
    pub fn get(&self, id: FlowId) -> &FlowEntry {
        self.entries.get(id.0)
    }

    /// The flow's actions.
    pub fn actions(&self, id: FlowId) -> &Arc<[Action]> {
        self.lists.get(self.get(id).list)
    }

    /// Counts packets of a flow and takes note of what their TCP flags mean. True where somebody should look at the
    /// flow and tell its sessions: their state may change, the flow is under way now, or a second has passed since the
    /// last look; for a decision's first look a quarter of a second.
    pub fn touch(&mut self, id: FlowId, flags: TcpFlags, packets: u64, bytes: u64, now: Nanos) -> bool {
        let tick = tick_of(now);
        let flow = self.entries.get_mut(id.0);
        flow.last_seen = tick;
        let was_under_way = flow.packets >= FLOW_UNDER_WAY_PACKETS;
        flow.packets += packets;
        flow.bytes += bytes;
        let is_under_way = flow.packets >= FLOW_UNDER_WAY_PACKETS;
        let state = next_state(flow.state, flow.near.protocol(), flags);
        let mut due = is_under_way != was_under_way;
        due |= flags.0 & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) != 0;
        if state != flow.state {
            due = true;
            self.enter_state(id.0, state);
        }
        let flow = self.entries.get_mut(id.0);
        due |= tick >= flow.look_at;
        if due {
            flow.look_at = tick + TICKS_PER_SECOND;
        }
        due
    }

    /// Counts packets that somebody else has carried for the flow, the last one at `last_seen`. They change nothing of
    /// its state.
    pub fn absorb(&mut self, id: FlowId, packets: u64, bytes: u64, last_seen: Nanos) {
        let flow = self.entries.get_mut(id.0);
        flow.packets += packets;
        flow.bytes += bytes;
        flow.last_seen = flow.last_seen.max(tick_of(last_seen));
    }

    /// Notes the caller's record of the flow's being replayed elsewhere, or that it is not any more. The record comes
    /// back by [`FlowTable::take_loosened`] when the flow goes or is decided anew.
    pub fn set_offload(&mut self, id: FlowId, record: Option<u32>) {
        self.entries.get_mut(id.0).offload = record.unwrap_or(NIL);
    }

    /// Takes the record off the flow: it comes back by [`FlowTable::take_loosened`].
    pub fn loosen(&mut self, id: FlowId) {
        loosen(&mut self.loosened, self.entries.get_mut(id.0));
    }

    /// A record whose flow is gone, or has been decided anew and has forgotten it.
    pub fn take_loosened(&mut self) -> Option<u32> {
        self.loosened.pop()
    }

    /// Whether the flow may be offered to be replayed elsewhere: it is not, and no refusal is too recent.
    pub fn may_offer(&self, id: FlowId, now: Nanos) -> bool {
        let flow = self.get(id);
        flow.offload == NIL && flow.offer_at <= tick_of(now)
    }

    /// Takes note that an offer was refused: the next one waits a quarter of a second, then twice as long each time, up to
    /// about a minute.
    pub fn offer_refused(&mut self, id: FlowId, now: Nanos) {
        let flow = self.entries.get_mut(id.0);
        flow.offer_at = tick_of(now) + (1 << flow.refusals);
        flow.look_at = flow.look_at.min(flow.offer_at);
        flow.refusals = (flow.refusals + 1).min(OFFER_DOUBLINGS_MAX);
    }

    /// Lets the flow's next packet ask for a look at it.
    pub fn look_soon(&mut self, id: FlowId) {
        self.entries.get_mut(id.0).look_at = 0;
    }

    /// Flows that enter by a port and are not dropped.
    pub fn of_port(&self, port: PortId) -> usize {
        self.by_port.get(port.index()).map_or(0, |count| *count as usize)
    }

    /// Enters a flow, or what was decided anew for one that is in the table: that keeps its counters and state.
    /// Fails with [`Reason::FlowLimit`] when the table is full of established flows.
    pub fn insert(
        &mut self,
        key: FlowKey,
        decision: FlowDecision<'_>,
        flags: TcpFlags,
        now: Nanos,
    ) -> Result<FlowId, Reason> {
        let hash = key.hash(&self.hash);
        if let Some(id) = self.find(&key, hash) {
            self.replace(id, decision, now);
            return Ok(id);
        }
        if self.len() >= self.capacity && !self.evict(now) {
            return Err(Reason::FlowLimit);
        }
        let tick = tick_of(now);
        let slot = self.entries.take(key, self.capacity);
        let (entries, state) = (&self.entries, &self.hash);
        self.index.insert(hash, slot, |slot| entries.get(slot).key().hash(state));
        let list = self.lists.acquire(decision.actions);
        let flow = self.entries.get_mut(slot);
        flow.list = list;
        flow.created = tick;
        flow.last_seen = tick;
        flow.in_use = true;
        fill(flow, &decision, tick);
        let initial = initial_state(&key, &decision, flags);
        flow.state = initial;
        self.counts[initial as usize] += 1;
        self.count_port(slot, 1);
        self.enter_drops(slot);
        self.arm(slot);
        Ok(FlowId(slot))
    }

    /// Replaces what was decided for a flow, as after a new epoch.
    pub fn replace(&mut self, id: FlowId, decision: FlowDecision<'_>, now: Nanos) {
        let list = self.lists.acquire(decision.actions);
        let flow = self.entries.get_mut(id.0);
        let old = std::mem::replace(&mut flow.list, list);
        loosen(&mut self.loosened, flow);
        fill(flow, &decision, tick_of(now));
        let (key, state) = (flow.key(), flow.state);
        self.lists.release(old);
        let drops = drops(&decision);
        if drops && state != FlowState::Dropped {
            self.enter_state(id.0, FlowState::Dropped);
        } else if !drops && state == FlowState::Dropped {
            self.enter_state(id.0, initial_state(&key, &decision, TcpFlags(TcpFlags::ACK)));
        }
    }

    /// Whether the flow must be decided again before this packet: the epoch has moved, or it was dropped and
    /// the packet opens a connection, or was dropped so long ago that the verdict may have turned.
    pub fn is_stale(&self, id: FlowId, epoch: u32, flags: TcpFlags, now: Nanos) -> bool {
        let flow = self.get(id);
        if flow.epoch != epoch {
            return true;
        }
        flow.state == FlowState::Dropped
            && ((flow.near.protocol() == Protocol::TCP && flags.opens())
                || self.deadline(flow) <= tick_of(now))
    }

    /// Takes out dropped flows of this tuple and its reverse, whatever their ingress: a session that was opened
    /// for it may let them pass. Returns how many went.
    pub fn forget_drops(&mut self, tuple: &FiveTuple) -> usize {
        if self.drops.is_empty() {
            return 0;
        }
        let hash = self.hash.symmetric(tuple);
        let reversed = tuple.reversed();
        let mut removed = 0;
        loop {
            let found = self.drops.find(hash, |slot| {
                let found = self.entries.get(slot).key().tuple();
                found == *tuple || found == reversed
            });
            let Some(slot) = found else { return removed };
            self.remove(FlowId(slot));
            removed += 1;
        }
    }

    /// Marks the flow's decision as good for `epoch` too.
    pub fn confirm(&mut self, id: FlowId, epoch: u32) {
        self.entries.get_mut(id.0).epoch = epoch;
    }

    /// Takes a flow out.
    pub fn remove(&mut self, id: FlowId) {
        let flow = self.entries.get_mut(id.0);
        if !flow.in_use {
            return;
        }
        flow.in_use = false;
        loosen(&mut self.loosened, flow);
        let (hash, list, state) = (flow.key().hash(&self.hash), flow.list, flow.state);
        self.count_port(id.0, -1);
        self.leave_drops(id.0);
        self.index.remove(hash, id.0);
        self.lists.release(list);
        self.wheel.cancel(&mut WheelLinks(&mut self.entries), id.0);
        self.by_state.unlink(&mut StateLinks(&mut self.entries), id.0);
        self.counts[state as usize] -= 1;
        self.entries.give_back(id.0);
    }

    /// Takes out every flow for which `keep` is false. Returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&FlowEntry, &[Action]) -> bool) -> usize {
        let mut removed = 0;
        for slot in 0..self.entries.slots() {
            let flow = self.entries.get(slot);
            if flow.in_use && !keep(flow, self.lists.get(flow.list)) {
                self.remove(FlowId(slot));
                removed += 1;
            }
        }
        removed
    }

    /// Every flow, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &FlowEntry)> {
        (0..self.entries.slots())
            .map(|slot| (FlowId(slot), self.entries.get(slot)))
            .filter(|(_, flow)| flow.in_use)
    }

    /// Takes out flows that were idle too long, looking at no more than `budget` of them; `expired` sees each
    /// before it goes. Returns how many went.
    pub fn expire(&mut self, now: Nanos, mut budget: usize, mut expired: impl FnMut(&FlowEntry)) -> usize {
        let tick = tick_of(now);
        let mut removed = 0;
        while let Some(slot) = self.wheel.pop(&mut WheelLinks(&mut self.entries), tick, &mut budget) {
            let flow = self.entries.get(slot);
            let deadline = self.deadline(flow);
            if deadline > tick {
                self.wheel.schedule(&mut WheelLinks(&mut self.entries), slot, deadline);
            } else {
                expired(flow);
                self.remove(FlowId(slot));
                removed += 1;
            }
        }
        removed
    }

    /// Whether flows are left that [`FlowTable::expire`] should have looked at by now: its budget was too small for them.
    pub fn is_behind(&self, now: Nanos) -> bool {
        !self.is_empty() && self.wheel.is_behind(tick_of(now))
    }

    fn deadline(&self, flow: &FlowEntry) -> u32 {
        let idle_s = self.timeouts.idle_s(flow.state, flow.near.protocol());
        // A drop is decided again in time however busy it is.
        let since = if flow.state == FlowState::Dropped { flow.decided } else { flow.last_seen };
        since.saturating_add(idle_s.saturating_mul(TICKS_PER_SECOND))
    }

    fn arm(&mut self, slot: u32) {
        let flow = self.entries.get(slot);
        let (state, deadline) = (flow.state, self.deadline(flow));
        self.wheel.bring_forward(&mut WheelLinks(&mut self.entries), slot, deadline);
        let mut links = StateLinks(&mut self.entries);
        if state == FlowState::Established {
            self.by_state.unlink(&mut links, slot);
        } else {
            self.by_state.push_back(&mut links, state as usize, slot);
        }
    }

    fn enter_state(&mut self, slot: u32, state: FlowState) {
        self.counts[self.entries.get(slot).state as usize] -= 1;
        self.counts[state as usize] += 1;
        self.count_port(slot, -1);
        self.leave_drops(slot);
        self.entries.get_mut(slot).state = state;
        self.enter_drops(slot);
        self.count_port(slot, 1);
        self.arm(slot);
    }

    fn count_port(&mut self, slot: u32, change: i32) {
        let flow = self.entries.get(slot);
        if flow.state == FlowState::Dropped {
            return;
        }
        let port = flow.key().ingress().index();
        if port >= self.by_port.len() {
            self.by_port.resize(port + 1, 0);
        }
        self.by_port[port] = self.by_port[port].saturating_add_signed(change);
    }

    fn enter_drops(&mut self, slot: u32) {
        if self.entries.get(slot).state == FlowState::Dropped {
            let (entries, hash) = (&self.entries, &self.hash);
            let symmetric = |slot| hash.symmetric(&entries.get(slot).key().tuple());
            self.drops.insert(symmetric(slot), slot, symmetric);
        }
    }

    fn leave_drops(&mut self, slot: u32) {
        let flow = self.entries.get(slot);
        if flow.state == FlowState::Dropped {
            self.drops.remove(self.hash.symmetric(&flow.key().tuple()), slot);
        }
    }

    /// Makes room for one flow.
    fn evict(&mut self, now: Nanos) -> bool {
        let tick = tick_of(now);
        for state in FlowState::VICTIMS {
            for _ in 0..SECOND_CHANCES {
                let Some(slot) = self.by_state.front(state as usize) else { break };
                let idle = tick.saturating_sub(self.entries.get(slot).last_seen);
                if state == FlowState::Datagram && idle < TICKS_PER_SECOND {
                    self.by_state.push_back(&mut StateLinks(&mut self.entries), state as usize, slot);
                    continue;
                }
                self.remove(FlowId(slot));
                return true;
            }
        }
        // All of the oldest datagram flows are busy: the oldest goes anyway, a new decision brings it back.
        match self.by_state.front(FlowState::Datagram as usize) {
            Some(slot) => {
                self.remove(FlowId(slot));
                true
            }
            None => false,
        }
    }
}

fn fill(flow: &mut FlowEntry, decision: &FlowDecision<'_>, tick: u32) {
    flow.epoch = decision.epoch;
    flow.plain = match decision.actions {
        [Action::Deliver(port)] => port.0,
        _ => NIL,
    };
    flow.decided_by = decision.decided_by.unwrap_or(NIL);
    let count = decision.sessions.len().min(FLOW_SESSIONS_MAX);
    flow.sessions[..count].copy_from_slice(&decision.sessions[..count]);
    flow.session_count = count as u8;
    flow.look_at = tick + 1;
    (flow.offer_at, flow.refusals) = (tick, 0);
    flow.decided = tick;
}

fn loosen(loosened: &mut Vec<u32>, flow: &mut FlowEntry) {
    let record = std::mem::replace(&mut flow.offload, NIL);
    if record != NIL {
        loosened.push(record);
    }
}

fn drops(decision: &FlowDecision<'_>) -> bool {
    matches!(decision.actions.last(), Some(Action::Drop(_)) | None)
}

fn initial_state(key: &FlowKey, decision: &FlowDecision<'_>, flags: TcpFlags) -> FlowState {
    if drops(decision) {
        FlowState::Dropped
    } else if key.protocol() != Protocol::TCP {
        FlowState::Datagram
    } else if flags.closes() {
        FlowState::Closing
    } else if flags.0 & TcpFlags::SYN != 0 {
        FlowState::Opening
    } else {
        FlowState::Established
    }
}

fn next_state(state: FlowState, protocol: Protocol, flags: TcpFlags) -> FlowState {
    if protocol != Protocol::TCP || state == FlowState::Dropped {
        state
    } else if flags.closes() {
        FlowState::Closing
    } else if flags.0 & TcpFlags::SYN != 0 {
        // A SYN within an established connection is answered by a challenge ACK (RFC 5961, 4): it changes nothing.
        if state == FlowState::Established { state } else { FlowState::Opening }
    } else if state == FlowState::Opening {
        FlowState::Established
    } else {
        state
    }
}

#[cfg(test)]
mod tests;
