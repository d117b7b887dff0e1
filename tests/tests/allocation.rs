//! A packet of a known flow allocates nothing on its way. This file counts what the thread asks of the allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use vnet_dataplane::{FiveTuple, Nanos, PortId, Protocol, Reason, SessionRecord, TunnelId};
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

#[test]
fn a_known_flow_allocates_nothing() {
    let fabric = Fabric::build(&topology()).expect("the topology is accepted");
    let (_, snapshot) = converge(&Arc::new(load(&topology()).expect("the topology is accepted")));
    let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 12]);
    let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
    let mut router = Router::new(shared, RouterOptions { flows_max: 1 << 12, ..RouterOptions::default() }, 7);
    let mut sink = Sink::default();
    let flow = |source: &str, destination: &str, protocol| FiveTuple {
        protocol,
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        source_port: 40_000,
        destination_port: 443,
    };
    let ways = [
        ("peering", flow("10.1.0.4", "10.0.2.4", Protocol::UDP), 1_002),
        ("firewall", flow("10.1.0.4", "10.2.0.4", Protocol::UDP), 1_002),
        ("drop", flow("10.1.0.4", "10.2.0.4", Protocol::TCP), 0),
    ];
    let port = fabric.port_of("ma");
    for (way, tuple, delivered) in ways {
        let before = sink.frames;
        assert_eq!(allocations(&mut router, &mut sink, port, tuple), 0, "on the {way} path");
        assert_eq!(sink.frames - before, delivered, "frames of the {way} path");
    }
}
