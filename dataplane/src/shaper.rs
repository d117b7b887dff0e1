//! Rate and delay as one departure time: t = max(now, when the limiter is free) + delay.
//!
//! All octets are those of IP packets after segmentation. A limiter only computes when a packet may leave; the
//! [`DepartureQueue`] holds it until then.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::reason::Reason;
use crate::time::Nanos;

const BIT_NS_PER_BYTE: u64 = 8 * 1_000_000_000;

/// Nanoseconds that octets take at a rate, exact in the long run: what a division leaves over is carried.
#[derive(Clone, Copy, Debug)]
struct Pace {
    bits_per_second: u64,
    carried: u64,
}

impl Pace {
    fn new(bits_per_second: u64) -> Pace {
        Pace { bits_per_second: bits_per_second.max(1), carried: 0 }
    }

    fn spend(&mut self, bytes: u32) -> u64 {
        let work = u64::from(bytes) * BIT_NS_PER_BYTE + self.carried;
        self.carried = work % self.bits_per_second;
        work / self.bits_per_second
    }

    fn bytes_in(&self, nanos: u64) -> u64 {
        (u128::from(nanos) * u128::from(self.bits_per_second) / u128::from(BIT_NS_PER_BYTE)) as u64
    }

    fn nanos_of(&self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * u128::from(BIT_NS_PER_BYTE) / u128::from(self.bits_per_second);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// A bound on packets, whatever their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketBound {
    /// Packets per second.
    pub per_second: u64,
    /// How many wait at most.
    pub queue_max: u64,
    /// How many go at once after a pause.
    pub burst: u64,
}

/// Where a bound on packets stands.
#[derive(Clone, Debug)]
struct PacketPace {
    bound: PacketBound,
    /// When every packet that was admitted has been sent at the bound's rate.
    free_at: Nanos,
    /// What divisions have left over, as [`Pace`] carries it.
    carried: u64,
}

impl PacketPace {
    fn nanos_of(&self, packets: u64) -> u64 {
        let nanos = u128::from(packets) * 1_000_000_000 / u128::from(self.bound.per_second.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn burst_ns(&self) -> u64 {
        self.nanos_of(self.bound.burst)
    }

    fn behind_ns(&self, now: Nanos) -> u64 {
        self.free_at.0.saturating_sub(now.0).saturating_sub(self.burst_ns())
    }

    fn is_full(&self, now: Nanos, packets: u64) -> bool {
        let behind = self.behind_ns(now);
        let queued = u128::from(behind) * u128::from(self.bound.per_second) / 1_000_000_000;
        behind > 0 && queued + u128::from(packets) > u128::from(self.bound.queue_max)
    }

    fn admit(&mut self, now: Nanos, packets: u64) -> Nanos {
        let start = self.free_at.max(now);
        let per_second = self.bound.per_second.max(1);
        let work = packets.saturating_mul(1_000_000_000).saturating_add(self.carried);
        self.carried = work % per_second;
        self.free_at = Nanos(start.0.saturating_add(work / per_second));
        Nanos(start.0.saturating_sub(self.burst_ns())).max(now)
    }
}

/// A rate limiter with a bounded queue, as a single number: when it is free again. With a bound on packets there are two, and a
/// packet leaves when both let it.
#[derive(Clone, Debug)]
pub struct Limiter {
    pace: Pace,
    /// When everything that was admitted has been sent at the configured rate.
    free_at: Nanos,
    queue_bytes_max: u64,
    burst_bytes: u64,
    packets: Option<PacketPace>,
}

impl Limiter {
    /// Sends at `bits_per_second`, holds back at most `queue_bytes_max`, and after a pause lets up to
    /// `burst_bytes` go at once.
    pub fn new(bits_per_second: u64, queue_bytes_max: u64, burst_bytes: u64) -> Limiter {
        Limiter {
            pace: Pace::new(bits_per_second),
            free_at: Nanos::ZERO,
            queue_bytes_max,
            burst_bytes,
            packets: None,
        }
    }

    /// Bounds packets too, or no more, for what is admitted from now on.
    pub fn bound_packets(&mut self, bound: Option<PacketBound>) {
        let before = self.packets.take();
        let free_at = before.map_or(Nanos::ZERO, |before| before.free_at);
        self.packets = bound.map(|bound| PacketPace { bound, free_at, carried: 0 });
    }

    /// Packets that may leave at once, where they are bounded.
    pub fn burst_packets(&self) -> Option<u64> {
        self.packets.as_ref().map(|packets| packets.bound.burst)
    }

    /// The configured rate.
    pub fn bits_per_second(&self) -> u64 {
        self.pace.bits_per_second
    }

    /// Octets that may leave at once: what is larger makes a burst that shows.
    pub fn burst_bytes(&self) -> u64 {
        self.burst_bytes
    }

    /// Changes the rate and the bounds for what is admitted from now on.
    pub fn configure(&mut self, bits_per_second: u64, queue_bytes_max: u64, burst_bytes: u64) {
        self.pace = Pace::new(bits_per_second);
        self.queue_bytes_max = queue_bytes_max;
        self.burst_bytes = burst_bytes;
    }

    /// When a packet of so many octets may leave, not before `now`; [`Reason::ShaperQueueFull`] where as much
    /// as the queue holds is waiting already. A packet that can leave at once is always admitted.
    pub fn admit(&mut self, now: Nanos, bytes: u32) -> Result<Nanos, Reason> {
        self.admit_packets(now, bytes, 1)
    }

    /// As [`Limiter::admit`], of a super-packet that becomes so many packets.
    pub fn admit_packets(&mut self, now: Nanos, bytes: u32, packets: u64) -> Result<Nanos, Reason> {
        let queued = self.queued_bytes(now);
        let is_full = queued > 0 && queued + u64::from(bytes) > self.queue_bytes_max;
        if is_full || self.packets.as_ref().is_some_and(|pace| pace.is_full(now, packets)) {
            return Err(Reason::ShaperQueueFull);
        }
        let by_packets = self.packets.as_mut().map_or(now, |pace| pace.admit(now, packets));
        let start = self.free_at.max(now);
        let departure = Nanos(start.0.saturating_sub(self.burst_ns())).max(now);
        self.free_at = Nanos(start.0.saturating_add(self.pace.spend(bytes)));
        Ok(departure.max(by_packets))
    }

    /// Octets that wait for the rate at `now`; those that wait for the bound on packets alone are not known.
    pub fn queued_bytes(&self, now: Nanos) -> u64 {
        let behind = self.free_at.0.saturating_sub(now.0);
        self.pace.bytes_in(behind.saturating_sub(self.burst_ns()))
    }

    /// How long a packet admitted at `now` would wait.
    pub fn queueing_delay(&self, now: Nanos) -> Duration {
        let by_packets = self.packets.as_ref().map_or(0, |pace| pace.behind_ns(now));
        let by_bytes = Nanos(self.free_at.0.saturating_sub(self.burst_ns())).since(now);
        by_bytes.max(Duration::from_nanos(by_packets))
    }

    fn burst_ns(&self) -> u64 {
        self.pace.nanos_of(self.burst_bytes)
    }
}

/// A token bucket: what exceeds it is dropped, nothing waits.
#[derive(Clone, Debug)]
pub struct Policer {
    pace: Pace,
    /// When the bucket is full again.
    full_at: Nanos,
    burst_bytes: u64,
}

impl Policer {
    /// Lets `bits_per_second` pass, and `burst_bytes` at once.
    pub fn new(bits_per_second: u64, burst_bytes: u64) -> Policer {
        Policer { pace: Pace::new(bits_per_second), full_at: Nanos::ZERO, burst_bytes }
    }

    /// [`Reason::PolicerDrop`] where the bucket holds less than the packet.
    pub fn admit(&mut self, now: Nanos, bytes: u32) -> Result<(), Reason> {
        let missing = self.pace.bytes_in(self.full_at.0.saturating_sub(now.0));
        if missing + u64::from(bytes) > self.burst_bytes {
            return Err(Reason::PolicerDrop);
        }
        let start = self.full_at.max(now);
        self.full_at = Nanos(start.0.saturating_add(self.pace.spend(bytes)));
        Ok(())
    }
}

/// Room that an empty lane keeps, in items: to give back more costs little against what filled it.
const KEPT_ITEMS: usize = 1024;

#[derive(Debug)]
struct Waiting<T> {
    departure: Nanos,
    bytes: u32,
    item: T,
}

/// Packets that wait for their departure times. Each lane is a ring in order of arrival, so that nothing in a
/// lane overtakes; the lanes' heads are kept in a heap. Bounded in octets over all lanes.
#[derive(Debug)]
pub struct DepartureQueue<T> {
    lanes: Vec<VecDeque<Waiting<T>>>,
    heads: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    /// Breaks ties between lanes in order of arrival.
    sequence: u64,
    bytes: u64,
    bytes_max: u64,
    len: usize,
}

impl<T> DepartureQueue<T> {
    /// An empty queue for at most `bytes_max` octets.
    pub fn new(bytes_max: u64) -> DepartureQueue<T> {
        DepartureQueue {
            lanes: Vec::new(),
            heads: BinaryHeap::new(),
            sequence: 0,
            bytes: 0,
            bytes_max,
            len: 0,
        }
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing waits in this lane.
    pub fn is_lane_empty(&self, lane: u32) -> bool {
        self.lanes.get(lane as usize).is_none_or(VecDeque::is_empty)
    }

    /// Lets `item` wait in `lane` until `departure`, or until the one before it in the lane departs, if that is
    /// later. `lane` is a dense index. Gives the item back where the queue is full.
    pub fn push(&mut self, lane: u32, departure: Nanos, bytes: u32, item: T) -> Result<(), T> {
        if self.bytes + u64::from(bytes) > self.bytes_max {
            return Err(item);
        }
        if self.lanes.len() <= lane as usize {
            self.lanes.resize_with(lane as usize + 1, VecDeque::new);
        }
        let ring = &mut self.lanes[lane as usize];
        let departure = ring.back().map_or(departure, |last| last.departure.max(departure));
        if ring.is_empty() {
            self.heads.push(Reverse((departure, self.sequence, lane)));
            self.sequence += 1;
        }
        ring.push_back(Waiting { departure, bytes, item });
        self.bytes += u64::from(bytes);
        self.len += 1;
        Ok(())
    }

    /// When the next packet departs.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.heads.peek().map(|Reverse((departure, _, _))| *departure)
    }

    /// The next packet whose time has come, with its departure time and lane.
    pub fn pop_due(&mut self, now: Nanos) -> Option<(Nanos, u32, T)> {
        let mut head = self.heads.peek_mut()?;
        let Reverse((departure, _, lane)) = *head;
        if departure > now {
            return None;
        }
        let ring = &mut self.lanes[lane as usize];
        let waiting = ring.pop_front()?;
        if let Some(next) = ring.front() {
            *head = Reverse((next.departure, self.sequence, lane));
            self.sequence += 1;
        } else {
            PeekMut::pop(head);
            if ring.capacity() > KEPT_ITEMS {
                ring.shrink_to(KEPT_ITEMS);
            }
        }
        self.bytes -= u64::from(waiting.bytes);
        self.len -= 1;
        Some((waiting.departure, lane, waiting.item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn keeps_the_rate_under_overload() {
        let mut rng = Rng::new(1);
        for rate in [10_000_000u64, 650_000_000, 5_000_000_000] {
            let mut limiter = Limiter::new(rate, rate / 8 / 50, 3_000);
            let mut queue = DepartureQueue::new(u64::MAX);
            let (mut now, mut offered, mut sent, mut dropped) = (0u64, 0u64, 0u64, 0u64);
            let (start, end) = (1_000_000_000u64, 3_000_000_000u64);
            while now < end {
                let bytes = 28 + rng.below(1_472) as u32;
                offered += u64::from(bytes);
                match limiter.admit(Nanos(now), bytes) {
                    Ok(departure) => assert!(queue.push(0, departure, bytes, bytes).is_ok()),
                    Err(_) => dropped += 1,
                }
                while let Some((departure, _, bytes)) = queue.pop_due(Nanos(now)) {
                    if departure.0 >= start {
                        sent += u64::from(bytes);
                    }
                }
                assert!(queue.bytes() <= rate / 8 / 50 + 1_500);
                now = (u128::from(offered) * 8_000_000_000 * 10 / 12 / u128::from(rate)) as u64;
            }
            let expected = rate / 8 * (end - start) / 1_000_000_000;
            let error = sent.abs_diff(expected) as f64 / expected as f64;
            assert!(error < 0.001, "rate {rate}: {sent} of {expected}");
            assert!(dropped > 0);
        }
    }

    #[test]
    fn no_loss_and_no_wait_below_the_rate() {
        let mut limiter = Limiter::new(1_000_000_000, 100_000, 0);
        for packet in 0..10_000u64 {
            let now = Nanos(packet * 13_000);
            assert_eq!(limiter.admit(now, 1_500), Ok(now));
            assert_eq!(limiter.queueing_delay(now), Duration::from_nanos(12_000));
        }
    }

    #[test]
    fn a_burst_goes_at_once() {
        let mut limiter = Limiter::new(8_000_000, 10_000, 3_000);
        let now = Nanos::from_millis(1);
        assert_eq!([1_000; 4].map(|bytes| limiter.admit(now, bytes).unwrap()), [now; 4]);
        assert_eq!(limiter.admit(now, 1_000), Ok(Nanos::from_millis(2)));
        assert_eq!(limiter.queued_bytes(now), 2_000);
        for _ in 0..8 {
            limiter.admit(now, 1_000).unwrap();
        }
        assert_eq!(limiter.admit(now, 1_000), Err(Reason::ShaperQueueFull));
        assert_eq!(limiter.queued_bytes(Nanos::from_millis(3)), 8_000);
    }

    #[test]
    fn bounds_packets_whatever_their_sizes() {
        let bound = PacketBound { per_second: 62_000, queue_max: 3_100, burst: 64 };
        for (bytes, expected) in [(100, 62_000), (1_400, 58_035)] {
            let mut limiter = Limiter::new(650_000_000, 4_062_500, 40_625);
            limiter.bound_packets(Some(bound));
            let (mut queue, mut sent, mut dropped) = (DepartureQueue::new(u64::MAX), 0u64, 0u64);
            // 100,000 packets a second for 3 s; counted is the last second.
            for step in 0..300_000u64 {
                let now = Nanos(step * 10_000);
                match limiter.admit(now, bytes) {
                    Ok(departure) => assert!(queue.push(0, departure, bytes, ()).is_ok()),
                    Err(reason) => {
                        assert_eq!(reason, Reason::ShaperQueueFull);
                        dropped += 1;
                    }
                }
                while let Some((departure, _, ())) = queue.pop_due(now) {
                    sent += u64::from(departure.0 >= 2_000_000_000);
                }
                assert!(queue.len() <= 3_100 + 64, "{}", queue.len());
            }
            assert!(sent.abs_diff(expected) < 10, "{bytes} bytes: {sent} of {expected}");
            assert!(dropped > 0);
        }
    }

    #[test]
    fn a_super_packet_counts_its_segments() {
        let mut limiter = Limiter::new(10_000_000_000, 1 << 20, 1 << 17);
        limiter.bound_packets(Some(PacketBound { per_second: 1_000, queue_max: 100, burst: 2 }));
        let now = Nanos::from_millis(5);
        assert_eq!(limiter.admit_packets(now, 2_000, 2), Ok(now));
        assert_eq!(limiter.admit_packets(now, 2_000, 2), Ok(now));
        assert_eq!(limiter.admit_packets(now, 10_000, 10), Ok(now + Duration::from_millis(2)));
        assert_eq!(limiter.queueing_delay(now), Duration::from_millis(12));
        assert_eq!(limiter.admit_packets(now, 89_000, 89), Err(Reason::ShaperQueueFull));
        limiter.bound_packets(None);
        assert_eq!(limiter.admit(now, 1_000), Ok(now));
    }

    #[test]
    fn polices_to_the_rate() {
        let mut policer = Policer::new(80_000_000, 20_000);
        let mut passed = 0u64;
        for step in 0..20_000u64 {
            if policer.admit(Nanos(step * 100_000), 1_250).is_ok() {
                passed += 1_250;
            }
        }
        // Offered 100 Mb/s for 2 s.
        assert!(passed.abs_diff(20_000_000) < 40_000, "{passed}");
        assert_eq!(policer.admit(Nanos::from_millis(60_000), 20_001), Err(Reason::PolicerDrop));
    }

    #[test]
    fn departures_in_order_and_never_overtaking() {
        let mut rng = Rng::new(2);
        let mut queue = DepartureQueue::new(1_000_000);
        let mut pushed = [0u32; 5];
        for _ in 0..5_000 {
            let lane = rng.below(5);
            let departure = Nanos(rng.below(1_000) as u64);
            queue.push(lane as u32, departure, 100, pushed[lane]).unwrap();
            pushed[lane] += 1;
        }
        assert_eq!((queue.len(), queue.bytes()), (5_000, 500_000));
        let mut popped = [0u32; 5];
        let mut last = Nanos::ZERO;
        for now in 0..1_000 {
            while let Some((departure, lane, number)) = queue.pop_due(Nanos(now)) {
                assert!(departure >= last && departure <= Nanos(now));
                last = departure;
                assert_eq!(number, popped[lane as usize]);
                popped[lane as usize] += 1;
            }
            assert!(queue.next_timeout().is_none_or(|next| next > Nanos(now)));
        }
        assert_eq!(popped, pushed);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let mut queue = DepartureQueue::new(1_000);
        assert_eq!(queue.push(0, Nanos(1), 1_000, "a"), Ok(()));
        assert_eq!(queue.push(1, Nanos(1), 1, "b"), Err("b"));
        assert_eq!(
            (queue.is_lane_empty(0), queue.is_lane_empty(1), queue.is_lane_empty(7)),
            (false, true, true)
        );
        assert_eq!(queue.next_timeout(), Some(Nanos(1)));
    }
}
