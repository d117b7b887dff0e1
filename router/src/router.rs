//! A packet's way: headers, fragments, flow table, replay; a miss asks for a decision.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vnet_dataplane::coalesce::Coalescer;
use vnet_dataplane::fragment_tracker::FragmentTracker;
use vnet_dataplane::{
    Action, FiveTuple, FlowId, FlowKey, FlowState, FlowTable, FunctionId, Headers, Malformed, Nanos, Offload,
    PacketMeta, PortId, Reason, SessionSide, Timeouts, VNET_HEADER_LEN, VnetHeader,
};
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Decision, RuleId, Verdict};

use crate::core::{Core, Packet};
use crate::ledger::Ledger;
use crate::offload::Offloading;
use crate::output::Output;
use crate::shared::Shared;
use crate::slow::Standing;
use crate::tap::Tap;
use crate::tunnels::Carried;

/// Flows and sessions that one call looks at for expiry.
const EXPIRY_BUDGET: usize = 256;
/// Fragmented packets that are followed at once.
const FRAGMENTED_MAX: usize = 4096;
/// How often idle flows and sessions are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
/// The same while more wait than one call looks at: as many go as a quarter of a million a second.
const EXPIRY_BEHIND: Duration = Duration::from_millis(1);

/// Most flows of one NIC: Azure's limit of concurrent flows.
pub const NIC_FLOWS_MAX: usize = 500_000;

/// Bounds and switches of a router.
#[derive(Clone, Copy, Debug)]
pub struct RouterOptions {
    /// Most flows, a direction each, of one worker.
    pub flows_max: usize,
    /// Most flows of one worker that enter by one NIC.
    pub nic_flows_max: usize,
    /// Join neighbours of a flow into super-packets: what a tunnel opened, and what [`Router::gather`] lets wait.
    pub coalesce: bool,
    /// Datagrams too: whoever takes the frames can segment them.
    pub datagrams: bool,
    /// Offer plain flows to whoever can replay them elsewhere, see [`Output::offload`].
    pub offload: bool,
}

impl Default for RouterOptions {
    fn default() -> Self {
        RouterOptions {
            flows_max: 1 << 20,
            nic_flows_max: NIC_FLOWS_MAX,
            coalesce: true,
            datagrams: true,
            offload: true,
        }
    }
}

/// One flow, as `vnetctl flows` shows it.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// Where its packets enter.
    pub port: PortId,
    /// As they enter.
    pub tuple: FiveTuple,
    /// As they leave, after every translation on the way.
    pub leaves_as: FiveTuple,
    /// What is done to each, in order.
    pub actions: Arc<[Action]>,
    /// Where they end.
    pub verdict: Verdict,
    /// The rule that decided.
    pub decided_by: Option<RuleId>,
    /// Stateful functions that they pass, in order.
    pub functions: Vec<FunctionId>,
    /// The rules by which those let them pass, in the same order.
    pub rules: Vec<RuleId>,
    /// Its oldest session, by the second in which it was opened, and which way the packets run in it; none where it has no
    /// session.
    pub began: Option<(u32, SessionSide)>,
    /// When its first packet came, to a quarter of a second.
    pub created: Nanos,
    /// Where the flow stands.
    pub state: FlowState,
    /// IP packets after segmentation.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since the last packet.
    pub idle: Duration,
    /// Its packets are replayed elsewhere.
    pub offloaded: bool,
}

/// One worker's router.
#[derive(Debug)]
pub struct Router {
    pub(crate) flows: FlowTable,
    pub(crate) fragments: FragmentTracker,
    pub(crate) nic_flows_max: usize,
    pub(crate) core: Core,
    pub(crate) offloading: Offloading,
    /// Its number among the lab's workers.
    pub(crate) worker: u32,
    pub(crate) taps: Vec<Tap>,
    /// The last one that was made.
    pub(crate) decision: Box<Decision>,
    pub(crate) epoch: u32,
    /// When idle flows and sessions are looked for.
    next_expiry: Nanos,
    /// When what others have replayed is merged, and fragments are forgotten.
    next_turn: Nanos,
    opened: crate::core::Opened,
}

impl Router {
    /// A router of the lab whose state is `shared`. `seed` is a secret number, see [`Shared::new`].
    pub fn new(shared: Arc<Shared>, options: RouterOptions, seed: u64) -> Router {
        let coalescers = options.coalesce.then_some(if options.datagrams {
            Coalescer::new as fn() -> Coalescer
        } else {
            Coalescer::for_segments
        });
        let worker = shared.handover.join();
        Router {
            worker,
            flows: FlowTable::new(options.flows_max, Timeouts::default(), seed),
            fragments: FragmentTracker::new(FRAGMENTED_MAX, seed),
            opened: crate::core::Opened::new(coalescers),
            epoch: 0,
            next_expiry: Nanos::ZERO,
            next_turn: Nanos::ZERO,
            nic_flows_max: options.nic_flows_max,
            core: Core::new(shared, coalescers),
            offloading: Offloading::new(options.offload),
            taps: Vec::new(),
            decision: Box::default(),
        }
    }

    /// What it has counted.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.core.ledger
    }

    /// The state that it shares.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.core.shared
    }

    /// The snapshot of the present batch.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.core.snapshot
    }

    /// Begins a batch: takes the snapshot in force, so that the whole batch sees one policy.
    pub fn begin(&mut self) {
        if self.core.refresh() {
            // Epochs rise by one with each change; no flow lives through 2^32 of them.
            self.epoch = self.core.snapshot.epoch() as u32;
        }
    }

    /// Takes one frame, a 10-byte virtio_net header and an IP packet, from a port.
    pub fn input(&mut self, port: PortId, frame: &mut [u8], now: Nanos, out: &mut impl Output) {
        if self.taps.is_empty() {
            self.take(port, frame, now, out);
        } else {
            self.take_tapped(port, frame, now, out);
        }
    }

    pub(crate) fn take(&mut self, port: PortId, frame: &mut [u8], now: Nanos, out: &mut impl Output) {
        match read(port, frame) {
            Ok(Some(packet)) => self.route(packet, now, out),
            Ok(None) => {}
            Err(_) => {
                let bytes = frame.len().saturating_sub(VNET_HEADER_LEN) as u64;
                self.core.ledger.received(port, 1, bytes);
                self.core.refuse(port, None, Reason::Malformed, None, 1, now);
            }
        }
    }

    /// Lets packets that neighbours may follow wait from now on, until [`Router::flush_gathered`] writes them together.
    pub fn gather(&mut self) {
        self.core.gather.open();
    }

    /// Writes what has waited. Nothing waits any more, until [`Router::gather`] is called again. Whether packets were joined
    /// to others since then.
    pub fn flush_gathered(&mut self, out: &mut impl Output) -> bool {
        self.core.flush_gathered(out);
        self.core.gather.close()
    }

    fn route(&mut self, mut packet: Packet<'_>, now: Nanos, out: &mut impl Output) {
        let (packets, bytes) = packet.offload.wire(&packet.headers);
        (packet.packets, packet.bytes) = (packets, bytes);
        self.core.ledger.received(packet.ingress, packets, bytes);
        if let Err(reason) = self.fragments.track(packet.ingress, &mut packet.headers, now) {
            self.core.refuse(packet.ingress, Some(packet.headers.meta.tuple), reason, None, packets, now);
            return;
        }
        if packet.headers.is_icmp_error() {
            // Errors are few, and each may belong to another flow: they are decided one by one.
            let actions = self.decide_once(&packet, now);
            self.core.replay(&mut packet, &actions, now, out);
            return;
        }
        match self.flow_of(&packet, now) {
            Ok(id) => self.core.replay(&mut packet, self.flows.actions(id), now, out),
            Err(reason) => {
                let tuple = Some(packet.headers.meta.tuple);
                self.core.refuse(packet.ingress, tuple, reason, None, packets, now);
            }
        }
    }

    /// The flow that a packet belongs to, decided and told of it.
    fn flow_of(&mut self, packet: &Packet<'_>, now: Nanos) -> Result<FlowId, Reason> {
        let meta = &packet.headers.meta;
        let key = FlowKey::new(packet.ingress, &meta.tuple);
        let known = self.flows.lookup(&key).filter(|id| !self.is_stale(*id, meta, now));
        let id = match known {
            Some(id) => id,
            None => self.decide_flow(key, packet, now)?,
        };
        let due = self.flows.touch(id, meta.tcp_flags, packet.packets, packet.bytes, now);
        if due { self.look(id, packet, now) } else { Ok(id) }
    }

    /// Looks at a flow whose state may have changed or that was not looked at for a while.
    #[cold]
    fn look(&mut self, id: FlowId, packet: &Packet<'_>, now: Nanos) -> Result<FlowId, Reason> {
        let flow = self.flows.get(id);
        match self.core.touch_sessions(flow, packet.headers.meta.tcp_flags, now) {
            Standing::Gone => {
                let key = flow.key();
                return self.decide_flow(key, packet, now);
            }
            // A handshake is followed packet by packet: whose turn it was decides whether it is through.
            Standing::Opening => self.flows.look_soon(id),
            Standing::Open => {}
        }
        self.consider(id, now);
        Ok(id)
    }

    /// Whether a flow has to be decided anew before this packet: by age or epoch, or because the packet opens a
    /// connection of its own.
    fn is_stale(&self, id: FlowId, meta: &PacketMeta, now: Nanos) -> bool {
        meta.tcp_flags.opens() || self.flows.is_stale(id, self.epoch, meta.tcp_flags, now)
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Takes a datagram that came from `from` to the tunnel socket of `local`. What it carried waits for
    /// [`Router::flush_opened`].
    pub fn datagram(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        data: &[u8],
        now: Nanos,
        out: &mut impl Output,
    ) {
        let room = &mut self.opened.buffer[VNET_HEADER_LEN..];
        let carried = self.core.shared.tunnels().open(local, from, data, room, now);
        let port = |tunnel| self.core.snapshot.tunnel(tunnel).map(|spec| spec.ingress);
        match carried {
            Carried::Nothing => {}
            Carried::Packet(tunnel, length) => {
                if let Some(port) = port(tunnel) {
                    self.join_or_route(port, length, now, out);
                }
            }
            Carried::Refused(tunnel, reason) => {
                if let Some(port) = port(tunnel) {
                    self.core.refuse_datagram(port, (from, local), data.len(), reason, now);
                }
            }
        }
    }

    fn join_or_route(&mut self, port: PortId, length: usize, now: Nanos, out: &mut impl Output) {
        // The buffers leave the router for the time in which it works on what they hold.
        let mut opened = std::mem::take(&mut self.opened);
        if !opened.join(port, length) {
            opened.flush(|port, frame| self.input(port, frame, now, out));
            if !opened.join(port, length) {
                opened.single(length, |frame| self.input(port, frame, now, out));
            }
        }
        self.opened = opened;
    }

    /// Routes what was opened and still waits for a neighbour.
    pub fn flush_opened(&mut self, now: Nanos, out: &mut impl Output) {
        let mut opened = std::mem::take(&mut self.opened);
        opened.flush(|port, frame| self.input(port, frame, now, out));
        self.opened = opened;
    }

    /// Ends a batch: sends what was sealed, and whatever is due by `now`.
    pub fn poll_output(&mut self, now: Nanos, out: &mut impl Output) {
        self.flush_opened(now, out);
        if self.taps.is_empty() {
            self.core.depart(now, out);
        } else {
            self.depart_tapped(now, out);
        }
        self.core.run_tunnels(now, out);
        self.settle_offloads(now, out);
        if self.next_turn <= now {
            self.next_turn = now + EXPIRY_INTERVAL;
            self.merge_some(now, out);
            self.fragments.expire(now);
        }
        if self.next_expiry <= now {
            self.flows.expire(now, EXPIRY_BUDGET, |_| {});
            let behind = self.core.expire_sessions(now, EXPIRY_BUDGET) | self.flows.is_behind(now);
            self.next_expiry = now + if behind { EXPIRY_BEHIND } else { EXPIRY_INTERVAL };
            self.settle_offloads(now, out);
        }
    }

    /// Packets wait for their departure: whoever works on a long batch looks at the clock in between, and calls
    /// [`Router::depart`].
    #[inline]
    pub fn is_timing(&self) -> bool {
        self.core.departures.next_timeout().is_some()
    }

    /// When the next packet departs.
    pub fn next_departure(&self) -> Option<Nanos> {
        self.core.departures.next_timeout()
    }

    /// Sends what is due by `now`. Those that go into tunnels are sealed, and sent at the batch's end.
    pub fn depart(&mut self, now: Nanos, out: &mut impl Output) {
        self.core.depart(now, out);
    }

    /// When [`Router::poll_output`] has something to do; `None` if nothing waits.
    pub fn next_timeout(&self) -> Option<Nanos> {
        let busy = !self.flows.is_empty() || !self.offloading.is_empty();
        let expiry = busy.then_some(self.next_expiry.min(self.next_turn));
        [expiry, self.core.next_timeout()].into_iter().flatten().min()
    }

    /// Every flow of this worker.
    pub fn flows(&self, now: Nanos) -> Vec<FlowRecord> {
        let sessions = self.core.shared.sessions();
        self.flows
            .iter()
            .filter_map(|(id, flow)| {
                let verdict = match self.flows.actions(id).last()? {
                    Action::Deliver(port) | Action::Proxy(port) => Verdict::Deliver(*port),
                    Action::Seal(tunnel) => Verdict::Seal(*tunnel),
                    Action::Drop(reason) => Verdict::Drop(*reason),
                    _ => return None,
                };
                let passed = || flow.sessions().iter().filter_map(|session| sessions.get(*session));
                let opened = flow
                    .sessions()
                    .iter()
                    .filter_map(|session| Some((sessions.get(*session)?.created_s(), session.side())));
                Some(FlowRecord {
                    port: flow.key().ingress(),
                    tuple: flow.key().tuple(),
                    leaves_as: rewritten(flow.key().tuple(), self.flows.actions(id)),
                    actions: Arc::clone(self.flows.actions(id)),
                    verdict,
                    decided_by: flow.decided_by().map(RuleId),
                    functions: passed().map(|session| session.function()).collect(),
                    rules: passed().map(|session| RuleId(session.rule())).collect(),
                    began: opened.min_by_key(|(created_s, _)| *created_s),
                    created: flow.created(),
                    state: flow.state(),
                    packets: flow.packets,
                    bytes: flow.bytes,
                    idle: now.since(flow.last_seen()),
                    offloaded: self.is_offloaded(flow.offload()),
                })
            })
            .collect()
    }

    /// Flows by state, for the gauge.
    pub fn flow_counts(&self) -> [(&'static str, u64); 5] {
        let count = |state| self.flows.count(state) as u64;
        [
            ("new", count(FlowState::Opening)),
            ("established", count(FlowState::Established)),
            ("closing", count(FlowState::Closing)),
            ("datagram", count(FlowState::Datagram)),
            ("denied", count(FlowState::Dropped)),
        ]
    }
}

/// What a list of actions makes of a packet's tuple.
fn rewritten(mut tuple: FiveTuple, actions: &[Action]) -> FiveTuple {
    for action in actions {
        let port = match *action {
            Action::RewriteSource { address, port } => {
                tuple.source = address;
                tuple.source_port = port.unwrap_or(tuple.source_port);
                port
            }
            Action::RewriteDestination { address, port } => {
                tuple.destination = address;
                tuple.destination_port = port.unwrap_or(tuple.destination_port);
                port
            }
            _ => continue,
        };
        // An echo has one identifier, which stands on both sides.
        if let (Some(identifier), true) = (port, tuple.protocol.is_icmp()) {
            (tuple.source_port, tuple.destination_port) = (identifier, identifier);
        }
    }
    tuple
}

/// Reads a frame's headers. `None` for what a host says to its own link, which no router hears.
fn read(port: PortId, frame: &mut [u8]) -> Result<Option<Packet<'_>>, Malformed> {
    let (vnet, bytes) = VnetHeader::read(frame)?;
    let headers = Headers::parse(bytes)?;
    if headers.is_link_noise() {
        return Ok(None);
    }
    let offload = Offload::read(&vnet, &headers)?;
    let length = VNET_HEADER_LEN + headers.len();
    Ok(Some(Packet { ingress: port, frame: &mut frame[..length], headers, offload, packets: 1, bytes: 0 }))
}
