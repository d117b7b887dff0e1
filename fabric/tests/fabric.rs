//! What the fabric carries, and for whom.

mod common;

use common::*;
use vnet_dataplane::{Action, Protocol, Reason};

const NVA: &str = "
name: nva
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      app: {addressPrefix: 10.0.1.0/24, routeTable: t}
      far: 10.0.2.0/24
      nva: 10.0.9.0/24
virtualMachines:
  app: {subnet: v/app}
  far: {subnet: v/far}
  nva: {subnet: v/nva, enableIPForwarding: FLAG}
routeTables:
  t: {routes: [{name: r, addressPrefix: 10.0.2.0/24, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}]}
";

#[test]
fn spoofed_sources_are_dropped_unless_the_nic_forwards() {
    let snapshot = lab(&NVA.replace("FLAG", "true"));
    let spoofed = packet(Protocol::UDP, "10.0.7.7", "10.0.2.4", 53);
    let decision = send(&snapshot, "app/eth0", &spoofed);
    assert_eq!(dropped(&decision), Reason::SpoofedSource);
    assert_eq!(azure_rule(&snapshot, &decision), "FABRIC-SPOOF");
    assert_eq!(delivered(&snapshot, &send(&snapshot, "nva/eth0", &spoofed)), "far/eth0");
}

#[test]
fn only_unicast_of_five_protocols_is_carried() {
    let snapshot = lab(&NVA.replace("FLAG", "true"));
    let to = |protocol, destination| {
        dropped(&send(&snapshot, "far/eth0", &packet(protocol, "10.0.2.4", destination, 1)))
    };
    assert_eq!(to(Protocol::UDP, "224.0.0.1"), Reason::MulticastNotSupported);
    assert_eq!(to(Protocol::UDP, "255.255.255.255"), Reason::MulticastNotSupported);
    assert_eq!(to(Protocol::GRE, "10.0.1.4"), Reason::ProtocolNotSupported);
    assert_eq!(to(Protocol::IPIP, "10.0.1.4"), Reason::ProtocolNotSupported);
    let esp = send(&snapshot, "far/eth0", &packet(Protocol::ESP, "10.0.2.4", "10.0.1.4", 0));
    assert_eq!(delivered(&snapshot, &esp), "app/eth0");
}

#[test]
fn a_file_can_expect_every_drop_reason() {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(vnet_config::model::DROP_REASONS, reasons);
}

#[test]
fn what_the_host_keeps_for_itself_is_not_carried() {
    let snapshot = lab(&NVA.replace("FLAG", "true"));
    let send = |protocol, source_port, port| {
        let mut packet = packet(protocol, "10.0.2.4", "10.0.1.4", port);
        packet.tuple.source_port = source_port;
        send(&snapshot, "far/eth0", &packet)
    };
    for (source_port, port) in [(40_000, 4791), (40_000, 65_330), (68, 67)] {
        assert_eq!(dropped(&send(Protocol::UDP, source_port, port)), Reason::ProtocolNotSupported);
        assert_eq!(delivered(&snapshot, &send(Protocol::TCP, source_port, port)), "app/eth0");
    }
    for (source_port, port) in [(65_330, 53), (40_000, 67), (68, 68)] {
        assert_eq!(delivered(&snapshot, &send(Protocol::UDP, source_port, port)), "app/eth0");
    }
}

#[test]
fn a_next_hop_without_forwarding_takes_its_own_packets_only() {
    let snapshot = lab(&NVA.replace("FLAG", "false"));
    let ping = packet(Protocol::ICMP, "10.0.1.4", "10.0.2.4", 7);
    assert_eq!(dropped(&send(&snapshot, "app/eth0", &ping)), Reason::NotForwarding);
    let snapshot = lab(&NVA.replace("FLAG", "true"));
    assert_eq!(delivered(&snapshot, &send(&snapshot, "app/eth0", &ping)), "nva/eth0");
    assert_eq!(delivered(&snapshot, &send(&snapshot, "nva/eth0", &ping)), "far/eth0");
    // The answer comes back directly: the other subnet has no route to the appliance.
    assert_eq!(delivered(&snapshot, &send(&snapshot, "far/eth0", &answer(&ping))), "app/eth0");
}

#[test]
fn an_address_that_nobody_holds_has_no_listener() {
    let snapshot = lab(&NVA.replace("FLAG", "true"));
    let decision = send(&snapshot, "far/eth0", &packet(Protocol::TCP, "10.0.2.4", "10.0.2.77", 80));
    assert_eq!(dropped(&decision), Reason::NoListener);
}

#[test]
fn the_platform_bypasses_routes_and_groups() {
    let snapshot = lab("
name: platform
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t, networkSecurityGroup: g}}}
  w: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24}}
virtualMachines: {m: {subnet: v/s}, n: {subnet: w/s}}
routeTables: {t: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: None}]}}
networkSecurityGroups:
  g:
    securityRules:
      - {name: no, priority: 100, direction: Outbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
      - {name: in, priority: 100, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
");
    let query = packet(Protocol::UDP, "10.0.0.4", "168.63.129.16", 53);
    let asked = send(&snapshot, "m/eth0", &query);
    assert_eq!(delivered(&snapshot, &asked), "platform");
    // Two networks use the address: the answer goes to the one that asked.
    let sessions = asked.opens.to_vec();
    assert_eq!(delivered(&snapshot, &send_with(&snapshot, &sessions, "platform", &answer(&query))), "m/eth0");
    assert_eq!(dropped(&send(&snapshot, "platform", &answer(&query))), Reason::NoListener);
}

#[test]
fn the_fabric_leaves_ttl_alone() {
    let snapshot = lab(&pair("{}", "{}"));
    let decision = send(&snapshot, "a1/eth0", &packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7));
    assert_eq!(delivered(&snapshot, &decision), "b1/eth0");
    assert!(!decision.actions.iter().any(|action| matches!(action, Action::DecrementTtl { .. })));
    assert!(matches!(decision.actions[..], [Action::Count(_), Action::Deliver(_)]));
}

#[test]
fn a_public_address_stands_for_the_private_one() {
    let text = "
name: public
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24, g: {addressPrefix: 10.0.1.0/24, networkSecurityGroup: g}}}}
virtualMachines:
  bare: {subnet: v/s, publicIPAddress: 203.0.113.10}
  guarded: {subnet: v/g, publicIPAddress: 203.0.113.11}
networkSecurityGroups:
  g: {securityRules: [{name: web, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: Internet, destinationAddressPrefix: 10.0.1.4, destinationPortRange: 80}]}
internet: {hosts: {example: 203.0.113.80}}
";
    let snapshot = lab(text);
    let out = packet(Protocol::TCP, "10.0.0.4", "203.0.113.80", 443);
    let sent = send(&snapshot, "bare/eth0", &out);
    assert_eq!(delivered(&snapshot, &sent), "internet");
    let public = "203.0.113.10".parse().unwrap();
    assert!(sent.actions.contains(&Action::RewriteSource { address: public, port: None }));
    let mut back = answer(&out);
    back.tuple.destination = public;
    assert_eq!(dropped(&send(&snapshot, "internet", &back)), Reason::NsgDeny);
    let sessions = sent.opens.to_vec();
    let received = send_with(&snapshot, &sessions, "internet", &back);
    assert_eq!(delivered(&snapshot, &received), "bare/eth0");
    assert!(
        received
            .actions
            .contains(&Action::RewriteDestination { address: "10.0.0.4".parse().unwrap(), port: None })
    );
    // Rules see the private address.
    let web = packet(Protocol::TCP, "203.0.113.80", "203.0.113.11", 80);
    assert_eq!(delivered(&snapshot, &send(&snapshot, "internet", &web)), "guarded/eth0");
    let ssh = packet(Protocol::TCP, "203.0.113.80", "203.0.113.11", 22);
    assert_eq!(dropped(&send(&snapshot, "internet", &ssh)), Reason::NsgDeny);
}

#[test]
fn latency_is_half_the_round_trip_each_way() {
    let text = pair("{}", "{}").replace(
        "  b: {addressSpace: [10.1.0.0/16]",
        "  b: {location: westeurope, addressSpace: [10.1.0.0/16]",
    );
    let ping = packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7);
    let delay = |text: &str| {
        let snapshot = lab(text);
        let decision = send(&snapshot, "a1/eth0", &ping);
        let delay = decision
            .actions
            .iter()
            .find_map(|action| if let Action::Delay(id) = action { Some(*id) } else { None });
        delay.and_then(|id| snapshot.delays().iter().find(|spec| spec.id == id).map(|spec| spec.delay_ns))
    };
    assert_eq!(delay(&text), None);
    assert_eq!(delay(&format!("{text}\nregions: {{latency: default}}\n")), Some(41_500_000));
    assert_eq!(
        delay(&format!("{text}\nregions: {{latency: {{westeurope: {{eastus: 10}}}}}}\n")),
        Some(5_000_000)
    );
    let zones = pair("{}", "{}")
        .replace("{subnet: a/s}", "{subnet: a/s, zone: 1}")
        .replace("{subnet: b/s}", "{subnet: b/s, zone: 2}");
    assert_eq!(delay(&format!("{zones}\nregions: {{latency: default}}\n")), Some(500_000));
    assert_eq!(delay(&format!("{}\nregions: {{latency: default}}\n", pair("{}", "{}"))), Some(150_000));
}
