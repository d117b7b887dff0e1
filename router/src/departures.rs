//! Rate and delay: a packet passes limiters and delay lines in the order that its decision names, and waits where that takes
//! time. It comes to a limiter when it has left what lies before, so that a slow one holds up nobody else's packets at
//! the next.

use std::collections::HashMap;

use arrayvec::ArrayVec;
use vnet_dataplane::buffer::{BufferPool, PacketBuf};
use vnet_dataplane::shaper::DepartureQueue;
use vnet_dataplane::{
    Action, DelayId, FiveTuple, Headers, LimiterId, Nanos, Offload, PortId, Reason, Segments,
    VNET_HEADER_LEN, VnetHeader,
};
use vnet_fabric::snapshot::Snapshot;

use crate::core::{Core, Packet};
use crate::output::Output;
use crate::rates::Admission;

/// Memory of all that waits at a worker: 200 ms at 5 Gb/s, twice.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Memory that is kept for the next packets.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Limiters on one way: a machine's, and two at each end of a tunnel.
const STAGES_MAX: usize = 6;

/// A limiter, or none, and the delay behind it. All that passes the same one leaves in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stage {
    limiter: Option<LimiterId>,
    delay_ns: u64,
}

/// What a packet has to pass before its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages(ArrayVec<Stage, STAGES_MAX>);

impl Stages {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// False where no decision has so many.
    pub(crate) fn shape(&mut self, limiter: LimiterId) -> bool {
        self.0.try_push(Stage { limiter: Some(limiter), delay_ns: 0 }).is_ok()
    }

    /// False where no decision has so many.
    pub(crate) fn delay(&mut self, delay_ns: u64) -> bool {
        if let Some(last) = self.0.last_mut() {
            last.delay_ns += delay_ns;
            return true;
        }
        self.0.try_push(Stage { limiter: None, delay_ns }).is_ok()
    }
}

/// What is left of a packet's way: stages to pass, and a terminal action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    stages: &'a [Stage],
    end: Action,
}

impl Way<'_> {
    pub(crate) fn new(stages: &Stages, end: Action) -> Way<'_> {
        Way { stages: &stages.0, end }
    }
}

/// A packet that waits for its departure.
#[derive(Debug)]
struct Waiting {
    frame: PacketBuf,
    ingress: PortId,
    tuple: FiveTuple,
    packets: u64,
    bytes: u64,
    /// What it has to pass then.
    rest: Stages,
    /// What happens to it after that: a terminal action.
    end: Action,
}

/// What waits at a worker.
#[derive(Debug)]
pub(crate) struct Departures {
    queue: DepartureQueue<Waiting>,
    pool: BufferPool,
    lanes: HashMap<Stage, u32>,
    /// By delay line.
    delays_ns: Vec<u64>,
}

impl Departures {
    pub(crate) fn new() -> Departures {
        Departures {
            queue: DepartureQueue::new(WAITING_BYTES_MAX as u64),
            pool: BufferPool::new(WAITING_BYTES_MAX, KEPT_BYTES_MAX),
            lanes: HashMap::new(),
            delays_ns: Vec::new(),
        }
    }

    /// Takes the snapshot's delays. What waits keeps its departure.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot) {
        let size = snapshot.delays().iter().map(|spec| spec.id.index() + 1).max().unwrap_or(0);
        self.delays_ns.clear();
        self.delays_ns.resize(size, 0);
        for spec in snapshot.delays() {
            self.delays_ns[spec.id.index()] = spec.delay_ns;
        }
        if self.queue.is_empty() {
            self.lanes.clear();
        }
    }

    /// A line that is gone delays nothing.
    pub(crate) fn delay_ns(&self, line: DelayId) -> u64 {
        self.delays_ns.get(line.index()).copied().unwrap_or(0)
    }

    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        self.queue.next_timeout()
    }

    fn lane(&mut self, stage: Stage) -> u32 {
        // Lanes are as many as pairs of limiter and delay: never 2^32.
        let next = self.lanes.len() as u32;
        *self.lanes.entry(stage).or_insert(next)
    }

    fn push(&mut self, lane: u32, at: Nanos, packet: &Packet<'_>, rest: Way<'_>) -> Result<(), Reason> {
        let mut frame = self.pool.take(packet.frame).ok_or(Reason::ShaperQueueFull)?;
        let header = packet.offload.to_vnet(&packet.headers).to_bytes();
        frame.framed_mut()[..VNET_HEADER_LEN].copy_from_slice(&header);
        let waiting = Waiting {
            frame,
            ingress: packet.ingress,
            tuple: packet.headers.meta.tuple,
            packets: packet.packets,
            bytes: packet.bytes,
            rest: Stages(rest.stages.iter().copied().collect()),
            end: rest.end,
        };
        // A frame is at most 64 KiB, so the cast loses nothing.
        self.queue.push(lane, at, packet.frame.len() as u32, waiting).map_err(|waiting| {
            self.pool.give_back(waiting.frame);
            Reason::ShaperQueueFull
        })
    }
}

impl Core {
    /// Lets a packet pass the stages of its way, the first of which it reached at `entered`, and carries out its end, now
    /// or when it has passed them all.
    pub(crate) fn pass(
        &mut self,
        packet: &mut Packet<'_>,
        way: Way<'_>,
        entered: Nanos,
        now: Nanos,
        out: &mut impl Output,
    ) {
        let mut at = entered;
        for (index, stage) in way.stages.iter().enumerate() {
            if let Some(limiter) = stage.limiter {
                let admission = self.shared.rates().admit(limiter, at, packet);
                match admission {
                    Admission::At(departure) => at = departure,
                    Admission::Split(segments) => {
                        let way = Way { stages: &way.stages[index..], ..way };
                        return self.split(packet, segments, way, at, now, out);
                    }
                    Admission::Refused(reason) => return self.lose(packet, reason, now),
                }
            }
            at = Nanos(at.0 + stage.delay_ns);
            let lane = self.departures.lane(*stage);
            // Where an earlier packet is still here, though its time has come, this one leaves after it.
            if at > now || !self.departures.queue.is_lane_empty(lane) {
                let rest = Way { stages: &way.stages[index + 1..], ..way };
                if let Err(reason) = self.departures.push(lane, at, packet, rest) {
                    self.lose(packet, reason, now);
                }
                return;
            }
        }
        self.end(packet, way.end, now, out);
    }

    /// Lets a super-packet that is too large for a slow rate pass in parts of so many segments.
    fn split(
        &mut self,
        packet: &Packet<'_>,
        segments_max: usize,
        way: Way<'_>,
        entered: Nanos,
        now: Nanos,
        out: &mut impl Output,
    ) {
        let segments = Segments::new(packet.ip(), &packet.headers, packet.offload);
        let mut first = 0;
        while first < segments.count() {
            let count = segments_max.min(segments.count() - first);
            let room = VNET_HEADER_LEN + segments.len_of_part(first, count);
            let Some(mut buffer) = self.departures.pool.take_room(room) else {
                let left = (segments.count() - first) as u64;
                let tuple = Some(packet.headers.meta.tuple);
                return self.refuse(packet.ingress, tuple, Reason::ShaperQueueFull, None, left, now);
            };
            let frame = buffer.framed_mut();
            let offload = segments.write_part(first, count, &mut frame[VNET_HEADER_LEN..]);
            let headers = Headers::parse(&frame[VNET_HEADER_LEN..]);
            if let (Some(offload), Ok(headers)) = (offload, headers) {
                let vnet = offload.to_vnet(&headers).to_bytes();
                frame[..VNET_HEADER_LEN].copy_from_slice(&vnet);
                let (packets, bytes) = offload.wire(&headers);
                let ingress = packet.ingress;
                let mut part = Packet { ingress, frame, headers, offload, packets, bytes };
                self.pass(&mut part, way, entered, now, out);
            } else {
                self.lose(packet, Reason::Internal, now);
                first = segments.count();
            }
            self.departures.pool.give_back(buffer);
            first += count;
        }
    }

    /// Sends what is due.
    pub(crate) fn depart(&mut self, now: Nanos, out: &mut impl Output) {
        while let Some((at, _, mut waiting)) = self.departures.queue.pop_due(now) {
            let frame = waiting.frame.framed_mut();
            // It was parsed when it came; what has become of it since keeps it whole.
            let parsed = Headers::parse(&frame[VNET_HEADER_LEN..]).ok().and_then(|headers| {
                let (vnet, _) = VnetHeader::read(frame).ok()?;
                Some((headers, Offload::read(&vnet, &headers).ok()?))
            });
            let Waiting { ingress, tuple, packets, bytes, .. } = waiting;
            match parsed {
                Some((mut headers, offload)) => {
                    // A fragment that is not the first does not show its ports.
                    headers.meta.tuple = tuple;
                    let mut packet = Packet { ingress, frame, headers, offload, packets, bytes };
                    self.pass(&mut packet, Way::new(&waiting.rest, waiting.end), at, now, out);
                }
                None => self.refuse(ingress, Some(tuple), Reason::Internal, None, packets, now),
            }
            self.departures.pool.give_back(waiting.frame);
        }
    }
}
