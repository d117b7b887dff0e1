//! Taps: copies of the packets of some ports or links, each with what became of it.
//!
//! A router without a tap does nothing per packet for them. With one, packets take a way around the usual one: the
//! frame is copied as it came, the output is listened to, and the verdict read from what the packet left behind.

use std::net::SocketAddr;
use std::sync::Arc;

use vnet_dataplane::{
    Action, CounterId, FiveTuple, FlowKey, Headers, Nanos, OffloadCounts, OffloadEntry, OffloadSlot, PortId,
    Reason, TunnelId, VNET_HEADER_LEN,
};
use vnet_fabric::{RuleId, Verdict};
use vnet_gateway::ConnectionStatus;

use crate::output::Output;
use crate::router::Router;

/// Which packets a tap takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// Those that enter or leave by these ports.
    pub ports: Vec<PortId>,
    /// Those that enter anywhere and are counted by one of these: what crosses a peering, or goes through a tunnel.
    pub counters: Vec<CounterId>,
}

impl TapFilter {
    fn has_port(&self, port: PortId) -> bool {
        self.ports.contains(&port)
    }

    fn counts(&self, actions: &[Action]) -> bool {
        actions
            .iter()
            .any(|action| matches!(action, Action::Count(counter) if self.counters.contains(counter)))
    }

    fn takes_flow(&self, ingress: PortId, actions: &[Action]) -> bool {
        let ends = |action: &Action| matches!(action, Action::Deliver(port) if self.has_port(*port));
        self.has_port(ingress) || actions.last().is_some_and(ends) || self.counts(actions)
    }
}

/// A packet that a tap took.
#[derive(Clone, Debug)]
pub struct Tapped<'a> {
    /// When it came or left.
    pub at: Nanos,
    /// Where.
    pub port: PortId,
    /// It came in by the port; else it went out of it.
    pub entered: bool,
    /// What became of a packet that came in; `None` for what a host says to its own link, which no router hears. A
    /// packet that waits for a shaper or a delay line has the verdict of its flow: it leaves later.
    pub verdict: Option<Verdict>,
    /// What decided that, where one rule or route did.
    pub decided_by: Option<RuleId>,
    /// The IP packet: as it came, or as it left. A super-packet is whole, with the checksum as far as it was done.
    pub packet: &'a [u8],
}

/// Takes packets. Called on the packet's way: it must not wait.
pub trait TapSink: std::fmt::Debug + Send + Sync {
    /// Takes a packet, or counts it as lost.
    fn take(&self, packet: &Tapped<'_>);
}

/// Names a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapId(pub u64);

/// A tap of one router.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    id: TapId,
    filter: TapFilter,
    sink: Arc<dyn TapSink>,
}

impl Tap {
    pub(crate) fn takes_flow(&self, ingress: PortId, actions: &[Action]) -> bool {
        self.filter.takes_flow(ingress, actions)
    }
}

/// An output that takes note of what leaves.
struct Listening<'a> {
    inner: &'a mut dyn Output,
    taps: &'a [Tap],
    at: Nanos,
    delivered: Option<PortId>,
    failed: Option<Reason>,
}

impl Output for Listening<'_> {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), Reason> {
        let outcome = self.inner.transmit(port, frame);
        match outcome {
            Ok(()) => {
                self.delivered = Some(port);
                let packet = &frame[VNET_HEADER_LEN..];
                let tapped =
                    Tapped { at: self.at, port, entered: false, verdict: None, decided_by: None, packet };
                let wanted = self.taps.iter().filter(|tap| tap.filter.has_port(port));
                wanted.for_each(|tap| tap.sink.take(&tapped));
            }
            Err(reason) => self.failed = Some(reason),
        }
        outcome
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, segment_size: usize, data: &[u8]) -> bool {
        self.inner.send(from, to, segment_size, data)
    }

    fn tunnel_changed(&mut self, tunnel: TunnelId, status: ConnectionStatus) {
        self.inner.tunnel_changed(tunnel, status);
    }

    fn offload(&mut self, entry: &OffloadEntry) -> Option<OffloadSlot> {
        self.inner.offload(entry)
    }

    fn offloaded(&self, slot: OffloadSlot) -> Option<OffloadCounts> {
        self.inner.offloaded(slot)
    }

    fn renew(&mut self, slot: OffloadSlot, epoch: u32) -> bool {
        self.inner.renew(slot, epoch)
    }

    fn withdraw(&mut self, slot: OffloadSlot) {
        self.inner.withdraw(slot);
    }

    fn release(&mut self, slot: OffloadSlot) {
        self.inner.release(slot);
    }
}

/// What became of a packet.
struct Fate {
    verdict: Option<Verdict>,
    decided_by: Option<RuleId>,
    /// What was done with it, where it belongs to a flow.
    actions: Option<Arc<[Action]>>,
}

impl Router {
    /// Copies packets to `sink` from now on. Their flows come back from wherever they are replayed.
    pub fn tap(&mut self, id: TapId, filter: TapFilter, sink: Arc<dyn TapSink>) {
        self.recall(|ingress, actions| filter.takes_flow(ingress, actions));
        self.taps.push(Tap { id, filter, sink });
    }

    /// Ends a tap.
    pub fn untap(&mut self, id: TapId) {
        self.taps.retain(|tap| tap.id != id);
    }

    /// Whether a tap takes the packets of such a flow.
    pub(crate) fn is_tapped(&self, ingress: PortId, actions: &[Action]) -> bool {
        self.taps.iter().any(|tap| tap.takes_flow(ingress, actions))
    }

    /// Routes a frame as [`Router::input`] does, and hands what the taps want to them.
    #[cold]
    pub(crate) fn take_tapped(&mut self, port: PortId, frame: &mut [u8], now: Nanos, out: &mut dyn Output) {
        let taps = self.taps.clone();
        let wanted = |tap: &Tap| tap.filter.has_port(port) || !tap.filter.counters.is_empty();
        let copy = taps.iter().any(wanted).then(|| frame.to_vec());
        let mark = self.core.shared.drops().mark();
        let mut out = Listening { inner: out, taps: &taps, at: now, delivered: None, failed: None };
        self.take(port, frame, now, &mut out);
        let (delivered, failed) = (out.delivered, out.failed);
        let Some(packet) = copy.as_ref().and_then(|copy| copy.get(VNET_HEADER_LEN..)) else { return };
        let fate = self.fate(port, packet, mark, delivered, failed);
        let tapped = Tapped {
            at: now,
            port,
            entered: true,
            verdict: fate.verdict,
            decided_by: fate.decided_by,
            packet,
        };
        for tap in &taps {
            let counted = fate.actions.as_ref().is_some_and(|actions| tap.filter.counts(actions));
            if tap.filter.has_port(port) || counted {
                tap.sink.take(&tapped);
            }
        }
    }

    /// Sends what is due, and hands what leaves by tapped ports to the taps.
    #[cold]
    pub(crate) fn depart_tapped(&mut self, now: Nanos, out: &mut dyn Output) {
        let taps = self.taps.clone();
        let mut out = Listening { inner: out, taps: &taps, at: now, delivered: None, failed: None };
        self.core.depart(now, &mut out);
    }

    /// What became of the packet that was routed last. The log of drops since `mark` knows more than the flow: a packet
    /// can be lost on its way.
    fn fate(
        &self,
        port: PortId,
        packet: &[u8],
        mark: u64,
        delivered: Option<PortId>,
        failed: Option<Reason>,
    ) -> Fate {
        let tuple = Headers::parse(packet).ok().map(|headers| headers.meta.tuple);
        let logged = {
            let drops = self.core.shared.drops();
            let mut own = drops.since(mark).filter(|record| record.port == port && same(record.tuple, tuple));
            own.next_back().map(|record| (record.reason, record.rule))
        };
        let flow = tuple.and_then(|tuple| self.flows.lookup(&FlowKey::new(port, &tuple)));
        let decided_by = flow.and_then(|id| self.flows.get(id).decided_by()).map(RuleId);
        let actions = flow.map(|id| Arc::clone(self.flows.actions(id)));
        let end = actions.as_ref().and_then(|actions| actions.last().copied());
        let (verdict, decided_by) = match (failed, logged, end, delivered) {
            (Some(reason), ..) => (Some(Verdict::Drop(reason)), None),
            (_, Some((reason, rule)), ..) => (Some(Verdict::Drop(reason)), rule),
            (.., Some(Action::Deliver(to) | Action::Proxy(to)), _) => {
                (Some(Verdict::Deliver(to)), decided_by)
            }
            (.., Some(Action::Seal(tunnel)), _) => (Some(Verdict::Seal(tunnel)), decided_by),
            (.., Some(Action::Drop(reason)), _) => (Some(Verdict::Drop(reason)), decided_by),
            (.., to) => (to.map(Verdict::Deliver), None),
        };
        Fate { verdict, decided_by, actions }
    }
}

fn same(logged: Option<FiveTuple>, own: Option<FiveTuple>) -> bool {
    // A fragment is logged with the ports of its packet's first one, which it does not have itself.
    let addresses = |tuple: FiveTuple| (tuple.protocol, tuple.source, tuple.destination);
    logged.map(addresses) == own.map(addresses)
}
