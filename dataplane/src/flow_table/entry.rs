//! One flow's entry, and the memory that entries lie in.

use super::key::{Far, Near};
use super::{FLOW_SESSIONS_MAX, FlowKey, TICK_NS};
use crate::list::{Link, Links, NIL};
use crate::port::PortId;
use crate::session::SessionRef;
use crate::time::Nanos;
use crate::timeouts::FlowState;

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// One flow. The first cache line is all that a lookup of IPv4 and a replay read and write; IPv6 adds a part of the second.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct FlowEntry {
    pub(super) near: Near,
    /// Epoch of the snapshot that decided; an older one than the current asks for a new decision.
    pub epoch: u32,
    pub(super) last_seen: u32,
    /// The tick from which on the next packet asks for a look at the flow.
    pub(super) look_at: u32,
    /// IP packets after segmentation.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    pub(super) list: u32,
    pub(super) plain: u32,
    /// The record of whoever replays it elsewhere.
    pub(super) offload: u32,
    pub(super) state: FlowState,
    pub(super) in_use: bool,
    pub(super) session_count: u8,
    pub(super) refusals: u8,
    // The second line.
    pub(super) far: Far,
    pub(super) sessions: [SessionRef; FLOW_SESSIONS_MAX],
    pub(super) decided_by: u32,
    pub(super) created: u32,
    pub(super) decided: u32,
    /// The tick from which on it may be offered to be replayed elsewhere.
    pub(super) offer_at: u32,
    pub(super) wheel: Link,
    pub(super) by_state: Link,
}

const _: () = assert!(size_of::<FlowEntry>() == 192 && std::mem::offset_of!(FlowEntry, far) == 64);

impl FlowEntry {
    pub(super) fn fresh(key: FlowKey) -> FlowEntry {
        FlowEntry {
            near: key.near,
            epoch: 0,
            last_seen: 0,
            look_at: 0,
            packets: 0,
            bytes: 0,
            list: 0,
            plain: NIL,
            offload: NIL,
            state: FlowState::Datagram,
            in_use: false,
            session_count: 0,
            refusals: 0,
            far: key.far,
            sessions: [SessionRef::default(); FLOW_SESSIONS_MAX],
            decided_by: NIL,
            created: 0,
            decided: 0,
            offer_at: 0,
            wheel: Link::FREE,
            by_state: Link::FREE,
        }
    }

    pub(super) fn has_key(&self, key: &FlowKey) -> bool {
        self.near == key.near && (key.near.is_v4() || self.far == key.far)
    }

    /// Ingress port and tuple.
    pub fn key(&self) -> FlowKey {
        FlowKey { near: self.near, far: self.far }
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

    /// The caller's record of its being replayed elsewhere, see [`FlowTable::set_offload`](super::FlowTable::set_offload).
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

/// Entries in chunks that never move, so that growing copies nothing.
#[derive(Debug, Default)]
pub(super) struct Entries {
    chunks: Vec<Vec<FlowEntry>>,
    /// Slots that are free, one leading to the next.
    free: Option<u32>,
}

impl Entries {
    pub(super) fn get(&self, slot: u32) -> &FlowEntry {
        &self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize % CHUNK]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut FlowEntry {
        &mut self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize % CHUNK]
    }

    /// Slots that are or were in use.
    pub(super) fn slots(&self) -> u32 {
        self.chunks.last().map_or(0, |last| ((self.chunks.len() - 1) * CHUNK + last.len()) as u32)
    }

    /// A fresh entry in a slot that was free, or in a new one. No more than `capacity` of them are ever asked for.
    pub(super) fn take(&mut self, key: FlowKey, capacity: usize) -> u32 {
        let fresh = FlowEntry::fresh(key);
        if let Some(slot) = self.free {
            let next = self.get(slot).list;
            self.free = (next != NIL).then_some(next);
            *self.get_mut(slot) = fresh;
            return slot;
        }
        let slot = self.slots();
        if slot as usize == self.chunks.len() * CHUNK {
            self.chunks.push(Vec::with_capacity(CHUNK.min(capacity)));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(fresh);
        }
        slot
    }

    /// Gives a slot back whose entry is in no list any more.
    pub(super) fn give_back(&mut self, slot: u32) {
        let next = self.free.replace(slot).unwrap_or(NIL);
        self.get_mut(slot).list = next;
    }
}

/// The links of the timing wheel.
pub(super) struct WheelLinks<'a>(pub(super) &'a mut Entries);

impl Links for WheelLinks<'_> {
    fn link(&self, slot: u32) -> &Link {
        &self.0.get(slot).wheel
    }

    fn link_mut(&mut self, slot: u32) -> &mut Link {
        &mut self.0.get_mut(slot).wheel
    }
}

/// The links of the lists by state.
pub(super) struct StateLinks<'a>(pub(super) &'a mut Entries);

impl Links for StateLinks<'_> {
    fn link(&self, slot: u32) -> &Link {
        &self.0.get(slot).by_state
    }

    fn link_mut(&mut self, slot: u32) -> &mut Link {
        &mut self.0.get_mut(slot).by_state
    }
}
