//! BGP through the tunnels: between gateways of the lab, and with BIRD, FRR and GoBGP on premises.

use anyhow::{Context, Result, ensure};
use vnet_integration::bgp::{Device, Make, Site};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("bgp::gateways_tell_each_other_of_both_families", gateways).needs(&["ping"]),
    Lab::new("bgp::a_chain_is_transitive_with_bgp_on_every_hop", chain).needs(&["ping"]),
    Lab::new("bgp::bird_and_a_gateway_tell_each_other", bird).needs(&["ping", "bird", "wireguard-go", "wg"]),
    Lab::new("bgp::frr_and_a_gateway_tell_each_other", frr).needs(&[
        "ping",
        "/usr/lib/frr/bgpd",
        "vtysh",
        "wireguard-go",
        "wg",
    ]),
    Lab::new("bgp::gobgp_and_a_gateway_tell_each_other", gobgp).needs(&[
        "ping",
        "gobgpd",
        "wireguard-go",
        "wg",
    ]),
    Lab::new("bgp::a_site_with_two_devices_fails_over", failover).needs(&[
        "ping",
        "bird",
        "wireguard-go",
        "wg",
    ]),
    Lab::new("bgp::garbage_costs_its_own_session_only", garbage).needs(&["nc", "wireguard-go", "wg"]),
    Lab::new("bgp::sessions_come_back_after_the_daemon", restart).needs(&["ping"]),
];

/// A, B and C in a row, D with a spoke of A.
const CHAIN: &str = "\
name: chain
location: eastus
virtualNetworks:
  a:
    addressSpace: [10.1.0.0/16, 'fd00:1::/48']
    subnets:
      GatewaySubnet: {addressPrefixes: [10.1.255.0/27, 'fd00:1:0:ff::/64']}
      app: {addressPrefixes: [10.1.0.0/24, 'fd00:1::/64']}
      apart: {addressPrefix: 10.1.1.0/24, routeTable: apart}
    peerings: {spoke: {allowForwardedTraffic: true, allowGatewayTransit: true}}
  spoke:
    addressSpace: [10.11.0.0/16]
    subnets: {app: 10.11.0.0/24}
    peerings: {a: {allowForwardedTraffic: true, useRemoteGateways: true}}
  b:
    addressSpace: [10.2.0.0/16, 'fd00:2::/48']
    subnets:
      GatewaySubnet: {addressPrefixes: [10.2.255.0/27, 'fd00:2:0:ff::/64']}
      app: {addressPrefixes: [10.2.0.0/24, 'fd00:2::/64']}
  c:
    addressSpace: [10.3.0.0/16]
    subnets: {GatewaySubnet: 10.3.255.0/27, app: 10.3.0.0/24}
routeTables: {apart: {disableBgpRoutePropagation: true, routes: []}}
virtualMachines:
  at-a: {subnet: a/app}
  at-spoke: {subnet: spoke/app, privateIPAddress: 10.11.0.4}
  at-b: {subnet: b/app, privateIPAddresses: [10.2.0.4, 'fd00:2::4']}
  at-c: {subnet: c/app, privateIPAddress: 10.3.0.4}
  alone: {subnet: a/apart, privateIPAddress: 10.1.1.4}
virtualNetworkGateways:
  ga: {virtualNetwork: a, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.1], enableBgp: true, bgpSettings: {asn: 65521}}
  gb: {virtualNetwork: b, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.2], enableBgp: true, bgpSettings: {asn: 65522}}
  gc: {virtualNetwork: c, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.3], enableBgp: true, bgpSettings: {asn: 65523}}
connections:
  a-b: {connectionType: Vnet2Vnet, virtualNetworkGateway1: ga, virtualNetworkGateway2: gb, sharedKey: one, enableBgp: true}
  b-a: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gb, virtualNetworkGateway2: ga, sharedKey: one, enableBgp: true}
  b-c: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gb, virtualNetworkGateway2: gc, sharedKey: two, enableBgp: true} # b-c
  c-b: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gc, virtualNetworkGateway2: gb, sharedKey: two, enableBgp: true} # c-b
";

/// The prefixes that a gateway has learned of others, with their paths.
fn learned(lab: &RunningLab, gateway: &str) -> Result<Vec<(String, String)>> {
    let report = lab.json(&["gateway", "bgp", gateway, "--learned"])?;
    let rows = report["value"].as_array().context("no list of routes")?;
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let others = rows.iter().filter(|row| row["origin"] != "Network");
    Ok(others.map(|row| (text(row, "network"), text(row, "asPath"))).collect())
}

fn wait_learned(lab: &RunningLab, gateway: &str, wanted: &[(&str, &str)]) -> Result<()> {
    let wanted: Vec<(String, String)> =
        wanted.iter().map(|(prefix, path)| ((*prefix).to_owned(), (*path).to_owned())).collect();
    wait_until("the gateway has learned that", PATIENCE, || Ok(learned(lab, gateway)? == wanted))
        .with_context(|| {
            format!(
                "{gateway} has learned {:?}, not {wanted:?}\n{}",
                learned(lab, gateway),
                status(lab, gateway)
            )
        })
}

fn status(lab: &RunningLab, gateway: &str) -> String {
    let said = |arguments: &[&str]| lab.ctl(arguments).map(|output| output.stdout + &output.stderr);
    let peers = said(&["gateway", "bgp", gateway, "--peers"]).unwrap_or_default();
    format!("{peers}\n{}", said(&["gateway", "status"]).unwrap_or_default())
}

/// The prefixes of a target's effective routes that lead to a gateway.
fn gateway_routes(lab: &RunningLab, target: &str) -> Result<Vec<String>> {
    let report = lab.json(&["effective-routes", target])?;
    let rows = report["value"].as_array().context("no list of routes")?;
    let gateway = rows.iter().filter(|row| row["nextHopType"] == "VirtualNetworkGateway");
    Ok(gateway.filter_map(|row| row["addressPrefix"][0].as_str().map(str::to_owned)).collect())
}

fn wait_routes(lab: &RunningLab, target: &str, wanted: &[&str]) -> Result<()> {
    wait_until("the effective routes follow", PATIENCE, || Ok(gateway_routes(lab, target)? == wanted))
        .with_context(|| format!("{target} has {:?}, not {wanted:?}", gateway_routes(lab, target)))
}

fn wait_ping(lab: &RunningLab, from: &str, to: &str) -> Result<()> {
    wait_until("the ping is answered", PATIENCE, || {
        Ok(lab.exec(from, &["ping", "-n", "-c", "1", "-W", "1", to])?.success())
    })
    .with_context(|| format!("{from} to {to}"))
}

fn gateways(scene: &Scene) -> Result<()> {
    let lab = scene.up(CHAIN)?;
    wait_learned(
        &lab,
        "gb",
        &[
            ("10.1.0.0/16", "65521"),
            ("10.3.0.0/16", "65523"),
            ("10.11.0.0/16", "65521"),
            ("fd00:1::/48", "65521"),
        ],
    )?;
    let all = ["10.2.0.0/16", "10.2.255.30/32", "10.3.0.0/16", "fd00:2::/48"];
    wait_routes(&lab, "at-a", &all)?;
    wait_routes(&lab, "at-spoke", &all)?;
    wait_routes(&lab, "alone", &[])?;
    wait_ping(&lab, "at-a", "fd00:2::4")?;
    wait_ping(&lab, "at-spoke", "10.3.0.4")?;
    let peers = lab.json(&["gateway", "bgp", "ga"])?;
    let peer = &peers["value"][0];
    ensure!(peer["state"] == "Connected" && peer["asn"] == 65_522, "{peers}");
    ensure!(peer["neighbor"] == "10.2.255.30" && peer["localAddress"] == "10.1.255.30", "{peers}");
    let session = [("gateway", "ga"), ("neighbor", "10.2.255.30")];
    ensure!(lab.metric("vnet_bgp_session_up", &session)? == 1.0, "a metric says so too");
    // The sessions' own packets are packets of the lab: they pass the tunnel.
    let tunnel = [("gateway", "ga"), ("connection", "a-b"), ("direction", "outbound")];
    ensure!(lab.metric("vnet_gateway_tunnel_packets_total", &tunnel)? > 2.0, "BGP passes the tunnel");

    // What is not on this side any more is withdrawn.
    lab.apply(&edited(CHAIN, ", useRemoteGateways: true", ""))?.ok()?;
    wait_learned(
        &lab,
        "gc",
        &[
            ("10.1.0.0/16", "65522-65521"),
            ("10.2.0.0/16", "65522"),
            ("fd00:1::/48", "65522-65521"),
            ("fd00:2::/48", "65522"),
        ],
    )?;
    wait_routes(
        &lab,
        "at-c",
        &["10.1.0.0/16", "10.2.0.0/16", "10.2.255.30/32", "fd00:1::/48", "fd00:2::/48"],
    )?;
    lab.expect_no_ping("at-spoke", "10.3.0.4")?;
    let table = lab.ctl(&["gateway", "bgp", "ga", "--advertised"])?.ok()?.stdout;
    ensure!(table.starts_with("Network") && table.contains("10.1.0.0/16"), "{table}");
    ensure!(!table.contains("10.11.0.0/16"), "{table}");
    Ok(())
}

fn chain(scene: &Scene) -> Result<()> {
    let off = edited(CHAIN, ", enableBgp: true} # b-c", "}");
    let off = edited(&off, ", enableBgp: true} # c-b", "}");
    let lab = scene.up(&off)?;
    wait_learned(&lab, "ga", &[("10.2.0.0/16", "65522"), ("fd00:2::/48", "65522")])?;
    wait_routes(&lab, "at-a", &["10.2.0.0/16", "10.2.255.30/32", "fd00:2::/48"])?;
    lab.expect_no_ping("at-c", "10.1.0.4")?;
    lab.apply(CHAIN)?.ok()?;
    let paths = [("10.2.0.0/16", "65522"), ("10.3.0.0/16", "65522-65523"), ("fd00:2::/48", "65522")];
    wait_learned(&lab, "ga", &paths)?;
    wait_ping(&lab, "at-c", "10.1.0.4")?;

    // The same number at both ends: C's own is in the path of A's routes.
    lab.apply(&CHAIN.replace("asn: 65523", "asn: 65521"))?.ok()?;
    wait_learned(&lab, "gc", &[("10.2.0.0/16", "65522"), ("fd00:2::/48", "65522")])?;
    wait_routes(&lab, "at-c", &["10.2.0.0/16", "10.2.255.30/32", "fd00:2::/48"])?;
    lab.expect_no_ping("at-c", "10.1.0.4")
}

const SITE: &str = "\
name: onprem
location: eastus
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16, 'fd00:0::/48']
    subnets:
      GatewaySubnet: {addressPrefixes: [10.0.255.0/27, 'fd00:0:0:ff::/64']}
      shared: {addressPrefixes: [10.0.2.0/24, 'fd00:0:0:2::/64']}
    peerings: {spoke: {allowForwardedTraffic: true, allowGatewayTransit: true}}
  spoke:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
virtualMachines:
  dns: {subnet: hub/shared, privateIPAddresses: [10.0.2.4, 'fd00:0:0:2::4']}
  web: {subnet: spoke/app, privateIPAddress: 10.1.0.4}
virtualNetworkGateways:
  vpn: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10], enableBgp: true, bgpSettings: {asn: 65515}}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [], bgpSettings: {asn: 65010, bgpPeeringAddress: 192.168.255.1}}
  branch: {gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [], bgpSettings: {asn: 65020, bgpPeeringAddress: 192.168.255.2}}
connections:
  to-hq: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: hq, sharedKey: hq-key, enableBgp: true}
  to-branch: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: branch, sharedKey: branch-key, enableBgp: true}
onPremisesSites:
  hq:
    addressSpace: [192.168.0.0/16, 'fd00:c0::/48']
    hosts: {pc: [192.168.1.10, 'fd00:c0::10']}
    vpnDevice: {publicIPAddress: 198.51.100.200, kind: external}
  branch:
    addressSpace: [172.20.0.0/16]
    hosts: {till: 172.20.1.10}
    vpnDevice: {publicIPAddress: 198.51.100.201, kind: external}
";

const HQ: Site<'_> = Site {
    machine: "hq",
    connection: "to-hq",
    asn: 65_010,
    address: "192.168.255.1",
    address_v6: "fd00:c0:0:ff::1",
    gateway_asn: 65_515,
    gateway: "10.0.255.30",
    gateway_v6: "fd00:0:0:ff::4",
    prefixes: &["192.168.0.0/16", "fd00:c0::/48"],
};

const BRANCH: Site<'_> = Site {
    machine: "branch",
    connection: "to-branch",
    asn: 65_020,
    address: "192.168.255.2",
    address_v6: "fd00:c0:0:ff::2",
    prefixes: &["172.20.0.0/16"],
    ..HQ
};

fn bird(scene: &Scene) -> Result<()> {
    with_router(scene, Make::Bird)
}

fn frr(scene: &Scene) -> Result<()> {
    with_router(scene, Make::Frr)
}

fn gobgp(scene: &Scene) -> Result<()> {
    with_router(scene, Make::GoBgp)
}

/// Both directions and both families; what the router takes back is gone, and comes again with it.
fn with_router(scene: &Scene, make: Make) -> Result<()> {
    let lab = scene.up(SITE)?;
    let mut device = Device::start(&lab, HQ, make)?;
    let told = [("192.168.0.0/16", "65010"), ("fd00:c0::/48", "65010")];
    wait_learned(&lab, "vpn", &told).with_context(|| device.routes())?;
    for prefix in ["10.0.0.0/16", "10.1.0.0/16", "fd00::/48"] {
        wait_until("the router has learned it", PATIENCE, || device.knows(prefix))
            .with_context(|| format!("{prefix}\n{}", device.routes()))?;
    }
    wait_routes(&lab, "web", &["192.168.0.0/16", "192.168.255.1/32", "192.168.255.2/32", "fd00:c0::/48"])?;
    if make == Make::GoBgp {
        // It tells the kernel nothing.
        for route in [["10.0.0.0/16", "wg0"], ["10.1.0.0/16", "wg0"], ["fd00::/48", "wg0"]] {
            lab.exec("hq", &["ip", "route", "add", route[0], "dev", route[1]])?.ok()?;
        }
    }
    wait_ping(&lab, "pc", "10.0.2.4")?;
    wait_ping(&lab, "web", "192.168.1.10")?;
    wait_ping(&lab, "dns", "fd00:c0::10")?;

    device.stop_router()?;
    wait_learned(&lab, "vpn", &[])?;
    wait_routes(&lab, "web", &["192.168.255.1/32", "192.168.255.2/32"])?;
    lab.expect_no_ping("web", "192.168.1.10")?;
    device.start_router()?;
    wait_learned(&lab, "vpn", &told).with_context(|| device.routes())?;
    wait_ping(&lab, "web", "192.168.1.10")
}

/// Two devices tell of the same prefix: flows are spread over them, and one carries all when the other is gone.
fn failover(scene: &Scene) -> Result<()> {
    let lab = scene.up(SITE)?;
    let shared = ["172.20.0.0/16", "192.168.0.0/16"];
    let mut hq = Device::start(&lab, Site { prefixes: &shared[1..], ..HQ }, Make::Bird)?;
    let branch = Device::start(&lab, BRANCH, Make::Bird)?;
    wait_until("the branch has learned of headquarters", PATIENCE, || branch.knows("192.168.0.0/16"))
        .with_context(|| branch.routes())?;
    wait_until("and these of it", PATIENCE, || hq.knows("172.20.0.0/16")).with_context(|| hq.routes())?;
    // The gateway is the way between the sites, too.
    wait_ping(&lab, "till", "192.168.1.10")?;
    hq.tell(&shared)?;
    let both = [("172.20.0.0/16", "65010"), ("172.20.0.0/16", "65020"), ("192.168.0.0/16", "65010")];
    wait_learned(&lab, "vpn", &both)?;
    hq.stop_router()?;
    wait_learned(&lab, "vpn", &[("172.20.0.0/16", "65020")])?;
    wait_until("every flow takes the way that is left", PATIENCE, || {
        for _ in 0..8 {
            if !lab.exec("web", &["ping", "-n", "-c", "1", "-W", "1", "172.20.1.10"])?.success() {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// One device speaks nonsense; the session with the other stands all the while.
fn garbage(scene: &Scene) -> Result<()> {
    let lab = scene.up(&CHAIN_WITH_DEVICE.replace("CHAIN", CHAIN.trim_end()))?;
    wait_until("the chain has learned", PATIENCE, || Ok(learned(&lab, "gc")?.len() == 5))?;
    let site = Site { gateway: "10.1.255.30", gateway_v6: "fd00:1:0:ff::4", ..HQ };
    let _tunnel = vnet_integration::bgp::tunnel(&lab, &site)?;
    let noise = "while :; do head -c 20000 /dev/urandom | nc -l -w 2 192.168.255.1 179; done";
    let _noise = lab.spawn("hq", &["sh", "-c", noise])?;
    wait_until("the gateway has met the garbage", PATIENCE, || {
        let peers = lab.json(&["gateway", "bgp", "ga"])?;
        let peers = peers["value"].as_array().context("no list of peers")?.clone();
        let noisy = peers.iter().find(|peer| peer["neighbor"] == "192.168.255.1").context("no such peer")?;
        Ok(noisy["lastError"].as_str().is_some_and(|why| why.contains("not synchronized")))
    })
    .with_context(|| status(&lab, "ga"))?;
    let peers = lab.json(&["gateway", "bgp", "ga"])?;
    let of = |neighbor: &str| {
        let peers = peers["value"].as_array().into_iter().flatten();
        peers.into_iter().find(|peer| peer["neighbor"] == neighbor).map(|peer| peer["state"].clone())
    };
    ensure!(of("10.2.255.30").is_some_and(|state| state == "Connected"), "{peers}");
    let gateway = [("gateway", "ga"), ("neighbor", "10.2.255.30")];
    ensure!(lab.metric("vnet_bgp_session_up", &gateway)? == 1.0, "{peers}");
    ensure!(of("192.168.255.1").is_some_and(|state| state != "Connected"), "{peers}");
    Ok(())
}

/// The chain, and a device at A.
const CHAIN_WITH_DEVICE: &str = "\
CHAIN
  to-hq: {connectionType: IPsec, virtualNetworkGateway1: ga, localNetworkGateway2: hq, sharedKey: hq-key, enableBgp: true}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [], bgpSettings: {asn: 65010, bgpPeeringAddress: 192.168.255.1}}
onPremisesSites:
  hq:
    addressSpace: [192.168.0.0/16]
    vpnDevice: {publicIPAddress: 198.51.100.200, kind: external}
";

fn restart(scene: &Scene) -> Result<()> {
    let lab = scene.up(CHAIN)?;
    let paths = [("10.2.0.0/16", "65522"), ("10.3.0.0/16", "65522-65523"), ("fd00:2::/48", "65522")];
    wait_learned(&lab, "ga", &paths)?;
    lab.daemon().kill();
    lab.daemon().run()?;
    wait_learned(&lab, "ga", &paths)?;
    wait_ping(&lab, "at-spoke", "10.3.0.4")
}
