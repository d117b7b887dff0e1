//! A lab without namespaces: a router, its tunnels looped back to itself, and machines that send, answer and
//! forward. Every packet is a real one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use vnet_analysis::impact::LiveState;
use vnet_dataplane::{
    FiveTuple, Headers, Nanos, PortId, Protocol, Reason, SessionRecord, TunnelId, VNET_HEADER_LEN,
};
use vnet_fabric::Snapshot;
use vnet_fabric::snapshot::{PortKind, TunnelSpec};
use vnet_gateway::{ConnectionMode, ConnectionStatus, PresharedKey, PrivateKey, TunnelConfig, TunnelKeys};
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared, TunnelSetup};

/// Sessions that a simulated lab has room for.
const SESSIONS_MAX: usize = 1 << 15;
/// How often a machine that forwards gets the same packet before it counts as running in a circle.
const FORWARDS_MAX: usize = 64;
/// The port of all tunnels.
const TUNNEL_PORT: u16 = 51_820;

/// What the router has sent and nobody has taken yet.
#[derive(Debug, Default)]
pub struct Wires {
    /// Frames for devices.
    pub frames: VecDeque<(PortId, Vec<u8>)>,
    /// Datagrams for sockets: from, to, payload.
    pub datagrams: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Output for Wires {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), Reason> {
        self.frames.push_back((port, frame.to_vec()));
        Ok(())
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, segment_size: usize, data: &[u8]) -> bool {
        self.datagrams.extend(data.chunks(segment_size.max(1)).map(|data| (from, to, data.to_vec())));
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

/// The lab.
#[derive(Debug)]
pub struct Simulation {
    /// The router.
    pub router: Router,
    /// What is under way.
    pub wires: Wires,
    now: Nanos,
}

impl Simulation {
    /// A lab of this snapshot, its tunnels set up and their handshakes done.
    pub fn new(snapshot: Snapshot) -> Simulation {
        let memory = SessionMemory::new(vec![SessionRecord::FREE; SESSIONS_MAX]);
        let setups = setups(&snapshot);
        let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
        let now = Nanos::from_millis(1_000);
        shared.tunnels().set(setups, now).expect("every end has a key of its own");
        let options = RouterOptions { flows_max: 1 << 16, ..RouterOptions::default() };
        let mut simulation =
            Simulation { router: Router::new(shared, options, 7), wires: Wires::default(), now };
        simulation.router.begin();
        simulation.settle();
        simulation
    }

    /// Brings another snapshot of the same lab into force, from the next packet on. Tunnels stay as they were set up.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.router.shared().snapshot.store(Arc::new(snapshot));
        self.router.begin();
    }

    /// What the router knows of the flows that live.
    pub fn live(&self) -> LiveState {
        let records = self.router.flows(self.now);
        LiveState {
            flows: vnet_router::conversations(self.router.snapshot(), records),
            sessions: self.router.shared().standing_sessions(),
        }
    }

    /// Sends an IP packet from a port, and follows it to the device that takes it, or to its drop.
    ///
    /// # Errors
    /// The reason of the drop; `Internal` where the packet was neither delivered nor dropped.
    pub fn send(&mut self, port: PortId, packet: &[u8]) -> Result<(PortId, Vec<u8>), Reason> {
        let mark = self.router.shared().drops().mark();
        let mut at = port;
        let mut frame = framed(packet);
        for _ in 0..FORWARDS_MAX {
            self.now = self.now + Duration::from_millis(1);
            self.router.begin();
            self.router.input(at, &mut frame, self.now, &mut self.wires);
            self.settle();
            let Some((to, arrived)) = self.wires.frames.pop_front() else {
                let drops = self.router.shared().drops();
                return Err(drops.since(mark).last().map_or(Reason::Internal, |drop| drop.reason));
            };
            assert!(self.wires.frames.is_empty(), "one packet made more than one");
            if !self.is_to_forward(to, &arrived) {
                return Ok((to, arrived[VNET_HEADER_LEN..].to_vec()));
            }
            (at, frame) = (to, arrived);
        }
        Err(Reason::RoutingLoop)
    }

    /// What traceroute prints: who answers packets of growing TTLs, `*` for a hop that stays silent, and the
    /// destination, or the reason of the drop, last.
    pub fn trace(&mut self, port: PortId, tuple: FiveTuple) -> Vec<String> {
        let mut hops = Vec::new();
        for ttl in 1..=FORWARDS_MAX as u8 {
            let mut sent = packet(tuple, false);
            set_ttl(&mut sent, ttl);
            match self.answer(port, tuple, framed(&sent)) {
                Answer::Arrived => {
                    hops.push(tuple.destination.to_string());
                    return hops;
                }
                Answer::Expired(hop) => hops.push(hop.map_or("*".to_owned(), |hop| hop.to_string())),
                Answer::Dropped(reason) => {
                    hops.push(reason.name().to_owned());
                    return hops;
                }
            }
        }
        hops
    }

    fn answer(&mut self, port: PortId, tuple: FiveTuple, mut frame: Vec<u8>) -> Answer {
        let mark = self.router.shared().drops().mark();
        let mut at = port;
        loop {
            self.now = self.now + Duration::from_millis(1);
            self.router.begin();
            self.router.input(at, &mut frame, self.now, &mut self.wires);
            self.settle();
            let Some((to, mut arrived)) = self.wires.frames.pop_front() else {
                let last = self.router.shared().drops().since(mark).last().map(|drop| drop.reason);
                return match last {
                    Some(Reason::TtlExceeded) => Answer::Expired(None),
                    reason => Answer::Dropped(reason.unwrap_or(Reason::Internal)),
                };
            };
            let headers =
                Headers::parse(&arrived[VNET_HEADER_LEN..]).expect("the router sends sound packets");
            if to == port && headers.meta.tuple.destination == tuple.source {
                return Answer::Expired(Some(headers.meta.tuple.source));
            }
            if !self.is_to_forward(to, &arrived) {
                return Answer::Arrived;
            }
            // A machine that forwards is a hop: its own kernel answers.
            let ttl = headers.meta.ttl;
            if ttl <= 1 {
                let info = self.router.snapshot().port(to).expect("the router knows its ports");
                let v4 = tuple.source.is_ipv4();
                return Answer::Expired(
                    info.addresses.iter().map(|own| own.addr()).find(|own| own.is_ipv4() == v4),
                );
            }
            set_ttl(&mut arrived[VNET_HEADER_LEN..], ttl - 1);
            (at, frame) = (to, arrived);
        }
    }

    fn is_to_forward(&self, port: PortId, frame: &[u8]) -> bool {
        let info = self.router.snapshot().port(port).expect("the router knows its ports");
        let headers = Headers::parse(&frame[VNET_HEADER_LEN..]).expect("the router sends sound packets");
        matches!(info.kind, PortKind::Nic { .. }) && !info.has_address(headers.meta.tuple.destination)
    }

    /// Carries datagrams from socket to socket until none is left.
    fn settle(&mut self) {
        loop {
            self.router.poll_output(self.now, &mut self.wires);
            let Some((from, to, data)) = self.wires.datagrams.pop_front() else { return };
            self.router.datagram(to, from, &data, self.now, &mut self.wires);
        }
    }

    /// Throws one frame at a port, and lets whatever comes out fall.
    pub fn shower(&mut self, port: PortId, frame: &mut [u8]) {
        self.now = self.now + Duration::from_micros(10);
        self.router.input(port, frame, self.now, &mut self.wires);
        self.settle();
        self.wires.frames.clear();
    }

    /// Waits until nothing is queued any more.
    pub fn rest(&mut self) {
        for _ in 0..100 {
            self.now = self.now + Duration::from_millis(100);
            self.settle();
            self.wires.frames.clear();
        }
    }

    /// Lets time pass in which nobody sends.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(250);
            self.settle();
            self.wires.frames.clear();
        }
    }

    /// Packets that came in and were made, and packets that went out and were dropped: equal, if none is lost.
    pub fn balance(&self) -> (u64, u64) {
        let ledger = self.router.ledger();
        let (mut entered, mut left) = (ledger.generated.packets.get(), 0);
        for port in self.router.snapshot().ports() {
            if let Some(counts) = ledger.port(port.id) {
                entered += counts.received.packets.get();
                left += counts.sent.packets.get();
                left += counts.drops.iter().map(|drops| drops.get()).sum::<u64>();
            }
        }
        (entered, left)
    }
}

/// What becomes of a packet of a small TTL.
enum Answer {
    Arrived,
    Expired(Option<IpAddr>),
    Dropped(Reason),
}

/// Sets TTL or hop limit of a packet without options, and an IPv4 header's checksum.
fn set_ttl(packet: &mut [u8], ttl: u8) {
    if packet[0] >> 4 == 6 {
        packet[7] = ttl;
        return;
    }
    packet[8] = ttl;
    packet[10..12].fill(0);
    let words = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A frame without offloads.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_LEN];
    frame.extend_from_slice(packet);
    frame
}

/// Tunnel ends whose other end is in the lab, with keys made from their handles.
fn setups(snapshot: &Snapshot) -> Vec<TunnelSetup> {
    let private = |id: TunnelId| {
        let mut bytes = [0x42; 32];
        bytes[..4].copy_from_slice(&id.0.to_le_bytes());
        PrivateKey::from_bytes(bytes)
    };
    let setup = |spec: &TunnelSpec| {
        let vnet_fabric::snapshot::TunnelPeer::Tunnel(peer) = spec.peer else { return None };
        let keys = TunnelKeys {
            private_key: private(spec.id),
            peer_public_key: private(peer).public_key(),
            preshared_key: spec.shared_key.0.as_deref().map(PresharedKey::from_shared_key),
            keepalive_s: 0,
        };
        let remote = SocketAddr::new(spec.remote, TUNNEL_PORT);
        let (mode, dead_peer_s) = (ConnectionMode::Default, spec.dead_peer_s);
        let config = TunnelConfig { id: spec.id, keys, remote, roaming: false, mode, dead_peer_s };
        Some(TunnelSetup { local: SocketAddr::new(spec.local, TUNNEL_PORT), config })
    };
    snapshot.tunnels().filter(|spec| !spec.is_held).filter_map(setup).collect()
}

/// The first packet of a flow, or its answer.
pub fn packet(tuple: FiveTuple, answer: bool) -> Vec<u8> {
    built(tuple, answer, true)
}

/// A packet in the middle of a flow, of the side that began it or of the other.
pub fn later_packet(tuple: FiveTuple, answer: bool) -> Vec<u8> {
    built(tuple, answer, false)
}

fn built(tuple: FiveTuple, answer: bool, first: bool) -> Vec<u8> {
    let payload = [0x5a; 32];
    let mut packet = Vec::new();
    let builder = match (tuple.source, tuple.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("both ends of a flow are of one family"),
    };
    let (from, to) = (tuple.source_port, tuple.destination_port);
    let written = match tuple.protocol {
        Protocol::TCP if !first => builder.tcp(from, to, 3, 4_096).ack(4).write(&mut packet, &payload),
        Protocol::TCP if answer => builder.tcp(from, to, 1, 4_096).syn().ack(2).write(&mut packet, &payload),
        Protocol::TCP => builder.tcp(from, to, 1, 4_096).syn().write(&mut packet, &payload),
        Protocol::UDP => builder.udp(from, to).write(&mut packet, &payload),
        Protocol::ICMP if answer => builder.icmpv4_echo_reply(from, 1).write(&mut packet, &payload),
        Protocol::ICMP => builder.icmpv4_echo_request(from, 1).write(&mut packet, &payload),
        _ if answer => builder.icmpv6_echo_reply(from, 1).write(&mut packet, &payload),
        _ => builder.icmpv6_echo_request(from, 1).write(&mut packet, &payload),
    };
    written.expect("written to memory");
    packet
}
