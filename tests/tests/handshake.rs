//! Sessions follow TCP's handshake through the router: only then do they live as long as idle connections do.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use vnet_dataplane::{
    FiveTuple, FlowState, Nanos, PortId, Protocol, Reason, SessionRecord, TcpFlags, TunnelId, VNET_HEADER_LEN,
};
use vnet_fabric::converge;
use vnet_gateway::ConnectionStatus;
use vnet_router::{Output, Router, RouterOptions, SessionMemory, Shared};
use vnet_tests::accept::load;
use vnet_tests::fabric::Fabric;
use vnet_tests::simulation::{framed, packet};
use vnet_tests::subject::Subject;

/// Remembers where the last frame went.
#[derive(Default)]
struct Last(Option<PortId>);

impl Output for Last {
    fn transmit(&mut self, port: PortId, _frame: &[u8]) -> Result<(), Reason> {
        self.0 = Some(port);
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, _to: SocketAddr, _segment_size: usize, _data: &[u8]) -> bool {
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

fn topology() -> serde_json::Value {
    json!({
        "name": "ex",
        "virtualNetworks": {
            "h": {"addressSpace": ["10.0.0.0/16"], "subnets": {"AzureFirewallSubnet": "10.0.1.0/26"},
                  "peerings": {"a": {}, "b": {}}},
            "a": {"addressSpace": ["10.1.0.0/16"], "peerings": {"h": {"allowForwardedTraffic": true}},
                  "subnets": {"s": {"addressPrefix": "10.1.0.0/24", "routeTable": "t", "networkSecurityGroup": "n"}}},
            "b": {"addressSpace": ["10.2.0.0/16"], "peerings": {"h": {"allowForwardedTraffic": true}},
                  "subnets": {"s": {"addressPrefix": "10.2.0.0/24", "routeTable": "t", "networkSecurityGroup": "n"}}},
        },
        "virtualMachines": {
            "ma": {"subnet": "a/s", "privateIPAddress": "10.1.0.4"},
            "mb": {"subnet": "b/s", "privateIPAddress": "10.2.0.4"},
        },
        "networkSecurityGroups": {"n": {"securityRules": []}},
        "routeTables": {"t": {"routes": [{"name": "r", "addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance",
            "nextHopIpAddress": "10.0.1.4"}]}},
        "azureFirewalls": {"fw": {"virtualNetwork": "h", "sku": "Standard", "firewallPolicy": "p",
            "publicIPAddresses": ["203.0.113.20"]}},
        "firewallPolicies": {"p": {"ruleCollectionGroups": [{"name": "g", "priority": 200, "ruleCollections": [{
            "name": "c", "priority": 100, "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "action": "Allow",
            "rules": [{"name": "any", "ruleType": "NetworkRule", "ipProtocols": ["Any"], "sourceAddresses": ["*"],
                "destinationAddresses": ["*"], "destinationPorts": ["*"]}],
        }]}]}},
    })
}

#[test]
fn an_idle_connection_keeps_its_sessions() {
    let fabric = Fabric::build(&topology()).expect("the topology is accepted");
    let (_, snapshot) = converge(&Arc::new(load(&topology()).expect("the topology is accepted")));
    let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 12]);
    let shared = Arc::new(Shared::new(snapshot, memory, 7, 0));
    let options = RouterOptions { flows_max: 1 << 12, ..RouterOptions::default() };
    let mut router = Router::new(Arc::clone(&shared), options, 7);
    let tuple = FiveTuple {
        protocol: Protocol::TCP,
        source: "10.1.0.4".parse().expect("an address"),
        destination: "10.2.0.4".parse().expect("an address"),
        source_port: 40_000,
        destination_port: 443,
    };
    let (ma, mb) = (fabric.port_of("ma"), fabric.port_of("mb"));
    let send = |router: &mut Router, forward: bool, flags: u8, at_s: u64| {
        let (port, tuple) = if forward { (ma, tuple) } else { (mb, tuple.reversed()) };
        let mut frame = framed(&packet(tuple, false));
        // The flags' octet of a TCP header that follows an IPv4 header without options.
        frame[VNET_HEADER_LEN + 20 + 13] = flags;
        let mut last = Last::default();
        let now = Nanos(at_s * 1_000_000_000);
        router.begin();
        router.input(port, &mut frame, now, &mut last);
        router.poll_output(now, &mut last);
        last.0
    };
    let (syn, ack) = (TcpFlags::SYN, TcpFlags::ACK);
    assert_eq!(send(&mut router, true, syn, 1), Some(mb));
    assert_eq!(send(&mut router, false, syn | ack, 1), Some(ma));
    assert_eq!(shared.sessions().count(FlowState::Established), 0);
    assert_eq!(send(&mut router, true, ack, 1), Some(mb));
    let sessions = shared.sessions().len();
    assert!(sessions > 0);
    assert_eq!(shared.sessions().count(FlowState::Established), sessions, "every function saw the handshake");
    // Long after a handshake's time, and with all flows forgotten, as after a restart.
    let mut later = Router::new(Arc::clone(&shared), options, 7);
    assert_eq!(send(&mut later, false, ack, 3_600), Some(ma), "the firewall knows the connection still");
}
