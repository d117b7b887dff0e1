use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::port::PortId;
use crate::testing::Rng;

const SECOND: u64 = 1_000_000_000;

fn tuple(number: u32, protocol: Protocol) -> FiveTuple {
    FiveTuple {
        protocol,
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)),
        destination: "10.2.0.4".parse().unwrap(),
        source_port: 40_000,
        destination_port: 443,
    }
}

fn decision<'a>(actions: &'a [Action], sessions: &'a [SessionRef]) -> FlowDecision<'a> {
    FlowDecision { epoch: 1, actions, decided_by: Some(9), sessions }
}

const DELIVER: [Action; 1] = [Action::Deliver(PortId(3))];
const SYN: TcpFlags = TcpFlags(TcpFlags::SYN);
const ACK: TcpFlags = TcpFlags(TcpFlags::ACK);
const FIN: TcpFlags = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
const NONE: TcpFlags = TcpFlags(0);

#[test]
fn keys_give_back_what_they_were_made_of() {
    let mut rng = Rng::new(5);
    let mut table = FlowTable::new(1 << 16, Timeouts::default(), 1);
    let mut keys = Vec::new();
    for number in 0..1_000 {
        let v4 = number % 2 == 0;
        let mut address = || {
            let (high, low) = (rng.next(), rng.next());
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(low as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
            }
        };
        let (source, destination) = (address(), address());
        let tuple = FiveTuple { source, destination, ..tuple(number, Protocol::UDP) };
        let key = FlowKey::new(PortId(number), &tuple);
        assert_eq!((key.ingress(), key.tuple(), key.protocol()), (PortId(number), tuple, Protocol::UDP));
        keys.push((key, table.insert(key, decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap()));
    }
    for (key, id) in keys {
        assert_eq!((table.lookup(&key), table.get(id).key()), (Some(id), key));
    }
}

#[test]
fn each_bit_of_a_key_counts() {
    let mut table = FlowTable::new(8, Timeouts::default(), 1);
    let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
    let known = FiveTuple { source: v6(4), destination: v6(5), ..tuple(1, Protocol::UDP) };
    let id = table.insert(FlowKey::new(PortId(1), &known), decision(&DELIVER, &[]), NONE, Nanos::ZERO);
    assert_eq!(table.lookup(&FlowKey::new(PortId(1), &known)), id.ok());
    let lookup = |table: &FlowTable, tuple| table.lookup(&FlowKey::new(PortId(1), &tuple));
    for bit in 0..128 {
        assert_eq!(lookup(&table, FiveTuple { source: v6(4 ^ 1 << bit), ..known }), None);
        assert_eq!(lookup(&table, FiveTuple { destination: v6(5 ^ 1 << bit), ..known }), None);
    }
    let v4 = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
    assert_eq!(lookup(&table, FiveTuple { source: v4(4), destination: v4(5), ..known }), None);
}

#[test]
fn key_gives_the_tuple_back() {
    for text in ["10.1.2.3", "fd00::7", "::ffff:10.1.2.3"] {
        let destination = if text.contains(':') { "fd00::8" } else { "10.0.0.1" };
        let tuple = FiveTuple {
            protocol: Protocol::UDP,
            source: text.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 1,
            destination_port: 65_535,
        };
        let key = FlowKey::new(PortId(77), &tuple);
        assert_eq!((key.tuple(), key.ingress()), (tuple, PortId(77)));
    }
}

#[test]
fn replay_and_replacement() {
    let mut table = FlowTable::new(8, Timeouts::default(), 1);
    let key = FlowKey::new(PortId(1), &tuple(1, Protocol::TCP));
    let id = table.insert(key, decision(&DELIVER, &[]), SYN, Nanos::ZERO).unwrap();
    assert_eq!(table.lookup(&key), Some(id));
    assert_eq!(table.get(id).plain(), Some(PortId(3)));
    assert_eq!(table.get(id).decided_by(), Some(9));
    table.touch(id, ACK, 3, 4_500, Nanos::ZERO);
    assert_eq!(table.get(id).state(), FlowState::Established);

    let two = [Action::Count(crate::port::CounterId(1)), Action::Deliver(PortId(4))];
    let again = FlowDecision { epoch: 2, actions: &two, decided_by: None, sessions: &[] };
    assert_eq!(table.insert(key, again, ACK, Nanos(SECOND)).unwrap(), id);
    let flow = table.get(id);
    assert_eq!((flow.epoch, flow.plain(), flow.packets, flow.bytes), (2, None, 3, 4_500));
    assert_eq!(flow.state(), FlowState::Established);
    assert_eq!(**table.actions(id), two);
    assert_eq!(table.action_lists(), 1);

    let drop = [Action::Drop(Reason::NsgDeny)];
    table.replace(id, decision(&drop, &[]), Nanos(SECOND));
    assert_eq!(table.get(id).state(), FlowState::Dropped);
    assert_eq!((table.count(FlowState::Dropped), table.count(FlowState::Established)), (1, 0));
    table.remove(id);
    assert!(table.is_empty());
    assert_eq!((table.lookup(&key), table.action_lists()), (None, 0));
}

#[test]
fn looks_are_due_once_a_second_and_on_flags() {
    let mut table = FlowTable::new(8, Timeouts::default(), 1);
    let key = FlowKey::new(PortId(1), &tuple(1, Protocol::TCP));
    let id = table.insert(key, decision(&DELIVER, &[SessionRef::default()]), SYN, Nanos::ZERO).unwrap();
    assert!(table.touch(id, ACK, 1, 40, Nanos(1)), "the state changed");
    assert!(!table.touch(id, ACK, 1, 40, Nanos(SECOND / 2)));
    assert!(table.touch(id, ACK, 1, 40, Nanos(SECOND + 1)));
    assert!(!table.touch(id, ACK, 1, 40, Nanos(SECOND + 2)));
    assert!(table.touch(id, FIN, 1, 40, Nanos(SECOND + 3)));
}

#[test]
fn idle_flows_go_in_their_time() {
    let timeouts = Timeouts { tcp_established_s: 1_000, udp_s: 60, tcp_closing_s: 5, ..Timeouts::default() };
    let mut table = FlowTable::new(8, timeouts, 1);
    let start = Nanos(1_000_000 * SECOND);
    let at = |seconds: u64| Nanos(start.0 + seconds * SECOND);
    let add = |table: &mut FlowTable, number, protocol, flags| {
        let key = FlowKey::new(PortId(1), &tuple(number, protocol));
        table.insert(key, decision(&DELIVER, &[]), flags, start).unwrap()
    };
    let established = add(&mut table, 1, Protocol::TCP, ACK);
    let udp = add(&mut table, 2, Protocol::UDP, NONE);
    let closing = add(&mut table, 3, Protocol::TCP, ACK);
    table.touch(closing, FIN, 1, 40, at(1));
    table.touch(udp, NONE, 1, 40, at(30));
    let mut gone = Vec::new();
    for second in 0..1_200 {
        table.expire(at(second), 1_000, |flow| gone.push((flow.key().tuple(), second)));
    }
    let gone: Vec<_> = gone.into_iter().map(|(tuple, second)| (tuple.source.to_string(), second)).collect();
    assert_eq!(
        gone,
        [("10.0.0.3".to_string(), 6), ("10.0.0.2".to_string(), 90), ("10.0.0.1".to_string(), 1_000)]
    );
    assert_ne!(established, udp);
}

#[test]
fn a_full_table_spares_established_flows() {
    let mut table = FlowTable::new(4, Timeouts::default(), 1);
    let add = |table: &mut FlowTable, number, protocol, flags| {
        let key = FlowKey::new(PortId(1), &tuple(number, protocol));
        table.insert(key, decision(&DELIVER, &[]), flags, Nanos::ZERO)
    };
    for number in 0..2 {
        add(&mut table, number, Protocol::TCP, ACK).unwrap();
    }
    add(&mut table, 2, Protocol::TCP, SYN).unwrap();
    add(&mut table, 3, Protocol::UDP, NONE).unwrap();
    let present = |table: &FlowTable, number, protocol| {
        table.lookup(&FlowKey::new(PortId(1), &tuple(number, protocol))).is_some()
    };
    add(&mut table, 4, Protocol::TCP, ACK).unwrap();
    assert!(!present(&table, 2, Protocol::TCP), "half-open goes first");
    add(&mut table, 5, Protocol::TCP, ACK).unwrap();
    assert!(!present(&table, 3, Protocol::UDP), "then datagrams, busy or not");
    assert_eq!(add(&mut table, 6, Protocol::TCP, ACK), Err(Reason::FlowLimit));
    assert!(present(&table, 0, Protocol::TCP) && present(&table, 5, Protocol::TCP));
    assert_eq!(table.len(), 4);
}

#[test]
fn drops_are_decided_again() {
    let mut table = FlowTable::new(8, Timeouts { dropped_s: 5, ..Timeouts::default() }, 1);
    let drop = [Action::Drop(Reason::FirewallNoSession)];
    let tcp = tuple(1, Protocol::TCP);
    let id = table.insert(FlowKey::new(PortId(1), &tcp), decision(&drop, &[]), ACK, Nanos::ZERO).unwrap();
    table.touch(id, ACK, 1, 40, Nanos(4 * SECOND));
    assert!(!table.is_stale(id, 1, ACK, Nanos(4 * SECOND)));
    assert!(table.is_stale(id, 1, SYN, Nanos(4 * SECOND)), "a SYN may open what an ACK may not");
    assert!(table.is_stale(id, 2, ACK, Nanos(4 * SECOND)), "the epoch has moved");
    assert!(table.is_stale(id, 1, ACK, Nanos(5 * SECOND)), "busy or not");
    assert_eq!(table.expire(Nanos(6 * SECOND), 100, |_| {}), 1);

    let deliver = FlowKey::new(PortId(3), &tcp.reversed());
    let kept = table.insert(deliver, decision(&DELIVER, &[]), ACK, Nanos::ZERO).unwrap();
    for ingress in 1..3 {
        table.insert(FlowKey::new(PortId(ingress), &tcp), decision(&drop, &[]), ACK, Nanos::ZERO).unwrap();
    }
    assert_eq!(table.forget_drops(&tuple(2, Protocol::TCP)), 0);
    assert_eq!(table.forget_drops(&tcp.reversed()), 2);
    assert_eq!((table.len(), table.lookup(&deliver)), (1, Some(kept)));
    assert_eq!(table.forget_drops(&tcp), 0);
}

#[test]
fn behaves_as_a_map() {
    let mut rng = Rng::new(11);
    let mut table = FlowTable::new(100_000, Timeouts::default(), 3);
    let mut model: HashMap<(u32, u32), (u32, u64)> = HashMap::new();
    for step in 0..200_000u32 {
        let (ingress, number) = (rng.below(4) as u32, rng.below(5_000) as u32);
        let key = FlowKey::new(PortId(ingress), &tuple(number, Protocol::TCP));
        let found = table.lookup(&key);
        assert_eq!(found.is_some(), model.contains_key(&(ingress, number)));
        match (rng.below(10), found) {
            (0..=3, _) => {
                let actions = [Action::Deliver(PortId(rng.below(50) as u32))];
                let decision =
                    FlowDecision { epoch: step, actions: &actions, decided_by: None, sessions: &[] };
                table.insert(key, decision, ACK, Nanos::ZERO).unwrap();
                let port = match actions[0] {
                    Action::Deliver(port) => port.0,
                    _ => unreachable!("built above"),
                };
                model.entry((ingress, number)).or_insert((0, 0)).0 = port;
            }
            (4..=5, Some(id)) => {
                table.remove(id);
                model.remove(&(ingress, number));
            }
            (_, Some(id)) => {
                table.touch(id, ACK, 1, 10, Nanos::ZERO);
                let expected = model.get_mut(&(ingress, number)).unwrap();
                expected.1 += 10;
                assert_eq!(
                    (table.get(id).plain(), table.get(id).bytes),
                    (Some(PortId(expected.0)), expected.1)
                );
            }
            _ => {}
        }
        assert_eq!(table.len(), model.len());
    }
    let even = table.retain(|flow, actions| {
        assert!(matches!(actions, [Action::Deliver(_)]));
        flow.key().ingress().0 % 2 == 0
    });
    let before = model.len();
    model.retain(|(ingress, _), _| ingress % 2 == 0);
    assert_eq!((table.len(), even), (model.len(), before - model.len()));
    let mut listed: Vec<_> = table.iter().map(|(_, flow)| (flow.key().ingress().0, flow.bytes)).collect();
    let mut expected: Vec<_> = model.iter().map(|((ingress, _), (_, bytes))| (*ingress, *bytes)).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn the_first_look_comes_early() {
    let mut table = FlowTable::new(8, Timeouts::default(), 1);
    let key = FlowKey::new(PortId(1), &tuple(1, Protocol::UDP));
    let id = table.insert(key, decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap();
    assert!(!table.touch(id, NONE, 1, 40, Nanos(SECOND / 5)));
    assert!(table.touch(id, NONE, 1, 40, Nanos(SECOND / 4)));
    assert!(!table.touch(id, NONE, 1, 40, Nanos(SECOND)));
    assert!(table.touch(id, NONE, 1, 40, Nanos(SECOND + SECOND / 4)));
    table.look_soon(id);
    assert!(table.touch(id, NONE, 1, 40, Nanos(SECOND + SECOND / 4)));
}

#[test]
fn a_flow_is_looked_at_when_it_is_under_way() {
    let mut table = FlowTable::new(8, Timeouts::default(), 1);
    let key = FlowKey::new(PortId(1), &tuple(1, Protocol::UDP));
    let id = table.insert(key, decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap();
    for number in 1..=FLOW_UNDER_WAY_PACKETS + 3 {
        let due = table.touch(id, NONE, 1, 40, Nanos(1));
        assert_eq!(due, number == FLOW_UNDER_WAY_PACKETS, "packet {number}");
    }
    let key = FlowKey::new(PortId(1), &tuple(2, Protocol::UDP));
    let id = table.insert(key, decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap();
    assert!(table.touch(id, NONE, 44, 64_000, Nanos(1)), "a super-packet is many packets");
}

#[test]
fn a_record_comes_back_when_its_flow_goes_or_is_decided_anew() {
    let mut table = FlowTable::new(1, Timeouts::default(), 1);
    let udp = |number| FlowKey::new(PortId(1), &tuple(number, Protocol::UDP));
    let id = table.insert(udp(1), decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap();
    assert!(table.may_offer(id, Nanos::ZERO));
    table.set_offload(id, Some(7));
    assert!(!table.may_offer(id, Nanos::ZERO));
    table.absorb(id, 3, 300, Nanos(9 * SECOND));
    let flow = table.get(id);
    assert_eq!((flow.packets, flow.bytes, flow.last_seen()), (3, 300, Nanos(9 * SECOND)));
    assert_eq!((flow.offload(), table.take_loosened()), (Some(7), None));
    table.replace(id, decision(&DELIVER, &[]), Nanos::ZERO);
    assert_eq!((table.get(id).offload(), table.take_loosened()), (None, Some(7)));
    table.set_offload(id, Some(8));
    // The only room is taken by another flow.
    table.insert(udp(2), decision(&DELIVER, &[]), NONE, Nanos(20 * SECOND)).unwrap();
    assert_eq!((table.take_loosened(), table.take_loosened()), (Some(8), None));
}

#[test]
fn refused_offers_wait_ever_longer() {
    let mut table = FlowTable::new(1, Timeouts::default(), 1);
    let key = FlowKey::new(PortId(1), &tuple(1, Protocol::UDP));
    let id = table.insert(key, decision(&DELIVER, &[]), NONE, Nanos::ZERO).unwrap();
    let mut now = Nanos::ZERO;
    for wait_ticks in [1, 2, 4, 8, 16, 32, 64, 128, 256, 256] {
        let wait = wait_ticks * SECOND / 4;
        assert!(table.may_offer(id, now));
        table.offer_refused(id, now);
        assert!(!table.may_offer(id, Nanos(now.0 + wait - 1)));
        now = Nanos(now.0 + wait);
    }
}
