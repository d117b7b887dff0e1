//! Small packets of a flow that leave in one batch, joined so that one write takes them all.

use vnet_dataplane::coalesce::Coalescer;
use vnet_dataplane::{Fragment, PortId, Protocol, TcpFlags};

use crate::core::{Core, Packet};
use crate::output::Output;

/// Flows whose packets wait at once; one more sends what the oldest has.
const FLOWS_MAX: usize = 4;
/// A segment that pushes ends what it is joined with.
const PSH: u8 = 0x08;
/// Longer packets are not copied for it.
const PACKET_BYTES_MAX: usize = 2048;

/// Packets of one flow.
#[derive(Debug)]
struct Gathered {
    joined: Coalescer,
    /// Where they go and where they came from.
    port: PortId,
    ingress: PortId,
    packets: u64,
    bytes: u64,
}

/// What waits for the end of the batch.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Empty where nothing is ever joined.
    flows: Box<[Gathered]>,
    /// Whether packets may wait: somebody will call [`Core::flush_gathered`].
    open: bool,
    waiting: usize,
    /// A packet was joined to one that waited.
    joined: bool,
    /// The flow that gives way next.
    next: usize,
}

impl Gather {
    pub(crate) fn new(coalescer: Option<fn() -> Coalescer>) -> Gather {
        let Some(coalescer) = coalescer else { return Gather::default() };
        let gathered =
            || Gathered { joined: coalescer(), port: PortId(0), ingress: PortId(0), packets: 0, bytes: 0 };
        Gather { flows: (0..FLOWS_MAX).map(|_| gathered()).collect(), ..Gather::default() }
    }

    /// Lets packets wait from now on.
    pub(crate) fn open(&mut self) {
        self.open = !self.flows.is_empty();
    }

    /// Lets packets wait no more. Whether some were joined since the last call.
    pub(crate) fn close(&mut self) -> bool {
        self.open = false;
        std::mem::take(&mut self.joined)
    }

    /// Where earlier packets of this one's flow wait.
    fn of(&self, packet: &Packet<'_>, port: PortId) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let tuple = packet.headers.tuple();
        self.flows.iter().position(|flow| {
            flow.port == port && flow.ingress == packet.ingress && flow.joined.tuple() == Some(tuple)
        })
    }
}

impl Core {
    /// Takes a packet for `port` in, to be written with its neighbours. False: it is to be written now, and whatever of
    /// its flow has waited is.
    pub(crate) fn gather(&mut self, packet: &Packet<'_>, port: PortId, out: &mut impl Output) -> bool {
        if !self.gather.open {
            return false;
        }
        let earlier = self.gather.of(packet, port);
        if let Some(index) = earlier {
            if self.gather.flows[index].push(packet) {
                self.gather.joined = true;
                return true;
            }
            self.flush_flow(index, out);
        }
        if !may_join(packet) {
            return false;
        }
        let index = earlier.unwrap_or(self.gather.next);
        self.flush_flow(index, out);
        self.gather.next = (index + 1) % self.gather.flows.len();
        let flow = &mut self.gather.flows[index];
        (flow.port, flow.ingress) = (port, packet.ingress);
        let taken = flow.push(packet);
        self.gather.waiting += usize::from(taken);
        taken
    }

    /// Writes what has waited.
    pub(crate) fn flush_gathered(&mut self, out: &mut impl Output) {
        for index in 0..self.gather.flows.len() {
            if self.gather.waiting == 0 {
                return;
            }
            self.flush_flow(index, out);
        }
    }

    fn flush_flow(&mut self, index: usize, out: &mut impl Output) {
        let flow = &mut self.gather.flows[index];
        let Some(frame) = flow.joined.finish() else { return };
        match out.transmit(flow.port, frame) {
            Ok(()) => self.ledger.sent(flow.port, flow.packets, flow.bytes),
            Err(reason) => self.ledger.dropped(flow.ingress, reason, flow.packets),
        }
        flow.joined.clear();
        (flow.packets, flow.bytes) = (0, 0);
        self.gather.waiting -= 1;
    }
}

impl Gathered {
    fn push(&mut self, packet: &Packet<'_>) -> bool {
        let taken = packet
            .offload
            .joinable()
            .is_some_and(|checksum| self.joined.push(packet.ip(), &packet.headers, checksum));
        if taken {
            self.packets += packet.packets;
            self.bytes += packet.bytes;
        }
        taken
    }
}

/// Whether a neighbour may continue this packet: it is a datagram or carries a TCP flow's data.
fn may_join(packet: &Packet<'_>) -> bool {
    let headers = &packet.headers;
    let protocol = match headers.protocol() {
        Protocol::UDP => true,
        Protocol::TCP => {
            headers.meta.tcp_flags.0 & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST | PSH) == 0
        }
        _ => false,
    };
    protocol
        && headers.payload() < headers.len()
        && headers.len() <= PACKET_BYTES_MAX
        && headers.fragment == Fragment::Whole
        && packet.offload.joinable().is_some()
}
