//! What replaying works on: everything of a router but its flows.

use std::net::SocketAddr;
use std::sync::Arc;

use vnet_dataplane::coalesce::Coalescer;
use vnet_dataplane::gso;
use vnet_dataplane::{
    Action, ChecksumState, FiveTuple, Headers, Nanos, Offload, PortId, Protocol, Reason, TunnelId,
    VNET_HEADER_LEN,
};
use vnet_fabric::snapshot::{PortKind, Snapshot};

use crate::departures::Departures;
use crate::drops::DropRecord;
use crate::gather::Gather;
use crate::ledger::Ledger;
use crate::output::Output;
use crate::shared::Shared;
use crate::tunnels::Sealed;

/// A frame's room: the longest super-packet, its header, and what sealing adds.
const SCRATCH_BYTES: usize = 2048 + 65_535;

/// Whole seconds of the clock that session records use.
pub(crate) fn seconds(now: Nanos) -> u32 {
    (now.0 / 1_000_000_000) as u32
}

/// A packet on its way.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) ingress: PortId,
    /// virtio_net header and packet, nothing behind it.
    pub(crate) frame: &'a mut [u8],
    pub(crate) headers: Headers,
    pub(crate) offload: Offload,
    /// IP packets after segmentation, and their bytes.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Packet<'_> {
    pub(crate) fn ip(&self) -> &[u8] {
        &self.frame[VNET_HEADER_LEN..]
    }
}

/// Everything of a router but its flows.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) departures: Departures,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) gather: Gather,
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, coalescer: Option<fn() -> Coalescer>) -> Core {
        Core {
            snapshot: Arc::new(Snapshot::default()),
            ledger: Arc::default(),
            departures: Departures::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            gather: Gather::new(coalescer),
            shared,
        }
    }

    /// Carries out a terminal action.
    pub(crate) fn end(&mut self, packet: &mut Packet<'_>, end: Action, now: Nanos, out: &mut impl Output) {
        match end {
            Action::Deliver(port) | Action::Proxy(port) => self.deliver(packet, port, out),
            Action::Seal(tunnel) => self.seal(packet, tunnel, now, out),
            Action::Drop(reason) => self.ledger.dropped(packet.ingress, reason, packet.packets),
            _ => self.ledger.dropped(packet.ingress, Reason::Internal, packet.packets),
        }
    }

    fn deliver(&mut self, packet: &mut Packet<'_>, port: PortId, out: &mut impl Output) {
        if self.gather(packet, port, out) {
            return;
        }
        let header = packet.offload.to_vnet(&packet.headers).to_bytes();
        packet.frame[..VNET_HEADER_LEN].copy_from_slice(&header);
        match out.transmit(port, packet.frame) {
            Ok(()) => self.ledger.sent(port, packet.packets, packet.bytes),
            Err(reason) => self.ledger.dropped(packet.ingress, reason, packet.packets),
        }
    }

    /// Seals a packet, segment by segment.
    pub(crate) fn seal(
        &mut self,
        packet: &mut Packet<'_>,
        tunnel: TunnelId,
        now: Nanos,
        out: &mut impl Output,
    ) {
        let mut taken = (0, 0);
        let mut lost = 0;
        let mut failure = Reason::TunnelDown;
        {
            let mut tunnels = self.shared.tunnels();
            let mut seal = |segment: &[u8]| match tunnels.seal(tunnel, segment, now, out) {
                Sealed::Taken => taken = (taken.0 + 1, taken.1 + segment.len() as u64),
                Sealed::Down => lost += 1,
                Sealed::TooBig => {
                    lost += 1;
                    failure = Reason::PacketTooBig;
                }
            };
            let ip = &mut packet.frame[VNET_HEADER_LEN..];
            if packet.offload.gso.is_some() {
                gso::for_each_segment(ip, &packet.headers, packet.offload, &mut self.scratch, &mut seal);
            } else {
                packet.offload.finish_checksum(ip, &packet.headers);
                seal(ip);
            }
        }
        if let Some(spec) = self.snapshot.tunnel(tunnel) {
            self.ledger.sent(spec.ingress, taken.0, taken.1);
        }
        if lost > 0 {
            self.ledger.dropped(packet.ingress, failure, lost);
        }
    }

    /// Counts and remembers a datagram that a tunnel's end has refused as if it were a packet of that end's.
    pub(crate) fn refuse_datagram(
        &mut self,
        port: PortId,
        (from, to): (SocketAddr, SocketAddr),
        payload_bytes: usize,
        reason: Reason,
        now: Nanos,
    ) {
        let headers_bytes = if from.is_ipv4() { 28 } else { 48 };
        self.ledger.received(port, 1, (headers_bytes + payload_bytes) as u64);
        self.ledger.dropped(port, reason, 1);
        let tuple = FiveTuple {
            protocol: Protocol::UDP,
            source: from.ip(),
            destination: to.ip(),
            source_port: from.port(),
            destination_port: to.port(),
        };
        let record = DropRecord { number: 0, at: now, port, tuple: Some(tuple), reason, rule: None };
        self.shared.drops().push(record);
    }

    /// Sends what was sealed, answers handshakes, and does what the tunnels' time demands.
    pub(crate) fn run_tunnels(&mut self, now: Nanos, out: &mut impl Output) {
        let mut tunnels = self.shared.tunnels();
        tunnels.flush(out);
        tunnels.handle_timeout(now, out);
        while let Some((tunnel, status)) = tunnels.next_change() {
            out.tunnel_changed(tunnel, status);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        let tunnels = self.shared.tunnels().next_timeout();
        [self.departures.next_timeout(), tunnels].into_iter().flatten().min()
    }

    /// The tunnel end whose opened packets enter by this port.
    pub(crate) fn tunnel_behind(&self, port: PortId) -> Option<TunnelId> {
        match self.snapshot.port(port)?.kind {
            PortKind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }
}

/// What a tunnel has opened and what waits for a neighbour of the same flow.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// A virtio_net header's room, and the packet that was opened last.
    pub(crate) buffer: Box<[u8]>,
    joined: Option<Coalescer>,
    port: Option<PortId>,
}

impl Opened {
    pub(crate) fn new(coalescer: Option<fn() -> Coalescer>) -> Opened {
        Opened {
            buffer: vec![0; VNET_HEADER_LEN + SCRATCH_BYTES].into_boxed_slice(),
            joined: coalescer.map(|coalescer| coalescer()),
            port: None,
        }
    }

    /// Adds the packet in the buffer to those that wait. False if it does not continue them.
    pub(crate) fn join(&mut self, port: PortId, length: usize) -> bool {
        let Some(joined) = &mut self.joined else { return false };
        if self.port.is_some_and(|waiting| waiting != port) {
            return false;
        }
        let packet = &self.buffer[VNET_HEADER_LEN..VNET_HEADER_LEN + length];
        let fits = Headers::parse(packet)
            .is_ok_and(|headers| joined.push(packet, &headers, ChecksumState::Complete));
        if fits {
            self.port = Some(port);
        }
        fits
    }

    /// Hands out what waits, as one frame.
    pub(crate) fn flush(&mut self, mut take: impl FnMut(PortId, &mut [u8])) {
        let (Some(port), Some(joined)) = (self.port.take(), &mut self.joined) else { return };
        if let Some(frame) = joined.finish() {
            take(port, frame);
        }
        joined.clear();
    }

    /// Hands out the packet in the buffer by itself.
    pub(crate) fn single(&mut self, length: usize, take: impl FnOnce(&mut [u8])) {
        self.buffer[..VNET_HEADER_LEN].fill(0);
        take(&mut self.buffer[..VNET_HEADER_LEN + length]);
    }
}
