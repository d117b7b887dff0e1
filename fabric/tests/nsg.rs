//! Security groups in detail: tags, application security groups, live flows, the platform, and the questions about them.

mod common;

use common::*;
use vnet_config::model::{AddressSpec, PortRange, ProbeProtocol, SecurityProtocol};
use vnet_dataplane::{PacketMeta, Protocol, Reason, TcpFlags};
use vnet_fabric::effective::{
    DiagnosticQuery, FlowDirection, FlowQuery, NsgDiagnostics, QuestionError, effective_nsg, ip_flow_verify,
    nsg_diagnostics,
};
use vnet_fabric::snapshot::Snapshot;

fn rule(name: &str, priority: u16, direction: &str, access: &str, rest: &str) -> String {
    format!("{{name: {name}, priority: {priority}, direction: {direction}, access: {access}, {rest}}}")
}

const ANY: &str = "protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'";

fn close(direction: &str) -> String {
    rule("close", 4000, direction, "Deny", ANY)
}

/// `client` 10.0.0.4 and `server` 10.0.1.4, whose subnet has group `g`; `more` stands beside.
fn lab_with(group: &str, server: &str, more: &str) -> Snapshot {
    lab(&format!(
        "
name: nsg
virtualNetworks:
  v: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.0.0/24, t: {{addressPrefix: 10.0.1.0/24, networkSecurityGroup: g}}}}}}
virtualMachines:
  client: {{subnet: v/s}}
  server: {{subnet: v/t{server}}}
networkSecurityGroups:
  g: {{{group}}}
{more}"
    ))
}

fn rules(rules: &[String]) -> String {
    format!("securityRules: [{}]", rules.join(", "))
}

fn syn(port: u16) -> PacketMeta {
    packet(Protocol::TCP, "10.0.0.4", "10.0.1.4", port)
}

fn data(packet: &PacketMeta) -> PacketMeta {
    PacketMeta { tcp_flags: TcpFlags(TcpFlags::ACK), ..*packet }
}

fn decided_by(snapshot: &Snapshot, decision: &vnet_fabric::Decision) -> String {
    snapshot.rule(decision.decided_by.unwrap()).unwrap().reference.name.clone()
}

fn ask(snapshot: &Snapshot, vm: &str, direction: FlowDirection, local: &str, remote: &str) -> String {
    let query = FlowQuery {
        direction,
        protocol: Protocol::TCP,
        local: (local.parse().unwrap(), 80),
        remote: (remote.parse().unwrap(), 80),
    };
    let verdict = ip_flow_verify(snapshot, vm, &query).unwrap();
    format!("{} {}", verdict.access, verdict.rule_name)
}

#[test]
fn flush_connection_judges_live_flows_again() {
    let ssh = || rule("ssh", 100, "Inbound", "Allow", &ANY.replace("'*', source", "Tcp, source"));
    let open = lab_with(&rules(&[ssh(), close("Inbound")]), "", "");
    let sessions = send(&open, "client/eth0", &syn(22)).opens.to_vec();
    let flushing = |own: &[String]| lab_with(&format!("flushConnection: true, {}", rules(own)), "", "");
    // While a rule still allows the flow, it stays.
    let same = flushing(&[ssh(), close("Inbound")]);
    let live = send_with(&same, &sessions, "client/eth0", &data(&syn(22)));
    assert_eq!(delivered(&same, &live), "server/eth0");
    let closed = flushing(&[close("Inbound")]);
    for (from, packet) in [("client/eth0", data(&syn(22))), ("server/eth0", answer(&syn(22)))] {
        let cut = send_with(&closed, &sessions, from, &packet);
        assert_eq!(dropped(&cut), Reason::NsgDeny, "{from}");
        assert_eq!(decided_by(&closed, &cut), "g/securityRules/close");
        assert_eq!(cut.hits.len(), 1);
        // The session stays, so that the server's packets cannot begin the flow anew.
        assert!(cut.revoked.is_empty() && cut.opens.is_empty());
    }
    // Without the switch the same change leaves it alone.
    let without = lab_with(&rules(&[close("Inbound")]), "", "");
    let live = send_with(&without, &sessions, "server/eth0", &answer(&syn(22)));
    assert_eq!(delivered(&without, &live), "client/eth0");
}

#[test]
fn flush_connection_judges_by_its_own_group_and_the_flows_own_direction() {
    // The server begins a flow; its subnet's group lets nothing in, which does not matter to the answer.
    let group = format!("flushConnection: true, {}", rules(&[close("Inbound")]));
    let text = lab_with(&group, "", "");
    let begun = packet(Protocol::UDP, "10.0.1.4", "10.0.0.4", 53);
    let sessions = send(&text, "server/eth0", &begun).opens.to_vec();
    assert_eq!(delivered(&text, &send_with(&text, &sessions, "client/eth0", &answer(&begun))), "server/eth0");
    // A group without the switch keeps the flow that it let begin, beside one that has it.
    let two = |nic_rules: &[String]| {
        lab_with(
            "flushConnection: true, securityRules: []",
            ", networkSecurityGroup: h",
            &format!("  h: {{{}}}\n", rules(nic_rules)),
        )
    };
    let before = two(&[]);
    let sessions = send(&before, "client/eth0", &syn(22)).opens.to_vec();
    let after = two(&[close("Inbound")]);
    assert_eq!(
        delivered(&after, &send_with(&after, &sessions, "client/eth0", &data(&syn(22)))),
        "server/eth0"
    );
    assert_eq!(dropped(&send(&after, "client/eth0", &syn(22))), Reason::NsgDeny);
}

#[test]
fn without_tcp_state_tracking_replies_need_rules() {
    let web = rule(
        "web",
        100,
        "Inbound",
        "Allow",
        "protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: 80",
    );
    let group = rules(&[web, close("Outbound")]);
    let untracked = lab_with(&group, ", disableTcpStateTracking: true", "");
    let first = send(&untracked, "client/eth0", &syn(80));
    assert_eq!(delivered(&untracked, &first), "server/eth0");
    assert!(first.opens.is_empty());
    let reply = send_with(&untracked, &first.opens.to_vec(), "server/eth0", &answer(&syn(80)));
    assert_eq!(
        (dropped(&reply), decided_by(&untracked, &reply)),
        (Reason::NsgDeny, "g/securityRules/close".to_owned())
    );
    // UDP keeps its state.
    let query = packet(Protocol::UDP, "10.0.0.4", "10.0.1.4", 80);
    let sessions = send(&untracked, "client/eth0", &query).opens.to_vec();
    assert_eq!(sessions.len(), 1);
    assert_eq!(
        delivered(&untracked, &send_with(&untracked, &sessions, "server/eth0", &answer(&query))),
        "client/eth0"
    );
    let tracked = lab_with(&group, "", "");
    let sessions = send(&tracked, "client/eth0", &syn(80)).opens.to_vec();
    assert_eq!(
        delivered(&tracked, &send_with(&tracked, &sessions, "server/eth0", &answer(&syn(80)))),
        "client/eth0"
    );
}

#[test]
fn platform_tags_judge_the_service_that_they_name() {
    let deny = |name: &str, priority: u16, tag: &str, rest: &str| {
        rule(
            name,
            priority,
            "Outbound",
            "Deny",
            &format!("sourceAddressPrefix: '*', destinationAddressPrefix: {tag}, {rest}"),
        )
    };
    let all = close("Outbound");
    let send_to = |snapshot: &Snapshot, protocol, address: &str, port| {
        let decision = send(snapshot, "server/eth0", &packet(protocol, "10.0.1.4", address, port));
        match decision.verdict {
            vnet_fabric::Verdict::Drop(_) => decided_by(snapshot, &decision),
            _ => delivered(snapshot, &decision),
        }
    };
    // Rules that name no platform tag do not reach the platform.
    let plain = lab_with(&rules(std::slice::from_ref(&all)), "", "");
    assert_eq!(send_to(&plain, Protocol::UDP, "168.63.129.16", 53), "platform");
    assert_eq!(send_to(&plain, Protocol::TCP, "169.254.169.254", 80), "platform");
    let snapshot = lab_with(
        &rules(&[
            deny("no-dns", 200, "AzurePlatformDNS", "protocol: Udp"),
            deny("no-imds", 210, "AzurePlatformIMDS", "protocol: '*', destinationPortRange: '80-81'"),
            deny("no-keys", 220, "AzurePlatformLKM", "protocol: Tcp, destinationPortRange: 1689"),
            all,
        ]),
        "",
        "",
    );
    assert_eq!(send_to(&snapshot, Protocol::UDP, "168.63.129.16", 53), "g/securityRules/no-dns");
    assert_eq!(send_to(&snapshot, Protocol::TCP, "168.63.129.16", 53), "platform");
    assert_eq!(send_to(&snapshot, Protocol::TCP, "168.63.129.16", 80), "platform");
    assert_eq!(send_to(&snapshot, Protocol::TCP, "169.254.169.254", 80), "g/securityRules/no-imds");
    assert_eq!(send_to(&snapshot, Protocol::TCP, "168.63.129.16", 1688), "platform");
    let verdict = ask(&snapshot, "server", FlowDirection::Outbound, "10.0.1.4", "169.254.169.254");
    assert_eq!(verdict, "Deny securityRules/no-imds");
    assert_eq!(ask(&plain, "server", FlowDirection::Outbound, "10.0.1.4", "169.254.169.254"), "Allow ");
}

#[test]
fn health_probes_are_judged_and_answers_of_the_platform_pass() {
    let probe = packet(Protocol::TCP, "168.63.129.16", "10.0.1.4", 80);
    let open = lab_with("", "", "");
    assert_eq!(delivered(&open, &send(&open, "platform", &probe)), "server/eth0");
    let closed = lab_with(&rules(&[close("Inbound")]), "", "");
    let refused = send(&closed, "platform", &probe);
    assert_eq!(
        (dropped(&refused), decided_by(&closed, &refused)),
        (Reason::NsgDeny, "g/securityRules/close".to_owned())
    );
    let admitted = lab_with(
        &rules(&[
            rule(
                "probes",
                100,
                "Inbound",
                "Allow",
                "protocol: '*', sourceAddressPrefix: AzureLoadBalancer, destinationAddressPrefix: '*'",
            ),
            close("Inbound"),
        ]),
        "",
        "",
    );
    assert_eq!(delivered(&admitted, &send(&admitted, "platform", &probe)), "server/eth0");
    // Answers come in whatever the rules, also where TCP is not tracked.
    let untracked = lab_with(&rules(&[close("Inbound")]), ", disableTcpStateTracking: true", "");
    for snapshot in [&closed, &untracked] {
        let asked = packet(Protocol::TCP, "10.0.1.4", "169.254.169.254", 80);
        let sessions = send(snapshot, "server/eth0", &asked).opens.to_vec();
        assert_eq!(
            delivered(snapshot, &send_with(snapshot, &sessions, "platform", &answer(&asked))),
            "server/eth0"
        );
    }
}

#[test]
fn application_groups_stand_for_their_nics_in_one_network() {
    let snapshot = lab("
name: asg
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, networkSecurityGroup: g}}}
  w: {addressSpace: [10.1.0.0/16], subnets: {s: {addressPrefix: 10.1.0.0/24, networkSecurityGroup: g}}}
virtualMachines:
  web1: {subnet: v/s, privateIPAddress: 10.0.0.4, applicationSecurityGroups: [web]}
  web2: {subnet: v/s, privateIPAddress: 10.0.0.5, applicationSecurityGroups: [web, both]}
  db: {subnet: v/s, privateIPAddress: 10.0.0.6, applicationSecurityGroups: [db]}
  far: {subnet: w/s, privateIPAddress: 10.1.0.4}
applicationSecurityGroups: {web: {}, db: {}, both: {}}
networkSecurityGroups:
  g:
    securityRules:
      - {name: web-to-db, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceApplicationSecurityGroups: [web, both], destinationApplicationSecurityGroups: [db], destinationPortRange: 1433}
      - {name: rest, priority: 200, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
");
    let to = |from: &str, source: &str, destination: &str, port| {
        send(&snapshot, from, &packet(Protocol::TCP, source, destination, port))
    };
    assert_eq!(delivered(&snapshot, &to("web1/eth0", "10.0.0.4", "10.0.0.6", 1433)), "db/eth0");
    assert_eq!(delivered(&snapshot, &to("web2/eth0", "10.0.0.5", "10.0.0.6", 1433)), "db/eth0");
    assert_eq!(dropped(&to("web1/eth0", "10.0.0.4", "10.0.0.6", 22)), Reason::NsgDeny);
    assert_eq!(dropped(&to("web1/eth0", "10.0.0.4", "10.0.0.5", 1433)), Reason::NsgDeny);
    let rows = |vm: &str| {
        let group = effective_nsg(&snapshot, vm).unwrap().value.remove(0);
        let row = group.effective_security_rules.into_iter().next().unwrap();
        (row.name, row.expanded_source_address_prefix, row.expanded_destination_address_prefix)
    };
    let name = "securityRules/web-to-db".to_owned();
    assert_eq!(
        rows("db"),
        (
            name.clone(),
            vec!["10.0.0.4/32".to_owned(), "10.0.0.5/32".to_owned()],
            vec!["10.0.0.6/32".to_owned()]
        )
    );
    // In the other network nobody is a member.
    assert_eq!(rows("far"), (name, vec![], vec![]));
}

#[test]
fn service_tags_of_the_file_stand_for_their_prefixes() {
    let snapshot = lab_with(
        &rules(&[
            rule(
                "storage",
                100,
                "Outbound",
                "Allow",
                "protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: Storage.EastUS",
            ),
            rule(
                "sql",
                110,
                "Outbound",
                "Allow",
                "protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: Sql",
            ),
            rule(
                "managers",
                100,
                "Inbound",
                "Allow",
                "protocol: Tcp, sourceAddressPrefix: GatewayManager, destinationAddressPrefix: '*'",
            ),
            close("Outbound"),
            rule("shut", 4000, "Inbound", "Deny", ANY),
        ]),
        "",
        "serviceTags: {storage.eastus: [20.38.98.0/24], Sql: [13.66.0.0/16]}",
    );
    let out = |remote: &str| ask(&snapshot, "server", FlowDirection::Outbound, "10.0.1.4", remote);
    assert_eq!(out("20.38.98.7"), "Allow securityRules/storage");
    assert_eq!(out("13.66.1.1"), "Allow securityRules/sql");
    assert_eq!(out("20.38.99.7"), "Deny securityRules/close");
    // A tag without prefixes matches nothing.
    let within = ask(&snapshot, "server", FlowDirection::Inbound, "10.0.1.4", "20.38.98.7");
    assert_eq!(within, "Deny securityRules/shut");
}

#[test]
fn the_users_default_route_widens_the_tag_where_the_file_wants_it() {
    let text = |semantics: &str, table: &str| {
        lab(&format!(
            "
name: tag
virtualNetworks:
  v: {{addressSpace: [10.0.0.0/16], subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t, networkSecurityGroup: g}}, bare: {{addressPrefix: 10.0.1.0/24, networkSecurityGroup: g}}}}}}
virtualMachines: {{m: {{subnet: v/s}}, n: {{subnet: v/bare}}}}
networkSecurityGroups: {{g: {{}}}}
routeTables: {{t: {{routes: [{{name: all, addressPrefix: {table}, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}}]}}}}
{semantics}"
        ))
    };
    let inbound = |snapshot: &Snapshot, vm: &str, local: &str| {
        ask(snapshot, vm, FlowDirection::Inbound, local, "10.10.10.10")
    };
    let wide = text("", "0.0.0.0/0");
    assert_eq!(inbound(&wide, "m", "10.0.0.4"), "Allow defaultSecurityRules/AllowVnetInBound");
    // The routes of another subnet's table do not count.
    assert_eq!(inbound(&wide, "n", "10.0.1.4"), "Deny defaultSecurityRules/DenyAllInBound");
    let narrow = text("semantics: {virtualNetworkTagDefaultRoute: exclude}", "0.0.0.0/0");
    assert_eq!(inbound(&narrow, "m", "10.0.0.4"), "Deny defaultSecurityRules/DenyAllInBound");
    let specific = text("semantics: {virtualNetworkTagDefaultRoute: exclude}", "10.10.0.0/16");
    assert_eq!(inbound(&specific, "m", "10.0.0.4"), "Allow defaultSecurityRules/AllowVnetInBound");
}

/// Propagation off in `s`; a peering of listed subnets to a hub with a gateway that knows 192.168.0.0/16.
#[test]
fn a_subnet_peering_brings_its_own_prefixes_into_the_tag() {
    let snapshot = lab("
name: subnets
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      s: {addressPrefix: 10.0.0.0/24, routeTable: t, networkSecurityGroup: g}
      other: {addressPrefix: 10.0.1.0/24, networkSecurityGroup: g}
    peerings: {h: {peerCompleteVnets: false, localSubnetNames: [s], remoteSubnetNames: [shared], useRemoteGateways: true}}
  h:
    addressSpace: [10.1.0.0/16]
    subnets: {shared: 10.1.0.0/24, hidden: 10.1.1.0/24, GatewaySubnet: 10.1.255.0/27}
    peerings: {v: {peerCompleteVnets: false, localSubnetNames: [shared], remoteSubnetNames: [s], allowGatewayTransit: true}}
virtualMachines: {m: {subnet: v/s}, n: {subnet: v/other}}
networkSecurityGroups: {g: {}}
routeTables: {t: {disableBgpRoutePropagation: true, routes: []}}
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
");
    let tag = |vm: &str| {
        let group = effective_nsg(&snapshot, vm).unwrap().value.remove(0);
        let rules = group.effective_security_rules.into_iter();
        let mut rule = rules.filter(|rule| rule.name == "defaultSecurityRules/AllowVnetInBound");
        rule.next().unwrap().expanded_source_address_prefix
    };
    assert_eq!(tag("m"), ["10.0.0.0/16", "10.1.0.0/24", "168.63.129.16/32", "192.168.0.0/16"]);
    assert_eq!(tag("n"), ["10.0.0.0/16", "10.1.0.0/24", "168.63.129.16/32"]);
}

#[test]
fn a_verdict_that_rests_on_a_user_route_in_the_tag_says_so() {
    let snapshot = lab("
name: doubt
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t, networkSecurityGroup: g}, nva: 10.0.9.0/24}, peerings: {w: {}}}
  w: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {v: {}}}
virtualMachines: {m: {subnet: v/s}, near: {subnet: v/nva}, far: {subnet: w/s}}
networkSecurityGroups: {g: {}}
routeTables: {t: {routes: [{name: all, addressPrefix: 172.16.0.0/12, nextHopType: None}]}}
");
    let doubts = |to: &str| -> Vec<String> {
        let report = vnet_fabric::path(&snapshot, "m", to, ProbeProtocol::Tcp, Some(80)).unwrap();
        report.doubtful.into_iter().map(|rule| rule.azure_rule).collect()
    };
    assert_eq!(doubts("172.16.0.4"), ["NSG-TAG-USER-ROUTES"]);
    assert!(doubts("near").is_empty() && doubts("far").is_empty());
}

/// EX-8.1 with EX-11.3: who denies, and who allowed last, by the names of group and rule.
#[test]
fn the_last_group_that_allows_and_the_first_that_denies_are_named() {
    let web = |name: &str| {
        rule(
            name,
            100,
            "Inbound",
            "Allow",
            "protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: 80",
        )
    };
    let snapshot = |nic: &[String]| {
        lab_with(
            &rules(&[web("sub80"), rule("out", 100, "Outbound", "Allow", ANY)]),
            ", networkSecurityGroup: h",
            &format!("  h: {{{}}}\n", rules(nic)),
        )
    };
    let verify = |snapshot: &Snapshot, direction, remote: &str| {
        let query = FlowQuery {
            direction,
            protocol: Protocol::TCP,
            local: ("10.0.1.4".parse().unwrap(), 80),
            remote: (remote.parse().unwrap(), 80),
        };
        let verdict = ip_flow_verify(snapshot, "server", &query).unwrap();
        (verdict.access, verdict.network_security_group.unwrap(), verdict.rule_name)
    };
    let of = |access: &str, group: &str, rule: &str| (access.to_owned(), group.to_owned(), rule.to_owned());
    let denied = snapshot(&[]);
    let inbound = FlowDirection::Inbound;
    assert_eq!(
        verify(&denied, inbound, "203.0.113.80"),
        of("Deny", "h", "defaultSecurityRules/DenyAllInBound")
    );
    let allowed = snapshot(&[web("nic80")]);
    assert_eq!(verify(&allowed, inbound, "203.0.113.80"), of("Allow", "h", "securityRules/nic80"));
    // Outbound the NIC's group is the first, so that a pass is the subnet's.
    let out = verify(&allowed, FlowDirection::Outbound, "203.0.113.80");
    assert_eq!(out, of("Allow", "g", "securityRules/out"));
}

fn diagnose(
    snapshot: &Snapshot,
    direction: FlowDirection,
    source: &str,
    destination: &str,
    port: &str,
) -> NsgDiagnostics {
    let query = DiagnosticQuery {
        direction,
        protocol: SecurityProtocol::Tcp,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        destination_port: port.parse().unwrap(),
    };
    nsg_diagnostics(snapshot, "server", &query).unwrap()
}

#[test]
fn diagnostics_show_every_rule_that_was_evaluated() {
    let snapshot = lab_with(
        &rules(&[
            rule(
                "ssh",
                100,
                "Inbound",
                "Allow",
                "protocol: Tcp, sourceAddressPrefix: 10.0.0.4, destinationAddressPrefix: '*', destinationPortRange: 22",
            ),
            rule(
                "web",
                110,
                "Inbound",
                "Allow",
                "protocol: Tcp, sourceAddressPrefix: VirtualNetwork, destinationAddressPrefix: '*', destinationPortRanges: ['80-89', '90']",
            ),
        ]),
        ", networkSecurityGroup: h",
        &format!("  h: {{{}}}\n", rules(&[close("Inbound")])),
    );
    let answer = diagnose(&snapshot, FlowDirection::Inbound, "10.0.0.5", "10.0.1.4", "80-90");
    let result = &answer.results[0].network_security_group_result;
    assert_eq!(result.security_rule_access_result, "Deny");
    let [subnet, nic] = &result.evaluated_network_security_groups[..] else { panic!("{result:?}") };
    assert_eq!((&*subnet.network_security_group_id, &*subnet.applied_to), ("g", "v/t"));
    assert_eq!((&*nic.network_security_group_id, &*nic.applied_to), ("h", "server/eth0"));
    let [ssh, web] = &subnet.rules_evaluation_result[..] else { panic!("{subnet:?}") };
    assert_eq!(ssh.name, "UserRule_ssh");
    assert_eq!(
        (
            ssh.protocol_matched,
            ssh.source_matched,
            ssh.source_port_matched,
            ssh.destination_matched,
            ssh.destination_port_matched
        ),
        (true, false, true, true, false)
    );
    assert!(web.source_matched && web.destination_port_matched);
    assert_eq!(subnet.matched_rule.as_ref().unwrap().rule_name, "UserRule_web");
    assert_eq!(nic.matched_rule.as_ref().unwrap().action, "Deny");
    // A range that a rule holds in part is for a later rule; the part is named.
    let wider = diagnose(&snapshot, FlowDirection::Inbound, "10.0.0.0/24", "10.0.1.4", "22-90");
    let subnet = &wider.results[0].network_security_group_result.evaluated_network_security_groups[0];
    assert_eq!(subnet.partly_matched_rules, ["UserRule_ssh", "UserRule_web"]);
    assert_eq!(subnet.matched_rule.as_ref().unwrap().rule_name, "DefaultRule_AllowVnetInBound");
}

#[test]
fn diagnostics_take_tags_any_and_the_platform() {
    let snapshot = lab_with(
        &rules(&[rule(
            "no-dns",
            200,
            "Outbound",
            "Deny",
            "protocol: Udp, sourceAddressPrefix: '*', destinationAddressPrefix: AzurePlatformDNS",
        )]),
        "",
        "",
    );
    let matched = |answer: NsgDiagnostics| {
        let result = answer.results.into_iter().next().unwrap().network_security_group_result;
        let group = result.evaluated_network_security_groups.into_iter().next().unwrap();
        (result.security_rule_access_result, group.matched_rule.map(|rule| rule.rule_name))
    };
    let out = |destination: &str| {
        matched(diagnose(&snapshot, FlowDirection::Outbound, "10.0.1.4", destination, "*"))
    };
    let default = |access: &str, rule: &str| (access.to_owned(), Some(format!("DefaultRule_{rule}")));
    assert_eq!(out("Internet"), default("Allow", "AllowInternetOutBound"));
    assert_eq!(out("VirtualNetwork"), default("Allow", "AllowVnetOutBound"));
    assert_eq!(out("*"), default("Deny", "DenyAllOutBound"));
    let dns = |protocol| {
        let query = DiagnosticQuery {
            direction: FlowDirection::Outbound,
            protocol,
            source: AddressSpec::Any,
            destination: "168.63.129.16".parse().unwrap(),
            destination_port: PortRange { from: 53, to: 53 },
        };
        matched(nsg_diagnostics(&snapshot, "server", &query).unwrap())
    };
    assert_eq!(dns(SecurityProtocol::Udp), ("Deny".to_owned(), Some("UserRule_no-dns".to_owned())));
    assert_eq!(dns(SecurityProtocol::Tcp), ("Allow".to_owned(), None));
    let unknown = DiagnosticQuery {
        direction: FlowDirection::Outbound,
        protocol: SecurityProtocol::Any,
        source: AddressSpec::Any,
        destination: AddressSpec::Tag("Nowhere".to_owned()),
        destination_port: PortRange::ANY,
    };
    assert_eq!(
        nsg_diagnostics(&snapshot, "server", &unknown),
        Err(QuestionError::EmptyTag("Nowhere".to_owned()))
    );
}

#[test]
fn effective_rules_have_azures_shape() {
    let snapshot = lab_with(
        &rules(&[rule(
            "web",
            100,
            "Inbound",
            "Allow",
            "protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefixes: [10.0.1.4/32, 10.0.1.9/32], destinationPortRanges: [80, '443-444']",
        )]),
        "",
        "",
    );
    let answer = serde_json::to_value(effective_nsg(&snapshot, "server").unwrap()).unwrap();
    let group = &answer["value"][0];
    assert_eq!(group["association"], serde_json::json!({"subnet": {"id": "v/t"}}));
    assert_eq!(group["networkSecurityGroup"]["id"], "g");
    assert_eq!(
        group["effectiveSecurityRules"][0],
        serde_json::json!({
            "access": "Allow",
            "destinationAddressPrefix": "10.0.1.4/32",
            "destinationAddressPrefixes": ["10.0.1.4/32", "10.0.1.9/32"],
            "destinationPortRange": "80-80",
            "destinationPortRanges": ["80-80", "443-444"],
            "direction": "Inbound",
            "expandedDestinationAddressPrefix": [],
            "expandedSourceAddressPrefix": [],
            "name": "securityRules/web",
            "priority": 100,
            "protocol": "Tcp",
            "sourceAddressPrefix": "0.0.0.0/0",
            "sourceAddressPrefixes": ["0.0.0.0/0"],
            "sourcePortRange": "0-65535",
            "sourcePortRanges": ["0-65535"],
        })
    );
    let vnet = &group["effectiveSecurityRules"][1];
    assert_eq!(vnet["expandedSourceAddressPrefix"], serde_json::json!(["10.0.0.0/16", "168.63.129.16/32"]));
}

#[test]
fn a_question_about_anothers_address_is_refused() {
    let snapshot = lab_with("", "", "");
    let query = FlowQuery {
        direction: FlowDirection::Inbound,
        protocol: Protocol::TCP,
        local: ("10.0.0.4".parse().unwrap(), 80),
        remote: ("10.0.1.4".parse().unwrap(), 80),
    };
    let error = ip_flow_verify(&snapshot, "server", &query).unwrap_err();
    assert!(error.to_string().starts_with("SourceIpDoesNotMatchNicIp"), "{error}");
}

/// Three machines without groups: with a Standard, a Basic and no public address.
const UNGUARDED: &str = "
name: unguarded
publicIPAddresses: {old: {ipAddress: 203.0.113.9, sku: Basic}}
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16, 198.51.100.0/24], subnets: {s: 10.0.0.0/24, t: 198.51.100.0/24}}
virtualMachines:
  server: {networkInterfaces: [{subnet: v/s, privateIPAddress: 10.0.0.4, publicIPAddress: 203.0.113.8}]}
  basic: {networkInterfaces: [{subnet: v/s, privateIPAddress: 10.0.0.5, publicIPAddress: old}]}
  hidden: {networkInterfaces: [{subnet: v/s, privateIPAddress: 10.0.0.6}]}
internet: {hosts: {out: 203.0.113.80}}
";

#[test]
fn a_standard_public_address_without_a_group_takes_nothing_from_the_internet() {
    let snapshot = lab(UNGUARDED);
    let inbound = |vm: &str, local: &str, remote: &str| {
        ask(&snapshot, vm, FlowDirection::Inbound, local, remote).trim_end().to_owned()
    };
    assert_eq!(inbound("server", "10.0.0.4", "203.0.113.80"), "Deny NSG-PUBLIC-NEEDS-NSG");
    assert_eq!(inbound("basic", "10.0.0.5", "203.0.113.80"), "Allow");
    assert_eq!(inbound("hidden", "10.0.0.6", "203.0.113.80"), "Allow");
    // What the network holds is private, whatever its addresses look like.
    for inside in ["10.0.0.6", "198.51.100.7"] {
        assert_eq!(inbound("server", "10.0.0.4", inside), "Allow", "{inside}");
    }
    assert_eq!(ask(&snapshot, "server", FlowDirection::Outbound, "10.0.0.4", "203.0.113.80"), "Allow ");
    // As the packets fare.
    for (to, reason) in [("203.0.113.8", Some("NsgDeny")), ("203.0.113.9", None)] {
        let report = vnet_fabric::path(&snapshot, "out", to, ProbeProtocol::Tcp, Some(80)).unwrap();
        assert_eq!(report.reason.as_deref(), reason, "{to}");
    }
    let note = |vm: &str, local: &str| {
        let query = FlowQuery {
            direction: FlowDirection::Inbound,
            protocol: Protocol::TCP,
            local: (local.parse().unwrap(), 80),
            remote: ("203.0.113.80".parse().unwrap(), 50_000),
        };
        ip_flow_verify(&snapshot, vm, &query).unwrap().note.unwrap_or_default()
    };
    assert_eq!(note("server", "10.0.0.4"), "");
    assert!(note("hidden", "10.0.0.6").starts_with("no public address leads to hidden/eth0"));
}

#[test]
fn diagnostics_know_the_standard_public_address_without_a_group() {
    let snapshot = lab(UNGUARDED);
    let result = |source: &str| {
        let answer = diagnose(&snapshot, FlowDirection::Inbound, source, "10.0.0.4", "80");
        answer.results.into_iter().next().unwrap().network_security_group_result
    };
    for source in ["203.0.113.80", "Internet"] {
        let result = result(source);
        assert_eq!(result.security_rule_access_result, "Deny", "{source}");
        let matched = result.evaluated_network_security_groups[0].matched_rule.as_ref().unwrap();
        assert_eq!(matched.rule_name, "NSG-PUBLIC-NEEDS-NSG");
    }
    let inside = result("10.0.0.6");
    assert_eq!(inside.security_rule_access_result, "Allow");
    assert!(inside.evaluated_network_security_groups.is_empty());
    let any = result("*");
    assert_eq!(any.security_rule_access_result, "Allow");
    assert_eq!(any.evaluated_network_security_groups[0].partly_matched_rules, ["NSG-PUBLIC-NEEDS-NSG"]);
    let query = DiagnosticQuery {
        direction: FlowDirection::Inbound,
        protocol: SecurityProtocol::Tcp,
        source: "203.0.113.80".parse().unwrap(),
        destination: "10.0.0.6".parse().unwrap(),
        destination_port: PortRange { from: 80, to: 80 },
    };
    let hidden = nsg_diagnostics(&snapshot, "hidden", &query).unwrap().results.remove(0);
    let hidden = hidden.network_security_group_result;
    assert_eq!(hidden.security_rule_access_result, "Allow");
    assert!(hidden.note.unwrap().starts_with("no public address leads to hidden/eth0"));
}

/// Each protocol that rules name, and ICMP, which has no ports.
#[test]
fn rules_name_protocols_by_number_and_icmp_has_no_ports() {
    let allow = |name: &str, priority: u16, protocol: &str, ports: &str| {
        rule(
            name,
            priority,
            "Inbound",
            "Allow",
            &format!("protocol: {protocol}, sourceAddressPrefix: '*', destinationAddressPrefix: '*'{ports}"),
        )
    };
    let snapshot = lab_with(
        &rules(&[
            allow("esp", 100, "Esp", ""),
            allow("ah", 110, "Ah", ""),
            allow("ping", 120, "Icmp", ", destinationPortRange: 80"),
            allow("any-80", 130, "'*'", ", destinationPortRange: 80"),
            close("Inbound"),
        ]),
        "",
        "",
    );
    let by = |protocol, port| {
        let decision = send(&snapshot, "client/eth0", &packet(protocol, "10.0.0.4", "10.0.1.4", port));
        decided_by(&snapshot, &decision)
    };
    assert_eq!(by(Protocol::ESP, 0), "g/securityRules/esp");
    assert_eq!(by(Protocol::AH, 0), "g/securityRules/ah");
    assert_eq!(by(Protocol::ICMP, 7), "g/securityRules/ping");
    assert_eq!(by(Protocol::UDP, 80), "g/securityRules/any-80");
    assert_eq!(by(Protocol::UDP, 81), "g/securityRules/close");
}

#[test]
fn a_network_says_how_long_idle_flows_are_known() {
    let minutes = |flow_timeout: &str| {
        let text = format!(
            "
name: idle
virtualNetworks:
  v: {{addressSpace: [10.0.0.0/16], subnets: {{s: {{addressPrefix: 10.0.0.0/24, networkSecurityGroup: n}}}}{flow_timeout}}}
virtualMachines:
  a: {{subnet: v/s, privateIPAddress: 10.0.0.4}}
  b: {{subnet: v/s, privateIPAddress: 10.0.0.5}}
networkSecurityGroups: {{n: {{}}}}
"
        );
        let decision = send(&lab(&text), "a/eth0", &packet(Protocol::TCP, "10.0.0.4", "10.0.0.5", 443));
        decision.opens.iter().map(|open| open.idle_minutes).collect::<Vec<_>>()
    };
    assert_eq!(minutes(""), [0, 0]);
    assert_eq!(minutes(", flowTimeoutInMinutes: 5"), [5, 5]);
}
