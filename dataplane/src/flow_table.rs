//! The flow table: an exact match on ingress port and tuple gives the actions that were decided for a flow.
//!
//! Bounded; a full table takes closing flows, drops, half-open and datagram flows in that order and never an
//! established TCP flow. An entry costs 192 octets, its links in two lists 24 and its index at most 12.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::action::Action;
use crate::action_lists::ActionLists;
use crate::hash::{TupleHash, kind_of, words_of};
use crate::list::{Lists, NIL, Wheel};
use crate::port::PortId;
use crate::reason::Reason;
use crate::session::SessionRef;
use crate::time::Nanos;
use crate::timeouts::{FlowState, Timeouts};
use crate::tuple::{FiveTuple, Protocol, TcpFlags};

/// At most this many sessions are kept alive by one flow.
pub const FLOW_SESSIONS_MAX: usize = 6;

const TICK_NS: u64 = 250_000_000;
const TICKS_PER_SECOND: u32 = 4;
const OFFER_DOUBLINGS_MAX: u8 = 8;
const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;
/// A datagram flow that is older than this many others but was just used gets another turn, this often.
const SECOND_CHANCES: usize = 8;

fn tick_of(now: Nanos) -> u32 {
    // 250 ms ticks fill 32 bits in 34 years.
    (now.0 / TICK_NS) as u32
}

/// What a flow is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    source: [u64; 2],
    destination: [u64; 2],
    ports: u32,
    ingress: u32,
    kind: u32,
}

impl FlowKey {
    /// The key of packets with this tuple that enter by `ingress`.
    pub fn new(ingress: PortId, tuple: &FiveTuple) -> FlowKey {
        FlowKey {
            source: words_of(tuple.source),
            destination: words_of(tuple.destination),
            ports: u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port),
            ingress: ingress.0,
            kind: kind_of(tuple),
        }
    }

    /// Where its packets enter.
    pub fn ingress(&self) -> PortId {
        PortId(self.ingress)
    }

    /// Protocol of its packets.
    pub fn protocol(&self) -> Protocol {
        Protocol(self.kind as u8)
    }

    /// The tuple that its packets have when they enter.
    pub fn tuple(&self) -> FiveTuple {
        let address = |words: [u64; 2]| {
            if self.kind & 0x100 == 0 {
                IpAddr::V4(Ipv4Addr::from_bits(words[1] as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(u128::from(words[0]) << 64 | u128::from(words[1])))
            }
        };
        FiveTuple {
            protocol: Protocol(self.kind as u8),
            source: address(self.source),
            destination: address(self.destination),
            source_port: (self.ports >> 16) as u16,
            destination_port: self.ports as u16,
        }
    }

    fn hash(&self, hash: &TupleHash) -> u64 {
        hash.words(&[
            self.source[0],
            self.source[1],
            self.destination[0],
            self.destination[1],
            u64::from(self.ports) << 32 | u64::from(self.ingress),
            u64::from(self.kind),
        ])
    }
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

/// One flow. The first cache line is all that a lookup and a replay read.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct FlowEntry {
    key: FlowKey,
    /// Epoch of the snapshot that decided; an older one than the current asks for a new decision.
    pub epoch: u32,
    last_seen: u32,
    plain: u32,
    list: u32,
    /// IP packets after segmentation.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    sessions: [SessionRef; FLOW_SESSIONS_MAX],
    decided_by: u32,
    created: u32,
    decided: u32,
    /// The tick from which on the next packet asks for a look at the flow.
    look_at: u32,
    /// The record of whoever replays it elsewhere.
    offload: u32,
    /// The tick from which on it may be offered to be replayed elsewhere.
    offer_at: u32,
    refusals: u8,
    session_count: u8,
    state: FlowState,
    in_use: bool,
}

impl FlowEntry {
    /// Ingress port and tuple.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The port to write the packet to, if that is all there is to do.
    pub fn plain(&self) -> Option<PortId> {
        (self.plain != NIL).then_some(PortId(self.plain))
    }

    /// The rule that decided.
    pub fn decided_by(&self) -> Option<u32> {
        (self.decided_by != NIL).then_some(self.decided_by)
    }

    /// The sessions that it keeps alive.
    pub fn sessions(&self) -> &[SessionRef] {
        &self.sessions[..usize::from(self.session_count)]
    }

    /// The caller's record of its being replayed elsewhere, see [`FlowTable::set_offload`].
    pub fn offload(&self) -> Option<u32> {
        (self.offload != NIL).then_some(self.offload)
    }

    /// Where the flow stands, as this direction shows it.
    pub fn state(&self) -> FlowState {
        self.state
    }

    /// When its first packet came, to a quarter of a second.
    pub fn created(&self) -> Nanos {
        Nanos(u64::from(self.created) * TICK_NS)
    }

    /// When its last packet came, to a quarter of a second.
    pub fn last_seen(&self) -> Nanos {
        Nanos(u64::from(self.last_seen) * TICK_NS)
    }
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    hash: TupleHash,
    timeouts: Timeouts,
    capacity: usize,
    index: HashTable<u32>,
    /// Dropped flows by the symmetric hash of their tuple: a session may turn their verdict.
    drops: HashTable<u32>,
    chunks: Vec<Vec<FlowEntry>>,
    free: Vec<u32>,
    lists: ActionLists,
    wheel: Wheel,
    /// Flows by state, oldest in that state first; established ones are in none.
    by_state: Lists,
    counts: [usize; FlowState::ALL.len() + 1],
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
            index: HashTable::new(),
            drops: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            lists: ActionLists::new(seed),
            wheel: Wheel::new(0),
            by_state: Lists::new(FlowState::ALL.len() + 1),
            counts: [0; FlowState::ALL.len() + 1],
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
        let hash = key.hash(&self.hash);
        self.index.find(hash, |&slot| entry(&self.chunks, slot).key == *key).map(|&slot| FlowId(slot))
    }

    /// The entry of a flow.
    pub fn get(&self, id: FlowId) -> &FlowEntry {
        entry(&self.chunks, id.0)
    }

    /// The flow's actions.
    pub fn actions(&self, id: FlowId) -> &Arc<[Action]> {
        self.lists.get(self.get(id).list)
    }

    /// Counts packets of a flow and takes note of what their TCP flags mean. True where somebody should look at the
    /// flow and tell its sessions: their state may change, or a second has passed since the last look; for a
    /// decision's first look a quarter of a second.
    pub fn touch(&mut self, id: FlowId, flags: TcpFlags, packets: u64, bytes: u64, now: Nanos) -> bool {
        let tick = tick_of(now);
        let flow = entry_mut(&mut self.chunks, id.0);
        flow.last_seen = tick;
        flow.packets += packets;
        flow.bytes += bytes;
        let state = next_state(flow.state, flow.key.kind as u8, flags);
        let mut due = flags.0 & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) != 0;
        if state != flow.state {
            due = true;
            self.enter_state(id.0, state);
        }
        let flow = entry_mut(&mut self.chunks, id.0);
        due |= tick >= flow.look_at;
        if due {
            flow.look_at = tick + TICKS_PER_SECOND;
        }
        due
    }

    /// Counts packets that somebody else has carried for the flow, the last one at `last_seen`. They change nothing of
    /// its state.
    pub fn absorb(&mut self, id: FlowId, packets: u64, bytes: u64, last_seen: Nanos) {
        let flow = entry_mut(&mut self.chunks, id.0);
        flow.packets += packets;
        flow.bytes += bytes;
        flow.last_seen = flow.last_seen.max(tick_of(last_seen));
    }

    /// Notes the caller's record of the flow's being replayed elsewhere, or that it is not any more. The record comes
    /// back by [`FlowTable::take_loosened`] when the flow goes or is decided anew.
    pub fn set_offload(&mut self, id: FlowId, record: Option<u32>) {
        entry_mut(&mut self.chunks, id.0).offload = record.unwrap_or(NIL);
    }

    /// Takes the record off the flow: it comes back by [`FlowTable::take_loosened`].
    pub fn loosen(&mut self, id: FlowId) {
        loosen(&mut self.loosened, entry_mut(&mut self.chunks, id.0));
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
        let flow = entry_mut(&mut self.chunks, id.0);
        flow.offer_at = tick_of(now) + (1 << flow.refusals);
        flow.look_at = flow.look_at.min(flow.offer_at);
        flow.refusals = (flow.refusals + 1).min(OFFER_DOUBLINGS_MAX);
    }

    /// Lets the flow's next packet ask for a look at it.
    pub fn look_soon(&mut self, id: FlowId) {
        entry_mut(&mut self.chunks, id.0).look_at = 0;
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
        if let Some(id) = self.lookup(&key) {
            self.replace(id, decision, now);
            return Ok(id);
        }
        if self.len() >= self.capacity && !self.evict(now) {
            return Err(Reason::FlowLimit);
        }
        let tick = tick_of(now);
        let slot = self.take_slot(key);
        let hash = key.hash(&self.hash);
        let (chunks, state) = (&self.chunks, &self.hash);
        self.index.insert_unique(hash, slot, |&slot| entry(chunks, slot).key.hash(state));
        let list = self.lists.acquire(decision.actions);
        let flow = entry_mut(&mut self.chunks, slot);
        flow.list = list;
        flow.created = tick;
        flow.last_seen = tick;
        flow.in_use = true;
        fill(flow, &decision, tick);
        let initial = initial_state(&key, &decision, flags);
        flow.state = initial;
        self.counts[initial as usize] += 1;
        self.enter_drops(slot);
        self.arm(slot);
        Ok(FlowId(slot))
    }

    /// Replaces what was decided for a flow, as after a new epoch.
    pub fn replace(&mut self, id: FlowId, decision: FlowDecision<'_>, now: Nanos) {
        let list = self.lists.acquire(decision.actions);
        let flow = entry_mut(&mut self.chunks, id.0);
        let old = std::mem::replace(&mut flow.list, list);
        loosen(&mut self.loosened, flow);
        fill(flow, &decision, tick_of(now));
        let (key, state) = (flow.key, flow.state);
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
            && ((flow.key.kind as u8 == Protocol::TCP.0 && flags.opens())
                || self.deadline(flow) <= tick_of(now))
    }

    /// Takes out dropped flows of this tuple and its reverse, whatever their ingress: a session that was opened
    /// for it may let them pass. Returns how many went.
    pub fn forget_drops(&mut self, tuple: &FiveTuple) -> usize {
        let hash = self.hash.symmetric(tuple);
        let reversed = tuple.reversed();
        let mut removed = 0;
        loop {
            let chunks = &self.chunks;
            let found = self.drops.find(hash, |&slot| {
                let found = entry(chunks, slot).key.tuple();
                found == *tuple || found == reversed
            });
            let Some(&slot) = found else { return removed };
            self.remove(FlowId(slot));
            removed += 1;
        }
    }

    /// Marks the flow's decision as good for `epoch` too.
    pub fn confirm(&mut self, id: FlowId, epoch: u32) {
        entry_mut(&mut self.chunks, id.0).epoch = epoch;
    }

    /// Takes a flow out.
    pub fn remove(&mut self, id: FlowId) {
        let flow = entry_mut(&mut self.chunks, id.0);
        if !flow.in_use {
            return;
        }
        flow.in_use = false;
        loosen(&mut self.loosened, flow);
        let (hash, list, state) = (flow.key.hash(&self.hash), flow.list, flow.state);
        self.leave_drops(id.0);
        if let Ok(found) = self.index.find_entry(hash, |&slot| slot == id.0) {
            found.remove();
        }
        self.lists.release(list);
        self.wheel.cancel(id.0);
        self.by_state.unlink(id.0);
        self.counts[state as usize] -= 1;
        self.free.push(id.0);
    }

    /// Takes out every flow for which `keep` is false. Returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&FlowEntry, &[Action]) -> bool) -> usize {
        let mut removed = 0;
        for slot in 0..self.slots() {
            let flow = entry(&self.chunks, slot);
            if flow.in_use && !keep(flow, self.lists.get(flow.list)) {
                self.remove(FlowId(slot));
                removed += 1;
            }
        }
        removed
    }

    /// Every flow, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &FlowEntry)> {
        (0..self.slots())
            .map(|slot| (FlowId(slot), entry(&self.chunks, slot)))
            .filter(|(_, flow)| flow.in_use)
    }

    /// Takes out flows that were idle too long, looking at no more than `budget` of them; `expired` sees each
    /// before it goes. Returns how many went.
    pub fn expire(&mut self, now: Nanos, mut budget: usize, mut expired: impl FnMut(&FlowEntry)) -> usize {
        let tick = tick_of(now);
        let mut removed = 0;
        while let Some(slot) = self.wheel.pop(tick, &mut budget) {
            let flow = entry(&self.chunks, slot);
            let deadline = self.deadline(flow);
            if deadline > tick {
                self.wheel.schedule(slot, deadline);
            } else {
                expired(flow);
                self.remove(FlowId(slot));
                removed += 1;
            }
        }
        removed
    }

    fn slots(&self) -> u32 {
        self.chunks.last().map_or(0, |last| ((self.chunks.len() - 1) * CHUNK + last.len()) as u32)
    }

    fn deadline(&self, flow: &FlowEntry) -> u32 {
        let idle_s = self.timeouts.idle_s(flow.state, Protocol(flow.key.kind as u8));
        // A drop is decided again in time however busy it is.
        let since = if flow.state == FlowState::Dropped { flow.decided } else { flow.last_seen };
        since.saturating_add(idle_s.saturating_mul(TICKS_PER_SECOND))
    }

    fn arm(&mut self, slot: u32) {
        let flow = entry(&self.chunks, slot);
        let (state, deadline) = (flow.state, self.deadline(flow));
        self.wheel.schedule(slot, deadline);
        if state == FlowState::Established {
            self.by_state.unlink(slot);
        } else {
            self.by_state.push_back(state as usize, slot);
        }
    }

    fn enter_state(&mut self, slot: u32, state: FlowState) {
        self.counts[entry(&self.chunks, slot).state as usize] -= 1;
        self.counts[state as usize] += 1;
        self.leave_drops(slot);
        entry_mut(&mut self.chunks, slot).state = state;
        self.enter_drops(slot);
        self.arm(slot);
    }

    fn enter_drops(&mut self, slot: u32) {
        let flow = entry(&self.chunks, slot);
        if flow.state == FlowState::Dropped {
            let (chunks, hash) = (&self.chunks, &self.hash);
            let symmetric = |&slot: &u32| hash.symmetric(&entry(chunks, slot).key.tuple());
            self.drops.insert_unique(symmetric(&slot), slot, symmetric);
        }
    }

    fn leave_drops(&mut self, slot: u32) {
        let flow = entry(&self.chunks, slot);
        if flow.state == FlowState::Dropped {
            let hash = self.hash.symmetric(&flow.key.tuple());
            if let Ok(found) = self.drops.find_entry(hash, |&candidate| candidate == slot) {
                found.remove();
            }
        }
    }

    fn take_slot(&mut self, key: FlowKey) -> u32 {
        let fresh = FlowEntry {
            key,
            epoch: 0,
            last_seen: 0,
            plain: NIL,
            list: 0,
            packets: 0,
            bytes: 0,
            sessions: [SessionRef::default(); FLOW_SESSIONS_MAX],
            decided_by: NIL,
            created: 0,
            decided: 0,
            look_at: 0,
            offload: NIL,
            offer_at: 0,
            refusals: 0,
            session_count: 0,
            state: FlowState::Datagram,
            in_use: false,
        };
        if let Some(slot) = self.free.pop() {
            *entry_mut(&mut self.chunks, slot) = fresh;
            return slot;
        }
        let slot = self.slots();
        if slot as usize == self.chunks.len() * CHUNK {
            self.chunks.push(Vec::with_capacity(CHUNK.min(self.capacity)));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(fresh);
        }
        slot
    }

    /// Makes room for one flow.
    fn evict(&mut self, now: Nanos) -> bool {
        let tick = tick_of(now);
        for state in FlowState::VICTIMS {
            for _ in 0..SECOND_CHANCES {
                let Some(slot) = self.by_state.front(state as usize) else { break };
                let idle = tick.saturating_sub(entry(&self.chunks, slot).last_seen);
                if state == FlowState::Datagram && idle < TICKS_PER_SECOND {
                    self.by_state.push_back(state as usize, slot);
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

fn entry(chunks: &[Vec<FlowEntry>], slot: u32) -> &FlowEntry {
    &chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
}

fn entry_mut(chunks: &mut [Vec<FlowEntry>], slot: u32) -> &mut FlowEntry {
    &mut chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
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
    } else if key.kind as u8 != Protocol::TCP.0 {
        FlowState::Datagram
    } else if flags.closes() {
        FlowState::Closing
    } else if flags.0 & TcpFlags::SYN != 0 {
        FlowState::Opening
    } else {
        FlowState::Established
    }
}

fn next_state(state: FlowState, protocol: u8, flags: TcpFlags) -> FlowState {
    if protocol != Protocol::TCP.0 || state == FlowState::Dropped {
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
