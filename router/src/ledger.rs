//! What one worker has counted. Each ledger has one writer, its worker; readers sum over the workers.
//!
//! Counters sit in chunks that are made once and never move, so that neither side takes a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use vnet_dataplane::{CounterId, PortId, Reason};
use vnet_fabric::RuleId;

/// Counters in one chunk.
const CHUNK: usize = 1024;
/// Chunks of one kind: handles up to 1,048,576 can be counted.
const CHUNKS_MAX: usize = 1024;

/// A counter with a single writer: an add is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds `amount`; only ever called by the ledger's worker.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes, counted as IP packets after segmentation.
#[derive(Debug, Default)]
pub struct Pair {
    /// Packets.
    pub packets: Single,
    /// Bytes, IP headers included.
    pub bytes: Single,
}

impl Pair {
    fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// What passed a port.
#[derive(Debug)]
pub struct PortCounts {
    /// From the port into the router.
    pub received: Pair,
    /// From the router out of the port.
    pub sent: Pair,
    /// Packets of this port that were dropped, by reason.
    pub drops: [Single; Reason::ALL.len()],
}

impl Default for PortCounts {
    fn default() -> Self {
        PortCounts {
            received: Pair::default(),
            sent: Pair::default(),
            drops: std::array::from_fn(|_| Single::default()),
        }
    }
}

/// What became of packets: those received and made are those sent and dropped, but for what is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Packets from ports.
    pub received: u64,
    /// Packets that the router made.
    pub generated: u64,
    /// Packets out of ports.
    pub sent: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
}

impl std::ops::Add for Balance {
    type Output = Balance;

    fn add(self, other: Balance) -> Balance {
        Balance {
            received: self.received + other.received,
            generated: self.generated + other.generated,
            sent: self.sent + other.sent,
            dropped: self.dropped + other.dropped,
        }
    }
}

#[derive(Debug)]
struct Chunked<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

impl<T: Default> Chunked<T> {
    fn new() -> Self {
        Chunked { chunks: (0..CHUNKS_MAX).map(|_| OnceLock::new()).collect() }
    }

    /// The item, made on first use. `None` beyond the most that can be counted.
    fn get(&self, index: usize) -> Option<&T> {
        let chunk = self.chunks.get(index / CHUNK)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| T::default()).collect());
        chunk.get(index % CHUNK)
    }

    fn made(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter())
    }

    fn peek(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }
}

/// Everything that one worker counts.
#[derive(Debug)]
pub struct Ledger {
    ports: Chunked<PortCounts>,
    counters: Chunked<Pair>,
    rules: Chunked<Single>,
    /// Packets that the router made itself: ICMP errors, and fragments beyond the first.
    pub generated: Pair,
    /// Of all that was received and sent, what others have replayed for the router.
    pub offloaded: Pair,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            ports: Chunked::new(),
            counters: Chunked::new(),
            rules: Chunked::new(),
            generated: Pair::default(),
            offloaded: Pair::default(),
        }
    }
}

impl Ledger {
    pub(crate) fn received(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(counts) = self.ports.get(port.index()) {
            counts.received.add(packets, bytes);
        }
    }

    pub(crate) fn sent(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(counts) = self.ports.get(port.index()) {
            counts.sent.add(packets, bytes);
        }
    }

    pub(crate) fn dropped(&self, port: PortId, reason: Reason, packets: u64) {
        if let Some(counts) = self.ports.get(port.index()) {
            counts.drops[reason as usize].add(packets);
        }
    }

    pub(crate) fn count(&self, counter: CounterId, packets: u64, bytes: u64) {
        if let Some(pair) = self.counters.get(counter.index()) {
            pair.add(packets, bytes);
        }
    }

    pub(crate) fn hit(&self, rule: RuleId) {
        if let Some(hits) = self.rules.get(rule.0 as usize) {
            hits.add(1);
        }
    }

    pub(crate) fn replayed_elsewhere(&self, packets: u64, bytes: u64) {
        self.offloaded.add(packets, bytes);
    }

    pub(crate) fn made(&self, packets: u64, bytes: u64) {
        self.generated.add(packets, bytes);
    }

    /// What passed a port; `None` where nothing has yet.
    pub fn port(&self, port: PortId) -> Option<&PortCounts> {
        self.ports.peek(port.index())
    }

    /// The sums over all ports that there are or were.
    pub fn balance(&self) -> Balance {
        let of = |counts: &PortCounts| Balance {
            received: counts.received.packets.get(),
            generated: 0,
            sent: counts.sent.packets.get(),
            dropped: counts.drops.iter().map(Single::get).sum(),
        };
        let made = Balance { generated: self.generated.packets.get(), ..Balance::default() };
        self.ports.made().map(of).fold(made, |sum, port| sum + port)
    }

    /// (packets, bytes) of a counter.
    pub fn counter(&self, counter: CounterId) -> (u64, u64) {
        self.counters.peek(counter.index()).map_or((0, 0), |pair| (pair.packets.get(), pair.bytes.get()))
    }

    /// How many new flows met a rule.
    pub fn hits(&self, rule: RuleId) -> u64 {
        self.rules.peek(rule.0 as usize).map_or(0, Single::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_apart() {
        let ledger = Ledger::default();
        ledger.received(PortId(3), 2, 3000);
        ledger.dropped(PortId(3), Reason::NsgDeny, 1);
        ledger.count(CounterId(5000), 1, 40);
        ledger.hit(RuleId(7));
        let port = ledger.port(PortId(3)).unwrap();
        assert_eq!((port.received.packets.get(), port.received.bytes.get()), (2, 3000));
        assert_eq!(port.drops[Reason::NsgDeny as usize].get(), 1);
        assert_eq!(port.drops[Reason::RouteNone as usize].get(), 0);
        ledger.sent(PortId(2_000), 1, 1500);
        ledger.made(1, 56);
        let balance = Balance { received: 2, generated: 1, sent: 1, dropped: 1 };
        assert_eq!(ledger.balance(), balance);
        assert_eq!(ledger.counter(CounterId(5000)), (1, 40));
        assert_eq!(ledger.counter(CounterId(4999)), (0, 0));
        assert_eq!(ledger.hits(RuleId(7)), 1);
        assert!(ledger.ports.get(CHUNK * CHUNKS_MAX).is_none());
    }
}
