//! Kinds of routes, with real packets: private endpoints, service endpoints, several appliances, gateways as next hop.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("routes::a_private_endpoint_answers_its_network_and_direct_peers", private_endpoint)
        .needs(&["nc", "ping"]),
    Lab::new("routes::a_service_endpoint_keeps_the_private_source", service_endpoint).needs(&["nc"]),
    Lab::new("routes::several_appliances_share_flows", several_appliances).needs(&["nc"]),
    Lab::new("routes::an_appliance_in_the_subnet_of_its_table_makes_a_loop", own_subnet).needs(&["ping"]),
    Lab::new("routes::a_gateway_relays_spokes_by_user_routes", relay).needs(&["ping"]),
];

const ENDPOINTS: &str = "\
name: endpoints
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      app: {addressPrefix: 10.0.0.0/24, routeTable: closed}
      private: {addressPrefix: 10.0.5.0/24, routeTable: closed, privateEndpointNetworkPolicies: Disabled}
      readers: {addressPrefix: 10.0.6.0/24, routeTable: closed, serviceEndpoints: [Microsoft.Storage]}
    peerings: {p: {}}
  p: {addressSpace: [10.1.0.0/16], subnets: {app: 10.1.0.0/24}, peerings: {v: {}, q: {}}}
  q: {addressSpace: [10.2.0.0/16], subnets: {app: 10.2.0.0/24}, peerings: {p: {}}}
virtualMachines:
  near: {subnet: v/app}
  peer: {subnet: p/app}
  far: {subnet: q/app}
  reader: {subnet: v/readers, privateIPAddress: 10.0.6.4}
privateEndpoints:
  store: {subnet: v/private, privateIPAddress: 10.0.5.10, privateLinkServiceConnection: a storage account}
routeTables:
  closed:
    routes:
      - {name: all, addressPrefix: 0.0.0.0/0, nextHopType: None}
      - {name: peer, addressPrefix: 10.1.0.0/16, nextHopType: None}
serviceTags: {Storage: [20.60.0.0/16]}
internet: {hosts: {blob: 20.60.0.10, other: 203.0.113.80}}
";

const STORE: &str = "10.0.5.10";

fn private_endpoint(scene: &Scene) -> Result<()> {
    let lab = scene.up(ENDPOINTS)?;
    let _service = lab.serve("store", 443, &["nc", "-lk", "443"])?;
    for from in ["near", "peer"] {
        lab.expect_ping(from, STORE)?;
        ensure!(lab.connects(from, STORE, 443)?, "{from} reaches the service behind the endpoint");
        let report = lab.path(from, "store", "tcp/443")?;
        ensure!(report["verdict"] == "allow" && report["via"] == json!([]), "{report:#}");
        let table = lab.json(&["effective-routes", from])?;
        let rows = table["value"].as_array().context("rows")?;
        let row = rows.iter().find(|row| row["nextHopType"] == "InterfaceEndpoint").context("a row")?;
        ensure!(row["addressPrefix"] == json!(["10.0.5.10/32"]) && row["state"] == "Active", "{row:#}");
    }
    lab.expect_drop("RouteNone", || lab.expect_no_ping("far", STORE))?;

    // Its answers take the route table of its subnet only where the subnet's policies say so.
    let policy = edited(ENDPOINTS, "Policies: Disabled", "Policies: RouteTableEnabled");
    lab.apply(&policy)?.ok()?;
    lab.expect_ping("near", STORE)?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("peer", STORE))
}

fn service_endpoint(scene: &Scene) -> Result<()> {
    let lab = scene.up(ENDPOINTS)?;
    let server = lab.serve("blob", 443, &["nc", "-lkvn", "443"])?;
    ensure!(lab.connects("reader", "20.60.0.10", 443)?, "no user route overrides the endpoint's");
    wait_until("the service says who came", PATIENCE, || {
        Ok(server.stderr().contains("Connection received on 10.0.6.4"))
    })?;
    ensure!(lab.path("reader", "blob", "tcp/443")?["sourceSeenAs"] == "10.0.6.4", "the prediction");
    for (from, to) in [("reader", "203.0.113.80"), ("near", "20.60.0.10")] {
        lab.expect_drop("RouteNone", || {
            ensure!(!lab.connects(from, to, 443)?, "{from} to {to} is not the endpoint's");
            Ok(())
        })?;
    }
    Ok(())
}

const SHARED: &str = "\
name: shared
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      a: {addressPrefix: 10.0.0.0/24, routeTable: there}
      b: {addressPrefix: 10.0.1.0/24, routeTable: back}
      nva: 10.0.9.0/24
virtualMachines:
  client: {subnet: v/a, privateIPAddress: 10.0.0.4}
  server: {subnet: v/b, privateIPAddress: 10.0.1.4}
  one: {subnet: v/nva, privateIPAddress: 10.0.9.4, enableIPForwarding: true, run: ['echo 1 > /proc/sys/net/ipv4/ip_forward', echo ready]}
  two: {subnet: v/nva, privateIPAddress: 10.0.9.5, enableIPForwarding: true, run: ['echo 1 > /proc/sys/net/ipv4/ip_forward', echo ready]}
routeTables:
  there: {routes: [{name: b, addressPrefix: 10.0.1.0/24, nextHopType: VirtualApplianceEcmp, nextHop: {nextHopIpAddresses: [10.0.9.4, 10.0.9.5]}}]}
  back: {routes: [{name: a, addressPrefix: 10.0.0.0/24, nextHopType: VirtualApplianceEcmp, nextHop: {nextHopIpAddresses: [10.0.9.4, 10.0.9.5]}}]}
";

fn ready(lab: &RunningLab, machines: &[&str]) -> Result<()> {
    for machine in machines {
        wait_until("the appliance forwards", PATIENCE, || {
            Ok(lab.ctl(&["logs", machine])?.ok()?.stdout.contains("ready"))
        })?;
    }
    Ok(())
}

fn several_appliances(scene: &Scene) -> Result<()> {
    let lab = scene.up(SHARED)?;
    ready(&lab, &["one", "two"])?;
    let _server = lab.serve("server", 443, &["nc", "-lk", "443"])?;
    let forwarded = |machine: &str| {
        lab.metric("vnet_nic_packets_total", &[("vm", machine), ("nic", "eth0"), ("direction", "outbound")])
    };
    for _ in 0..16 {
        ensure!(lab.connects("client", "10.0.1.4", 443)?, "by either appliance");
    }
    // The chance that 16 flows take the same way is one in 32,768.
    for machine in ["one", "two"] {
        ensure!(forwarded(machine)? > 0.0, "{machine} has forwarded nothing");
    }
    let report = lab.path("client", "server", "tcp/443")?;
    ensure!(report["certainty"] == "inferred", "{report:#}");
    Ok(())
}

fn own_subnet(scene: &Scene) -> Result<()> {
    let lab = scene.up("\
name: own
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t}, d: 10.0.1.0/24}}}
virtualMachines:
  client: {subnet: v/s, privateIPAddress: 10.0.0.4}
  nva: {subnet: v/s, privateIPAddress: 10.0.0.5, enableIPForwarding: true, run: ['echo 1 > /proc/sys/net/ipv4/ip_forward', echo ready]}
  server: {subnet: v/d, privateIPAddress: 10.0.1.4}
routeTables: {t: {routes: [{name: loop, addressPrefix: 10.0.1.0/24, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.5}]}}
")?;
    ready(&lab, &["nva"])?;
    ensure!(lab.path("client", "server", "icmp")?["reason"] == "RoutingLoop", "the prediction");
    lab.expect_drop("RoutingLoop", || lab.expect_no_ping("client", "10.0.1.4"))
}

const RELAY: &str = "\
name: relay
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.255.0/27}, peerings: {s1: {allowGatewayTransit: true}, s2: {allowGatewayTransit: true}}}
  s1: {addressSpace: [10.1.0.0/16], subnets: {s: {addressPrefix: 10.1.0.0/24, routeTable: to-s2}}, peerings: {h: {useRemoteGateways: true}}}
  s2: {addressSpace: [10.2.0.0/16], subnets: {s: {addressPrefix: 10.2.0.0/24, routeTable: to-s1}}, peerings: {h: {useRemoteGateways: true}}}
virtualMachines: {m1: {subnet: s1/s, privateIPAddress: 10.1.0.4}, m2: {subnet: s2/s, privateIPAddress: 10.2.0.4}}
routeTables:
  to-s2: {routes: [{name: s2, addressPrefix: 10.2.0.0/16, nextHopType: VirtualNetworkGateway}]}
  to-s1: {routes: [{name: s1, addressPrefix: 10.1.0.0/16, nextHopType: VirtualNetworkGateway}]}
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
";

fn relay(scene: &Scene) -> Result<()> {
    let lab = scene.up(RELAY)?;
    // No half allows forwarded traffic: what Azure's own gateway sends needs none.
    lab.expect_ping("m1", "10.2.0.4")?;
    let report = lab.path("m1", "m2", "icmp")?;
    ensure!(report["via"] == json!(["gw"]) && report["viaReverse"] == json!(["gw"]), "{report:#}");
    lab.apply(&edited(RELAY, ", routeTable: to-s1", ""))?.ok()?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("m1", "10.2.0.4"))
}
