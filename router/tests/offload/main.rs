//! Flows that somebody else carries: what is counted, allowed and dropped is what the router alone would do.

mod world;

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vnet_dataplane::{FiveTuple, FlowState, PortId, Protocol, Reason, TcpFlags};
use vnet_fabric::Verdict;
use vnet_fabric::snapshot::CounterKind;
use vnet_router::{Router, RouterOptions, TapFilter, TapId, TapSink, Tapped};

use world::{Packet, World};

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN | TcpFlags::ACK;
const RST: u8 = TcpFlags::RST;

/// Policies of one lab: everything open; a firewall rule less; a peering less; a security group that lets nobody in.
fn lab(policy: usize) -> String {
    let ports = if policy == 1 { "[443]" } else { "['*']" };
    let peering = if policy == 2 { "{a: {}}" } else { "{a: {}, b: {}}" };
    let back = if policy == 2 { "" } else { "peerings: {h: {allowForwardedTraffic: true}}" };
    let rules = if policy == 3 {
        "[{name: no, priority: 100, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', \
         sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}]"
    } else {
        "[]"
    };
    format!(
        "
name: offload
virtualNetworks:
  h: {{addressSpace: [10.0.0.0/16], subnets: {{AzureFirewallSubnet: 10.0.1.0/26, s: 10.0.2.0/24}}, peerings: {peering}}}
  a:
    addressSpace: [10.1.0.0/16]
    subnets: {{s: {{addressPrefix: 10.1.0.0/24, routeTable: t, networkSecurityGroup: n}}}}
    peerings: {{h: {{allowForwardedTraffic: true}}}}
  b:
    addressSpace: [10.2.0.0/16]
    subnets: {{s: {{addressPrefix: 10.2.0.0/24, routeTable: t}}}}
    {back}
virtualMachines:
  near: {{subnet: h/s, privateIPAddress: 10.0.2.4}}
  ma: {{subnet: a/s, privateIPAddress: 10.1.0.4}}
  mb: {{subnet: b/s, privateIPAddress: 10.2.0.4}}
networkSecurityGroups: {{n: {{securityRules: {rules}}}}}
routeTables:
  t: {{routes: [{{name: r, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}}]}}
azureFirewalls: {{fw: {{virtualNetwork: h, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}}}}
firewallPolicies:
  p: {{ruleCollectionGroups: [{{name: g, priority: 100, ruleCollections: [{{name: c, priority: 100,
    ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{{name: r, ruleType: NetworkRule,
    ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: {ports}}}]}}]}}]}}
"
    )
}

/// Connections of the lab's machines, each with the ports of both ends.
fn connections(world: &World) -> Vec<(PortId, PortId, FiveTuple)> {
    let mut all = Vec::new();
    for (from, to, source, destination) in [
        ("ma/eth0", "near/eth0", "10.1.0.4", "10.0.2.4"),
        ("ma/eth0", "mb/eth0", "10.1.0.4", "10.2.0.4"),
        ("mb/eth0", "ma/eth0", "10.2.0.4", "10.1.0.4"),
    ] {
        for (protocol, destination_port) in [(Protocol::TCP, 443), (Protocol::TCP, 80), (Protocol::UDP, 53)] {
            let tuple = FiveTuple {
                protocol,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_port: 40_000,
                destination_port,
            };
            all.push((world.port(from), world.port(to), tuple));
        }
    }
    all
}

fn packet(connection: &(PortId, PortId, FiveTuple), reply: bool, flags: u8) -> Packet {
    let (from, to, tuple) = *connection;
    let (port, tuple) = if reply { (to, tuple.reversed()) } else { (from, tuple) };
    Packet { port, tuple, flags, ttl: 64, payload_bytes: 100 }
}

/// Opens the connection and sends data both ways until both directions have been offered.
fn carry_on(world: &mut World, connection: &(PortId, PortId, FiveTuple)) {
    if connection.2.protocol == Protocol::TCP {
        for (reply, flags) in [(false, SYN), (true, SYN_ACK), (false, ACK)] {
            world.send(&packet(connection, reply, flags));
        }
    }
    for _ in 0..12 {
        world.pass(300);
        for reply in [false, true] {
            assert_eq!(world.send(&packet(connection, reply, ACK)).len(), 1);
        }
    }
}

fn world() -> World {
    World::new(&lab(0), RouterOptions { flows_max: 1 << 10, ..RouterOptions::default() }, 64)
}

fn offloaded(world: &World) -> usize {
    world.router.flows(world.now).iter().filter(|flow| flow.offloaded).count()
}

#[test]
fn plain_flows_are_carried_both_ways_and_counted() {
    let mut world = world();
    for connection in connections(&world) {
        let before = offloaded(&world);
        carry_on(&mut world, &connection);
        assert_eq!(offloaded(&world), before + 2, "{}", connection.2);
        let carried = world.kernel.carried;
        let left = world.send(&packet(&connection, false, ACK));
        assert_eq!(world.kernel.carried, carried + 1);
        // The firewall lowers the TTL, the peering does not.
        let by_firewall = !connection.2.destination.to_string().starts_with("10.0.");
        assert_eq!(left, [(connection.1, connection.2, if by_firewall { 63 } else { 64 })]);
    }
    let counted = world.counted();
    assert_eq!(counted.balance.0, counted.balance.1);
    assert_eq!(world.router.ledger().offloaded.packets.get(), world.kernel.carried);
}

#[test]
fn a_short_flow_is_not_worth_an_entry() {
    let mut world = world();
    let connection = connections(&world)[2];
    for _ in 0..6 {
        world.pass(1_000);
        world.send(&packet(&connection, false, 0));
    }
    assert_eq!((offloaded(&world), world.kernel.used()), (0, 0));
}

#[test]
fn a_refusal_is_not_repeated_at_once() {
    let mut world = world();
    world.kernel.capacity = 0;
    let connection = connections(&world)[2];
    carry_on(&mut world, &connection);
    world.kernel.capacity = 64;
    world.send(&packet(&connection, false, 0));
    assert_eq!(offloaded(&world), 0);
    for _ in 0..12 {
        world.pass(1_000);
        world.send(&packet(&connection, false, 0));
    }
    assert_eq!(offloaded(&world), 1);
}

#[test]
fn a_connection_that_closes_comes_back() {
    for (flags, reply) in [(FIN, false), (RST, true)] {
        let mut world = world();
        let connection = connections(&world)[1];
        carry_on(&mut world, &connection);
        world.send(&packet(&connection, reply, flags));
        let closed: Vec<_> = world
            .router
            .flows(world.now)
            .into_iter()
            .filter(|flow| flow.state == FlowState::Closing)
            .map(|flow| flow.offloaded)
            .collect();
        assert_eq!(closed, [false]);
        // A reset ends the session, and with it the other direction's entry at the next merge.
        world.pass(500);
        assert_eq!(offloaded(&world), usize::from(flags == FIN));
        world.send(&packet(&connection, !reply, FIN));
        world.pass(500);
        assert_eq!((offloaded(&world), world.kernel.used()), (0, 0));
    }
}

#[test]
fn a_change_stops_what_it_forbids_and_keeps_what_it_does_not() {
    for policy in [1, 2, 3] {
        let mut world = world();
        let all = connections(&world);
        all.iter().for_each(|connection| carry_on(&mut world, connection));
        world.apply(&lab(policy));
        assert_eq!(offloaded(&world), 0, "no entry counts before it is decided anew");
        let mut reference = World::new(&lab(0), RouterOptions { offload: false, ..options() }, 0);
        all.iter().for_each(|connection| carry_on(&mut reference, connection));
        reference.apply(&lab(policy));
        for round in 0..3 {
            for connection in &all {
                for reply in [false, true] {
                    let packet = packet(connection, reply, ACK);
                    assert_eq!(world.send(&packet), reference.send(&packet), "{policy} {round} {packet:?}");
                }
            }
        }
        let passing = world.router.flows(world.now);
        let denied = passing.iter().filter(|flow| flow.state == FlowState::Dropped);
        assert!(denied.clone().all(|flow| !flow.offloaded));
        assert_eq!(offloaded(&world) + denied.count(), 2 * all.len());
        assert_eq!(world.counted().balance.0, world.counted().balance.1);
    }
}

fn options() -> RouterOptions {
    RouterOptions { flows_max: 1 << 10, ..RouterOptions::default() }
}

#[test]
fn flows_and_sessions_live_while_the_kernel_forwards_and_end_after_it() {
    let mut world = world();
    let connection = connections(&world)[5];
    carry_on(&mut world, &connection);
    let carried = world.kernel.carried;
    for _ in 0..50 {
        world.pass(10_000);
        world.send(&packet(&connection, false, 0));
        world.send(&packet(&connection, true, 0));
    }
    assert_eq!(world.kernel.carried, carried + 100, "500 s: twice the idle time of UDP");
    assert!(!world.router.shared().sessions().is_empty());
    world.pass(60_000);
    assert_eq!((offloaded(&world), world.kernel.used()), (0, 0), "an idle entry gives its place to others");
    assert_eq!(world.router.flows(world.now).len(), 2);
    world.pass(250_000);
    assert_eq!(world.router.flows(world.now).len(), 0);
    assert_eq!(world.router.shared().sessions().len(), 0);
}

#[test]
fn a_flow_whose_session_is_gone_comes_back() {
    let mut world = world();
    let connection = connections(&world)[1];
    carry_on(&mut world, &connection);
    world.router.shared().sessions().retain(|_| false);
    world.pass(300);
    assert_eq!(offloaded(&world), 0);
    let carried = world.kernel.carried;
    world.send(&packet(&connection, true, ACK));
    assert_eq!(world.kernel.carried, carried);
}

#[test]
fn an_evicted_flow_is_withdrawn_and_still_counted() {
    let options = RouterOptions { flows_max: 2, ..RouterOptions::default() };
    let mut world = World::new(&lab(0), options, 64);
    let all = connections(&world);
    carry_on(&mut world, &all[2]);
    assert_eq!(offloaded(&world), 2);
    for connection in [&all[5], &all[8]] {
        world.pass(5_000);
        world.send(&packet(connection, false, 0));
    }
    assert_eq!((offloaded(&world), world.kernel.entries().len()), (0, 0));
    let counted = world.counted();
    assert_eq!(counted.balance.0, counted.balance.1);
    assert_eq!(world.router.ledger().offloaded.packets.get(), world.kernel.carried);
}

#[test]
fn a_nic_has_so_many_flows_and_no_more() {
    let options = RouterOptions { nic_flows_max: 2, offload: false, ..RouterOptions::default() };
    let mut world = World::new(&lab(0), options, 64);
    let all = connections(&world);
    let datagrams = [&all[2], &all[5]];
    for connection in datagrams {
        assert_eq!(world.send(&packet(connection, false, 0)).len(), 1);
    }
    // ma has two flows: a third one is dropped, those go on, and another machine is not concerned.
    assert!(world.send(&packet(&all[0], false, SYN)).is_empty());
    let drops = |world: &mut World| -> u64 {
        world.counted().ports.iter().map(|(_, _, drops)| drops[Reason::FlowLimit as usize]).sum()
    };
    assert_eq!(drops(&mut world), 1);
    assert_eq!(world.send(&packet(datagrams[0], false, 0)).len(), 1);
    assert_eq!(world.send(&packet(&all[8], false, 0)).len(), 1);
    // Once they are idle there is room again.
    world.pass(300_000);
    assert_eq!(world.send(&packet(&all[0], false, SYN)).len(), 1);
}

#[test]
fn entries_that_the_kernel_lost_are_entered_again() {
    let mut world = world();
    let connection = connections(&world)[0];
    carry_on(&mut world, &connection);
    world.merge();
    world.kernel.lose(connection.0);
    world.pass(300);
    assert_eq!(offloaded(&world), 1);
    carry_on(&mut world, &connection);
    assert_eq!(offloaded(&world), 2);
}

#[test]
fn a_new_router_keeps_what_is_still_plain_and_removes_the_rest() {
    for policy in [0, 1, 2] {
        let mut world = world();
        let all = connections(&world);
        all.iter().for_each(|connection| carry_on(&mut world, connection));
        let entered = world.kernel.entries().len();
        assert_eq!(entered, 2 * all.len());
        let before = world.kernel.carried;
        world.apply(&lab(policy));
        world.restart();
        let kept = offloaded(&world);
        assert_eq!(kept, world.kernel.entries().len());
        assert_eq!(kept == entered, policy == 0);
        assert_eq!(world.router.ledger().offloaded.packets.get(), before, "all since it was entered");
        // Nothing that is kept is denied to its next packet.
        for connection in &all {
            for reply in [false, true] {
                let carried = world.kernel.carried;
                let left = world.send(&packet(connection, reply, ACK));
                assert!(world.kernel.carried == carried || left.len() == 1);
            }
        }
        let counted = world.counted();
        assert_eq!(counted.balance.0, counted.balance.1);
        world.pass(1_000);
        assert_eq!(world.kernel.used(), offloaded(&world));
    }
}

/// Packets of a flow at two workers, and at how many of them it is.
fn at_both(world: &World, other: &Router, packet: &Packet) -> (u64, usize) {
    let own = |router: &Router| {
        let flows = router.flows(world.now).into_iter();
        flows
            .filter(|flow| (flow.port, flow.tuple) == (packet.port, packet.tuple))
            .map(|flow| flow.packets)
            .collect()
    };
    let found: [Vec<u64>; 2] = [own(&world.router), own(other)];
    let found = found.concat();
    (found.iter().sum(), found.len())
}

#[test]
fn a_flow_that_comes_to_another_worker_is_its_own_with_all_that_was_counted() {
    for connection in connections(&world()) {
        let mut world = world();
        let mut other = world.other_worker();
        carry_on(&mut world, &connection);
        world.merge();
        let counted = [false, true].map(|reply| at_both(&world, &other, &packet(&connection, reply, ACK)).0);
        world.apply(&lab(0));
        std::mem::swap(&mut world.router, &mut other);
        let carried = world.kernel.carried;
        for round in 1..=12 {
            for (reply, before) in [false, true].into_iter().zip(counted) {
                assert_eq!(world.send(&packet(&connection, reply, ACK)).len(), 1);
                world.merge();
                // The former worker has its turn, then this one again.
                std::mem::swap(&mut world.router, &mut other);
                world.pass(300);
                std::mem::swap(&mut world.router, &mut other);
                world.merge();
                let found = at_both(&world, &other, &packet(&connection, reply, ACK));
                assert!(found.0 == before + round, "{}: {found:?} after {before} and {round}", connection.2);
                assert!(round < 8 || found.1 == 1, "{}: at {} workers", connection.2, found.1);
            }
        }
        assert!(world.kernel.carried > carried, "{}: it runs elsewhere again", connection.2);
        assert_eq!((offloaded(&world), other.offloaded_flows()), (2, 0));
        let counts = [world.counted(), {
            std::mem::swap(&mut world.router, &mut other);
            world.counted()
        }];
        let balance = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.balance.0, sum.1 + one.balance.1));
        assert_eq!(balance.0, balance.1, "no packet twice");
        assert_eq!(balance.0, counted.iter().sum::<u64>() + 24);
    }
}

#[test]
fn who_adopts_a_flow_gets_what_another_worker_has_seen_of_it() {
    let mut world = world();
    let connection = connections(&world)[0];
    carry_on(&mut world, &connection);
    let mut other = world.other_worker();
    // The daemon is gone, and with it what its router had counted before the flow was entered.
    world.apply(&lab(0));
    std::mem::swap(&mut world.router, &mut other);
    for reply in [false, true] {
        assert_eq!(world.send(&packet(&connection, reply, ACK)).len(), 1);
    }
    std::mem::swap(&mut world.router, &mut other);
    let carried = world.kernel.carried;
    world.restart();
    std::mem::swap(&mut world.router, &mut other);
    world.pass(300);
    std::mem::swap(&mut world.router, &mut other);
    world.merge();
    let found = [false, true].map(|reply| at_both(&world, &other, &packet(&connection, reply, ACK)));
    assert_eq!((found[0].0 + found[1].0, found[0].1, found[1].1), (carried + 2, 1, 1));
    assert_eq!((offloaded(&world), other.offloaded_flows()), (2, 0));
}

#[test]
fn a_flow_whose_packets_come_all_the_same_does_not_run_elsewhere() {
    let mut world = world();
    let connection = connections(&world)[2];
    carry_on(&mut world, &connection);
    assert_eq!(offloaded(&world), 2);
    // Something keeps its packets from whoever should carry them, as tcpdump does.
    world.kernel.passes_by = true;
    for _ in 0..4 {
        world.pass(500);
        assert_eq!(world.send(&packet(&connection, false, ACK)).len(), 1);
    }
    world.pass(500);
    assert_eq!((offloaded(&world), world.router.offloaded_flows()), (1, 1), "the replies' entry is idle");
    assert!(world.kernel.unmoved.contains(&packet(&connection, false, ACK).port), "and somebody is told");
    world.kernel.passes_by = false;
    world.send(&packet(&connection, false, ACK));
    world.merge();
    assert_eq!(offloaded(&world), 2);
}

/// A packet as a tap took it: where, what became of it, and its bytes.
type Taken = (PortId, Option<Verdict>, Vec<u8>);

/// Keeps what taps take.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Taken>>);

impl TapSink for Seen {
    fn take(&self, packet: &Tapped<'_>) {
        self.0.lock().unwrap().push((packet.port, packet.verdict, packet.packet.to_vec()));
    }
}

#[test]
fn a_tap_takes_its_flows_back_and_sees_every_packet() {
    let mut world = world();
    let all = connections(&world);
    all.iter().for_each(|connection| carry_on(&mut world, connection));
    let (ma, near) = (world.port("ma/eth0"), world.port("near/eth0"));
    let seen = Arc::new(Seen::default());
    let filter = TapFilter { ports: vec![near], counters: Vec::new() };
    world.tap(filter, &seen);
    // Three of nine connections touch this machine.
    assert_eq!(offloaded(&world), 2 * (all.len() - 3));
    let carried = world.kernel.carried;
    for connection in &all[..3] {
        for reply in [false, true] {
            world.pass(2_000);
            assert_eq!(world.send(&packet(connection, reply, ACK)).len(), 1);
        }
    }
    world.send(&packet(&all[4], false, ACK));
    assert_eq!(world.kernel.carried, carried + 1, "others go on where they were");
    let taken = std::mem::take(&mut *seen.0.lock().unwrap());
    let verdicts: Vec<_> = taken.iter().map(|(port, verdict, _)| (*port, *verdict)).collect();
    let one = [(near, None), (near, Some(Verdict::Deliver(ma)))];
    assert_eq!(verdicts, [one, one, one].concat());
    // What came out of a machine and is denied is seen with the reason.
    let spoofed = Packet { port: near, ..packet(&all[4], false, ACK) };
    assert_eq!(world.send(&spoofed), []);
    let taken = std::mem::take(&mut *seen.0.lock().unwrap());
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].1, Some(Verdict::Drop(Reason::SpoofedSource)));
    world.router.untap(TapId(1));
    for _ in 0..3 {
        world.pass(1_000);
        for connection in &all[..3] {
            for reply in [false, true] {
                world.send(&packet(connection, reply, ACK));
            }
        }
    }
    let flows = world.router.flows(world.now);
    let own =
        |flow: &&vnet_router::FlowRecord| flow.offloaded && all[..3].iter().any(|own| own.2 == flow.tuple);
    assert_eq!(flows.iter().filter(own).count(), 3);
    assert!(seen.0.lock().unwrap().is_empty());
    assert_eq!(world.counted().balance.0, world.counted().balance.1);
}

#[test]
fn a_tap_on_a_link_sees_what_crosses_it_once() {
    let mut world = world();
    let all = connections(&world);
    carry_on(&mut world, &all[0]);
    carry_on(&mut world, &all[3]);
    let crossing = |spec: &&vnet_fabric::snapshot::CounterSpec| match &spec.kind {
        CounterKind::Peering { from, to } => [&**from, &**to].contains(&"b"),
        CounterKind::Gateway { .. } | CounterKind::Tunnel { .. } => false,
    };
    let counters: Vec<_> =
        world.router.snapshot().counters().iter().filter(crossing).map(|spec| spec.id).collect();
    let seen = Arc::new(Seen::default());
    let filter = TapFilter { ports: Vec::new(), counters };
    world.tap(filter, &seen);
    assert_eq!(offloaded(&world), 2, "the peering of a and h goes on");
    for connection in [&all[0], &all[3]] {
        for reply in [false, true] {
            world.send(&packet(connection, reply, ACK));
        }
    }
    let ports: Vec<PortId> = seen.0.lock().unwrap().iter().map(|(port, ..)| *port).collect();
    assert_eq!(ports, [world.port("ma/eth0"), world.port("mb/eth0")]);
}

/// What happens to both worlds.
#[derive(Clone, Debug)]
enum Happening {
    Sent { connection: usize, reply: bool, flags: u8, ttl: u8, payload_bytes: usize },
    Burst { connection: usize, packets: usize },
    Passed(u64),
    Applied(usize),
    Merged,
    Lost(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let flags =
        prop_oneof![8 => Just(ACK), 2 => Just(SYN), 2 => Just(SYN_ACK), 1 => Just(FIN), 1 => Just(RST)];
    let ttl = prop_oneof![9 => Just(64_u8), 1 => 1_u8..4];
    prop_oneof![
        8 => (0_usize..9, any::<bool>(), flags, ttl, 0_usize..1_400).prop_map(
            |(connection, reply, flags, ttl, payload_bytes)| Happening::Sent {
                connection, reply, flags, ttl, payload_bytes,
            }
        ),
        12 => (0_usize..9, 1_usize..20).prop_map(|(connection, packets)| Happening::Burst { connection, packets }),
        6 => (1_u64..1_500).prop_map(Happening::Passed),
        1 => (20_000_u64..60_000).prop_map(Happening::Passed),
        1 => Just(Happening::Passed(400_000)),
        2 => (0_usize..4).prop_map(Happening::Applied),
        2 => Just(Happening::Merged),
        1 => (0_usize..9).prop_map(Happening::Lost),
    ]
}

fn run(happenings: &[Happening], flows_max: usize, entries_max: usize) -> (World, World) {
    let options = RouterOptions { flows_max, ..RouterOptions::default() };
    let mut world = World::new(&lab(0), options, entries_max);
    let mut alone = World::new(&lab(0), RouterOptions { offload: false, ..options }, 0);
    let all = connections(&world);
    let both = |packet: &Packet, world: &mut World, alone: &mut World| {
        assert_eq!(world.send(packet), alone.send(packet), "{packet:?}");
    };
    for happening in happenings {
        match *happening {
            Happening::Sent { connection, reply, flags, ttl, payload_bytes } => {
                let sent = Packet { ttl, payload_bytes, ..packet(&all[connection], reply, flags) };
                both(&sent, &mut world, &mut alone);
            }
            Happening::Burst { connection, packets } => {
                for number in 0..packets {
                    both(&packet(&all[connection], number % 3 == 2, ACK), &mut world, &mut alone);
                }
            }
            Happening::Passed(millis) => {
                world.pass(millis);
                alone.pass(millis);
            }
            Happening::Applied(policy) => {
                world.apply(&lab(policy));
                alone.apply(&lab(policy));
            }
            Happening::Merged => world.merge(),
            Happening::Lost(connection) => {
                world.merge();
                world.kernel.lose(all[connection].0);
            }
        }
        let flows = world.router.flows(world.now);
        assert!(flows.iter().all(|flow| !flow.offloaded || flow.state != FlowState::Dropped));
    }
    (world, alone)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn counts_and_verdicts_are_those_of_the_router_alone(
        happenings in proptest::collection::vec(happening(), 1..120),
        entries_max in prop_oneof![Just(64_usize), 1_usize..6],
    ) {
        let (mut world, mut alone) = run(&happenings, 1 << 10, entries_max);
        let counted = world.counted();
        prop_assert_eq!(&counted, &alone.counted());
        prop_assert_eq!(counted.balance.0, counted.balance.1);
        prop_assert_eq!(world.flows(), alone.flows());
        // Nothing stays behind when all have gone quiet.
        world.pass(60_000);
        prop_assert_eq!(world.kernel.used(), 0);
    }

    #[test]
    fn evictions_lose_no_count(
        happenings in proptest::collection::vec(happening(), 1..120),
        flows_max in 2_usize..12,
    ) {
        let (mut world, mut alone) = run(&happenings, flows_max, 64);
        let counted = world.counted();
        prop_assert_eq!(&counted, &alone.counted());
        prop_assert_eq!(counted.balance.0, counted.balance.1);
        world.pass(60_000);
        prop_assert_eq!(world.kernel.used(), 0);
    }
}
