//! The rate limiters of a lab, by handle.

use std::time::Duration;

use vnet_dataplane::shaper::{Limiter, PacketBound};
use vnet_dataplane::{LimiterId, Nanos, Reason};
use vnet_fabric::snapshot::Snapshot;

use crate::core::Packet;

/// A queue holds this much of its rate before it drops: 50 ms, as a router of that rate would.
const QUEUE_MS: u64 = 50;
/// No queue is smaller: some twenty packets fit. Super-packets that such a rate would feel are split before.
const QUEUE_BYTES_MIN: u64 = 32 << 10;
/// What may leave at once, after a pause or as one super-packet: 500 us of the rate, and two full packets at least.
const BURST_US: u64 = 500;
const BURST_BYTES_MIN: u64 = 3000;
/// As many packets may leave at once: the segments of one super-packet of TCP.
const BURST_PACKETS_MIN: u64 = 48;

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
            let mut limiter = match former[slot].take() {
                Some(mut limiter) => {
                    limiter.configure(spec.bits_per_second, queue_bytes, burst_bytes);
                    limiter
                }
                None => Limiter::new(spec.bits_per_second, queue_bytes, burst_bytes),
            };
            limiter.bound_packets(spec.packets_per_second.map(packet_bound));
            self.limiters[slot] = Some(limiter);
        }
    }

    /// When a packet that comes at `now` may leave. A limiter that is gone limits nothing.
    pub(crate) fn admit(&mut self, id: LimiterId, now: Nanos, packet: &Packet<'_>) -> Admission {
        let Some(Some(limiter)) = self.limiters.get_mut(id.index()) else { return Admission::At(now) };
        if packet.packets > 1 && packet.bytes > limiter.burst_bytes() {
            let segment_bytes = packet.offload.wire_len_max(&packet.headers).max(1);
            let segments = (limiter.burst_bytes() as usize / segment_bytes).max(1);
            if (segments as u64) < packet.packets {
                return Admission::Split(segments);
            }
        }
        if let Some(burst) = limiter.burst_packets().filter(|burst| packet.packets > *burst) {
            return Admission::Split(burst.max(1) as usize);
        }
        let bytes = u32::try_from(packet.bytes).unwrap_or(u32::MAX);
        match limiter.admit_packets(now, bytes, packet.packets) {
            Ok(departure) => Admission::At(departure),
            Err(reason) => Admission::Refused(reason),
        }
    }

    /// Bytes that wait for this limiter.
    pub fn queued_bytes(&self, id: LimiterId, now: Nanos) -> u64 {
        self.limiter(id).map_or(0, |limiter| limiter.queued_bytes(now))
    }

    /// How long a packet that comes at `now` waits for this limiter.
    pub fn queueing_delay(&self, id: LimiterId, now: Nanos) -> Duration {
        self.limiter(id).map_or(Duration::ZERO, |limiter| limiter.queueing_delay(now))
    }

    fn limiter(&self, id: LimiterId) -> Option<&Limiter> {
        self.limiters.get(id.index())?.as_ref()
    }
}

fn packet_bound(per_second: u64) -> PacketBound {
    PacketBound {
        per_second,
        queue_max: (per_second * QUEUE_MS / 1000).max(BURST_PACKETS_MIN),
        burst: (per_second * BURST_US / 1_000_000).max(BURST_PACKETS_MIN),
    }
}

/// What a limiter says to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may leave then.
    At(Nanos),
    /// It is a super-packet that would make a burst which the rate forbids: in parts of at most so many segments.
    Split(usize),
    /// It may not.
    Refused(Reason),
}
