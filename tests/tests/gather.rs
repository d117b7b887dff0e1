//! Packets that were joined for one write are the packets that would have been written one by one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use vnet_dataplane::{
    ChecksumState, FiveTuple, Headers, Nanos, Offload, PortId, Protocol, SessionRecord, VNET_HEADER_LEN,
    VnetHeader, checksum, gso,
};
use vnet_fabric::converge;
use vnet_router::{Router, RouterOptions, SessionMemory, Shared};
use vnet_tests::accept::load;
use vnet_tests::fabric::Fabric;
use vnet_tests::simulation::Wires;
use vnet_tests::subject::Subject;

const NOW: Nanos = Nanos(1_000_000_000);
const DONT_FRAGMENT: u8 = 0x40;

fn topology() -> serde_json::Value {
    json!({
        "name": "ex",
        "virtualNetworks": {"v": {"addressSpace": ["10.1.0.0/16"], "subnets": {"s": "10.1.0.0/24"}}},
        "virtualMachines": {
            "ma": {"subnet": "v/s", "privateIPAddress": "10.1.0.4"},
            "mb": {"subnet": "v/s", "privateIPAddress": "10.1.0.5"},
            "mc": {"subnet": "v/s", "privateIPAddress": "10.1.0.6"},
        },
    })
}

fn router(coalesce: bool) -> Router {
    let (_, snapshot) = converge(&Arc::new(load(&topology()).expect("the topology is accepted")));
    let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 12]);
    let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
    let options = RouterOptions { flows_max: 1 << 12, coalesce, ..RouterOptions::default() };
    let mut router = Router::new(shared, options, 7);
    router.begin();
    router
}

/// One packet of ma's.
#[derive(Clone, Debug)]
struct Sent {
    to: u8,
    source_port: u16,
    tcp: bool,
    payload: usize,
    partial: bool,
    dont_fragment: bool,
    id_step: u16,
    ttl: u8,
    flags: u8,
}

fn sent() -> impl Strategy<Value = Sent> {
    let sizes = prop_oneof![6 => Just(64), 1 => Just(32), 1 => Just(0), 1 => 1usize..1_400];
    (
        (5u8..7, 0u16..3, prop::bool::weighted(0.3), sizes),
        (
            prop::bool::weighted(0.8),
            any::<bool>(),
            prop_oneof![4 => Just(1u16), 1 => Just(0u16), 1 => Just(2u16)],
        ),
        (
            prop_oneof![20 => Just(64u8), 1 => Just(63u8)],
            prop_oneof![10 => Just(0x10u8), 1 => Just(0x18), 1 => Just(0x11)],
        ),
    )
        .prop_map(|((to, port, tcp, payload), (partial, dont_fragment, id_step), (ttl, flags))| Sent {
            to,
            source_port: 4_000 + port,
            tcp,
            payload,
            partial,
            dont_fragment,
            id_step,
            ttl,
            flags,
        })
}

/// The frames of these packets; flows count their identifications and sequence numbers on.
fn frames(packets: &[Sent]) -> Vec<Vec<u8>> {
    let mut counted: BTreeMap<(u8, u16, bool), (u16, u32)> = BTreeMap::new();
    let mut frames = Vec::new();
    for (number, sent) in packets.iter().enumerate() {
        let (id, sequence) = counted.entry((sent.to, sent.source_port, sent.tcp)).or_default();
        *id = id.wrapping_add(sent.id_step);
        let mut l4 = Vec::new();
        l4.extend(sent.source_port.to_be_bytes());
        l4.extend(9_u16.to_be_bytes());
        if sent.tcp {
            l4.extend(sequence.to_be_bytes());
            l4.extend([0, 0, 0, 1, 0x50, sent.flags, 0x10, 0, 0, 0, 0, 0]);
            *sequence = sequence.wrapping_add(sent.payload as u32);
        } else {
            l4.extend((8 + sent.payload as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend((0..sent.payload).map(|at| (at + number) as u8));
        let mut packet = vec![0x45, 0];
        packet.extend((20 + l4.len() as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend([if sent.dont_fragment { DONT_FRAGMENT } else { 0 }, 0, sent.ttl]);
        packet.extend([if sent.tcp { 6 } else { 17 }, 0, 0, 10, 1, 0, 4, 10, 1, 0, sent.to]);
        packet.extend(l4);
        checksum::write_ipv4_header(&mut packet);
        let headers = Headers::parse(&packet).expect("a sound packet");
        let mut vnet = VnetHeader::default();
        if sent.partial {
            let field = headers.l4() + if sent.tcp { 16 } else { 6 };
            let tuple = headers.tuple();
            let length = packet.len() - headers.l4();
            let sum = checksum::pseudo_header_sum(tuple.source, tuple.destination, tuple.protocol, length);
            packet[field..field + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
            vnet = Offload::partial(None).to_vnet(&headers);
        } else {
            checksum::write_transport(&mut packet, &headers);
        }
        frames.push([&vnet.to_bytes()[..], &packet].concat());
    }
    frames
}

/// What arrives, as packets on a wire, by port and flow.
type Arrived = BTreeMap<(u32, String), Vec<Vec<u8>>>;

fn arrived(wires: &Wires) -> Arrived {
    let mut arrived = Arrived::new();
    let mut scratch = vec![0; 1 << 16];
    for (port, frame) in &wires.frames {
        let (vnet, packet) = VnetHeader::read(frame).expect("a frame");
        let headers = Headers::parse(packet).expect("a packet");
        let mut offload = Offload::read(&vnet, &headers).expect("a sound header");
        let flow = arrived.entry((port.0, format!("{:?}", headers.tuple()))).or_default();
        let mut take = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            if packet[6] & DONT_FRAGMENT != 0 && headers.protocol() == Protocol::UDP {
                // RFC 6864: the identification of such a packet means nothing.
                packet[4..6].fill(0);
                checksum::write_ipv4_header(&mut packet);
            }
            flow.push(packet);
        };
        if offload.gso.is_some() {
            gso::for_each_segment(packet, &headers, offload, &mut scratch, take);
        } else {
            let mut packet = packet.to_vec();
            offload.finish_checksum(&mut packet, &headers);
            take(&packet);
        }
    }
    arrived
}

/// Frames through a router that gathers, and through one that does not.
fn both(packets: &[Sent], batch: usize) -> [(Router, Wires); 2] {
    let fabric = Fabric::build(&topology()).expect("the topology is accepted");
    let port = fabric.port_of("ma");
    [true, false].map(|gathers| {
        let (mut router, mut wires) = (router(gathers), Wires::default());
        for batch in frames(packets).chunks(batch) {
            router.gather();
            for frame in batch {
                router.input(port, &mut frame.clone(), NOW, &mut wires);
            }
            router.flush_gathered(&mut wires);
        }
        (router, wires)
    })
}

fn balance(router: &Router, ports: u32) -> String {
    let port = |port| format!("{:?}", router.ledger().port(PortId(port)));
    format!("{:?} {:?}", router.ledger().balance(), (0..ports).map(port).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn joined_packets_are_the_packets(packets in prop::collection::vec(sent(), 1..150), batch in 1usize..100) {
        let [(gathering, joined), (plain, single)] = both(&packets, batch);
        prop_assert_eq!(single.frames.len(), packets.len());
        prop_assert!(joined.frames.len() <= single.frames.len());
        prop_assert_eq!(arrived(&joined), arrived(&single));
        prop_assert_eq!(balance(&gathering, 16), balance(&plain, 16));
    }
}

/// A datagram of 64 octets with an unfinished checksum.
fn datagram() -> Sent {
    Sent {
        to: 5,
        source_port: 4_000,
        tcp: false,
        payload: 64,
        partial: true,
        dont_fragment: true,
        id_step: 0,
        ttl: 64,
        flags: 0,
    }
}

#[test]
fn sixty_four_datagrams_are_one_write() {
    let datagram = datagram();
    let [(_, joined), _] = both(&vec![datagram.clone(); 130], 130);
    let lengths: Vec<usize> = joined.frames.iter().map(|(_, frame)| frame.len()).collect();
    let of = |datagrams: usize| VNET_HEADER_LEN + 28 + datagrams * 64;
    assert_eq!(lengths, [of(64), of(64), of(2)]);

    let complete = Sent { partial: false, ..datagram.clone() };
    let mixed = [datagram.clone(), complete.clone(), complete, datagram];
    let [(_, joined), _] = both(&mixed, 4);
    assert_eq!(joined.frames.len(), 3, "partial and complete checksums are not mixed");
}

#[test]
fn it_is_told_whether_packets_were_joined() {
    let port = Fabric::build(&topology()).expect("the topology is accepted").port_of("ma");
    let (mut router, mut wires) = (router(true), Wires::default());
    let datagram = datagram();
    let other = Sent { source_port: 4_001, ..datagram.clone() };
    for (batch, joined) in [
        (vec![datagram.clone(); 2], true),
        (vec![datagram.clone(), other], false),
        (vec![datagram; 100], true),
    ] {
        router.gather();
        for mut frame in frames(&batch) {
            router.input(port, &mut frame, NOW, &mut wires);
        }
        assert_eq!(router.flush_gathered(&mut wires), joined, "{} datagrams", batch.len());
    }
}

#[test]
fn a_lone_packet_keeps_its_partial_checksum() {
    let fabric = Fabric::build(&topology()).expect("the topology is accepted");
    let lone = Sent {
        to: 6,
        source_port: 4_001,
        tcp: false,
        payload: 10,
        partial: true,
        dont_fragment: false,
        id_step: 1,
        ttl: 64,
        flags: 0,
    };
    let [(_, joined), (_, single)] = both(&[lone], 1);
    assert_eq!(joined.frames, single.frames);
    let (port, frame) = &joined.frames[0];
    assert_eq!(*port, fabric.port_of("mc"));
    let (vnet, packet) = VnetHeader::read(frame).expect("a frame");
    let headers = Headers::parse(packet).expect("a packet");
    assert_eq!(Offload::read(&vnet, &headers).expect("sound").checksum, ChecksumState::Partial);
    let expected = FiveTuple {
        protocol: Protocol::UDP,
        source: Ipv4Addr::new(10, 1, 0, 4).into(),
        destination: Ipv4Addr::new(10, 1, 0, 6).into(),
        source_port: 4_001,
        destination_port: 9,
    };
    assert_eq!(*headers.tuple(), expected);
}
