//! What a gateway's tunnels carry, in simulated time: bits and packets per second of each one by its algorithms, and the sum.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};
use vnet_dataplane::{FiveTuple, Nanos, PortId, Protocol, Reason, TunnelId};
use vnet_fabric::converge;
use vnet_gateway::ConnectionStatus;
use vnet_router::Output;
use vnet_tests::accept::load;
use vnet_tests::simulation::{Simulation, framed, packet};

const SECOND: u64 = 1_000_000_000;
/// The type of WireGuard's data messages.
const DATA: u8 = 4;

/// A network with a gateway and two sites; `policy` is that of both connections.
fn topology(sku: &str, policy: Value) -> Value {
    let connection = |site: &str| {
        json!({"connectionType": "IPsec", "virtualNetworkGateway1": "gw", "localNetworkGateway2": site, "sharedKey": "k",
               "ipsecPolicies": policy})
    };
    let site = |number: u8| {
        let range = format!("192.168.{number}.0/24");
        let device = format!("198.51.100.{number}");
        (
            json!({"gatewayIpAddress": device, "localNetworkAddressSpace": [range]}),
            json!({"addressSpace": [range], "hosts": {format!("pc{number}"): format!("192.168.{number}.10")},
                   "vpnDevice": {"publicIPAddress": device}}),
        )
    };
    let ((local1, site1), (local2, site2)) = (site(101), site(102));
    json!({
        "name": "rates",
        "virtualNetworks": {"v": {"addressSpace": ["10.1.0.0/16"],
                                  "subnets": {"GatewaySubnet": "10.1.255.0/27", "s": "10.1.0.0/24"}}},
        "virtualMachines": {"vm": {"subnet": "v/s", "privateIPAddress": "10.1.0.4"}},
        "virtualNetworkGateways": {"gw": {"virtualNetwork": "v", "sku": sku, "publicIPAddresses": ["198.51.100.10"]}},
        "localNetworkGateways": {"l1": local1, "l2": local2},
        "connections": {"c1": connection("l1"), "c2": connection("l2")},
        "onPremisesSites": {"s1": site1, "s2": site2},
    })
}

fn policy(encryption: &str, integrity: &str) -> Value {
    json!([{"ikeEncryption": "AES256", "ikeIntegrity": "SHA256", "dhGroup": "DHGroup2",
            "ipsecEncryption": encryption, "ipsecIntegrity": integrity, "pfsGroup": "None"}])
}

/// Counts what is sealed for each site from a moment on.
#[derive(Default)]
struct Wire {
    now: u64,
    from: u64,
    sealed: HashMap<IpAddr, u64>,
}

impl Output for Wire {
    fn transmit(&mut self, _port: PortId, _frame: &[u8]) -> Result<(), Reason> {
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, to: SocketAddr, segment_size: usize, data: &[u8]) -> bool {
        if self.now >= self.from {
            let packets = data.chunks(segment_size.max(1)).filter(|message| message[0] == DATA).count();
            *self.sealed.entry(to.ip()).or_default() += packets as u64;
        }
        true
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}
}

/// Offers packets of so many bytes to each of `sites` for 0.6 s, and gives how many a second were sealed for each in the
/// last 0.4 s.
fn carried(topology: &Value, bytes: usize, sites: &[u8], offered_pps: u64) -> Vec<u64> {
    let (_, snapshot) = converge(&Arc::new(load(topology).expect("the topology is accepted")));
    let port = snapshot.port_by_name("vm/eth0").expect("the machine has a port").id;
    let mut simulation = Simulation::new(snapshot);
    let frames: Vec<Vec<u8>> = sites
        .iter()
        .map(|site| {
            let tuple = FiveTuple {
                protocol: Protocol::UDP,
                source: "10.1.0.4".parse().expect("an address"),
                destination: IpAddr::from([192, 168, *site, 10]),
                source_port: 7,
                destination_port: 9,
            };
            framed(&padded(packet(tuple, false), bytes))
        })
        .collect();
    let start = 2 * SECOND;
    let mut wire = Wire { from: start + SECOND / 5, ..Wire::default() };
    let router = &mut simulation.router;
    for step in 0..offered_pps * 3 / 5 {
        let at = start + step * SECOND / offered_pps;
        while let Some(next) = router.next_timeout().filter(|next| next.0 <= at) {
            wire.now = wire.now.max(next.0);
            router.poll_output(Nanos(wire.now), &mut wire);
        }
        wire.now = at;
        router.begin();
        for frame in &frames {
            router.input(port, &mut frame.clone(), Nanos(at), &mut wire);
        }
        router.poll_output(Nanos(at), &mut wire);
    }
    let of = |site: &u8| wire.sealed.get(&IpAddr::from([198, 51, 100, *site])).copied().unwrap_or(0);
    sites.iter().map(|site| of(site) * 5 / 2).collect()
}

/// A datagram with more payload, so that the IP packet has this length.
fn padded(mut packet: Vec<u8>, bytes: usize) -> Vec<u8> {
    packet.resize(bytes, 0);
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    packet[24..26].copy_from_slice(&((bytes - 20) as u16).to_be_bytes());
    // No checksum of UDP; that of the header anew.
    packet[26..28].fill(0);
    packet[10..12].fill(0);
    let words = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn assert_near(got: u64, expected: u64, what: &str) {
    let error = got.abs_diff(expected) as f64 / expected as f64;
    assert!(error < 0.01, "{what}: {got} of {expected} packets a second");
}

#[test]
fn one_tunnel_carries_what_its_algorithms_grant() {
    for (encryption, integrity, mbps, pps) in [
        ("GCMAES256", "GCMAES256", 650, 62_000),
        ("AES256", "SHA256", 500, 47_000),
        ("DES3", "SHA256", 130, 12_000),
    ] {
        let topology = topology("VpnGw1AZ", policy(encryption, integrity));
        let small = carried(&topology, 100, &[101], pps * 13 / 10);
        assert_near(small[0], pps, encryption);
        let by_bits = mbps * 1_000_000 / 8 / 1_400;
        let large = carried(&topology, 1_400, &[101], by_bits * 13 / 10);
        assert_near(large[0], by_bits.min(pps), encryption);
    }
}

#[test]
fn all_tunnels_share_the_gateways_rate() {
    // 650 Mb/s for each tunnel and for both.
    let each = 650_000_000 / 8 / 1_400;
    let shared = carried(&topology("VpnGw1AZ", json!([])), 1_400, &[101, 102], each * 6 / 10);
    assert_near(shared.iter().sum(), each, "both tunnels of VpnGw1AZ");
    assert!(shared.iter().all(|one| *one > each / 3), "{shared:?}");
    // With slower algorithms each is bounded by itself: 130 Mb/s, twice.
    let each = 130_000_000 / 8 / 1_400;
    let apart = carried(&topology("VpnGw1AZ", policy("DES3", "SHA256")), 1_400, &[101, 102], each * 13 / 10);
    for one in apart {
        assert_near(one, each, "each tunnel of VpnGw1AZ with DES3");
    }
}
