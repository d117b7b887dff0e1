//! The way out to the Internet, and the way back.

mod common;

use common::{
    answer, azure_rule, delivered, dropped, error_about, lab, packet, port, send, send_with, topology,
};
use ipnet::IpNet;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{Action, PacketMeta, Protocol, Reason, TcpFlags};
use vnet_fabric::decision::SessionOpen;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Decision, Event, Verdict, compile, converge, path};

const OPEN: &str = "{name: in, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}";

/// A network with a subnet for each way out; `nat` is the NAT gateway's SKU.
fn ways(nat: &str) -> String {
    format!(
        "
name: ways
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      nat: {{addressPrefix: 10.0.0.0/24, natGateway: out, networkSecurityGroup: open}}
      plain: {{addressPrefix: 10.0.1.0/24, networkSecurityGroup: open}}
      private: {{addressPrefix: 10.0.2.0/24, defaultOutboundAccess: false}}
natGateways:
  out: {{sku: {nat}, publicIPAddresses: [203.0.113.1, 203.0.113.2], idleTimeoutInMinutes: 10}}
virtualMachines:
  a: {{subnet: v/nat}}
  both: {{subnet: v/nat, publicIPAddress: 203.0.113.10}}
  public: {{subnet: v/plain, publicIPAddress: 203.0.113.11}}
  plain: {{subnet: v/plain}}
  private: {{subnet: v/private}}
  nva: {{networkInterfaces: [{{subnet: v/nat, enableIPForwarding: true}}]}}
networkSecurityGroups: {{open: {{securityRules: [{OPEN}]}}}}
internet: {{hosts: {{example: 203.0.113.80, other: 203.0.113.81}}}}
"
    )
}

const EXAMPLE: &str = "203.0.113.80";

/// What the packet is when it has been carried where the decision says.
fn carried(packet: &PacketMeta, decision: &Decision) -> PacketMeta {
    let mut out = *packet;
    for action in &decision.actions {
        let icmp = out.tuple.protocol.is_icmp();
        match *action {
            Action::RewriteSource { address, port } => {
                out.tuple.source = address;
                out.tuple.source_port = port.unwrap_or(out.tuple.source_port);
                if icmp {
                    out.tuple.destination_port = out.tuple.source_port;
                }
                if let Some(quoted) = &mut out.embedded {
                    quoted.destination = address;
                    quoted.destination_port = port.unwrap_or(quoted.destination_port);
                }
            }
            Action::RewriteDestination { address, port } => {
                out.tuple.destination = address;
                out.tuple.destination_port = port.unwrap_or(out.tuple.destination_port);
                if icmp {
                    out.tuple.source_port = out.tuple.destination_port;
                }
                if let Some(quoted) = &mut out.embedded {
                    quoted.source = address;
                    quoted.source_port = port.unwrap_or(quoted.source_port);
                }
            }
            _ => {}
        }
    }
    out
}

/// Sends a packet out to the Internet and its answer back: the source that was seen, and where the answer came.
fn out_and_back(snapshot: &Snapshot, from: &str, sent: &PacketMeta) -> (String, String, Vec<SessionOpen>) {
    let decision = send(snapshot, from, sent);
    assert_eq!(delivered(snapshot, &decision), "internet", "{:?}", azure_rule(snapshot, &decision));
    let outside = carried(sent, &decision);
    let sessions = decision.opens.to_vec();
    let reply = answer(&outside);
    let back = send_with(snapshot, &sessions, "internet", &reply);
    let inside = carried(&reply, &back);
    assert_eq!(inside.tuple, sent.tuple.reversed());
    (outside.tuple.source.to_string(), delivered(snapshot, &back), sessions)
}

#[test]
fn the_way_out_in_azures_order() {
    let snapshot = lab(&ways("Standard"));
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for (source, from, seen) in [
            ("10.0.0.4", "a/eth0", "203.0.113."),
            ("10.0.0.5", "both/eth0", "203.0.113."),
            ("10.0.1.4", "public/eth0", "203.0.113.11"),
            ("10.0.1.5", "plain/eth0", "198.1"),
        ] {
            let sent = packet(protocol, source, EXAMPLE, 443);
            let (source, to, sessions) = out_and_back(&snapshot, from, &sent);
            assert!(source.starts_with(seen), "{from} is seen as {source}");
            assert_eq!(to, from);
            assert_ne!(source, "203.0.113.10", "a NAT gateway goes before a public address");
            let minutes = sessions.iter().map(|open| open.idle_minutes).max();
            assert_eq!(
                minutes,
                Some(if seen == "203.0.113." { 10 } else { [4, 0][usize::from(from == "public/eth0")] })
            );
        }
    }
    let default = snapshot.default_outbound_addresses().next().unwrap().1;
    let plain = packet(Protocol::TCP, "10.0.1.5", EXAMPLE, 443);
    assert_eq!(out_and_back(&snapshot, "plain/eth0", &plain).0, default.to_string());
    let decision = send(&snapshot, "plain/eth0", &plain);
    assert!(decision.actions.contains(&Action::RefuseFragments));
}

#[test]
fn who_comes_by_a_public_address_is_answered_from_it() {
    let snapshot = lab(&ways("Standard"));
    let sent = packet(Protocol::TCP, EXAMPLE, "203.0.113.10", 80);
    let decision = send(&snapshot, "internet", &sent);
    assert_eq!(delivered(&snapshot, &decision), "both/eth0");
    let inside = carried(&sent, &decision);
    assert_eq!(inside.tuple.destination.to_string(), "10.0.0.5");
    let reply = answer(&inside);
    let back = send_with(&snapshot, &decision.opens.to_vec(), "both/eth0", &reply);
    assert_eq!(delivered(&snapshot, &back), "internet");
    assert_eq!(carried(&reply, &back).tuple, sent.tuple.reversed());
    assert!(back.opens.is_empty());
}

#[test]
fn a_flow_keeps_its_way_when_a_nat_gateway_comes() {
    let text = ways("Standard");
    let (mut state, before) = converge(&topology(&text.replace("natGateway: out, ", "")));
    let sent = packet(Protocol::TCP, "10.0.0.4", EXAMPLE, 443);
    let opened = send(&before, "a/eth0", &sent);
    let first = carried(&sent, &opened).tuple;
    let topology = topology(&text);
    state.step(Event::Apply(std::sync::Arc::new(topology.clone())), vnet_dataplane::Nanos::ZERO);
    let after = compile(&topology, &state);
    let next = PacketMeta { tcp_flags: TcpFlags(TcpFlags::ACK), ..sent };
    let known = send_with(&after, &opened.opens.to_vec(), "a/eth0", &next);
    assert_eq!(carried(&next, &known).tuple, first);
    assert_eq!(
        carried(&sent, &send(&after, "a/eth0", &sent)).tuple.source.to_string(),
        "203.0.113.1",
        "a new flow takes the NAT gateway"
    );
}

#[test]
fn echo_leaves_by_standard_v2_and_public_addresses_only() {
    let echo = |source| packet(Protocol::ICMP, source, EXAMPLE, 7);
    let standard = lab(&ways("Standard"));
    for (source, from, rule) in [
        ("10.0.0.4", "a/eth0", "EGRESS-NAT-PROTOCOLS"),
        ("10.0.1.5", "plain/eth0", "EGRESS-DEFAULT-OUTBOUND"),
    ] {
        let decision = send(&standard, from, &echo(source));
        assert_eq!(
            (dropped(&decision), azure_rule(&standard, &decision)),
            (Reason::ProtocolNotSupported, rule.to_owned())
        );
    }
    assert_eq!(out_and_back(&standard, "public/eth0", &echo("10.0.1.4")).0, "203.0.113.11");
    let v2 = lab(&ways("StandardV2"));
    assert_eq!(out_and_back(&v2, "a/eth0", &echo("10.0.0.4")).0, "203.0.113.1");
}

#[test]
fn a_private_subnet_has_no_way_out() {
    let text = ways("Standard");
    let private = lab(&text);
    let sent = packet(Protocol::TCP, "10.0.2.4", EXAMPLE, 443);
    let decision = send(&private, "private/eth0", &sent);
    assert_eq!(
        (dropped(&decision), azure_rule(&private, &decision)),
        (Reason::NoRoute, "EGRESS-PRIVATE-SUBNET".to_owned())
    );
    let newer = lab(&format!("{text}semantics: {{defaultOutbound: disabled}}\n"));
    let plain = packet(Protocol::TCP, "10.0.1.5", EXAMPLE, 443);
    assert_eq!(dropped(&send(&newer, "plain/eth0", &plain)), Reason::NoRoute);
    let open = lab(&format!("{text}semantics: {{defaultOutbound: disabled}}\n").replace(
        "plain: {addressPrefix: 10.0.1.0/24, ",
        "plain: {addressPrefix: 10.0.1.0/24, defaultOutboundAccess: true, ",
    ));
    assert_eq!(delivered(&open, &send(&open, "plain/eth0", &plain)), "internet");
}

#[test]
fn ports_are_used_again_towards_other_destinations() {
    let snapshot = lab(&ways("Standard"));
    let mut sessions = Vec::new();
    let mut seen = Vec::new();
    for (source_port, destination) in [(1, EXAMPLE), (2, EXAMPLE), (1, "203.0.113.81")] {
        let mut sent = packet(Protocol::UDP, "10.0.0.4", destination, 53);
        sent.tuple.source_port = source_port;
        let decision = send_with(&snapshot, &sessions, "a/eth0", &sent);
        seen.push(carried(&sent, &decision).tuple.source_port);
        sessions.extend(decision.opens.iter().copied());
    }
    assert_eq!(seen, [1_024, 1_025, 1_024]);
}

#[test]
fn nobody_comes_in_by_a_translators_address() {
    let snapshot = lab(&ways("Standard"));
    let default = snapshot.default_outbound_addresses().next().unwrap().1.to_string();
    for address in ["203.0.113.1", &default] {
        let decision = send(&snapshot, "internet", &packet(Protocol::TCP, EXAMPLE, address, 1_024));
        assert_eq!(
            (dropped(&decision), azure_rule(&snapshot, &decision)),
            (Reason::NoListener, "EGRESS-NO-INBOUND".to_owned())
        );
    }
    let mut late = packet(Protocol::TCP, "10.0.0.4", EXAMPLE, 443);
    late.tcp_flags = TcpFlags(TcpFlags::ACK);
    assert_eq!(dropped(&send(&snapshot, "a/eth0", &late)), Reason::AsymmetricReturn);
}

#[test]
fn a_forwarding_machine_has_to_translate() {
    let snapshot = lab(&ways("Standard"));
    let foreign = send(&snapshot, "nva/eth0", &packet(Protocol::TCP, "10.9.0.4", EXAMPLE, 443));
    assert_eq!(
        (dropped(&foreign), azure_rule(&snapshot, &foreign)),
        (Reason::NoRoute, "EGRESS-OWN-SOURCE".to_owned())
    );
    let own = packet(Protocol::TCP, "10.0.0.6", EXAMPLE, 443);
    assert_eq!(out_and_back(&snapshot, "nva/eth0", &own).0, "203.0.113.1");
}

#[test]
fn a_public_address_is_reached_from_inside() {
    let snapshot = lab(&ways("StandardV2"));
    for (source, from, seen) in
        [("10.0.0.4", "a/eth0", "203.0.113.1"), ("10.0.1.4", "public/eth0", "203.0.113.11")]
    {
        let sent = packet(Protocol::TCP, source, "203.0.113.10", 80);
        let decision = send(&snapshot, from, &sent);
        assert_eq!(delivered(&snapshot, &decision), "both/eth0");
        let inside = carried(&sent, &decision);
        assert_eq!(
            (inside.tuple.source.to_string(), inside.tuple.destination.to_string()),
            (seen.into(), "10.0.0.5".into())
        );
        let reply = answer(&inside);
        let back = send_with(&snapshot, &decision.opens.to_vec(), "both/eth0", &reply);
        assert_eq!(delivered(&snapshot, &back), from);
        assert_eq!(carried(&reply, &back).tuple, sent.tuple.reversed());
    }
    let lost = send(&snapshot, "a/eth0", &packet(Protocol::TCP, "10.0.0.4", "203.0.113.2", 80));
    assert_eq!(dropped(&lost), Reason::NoListener);
}

#[test]
fn errors_are_translated_inside_both_ways() {
    let snapshot = lab(&ways("Standard"));
    let sent = packet(Protocol::UDP, "10.0.0.4", EXAMPLE, 33_434);
    let decision = send(&snapshot, "a/eth0", &sent);
    let outside = carried(&sent, &decision);
    let sessions = decision.opens.to_vec();
    let error = error_about(&outside, "203.0.113.99");
    let back = send_with(&snapshot, &sessions, "internet", &error);
    assert_eq!(delivered(&snapshot, &back), "a/eth0");
    let inside = carried(&error, &back);
    assert_eq!(inside.embedded, Some(sent.tuple));
    assert_eq!(inside.tuple.destination, sent.tuple.source);
    // The machine complains about the answer.
    let reply = PacketMeta { tuple: sent.tuple.reversed(), ..sent };
    let complaint = error_about(&reply, "10.0.0.4");
    let out = send_with(&snapshot, &sessions, "a/eth0", &complaint);
    assert_eq!(delivered(&snapshot, &out), "internet");
    let seen = carried(&complaint, &out);
    assert_eq!(seen.embedded, Some(outside.tuple.reversed()));
    assert_eq!(seen.tuple.source, outside.tuple.source);
    // An error about nothing that was sent.
    assert_eq!(dropped(&send(&snapshot, "internet", &error)), Reason::NoListener);
}

#[test]
fn a_prediction_shows_the_translation() {
    let snapshot = lab(&ways("Standard"));
    let report = path(&snapshot, "a", "example", ProbeProtocol::Tcp, Some(443)).unwrap();
    assert_eq!(report.source_seen_as, Some("203.0.113.1".parse().unwrap()));
    assert_eq!(report.reason, None);
    let steps = |leg: &vnet_fabric::path::Leg| {
        leg.steps
            .iter()
            .filter(|step| step.text.contains("becomes"))
            .map(|step| step.text.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&report.forward), ["the source 10.0.0.4:49152 becomes 203.0.113.1:1024"]);
    assert_eq!(
        steps(report.reverse.as_ref().unwrap()),
        ["the destination 203.0.113.1:1024 becomes 10.0.0.4:49152"]
    );
    let nobody = path(&snapshot, "a", "203.0.113.99", ProbeProtocol::Tcp, Some(443)).unwrap();
    assert_eq!(nobody.reason.as_deref(), Some("NoListener"));
    let host = lab(&ways("Standard").replace("internet: {", "internet: {egress: host, "));
    let beyond = path(&host, "a", "203.0.113.99", ProbeProtocol::Tcp, Some(443)).unwrap();
    assert_eq!((beyond.reason, beyond.assumptions.len()), (None, 1));
}

/// A spoke behind a firewall; `firewall` and `policy` are further properties, `subnet` of AzureFirewallSubnet.
fn firewalled(firewall: &str, policy: &str, subnet: &str) -> Snapshot {
    lab(&format!(
        "
name: snat
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets:
      AzureFirewallSubnet: {{addressPrefix: 10.0.1.0/26{subnet}}}
      corp: 10.0.2.0/24
    peerings: {{spoke: {{allowForwardedTraffic: true}}, other: {{allowForwardedTraffic: true}}}}
  spoke:
    addressSpace: [10.1.0.0/16]
    subnets: {{app: {{addressPrefix: 10.1.0.0/24, routeTable: via}}}}
    peerings: {{hub: {{allowForwardedTraffic: true}}}}
  other:
    addressSpace: [10.2.0.0/16, 203.0.112.0/24]
    subnets: {{db: {{addressPrefix: 10.2.0.0/24, routeTable: via}}, corp: {{addressPrefix: 203.0.112.0/25, routeTable: via}}}}
    peerings: {{hub: {{allowForwardedTraffic: true}}}}
virtualMachines:
  web: {{subnet: spoke/app}}
  db: {{subnet: other/db}}
  corp: {{subnet: other/corp}}
natGateways: {{out: {{publicIPAddresses: [203.0.113.30]}}}}
routeTables:
  via: {{routes: [{{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}}]}}
azureFirewalls: {{fw: {{virtualNetwork: hub, firewallPolicy: p{firewall}}}}}
firewallPolicies:
  p: {{{policy}ruleCollectionGroups: [{{name: g, priority: 100, ruleCollections: [{{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}}]}}]}}]}}
internet: {{hosts: {{example: 203.0.113.80}}}}
"
    ))
}

const PUBLIC: &str = ", publicIPAddresses: [203.0.113.20, 203.0.113.21]";

/// The source that the destination sees, after the answer was checked to come back.
fn seen_by(snapshot: &Snapshot, destination: &str, at: &str) -> String {
    let sent = packet(Protocol::TCP, "10.1.0.4", destination, 443);
    let decision = send(snapshot, "web/eth0", &sent);
    assert_eq!(delivered(snapshot, &decision), at);
    let arrived = carried(&sent, &decision);
    let reply = answer(&arrived);
    let back = send_with(snapshot, &decision.opens.to_vec(), at, &reply);
    assert_eq!(delivered(snapshot, &back), "web/eth0");
    assert_eq!(carried(&reply, &back).tuple, sent.tuple.reversed());
    arrived.tuple.source.to_string()
}

#[test]
fn a_firewall_translates_what_is_not_private() {
    let usual = firewalled(PUBLIC, "", "");
    assert_eq!(seen_by(&usual, "10.2.0.4", "db/eth0"), "10.1.0.4");
    assert_eq!(seen_by(&usual, EXAMPLE, "internet"), "203.0.113.20");
    assert_eq!(
        seen_by(&usual, "203.0.112.4", "corp/eth0"),
        "10.0.1.5",
        "an instance, towards a public range inside"
    );
    let echo = send(&usual, "web/eth0", &packet(Protocol::ICMP, "10.1.0.4", EXAMPLE, 7));
    assert_eq!(
        (dropped(&echo), azure_rule(&usual, &echo)),
        (Reason::ProtocolNotSupported, "FIREWALL-SNAT-PROTOCOLS".to_owned())
    );

    let listed = firewalled(PUBLIC, "snat: {privateRanges: [10.0.0.0/8, 203.0.112.0/24]}, ", "");
    assert_eq!(seen_by(&listed, "203.0.112.4", "corp/eth0"), "10.1.0.4");
    let never = firewalled(PUBLIC, "snat: {privateRanges: [0.0.0.0/0]}, ", "");
    assert_eq!(seen_by(&never, "203.0.112.4", "corp/eth0"), "10.1.0.4");
    let lost = send(&never, "web/eth0", &packet(Protocol::TCP, "10.1.0.4", EXAMPLE, 443));
    assert_eq!((dropped(&lost), azure_rule(&never, &lost)), (Reason::NoRoute, "FIREWALL-SNAT".to_owned()));
    let always = firewalled(PUBLIC, "snat: {privateRanges: [255.255.255.255/32]}, ", "");
    assert_eq!(seen_by(&always, "10.2.0.4", "db/eth0"), "10.0.1.5");
    let by_nat_gateway = firewalled(PUBLIC, "", ", natGateway: out");
    assert_eq!(seen_by(&by_nat_gateway, EXAMPLE, "internet"), "203.0.113.30");
}

#[test]
fn a_firewall_without_a_public_address_has_no_way_out() {
    let snapshot = firewalled("", "", "");
    let lost = send(&snapshot, "web/eth0", &packet(Protocol::TCP, "10.1.0.4", EXAMPLE, 443));
    assert_eq!(
        (dropped(&lost), azure_rule(&snapshot, &lost)),
        (Reason::NoRoute, "FIREWALL-FORCED-TUNNEL".to_owned())
    );
    // What the firewall itself sends is not translated either.
    let own = send(&snapshot, "fw", &packet(Protocol::TCP, "10.0.1.4", EXAMPLE, 443));
    assert_eq!(dropped(&own), Reason::NoRoute);
}

#[test]
fn a_firewalls_ports_run_out() {
    let snapshot = firewalled(", publicIPAddresses: [203.0.113.20]", "", "");
    let first = packet(Protocol::UDP, "10.1.0.4", EXAMPLE, 53);
    let opened = send(&snapshot, "web/eth0", &first).opens;
    let of_firewall = opened.iter().find(|open| open.reply.is_some()).unwrap();
    let sessions: Vec<SessionOpen> = (1_024..1_024 + 4_992)
        .map(|port| {
            let mut taken = *of_firewall;
            taken.tuple.source_port = port;
            taken.reply =
                taken.reply.map(|reply| vnet_dataplane::FiveTuple { destination_port: port, ..reply });
            taken
        })
        .collect();
    let full = send_with(&snapshot, &sessions, "web/eth0", &first);
    assert_eq!(
        (dropped(&full), azure_rule(&snapshot, &full)),
        (Reason::SnatPortsExhausted, "FIREWALL-SNAT-PORTS".to_owned())
    );
    let one_left = send_with(&snapshot, &sessions[1..].to_vec(), "web/eth0", &first);
    assert_eq!(carried(&first, &one_left).tuple.source_port, 1_024);
    let elsewhere = packet(Protocol::UDP, "10.1.0.4", EXAMPLE, 54);
    assert!(matches!(
        send_with(&snapshot, &sessions, "web/eth0", &elsewhere).verdict,
        Verdict::Deliver(at) if at == port(&snapshot, "internet")
    ));
}

#[test]
fn a_service_sees_the_private_source() {
    // Two networks of the same range: the answer comes back to whoever has asked.
    let snapshot = lab("
name: services
virtualNetworks:
  one: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, serviceEndpoints: [Microsoft.Storage], natGateway: out}}}
  two: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, serviceEndpoints: [Microsoft.Storage]}}}
natGateways: {out: {publicIPAddresses: [203.0.113.1]}}
virtualMachines: {a: {subnet: one/s}, b: {subnet: two/s}}
serviceTags: {Storage: [203.0.113.64/26]}
internet: {hosts: {store: 203.0.113.80}}
");
    for from in ["a/eth0", "b/eth0"] {
        let sent = packet(Protocol::TCP, "10.0.0.4", EXAMPLE, 443);
        let (seen, to, _) = out_and_back(&snapshot, from, &sent);
        assert_eq!((seen.as_str(), to.as_str()), ("10.0.0.4", from));
    }
    let unasked = send(&snapshot, "internet", &packet(Protocol::TCP, EXAMPLE, "10.0.0.4", 22));
    assert_eq!(dropped(&unasked), Reason::NoListener);
    assert!(snapshot.edge_prefixes().contains(&"10.0.0.0/16".parse().unwrap()));
}

#[test]
fn a_service_that_comes_by_a_public_address_is_answered_from_it() {
    let snapshot = lab("
name: services
virtualNetworks:
  one: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, serviceEndpoints: [Microsoft.Storage], networkSecurityGroup: n}}}
virtualMachines: {a: {subnet: one/s, publicIPAddress: 203.0.113.5}}
networkSecurityGroups:
  n: {securityRules: [{name: in, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}]}
serviceTags: {Storage: [203.0.113.64/26]}
internet: {hosts: {store: 203.0.113.80}}
");
    for protocol in [ProbeProtocol::Tcp, ProbeProtocol::Udp, ProbeProtocol::Icmp] {
        let asked = path(&snapshot, "store", "a", protocol, None).unwrap();
        assert_eq!((asked.reason, asked.source_seen_as), (None, Some(EXAMPLE.parse().unwrap())));
        let asks = path(&snapshot, "a", "store", protocol, None).unwrap();
        assert_eq!((asks.reason, asks.source_seen_as), (None, Some("10.0.0.4".parse().unwrap())));
    }
}

#[test]
fn the_edge_judges_packets_for_public_ranges_used_privately() {
    let file = "
name: public-range
virtualNetworks:
  corporate: {addressSpace: [20.1.0.0/16], subnets: {s: 20.1.0.0/24}}
  private: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}}
virtualMachines: {a: {subnet: corporate/s}, b: {subnet: private/s}}
";
    let range: IpNet = "20.1.0.0/16".parse().unwrap();
    let snapshot = lab(&format!("{file}internet: {{hosts: {{out: 203.0.113.80}}}}\n"));
    let unasked = send(&snapshot, "internet", &packet(Protocol::TCP, EXAMPLE, "20.1.0.4", 22));
    assert_eq!(dropped(&unasked), Reason::NoListener);
    assert!(snapshot.edge_prefixes().contains(&range));
    assert!(!snapshot.edge_prefixes().contains(&"10.1.0.0/16".parse().unwrap()));
    // Beyond the host's network the range is somebody's.
    let by_host = lab(&format!("{file}internet: {{egress: host}}\n"));
    assert!(!by_host.edge_prefixes().contains(&range));
}

#[test]
fn an_appliance_is_assumed_to_translate() {
    let snapshot = lab("
name: appliance
virtualNetworks:
  hub: {addressSpace: [10.0.0.0/16], subnets: {nva: 10.0.2.0/24}, peerings: {spoke: {allowForwardedTraffic: true}}}
  spoke: {addressSpace: [10.1.0.0/16], subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via}}, peerings: {hub: {allowForwardedTraffic: true}}}
routeTables: {via: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.2.4}]}}
virtualMachines:
  web: {subnet: spoke/app}
  nva: {networkInterfaces: [{subnet: hub/nva, enableIPForwarding: true, publicIPAddress: 203.0.113.10}]}
internet: {hosts: {example: 203.0.113.80}}
");
    for protocol in [ProbeProtocol::Tcp, ProbeProtocol::Icmp] {
        let report = path(&snapshot, "web", "example", protocol, None).unwrap();
        assert_eq!(report.reason, None, "{report:#?}");
        assert_eq!(report.source_seen_as, Some("203.0.113.10".parse().unwrap()));
        assert_eq!(
            (report.via.join(" "), report.via_reverse.join(" ")),
            ("nva".to_owned(), "nva".to_owned())
        );
        assert!(report.assumptions.iter().any(|text| text.contains("translate")), "{:?}", report.assumptions);
    }
}

#[test]
fn a_basic_address_is_open_without_a_security_group() {
    let text = |sku: &str| {
        format!(
            "
name: basic
publicIPAddresses: {{web: {{ipAddress: 203.0.113.10, sku: {sku}}}}}
virtualNetworks: {{v: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.0.0/24}}}}}}
virtualMachines: {{web: {{subnet: v/s, publicIPAddress: web}}}}
"
        )
    };
    let sent = packet(Protocol::TCP, EXAMPLE, "203.0.113.10", 80);
    let basic = lab(&text("Basic"));
    assert_eq!(delivered(&basic, &send(&basic, "internet", &sent)), "web/eth0");
    let standard = lab(&text("Standard"));
    assert_eq!(dropped(&send(&standard, "internet", &sent)), Reason::NsgDeny);
}
