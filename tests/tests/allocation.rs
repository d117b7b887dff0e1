//! A packet of a known flow allocates nothing on its way. This file counts what the thread asks of the allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vnet_dataplane::{
    FiveTuple, Nanos, OffloadCounts, OffloadEntry, OffloadSlot, PortId, Protocol, Reason, SessionRecord,
    TunnelId, VNET_HEADER_LEN, checksum,
};
use vnet_fabric::converge;
use vnet_gateway::ConnectionStatus;
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared};
use vnet_tests::accept::load;
use vnet_tests::fabric::Fabric;
use vnet_tests::simulation::{framed, packet};
use vnet_tests::subject::Subject;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local cell that
// needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, and it is passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts frames and keeps none.
#[derive(Default)]
struct Sink {
    frames: u64,
    /// Flows can be replayed elsewhere; so many are.
    replays: bool,
    entered: u32,
    /// How often their counts were read; they have replayed a packet each time.
    read: Cell<u64>,
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

    fn offload(&mut self, _entry: &OffloadEntry) -> Option<OffloadSlot> {
        self.entered += u32::from(self.replays);
        self.replays.then_some(OffloadSlot(self.entered))
    }

    fn offloaded(&self, _slot: OffloadSlot) -> Option<OffloadCounts> {
        let packets = self.read.get() + 1;
        self.read.set(packets);
        let last_seen = Nanos(1_000_000_000 + packets);
        Some(OffloadCounts { packets, bytes: 100 * packets, last_seen })
    }
}

fn topology() -> serde_json::Value {
    let open = json!([{
        "name": "g", "priority": 200, "ruleCollections": [{
            "name": "c", "priority": 100, "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "action": "Allow",
            "rules": [{
                "name": "any", "ruleType": "NetworkRule", "ipProtocols": ["Any"], "sourceAddresses": ["*"],
                "destinationAddresses": ["*"], "destinationPorts": ["*"],
            }],
        }],
    }]);
    json!({
        "name": "ex",
        "virtualNetworks": {
            "h": {"addressSpace": ["10.0.0.0/16"], "subnets": {"AzureFirewallSubnet": "10.0.1.0/26", "s": "10.0.2.0/24"},
                  "peerings": {"a": {}, "b": {}}},
            "a": {"addressSpace": ["10.1.0.0/16"], "subnets": {"s": {"addressPrefix": "10.1.0.0/24", "routeTable": "t",
                  "networkSecurityGroup": "n"}}, "peerings": {"h": {"allowForwardedTraffic": true}}},
            "b": {"addressSpace": ["10.2.0.0/16"], "subnets": {"s": {"addressPrefix": "10.2.0.0/24", "routeTable": "t",
                  "networkSecurityGroup": "n"}}, "peerings": {"h": {"allowForwardedTraffic": true}}},
        },
        "virtualMachines": {
            "near": {"subnet": "h/s", "privateIPAddress": "10.0.2.4"},
            "ma": {"subnet": "a/s", "privateIPAddress": "10.1.0.4"},
            "mb": {"subnet": "b/s", "privateIPAddress": "10.2.0.4"},
        },
        "networkSecurityGroups": {"n": {"securityRules": []}},
        "routeTables": {"t": {"routes": [{"name": "r", "addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance",
            "nextHopIpAddress": "10.0.1.4"}]}},
        "azureFirewalls": {"fw": {"virtualNetwork": "h", "sku": "Standard", "firewallPolicy": "p",
            "publicIPAddresses": ["203.0.113.20"]}},
        "firewallPolicies": {"p": {"ruleCollectionGroups": open}},
    })
}

/// Allocations of a thousand packets of one flow, after its first two.
fn allocations(router: &mut Router, sink: &mut Sink, port: PortId, tuple: FiveTuple) -> u64 {
    let original = framed(&packet(tuple, true));
    let mut frame = original.clone();
    let mut before = 0;
    for number in 0..1_002u64 {
        if number == 2 {
            before = ASKED.get();
        }
        frame.copy_from_slice(&original);
        let now = Nanos(1_000_000_000 + number * 1_000);
        router.begin();
        router.input(port, &mut frame, now, sink);
        router.poll_output(now, sink);
    }
    ASKED.get() - before
}

/// A router of the topology, and where its flows come in.
fn lab() -> (Router, PortId) {
    let fabric = Fabric::build(&topology()).expect("the topology is accepted");
    let (_, snapshot) = converge(&Arc::new(load(&topology()).expect("the topology is accepted")));
    let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 12]);
    let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
    let options = RouterOptions { flows_max: 1 << 12, ..RouterOptions::default() };
    (Router::new(shared, options, 7), fabric.port_of("ma"))
}

fn flow(destination: &str, protocol: Protocol, source_port: u16) -> FiveTuple {
    FiveTuple {
        protocol,
        source: "10.1.0.4".parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        source_port,
        destination_port: 443,
    }
}

/// Frames of many flows: by peering, through the firewall, and some that are dropped; several of each in a row, so that
/// they are joined.
fn mixed() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..50 {
        for (destination, protocol) in [
            ("10.0.2.4", Protocol::UDP),
            ("10.2.0.4", Protocol::UDP),
            ("10.2.0.4", Protocol::TCP),
            ("10.0.2.4", Protocol::ICMP),
        ] {
            let mut frame = framed(&packet(flow(destination, protocol, 40_000 + number), true));
            // Two in a row may be joined: neither is to be fragmented (RFC 6864).
            frame[VNET_HEADER_LEN + 6] |= 0x40;
            checksum::write_ipv4_header(&mut frame[VNET_HEADER_LEN..]);
            frames.extend([frame.clone(), frame]);
        }
    }
    frames
}

/// All frames in each round, a millisecond after the last, in batches of 64, as a worker takes them from a device.
fn batches(
    router: &mut Router,
    sink: &mut Sink,
    port: PortId,
    frames: &[Vec<u8>],
    rounds: Range<u64>,
    timers: bool,
) {
    let mut room = vec![0; 2048];
    for round in rounds {
        let now = Nanos(1_000_000_000 + round * 1_000_000);
        for batch in frames.chunks(64) {
            router.gather();
            for frame in batch {
                room[..frame.len()].copy_from_slice(frame);
                router.input(port, &mut room[..frame.len()], now, sink);
            }
            router.flush_gathered(sink);
            if timers {
                router.begin();
                router.poll_output(now, sink);
            }
        }
    }
}

#[test]
fn ten_thousand_packets_of_mixed_flows_allocate_nothing() {
    let (mut router, port) = lab();
    let (mut sink, frames) = (Sink::default(), mixed());
    router.begin();
    batches(&mut router, &mut sink, port, &frames, 0..2, true);
    let (before, written, received) = (ASKED.get(), sink.frames, router.ledger().balance().received);
    batches(&mut router, &mut sink, port, &frames, 2..27, true);
    // The buffer that stands for the worker's.
    assert_eq!(ASKED.get() - before, 1, "allocations of {} packets", frames.len() * 25);
    assert_eq!(router.ledger().balance().received - received, 10_000);
    // Of 400 packets a round, a hundred are dropped and two hundred joined in pairs, but for pairs that two batches share.
    let written = (sink.frames - written) / 25;
    assert!((200..220).contains(&written), "{written} writes a round");
}

/// The same once the kernel replays flows: offers are made when a flow is first looked at, what it counts is merged for good.
#[test]
fn merging_what_is_replayed_elsewhere_allocates_nothing() {
    let (mut router, port) = lab();
    let (mut sink, frames) = (Sink { replays: true, ..Sink::default() }, mixed());
    router.begin();
    batches(&mut router, &mut sink, port, &frames, 0..3_000, true);
    assert_eq!(sink.entered, 100, "flows of two hundred that are only to be delivered");
    let (before, read) = (ASKED.get(), sink.read.get());
    batches(&mut router, &mut sink, port, &frames, 3_000..4_000, true);
    assert_eq!(ASKED.get() - before, 1, "allocations");
    assert!(sink.read.get() - read >= 300, "{} reads of counts", sink.read.get() - read);
    assert_eq!(sink.entered, 100);
}

/// Whoever holds every lock that workers share does not keep a packet of a known flow from going its way. It can't look
/// at a clock either: the router has none, the time is handed in.
#[test]
fn a_known_flow_takes_no_lock() {
    let (mut router, port) = lab();
    let (mut sink, frames) = (Sink::default(), mixed());
    router.begin();
    // Two packets a round: past the eighth, at which a flow is looked at and its sessions are told.
    batches(&mut router, &mut sink, port, &frames, 0..4, true);
    let shared = Arc::clone(router.shared());
    let all = (shared.sessions(), shared.tunnels(), shared.drops(), shared.rates());
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let before = sink.frames;
        batches(&mut router, &mut sink, port, &frames, 4..29, false);
        done.send(sink.frames - before).expect("the test waits");
    });
    let written = wait.recv_timeout(Duration::from_secs(60)).expect("no packet waits for a lock");
    drop(all);
    assert!(written >= 5_000, "{written} writes");
}

#[test]
fn a_known_flow_allocates_nothing() {
    let (mut router, port) = lab();
    let mut sink = Sink::default();
    let ways = [
        ("peering", flow("10.0.2.4", Protocol::UDP, 39_999), 1_002),
        ("firewall", flow("10.2.0.4", Protocol::UDP, 39_999), 1_002),
        ("drop", flow("10.2.0.4", Protocol::TCP, 39_999), 0),
    ];
    for (way, tuple, delivered) in ways {
        let before = sink.frames;
        assert_eq!(allocations(&mut router, &mut sink, port, tuple), 0, "on the {way} path");
        assert_eq!(sink.frames - before, delivered, "frames of the {way} path");
    }
}
