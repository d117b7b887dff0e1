//! Later fragments follow the first one of their packet, which alone has the ports.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use crate::hash::{TupleHash, kind_of, words_of};
use crate::packet::{Fragment, Headers};
use crate::port::PortId;
use crate::reason::Reason;
use crate::time::Nanos;
use crate::tuple::FiveTuple;

/// How long a first fragment is remembered: the kernel's own time for reassembly (ip_frag_time).
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: [u64; 2],
    destination: [u64; 2],
    ingress: u32,
    id: u32,
    kind: u32,
}

impl Key {
    fn new(ingress: PortId, tuple: &FiveTuple, id: u32) -> Key {
        Key {
            source: words_of(tuple.source),
            destination: words_of(tuple.destination),
            ingress: ingress.0,
            id,
            kind: kind_of(tuple),
        }
    }

    fn hash(&self, hash: &TupleHash) -> u64 {
        hash.words(&[
            self.source[0],
            self.source[1],
            self.destination[0],
            self.destination[1],
            u64::from(self.ingress) << 32 | u64::from(self.id),
            u64::from(self.kind),
        ])
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    ports: (u16, u16),
}

/// The packets of which a first fragment has passed, by (port, source, destination, protocol, identification).
/// Bounded: the oldest goes when a new one finds no room.
#[derive(Debug)]
pub struct FragmentTracker {
    hash: TupleHash,
    capacity: usize,
    index: HashTable<Entry>,
    /// In the order of their deadlines, since all live equally long.
    order: VecDeque<(Nanos, Key)>,
}

impl FragmentTracker {
    /// Room for `capacity` packets in flight.
    pub fn new(capacity: usize, seed: u64) -> FragmentTracker {
        FragmentTracker {
            hash: TupleHash::new(seed),
            capacity: capacity.max(1),
            index: HashTable::with_capacity(capacity),
            order: VecDeque::with_capacity(capacity),
        }
    }

    /// Packets in flight.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No packet is in flight.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Looks at any packet: remembers a first fragment, and gives a later one the ports of its first, in its
    /// tuple. Fails with [`Reason::FragmentOutOfOrder`] for a later one whose first has not passed.
    pub fn track(&mut self, ingress: PortId, headers: &mut Headers, now: Nanos) -> Result<(), Reason> {
        match headers.fragment {
            Fragment::Whole => Ok(()),
            Fragment::First { id } => {
                self.expire(now);
                let ports = (headers.tuple().source_port, headers.tuple().destination_port);
                self.remember(Entry { key: Key::new(ingress, headers.tuple(), id), ports }, now);
                Ok(())
            }
            Fragment::Later { id, .. } => {
                self.expire(now);
                let key = Key::new(ingress, headers.tuple(), id);
                let found = self.index.find(key.hash(&self.hash), |entry| entry.key == key);
                let entry = found.ok_or(Reason::FragmentOutOfOrder)?;
                headers.meta.tuple.source_port = entry.ports.0;
                headers.meta.tuple.destination_port = entry.ports.1;
                Ok(())
            }
        }
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Nanos) {
        while self.order.front().is_some_and(|(deadline, _)| *deadline <= now) {
            self.forget_oldest();
        }
    }

    fn remember(&mut self, entry: Entry, now: Nanos) {
        let hash = entry.key.hash(&self.hash);
        if let Some(known) = self.index.find_mut(hash, |known| known.key == entry.key) {
            known.ports = entry.ports;
            return;
        }
        if self.index.len() >= self.capacity {
            self.forget_oldest();
        }
        let state = &self.hash;
        self.index.insert_unique(hash, entry, |entry| entry.key.hash(state));
        self.order.push_back((now + FRAGMENT_TIMEOUT, entry.key));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front()
            && let Ok(found) = self.index.find_entry(key.hash(&self.hash), |entry| entry.key == key)
        {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fragment::fragment_ipv4;
    use crate::testing;

    fn fragments(id: u16) -> Vec<Vec<u8>> {
        let mut packet = testing::udp(false, (5_000, 53), &[0; 3_000]);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6] = 0;
        let headers = Headers::parse(&packet).unwrap();
        let mut out = Vec::new();
        fragment_ipv4(&packet, &headers, 1_400, &mut [0; 1_400], |part| out.push(part.to_vec())).unwrap();
        out
    }

    #[test]
    fn later_fragments_get_the_ports_of_the_first() {
        let mut tracker = FragmentTracker::new(4, 1);
        let parts = fragments(9);
        let mut track = |part: &[u8], port, now| {
            let mut headers = Headers::parse(part).unwrap();
            tracker.track(PortId(port), &mut headers, now)?;
            Ok::<_, Reason>((headers.tuple().source_port, headers.tuple().destination_port))
        };
        assert_eq!(track(&parts[1], 1, Nanos(0)), Err(Reason::FragmentOutOfOrder));
        assert_eq!(track(&parts[0], 1, Nanos(0)), Ok((5_000, 53)));
        assert_eq!(track(&parts[2], 1, Nanos(1)), Ok((5_000, 53)));
        assert_eq!(track(&parts[1], 1, Nanos(2)), Ok((5_000, 53)));
        assert_eq!(track(&parts[1], 2, Nanos(2)), Err(Reason::FragmentOutOfOrder));
        assert_eq!(track(&fragments(8)[1], 1, Nanos(2)), Err(Reason::FragmentOutOfOrder));
        assert_eq!(track(&parts[1], 1, Nanos::from_millis(30_000)), Err(Reason::FragmentOutOfOrder));
        assert!(tracker.is_empty());
    }

    #[test]
    fn bounded() {
        let mut tracker = FragmentTracker::new(4, 1);
        for id in 0..100 {
            let mut headers = Headers::parse(&fragments(id)[0]).unwrap();
            tracker.track(PortId(1), &mut headers, Nanos(u64::from(id))).unwrap();
        }
        assert_eq!(tracker.len(), 4);
        let mut headers = Headers::parse(&fragments(99)[1]).unwrap();
        assert_eq!(tracker.track(PortId(1), &mut headers, Nanos(100)), Ok(()));
        let mut headers = Headers::parse(&fragments(95)[1]).unwrap();
        assert_eq!(tracker.track(PortId(1), &mut headers, Nanos(100)), Err(Reason::FragmentOutOfOrder));
    }
}
