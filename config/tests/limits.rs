//! Azure's limits: one more than each is refused, as many are warned of, and fewer than nine tenths are not.

use std::fmt::Write as _;

use vnet_config::{Attachments, Diagnostic, LIMITS, Severity, load_ahead, load_with};

/// A limit: its rule, what Azure takes, and a topology that has `count` of it.
struct Case {
    rule: &'static str,
    code: Option<&'static str>,
    max: usize,
    topology: fn(usize) -> String,
    path: &'static str,
}

const CASES: &[Case] = &[
    Case {
        rule: "too-many-networks",
        code: Some("VnetCountLimitReached"),
        max: 1_000,
        topology: networks,
        path: "virtualNetworks",
    },
    Case {
        rule: "too-many-subnets",
        code: None,
        max: 3_000,
        topology: subnets,
        path: "virtualNetworks.v.subnets",
    },
    Case {
        rule: "too-many-dns-servers",
        code: None,
        max: 20,
        topology: dns_servers,
        path: "virtualNetworks.v.dhcpOptions.dnsServers",
    },
    Case {
        rule: "too-many-peerings",
        code: None,
        max: 500,
        topology: peerings,
        path: "virtualNetworks.hub.peerings",
    },
    Case {
        rule: "too-many-peered-subnets",
        code: None,
        max: 200,
        topology: peered_subnets,
        path: "virtualNetworks.a.peerings.b.localSubnetNames",
    },
    Case {
        rule: "too-many-subnets-in-peerings",
        code: None,
        max: 1_000,
        topology: subnets_in_peerings,
        path: "virtualNetworks.hub.peerings",
    },
    Case { rule: "too-many-routes", code: None, max: 400, topology: routes, path: "routeTables.t.routes" },
    Case {
        rule: "too-many-tag-routes",
        code: None,
        max: 25,
        topology: tag_routes,
        path: "routeTables.t.routes",
    },
    Case {
        rule: "too-many-route-tables",
        code: Some("QuotaExceeded"),
        max: 200,
        topology: route_tables,
        path: "routeTables",
    },
    Case {
        rule: "too-many-security-groups",
        code: Some("QuotaExceeded"),
        max: 5_000,
        topology: security_groups,
        path: "networkSecurityGroups",
    },
    Case {
        rule: "too-many-application-groups",
        code: Some("QuotaExceeded"),
        max: 3_000,
        topology: application_groups,
        path: "applicationSecurityGroups",
    },
    Case {
        rule: "too-many-rules",
        code: None,
        max: 1_000,
        topology: rules,
        path: "networkSecurityGroups.n.securityRules",
    },
    Case {
        rule: "too-many-prefixes",
        code: None,
        max: 4_000,
        topology: prefixes,
        path: "networkSecurityGroups.n.securityRules",
    },
    Case {
        rule: "too-many-groups",
        code: Some("NumberOfApplicationSecurityGroupsReferencedInSecurityRuleLimitReached"),
        max: 10,
        topology: groups_of_a_side,
        path: "networkSecurityGroups.n.securityRules[0].sourceApplicationSecurityGroups",
    },
    Case {
        rule: "too-many-groups-in-nsg",
        code: None,
        max: 100,
        topology: groups_of_a_security_group,
        path: "networkSecurityGroups.n.securityRules",
    },
    Case {
        rule: "too-many-groups-of-nic",
        code: None,
        max: 20,
        topology: groups_of_a_nic,
        path: "virtualMachines.m.networkInterfaces[0].applicationSecurityGroups",
    },
    Case {
        rule: "too-many-members",
        code: None,
        max: 4_000,
        topology: members,
        path: "applicationSecurityGroups.g",
    },
    Case {
        rule: "too-many-addresses",
        code: None,
        max: 256,
        topology: addresses_of_a_nic,
        path: "virtualMachines.m.networkInterfaces[0].privateIPAddresses",
    },
    Case {
        rule: "too-many-nat-addresses",
        code: None,
        max: 16,
        topology: nat_addresses,
        path: "natGateways.g.publicIPAddresses",
    },
    Case {
        rule: "too-many-nat-rules",
        code: None,
        max: 500,
        topology: nat_rules,
        path: "virtualNetworkGateways.gw.natRules",
    },
    Case {
        rule: "too-many-route-server-peers",
        code: None,
        max: 8,
        topology: route_server_peers,
        path: "routeServers.r.bgpConnections",
    },
    Case {
        rule: "too-many-circuits-of-location",
        code: None,
        max: 4,
        topology: circuits_of_a_location,
        path: "virtualNetworks.v",
    },
    Case {
        rule: "too-many-networks-of-circuit",
        code: None,
        max: 10,
        topology: networks_of_a_circuit,
        path: "expressRouteCircuits.e",
    },
    Case {
        rule: "too-many-networks-of-circuit",
        code: None,
        max: 20,
        topology: networks_of_a_premium_circuit,
        path: "expressRouteCircuits.e",
    },
    Case {
        rule: "too-many-clients",
        code: None,
        max: 250,
        topology: clients,
        path: "virtualNetworkGateways.gw",
    },
    Case {
        rule: "too-many-clients",
        code: None,
        max: 128,
        topology: clients_by_sstp,
        path: "virtualNetworkGateways.gw",
    },
    Case {
        rule: "too-many-tunnels",
        code: None,
        max: 10,
        topology: tunnels,
        path: "virtualNetworkGateways.gw",
    },
];

/// `count` lines made by `line`.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        writeln!(text, "{}", line(index)).expect("a String takes all");
        text
    })
}

/// `count` words made by `word`, with commas.
fn list(count: usize, word: impl Fn(usize) -> String) -> String {
    (0..count).map(word).collect::<Vec<_>>().join(", ")
}

/// The `index`th /24 of 10.0.0.0/8.
fn net(index: usize) -> String {
    format!("10.{}.{}.0/24", index / 256, index % 256)
}

fn gateway(properties: &str) -> String {
    format!(
        "virtualNetworks: {{v: {{addressSpace: [172.16.0.0/16], subnets: {{GatewaySubnet: 172.16.0.0/27}}}}}}
virtualNetworkGateways: {{gw: {{virtualNetwork: v, {properties}}}}}\n"
    )
}

fn nat_rules(count: usize) -> String {
    let rule = |index| {
        let own = net(index);
        format!("{{name: r{index}, internalMappings: [172.16.0.0/24], externalMappings: [{own}]}}")
    };
    let rules = list(count, rule);
    gateway(&format!("sku: VpnGw2AZ, publicIPAddress: 198.51.100.10, natRules: [{rules}]"))
}

fn route_server_peers(count: usize) -> String {
    let peers = list(count, |index| format!("p{index}: {{peerIp: 172.16.9.{}, peerAsn: 65010}}", index + 4));
    format!(
        "virtualNetworks: {{v: {{addressSpace: [172.16.0.0/16], subnets: {{RouteServerSubnet: 172.16.0.0/26}}}}}}
routeServers: {{r: {{virtualNetwork: v, publicIPAddress: 203.0.113.1, bgpConnections: {{{peers}}}}}}}\n"
    )
}

fn circuit(properties: &str) -> String {
    format!(
        "{{peeringLocation: London, {properties}, peerings: {{AzurePrivatePeering: {{peerASN: 65010, primaryPeerAddressPrefix: 192.168.0.0/30, secondaryPeerAddressPrefix: 192.168.0.4/30, vlanId: 1}}}}}}"
    )
}

fn circuits_of_a_location(count: usize) -> String {
    let circuits = lines(count, |index| format!("  e{index}: {}", circuit("bandwidthInMbps: 50")));
    let connections = lines(count, |index| {
        format!("  c{index}: {{connectionType: ExpressRoute, virtualNetworkGateway1: gw, peer: e{index}}}")
    });
    let gateway = gateway("gatewayType: ExpressRoute, sku: ErGw3AZ");
    format!("{gateway}expressRouteCircuits:\n{circuits}connections:\n{connections}")
}

fn connected_to_a_circuit(count: usize, properties: &str) -> String {
    let networks = lines(count, |index| {
        format!("  n{index}: {{addressSpace: [{0}], subnets: {{GatewaySubnet: {0}}}}}", net(index))
    });
    let gateways = lines(count, |index| {
        format!("  g{index}: {{virtualNetwork: n{index}, gatewayType: ExpressRoute, sku: ErGw1AZ}}")
    });
    let connections = lines(count, |index| {
        format!("  c{index}: {{connectionType: ExpressRoute, virtualNetworkGateway1: g{index}, peer: e}}")
    });
    let circuit = circuit(properties);
    format!(
        "virtualNetworks:\n{networks}virtualNetworkGateways:\n{gateways}expressRouteCircuits:\n  e: {circuit}\nconnections:\n{connections}"
    )
}

fn networks_of_a_circuit(count: usize) -> String {
    connected_to_a_circuit(count, "bandwidthInMbps: 10000")
}

fn networks_of_a_premium_circuit(count: usize) -> String {
    connected_to_a_circuit(count, "skuTier: Premium, bandwidthInMbps: 50")
}

fn clients_with(count: usize, properties: &str) -> String {
    let clients = lines(count, |index| format!("  c{index}: {{gateway: gw}}"));
    let gateway = gateway(&format!(
        "sku: VpnGw1AZ, publicIPAddress: 198.51.100.10, vpnClientConfiguration: {{vpnClientAddressPool: 10.0.0.0/16{properties}}}"
    ));
    format!("{gateway}vpnClients:\n  out: {{gateway: gw, revoked: true}}\n{clients}")
}

fn clients(count: usize) -> String {
    clients_with(count, "")
}

fn clients_by_sstp(count: usize) -> String {
    clients_with(count, ", vpnClientProtocols: [SSTP]")
}

fn networks(count: usize) -> String {
    let networks = lines(count, |index| format!("  n{index}: {{addressSpace: [{}]}}", net(index)));
    // Another subscription and another region have limits of their own.
    format!(
        "virtualNetworks:\n{networks}  other: {{addressSpace: [10.0.0.0/24], subscription: s2}}\n  far: {{addressSpace: [10.0.0.0/24], location: westus}}\n"
    )
}

fn subnets(count: usize) -> String {
    let subnets = lines(count, |index| format!("      s{index}: {}", net(index)));
    format!("virtualNetworks:\n  v:\n    addressSpace: [10.0.0.0/8]\n    subnets:\n{subnets}")
}

fn dns_servers(count: usize) -> String {
    let servers = list(count, |index| format!("10.0.0.{}", index + 4));
    format!(
        "virtualNetworks: {{v: {{addressSpace: [10.0.0.0/8], dhcpOptions: {{dnsServers: [{servers}]}}}}}}\n"
    )
}

fn peerings(count: usize) -> String {
    let halves = list(count, |index| format!("n{index}: {{}}"));
    let networks = lines(count, |index| {
        format!("  n{index}: {{addressSpace: [{}], peerings: {{hub: {{}}}}}}", net(index))
    });
    format!("virtualNetworks:\n  hub: {{addressSpace: [192.168.0.0/16], peerings: {{{halves}}}}}\n{networks}")
}

fn peered_subnets(count: usize) -> String {
    let subnets = list(count, |index| format!("s{index}: {}", net(index)));
    let names = list(count, |index| format!("s{index}"));
    format!(
        "virtualNetworks:
  a: {{addressSpace: [10.0.0.0/8], subnets: {{{subnets}}}, peerings: {{b: {{peerCompleteVnets: false, localSubnetNames: [{names}], remoteSubnetNames: [s]}}}}}}
  b: {{addressSpace: [192.168.0.0/16], subnets: {{s: 192.168.0.0/24}}, peerings: {{a: {{peerCompleteVnets: false, localSubnetNames: [s], remoteSubnetNames: [{names}]}}}}}}
"
    )
}

/// `count` subnets over links of 100 each at most.
fn subnets_in_peerings(count: usize) -> String {
    let subnets = list(100, |index| format!("s{index}: {}", net(index)));
    let (mut halves, mut networks) = (Vec::new(), String::new());
    for (link, start) in (0..count).step_by(100).enumerate() {
        let names = list((count - start).min(100), |index| format!("s{index}"));
        halves.push(format!(
            "n{link}: {{peerCompleteVnets: false, localSubnetNames: [{names}], remoteSubnetNames: [s]}}"
        ));
        let half =
            format!("{{peerCompleteVnets: false, localSubnetNames: [s], remoteSubnetNames: [{names}]}}");
        writeln!(
            networks,
            "  n{link}: {{addressSpace: [172.16.{link}.0/24], subnets: {{s: 172.16.{link}.0/24}}, peerings: {{hub: {half}}}}}"
        )
        .expect("a String takes all");
    }
    let halves = halves.join(", ");
    format!(
        "virtualNetworks:\n  hub: {{addressSpace: [10.0.0.0/8], subnets: {{{subnets}}}, peerings: {{{halves}}}}}\n{networks}"
    )
}

fn routes(count: usize) -> String {
    let routes = lines(count, |index| {
        format!("      - {{name: r{index}, addressPrefix: {}, nextHopType: None}}", net(index))
    });
    format!("routeTables:\n  t:\n    routes:\n{routes}")
}

fn tag_routes(count: usize) -> String {
    let routes = lines(count, |index| {
        format!("      - {{name: r{index}, addressPrefix: Tag{index}, nextHopType: None}}")
    });
    let tags = list(count, |index| format!("Tag{index}: [203.0.113.0/24]"));
    format!("routeTables:\n  t:\n    routes:\n{routes}serviceTags: {{{tags}}}\n")
}

/// Half of them name the region, half are used by subnets there.
fn route_tables(count: usize) -> String {
    let tables = lines(count, |index| match index % 2 {
        0 => format!("  t{index}: {{location: eastus}}"),
        _ => format!("  t{index}: {{}}"),
    });
    let subnets = lines(count, |index| {
        format!("      s{index}: {{addressPrefix: {}, routeTable: t{index}}}", net(index))
    });
    format!(
        "routeTables:\n{tables}  elsewhere: {{location: westus}}\n  unused: {{}}\nvirtualNetworks:\n  v:\n    addressSpace: [10.0.0.0/8]\n    subnets:\n{subnets}"
    )
}

fn security_groups(count: usize) -> String {
    format!("networkSecurityGroups:\n{}", lines(count, |index| format!("  n{index}: {{location: eastus}}")))
}

fn application_groups(count: usize) -> String {
    format!("applicationSecurityGroups:\n{}", lines(count, |index| format!("  g{index}: {{}}")))
}

fn rule(index: usize, source: &str) -> String {
    format!(
        "      - {{name: r{index}, priority: {}, direction: Inbound, access: Allow, protocol: Tcp, {source}, destinationAddressPrefix: '*'}}",
        index + 100
    )
}

fn rules(count: usize) -> String {
    let rules = lines(count, |index| rule(index, "sourceAddressPrefix: '*'"));
    format!("networkSecurityGroups:\n  n:\n    securityRules:\n{rules}")
}

/// In two rules.
fn prefixes(count: usize) -> String {
    let prefixes = |from: usize, to: usize| {
        format!("sourceAddressPrefixes: [{}]", list(to - from, |index| net(from + index)))
    };
    let rules = [rule(0, &prefixes(0, count / 2)), rule(1, &prefixes(count / 2, count))].join("\n");
    format!("networkSecurityGroups:\n  n:\n    securityRules:\n{rules}\n")
}

fn groups_of_a_side(count: usize) -> String {
    let names = list(count, |index| format!("g{index}"));
    let rule = rule(0, &format!("sourceApplicationSecurityGroups: [{names}]"));
    format!(
        "networkSecurityGroups:\n  n:\n    securityRules:\n{rule}\napplicationSecurityGroups:\n{}",
        lines(count, |index| format!("  g{index}: {{}}"))
    )
}

fn groups_of_a_security_group(count: usize) -> String {
    let rules = lines(count, |index| rule(index, &format!("sourceApplicationSecurityGroups: [g{index}]")));
    format!(
        "networkSecurityGroups:\n  n:\n    securityRules:\n{rules}applicationSecurityGroups:\n{}",
        lines(count, |index| format!("  g{index}: {{}}"))
    )
}

fn groups_of_a_nic(count: usize) -> String {
    let names = list(count, |index| format!("g{index}"));
    format!(
        "virtualNetworks: {{v: {{addressSpace: [10.0.0.0/8], subnets: {{s: 10.0.0.0/16}}}}}}
virtualMachines: {{m: {{subnet: v/s, applicationSecurityGroups: [{names}]}}}}
applicationSecurityGroups:\n{}",
        lines(count, |index| format!("  g{index}: {{}}"))
    )
}

fn members(count: usize) -> String {
    format!(
        "virtualNetworks: {{v: {{addressSpace: [10.0.0.0/8], subnets: {{s: 10.0.0.0/16}}}}}}
applicationSecurityGroups: {{g: {{}}}}
virtualMachines:\n{}",
        lines(count, |index| format!("  m{index}: {{subnet: v/s, applicationSecurityGroups: [g]}}"))
    )
}

fn addresses_of_a_nic(count: usize) -> String {
    let addresses = list(count, |index| format!("10.0.{}.{}", 1 + index / 200, index % 200));
    format!(
        "virtualNetworks: {{v: {{addressSpace: [10.0.0.0/8], subnets: {{s: 10.0.0.0/16}}}}}}
virtualMachines: {{m: {{subnet: v/s, privateIPAddresses: [{addresses}]}}}}\n"
    )
}

fn nat_addresses(count: usize) -> String {
    let addresses = list(count, |index| format!("203.0.113.{index}"));
    format!("natGateways: {{g: {{publicIPAddresses: [{addresses}]}}}}\n")
}

/// Of a gateway of SKU Basic.
fn tunnels(count: usize) -> String {
    let sites = lines(count, |index| {
        format!(
            "  s{index}: {{addressSpace: [192.168.{index}.0/24], vpnDevice: {{publicIPAddress: 203.0.113.{index}}}}}"
        )
    });
    let locals = lines(count, |index| format!("  l{index}: {{gatewayIpAddress: 203.0.113.{index}}}"));
    let connections = lines(count, |index| {
        format!(
            "  c{index}: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: l{index}, sharedKey: k}}"
        )
    });
    format!(
        "virtualNetworks: {{hub: {{addressSpace: [10.0.0.0/16], subnets: {{GatewaySubnet: 10.0.2.0/29}}}}}}
virtualNetworkGateways: {{gw: {{virtualNetwork: hub, sku: Basic, publicIPAddress: 198.51.100.10}}}}
onPremisesSites:\n{sites}localNetworkGateways:\n{locals}connections:\n{connections}"
    )
}

fn findings(limit: &Case, count: usize) -> Vec<Diagnostic> {
    let text = format!("name: lab\nlocation: eastus\n{}", (limit.topology)(count));
    // Some of them are of what nothing runs yet.
    match load_ahead(&text, "limit.yaml", &Attachments::default()) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found.list,
    }
}

#[test]
fn one_more_than_each_limit_is_refused() {
    for limit in CASES {
        let found = findings(limit, limit.max + 1);
        let errors: Vec<_> = found.iter().filter(|found| found.severity == Severity::Error).collect();
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1, "{}: {}", limit.rule, said.join("\n"));
        let found = errors[0];
        assert_eq!((found.rule.as_ref(), found.code.as_deref()), (limit.rule, limit.code), "{found}");
        assert_eq!(found.path, limit.path, "{found}");
        assert!(found.line > 0 && found.column > 0, "{found}");
        let figures = [(limit.max + 1).to_string(), limit.max.to_string()];
        assert!(figures.iter().all(|figure| found.message.contains(figure)), "{found}");
    }
}

/// Some things that have a limit change nothing yet, however many there are.
fn beside_not_yet(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.retain(|found| !["not-acted-on-yet", "express-route-gateway"].contains(&found.rule.as_ref()));
    found
}

#[test]
fn a_limit_that_is_near_is_named_with_its_figure() {
    for limit in CASES {
        for count in [limit.max, (limit.max * 9).div_ceil(10)] {
            let found = beside_not_yet(findings(limit, count));
            let said: Vec<String> = found.iter().map(ToString::to_string).collect();
            let near: Vec<_> = found.iter().filter(|found| found.rule == "limit-near").collect();
            assert_eq!(near.len(), 1, "{} with {count}: {}", limit.rule, said.join("\n"));
            assert_eq!(found.len(), 1, "{}", said.join("\n"));
            assert_eq!((near[0].severity, near[0].path.as_str()), (Severity::Warning, limit.path));
            let figures =
                [count.to_string(), limit.max.to_string(), format!("({} %)", count * 100 / limit.max)];
            assert!(figures.iter().all(|figure| near[0].message.contains(figure)), "{}", near[0]);
        }
        let below = beside_not_yet(findings(limit, (limit.max * 9).div_ceil(10) - 1));
        let said: Vec<String> = below.iter().map(ToString::to_string).collect();
        assert!(below.is_empty(), "{}: {}", limit.rule, said.join("\n"));
    }
}

/// Machines with 200 addresses each: enough for the limits of a network and of its neighbourhood in few lines.
fn machines(network: &str, block: usize, count: usize) -> String {
    lines(count.div_ceil(200), |index| {
        let here = (count - index * 200).min(200);
        let addresses = list(here, |position| {
            let number = index * 200 + position + 4;
            format!("10.{block}.{}.{}", number / 256, number % 256)
        });
        format!("  {network}{index}: {{subnet: {network}/s, privateIPAddresses: [{addresses}]}}")
    })
}

fn network(name: &str, block: usize, peers: &str) -> String {
    format!(
        "  {name}: {{addressSpace: [10.{block}.0.0/16], subnets: {{s: 10.{block}.0.0/16}}, peerings: {{{peers}}}}}\n"
    )
}

#[test]
fn addresses_of_a_network_and_its_peers_are_counted() {
    let text = |a: usize, b: usize, c: usize| {
        format!(
            "name: lab\nvirtualNetworks:\n{}{}{}virtualMachines:\n{}{}{}",
            network("a", 0, "b: {}, c: {}"),
            network("b", 1, "a: {}"),
            network("c", 2, "a: {}"),
            machines("a", 0, a),
            machines("b", 1, b),
            machines("c", 2, c)
        )
    };
    let rules = |text: &str| -> Vec<(String, String)> {
        let list = match load_with(text, "limit.yaml", &Attachments::default()) {
            Ok(loaded) => loaded.warnings,
            Err(found) => found.list,
        };
        list.into_iter().map(|found| (found.rule.into_owned(), found.path)).collect()
    };
    let pair = |rule: &str, path: &str| (rule.to_owned(), path.to_owned());
    assert_eq!(rules(&text(50_000, 30_000, 30_000)), []);
    assert_eq!(
        rules(&text(50_000, 40_000, 38_001)),
        [pair("too-many-peered-addresses", "virtualNetworks.a")]
    );
    assert_eq!(rules(&text(60_000, 1, 1)), [pair("limit-near", "virtualNetworks.a")]);
    // A /16 has no room for more than 65,531, which is told too; the limit is the network's.
    let two_ranges = text(60_000, 1, 1).replace(
        "addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/16}",
        "addressSpace: [10.0.0.0/16, 10.3.0.0/16], subnets: {s: 10.0.0.0/16, t: 10.3.0.0/16}",
    );
    let more = machines("a", 3, 5_537).replace("  a", "  t").replace("subnet: a/s", "subnet: a/t");
    assert_eq!(
        rules(&format!("{two_ranges}{more}")),
        [pair("too-many-private-addresses", "virtualNetworks.a")]
    );
}

#[test]
fn nics_of_a_region_are_counted() {
    let text = |count: usize| {
        let machines = lines(count, |index| format!("  m{index}: {{subnet: n{}/s}}", index / 10_000));
        let networks = lines(7, |index| {
            format!("  n{index}: {{addressSpace: [10.{index}.0.0/16], subnets: {{s: 10.{index}.0.0/16}}}}")
        });
        format!("name: lab\nvirtualNetworks:\n{networks}virtualMachines:\n{machines}")
    };
    let found = load_with(&text(65_537), "limit.yaml", &Attachments::default()).expect_err("one too many");
    assert_eq!(found.list.len(), 1, "{found}");
    assert_eq!(
        (found.list[0].rule.as_ref(), found.list[0].path.as_str()),
        ("too-many-nics", "virtualMachines")
    );
}

#[test]
fn every_limit_has_its_case() {
    // Shown by tests of their own, above.
    let elsewhere = [
        ("too-many-private-addresses", 65_536),
        ("too-many-peered-addresses", 128_000),
        ("too-many-nics", 65_536),
    ];
    let shown: Vec<(&str, usize)> = CASES.iter().map(|case| (case.rule, case.max)).chain(elsewhere).collect();
    for limit in LIMITS {
        assert!(shown.contains(&(limit.rule, limit.max)), "no case shows {limit:?}");
    }
    // The tunnels and clients of a gateway hang on its SKU, the networks of a circuit on its tier and speed.
    let others = ["too-many-tunnels", "too-many-clients", "too-many-networks-of-circuit"];
    let fixed = shown.iter().filter(|(rule, _)| !others.contains(rule)).count();
    assert_eq!(LIMITS.len(), fixed);
}
