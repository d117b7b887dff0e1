//! What single mechanisms of the data plane cost.

mod harness;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use harness::Body;
use ipnet::IpNet;
use vnet_dataplane::checksum::Delta;
use vnet_dataplane::classifier::Field;
use vnet_dataplane::{
    Action, ChecksumState, Classifier, FiveTuple, FlowDecision, FlowId, FlowKey, FlowTable, FunctionId,
    Headers, Nanos, NewSession, PortId, Protocol, RuleSpec, SessionRecord, SessionTable, TcpFlags, Timeouts,
    checksum, rewrite,
};

const FLOWS: u32 = 100_000;
const ACK: TcpFlags = TcpFlags(TcpFlags::ACK);
const SYN: TcpFlags = TcpFlags(TcpFlags::SYN);

fn main() {
    harness::main(
        "dataplane",
        &[
            Body { name: "parse-tcp4", build: || parse(tcp4()) },
            Body { name: "parse-udp4", build: || parse(udp4()) },
            Body { name: "parse-tcp6", build: || parse(tcp6()) },
            Body { name: "checksum-update", build: checksum_update },
            Body { name: "checksum-1500", build: checksum_full },
            Body { name: "action-rewrite-source", build: rewrite_source },
            Body { name: "flow-lookup-v4", build: || flow_lookup(tuple_v4) },
            Body { name: "flow-lookup-v6", build: || flow_lookup(tuple_v6) },
            Body { name: "flow-touch", build: flow_touch },
            Body { name: "flow-insert-remove", build: flow_insert },
            Body { name: "classifier-10000", build: classify },
            Body { name: "session-find", build: session_find },
            Body { name: "session-insert-remove", build: session_insert },
        ],
    );
}

/// The next number of a sequence without a pattern that a cache could follow.
fn scatter(number: &mut u32) -> u32 {
    *number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    ((u64::from(*number) * u64::from(FLOWS)) >> 32) as u32
}

fn tuple_v4(number: u32) -> FiveTuple {
    FiveTuple {
        protocol: Protocol::TCP,
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + number / 50_000)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(0x0a02_0004)),
        source_port: 10_000 + (number % 50_000) as u16,
        destination_port: 443,
    }
}

fn tuple_v6(number: u32) -> FiveTuple {
    let address = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(0xfd00_0001 << 96 | bits));
    FiveTuple {
        source: address(u128::from(number / 50_000)),
        destination: address(1 << 64 | 4),
        ..tuple_v4(number)
    }
}

fn tcp4() -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 1, 0, 4], [10, 2, 0, 4], 64).tcp(40_000, 443, 1, 512).ack(1);
    builder.write(&mut packet, &[7; 1460]).expect("written to memory");
    packet
}

fn udp4() -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 1, 0, 4], [10, 2, 0, 4], 64).udp(40_000, 53);
    builder.write(&mut packet, &[7; 36]).expect("written to memory");
    packet
}

fn tcp6() -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 64).tcp(40_000, 443, 1, 512).ack(1);
    builder.write(&mut packet, &[7; 1440]).expect("written to memory");
    packet
}

fn parse(packet: Vec<u8>) -> Box<dyn FnMut()> {
    Box::new(move || {
        black_box(Headers::parse(black_box(&packet))).expect("the packet is sound");
    })
}

fn checksum_update() -> Box<dyn FnMut()> {
    let mut sum = 0x1234;
    Box::new(move || {
        let mut delta = Delta::default();
        delta.replace(black_box(&[10, 1, 0, 4]), black_box(&[203, 0, 113, 20]));
        delta.replace_u16(black_box(40_000), black_box(1_024));
        sum = black_box(delta.apply(sum));
    })
}

fn checksum_full() -> Box<dyn FnMut()> {
    let packet = tcp4();
    Box::new(move || {
        black_box(checksum::fold(checksum::sum(black_box(&packet))));
    })
}

fn rewrite_source() -> Box<dyn FnMut()> {
    let mut packet = tcp4();
    let mut headers = Headers::parse(&packet).expect("the packet is sound");
    let mut number = 0u16;
    Box::new(move || {
        number = number.wrapping_add(1);
        let address = IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + u32::from(number % 7)));
        let action = Action::RewriteSource { address, port: Some(number) };
        rewrite::apply(&action, &mut packet, &mut headers, ChecksumState::Complete).expect("a whole packet");
    })
}

fn decision(actions: &[Action]) -> FlowDecision<'_> {
    FlowDecision { epoch: 1, actions, decided_by: Some(1), sessions: &[] }
}

fn flows(tuple: fn(u32) -> FiveTuple) -> (FlowTable, Vec<FlowId>) {
    let mut table = FlowTable::new(1 << 20, Timeouts::default(), 7);
    let actions = [Action::Deliver(PortId(2))];
    let enter = |number| {
        let key = FlowKey::new(PortId(1), &tuple(number));
        table.insert(key, decision(&actions), ACK, Nanos::ZERO).expect("there is room")
    };
    let ids = (0..FLOWS).map(enter).collect();
    (table, ids)
}

fn flow_lookup(tuple: fn(u32) -> FiveTuple) -> Box<dyn FnMut()> {
    let (table, _) = flows(tuple);
    let mut number = 1;
    Box::new(move || {
        let tuple = tuple(scatter(&mut number));
        black_box(table.lookup(&FlowKey::new(PortId(1), black_box(&tuple)))).expect("it was entered");
    })
}

fn flow_touch() -> Box<dyn FnMut()> {
    let (mut table, ids) = flows(tuple_v4);
    let mut number = 1;
    Box::new(move || {
        let id = ids[scatter(&mut number) as usize];
        black_box(table.touch(id, ACK, 1, 60, Nanos(1)));
    })
}

fn flow_insert() -> Box<dyn FnMut()> {
    let (mut table, _) = flows(tuple_v4);
    let actions = [Action::Deliver(PortId(2))];
    let mut number = FLOWS;
    Box::new(move || {
        number += 1;
        let key = FlowKey::new(PortId(1), &tuple_v4(number));
        let id = table.insert(key, decision(&actions), SYN, Nanos::ZERO).expect("there is room");
        table.remove(black_box(id));
    })
}

fn classify() -> Box<dyn FnMut()> {
    let rule = |number: u32| RuleSpec {
        sources: Field::OneOf(vec![
            IpNet::new(IpAddr::V4((0x0a01_0000 + number * 16).into()), 28).expect("a length of IPv4"),
        ]),
        destinations: Field::OneOf(vec![
            IpNet::new(IpAddr::V4((0x0a02_0000 + number % 256 * 256).into()), 24).expect("a length of IPv4"),
        ]),
        protocols: Field::OneOf(vec![Protocol::TCP]),
        source_ports: Field::Any,
        destination_ports: Field::OneOf(vec![443..=443, 8_000..=8_000 + (number % 50) as u16]),
    };
    let rules: Vec<RuleSpec> = (0..10_000).map(rule).collect();
    let classifier = Classifier::new(&rules);
    let mut number = 1;
    Box::new(move || {
        let rule = scatter(&mut number) % 10_000;
        let tuple = FiveTuple {
            source: IpAddr::V4((0x0a01_0000 + rule * 16 + 5).into()),
            destination: IpAddr::V4((0x0a02_0000 + rule % 256 * 256 + 9).into()),
            ..tuple_v4(number)
        };
        assert_eq!(black_box(classifier.classify(black_box(&tuple))), Some(rule as usize));
    })
}

const FUNCTION: FunctionId = FunctionId(3);

fn new_session(number: u32) -> NewSession {
    NewSession { function: FUNCTION, tuple: tuple_v4(number), rule: 1, reply: None, idle_minutes: 0 }
}

fn sessions() -> SessionTable<Vec<SessionRecord>> {
    let mut table = SessionTable::open_region(vec![SessionRecord::FREE; 1 << 18], Timeouts::default(), 7, 0);
    for number in 0..FLOWS {
        table.open(&new_session(number), SYN, 1).expect("there is room");
    }
    table
}

fn session_find() -> Box<dyn FnMut()> {
    let table = sessions();
    let mut number = 1;
    Box::new(move || {
        let tuple = tuple_v4(scatter(&mut number)).reversed();
        black_box(table.find(FUNCTION, black_box(&tuple))).expect("it was opened");
    })
}

fn session_insert() -> Box<dyn FnMut()> {
    let mut table = sessions();
    let mut number = FLOWS;
    Box::new(move || {
        number += 1;
        let session = table.open(black_box(&new_session(number)), SYN, 1).expect("there is room");
        table.remove(session);
    })
}
