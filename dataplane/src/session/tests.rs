use zerocopy::IntoBytes;

use super::*;
use crate::testing::Rng;

const SYN: TcpFlags = TcpFlags(TcpFlags::SYN);
const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
const ACK: TcpFlags = TcpFlags(TcpFlags::ACK);
const FIN: TcpFlags = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
const RST: TcpFlags = TcpFlags(TcpFlags::RST);
const NONE: TcpFlags = TcpFlags(0);
const FW: FunctionId = FunctionId(7);

fn tuple(number: u16, protocol: Protocol) -> FiveTuple {
    FiveTuple {
        protocol,
        source: "10.1.0.4".parse().unwrap(),
        destination: "10.2.0.4".parse().unwrap(),
        source_port: number,
        destination_port: 443,
    }
}

fn new(number: u16, protocol: Protocol) -> NewSession {
    NewSession { function: FW, tuple: tuple(number, protocol), rule: 5, reply: None, idle_minutes: 0 }
}

fn table(capacity: usize) -> SessionTable<Vec<SessionRecord>> {
    SessionTable::open_unused(vec![SessionRecord::FREE; capacity], Timeouts::default(), 1, 1_000)
}

fn establish(table: &mut SessionTable<Vec<SessionRecord>>, number: u16, now_s: u32) -> SessionRef {
    let new = new(number, Protocol::TCP);
    let original = table.open(&new, SYN, now_s).unwrap();
    let reply = table.find(FW, &new.tuple.reversed()).unwrap().session;
    assert!(table.touch(reply, SYN_ACK, now_s));
    assert!(table.touch(original, ACK, now_s));
    original
}

#[test]
fn a_record_is_96_octets() {
    assert_eq!(size_of::<SessionRecord>(), 96);
    assert!(SessionRecord::FREE.as_bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn found_from_both_directions() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let mut table = table(4);
        let new = new(40_000, protocol);
        let opened = table.open(&new, SYN, 1_000).unwrap();
        let original = table.find(FW, &new.tuple).unwrap();
        assert_eq!((original.session, original.side, original.rule), (opened, SessionSide::Original, 5));
        let reply = table.find(FW, &new.tuple.reversed()).unwrap();
        assert_eq!((reply.side, reply.original), (SessionSide::Reply, new.tuple));
        assert_eq!(table.find(FunctionId(8), &new.tuple), None);
        assert_eq!(
            table.open(&NewSession { tuple: new.tuple.reversed(), ..new }, SYN, 1_001),
            Ok(reply.session)
        );
        assert_eq!(table.len(), 1);
        assert!(table.remove(opened));
        assert_eq!(table.find(FW, &new.tuple.reversed()), None);
        assert!(!table.touch(reply.session, ACK, 1_001));
    }
}

#[test]
fn translated_replies_are_found() {
    let mut table = table(64);
    let tuple = tuple(40_000, Protocol::TCP);
    let reply = FiveTuple {
        destination: "203.0.113.10".parse().unwrap(),
        destination_port: 1_024,
        ..tuple.reversed()
    };
    let opened =
        table.open(&NewSession { reply: Some(reply), ..new(40_000, Protocol::TCP) }, SYN, 1).unwrap();
    // Enough others that the index grows and hashes again.
    for number in 0..60 {
        table.open(&new(number, Protocol::UDP), NONE, 1).unwrap();
    }
    assert_eq!(table.find(FW, &tuple).unwrap().session, opened);
    let found = table.find(FW, &reply).unwrap();
    assert_eq!((found.side, found.original, found.reply), (SessionSide::Reply, tuple, reply));
    assert_eq!(table.find(FW, &tuple.reversed()), None);
    table.remove(opened);
    assert_eq!((table.find(FW, &reply), table.find(FW, &tuple)), (None, None));
}

#[test]
fn follows_tcp() {
    let mut table = table(4);
    let original = table.open(&new(1, Protocol::TCP), SYN, 1_000).unwrap();
    let reply = table.find(FW, &tuple(1, Protocol::TCP).reversed()).unwrap().session;
    let state = |table: &SessionTable<_>| table.get(original).unwrap().state();
    table.touch(original, ACK, 1_000);
    assert_eq!(state(&table), FlowState::Opening, "an ACK before the answer opens nothing");
    table.touch(reply, SYN_ACK, 1_000);
    table.touch(original, ACK, 1_000);
    assert_eq!(state(&table), FlowState::Established);
    table.touch(original, FIN, 1_001);
    table.touch(reply, ACK, 1_001);
    assert_eq!(state(&table), FlowState::Established, "half-closed");
    table.touch(reply, FIN, 1_002);
    assert_eq!(state(&table), FlowState::Closing);
    table.touch(original, SYN, 1_003);
    assert_eq!(state(&table), FlowState::Opening, "the port is used again");
    table.touch(reply, RST, 1_003);
    assert_eq!(state(&table), FlowState::Closing);
    assert_eq!((table.count(FlowState::Closing), table.count(FlowState::Opening)), (1, 0));
}

#[test]
fn idle_sessions_go_by_their_own_minutes() {
    let mut table = table(8);
    let ack = |table: &mut SessionTable<_>, number, idle_minutes| {
        table.open(&NewSession { idle_minutes, ..new(number, Protocol::TCP) }, ACK, 1_000).unwrap()
    };
    ack(&mut table, 1, 0);
    let short = ack(&mut table, 2, 5);
    table.open(&new(3, Protocol::UDP), NONE, 1_000).unwrap();
    table.touch(short, ACK, 1_100);
    let mut gone = Vec::new();
    for now_s in 1_000..9_000 {
        table.expire(now_s, 100, |record| gone.push((record.original().source_port, now_s)));
    }
    assert_eq!(gone, [(3, 1_240), (2, 1_400), (1, 8_440)]);
}

#[test]
fn bindings_are_free_again_when_their_sessions_go_and_live_through_a_restart() {
    let addresses = ["203.0.113.10".parse().unwrap()];
    let pool = PortPool { addresses: &addresses, first_port: 1_024, last_port: 1_026 };
    let mut table = table(16);
    let bind = |table: &mut SessionTable<_>, number| {
        let tuple = tuple(number, Protocol::UDP);
        let (address, port) = table.propose(FW, &tuple, &pool)?;
        let reply = Some(reply_to(&tuple, address, port));
        Some(table.open(&NewSession { reply, ..new(number, Protocol::UDP) }, NONE, 1_000).unwrap())
    };
    for number in 1..=3 {
        bind(&mut table, number).unwrap();
    }
    assert_eq!((bind(&mut table, 4), table.bindings(FW)), (None, 3));
    let records = table.records().clone();
    let mut table = SessionTable::open_region(records, Timeouts::default(), 9, 1_001);
    assert_eq!((bind(&mut table, 4), table.bindings(FW)), (None, 3));
    let second = table.find(FW, &tuple(2, Protocol::UDP)).unwrap();
    table.remove(second.session);
    bind(&mut table, 4).unwrap();
    assert_eq!(table.find(FW, &tuple(4, Protocol::UDP)).unwrap().reply, second.reply);
    table.expire(9_000, 100, |_| {});
    assert_eq!(table.bindings(FW), 0);
}

#[test]
fn a_translated_tuple_has_one_session() {
    let mut table = table(4);
    let reply = reply_to(&tuple(1, Protocol::UDP), "203.0.113.10".parse().unwrap(), 1_024);
    let taken = NewSession { reply: Some(reply), ..new(1, Protocol::UDP) };
    table.open(&taken, NONE, 1_000).unwrap();
    let late = NewSession { reply: Some(reply), ..new(2, Protocol::UDP) };
    assert_eq!(table.open(&late, NONE, 1_000), Err(Reason::SnatPortsExhausted));
    table.open(&taken, NONE, 1_001).unwrap();
    assert_eq!((table.len(), table.bindings(FW)), (1, 1));
}

#[test]
fn a_full_table_spares_established_sessions() {
    let mut table = table(3);
    establish(&mut table, 1, 1_000);
    establish(&mut table, 2, 1_000);
    table.open(&new(3, Protocol::TCP), SYN, 1_000).unwrap();
    establish(&mut table, 4, 1_000);
    assert_eq!(table.find(FW, &tuple(3, Protocol::TCP)), None);
    assert_eq!(table.open(&new(5, Protocol::TCP), SYN, 1_000), Err(Reason::FlowLimit));
    assert_eq!(table.len(), 3);
}

#[test]
fn sessions_live_on_over_a_restart() {
    let mut table = table(100);
    for number in 0..50 {
        establish(&mut table, number, 2_000);
    }
    let gone = table.find(FW, &tuple(7, Protocol::TCP)).unwrap().session;
    table.remove(gone);
    let mut records = table.records().clone();
    // A record whose writing was cut off, one whose state is unknown, and a copy of another.
    let torn = records.iter().position(|record| record.original().source_port == 3).unwrap();
    records[torn].as_mut_bytes()[40..48].fill(0xaa);
    let unknown = records.iter().position(|record| record.original().source_port == 4).unwrap();
    let last = size_of::<SessionRecord>() - 2;
    records[unknown].as_mut_bytes()[last] = 99;
    records[99] = records[records.iter().position(|record| record.original().source_port == 5).unwrap()];

    let reopened = SessionTable::open_region(records, Timeouts::default(), 99, 2_001);
    assert_eq!((reopened.len(), reopened.discarded()), (47, 3));
    for number in 0..50 {
        let found = reopened.find(FW, &tuple(number, Protocol::TCP).reversed());
        assert_eq!(found.is_some(), ![3, 4, 7].contains(&number), "session {number}");
    }
    assert_eq!(reopened.count(FlowState::Established), 47);
}

#[test]
fn any_torn_write_is_noticed() {
    let mut table = table(1);
    table.open(&new(1, Protocol::TCP), SYN, 1_000).unwrap();
    let before = table.records()[0];
    table.remove(table.find(FW, &tuple(1, Protocol::TCP)).unwrap().session);
    let next = NewSession {
        function: FunctionId(9),
        tuple: FiveTuple { source: "10.9.9.9".parse().unwrap(), ..tuple(77, Protocol::UDP) },
        rule: 6,
        reply: None,
        idle_minutes: 0,
    };
    table.open(&next, NONE, 1_001).unwrap();
    let after = table.records()[0];
    for cut in (8..88).step_by(8) {
        let mut torn = before;
        torn.as_mut_bytes()[..cut].copy_from_slice(&after.as_bytes()[..cut]);
        if torn == before {
            continue;
        }
        let reopened = SessionTable::open_region(vec![torn], Timeouts::default(), 1, 1_001);
        assert_eq!(reopened.len(), 0, "cut after {cut} octets");
    }
}

#[test]
fn random_memory_never_panics() {
    let mut rng = Rng::new(5);
    for _ in 0..200 {
        let mut records = vec![SessionRecord::FREE; 16];
        for record in &mut records {
            let noise = rng.bytes(size_of::<SessionRecord>());
            record.as_mut_bytes().copy_from_slice(&noise);
        }
        let mut table = SessionTable::open_region(records, Timeouts::default(), 1, 1_000);
        for number in 0..16 {
            table.open(&new(number, Protocol::UDP), NONE, 1_000).unwrap();
        }
        table.expire(10_000, 1_000, |_| {});
        assert_eq!(table.len(), 0);
    }
}

#[test]
fn behaves_as_a_map() {
    let mut rng = Rng::new(12);
    let mut table = table(4_000);
    let mut model = std::collections::HashMap::new();
    for step in 0..100_000u32 {
        let number = rng.below(3_000) as u16;
        let tuple = tuple(number, Protocol::UDP);
        let asked = if rng.chance(50) { tuple } else { tuple.reversed() };
        let found = table.find(FW, &asked);
        assert_eq!(found.map(|found| found.rule), model.get(&number).copied());
        if rng.chance(40) {
            table.open(&NewSession { rule: step, ..new(number, Protocol::UDP) }, NONE, 1_000).unwrap();
            model.insert(number, step);
        } else if let (true, Some(found)) = (rng.chance(30), found) {
            table.remove(found.session);
            model.remove(&number);
        }
        assert_eq!(table.len(), model.len());
    }
    assert_eq!(table.iter().count(), model.len());
    table.retain(|record| record.rule() % 2 == 0);
    assert_eq!(table.len(), model.values().filter(|rule| *rule % 2 == 0).count());
}
