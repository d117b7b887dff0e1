//! Security groups and firewalls, with their sessions.

mod common;

use std::net::IpAddr;

use common::*;
use vnet_dataplane::{PacketMeta, Protocol, Reason, TcpFlags};
use vnet_fabric::effective::{FlowDirection, FlowQuery, effective_nsg, ip_flow_verify};
use vnet_fabric::snapshot::Snapshot;

/// One machine `m` 10.0.0.4 in a subnet with a group without rules of its own, and what stands beside it.
fn guarded(network: &str, subnet: &str, more: &str) -> Snapshot {
    lab(&format!(
        "
name: guarded
virtualNetworks:
  v: {{addressSpace: [10.0.0.0/16], subnets: {{s: {{addressPrefix: 10.0.0.0/24, networkSecurityGroup: g{subnet}}}, GatewaySubnet: 10.0.255.0/27}}{network}}}
  p: {{addressSpace: [10.10.0.0/16], subnets: {{s: 10.10.0.0/24}}, peerings: {{v: {{}}}}}}
virtualMachines: {{m: {{subnet: v/s}}}}
networkSecurityGroups: {{g: {{}}}}
{more}
"
    ))
}

fn verify(snapshot: &Snapshot, direction: FlowDirection, remote: &str) -> String {
    let local: IpAddr = "10.0.0.4".parse().unwrap();
    let query = FlowQuery {
        direction,
        protocol: Protocol::TCP,
        local: (local, 80),
        remote: (remote.parse().unwrap(), 6000),
    };
    let verdict = ip_flow_verify(snapshot, "m", &query).unwrap();
    format!("{} {}", verdict.access, verdict.rule_name)
}

#[test]
fn default_rules_judge_as_documented() {
    let snapshot = guarded("", "", "");
    let out = |remote| verify(&snapshot, FlowDirection::Outbound, remote);
    assert_eq!(out("13.107.21.200"), "Allow defaultSecurityRules/AllowInternetOutBound");
    assert_eq!(out("10.0.1.10"), "Allow defaultSecurityRules/AllowVnetOutBound");
    assert_eq!(out("10.10.10.10"), "Deny defaultSecurityRules/DenyAllOutBound");
    assert_eq!(
        verify(&snapshot, FlowDirection::Inbound, "10.10.10.10"),
        "Deny defaultSecurityRules/DenyAllInBound"
    );
}

#[test]
fn the_virtual_network_tag_grows_with_peerings_gateways_and_user_routes() {
    let inbound = |snapshot: &Snapshot| verify(snapshot, FlowDirection::Inbound, "10.10.10.10");
    let allowed = "Allow defaultSecurityRules/AllowVnetInBound";
    assert_eq!(inbound(&guarded(", peerings: {p: {}}", "", "")), allowed);
    let closed = guarded(", peerings: {p: {allowVirtualNetworkAccess: false}}", "", "");
    assert_eq!(inbound(&closed), "Deny defaultSecurityRules/DenyAllInBound");
    let gateway = "
virtualNetworkGateways: {gw: {virtualNetwork: v, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [10.10.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
";
    assert_eq!(inbound(&guarded("", "", gateway)), allowed);
    let table = |prefix: &str| {
        format!(
            "routeTables: {{t: {{routes: [{{name: r, addressPrefix: {prefix}, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}}]}}}}"
        )
    };
    assert_eq!(inbound(&guarded("", ", routeTable: t", &table("10.10.0.0/16"))), allowed);
    assert_eq!(inbound(&guarded("", ", routeTable: t", &table("0.0.0.0/0"))), allowed);
}

/// Machines `a` and `b` in one subnet; the group's rules, and which of subnet and NIC of `b` it guards.
fn two(rules: &str, subnet_group: &str, nic_group: &str) -> Snapshot {
    lab(&format!(
        "
name: two
virtualNetworks: {{v: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.0.0/24, t: {{addressPrefix: 10.0.1.0/24{subnet_group}}}}}}}}}
virtualMachines: {{a: {{subnet: v/s}}, b: {{subnet: v/t{nic_group}}}}}
networkSecurityGroups:
  closed: {{securityRules: [{{name: none, priority: 100, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}}]}}
  g: {{securityRules: [{rules}]}}
"
    ))
}

const WEB: &str = "{name: web, priority: 200, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: 80}, {name: rest, priority: 300, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}";

fn syn(port: u16) -> PacketMeta {
    packet(Protocol::TCP, "10.0.0.4", "10.0.1.4", port)
}

#[test]
fn the_smallest_priority_that_matches_decides() {
    let snapshot = two(WEB, ", networkSecurityGroup: g", "");
    assert_eq!(delivered(&snapshot, &send(&snapshot, "a/eth0", &syn(80))), "b/eth0");
    let denied = send(&snapshot, "a/eth0", &syn(22));
    assert_eq!(dropped(&denied), Reason::NsgDeny);
    assert_eq!(snapshot.rule(denied.decided_by.unwrap()).unwrap().reference.name, "g/securityRules/rest");
    assert_eq!(denied.hits.len(), 1);
}

#[test]
fn both_groups_must_allow() {
    let nic = ", networkSecurityGroup: closed";
    let snapshot = two(WEB, ", networkSecurityGroup: g", nic);
    let denied = send(&snapshot, "a/eth0", &syn(80));
    assert_eq!(
        snapshot.rule(denied.decided_by.unwrap()).unwrap().reference.name,
        "closed/securityRules/none"
    );
    let order: Vec<String> = effective_nsg(&snapshot, "b")
        .unwrap()
        .value
        .into_iter()
        .map(|group| group.network_security_group.id)
        .collect();
    assert_eq!(order, ["g", "closed"]);
}

#[test]
fn replies_and_errors_pass_and_changes_meet_new_flows_only() {
    let open = two(WEB, ", networkSecurityGroup: g", "");
    let first = send(&open, "a/eth0", &syn(80));
    let sessions = first.opens.to_vec();
    assert_eq!(sessions.len(), 1);
    let closed = two("", ", networkSecurityGroup: closed", "");
    let data = PacketMeta { tcp_flags: TcpFlags(TcpFlags::ACK), ..syn(80) };
    let live = send_with(&closed, &sessions, "a/eth0", &data);
    assert_eq!(delivered(&closed, &live), "b/eth0");
    assert_eq!(live.passed.len(), 1);
    assert_eq!(delivered(&closed, &send_with(&closed, &sessions, "b/eth0", &answer(&syn(80)))), "a/eth0");
    assert_eq!(dropped(&send_with(&closed, &sessions, "a/eth0", &syn(81))), Reason::NsgDeny);
    // A machine behind the closed group opens a flow: the answer and an error about it come in.
    let opened = packet(Protocol::UDP, "10.0.1.4", "10.0.0.4", 53);
    let out = send(&closed, "b/eth0", &opened);
    let sessions = out.opens.to_vec();
    assert_eq!(delivered(&closed, &send_with(&closed, &sessions, "a/eth0", &answer(&opened))), "b/eth0");
    let error = error_about(&opened, "10.0.0.4");
    assert_eq!(delivered(&closed, &send_with(&closed, &sessions, "a/eth0", &error)), "b/eth0");
    assert_eq!(dropped(&send(&closed, "a/eth0", &error)), Reason::NsgDeny);
}

/// Two spokes whose tables send each other's range to the hub's firewall; the argument is the policies.
fn firewalled(policies: &str) -> Snapshot {
    let spoke = |name: &str, number: u8| {
        format!(
            "  {name}: {{addressSpace: [10.{number}.0.0/16], subnets: {{s: {{addressPrefix: 10.{number}.0.0/24, routeTable: t}}}}, peerings: {{h: {{allowForwardedTraffic: true}}}}}}\n"
        )
    };
    lab(&format!(
        "
name: fw
virtualNetworks:
  h: {{addressSpace: [10.0.0.0/16], subnets: {{AzureFirewallSubnet: 10.0.1.0/26}}, peerings: {{s1: {{}}, s2: {{}}}}}}
{}{}
virtualMachines: {{web: {{subnet: s1/s}}, db: {{subnet: s2/s}}}}
routeTables: {{t: {{routes: [{{name: all, addressPrefix: 10.0.0.0/8, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}}]}}}}
azureFirewalls: {{fw: {{virtualNetwork: h, firewallPolicy: child, publicIPAddresses: [203.0.113.20]}}}}
firewallPolicies:
{policies}
",
        spoke("s1", 1),
        spoke("s2", 2)
    ))
}

fn collection(name: &str, priority: u32, action: &str, protocol: &str, port: &str) -> String {
    format!(
        "{{name: {name}, priority: {priority}, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: {action}, rules: [{{name: r, ruleType: NetworkRule, ipProtocols: [{protocol}], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['{port}']}}]}}"
    )
}

fn policy(name: &str, base: &str, priority: u32, collections: &[String]) -> String {
    format!(
        "  {name}: {{{base}ruleCollectionGroups: [{{name: {name}-g, priority: {priority}, ruleCollections: [{}]}}]}}\n",
        collections.join(", ")
    )
}

fn probe(port: u16) -> PacketMeta {
    packet(Protocol::TCP, "10.1.0.4", "10.2.0.4", port)
}

#[test]
fn a_firewall_passes_what_a_rule_allows_and_the_answer_by_session() {
    let snapshot = firewalled(&policy("child", "", 200, &[collection("web", 100, "Allow", "TCP", "443")]));
    let out = send(&snapshot, "web/eth0", &probe(443));
    assert_eq!(delivered(&snapshot, &out), "db/eth0");
    assert_eq!((out.opens.len(), out.hits.len()), (1, 1));
    let sessions = out.opens.to_vec();
    let back = send_with(&snapshot, &sessions, "db/eth0", &answer(&probe(443)));
    assert_eq!(delivered(&snapshot, &back), "web/eth0");
    assert!(back.hits.is_empty() && back.opens.is_empty());
    assert_eq!(back.passed.len(), 1);
    assert_eq!(dropped(&send(&snapshot, "db/eth0", &answer(&probe(443)))), Reason::FirewallNoSession);
    let denied = send(&snapshot, "web/eth0", &probe(22));
    assert_eq!(
        (dropped(&denied), azure_rule(&snapshot, &denied)),
        (Reason::FirewallDeny, "FIREWALL-DEFAULT-DENY".to_owned())
    );
    let ttl = out
        .actions
        .iter()
        .filter(|action| matches!(action, vnet_dataplane::Action::DecrementTtl { answer_from: None }));
    assert_eq!(ttl.count(), 1);
}

#[test]
fn an_error_about_a_flow_passes_with_it() {
    let snapshot = firewalled(&policy("child", "", 200, &[collection("web", 100, "Allow", "TCP", "443")]));
    let sessions = send(&snapshot, "web/eth0", &probe(443)).opens.to_vec();
    let error = error_about(&probe(443), "10.2.0.4");
    assert_eq!(delivered(&snapshot, &send_with(&snapshot, &sessions, "db/eth0", &error)), "web/eth0");
    assert_eq!(dropped(&send(&snapshot, "db/eth0", &error)), Reason::FirewallNoSession);
}

#[test]
fn a_change_to_deny_ends_the_session() {
    let before = firewalled(&policy("child", "", 200, &[collection("web", 100, "Allow", "TCP", "443")]));
    let sessions = send(&before, "web/eth0", &probe(443)).opens.to_vec();
    let after = firewalled(&policy("child", "", 200, &[collection("web", 100, "Deny", "TCP", "443")]));
    for (from, packet) in [
        ("web/eth0", PacketMeta { tcp_flags: TcpFlags(TcpFlags::ACK), ..probe(443) }),
        ("db/eth0", answer(&probe(443))),
    ] {
        let cut = send_with(&after, &sessions, from, &packet);
        assert_eq!(dropped(&cut), Reason::FirewallDeny);
        assert_eq!(cut.revoked.len(), 1);
    }
}

#[test]
fn parents_come_first_then_groups_and_collections_by_priority() {
    let deny_22 = collection("no-ssh", 60_000, "Deny", "TCP", "22");
    let allow_22 = collection("ssh", 100, "Allow", "TCP", "22");
    let inherited = format!(
        "{}{}",
        policy("base", "", 60_000, &[deny_22]),
        policy("child", "basePolicy: base, ", 100, &[allow_22])
    );
    let denied = send(&firewalled(&inherited), "web/eth0", &probe(22));
    assert_eq!(dropped(&denied), Reason::FirewallDeny);
    let by_priority = policy(
        "child",
        "",
        200,
        &[collection("b", 200, "Allow", "TCP", "22"), collection("a", 100, "Deny", "TCP", "22")],
    );
    assert_eq!(dropped(&send(&firewalled(&by_priority), "web/eth0", &probe(22))), Reason::FirewallDeny);
    // With ports, Any means the protocols that have ports.
    let any = firewalled(&policy("child", "", 200, &[collection("web", 100, "Allow", "Any", "80")]));
    assert_eq!(delivered(&any, &send(&any, "web/eth0", &probe(80))), "db/eth0");
    let ping = packet(Protocol::ICMP, "10.1.0.4", "10.2.0.4", 80);
    assert_eq!(dropped(&send(&any, "web/eth0", &ping)), Reason::FirewallDeny);
}

#[test]
fn a_firewalls_own_address_is_reached() {
    let snapshot = firewalled(&policy("child", "", 200, &[collection("all", 100, "Allow", "Any", "*")]));
    let ping = packet(Protocol::ICMP, "10.1.0.4", "10.0.1.4", 7);
    assert_eq!(delivered(&snapshot, &send(&snapshot, "web/eth0", &ping)), "fw");
    assert_eq!(delivered(&snapshot, &send(&snapshot, "fw", &answer(&ping))), "web/eth0");
    // The spoke's table leads private destinations to the firewall, which knows no such range.
    let lost = send(&snapshot, "web/eth0", &packet(Protocol::TCP, "10.1.0.4", "10.99.0.4", 80));
    assert_eq!(dropped(&lost), Reason::RouteNone);
}

#[test]
fn two_firewalls_that_point_at_each_other_make_a_loop() {
    let snapshot = lab("
name: loop
virtualNetworks:
  a:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: {addressPrefix: 10.0.1.0/26, routeTable: to-b}, s: {addressPrefix: 10.0.0.0/24, routeTable: to-a}}
    peerings: {b: {allowForwardedTraffic: true}}
  b:
    addressSpace: [10.1.0.0/16]
    subnets: {AzureFirewallSubnet: {addressPrefix: 10.1.1.0/26, routeTable: to-a}}
    peerings: {a: {allowForwardedTraffic: true}}
virtualMachines: {m: {subnet: a/s}}
routeTables:
  to-a: {routes: [{name: r, addressPrefix: 172.16.0.0/12, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]}
  to-b: {routes: [{name: r, addressPrefix: 172.16.0.0/12, nextHopType: VirtualAppliance, nextHopIpAddress: 10.1.1.4}]}
azureFirewalls:
  fa: {virtualNetwork: a, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}
  fb: {virtualNetwork: b, firewallPolicy: p, publicIPAddresses: [203.0.113.21]}
firewallPolicies:
  p: {ruleCollectionGroups: [{name: g, priority: 100, ruleCollections: [{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}]}]}]}
");
    let decision = send(&snapshot, "m/eth0", &packet(Protocol::TCP, "10.0.0.4", "172.16.0.1", 80));
    assert_eq!(dropped(&decision), Reason::RoutingLoop);
    assert_eq!(azure_rule(&snapshot, &decision), "FABRIC-LOOP");
}
