//! Kinds of routes beside ranges, peerings and gateways: service tags, endpoints, several appliances.

mod common;

use std::collections::BTreeSet;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{Protocol, Reason};
use vnet_fabric::effective::{effective_routes, next_hop};
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::trace::{Certainty, RejectedState, StepKind};
use vnet_fabric::{PathReport, path};

/// Network `v` with an appliance, peered with `p`; the arguments are its subnet's properties, its table's and its routes,
/// and what else the file has.
fn network(subnet: &str, table: &str, routes: &str, more: &str) -> Snapshot {
    lab(&format!(
        "
name: kinds
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t{subnet}}}, nva: 10.0.100.0/24}}
    peerings: {{p: {{allowForwardedTraffic: true}}}}
  p: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.0.0/24}}, peerings: {{v: {{allowForwardedTraffic: true}}}}}}
virtualMachines:
  m: {{subnet: v/s}}
  one: {{subnet: v/nva, enableIPForwarding: true}}
  two: {{subnet: v/nva, enableIPForwarding: true}}
  far: {{subnet: p/s}}
routeTables: {{t: {{{table}routes: [{routes}]}}}}
{more}"
    ))
}

fn to(name: &str, prefix: &str, address: &str) -> String {
    format!(
        "{{name: {name}, addressPrefix: {prefix}, nextHopType: VirtualAppliance, nextHopIpAddress: {address}}}"
    )
}

fn hop(snapshot: &Snapshot, destination: &str) -> String {
    let hop = next_hop(snapshot, "m", destination.parse().unwrap(), None).unwrap();
    format!("{} {}", hop.next_hop_type, hop.next_hop_ip_address.unwrap_or_default()).trim_end().to_owned()
}

fn ping(snapshot: &Snapshot, from: &str, to: &str) -> PathReport {
    path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap()
}

const TAGS: &str = "
serviceTags:
  Storage: [20.60.0.0/16, 20.61.0.0/16]
  Storage.EastUS: [20.60.0.0/16]
  AzureCloud: [20.60.0.0/16, 20.62.0.0/16]
  AzureCloud.eastus: [20.60.0.0/16]
";

#[test]
fn of_tags_with_one_prefix_the_closest_wins() {
    let explicit = to("explicit", "20.60.0.0/16", "10.0.100.4");
    let regional = to("regional", "Storage.EastUS", "10.0.100.5");
    let service = to("service", "Storage", "10.0.100.6");
    let cloud_region = to("cloud-region", "AzureCloud.eastus", "10.0.100.7");
    let cloud = "{name: cloud, addressPrefix: AzureCloud, nextHopType: Internet}".to_owned();
    // The order of the table does not count.
    let mut routes = vec![cloud, cloud_region, service, regional, explicit];
    let expected = [
        "VirtualAppliance 10.0.100.4",
        "VirtualAppliance 10.0.100.5",
        "VirtualAppliance 10.0.100.6",
        "VirtualAppliance 10.0.100.7",
        "Internet",
    ];
    for expected in expected {
        let snapshot = network("", "", &routes.join(", "), TAGS);
        assert_eq!(hop(&snapshot, "20.60.1.1"), expected);
        routes.pop();
    }
}

#[test]
fn a_tags_prefixes_are_listed_by_what_became_of_them() {
    let routes =
        [to("regional", "Storage.EastUS", "10.0.100.5"), to("service", "Storage", "10.0.100.6")].join(", ");
    let snapshot = network("", "", &routes, TAGS);
    let rows = effective_routes(&snapshot, "m").unwrap().value;
    let user: Vec<_> = rows
        .iter()
        .filter(|row| row.source == "User")
        .map(|row| (row.name.as_deref().unwrap(), row.state.as_str(), row.address_prefix.join(" ")))
        .collect();
    assert_eq!(
        user,
        [
            ("regional", "Active", "20.60.0.0/16".to_owned()),
            ("service", "Active", "20.61.0.0/16".to_owned()),
            ("service", "Invalid", "20.60.0.0/16".to_owned()),
        ]
    );
}

#[test]
fn a_service_endpoint_is_one_row_of_its_subnet() {
    let endpoint = ", serviceEndpoints: [Microsoft.Storage]";
    let routes = [
        to("all", "0.0.0.0/0", "10.0.100.4"),
        to("narrow", "20.60.7.0/24", "10.0.100.4"),
        to("equal", "20.61.0.0/16", "10.0.100.4"),
    ]
    .join(", ");
    let snapshot =
        network(endpoint, "", &routes, &format!("{TAGS}internet: {{hosts: {{blob: 20.60.7.1}}}}\n"));
    let rows = effective_routes(&snapshot, "m").unwrap().value;
    let services: Vec<_> =
        rows.iter().filter(|row| row.next_hop_type == "VirtualNetworkServiceEndpoint").collect();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].address_prefix, ["20.60.0.0/16", "20.61.0.0/16"]);
    assert_eq!((services[0].source.as_str(), services[0].state.as_str()), ("Default", "Active"));
    assert!(rows.iter().any(|row| row.name.as_deref() == Some("equal") && row.state == "Invalid"));
    assert_eq!(hop(&snapshot, "20.60.7.1"), "VirtualNetworkServiceEndpoint");
    assert_eq!(hop(&snapshot, "20.62.0.1"), "VirtualAppliance 10.0.100.4");
    let other = effective_routes(&snapshot, "v/nva").unwrap().value;
    assert!(!other.iter().any(|row| row.next_hop_type == "VirtualNetworkServiceEndpoint"));
    let decision = send(&snapshot, "m/eth0", &packet(Protocol::TCP, "10.0.0.4", "20.60.7.1", 443));
    assert_eq!(delivered(&snapshot, &decision), "internet");
    assert_eq!(ping(&snapshot, "m", "blob").source_seen_as, Some("10.0.0.4".parse().unwrap()));
}

#[test]
fn several_appliances_share_flows() {
    let ecmp = "{name: all, addressPrefix: 10.2.0.0/16, nextHopType: VirtualApplianceEcmp, nextHop: {nextHopIpAddresses: [10.0.100.4, 10.0.100.5]}}";
    let snapshot = network("", "", ecmp, "");
    let rows = routes(&snapshot, "m");
    assert!(
        rows.contains(&"User Active 10.2.0.0/16 VirtualApplianceEcmp 10.0.100.4,10.0.100.5".to_owned()),
        "{rows:?}"
    );
    let mut chosen = BTreeSet::new();
    for port in 1..64 {
        let probe = packet(Protocol::TCP, "10.0.0.4", "10.2.0.4", port);
        let first = delivered(&snapshot, &send(&snapshot, "m/eth0", &probe));
        let again = delivered(&snapshot, &send(&snapshot, "m/eth0", &probe));
        assert_eq!(first, again, "a flow keeps its appliance");
        chosen.insert(first);
    }
    assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["one/eth0", "two/eth0"]);
    let report = ping(&snapshot, "m", "far");
    assert_eq!(report.certainty, Certainty::Inferred);
    assert!(report.doubtful.iter().any(|rule| rule.azure_rule == "NEXTHOP-ECMP"));
    // The answer comes back over the peering: the appliance sees one direction.
    assert!(report.asymmetric);
    assert_eq!(report.one_way.len(), 1);
    assert_eq!(report.via, [report.one_way[0].appliance.clone()]);
}

#[test]
fn an_appliance_in_the_subnet_of_its_table_makes_a_loop() {
    let routes = to("loop", "10.2.0.0/16", "10.0.0.9");
    let more = "";
    let text = network("", "", &routes, more);
    assert_eq!(ping(&text, "m", "far").reason.as_deref(), Some("NextHopUnreachable"));
    let snapshot = lab("
name: own
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t}}}}
virtualMachines: {m: {subnet: v/s}, nva: {subnet: v/s, enableIPForwarding: true}}
routeTables: {t: {routes: [{name: loop, addressPrefix: 172.16.0.0/12, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.5}]}}
");
    let to_nva = packet(Protocol::TCP, "10.0.0.4", "172.16.0.1", 80);
    assert_eq!(delivered(&snapshot, &send(&snapshot, "m/eth0", &to_nva)), "nva/eth0");
    let back = send(&snapshot, "nva/eth0", &to_nva);
    assert_eq!(dropped(&back), Reason::RoutingLoop);
    assert_eq!(azure_rule(&snapshot, &back), "NEXTHOP-OWN-SUBNET");
}

#[test]
fn disable_peering_route_keeps_peerings_out() {
    let snapshot = network("", "disablePeeringRoute: All, ", "", "");
    assert!(!routes(&snapshot, "m").iter().any(|row| row.contains("Peering")));
    assert!(routes(&snapshot, "v/nva").iter().any(|row| row.contains("10.2.0.0/16 VNetPeering")));
    let report = ping(&snapshot, "m", "far");
    assert_eq!(report.reason.as_deref(), Some("RouteNone"));
    assert!(report.doubtful.iter().any(|rule| rule.azure_rule == "ROUTE-PEERING-DISABLED"));
    let route = report.forward.steps.iter().find(|step| !step.rejected.is_empty()).unwrap();
    let kept_out = route.rejected.iter().find(|route| route.address_prefix == "10.2.0.0/16").unwrap();
    assert_eq!(kept_out.state, RejectedState::Absent);
    assert_eq!(kept_out.why, "kept out by disablePeeringRoute of route table t");
}

#[test]
fn every_candidate_is_explained() {
    let gateway = "
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [10.2.7.0/24, 10.0.0.0/8]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}}
";
    let lab = |propagation: &str, route: &str| {
        lab(&format!("
name: candidates
virtualNetworks:
  h:
    addressSpace: [10.0.0.0/16]
    subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}, nva: 10.0.100.0/24, GatewaySubnet: 10.0.255.0/27}}
    peerings: {{p: {{}}, lonely: {{}}}}
  p: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.7.0/24}}, peerings: {{h: {{}}}}}}
  lonely: {{addressSpace: [10.3.0.0/16], subnets: {{s: 10.3.0.0/24}}}}
virtualMachines: {{m: {{subnet: h/s}}, nva: {{subnet: h/nva, enableIPForwarding: true}}, far: {{subnet: p/s}}, alone: {{subnet: lonely/s}}}}
routeTables: {{t: {{disableBgpRoutePropagation: {propagation}, routes: [{route}]}}}}
{gateway}"))
    };
    let rejected = |snapshot: &Snapshot, to: &str| -> Vec<String> {
        let report = ping(snapshot, "m", to);
        let step = report.forward.steps.iter().find(|step| step.kind == StepKind::Route).unwrap();
        step.rejected.iter().map(|route| format!("{:?} {route}", route.state)).collect()
    };
    let snapshot = lab("false", &to("range", "10.2.0.0/16", "10.0.100.4"));
    // The user's route of the whole range makes the peering's Invalid, and lets the gateway's inside it live.
    assert_eq!(
        rejected(&snapshot, "far"),
        [
            "Active 10.2.0.0/16 (User range) -> VirtualAppliance 10.0.100.4: shorter than 10.2.7.0/24",
            "Invalid 10.2.0.0/16 (Default) -> VNetPeering: User beats Default on the same prefix",
            "Active 10.0.0.0/8 (VirtualNetworkGateway) -> VirtualNetworkGateway 198.51.100.10: shorter than 10.2.7.0/24",
            "Invalid 10.0.0.0/8 (Default) -> None: VirtualNetworkGateway beats Default on the same prefix",
            "Active 0.0.0.0/0 (Default) -> Internet: shorter than 10.2.7.0/24",
        ]
    );
    let snapshot = lab("true", &to("other", "10.9.0.0/16", "10.0.100.4"));
    assert_eq!(
        rejected(&snapshot, "far"),
        [
            "Active 10.0.0.0/8 (Default) -> None: shorter than 10.2.0.0/16",
            "Active 0.0.0.0/0 (Default) -> Internet: shorter than 10.2.0.0/16",
            "Absent 10.0.0.0/8 (VirtualNetworkGateway) -> VirtualNetworkGateway 198.51.100.10: kept out by disableBgpRoutePropagation of route table t",
            "Absent 10.2.7.0/24 (VirtualNetworkGateway) -> VirtualNetworkGateway 198.51.100.10: a system route of the network or a peer holds it, and beats gateway routes however specific",
        ]
    );
    assert!(rejected(&snapshot, "alone").contains(
        &"Absent 10.3.0.0/16 (Default) -> VNetPeering: no route: the peering from h to lonely is Initiated".to_owned()
    ));
}

#[test]
fn a_gateway_route_inside_a_peers_range_counts_where_the_range_is_overridden() {
    let snapshot = |user: &str, known: &str| {
        lab(&format!("
name: corner
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}, nva: 10.0.100.0/24, GatewaySubnet: 10.0.255.0/27}}
    peerings: {{p: {{}}}}
  p: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.7.0/24}}, peerings: {{v: {{}}}}}}
virtualMachines: {{m: {{subnet: v/s}}, nva: {{subnet: v/nva, enableIPForwarding: true}}}}
routeTables: {{t: {{routes: [{user}]}}}}
virtualNetworkGateways: {{gw: {{virtualNetwork: v, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}}}
localNetworkGateways: {{hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [{known}]}}}}
connections: {{c: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}}}
onPremisesSites: {{hq: {{addressSpace: [192.168.0.0/16], hosts: {{pc: 192.168.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.200}}}}}}
"))
    };
    let exact = to("exact", "10.2.0.0/16", "10.0.100.4");
    let wider = to("wider", "10.2.0.0/15", "10.0.100.4");
    let corner = snapshot(&exact, "10.2.7.0/24");
    assert_eq!(hop(&corner, "10.2.7.9"), "VirtualNetworkGateway 198.51.100.10");
    assert!(
        routes(&corner, "m").iter().any(|row| row.starts_with("VirtualNetworkGateway Active 10.2.7.0/24"))
    );
    assert!(!routes(&corner, "v/nva").iter().any(|row| row.contains("10.2.7.0/24")), "no route table there");
    // GatewaySubnet has no such user route: the gateway sends it to the peer.
    let report = path(&corner, "m", "10.2.7.9", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert_eq!((report.via, report.reason.as_deref()), (vec!["gw".to_owned()], Some("NoListener")));
    assert!(report.doubtful.iter().any(|rule| rule.azure_rule == "ROUTE-GATEWAY-UNCOVERED"));
    assert_eq!(hop(&snapshot(&wider, "10.2.7.0/24"), "10.2.7.9"), "VNetPeering");
    let equal = snapshot(&exact, "10.2.0.0/16");
    assert!(!routes(&equal, "m").iter().any(|row| row.starts_with("VirtualNetworkGateway")));
    assert_eq!(hop(&equal, "10.2.7.9"), "VirtualAppliance 10.0.100.4");
}

/// A private endpoint 10.0.5.4 in `v`, which is peered with `p`, which is peered with `q`. The arguments are what its subnet has
/// besides, and the routes of the table that machines in `v` and `p` use.
fn endpoint(subnet: &str, routes: &str) -> Snapshot {
    lab(&format!(
        "
name: endpoint
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}
      nva: 10.0.9.0/24
      private: {{addressPrefix: 10.0.5.0/24, routeTable: answers{subnet}}}
    peerings: {{p: {{allowForwardedTraffic: true}}}}
  p:
    addressSpace: [10.1.0.0/16]
    subnets: {{s: {{addressPrefix: 10.1.0.0/24, routeTable: t}}}}
    peerings: {{v: {{allowForwardedTraffic: true}}, q: {{}}}}
  q: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.0.0/24}}, peerings: {{p: {{}}}}}}
virtualMachines: {{near: {{subnet: v/s}}, peer: {{subnet: p/s}}, nva: {{subnet: v/nva, enableIPForwarding: true}}}}
networkSecurityGroups:
  closed: {{securityRules: [{{name: none, priority: 100, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}}]}}
routeTables:
  t: {{routes: [{routes}]}}
  answers: {{routes: [{{name: all, addressPrefix: 10.0.0.0/8, nextHopType: None}}, {{name: own, addressPrefix: 10.0.0.0/16, nextHopType: None}}, {{name: peer, addressPrefix: 10.1.0.0/16, nextHopType: None}}]}}
privateEndpoints: {{store: {{subnet: v/private, privateLinkServiceConnection: a storage account}}}}
"
    ))
}

fn endpoint_rows(snapshot: &Snapshot, target: &str) -> Vec<String> {
    routes(snapshot, target).into_iter().filter(|row| row.contains("InterfaceEndpoint")).collect()
}

#[test]
fn a_private_endpoint_is_a_route_in_its_network_and_direct_peers() {
    let snapshot = endpoint("", "");
    let row = ["Default Active 10.0.5.4/32 InterfaceEndpoint".to_owned()];
    assert_eq!(endpoint_rows(&snapshot, "near"), row);
    assert_eq!(endpoint_rows(&snapshot, "peer"), row);
    assert!(endpoint_rows(&snapshot, "q/s").is_empty());
    for from in ["near", "peer"] {
        let report = path(&snapshot, from, "store", ProbeProtocol::Tcp, Some(443)).unwrap();
        // The endpoint answers without its subnet's route table, which would drop the answer.
        assert_eq!((report.reason, report.via.len(), report.via_reverse.len()), (None, 0, 0), "{from}");
        assert!(report.forward.steps.iter().any(|step| {
            step.rule.as_ref().is_some_and(|rule| rule.azure_rule == "ROUTE-PRIVATE-ENDPOINT")
        }));
    }
}

#[test]
fn user_routes_reach_private_endpoints_where_the_policy_lets_them() {
    let through = to("range", "10.0.0.0/16", "10.0.9.4");
    let wider = to("wider", "10.0.0.0/15", "10.0.9.4");
    let exact = to("exact", "10.0.5.4/32", "10.0.9.4");
    let routed = ", privateEndpointNetworkPolicies: RouteTableEnabled";
    let open = endpoint("", &through);
    let hop = |snapshot: &Snapshot| {
        next_hop(snapshot, "peer", "10.0.5.4".parse().unwrap(), None).unwrap().next_hop_type
    };
    assert_eq!(hop(&open), "InterfaceEndpoint");
    let policy = endpoint(routed, &through);
    assert_eq!(hop(&policy), "VirtualAppliance");
    assert_eq!(endpoint_rows(&policy, "peer"), ["Default Invalid 10.0.5.4/32 InterfaceEndpoint"]);
    // With the policy its subnet's route table is for the answers too.
    assert_eq!(ping(&policy, "peer", "store").reason.as_deref(), Some("RouteNone"));
    assert_eq!(hop(&endpoint(routed, &wider)), "InterfaceEndpoint");
    assert_eq!(hop(&endpoint("", &exact)), "VirtualAppliance");
    let guarded = |policies: &str| {
        endpoint(&format!(", networkSecurityGroup: closed, privateEndpointNetworkPolicies: {policies}"), "")
    };
    assert_eq!(ping(&guarded("Disabled"), "near", "store").reason, None);
    assert_eq!(
        ping(&guarded("NetworkSecurityGroupEnabled"), "near", "store").reason.as_deref(),
        Some("NsgDeny")
    );
}
