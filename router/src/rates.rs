//! The rate limiters of a lab, by handle.

use vnet_dataplane::shaper::Limiter;
use vnet_dataplane::{LimiterId, Nanos, Reason};
use vnet_fabric::snapshot::Snapshot;

/// A queue holds this much of its rate before it drops: 50 ms, as a router of that rate would.
const QUEUE_MS: u64 = 50;
/// No queue is smaller: two super-packets fit.
const QUEUE_BYTES_MIN: u64 = 192 << 10;
/// What may leave at once after a pause: 500 us of the rate, and a full packet at least.
const BURST_US: u64 = 500;
const BURST_BYTES_MIN: u64 = 3000;

/// Limiters by handle; those that a new snapshot keeps go on where they were.
#[derive(Debug, Default)]
pub struct Rates {
    limiters: Vec<Option<Limiter>>,
}

impl Rates {
    /// Brings the limiters to what the snapshot says.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot) {
        let size = snapshot.limiters().iter().map(|spec| spec.id.index() + 1).max().unwrap_or(0);
        let mut former = std::mem::take(&mut self.limiters);
        former.resize_with(former.len().max(size), || None);
        self.limiters.resize_with(size, || None);
        for spec in snapshot.limiters() {
            let queue_bytes = (spec.bits_per_second / 8 * QUEUE_MS / 1000).max(QUEUE_BYTES_MIN);
            let burst_bytes = (spec.bits_per_second / 8 * BURST_US / 1_000_000).max(BURST_BYTES_MIN);
            let slot = spec.id.index();
            self.limiters[slot] = Some(match former[slot].take() {
                Some(mut limiter) => {
                    limiter.configure(spec.bits_per_second, queue_bytes, burst_bytes);
                    limiter
                }
                None => Limiter::new(spec.bits_per_second, queue_bytes, burst_bytes),
            });
        }
    }

    /// When a packet of so many bytes that comes at `now` may leave. A limiter that is gone limits nothing.
    pub(crate) fn admit(&mut self, id: LimiterId, now: Nanos, bytes: u64) -> Result<Nanos, Reason> {
        match self.limiters.get_mut(id.index()) {
            Some(Some(limiter)) => limiter.admit(now, u32::try_from(bytes).unwrap_or(u32::MAX)),
            _ => Ok(now),
        }
    }

    /// Bytes that wait for this limiter.
    pub fn queued_bytes(&self, id: LimiterId, now: Nanos) -> u64 {
        match self.limiters.get(id.index()) {
            Some(Some(limiter)) => limiter.queued_bytes(now),
            _ => 0,
        }
    }
}
