//! A million flows through a firewall, held while packets of any of them are forwarded.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use vnet_dataplane::{FiveTuple, Nanos, PortId, Protocol, Reason, SessionRecord, TunnelId};
use vnet_gateway::ConnectionStatus;
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared};
use vnet_tests::fabric::Fabric;
use vnet_tests::simulation::{framed, packet};
use vnet_tests::subject::Subject;

static HELD: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing but two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, and it is passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Connections; each has a flow in each direction and a session of the firewall.
const CONNECTIONS: u32 = 500_000;
const OCTETS_PER_FLOW: usize = 256;
const OCTETS_PER_SESSION: usize = 48;
/// What a router holds without any flow: buffers, the ledger's chunks, the snapshot.
const OCTETS_BESIDE: usize = 4 << 20;

#[derive(Default)]
struct Sink {
    frames: u64,
    last: Option<PortId>,
}

impl Output for Sink {
    fn transmit(&mut self, port: PortId, _frame: &[u8]) -> Result<(), Reason> {
        self.frames += 1;
        self.last = Some(port);
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, _to: SocketAddr, _segment_size: usize, _data: &[u8]) -> bool {
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

fn topology() -> serde_json::Value {
    let spoke = |prefix: &str, subnet: &str| {
        json!({"addressSpace": [prefix], "subnets": {"s": {"addressPrefix": subnet, "routeTable": "t"}},
            "peerings": {"h": {"allowForwardedTraffic": true}}})
    };
    json!({
        "name": "million",
        "virtualNetworks": {
            "h": {"addressSpace": ["10.0.0.0/16"], "subnets": {"AzureFirewallSubnet": "10.0.1.0/26"},
                "peerings": {"a": {}, "b": {}}},
            "a": spoke("10.1.0.0/16", "10.1.0.0/24"),
            "b": spoke("10.2.0.0/16", "10.2.0.0/24"),
        },
        "virtualMachines": {
            "ma": {"subnet": "a/s", "privateIPAddress": "10.1.0.4"},
            "mb": {"subnet": "b/s", "privateIPAddress": "10.2.0.4"},
        },
        "routeTables": {"t": {"routes": [{"name": "r", "addressPrefix": "0.0.0.0/0",
            "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.1.4"}]}},
        "azureFirewalls": {"fw": {"virtualNetwork": "h", "sku": "Standard", "firewallPolicy": "p",
            "publicIPAddresses": ["203.0.113.20"]}},
        "firewallPolicies": {"p": {"ruleCollectionGroups": [{"name": "g", "priority": 200, "ruleCollections": [{
            "name": "c", "priority": 100, "ruleCollectionType": "FirewallPolicyFilterRuleCollection",
            "action": "Allow", "rules": [{"name": "any", "ruleType": "NetworkRule", "ipProtocols": ["Any"],
                "sourceAddresses": ["*"], "destinationAddresses": ["*"], "destinationPorts": ["*"]}]}]}]}},
    })
}

/// The lab, and a frame of each direction to write ports into.
struct Held {
    router: Router,
    sink: Sink,
    ends: [PortId; 2],
    frames: [Vec<u8>; 2],
}

impl Held {
    fn new() -> Held {
        let fabric = Fabric::build(&topology()).expect("the topology is accepted");
        let ends = [fabric.port_of("ma"), fabric.port_of("mb")];
        let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 19]);
        let shared = Arc::new(Shared::new(fabric.snapshot, memory, 7, 0));
        let options =
            RouterOptions { flows_max: 1 << 20, nic_flows_max: usize::MAX, ..RouterOptions::default() };
        let mut router = Router::new(shared, options, 7);
        router.begin();
        let there = FiveTuple {
            protocol: Protocol::UDP,
            source: "10.1.0.4".parse().expect("an address"),
            destination: "10.2.0.4".parse().expect("an address"),
            source_port: 1,
            destination_port: 1,
        };
        let frames = [framed(&packet(there, false)), framed(&packet(there.reversed(), true))];
        Held { router, sink: Sink::default(), ends, frames }
    }

    /// Sends a packet of a connection, in one direction or the other, and sees it arrive.
    fn pass(&mut self, connection: u32, side: usize, now: Nanos) {
        let mut frame = [0; 128];
        let frame = &mut frame[..self.frames[side].len()];
        frame.copy_from_slice(&self.frames[side]);
        // Neither range holds a port that hosts keep for themselves.
        let ports = [(connection >> 14) as u16 + 1_000, (connection & 0x3fff) as u16 + 10_000];
        let (source, destination) = (ports[side], ports[1 - side]);
        frame[30..32].copy_from_slice(&source.to_be_bytes());
        frame[32..34].copy_from_slice(&destination.to_be_bytes());
        let before = self.sink.frames;
        self.router.input(self.ends[side], frame, now, &mut self.sink);
        assert_eq!(
            (self.sink.frames, self.sink.last),
            (before + 1, Some(self.ends[1 - side])),
            "connection {connection}, side {side}"
        );
    }

    fn flows(&self) -> u64 {
        self.router.flow_counts().iter().map(|(_, count)| count).sum()
    }
}

#[test]
fn a_million_flows_are_held_while_packets_are_forwarded() {
    let before = HELD.load(Ordering::Relaxed);
    let mut held = Held::new();
    let records = (1usize << 19) * size_of::<SessionRecord>();
    for connection in 0..CONNECTIONS {
        // 20,000 new connections a second, for 25 seconds: none of them is idle for too long.
        let now = Nanos(1_000_000_000 + u64::from(connection) * 50_000);
        held.pass(connection, 0, now);
        held.pass(connection, 1, now);
        if connection % 64 == 0 {
            held.router.poll_output(now, &mut held.sink);
        }
    }
    let flows = held.flows();
    let octets = HELD.load(Ordering::Relaxed) - before - records;
    println!("{flows} flows: {} octets each, sessions' index included", octets as u64 / flows);
    assert_eq!(flows, 2 * u64::from(CONNECTIONS));
    assert_eq!(held.router.shared().sessions().len(), CONNECTIONS as usize);
    let bound = flows as usize * OCTETS_PER_FLOW + CONNECTIONS as usize * OCTETS_PER_SESSION + OCTETS_BESIDE;
    assert!(octets <= bound, "{octets} octets, no more than {bound} were expected");

    let asked = ASKED.load(Ordering::Relaxed);
    let mut number = 1u32;
    for step in 0..1_000_000u64 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let connection = ((u64::from(number) * u64::from(CONNECTIONS)) >> 32) as u32;
        let now = Nanos(26_000_000_000 + step * 5_000);
        held.pass(connection, (step % 2) as usize, now);
        if step % 64 == 0 {
            held.router.poll_output(now, &mut held.sink);
        }
    }
    assert_eq!(held.flows(), flows);
    let asked = ASKED.load(Ordering::Relaxed) - asked;
    assert!(asked < 100, "a million packets of known flows asked the allocator {asked} times");
}
