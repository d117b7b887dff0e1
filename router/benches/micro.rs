//! What a whole packet costs in the router, from its device to its device.

#[path = "../../dataplane/benches/harness/mod.rs"]
mod harness;
#[path = "../../fabric/benches/labs/mod.rs"]
mod labs;

use std::net::SocketAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use harness::Body;
use labs::Lab;
use vnet_dataplane::{Nanos, PortId, Reason, SessionRecord, TcpFlags, TunnelId, VNET_HEADER_LEN};
use vnet_fabric::converge;
use vnet_gateway::ConnectionStatus;
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared};

/// Flows that are open beside the measured ones.
const FLOWS: u32 = 100_000;
/// As many new flows as a full table has in an endless measurement.
const NEW_FLOWS: u32 = 60_000;

fn main() {
    harness::main(
        "router",
        &[
            Body { name: "input-udp64-peering", build: || small(Lab::Peering) },
            Body { name: "input-udp64-firewall-10000", build: || small(Lab::Firewall) },
            Body { name: "input-udp64-nsg-1000", build: || small(Lab::Secured) },
            Body { name: "input-super-packet-peering", build: || super_packet(Lab::Peering) },
            Body { name: "input-super-packet-firewall-10000", build: || super_packet(Lab::Firewall) },
            Body { name: "input-firewall-100000-flows", build: many_flows },
            Body { name: "first-packet-peering", build: || first_packet(Lab::Peering) },
            Body { name: "first-packet-firewall-10000", build: || first_packet(Lab::Firewall) },
            Body { name: "first-packet-nsg-1000", build: || first_packet(Lab::Secured) },
            Body { name: "connection-peering", build: || connection(Lab::Peering) },
            Body { name: "connection-firewall-10000", build: || connection(Lab::Firewall) },
            Body { name: "connection-nsg-1000", build: || connection(Lab::Secured) },
        ],
    );
}

/// Counts frames and keeps none.
#[derive(Default)]
struct Sink {
    frames: u64,
}

impl Output for Sink {
    fn transmit(&mut self, _port: PortId, _frame: &[u8]) -> Result<(), Reason> {
        self.frames += 1;
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, _to: SocketAddr, _segment_size: usize, _data: &[u8]) -> bool {
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

struct Bench {
    router: Router,
    sink: Sink,
    ma: PortId,
    mb: PortId,
    now: Nanos,
}

impl Bench {
    fn new(lab: Lab) -> Bench {
        let snapshot = converge(&lab.topology()).1;
        let port = |name: &str| snapshot.port_by_name(name).expect("the lab has it").id;
        let (ma, mb) = (port("ma/eth0"), port("mb/eth0"));
        let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 18]);
        let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
        let mut router = Router::new(shared, RouterOptions::default(), 7);
        router.begin();
        Bench { router, sink: Sink::default(), ma, mb, now: Nanos::from_millis(1_000) }
    }

    /// A frame through the router; it must come out.
    fn pass(&mut self, port: PortId, frame: &mut [u8]) {
        let before = self.sink.frames;
        self.router.input(port, frame, self.now, &mut self.sink);
        assert_eq!(self.sink.frames, before + 1, "it was dropped");
    }
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_LEN];
    frame.extend_from_slice(packet);
    frame
}

/// A UDP datagram of 64 octets of payload in the direction of the flow.
fn udp() -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 1, 0, 4], [10, 2, 0, 4], 64).udp(40_000, 443);
    builder.write(&mut packet, &[7; 64]).expect("written to memory");
    framed(&packet)
}

/// A TCP segment from `ma` to `mb`, or back.
fn tcp(back: bool, port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) =
        if back { ([10, 2, 0, 4], [10, 1, 0, 4]) } else { ([10, 1, 0, 4], [10, 2, 0, 4]) };
    let ports = if back { (443, port) } else { (port, 443) };
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(source, destination, 64).tcp(ports.0, ports.1, 1, 512);
    builder.write(&mut packet, payload).expect("written to memory");
    packet[33] = flags;
    framed(&packet)
}

fn set_port(frame: &mut [u8], back: bool, port: u16) {
    let at = VNET_HEADER_LEN + if back { 22 } else { 20 };
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
}

/// TTL and header checksum as the sender wrote them: what passes a firewall comes out with less.
fn refresh(frame: &mut [u8], ttl_and_sum: &[u8; 4]) {
    frame[VNET_HEADER_LEN + 8] = ttl_and_sum[0];
    frame[VNET_HEADER_LEN + 10..VNET_HEADER_LEN + 12].copy_from_slice(&ttl_and_sum[2..]);
}

fn ttl_and_sum(frame: &[u8]) -> [u8; 4] {
    let at = VNET_HEADER_LEN + 8;
    [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]
}

const ACK: u8 = TcpFlags::ACK;
const SYN: u8 = TcpFlags::SYN;
const FIN: u8 = TcpFlags::FIN | TcpFlags::ACK;

fn repeat(mut bench: Bench, mut frame: Vec<u8>) -> Box<dyn FnMut()> {
    let fresh = ttl_and_sum(&frame);
    let ma = bench.ma;
    Box::new(move || {
        refresh(&mut frame, &fresh);
        bench.pass(ma, &mut frame);
    })
}

/// A small datagram of a known flow.
fn small(lab: Lab) -> Box<dyn FnMut()> {
    repeat(Bench::new(lab), udp())
}

/// 60 KiB of a known TCP flow.
fn super_packet(lab: Lab) -> Box<dyn FnMut()> {
    let mut bench = Bench::new(lab);
    let (ma, mb) = (bench.ma, bench.mb);
    bench.pass(ma, &mut tcp(false, 40_000, SYN, &[]));
    bench.pass(mb, &mut tcp(true, 40_000, SYN | ACK, &[]));
    bench.pass(ma, &mut tcp(false, 40_000, ACK, &[]));
    let mut frame = tcp(false, 40_000, ACK, &[7; 61_440]);
    // NEEDS_CSUM, TCP over IPv4, 1,448 octets a segment, the checksum at 16 of the header at 20.
    frame[..VNET_HEADER_LEN].copy_from_slice(&[1, 1, 40, 0, 0xa8, 0x05, 20, 0, 16, 0]);
    repeat(bench, frame)
}

/// A packet of one of many open flows through the firewall, none of them twice in a row.
fn many_flows() -> Box<dyn FnMut()> {
    let mut bench = Bench::new(Lab::Firewall);
    let (ma, mb) = (bench.ma, bench.mb);
    let handshake = [(ma, false, SYN), (mb, true, SYN | ACK), (ma, false, ACK)];
    for number in 0..FLOWS / 2 {
        for (from, back, flags) in handshake {
            bench.pass(from, &mut tcp(back, 10_000 + number as u16, flags, &[]));
        }
    }
    let mut there = tcp(false, 0, ACK, &[]);
    let fresh = ttl_and_sum(&there);
    let mut number = 1u32;
    Box::new(move || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        set_port(&mut there, false, 10_000 + ((u64::from(number) * u64::from(FLOWS / 2)) >> 32) as u16);
        refresh(&mut there, &fresh);
        bench.pass(ma, &mut there);
    })
}

/// A connection's SYN: a decision, its sessions and its flow. Old flows make room for new ones, as they expire.
fn first_packet(lab: Lab) -> Box<dyn FnMut()> {
    let mut bench = Bench::new(lab);
    let ma = bench.ma;
    let mut frame = tcp(false, 0, SYN, &[]);
    let fresh = ttl_and_sum(&frame);
    let mut number = 0u32;
    Box::new(move || {
        number = (number + 1) % NEW_FLOWS;
        if number == 0 {
            bench.now = bench.now + std::time::Duration::from_secs(60);
            for _ in 0..NEW_FLOWS / 100 {
                bench.now = bench.now + std::time::Duration::from_millis(250);
                bench.router.poll_output(bench.now, &mut bench.sink);
            }
        }
        set_port(&mut frame, false, number as u16);
        refresh(&mut frame, &fresh);
        bench.pass(ma, &mut frame);
    })
}

/// A connection of ten packets: handshake, a request and an answer, both closed; and the expiry that it brings on.
fn connection(lab: Lab) -> Box<dyn FnMut()> {
    let mut bench = Bench::new(lab);
    let (ma, mb) = (bench.ma, bench.mb);
    let talk = [
        (false, SYN, 0),
        (true, SYN | ACK, 0),
        (false, ACK, 0),
        (false, ACK, 100),
        (true, ACK, 0),
        (true, ACK, 1_000),
        (false, ACK, 0),
        (false, FIN, 0),
        (true, FIN, 0),
        (false, ACK, 0),
    ];
    let mut frames: Vec<(bool, Vec<u8>, [u8; 4])> = talk
        .iter()
        .map(|&(back, flags, length)| {
            let frame = tcp(back, 0, flags, &vec![7; length]);
            let fresh = ttl_and_sum(&frame);
            (back, frame, fresh)
        })
        .collect();
    let mut number = 0u32;
    Box::new(move || {
        number += 1;
        let port = (number % NEW_FLOWS) as u16;
        // 20,000 connections a second, and a turn of the timer after each 250 ms.
        bench.now = bench.now + std::time::Duration::from_micros(50);
        bench.router.poll_output(bench.now, &mut bench.sink);
        for (back, frame, fresh) in &mut frames {
            set_port(frame, *back, port);
            refresh(frame, fresh);
            let from = if *back { mb } else { ma };
            bench.router.begin();
            bench.router.input(from, frame, bench.now, &mut bench.sink);
        }
        assert!(bench.sink.frames >= 10 * u64::from(number), "a packet was dropped");
    })
}
