//! Sessions of stateful functions, found from either direction by one lookup.
//!
//! The records lie in memory that the caller provides, which may be a mapped file, so that they outlive the
//! process; the index over them is built when the table is opened. Time is in whole seconds of a clock that
//! goes on over a restart. A full table takes closing, half-open and datagram sessions in that order and never
//! an established one.

mod ports;
mod record;

use std::net::IpAddr;
use std::ops::DerefMut;

use crate::hash::TupleHash;
use crate::index::Index;
use crate::list::{Link, Lists, NIL, Wheel};
use crate::port::FunctionId;
use crate::reason::Reason;
use crate::timeouts::{FlowState, Timeouts};
use crate::tuple::{FiveTuple, Protocol, TcpFlags};

pub use ports::{PortPool, reply_to};
pub use record::{SessionRecord, SessionSide};

use ports::Bindings;
use record::Wanted;

/// A packet's place in a session. It outlives the session: a stale one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    slot: u32,
    generation: u16,
    side: SessionSide,
}

impl SessionRef {
    /// Which way the packet runs.
    pub fn side(self) -> SessionSide {
        self.side
    }
}

impl Default for SessionRef {
    /// Refers to no session.
    fn default() -> SessionRef {
        SessionRef { slot: NIL, generation: 0, side: SessionSide::Original }
    }
}

/// A session that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFound {
    /// To report the packet with.
    pub session: SessionRef,
    /// The packet's direction.
    pub side: SessionSide,
    /// The tuple of the first packet.
    pub original: FiveTuple,
    /// The tuple of replies as they arrive, before translation back.
    pub reply: FiveTuple,
    /// The rule that allowed it.
    pub rule: u32,
}

/// A session to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// Whose it is.
    pub function: FunctionId,
    /// The first packet's tuple, as the function saw it.
    pub tuple: FiveTuple,
    /// The rule that allowed it.
    pub rule: u32,
    /// For a translated session, the tuple with which replies arrive; none where it is `tuple` reversed.
    pub reply: Option<FiveTuple>,
    /// Minutes after which it goes when it is established and idle; 0 where the table's own time holds.
    pub idle_minutes: u8,
}

/// The sessions of many functions, over records of the caller's.
#[derive(Debug)]
pub struct SessionTable<R> {
    records: R,
    capacity: usize,
    hash: TupleHash,
    timeouts: Timeouts,
    /// Each session under its original tuple, as 2 * slot, and a translated one also under its reply's, as
    /// 2 * slot + 1.
    index: Index,
    len: usize,
    /// Slots that were in use and are free, the last one first; no slot from `fresh` on was ever in use.
    free: Vec<u32>,
    fresh: u32,
    wheel: Wheel,
    wheel_links: Vec<Link>,
    by_state: Lists,
    state_links: Vec<Link>,
    counts: [usize; FlowState::ALL.len() + 1],
    bindings: Bindings,
    discarded: usize,
}

impl<R: DerefMut<Target = [SessionRecord]>> SessionTable<R> {
    /// Opens a table over `records`, whatever they hold: records that are whole are taken over, all others are
    /// freed. `timeouts` hold for every session but for what its own `idle_minutes` replace.
    pub fn open_region(mut records: R, timeouts: Timeouts, seed: u64, now_s: u32) -> SessionTable<R> {
        let capacity = records.len().min((NIL / 2) as usize);
        for record in &mut records[capacity..] {
            record.free();
        }
        let used = records[..capacity].iter().rposition(|record| !record.is_free());
        let mut table = SessionTable::open_unused(records, timeouts, seed, now_s);
        let used = used.map_or(0, |last| last as u32 + 1);
        table.reach(used);
        for slot in (0..used).rev() {
            table.adopt(slot, now_s);
        }
        table
    }

    /// As [`SessionTable::open_region`], over records that are all free. None of them is looked at, so that memory nobody has
    /// touched stays so.
    pub fn open_unused(records: R, timeouts: Timeouts, seed: u64, now_s: u32) -> SessionTable<R> {
        let capacity = records.len().min((NIL / 2) as usize);
        SessionTable {
            records,
            capacity,
            hash: TupleHash::new(seed),
            timeouts,
            index: Index::new(),
            len: 0,
            // Room that is reserved and not touched costs nothing, and growing never copies.
            free: Vec::with_capacity(capacity),
            fresh: 0,
            wheel: Wheel::new(now_s),
            wheel_links: Vec::with_capacity(capacity),
            by_state: Lists::new(FlowState::ALL.len() + 1),
            state_links: Vec::with_capacity(capacity),
            counts: [0; FlowState::ALL.len() + 1],
            bindings: Bindings::default(),
            discarded: 0,
        }
    }

    /// Sessions in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No session is in the table.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most this many sessions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sessions in this state.
    pub fn count(&self, state: FlowState) -> usize {
        self.counts[state as usize]
    }

    /// Records that were not whole when the table was opened.
    pub fn discarded(&self) -> usize {
        self.discarded
    }

    /// The session of `function` that a packet with this tuple belongs to, in either direction.
    pub fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound> {
        let hash = self.hash.symmetric_within(function.0, tuple);
        let wanted = Wanted::new(function, tuple);
        let mut side = None;
        let slot = self.index.find(hash, |entry| {
            side = self.records[(entry / 2) as usize].side_of(&wanted);
            side.is_some()
        })? / 2;
        let side = side?;
        let record = &self.records[slot as usize];
        Some(SessionFound {
            session: SessionRef { slot, generation: record.generation(), side },
            side,
            original: record.original(),
            reply: record.reply(),
            rule: record.rule(),
        })
    }

    /// An address and port of the pool with which a session of `function` that begins with `tuple` may leave: no other
    /// session of the function has them towards the same destination. Nothing is taken until the session opens. `None`
    /// where every port is in use, or no address is of the tuple's family.
    pub fn propose(
        &self,
        function: FunctionId,
        tuple: &FiveTuple,
        pool: &PortPool<'_>,
    ) -> Option<(IpAddr, u16)> {
        let number = self.hash.symmetric_within(function.0, tuple);
        self.bindings.choose(function, tuple, pool, number)
    }

    /// Sessions of a function that leave with another source than they came with.
    pub fn bindings(&self, function: FunctionId) -> usize {
        self.bindings.count(function)
    }

    /// The record behind a reference, unless it is stale.
    pub fn get(&self, session: SessionRef) -> Option<&SessionRecord> {
        let record = self.records.get(session.slot as usize)?;
        (!record.is_free() && record.generation() == session.generation).then_some(record)
    }

    /// Opens a session whose first packet has these TCP flags. One that is there already with the same first
    /// tuple is opened anew; one in which the packet is a reply stays, and is returned. Fails with
    /// [`Reason::FlowLimit`] when the table is full of established sessions, with [`Reason::SnatPortsExhausted`] when
    /// the translated tuple is another session's.
    pub fn open(&mut self, new: &NewSession, flags: TcpFlags, now_s: u32) -> Result<SessionRef, Reason> {
        if let Some(found) = self.find(new.function, &new.tuple) {
            if found.side == SessionSide::Reply {
                self.touch(found.session, flags, now_s);
                return Ok(found.session);
            }
            self.remove(found.session);
        }
        if new.reply.is_some_and(|reply| self.find(new.function, &reply).is_some()) {
            return Err(Reason::SnatPortsExhausted);
        }
        if self.is_full() && !self.evict(now_s) {
            return Err(Reason::FlowLimit);
        }
        let slot = self.take_slot().ok_or(Reason::FlowLimit)?;
        let state = match new.tuple.protocol {
            Protocol::TCP if flags.0 & TcpFlags::SYN != 0 => FlowState::Opening,
            Protocol::TCP if flags.closes() => FlowState::Closing,
            Protocol::TCP => FlowState::Established,
            _ => FlowState::Datagram,
        };
        self.records[slot as usize].write(new, state, now_s);
        self.enter(slot);
        Ok(SessionRef {
            slot,
            generation: self.records[slot as usize].generation(),
            side: SessionSide::Original,
        })
    }

    /// Reports packets of a session: keeps it alive and follows its TCP state. False if it is gone.
    pub fn touch(&mut self, session: SessionRef, flags: TcpFlags, now_s: u32) -> bool {
        if self.get(session).is_none() {
            return false;
        }
        let record = &mut self.records[session.slot as usize];
        let before = record.state();
        if record.see(session.side, flags, now_s) {
            let after = record.state();
            self.counts[before as usize] -= 1;
            self.counts[after as usize] += 1;
            self.arm(session.slot);
        }
        true
    }

    /// Ends a session, as when its rule is gone. False if it is gone already.
    pub fn remove(&mut self, session: SessionRef) -> bool {
        if self.get(session).is_none() {
            return false;
        }
        self.release(session.slot);
        true
    }

    /// Takes out sessions that were idle too long, looking at no more than `budget` of them; `expired` sees each
    /// before it goes. Returns how many went.
    pub fn expire(
        &mut self,
        now_s: u32,
        mut budget: usize,
        mut expired: impl FnMut(&SessionRecord),
    ) -> usize {
        let mut removed = 0;
        while let Some(slot) = self.wheel.pop(&mut self.wheel_links, now_s, &mut budget) {
            let deadline = self.deadline(slot);
            if deadline > now_s {
                self.wheel.schedule(&mut self.wheel_links, slot, deadline);
            } else {
                expired(&self.records[slot as usize]);
                self.release(slot);
                removed += 1;
            }
        }
        removed
    }

    /// Whether sessions are left that [`SessionTable::expire`] should have looked at by now.
    pub fn is_behind(&self, now_s: u32) -> bool {
        !self.is_empty() && self.wheel.is_behind(now_s)
    }

    /// Ends every session for which `keep` is false. Returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&SessionRecord) -> bool) -> usize {
        let mut removed = 0;
        for slot in 0..self.capacity {
            let record = &self.records[slot];
            if !record.is_free() && !keep(record) {
                self.release(slot as u32);
                removed += 1;
            }
        }
        removed
    }

    /// Tells sessions when their last packet came, in seconds, where `seen` knows of a later one than they do.
    pub fn refresh(&mut self, mut seen: impl FnMut(&SessionRecord) -> Option<u32>) {
        for record in self.records[..self.fresh as usize].iter_mut().filter(|record| !record.is_free()) {
            if let Some(seen_s) = seen(record).filter(|seen_s| *seen_s > record.last_seen_s()) {
                record.see(SessionSide::Original, TcpFlags::default(), seen_s);
            }
        }
    }

    /// Every session, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &SessionRecord> {
        self.records[..self.fresh as usize].iter().filter(|record| !record.is_free())
    }

    /// The records, as for flushing them to disk.
    pub fn records(&self) -> &R {
        &self.records
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.fresh as usize == self.capacity
    }

    fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.is_full() {
            return None;
        }
        self.reach(self.fresh + 1);
        Some(self.fresh - 1)
    }

    /// Lets the slots below `fresh` be used.
    fn reach(&mut self, fresh: u32) {
        self.fresh = fresh;
        self.wheel_links.resize(fresh as usize, Link::FREE);
        self.state_links.resize(fresh as usize, Link::FREE);
    }

    /// The entries of a session in the index; the hash of a tuple is that of its reverse, so that one is enough
    /// where nothing is translated.
    fn entries(&self, slot: u32) -> impl Iterator<Item = u32> + use<R> {
        let count = if self.records[slot as usize].is_translated() { 2 } else { 1 };
        (0..count).map(move |reply| 2 * slot + reply)
    }

    fn adopt(&mut self, slot: u32, now_s: u32) {
        let record = &mut self.records[slot as usize];
        let valid = record.is_valid();
        if valid {
            record.age_from(now_s);
            let (function, original, reply) = (record.function(), record.original(), record.reply());
            if self.find(function, &original).is_none() && self.find(function, &reply).is_none() {
                self.enter(slot);
                return;
            }
        }
        let record = &mut self.records[slot as usize];
        if !record.is_free() {
            record.free();
            self.discarded += 1;
        }
        self.free.push(slot);
    }

    fn enter(&mut self, slot: u32) {
        for entry in self.entries(slot) {
            let (records, hash) = (&*self.records, &self.hash);
            let hash_of = |entry| hash_of(records, hash, entry);
            self.index.insert(hash_of(entry), entry, hash_of);
        }
        let record = &self.records[slot as usize];
        if record.has_binding() {
            self.bindings.insert(record.function(), &record.reply());
        }
        self.len += 1;
        self.counts[record.state() as usize] += 1;
        self.arm(slot);
    }

    fn release(&mut self, slot: u32) {
        for entry in self.entries(slot) {
            self.index.remove(hash_of(&self.records, &self.hash, entry), entry);
        }
        let record = &mut self.records[slot as usize];
        if record.has_binding() {
            self.bindings.remove(record.function(), &record.reply());
        }
        self.counts[record.state() as usize] -= 1;
        record.free();
        self.len -= 1;
        self.wheel.cancel(&mut self.wheel_links, slot);
        self.by_state.unlink(&mut self.state_links, slot);
        self.free.push(slot);
    }

    fn deadline(&self, slot: u32) -> u32 {
        let record = &self.records[slot as usize];
        let idle_s = match (record.state(), record.idle_minutes()) {
            (FlowState::Established, minutes @ 1..) => u32::from(minutes) * 60,
            (state, _) => self.timeouts.idle_s(state, record.original().protocol),
        };
        record.last_seen_s().saturating_add(idle_s)
    }

    fn arm(&mut self, slot: u32) {
        let deadline = self.deadline(slot);
        self.wheel.bring_forward(&mut self.wheel_links, slot, deadline);
        let links = &mut self.state_links;
        match self.records[slot as usize].state() {
            FlowState::Established => self.by_state.unlink(links, slot),
            state => self.by_state.push_back(links, state as usize, slot),
        }
    }

    /// Makes room for one session.
    fn evict(&mut self, now_s: u32) -> bool {
        self.expire(now_s, 16, |_| {});
        if !self.is_full() {
            return true;
        }
        match FlowState::VICTIMS.iter().find_map(|&state| self.by_state.front(state as usize)) {
            Some(slot) => {
                self.release(slot);
                true
            }
            None => false,
        }
    }
}

fn hash_of(records: &[SessionRecord], hash: &TupleHash, entry: u32) -> u64 {
    let record = &records[(entry / 2) as usize];
    let tuple = if entry.is_multiple_of(2) { record.original() } else { record.reply() };
    hash.symmetric_within(record.function().0, &tuple)
}

#[cfg(test)]
mod tests;
