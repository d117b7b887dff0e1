//! Rate and delay in simulated time: what arrives when, in which order, and that nothing is lost uncounted.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use serde_json::{Value, json};
use vnet_dataplane::{
    FiveTuple, GsoType, Headers, LimiterId, Nanos, Offload, PortId, Protocol, Reason, SessionRecord,
    TunnelId, VNET_HEADER_LEN, VnetHeader,
};
use vnet_fabric::converge;
use vnet_gateway::ConnectionStatus;
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared};
use vnet_tests::accept::load;
use vnet_tests::fabric::Fabric;
use vnet_tests::subject::Subject;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Two regions 40 ms apart one way; `slow` sends 10 Mb/s at most, `fast` what `fast_mbps` says, `free` as it likes.
fn topology(fast_mbps: u32) -> Value {
    let rtt = json!({"eastus": {"westeurope": 80}});
    json!({
        "name": "timing", "location": "eastus",
        "virtualNetworks": {
            "a": {"addressSpace": ["10.1.0.0/16"], "subnets": {"s": "10.1.0.0/24"}, "peerings": {"b": {}, "c": {}}},
            "b": {"addressSpace": ["10.2.0.0/16"], "subnets": {"s": "10.2.0.0/24"}, "peerings": {"a": {}}},
            "c": {"addressSpace": ["10.3.0.0/16"], "location": "westeurope", "subnets": {"s": "10.3.0.0/24"},
                  "peerings": {"a": {}}},
        },
        "virtualMachines": {
            "slow": {"subnet": "a/s", "privateIPAddress": "10.1.0.4", "bandwidthMbps": 10},
            "fast": {"subnet": "a/s", "privateIPAddress": "10.1.0.5", "bandwidthMbps": fast_mbps},
            "free": {"subnet": "a/s", "privateIPAddress": "10.1.0.6"},
            "near": {"subnet": "b/s", "privateIPAddress": "10.2.0.4"},
            "far": {"subnet": "c/s", "privateIPAddress": "10.3.0.4"},
        },
        "regions": {"latency": rtt},
    })
}

const NEAR: &str = "10.2.0.4";
const FAR: &str = "10.3.0.4";
/// Inside a zone, one way.
const ZONE_NS: u64 = 150_000;
const REGIONS_NS: u64 = 40 * MS;

fn address(machine: &str) -> &'static str {
    match machine {
        "slow" => "10.1.0.4",
        "fast" => "10.1.0.5",
        _ => "10.1.0.6",
    }
}

/// A datagram or a super-packet as it arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: u64,
    sent_at: u64,
    flow: u16,
    number: u64,
    packets: u64,
    /// IP packets' bytes after segmentation.
    bytes: u64,
}

#[derive(Default)]
struct Recorder {
    now: u64,
    arrivals: Vec<Arrival>,
}

impl Output for Recorder {
    fn transmit(&mut self, _port: PortId, frame: &[u8]) -> Result<(), Reason> {
        let (vnet, packet) = VnetHeader::read(frame).expect("a frame has its header");
        let headers = Headers::parse(packet).expect("the router sends sound packets");
        let offload = Offload::read(&vnet, &headers).expect("the router sends sound headers");
        let (packets, bytes) = offload.wire(&headers);
        let payload = &packet[headers.payload()..headers.len()];
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("8 bytes"));
        let flow = headers.meta.tuple.source_port;
        self.arrivals.push(Arrival {
            at: self.now,
            sent_at: number(8),
            flow,
            number: number(0),
            packets,
            bytes,
        });
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, _to: SocketAddr, _segment_size: usize, _data: &[u8]) -> bool {
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

struct World {
    router: Router,
    recorder: Recorder,
    fabric: Fabric,
    numbers: HashMap<u16, u64>,
    /// Packets and bytes that were sent, after segmentation.
    sent: (u64, u64),
}

impl World {
    fn new(topology: &Value) -> World {
        let fabric = Fabric::build(topology).expect("the topology is accepted");
        let (_, snapshot) = converge(&Arc::new(load(topology).expect("the topology is accepted")));
        let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 12]);
        let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
        let options = RouterOptions { flows_max: 1 << 12, ..RouterOptions::default() };
        let mut router = Router::new(shared, options, 7);
        router.begin();
        let recorder = Recorder { now: SECOND, arrivals: Vec::new() };
        World { router, recorder, fabric, numbers: HashMap::new(), sent: (0, 0) }
    }

    fn limiter(&self, machine: &str) -> LimiterId {
        let name = format!("vm/{machine}/egress");
        let found = self.router.snapshot().limiters().iter().find(|spec| *spec.name == *name);
        found.expect("the machine has a limiter").id
    }

    /// Sends `segments` datagrams of a payload as one; each carries its number and the time.
    fn send(&mut self, from: &str, to: &str, flow: u16, payload: usize, segments: usize) {
        let tuple = FiveTuple {
            protocol: Protocol::UDP,
            source: address(from).parse().expect("an address"),
            destination: to.parse().expect("an address"),
            source_port: flow,
            destination_port: 9,
        };
        let next = self.numbers.entry(flow).or_default();
        let mut body = Vec::new();
        for _ in 0..segments {
            body.extend_from_slice(&next.to_le_bytes());
            body.extend_from_slice(&self.recorder.now.to_le_bytes());
            body.resize(body.len() + payload - 16, 0);
            *next += 1;
        }
        let mut frame = datagram(tuple, &body, (segments > 1).then_some(payload as u16));
        self.sent.0 += segments as u64;
        self.sent.1 += (segments * (payload + 28)) as u64;
        let port = self.fabric.port_of(from);
        self.router.input(port, &mut frame, Nanos(self.recorder.now), &mut self.recorder);
    }

    /// Lets time pass to `at`; whatever is due leaves on its minute.
    fn pass(&mut self, at: u64) {
        while let Some(next) = self.router.next_timeout().filter(|next| next.0 <= at) {
            self.recorder.now = self.recorder.now.max(next.0);
            self.router.poll_output(Nanos(self.recorder.now), &mut self.recorder);
        }
        self.recorder.now = at;
    }

    /// Packets that were sent, and those that arrived or were dropped for want of room.
    fn balance(&self) -> (u64, u64) {
        let ledger = self.router.ledger();
        let dropped: u64 = self
            .router
            .snapshot()
            .ports()
            .filter_map(|port| ledger.port(port.id))
            .map(|counts| counts.drops.iter().map(|drops| drops.get()).sum::<u64>())
            .sum();
        (self.sent.0, self.arrived().0 + dropped)
    }

    fn arrived(&self) -> (u64, u64) {
        let arrivals = &self.recorder.arrivals;
        (arrivals.iter().map(|one| one.packets).sum(), arrivals.iter().map(|one| one.bytes).sum())
    }

    fn assert_order(&self) {
        let mut newest: HashMap<u16, u64> = HashMap::new();
        for arrival in &self.recorder.arrivals {
            let newest = newest.entry(arrival.flow).or_default();
            assert!(arrival.number >= *newest, "{arrival:?} came after {newest}");
            *newest = arrival.number + arrival.packets;
        }
    }
}

fn datagram(tuple: FiveTuple, body: &[u8], gso_bytes: Option<u16>) -> Vec<u8> {
    let octets = |address: std::net::IpAddr| {
        let std::net::IpAddr::V4(address) = address else { return Ipv4Addr::UNSPECIFIED.octets() };
        address.octets()
    };
    let mut frame = vec![0; VNET_HEADER_LEN];
    PacketBuilder::ipv4(octets(tuple.source), octets(tuple.destination), 64)
        .udp(tuple.source_port, tuple.destination_port)
        .write(&mut frame, body)
        .expect("written to memory");
    if let Some(size) = gso_bytes {
        let headers = Headers::parse(&frame[VNET_HEADER_LEN..]).expect("made here");
        let vnet = Offload::partial(Some((GsoType::Udp, size))).to_vnet(&headers).to_bytes();
        frame[..VNET_HEADER_LEN].copy_from_slice(&vnet);
    }
    frame
}

/// Offers 1.2 times the rate for three seconds, and gives what arrived in the last two of them, in bytes.
fn overload(world: &mut World, from: &str, rate: u64, mut size: impl FnMut(u64) -> (usize, usize)) -> u64 {
    let limiter = world.limiter(from);
    let (mut step, mut offered) = (0, 0);
    // Half the rate's 50 ms are more than the bound only where the rate is so low that the least queue counts.
    let bound_ns = (50 * MS).max((32 << 10) * 8 * SECOND / rate);
    while world.recorder.now < 4 * SECOND {
        let (payload, segments) = size(step);
        world.send(from, NEAR, 7, payload, segments);
        offered += (segments * (payload + 28)) as u64;
        step += 1;
        let now = Nanos(world.recorder.now);
        let waits = world.router.shared().rates().queueing_delay(limiter, now);
        assert!(waits.as_nanos() as u64 <= bound_ns + MS, "{waits:?} at {rate}");
        let next = SECOND + (u128::from(offered) * 8 * 1_000_000_000 * 10 / 12 / u128::from(rate)) as u64;
        world.pass(next);
    }
    let arrivals = &world.recorder.arrivals;
    let counted =
        arrivals.iter().filter(|one| (2 * SECOND + ZONE_NS..4 * SECOND + ZONE_NS).contains(&one.at));
    counted.map(|one| one.bytes).sum()
}

#[test]
fn a_machines_rate_is_kept_to_a_thousandth() {
    for (mbps, segments) in [(10, 1), (10, 40), (100, 1), (100, 40), (1_000, 40), (5_000, 45)] {
        let mut world = World::new(&topology(mbps));
        let rate = u64::from(mbps) * 1_000_000;
        let bytes = overload(&mut world, "fast", rate, |step| (1_372 - (step % 5) as usize * 100, segments));
        let expected = rate / 8 * 2;
        let error = bytes.abs_diff(expected) as f64 / expected as f64;
        // A window ends inside a super-packet.
        let grain = (segments * 1_400) as f64 / expected as f64;
        assert!(error < 0.001 + grain.min(0.003), "{mbps} Mb/s in {segments}s: {bytes} of {expected}");
        world.assert_order();
        world.pass(6 * SECOND);
        let (sent, ended) = world.balance();
        assert_eq!(sent, ended, "{mbps} Mb/s in {segments}s");
        assert!(world.arrived().0 < sent, "an overload drops");
    }
}

#[test]
fn a_slow_rate_splits_a_super_packet() {
    let mut world = World::new(&topology(1_000));
    world.send("slow", NEAR, 7, 1_222, 20);
    world.pass(3 * SECOND);
    let arrivals = &world.recorder.arrivals;
    assert_eq!(world.arrived().0, 20);
    assert!(arrivals.iter().all(|one| one.packets <= 2), "3000 bytes go at once at most");
    // What goes at once after a pause, then 1250 bytes each millisecond.
    let last = arrivals.last().expect("all arrived").at - SECOND - ZONE_NS;
    assert!(last.abs_diff(20 * MS - 3 * MS) < MS + MS / 2, "{last}");
    world.assert_order();
    // A rate at which it makes no difference leaves it whole.
    world.recorder.arrivals.clear();
    world.send("fast", NEAR, 8, 1_222, 20);
    world.pass(4 * SECOND);
    assert_eq!(world.recorder.arrivals.len(), 1);
}

#[test]
fn a_delay_is_exact() {
    let mut world = World::new(&topology(1_000));
    for step in 0..10_000u64 {
        world.send("free", if step % 3 == 0 { NEAR } else { FAR }, 1 + (step % 3) as u16, 200, 1);
        world.pass(SECOND + step * 12_345);
    }
    world.pass(2 * SECOND);
    assert_eq!(world.balance().0, world.arrived().0);
    for arrival in &world.recorder.arrivals {
        let delay = if arrival.flow == 1 { ZONE_NS } else { REGIONS_NS };
        assert_eq!(arrival.at - arrival.sent_at, delay, "{arrival:?}");
    }
    world.assert_order();
}

#[test]
fn a_queue_holds_up_nobody_else_on_the_same_delay_line() {
    let mut world = World::new(&topology(1_000));
    for step in 0..2_000u64 {
        world.send("slow", FAR, 1, 1_372, 1);
        world.send("free", FAR, 2, 1_372, 1);
        world.pass(SECOND + step * 300_000);
    }
    world.pass(3 * SECOND);
    let of = |flow| world.recorder.arrivals.iter().filter(move |one| one.flow == flow);
    assert_eq!(of(2).count(), 2_000);
    assert!(of(2).all(|one| one.at - one.sent_at == REGIONS_NS));
    assert!(of(1).any(|one| one.at - one.sent_at > REGIONS_NS + 40 * MS), "the other one queues");
    world.assert_order();
    let (sent, ended) = world.balance();
    assert_eq!(sent, ended);
}

#[derive(Clone, Debug)]
struct Step {
    from: usize,
    far: bool,
    payload: usize,
    segments: usize,
    pause_us: u64,
    /// The worker is busy with something else so long.
    late_us: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let segments = prop_oneof![4 => Just(1usize), 1 => 2..44usize];
    let late = prop_oneof![6 => Just(0u64), 1 => 1..3_000u64];
    (0..3usize, any::<bool>(), 16..1_372usize, segments, 0..400u64, late).prop_map(
        |(from, far, payload, segments, pause_us, late_us)| Step {
            from,
            far,
            payload,
            segments,
            pause_us,
            late_us,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: cases(), ..ProptestConfig::default() })]

    /// Whatever comes, and however late the worker looks: each flow keeps its order, no packet arrives before its delay has
    /// passed or long after, and each one arrives or is counted as dropped.
    #[test]
    fn order_bounds_and_balance(steps in proptest::collection::vec(step(), 1..300), fast_mbps in 20..5_000u32) {
        let mut world = World::new(&topology(fast_mbps));
        let mut late_max = 0;
        for step in steps {
            let machine = ["slow", "fast", "free"][step.from];
            let flow = 1 + 2 * step.from as u16 + u16::from(step.far);
            world.send(machine, if step.far { FAR } else { NEAR }, flow, step.payload, step.segments);
            let next = world.recorder.now + step.pause_us * 1_000;
            world.pass(next);
            // Nothing is polled, though its time may have come.
            world.recorder.now += step.late_us * 1_000;
            late_max = late_max.max(step.late_us * 1_000);
        }
        let end = world.recorder.now + 2 * SECOND;
        world.pass(end);
        world.assert_order();
        let (sent, ended) = world.balance();
        prop_assert_eq!(sent, ended);
        for one in &world.recorder.arrivals {
            let delay = if one.flow % 2 == 0 { REGIONS_NS } else { ZONE_NS };
            let machine = (one.flow - 1) / 2;
            let queue_max = [53 * MS, 53 * MS, 0][usize::from(machine)];
            let took = one.at - one.sent_at;
            prop_assert!(took >= delay, "{:?}", one);
            prop_assert!(took <= delay + queue_max + 2 * late_max, "{:?} with {}", one, late_max);
        }
    }
}

fn cases() -> u32 {
    if std::env::var_os("VNET_NIGHTLY").is_some() { 5_000 } else { 64 }
}
