//! The entries of one lab, in memory that the kernel's programs read and count in.
//!
//! A hash table of buckets with eight slots each. Everything here is plain memory without a system call; only who enters a
//! flow takes a lock, so that two cannot enter the same one. A slot is free,
//! held by whoever entered the flow, or released and waiting until no program can be using it any more: a program
//! that found the slot just before its withdrawal counts in it a moment later, and must not meet another flow there.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapRaw;
use vnet_dataplane::{FlowKey, Nanos, OffloadCounts, OffloadSlot};

use super::layout::{Bucket, Control, KeyWords, Slot, WAYS, tag};

/// Nobody's, and no program is using it.
const FREE: u32 = 0;
/// Being written, or entered, or withdrawn and still to be read.
const HELD: u32 = 1;
/// A slot that was released in grace period `n` has this plus `n` as its state.
const RELEASED: u32 = 2;

/// The entries of one lab. Workers share it.
#[derive(Debug)]
pub(super) struct Table {
    control: MmapRaw,
    buckets: MmapRaw,
    count: usize,
    states: Vec<AtomicU32>,
    /// By slot, the grace period in which it was withdrawn, and one; 0 while it is in force.
    withdrawn: Vec<AtomicU32>,
    entering: Mutex<()>,
    /// The grace period that begins next, counted from zero.
    next_grace: AtomicU32,
    /// How many grace periods have ended.
    graces: AtomicU32,
}

impl Table {
    /// Takes the two maps, which have at least the sizes that [`Table::sizes`] says for `count` buckets, a power of two. What is
    /// entered in them is held; an empty `control` is set up with `seed`.
    pub(super) fn new(control: MmapRaw, buckets: MmapRaw, count: usize, seed: u64) -> Table {
        let (control_bytes, bucket_bytes) = Table::sizes(count);
        assert!(control.len() >= control_bytes && buckets.len() >= bucket_bytes && count.is_power_of_two());
        let mut table = Table {
            control,
            buckets,
            count,
            states: Vec::new(),
            withdrawn: Vec::new(),
            entering: Mutex::new(()),
            next_grace: AtomicU32::new(0),
            graces: AtomicU32::new(0),
        };
        let is_new = table.control().seed.load(Ordering::Relaxed) == 0;
        if is_new {
            table.control().seed.store(seed | 1, Ordering::Relaxed);
            table.control().mask.store((count - 1) as u32, Ordering::Release);
        }
        // A former daemon may have withdrawn a slot just before its end.
        let state = |index| match table.entered(index) {
            Some(_) => HELD,
            None if is_new => FREE,
            None => RELEASED,
        };
        let states = (0..count * WAYS).map(|index| AtomicU32::new(state(index))).collect();
        table.states = states;
        table.withdrawn = (0..count * WAYS).map(|_| AtomicU32::new(0)).collect();
        table
    }

    /// Bytes of the two maps.
    pub(super) const fn sizes(count: usize) -> (usize, usize) {
        (size_of::<Control>(), count * size_of::<Bucket>())
    }

    fn control(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, large enough (checked by `new`), lives as long as `self`, and what lies in
        // it is atomic, whoever else writes it.
        unsafe { &*self.control.as_ptr().cast::<Control>() }
    }

    fn bucket(&self, index: usize) -> &Bucket {
        assert!(index < self.count);
        // SAFETY: as for `control`; `index` is within the mapping.
        unsafe { &*self.buckets.as_ptr().cast::<Bucket>().add(index) }
    }

    fn slot(&self, index: usize) -> &Slot {
        &self.bucket(index / WAYS).slot[index % WAYS]
    }

    fn tag(&self, index: usize) -> &std::sync::atomic::AtomicU64 {
        &self.bucket(index / WAYS).tag[index % WAYS]
    }

    fn words(&self, index: usize) -> KeyWords {
        KeyWords(self.slot(index).key.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }

    fn state(&self, slot: OffloadSlot) -> Option<&AtomicU32> {
        self.states.get(slot.0 as usize)
    }

    fn is_held(&self, slot: OffloadSlot) -> bool {
        self.state(slot).is_some_and(|state| state.load(Ordering::Acquire) == HELD)
    }

    /// Which programs read it.
    pub(super) fn version(&self) -> u64 {
        self.control().version.load(Ordering::Relaxed)
    }

    pub(super) fn set_version(&self, version: u64) {
        self.control().version.store(version, Ordering::Relaxed);
    }

    /// The epoch whose entries count.
    pub(super) fn epoch(&self) -> u32 {
        self.control().epoch.load(Ordering::Acquire)
    }

    /// Lets only entries of this epoch count.
    pub(super) fn set_epoch(&self, epoch: u32) {
        self.control().epoch.store(epoch, Ordering::SeqCst);
    }

    /// Enters a flow whose packets go to the interface `target`; `None` where the key has an entry, or its bucket no room.
    pub(super) fn enter(
        &self,
        key: &FlowKey,
        target: u32,
        ttl_decrement: u8,
        epoch: u32,
    ) -> Option<OffloadSlot> {
        let words = KeyWords::of(key);
        // Nothing is left half done by who panics: a slot counts by the last store.
        let _alone = self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        let control = self.control();
        let hash = words.hash(control.seed.load(Ordering::Relaxed));
        let first = ((hash >> 32) as usize & (self.count - 1)) * WAYS;
        let taken =
            |index: &usize| self.tag(*index).load(Ordering::Acquire) != 0 && self.words(*index) == words;
        if (first..first + WAYS).any(|index| taken(&index)) {
            return None;
        }
        let index = (first..first + WAYS).find(|index| self.claim(*index))?;
        let slot = self.slot(index);
        for (place, word) in slot.key.iter().zip(words.0) {
            place.store(word, Ordering::Relaxed);
        }
        slot.target.store(target, Ordering::Relaxed);
        slot.ttl_decrement.store(u32::from(ttl_decrement), Ordering::Relaxed);
        slot.packets.store(0, Ordering::Relaxed);
        slot.bytes.store(0, Ordering::Relaxed);
        slot.last_seen_ns.store(0, Ordering::Relaxed);
        self.withdrawn[index].store(0, Ordering::Relaxed);
        self.tag(index).store(tag(epoch, hash), Ordering::Release);
        Some(OffloadSlot(index as u32))
    }

    /// Takes a slot that is free, or whose grace period has ended.
    fn claim(&self, index: usize) -> bool {
        let state = &self.states[index];
        let found = state.load(Ordering::Acquire);
        let ended = self.graces.load(Ordering::Acquire);
        // Both count on from zero and the difference stays small, also where they wrap.
        let usable = found == FREE || found >= RELEASED && (ended.wrapping_sub(found - RELEASED) as i32) > 0;
        usable && state.compare_exchange(found, HELD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// What an entry has counted; `None` where nobody holds the slot.
    pub(super) fn counts(&self, slot: OffloadSlot) -> Option<OffloadCounts> {
        self.is_held(slot).then(|| {
            let slot = self.slot(slot.0 as usize);
            OffloadCounts {
                packets: slot.packets.load(Ordering::Acquire),
                bytes: slot.bytes.load(Ordering::Acquire),
                last_seen: Nanos(slot.last_seen_ns.load(Ordering::Relaxed)),
            }
        })
    }

    /// Lets an entry count in another epoch. False where there is none.
    pub(super) fn renew(&self, slot: OffloadSlot, epoch: u32) -> bool {
        if !self.is_held(slot) {
            return false;
        }
        let place = self.tag(slot.0 as usize);
        let renewed = |old: u64| (old != 0).then(|| tag(epoch, old));
        place.fetch_update(Ordering::AcqRel, Ordering::Acquire, renewed).is_ok()
    }

    /// Ends an entry; its counts can still be read, and may still rise for a moment.
    pub(super) fn withdraw(&self, slot: OffloadSlot) {
        if self.is_held(slot) {
            self.end(slot.0 as usize);
        }
    }

    fn end(&self, index: usize) {
        self.tag(index).store(0, Ordering::SeqCst);
        // A period that begins from now on sees the last program out that has found the slot.
        let grace = self.next_grace.load(Ordering::SeqCst).wrapping_add(1).max(1);
        let _ = self.withdrawn[index].compare_exchange(0, grace, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// Whether the counts of a withdrawn entry are final: a whole grace period has passed since.
    pub(super) fn is_final(&self, slot: OffloadSlot) -> bool {
        let withdrawn = self.withdrawn.get(slot.0 as usize).map_or(1, |grace| grace.load(Ordering::Acquire));
        let ended = self.graces.load(Ordering::Acquire);
        withdrawn != 0 && ended.wrapping_sub(withdrawn) as i32 >= 0
    }

    /// Gives a slot back. It is used again after the next whole grace period.
    pub(super) fn release(&self, slot: OffloadSlot) {
        self.withdraw(slot);
        let grace = self.next_grace.load(Ordering::SeqCst);
        if let Some(state) = self.state(slot) {
            let _ = state.compare_exchange(HELD, RELEASED + grace, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Waits, by `wait`, until every program that is running now has ended: what was released before can be used again.
    pub(super) fn end_grace<E>(&self, wait: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let grace = self.next_grace.fetch_add(1, Ordering::SeqCst);
        wait()?;
        self.graces.store(grace.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Ends every entry that leaves or reaches the NIC `port`, whose packets are delivered to the interface `target`.
    pub(super) fn withdraw_port(&self, port: u32, target: u32) {
        for index in 0..self.states.len() {
            let of_port = || self.words(index).nic() == port || self.target(index) == target;
            if self.tag(index).load(Ordering::Acquire) != 0 && of_port() {
                self.end(index);
            }
        }
    }

    fn target(&self, index: usize) -> u32 {
        self.slot(index).target.load(Ordering::Relaxed)
    }

    /// The flow that is entered at an index, with its target, TTL decrement and epoch.
    fn entered(&self, index: usize) -> Option<Entered> {
        let tag = self.tag(index).load(Ordering::Acquire);
        let key = (tag != 0).then(|| self.words(index).flow_key()).flatten()?;
        let ttl_decrement = self.slot(index).ttl_decrement.load(Ordering::Relaxed);
        Some(Entered {
            slot: OffloadSlot(index as u32),
            key,
            target: self.target(index),
            ttl_decrement: u8::try_from(ttl_decrement).ok()?,
            epoch: (tag >> 32) as u32,
        })
    }

    /// Every entry, whatever its epoch.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entered> {
        (0..self.states.len()).filter_map(|index| self.entered(index))
    }

    /// How many entries count at present.
    pub(super) fn in_force(&self) -> usize {
        let epoch = self.epoch();
        let counts = |index: &usize| {
            let tag = self.tag(*index).load(Ordering::Relaxed);
            tag != 0 && (tag >> 32) as u32 == epoch
        };
        (0..self.states.len()).filter(counts).count()
    }
}

/// An entry as it lies in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    pub(super) slot: OffloadSlot,
    pub(super) key: FlowKey,
    pub(super) target: u32,
    pub(super) ttl_decrement: u8,
    pub(super) epoch: u32,
}

#[cfg(test)]
mod tests {
    use memmap2::MmapOptions;
    use vnet_dataplane::{FiveTuple, PortId, Protocol};

    use super::*;

    fn anonymous(bytes: usize) -> MmapRaw {
        MmapOptions::new().len(bytes).map_anon().unwrap().into()
    }

    fn table(count: usize) -> Table {
        let (control, buckets) = Table::sizes(count);
        Table::new(anonymous(control), anonymous(buckets), count, 42)
    }

    fn key(port: u16) -> FlowKey {
        let tuple = FiveTuple {
            protocol: Protocol::UDP,
            source: "10.1.0.4".parse().unwrap(),
            destination: "10.2.0.4".parse().unwrap(),
            source_port: port,
            destination_port: 53,
        };
        FlowKey::new(PortId(3), &tuple)
    }

    fn grace(table: &Table) {
        table.end_grace(|| Ok::<(), ()>(())).unwrap();
    }

    #[test]
    fn a_full_bucket_takes_no_more_and_the_others_stay() {
        let table = table(1);
        let slots: Vec<_> = (0..8).map(|port| table.enter(&key(port), 9, 0, 1).unwrap()).collect();
        assert_eq!(table.enter(&key(8), 9, 0, 1), None);
        assert!(slots.iter().all(|slot| table.counts(*slot) == Some(OffloadCounts::default())));
        assert_eq!(table.entries().count(), 8);
    }

    #[test]
    fn a_key_is_entered_once() {
        let table = table(4);
        let slot = table.enter(&key(1), 9, 0, 1).unwrap();
        assert_eq!(table.enter(&key(1), 9, 0, 2), None);
        table.withdraw(slot);
        assert!(table.enter(&key(1), 9, 0, 2).is_some_and(|other| other != slot));
    }

    #[test]
    fn a_slot_is_used_again_only_after_a_grace_period_that_began_after_its_release() {
        let table = table(1);
        let slots: Vec<_> = (0..8).map(|port| table.enter(&key(port), 9, 0, 1).unwrap()).collect();
        table.slot(slots[0].0 as usize).packets.store(5, Ordering::Relaxed);
        table.withdraw(slots[0]);
        grace(&table);
        assert_eq!(table.counts(slots[0]).unwrap().packets, 5, "a withdrawn entry can be read");
        assert_eq!(table.enter(&key(9), 9, 0, 1), None, "nobody has released it");
        table
            .end_grace(|| {
                table.release(slots[0]);
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(table.counts(slots[0]), None);
        assert_eq!(table.enter(&key(9), 9, 0, 1), None, "that grace period had begun before the release");
        grace(&table);
        let slot = table.enter(&key(9), 9, 0, 1).unwrap();
        assert_eq!((slot, table.counts(slot)), (slots[0], Some(OffloadCounts::default())));
    }

    #[test]
    fn a_grace_period_that_failed_frees_nothing() {
        let table = table(1);
        let slots: Vec<_> = (0..8).map(|port| table.enter(&key(port), 9, 0, 1).unwrap()).collect();
        table.release(slots[3]);
        assert_eq!(table.end_grace(|| Err("refused")), Err("refused"));
        assert_eq!(table.enter(&key(9), 9, 0, 1), None);
    }

    #[test]
    fn who_enters_the_same_flow_at_once_does_not_enter_it_twice() {
        let table = table(1);
        for port in 0..200 {
            let start = std::sync::Barrier::new(4);
            let enter = || {
                start.wait();
                table.enter(&key(port), 9, 0, 1)
            };
            let slots: Vec<OffloadSlot> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(enter)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(slots.len(), 1, "one has entered it");
            table.release(slots[0]);
            grace(&table);
        }
    }

    #[test]
    fn counts_are_final_after_a_grace_period_that_began_after_the_withdrawal() {
        let table = table(1);
        let slot = table.enter(&key(1), 9, 0, 1).unwrap();
        assert!(!table.is_final(slot));
        let waiting = table.end_grace(|| {
            table.withdraw(slot);
            Ok::<(), ()>(())
        });
        assert_eq!(waiting, Ok(()));
        assert!(
            !table.is_final(slot),
            "a program may have found it before the withdrawal, after the period began"
        );
        grace(&table);
        assert!(table.is_final(slot));
        table.release(slot);
        grace(&table);
        let again = table.enter(&key(2), 9, 0, 1).unwrap();
        assert!(!table.is_final(again));
    }

    #[test]
    fn an_entry_is_renewed_unless_it_was_withdrawn() {
        let table = table(2);
        let slot = table.enter(&key(1), 9, 1, 1).unwrap();
        table.set_epoch(2);
        assert_eq!(table.in_force(), 0);
        assert!(table.renew(slot, 2));
        assert_eq!(table.in_force(), 1);
        table.withdraw(slot);
        assert!(!table.renew(slot, 2));
        assert_eq!(table.in_force(), 0);
    }

    #[test]
    fn entries_of_a_nic_end_both_ways() {
        let table = table(64);
        let from = table.enter(&key(1), 9, 0, 1).unwrap();
        let to = table.enter(&key(2), 8, 0, 1).unwrap();
        table.withdraw_port(77, 8);
        assert_eq!(table.entries().map(|entry| entry.slot).collect::<Vec<_>>(), [from]);
        table.withdraw_port(3, 77);
        assert_eq!(table.entries().count(), 0);
        assert!(
            table.counts(from).is_some() && table.counts(to).is_some(),
            "their counts are still to be read"
        );
    }

    #[test]
    fn what_a_former_daemon_entered_is_held() {
        let former = table(1);
        let slot = former.enter(&key(1), 9, 2, 5).unwrap();
        former.set_epoch(5);
        former.slot(slot.0 as usize).bytes.store(1500, Ordering::Relaxed);
        let table = Table::new(former.control, former.buckets, 1, 99);
        assert_eq!(table.epoch(), 5);
        let expected = Entered { slot, key: key(1), target: 9, ttl_decrement: 2, epoch: 5 };
        assert_eq!(table.entries().collect::<Vec<_>>(), [expected]);
        assert_eq!(table.counts(slot).unwrap().bytes, 1500);
        assert_eq!(
            table.enter(&key(2), 9, 0, 5),
            None,
            "the others may be in use until a grace period has ended"
        );
        grace(&table);
        assert!(table.enter(&key(2), 9, 0, 5).is_some());
    }
}
