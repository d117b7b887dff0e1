//! What VPN gateways negotiate, how they fail, and what they make of addresses.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{Nanos, Protocol, Reason};
use vnet_fabric::control::Effect;
use vnet_fabric::snapshot::{Snapshot, TunnelStatus};
use vnet_fabric::{Event, SessionOpen, State, Verdict, compile, path};

/// Two networks, `a` and `b`, with active-active gateways if asked for; the arguments go into the two connections.
fn networks(active_active: bool, a_to_b: &str, b_to_a: &str) -> String {
    let gateway = |network: &str, last: u8| {
        let second = if active_active { format!(", 198.51.100.{}", last + 1) } else { String::new() };
        format!(
            "{{virtualNetwork: {network}, sku: VpnGw2AZ, activeActive: {active_active}, publicIPAddresses: [198.51.100.{last}{second}]}}"
        )
    };
    format!(
        "
name: pair
virtualNetworks:
  a: {{addressSpace: [10.1.0.0/16], subnets: {{GatewaySubnet: 10.1.255.0/27, s: 10.1.0.0/24}}}}
  b: {{addressSpace: [10.2.0.0/16], subnets: {{GatewaySubnet: 10.2.255.0/27, s: 10.2.0.0/24}}}}
virtualMachines: {{va: {{subnet: a/s}}, vb: {{subnet: b/s}}}}
virtualNetworkGateways: {{ga: {}, gb: {}}}
connections:
  a-to-b: {{connectionType: Vnet2Vnet, virtualNetworkGateway1: ga, virtualNetworkGateway2: gb, sharedKey: k{a_to_b}}}
  b-to-a: {{connectionType: Vnet2Vnet, virtualNetworkGateway1: gb, virtualNetworkGateway2: ga, sharedKey: k{b_to_a}}}
",
        gateway("a", 10),
        gateway("b", 20)
    )
}

fn policy(quick: &str) -> String {
    format!(", ipsecPolicies: [{{ikeEncryption: AES256, ikeIntegrity: SHA256, dhGroup: DHGroup2, {quick}}}]")
}

fn asked(snapshot: &Snapshot, from: &str, to: &str) -> Option<String> {
    path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap().reason
}

fn status(snapshot: &Snapshot, tunnel: &str) -> (TunnelStatus, bool) {
    let spec = snapshot.tunnels().find(|spec| &*spec.name == tunnel).unwrap();
    (spec.status.clone(), spec.is_held)
}

#[test]
fn policies_that_differ_never_connect() {
    let aes = policy("ipsecEncryption: AES256, ipsecIntegrity: SHA256, pfsGroup: PFS24");
    let gcm128 = policy("ipsecEncryption: GCMAES128, ipsecIntegrity: GCMAES128, pfsGroup: None");
    let cases = [
        ("", "", None),
        (&*aes, &*aes, None),
        (&*gcm128, &*gcm128, None),
        ("", &*gcm128, Some("ipsecEncryption")),
        // The defaults answer with PFS24 and do not offer it.
        ("", &*aes, None),
        ("", &*format!("{aes}, connectionMode: ResponderOnly"), Some("pfsGroup")),
        (", connectionMode: ResponderOnly", ", connectionMode: ResponderOnly", Some("neither starts")),
        (", connectionProtocol: IKEv1", "", Some("IKEv1")),
        (", connectionProtocol: IKEv1", ", connectionProtocol: IKEv1", None),
    ];
    for (left, right, why) in cases {
        let snapshot = lab(&networks(false, left, right));
        let (state, is_held) = status(&snapshot, "a-to-b/0");
        let report = path(&snapshot, "va", "vb", ProbeProtocol::Icmp, None).unwrap();
        match why {
            None => assert_eq!((report.reason, is_held), (None, false), "{left} | {right}"),
            Some(why) => {
                assert_eq!(report.reason.as_deref(), Some("TunnelDown"), "{left} | {right}");
                assert!(is_held && status(&snapshot, "b-to-a/0").1);
                let TunnelStatus::NotConnected(told) = state else { panic!("{state:?}") };
                assert!(told.contains(why), "{told}");
                let last = report.forward.steps.last().unwrap();
                assert!(last.text.contains(why), "{}", last.text);
            }
        }
    }
}

#[test]
fn a_tunnels_rate_follows_its_algorithms() {
    let rates = |quick: &str| {
        let policy = if quick.is_empty() { String::new() } else { policy(quick) };
        let snapshot = lab(&networks(false, &policy, &policy));
        let limiter = |name: &str| snapshot.limiters().iter().find(|spec| *spec.name == *name).unwrap();
        let own = limiter("tunnel/a-to-b/0/egress");
        let sum = limiter("gateway/ga/egress");
        assert_eq!((sum.bits_per_second, sum.packets_per_second), (1_000_000_000, None));
        (own.bits_per_second / 1_000_000, own.packets_per_second.unwrap())
    };
    assert_eq!(rates(""), (1_200, 110_000));
    assert_eq!(
        rates("ipsecEncryption: GCMAES256, ipsecIntegrity: GCMAES256, pfsGroup: None"),
        (1_200, 110_000)
    );
    assert_eq!(rates("ipsecEncryption: AES256, ipsecIntegrity: SHA256, pfsGroup: None"), (650, 61_000));
    assert_eq!(rates("ipsecEncryption: DES3, ipsecIntegrity: SHA256, pfsGroup: None"), (140, 13_000));
    let given = networks(false, "", "").replace("sku: VpnGw2AZ", "sku: VpnGw2AZ, throughputMbps: 300");
    let snapshot = lab(&given);
    let own = snapshot.limiters().iter().find(|spec| &*spec.name == "tunnel/a-to-b/0/egress").unwrap();
    assert_eq!((own.bits_per_second, own.packets_per_second), (300_000_000, None));
}

#[test]
fn traffic_selectors_bound_what_a_tunnel_carries() {
    let own = ", usePolicyBasedTrafficSelectors: true, trafficSelectorPolicies: [{localAddressRanges: [10.1.0.0/25], remoteAddressRanges: [10.2.0.0/25]}]";
    let text = |left: &str, right: &str| {
        networks(false, left, right).replace(
            "va: {subnet: a/s}",
            "va: {subnet: a/s}, far: {subnet: a/s, privateIPAddress: 10.1.0.200}",
        )
    };
    let snapshot = lab(&text(own, ""));
    for (from, to, reason) in [
        ("va", "vb", None),
        ("vb", "va", None),
        ("far", "vb", Some("PrefixNotAllowed")),
        ("vb", "far", Some("PrefixNotAllowed")),
    ] {
        let report = path(&snapshot, from, to, ProbeProtocol::Icmp, None).unwrap();
        assert_eq!(report.reason.as_deref(), reason, "{from} to {to}");
        if reason.is_some() {
            assert_eq!(report.rule.unwrap().azure_rule, "VPN-SELECTORS");
        }
    }
    // Whoever only answers proposes nothing, and takes what the other side does.
    assert_eq!(asked(&lab(&text(&format!("{own}, connectionMode: ResponderOnly"), "")), "far", "vb"), None);
    // Without the switch they have no effect.
    let without = own.replace("usePolicyBasedTrafficSelectors: true, ", "");
    assert_eq!(asked(&lab(&text(&without, "")), "far", "vb"), None);
    // The switch alone means the ranges of both networks, which are all there is.
    assert_eq!(asked(&lab(&text(", usePolicyBasedTrafficSelectors: true", "")), "far", "vb"), None);
}

fn started(text: &str) -> (Arc<vnet_config::Topology>, State) {
    let topology = Arc::new(topology(text));
    let mut state = State::default();
    state.step(Event::Apply(topology.clone()), Nanos::ZERO);
    let tunnels: Vec<String> = state.tunnels.keys().cloned().collect();
    for tunnel in tunnels {
        state.step(Event::TunnelUp { tunnel }, Nanos::ZERO);
    }
    (topology, state)
}

/// How many flows of `va` to `vb` each tunnel takes.
fn spread(snapshot: &Snapshot) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for port in 0..400 {
        let decision =
            send(snapshot, "va/eth0", &packet(Protocol::TCP, "10.1.0.4", "10.2.0.4", 1_000 + port));
        let name = match decision.verdict {
            Verdict::Seal(tunnel) => snapshot.tunnel(tunnel).unwrap().name.to_string(),
            verdict => format!("{verdict:?}"),
        };
        *taken.entry(name).or_default() += 1;
    }
    taken
}

#[test]
fn two_active_active_gateways_share_flows_over_four_tunnels() {
    let (topology, mut state) = started(&networks(true, "", ""));
    let snapshot = compile(&topology, &state);
    assert_eq!(snapshot.tunnels().count(), 8);
    let ends: std::collections::BTreeSet<_> =
        snapshot.tunnels().map(|spec| (spec.local, spec.remote)).collect();
    assert_eq!(ends.len(), 8, "every pair of addresses, from both sides");
    let taken = spread(&snapshot);
    assert_eq!(taken.len(), 4, "{taken:?}");
    assert!(taken.values().all(|count| (60..140).contains(count)), "{taken:?}");
    // One that shakes hands takes nothing while another is connected.
    state.step(Event::TunnelConnecting { tunnel: "a-to-b/2".to_owned() }, Nanos::ZERO);
    let taken = spread(&compile(&topology, &state));
    assert!(taken.len() == 3 && !taken.contains_key("a-to-b/2"), "{taken:?}");
}

#[test]
fn a_failed_instance_interrupts_its_own_tunnels() {
    let text = format!("{}provisioning: {{timeScale: 1}}\n", networks(true, "", ""));
    let (topology, mut state) = started(&text);
    let made = state.next_timeout().expect("the gateways are being made");
    assert_eq!(made, Nanos::ZERO + Duration::from_secs(30 * 60));
    assert_eq!(spread(&compile(&topology, &state)).keys().collect::<Vec<_>>(), ["Drop(TunnelDown)"]);
    state.step(Event::Timer, made);
    let fail = |planned| Event::InstanceFailed { gateway: "ga".to_owned(), instance: 0, planned };
    let effects = state.step(fail(false), made);
    assert!(matches!(effects[..], [Effect::Recompile(_)]));
    assert_eq!(state.next_timeout(), Some(made + Duration::from_secs(120)));
    let snapshot = compile(&topology, &state);
    let taken = spread(&snapshot);
    assert!(taken.keys().all(|name| ["a-to-b/2", "a-to-b/3"].contains(&&**name)) && taken.len() == 2);
    let (why, is_held) = status(&snapshot, "a-to-b/0");
    assert_eq!((why, is_held), (TunnelStatus::NotConnected("instance 0 of ga has failed".to_owned()), true));
    assert!(!status(&snapshot, "b-to-a/0").1, "the other side has to find out by itself");
    // A later failure that is shorter ends no earlier; and what is stored goes on.
    state.step(fail(true), made + Duration::from_secs(60));
    let text = serde_json::to_string(&state).unwrap();
    let mut state: State = serde_json::from_str(&text).unwrap();
    state.resume(topology.clone());
    assert_eq!(state.next_timeout(), Some(made + Duration::from_secs(120)));
    assert!(state.step(Event::Timer, made + Duration::from_secs(119)).is_empty());
    assert_eq!(state.step(Event::Timer, made + Duration::from_secs(120)).len(), 1);
    let snapshot = compile(&topology, &state);
    assert_eq!(status(&snapshot, "a-to-b/0"), (TunnelStatus::Connecting, false), "it shakes hands anew");
    for instance in [2, 0] {
        let gateway = if instance == 2 { "ga" } else { "none" }.to_owned();
        assert!(state.step(Event::InstanceFailed { gateway, instance, planned: false }, made).is_empty());
    }
}

#[test]
fn an_active_standby_gateway_is_interrupted_as_a_whole() {
    let (topology, mut state) =
        started(&format!("{}provisioning: {{timeScale: 0.1}}\n", networks(false, "", "")));
    let made = state.next_timeout().unwrap();
    state.step(Event::Timer, made);
    state.step(Event::InstanceFailed { gateway: "gb".to_owned(), instance: 0, planned: true }, made);
    assert_eq!(state.next_timeout(), Some(made + Duration::from_millis(1_250)));
    let snapshot = compile(&topology, &state);
    assert_eq!(asked(&snapshot, "vb", "va").as_deref(), Some("TunnelDown"));
    state.step(Event::Timer, made + Duration::from_millis(1_250));
    assert_eq!(asked(&compile(&topology, &state), "vb", "va"), None);
}

/// A network and two branches that all use 10.0.1.0/24. The argument stands for the second connection's rules.
fn overlapping(second: &str) -> String {
    format!(
        "
name: overlap
virtualNetworks: {{v: {{addressSpace: [10.0.1.0/24], subnets: {{GatewaySubnet: 10.0.1.224/27, s: 10.0.1.0/25}}}}}}
virtualMachines: {{vm: {{subnet: v/s, privateIPAddress: 10.0.1.4}}}}
virtualNetworkGateways:
  gw:
    virtualNetwork: v
    sku: VpnGw2AZ
    publicIPAddresses: [198.51.100.10]
    natRules:
      - {{name: out, mode: EgressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.1.0/24]}}
      - {{name: one, mode: IngressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.2.0/24]}}
      - {{name: two, mode: IngressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.3.0/24]}}
      - {{name: few, mode: IngressSnat, type: Dynamic, internalMappings: [10.0.1.0/24], externalMappings: [192.168.4.0/30]}}
localNetworkGateways:
  l1: {{gatewayIpAddress: 198.51.100.101, localNetworkAddressSpace: [10.0.1.0/24]}}
  l2: {{gatewayIpAddress: 198.51.100.102, localNetworkAddressSpace: [10.0.1.0/24]}}
connections:
  c1: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: l1, sharedKey: k, egressNatRules: [out], ingressNatRules: [one]}}
  c2: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: l2, sharedKey: k, egressNatRules: [out], ingressNatRules: [{second}]}}
onPremisesSites:
  b1: {{addressSpace: [10.0.1.0/24], hosts: {{h1: 10.0.1.21}}, vpnDevice: {{publicIPAddress: 198.51.100.101}}}}
  b2: {{addressSpace: [10.0.1.0/24], hosts: {{h2: 10.0.1.21}}, vpnDevice: {{publicIPAddress: 198.51.100.102}}}}
"
    )
}

#[test]
fn overlapping_sites_reach_a_network_by_static_rules() {
    let snapshot = lab(&overlapping("two"));
    for (host, seen) in [("h1", "192.168.2.21"), ("h2", "192.168.3.21")] {
        let report = path(&snapshot, host, "192.168.1.4", ProbeProtocol::Icmp, None).unwrap();
        assert_eq!(report.reason, None);
        assert_eq!(report.source_seen_as, Some(seen.parse().unwrap()));
        let steps: Vec<&str> = report.forward.steps.iter().map(|step| &*step.text).collect();
        assert!(steps.contains(&"the destination 192.168.1.4 becomes 10.0.1.4"), "{steps:?}");
        let rules: Vec<_> = report
            .forward
            .steps
            .iter()
            .filter_map(|step| step.rule.as_ref())
            .map(|rule| &*rule.name)
            .collect();
        assert!(rules.contains(&"NAT rule gw/out"), "{rules:?}");
        let back = report.reverse.unwrap();
        assert!(back.steps.iter().any(|step| step.text == "the source 10.0.1.4 becomes 192.168.1.4"));
        // The network begins, too.
        let report = path(&snapshot, "vm", seen, ProbeProtocol::Icmp, None).unwrap();
        assert_eq!((report.reason, report.source_seen_as), (None, Some("192.168.1.4".parse().unwrap())));
        assert_eq!(report.via, ["gw"]);
    }
    let learned: Vec<String> =
        routes(&snapshot, "v/s").into_iter().filter(|row| row.starts_with("VirtualNetworkGateway")).collect();
    assert_eq!(
        learned,
        [
            "VirtualNetworkGateway Active 192.168.2.0/24 VirtualNetworkGateway 198.51.100.10",
            "VirtualNetworkGateway Active 192.168.3.0/24 VirtualNetworkGateway 198.51.100.10"
        ]
    );
    // An error of a router at the site about what the machine has sent quotes the machine's own words when it arrives.
    let wire = packet(Protocol::UDP, "192.168.1.4", "10.0.1.21", 9);
    let ingress = "tunnel/c1/0";
    let decision = send(&snapshot, ingress, &error_about(&wire, "10.0.1.1"));
    assert_eq!(delivered(&snapshot, &decision), "vm/eth0");
}

#[test]
fn a_dynamic_rule_takes_sessions_from_its_internal_side() {
    let snapshot = lab(&overlapping("few"));
    let report = path(&snapshot, "h2", "192.168.1.4", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert_eq!(report.reason, None);
    let seen = report.source_seen_as.unwrap();
    assert_eq!(seen, "192.168.4.0".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(report.source_seen_as_one_of.len(), 4);
    let refused = path(&snapshot, "vm", "192.168.4.0", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert_eq!(refused.forward.reason.as_deref(), Some("AsymmetricReturn"));
    assert_eq!(refused.rule.unwrap().azure_rule, "VPN-NAT-DYNAMIC");
    // Two hosts with the same port get ports of their own; what belongs to no session opens none.
    let mut sessions: Vec<SessionOpen> = Vec::new();
    let mut leaves = |source: &str| {
        let packet = packet(Protocol::TCP, source, "192.168.1.4", 80);
        let decision = send_with(&snapshot, &sessions, "tunnel/c2/0", &packet);
        let open = decision.opens.iter().find(|open| open.reply.is_some()).unwrap();
        let seen = (open.reply().destination, open.reply().destination_port);
        sessions.extend(decision.opens.iter().copied());
        assert_eq!(delivered(&snapshot, &decision), "vm/eth0");
        seen
    };
    let seen = [leaves("10.0.1.21"), leaves("10.0.1.22")];
    assert_ne!(seen[0], seen[1]);
    let mut middle = packet(Protocol::TCP, "10.0.1.23", "192.168.1.4", 80);
    middle.tcp_flags = vnet_dataplane::TcpFlags(vnet_dataplane::TcpFlags::ACK);
    assert_eq!(dropped(&send_with(&snapshot, &sessions, "tunnel/c2/0", &middle)), Reason::AsymmetricReturn);
    let gre = packet(Protocol::ESP, "10.0.1.21", "192.168.1.4", 0);
    assert_eq!(dropped(&send(&snapshot, "tunnel/c2/0", &gre)), Reason::ProtocolNotSupported);
}

#[test]
fn a_rule_of_one_instance_holds_at_that_one() {
    let text = overlapping("two")
        .replace(
            "publicIPAddresses: [198.51.100.10]",
            "activeActive: true\n    publicIPAddresses: [198.51.100.10, 198.51.100.11]",
        )
        .replace("{name: out, ", "{name: out, ipConfigurationId: 198.51.100.11, ");
    let snapshot = lab(&text);
    let opened = |tunnel: &str| {
        let packet = packet(Protocol::UDP, "10.0.1.21", "192.168.1.4", 9);
        match send(&snapshot, tunnel, &packet).verdict {
            Verdict::Deliver(port) => snapshot.port(port).unwrap().name.to_string(),
            verdict => format!("{verdict:?}"),
        }
    };
    assert_eq!(opened("tunnel/c1/1"), "vm/eth0");
    assert!(opened("tunnel/c1/0").starts_with("Drop"));
}

#[test]
fn a_default_site_takes_what_no_other_route_does() {
    let text = |site: &str| {
        format!(
            "
name: forced
virtualNetworks:
  h: {{addressSpace: [10.0.0.0/16], subnets: {{GatewaySubnet: 10.0.255.0/27, app: 10.0.1.0/24, free: {{addressPrefix: 10.0.2.0/24, routeTable: out}}}}, peerings: {{s: {{allowGatewayTransit: true}}}}}}
  s: {{addressSpace: [10.1.0.0/16], subnets: {{s: 10.1.0.0/24}}, peerings: {{h: {{useRemoteGateways: true}}}}}}
virtualMachines: {{m: {{subnet: h/app}}, spoke: {{subnet: s/s}}, out: {{subnet: h/free, publicIPAddress: 203.0.113.10}}}}
routeTables: {{out: {{routes: [{{name: internet, addressPrefix: 0.0.0.0/0, nextHopType: Internet}}]}}}}
virtualNetworkGateways: {{gw: {{virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]{site}}}}}
localNetworkGateways: {{hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}, other: {{gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [172.16.0.0/16]}}}}
connections:
  c: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
  o: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: other, sharedKey: k}}
onPremisesSites:
  hq: {{addressSpace: [192.168.0.0/16, 203.0.113.0/24], hosts: {{pc: 192.168.1.10, web: 203.0.113.80}}, vpnDevice: {{publicIPAddress: 198.51.100.200}}}}
  other: {{addressSpace: [172.16.0.0/16], hosts: {{far: 172.16.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.201}}}}
internet: {{hosts: {{example: 192.0.2.80}}}}
"
        )
    };
    let without = lab(&text(""));
    let forced = lab(&text(", gatewayDefaultSite: hq"));
    let default = "VirtualNetworkGateway Active 0.0.0.0/0 VirtualNetworkGateway 198.51.100.10".to_owned();
    for subnet in ["h/app", "s/s"] {
        assert!(!routes(&without, subnet).contains(&default));
        assert!(routes(&forced, subnet).contains(&default), "{:?}", routes(&forced, subnet));
    }
    for from in ["m", "spoke"] {
        let report = path(&forced, from, "web", ProbeProtocol::Icmp, None).unwrap();
        assert_eq!((report.reason, report.via), (None, vec!["gw".to_owned()]));
        assert_eq!(asked(&forced, from, "far"), None, "a longer prefix leads elsewhere");
        assert_eq!(asked(&forced, from, "example").as_deref(), Some("NoListener"), "it goes to the site");
    }
    assert_eq!(path(&without, "m", "example", ProbeProtocol::Udp, None).unwrap().reason, None);
    assert_eq!(asked(&forced, "out", "example"), None, "a subnet's own route is the exception");
}
