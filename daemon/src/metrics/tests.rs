use std::collections::BTreeMap;

use vnet_dataplane::Reason;
use vnet_router::Balance;

use super::*;

fn counters() -> LabCounters {
    let traffic = |packets, bytes| Traffic { packets, bytes };
    LabCounters {
        lab: "hub".into(),
        balance: Balance { received: 20, generated: 1, sent: 13, dropped: 8 },
        nics: vec![NicCounter {
            vm: "web".into(),
            nic: "eth0".into(),
            direction: Direction::Outbound,
            traffic: traffic(3, 180),
        }],
        peerings: vec![PeeringCounter { from: "spoke1".into(), to: "hub".into(), traffic: traffic(2, 120) }],
        drops: vec![DropCounter { vm: "batch".into(), reason: Reason::RouteNone, packets: 7 }],
        firewall_rules: vec![FirewallRuleCounter {
            firewall: "fw".into(),
            group: "east-west".into(),
            collection: "web".into(),
            rule: "https".into(),
            action: "Allow".into(),
            hits: 1,
        }],
        nsg_rules: vec![NsgRuleCounter {
            nsg: "app".into(),
            rule: "securityRules/allow-web".into(),
            direction: Direction::Inbound,
            action: "Allow".into(),
            hits: 4,
        }],
        gateways: vec![("hub-vpn".into(), traffic(3, 300))],
        bgp: vec![BgpCounter {
            gateway: "hub-vpn".into(),
            local: "10.0.255.30".into(),
            neighbor: "192.168.255.1".into(),
            up: true,
            routes_received: 3,
            messages_sent: 8,
            messages_received: 9,
        }],
        tunnels: vec![TunnelCounter {
            gateway: "hub-vpn".into(),
            connection: "hub-to-hq".into(),
            tunnel: "0".into(),
            inbound: traffic(1, 100),
            outbound: traffic(2, 200),
            handshakes: 5,
            up: true,
            shaper: ShaperQueue { bytes: 1500, delay_ns: 2_500_000 },
        }],
        machine_shapers: vec![("web".into(), ShaperQueue { bytes: 3000, delay_ns: 500_000 })],
        flows: vec![("established".into(), 12)],
        offloaded_flows: 4,
        offloaded: traffic(9, 900),
        firewall_snat_ports: vec![SnatPorts { translator: "fw".into(), used: 2 }],
        nat_gateway_snat_ports: vec![SnatPorts { translator: "out".into(), used: 3 }],
        workers: vec![WorkerCounter { worker: 0, busy_ns: 1_500_000_000, batches: 9 }],
        policy_since_ns: 1_700_000_000_250_000_000,
    }
}

fn rendered() -> String {
    let metrics = Metrics::new().expect("no two metrics share a name");
    metrics.applied("hub", 0.2);
    metrics.render(&[counters()]).expect("the counters agree with each other")
}

#[test]
fn every_sample_is_exact() {
    let text = rendered();
    for line in [
        r#"vnet_packets_total{fate="received",lab="hub"} 20"#,
        r#"vnet_packets_total{fate="generated",lab="hub"} 1"#,
        r#"vnet_packets_total{fate="sent",lab="hub"} 13"#,
        r#"vnet_packets_total{fate="dropped",lab="hub"} 8"#,
        r#"vnet_nic_bytes_total{direction="outbound",lab="hub",nic="eth0",vm="web"} 180"#,
        r#"vnet_nic_packets_total{direction="outbound",lab="hub",nic="eth0",vm="web"} 3"#,
        r#"vnet_peering_bytes_total{from="spoke1",lab="hub",to="hub"} 120"#,
        r#"vnet_drops_total{lab="hub",reason="RouteNone",vm="batch"} 7"#,
        r#"vnet_firewall_rule_hits_total{action="Allow",collection="web",firewall="fw",group="east-west",lab="hub",rule="https"} 1"#,
        r#"vnet_nsg_rule_hits_total{action="Allow",direction="inbound",lab="hub",nsg="app",rule="securityRules/allow-web"} 4"#,
        r#"vnet_gateway_bytes_total{gateway="hub-vpn",lab="hub"} 300"#,
        r#"vnet_gateway_tunnel_bytes_total{connection="hub-to-hq",direction="outbound",gateway="hub-vpn",lab="hub",tunnel="0"} 200"#,
        r#"vnet_gateway_tunnel_packets_total{connection="hub-to-hq",direction="inbound",gateway="hub-vpn",lab="hub",tunnel="0"} 1"#,
        r#"vnet_gateway_tunnel_handshakes_total{connection="hub-to-hq",gateway="hub-vpn",lab="hub",tunnel="0"} 5"#,
        r#"vnet_bgp_session_up{gateway="hub-vpn",lab="hub",local="10.0.255.30",neighbor="192.168.255.1"} 1"#,
        r#"vnet_bgp_routes_received{gateway="hub-vpn",lab="hub",local="10.0.255.30",neighbor="192.168.255.1"} 3"#,
        r#"vnet_bgp_messages_total{direction="outbound",gateway="hub-vpn",lab="hub",local="10.0.255.30",neighbor="192.168.255.1"} 8"#,
        r#"vnet_gateway_tunnel_up{connection="hub-to-hq",gateway="hub-vpn",lab="hub",tunnel="0"} 1"#,
        r#"vnet_gateway_shaper_queue_bytes{connection="hub-to-hq",gateway="hub-vpn",lab="hub",tunnel="0"} 1500"#,
        r#"vnet_gateway_shaper_delay_seconds{connection="hub-to-hq",gateway="hub-vpn",lab="hub",tunnel="0"} 0.0025"#,
        r#"vnet_vm_shaper_queue_bytes{lab="hub",vm="web"} 3000"#,
        r#"vnet_vm_shaper_delay_seconds{lab="hub",vm="web"} 0.0005"#,
        r#"vnet_flows{lab="hub",state="established"} 12"#,
        r#"vnet_offload_flows{lab="hub"} 4"#,
        r#"vnet_policy_published_timestamp_seconds{lab="hub"} 1700000000.25"#,
        r#"vnet_offload_packets_total{lab="hub"} 9"#,
        r#"vnet_offload_bytes_total{lab="hub"} 900"#,
        r#"vnet_firewall_snat_ports_used{firewall="fw",lab="hub"} 2"#,
        r#"vnet_nat_gateway_snat_ports_used{lab="hub",nat_gateway="out"} 3"#,
        r#"vnet_worker_busy_seconds_total{lab="hub",worker="0"} 1.5"#,
        r#"vnet_worker_batches_total{lab="hub",worker="0"} 9"#,
        r#"vnet_apply_duration_seconds_count{lab="hub"} 1"#,
        concat!("vnet_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
    }
    assert!(text.contains("process_resident_memory_bytes "));
}

#[test]
fn every_family_has_help_and_type_and_a_conventional_name() {
    let text = rendered();
    let mut types = BTreeMap::new();
    let mut help = Vec::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} is declared twice");
        } else if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            assert!(!words.is_empty());
            help.push(name.to_owned());
        }
    }
    assert!(types.len() > 15);
    for (name, kind) in &types {
        assert!(help.contains(name), "{name} lacks HELP");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
}

#[test]
fn a_lab_that_is_gone_leaves_no_sample() {
    let metrics = Metrics::new().expect("no two metrics share a name");
    metrics.applied("hub", 0.2);
    metrics.forget("hub");
    metrics.forget("never-there");
    let text = metrics.render(&[]).expect("nothing contradicts nothing");
    assert!(!text.contains("lab=\"hub\""), "{text}");
}
