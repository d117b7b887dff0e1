//! Point-to-site VPN: clients that the daemon plays, and clients that other implementations of WireGuard run.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use vnet_integration::lab::{COMMAND_LIMIT, edited};
use vnet_integration::suite::Lab;
use vnet_integration::wireguard::{BORINGTUN, Device, GOTATUN, Implementation, WIREGUARD_GO, tunnel};
use vnet_integration::{Lab as RunningLab, PATIENCE, Scene, process, wait_until};

const PROGRAMS: [&str; 4] = ["wg", "wg-quick", "ping", "nft"];

pub(crate) const LABS: &[Lab] =
    &[
        Lab::new("clients::reach_networks_until_they_are_revoked", until_revoked).needs(&["ping"]),
        Lab::new("clients::wireguard_go_is_a_client_that_roams", |scene| roams(scene, WIREGUARD_GO))
            .needs(&["wireguard-go", PROGRAMS[0], PROGRAMS[1], PROGRAMS[2], PROGRAMS[3]]),
        Lab::new("clients::boringtun_is_a_client_that_roams", |scene| roams(scene, BORINGTUN)).needs(&[
            "boringtun-cli",
            PROGRAMS[0],
            PROGRAMS[1],
            PROGRAMS[2],
            PROGRAMS[3],
        ]),
        Lab::new("clients::gotatun_is_a_client_that_roams", |scene| roams(scene, GOTATUN)).needs(&[
            "gotatun",
            PROGRAMS[0],
            PROGRAMS[1],
            PROGRAMS[2],
            PROGRAMS[3],
        ]),
    ];

const TOPOLOGY: &str = "\
name: clients
location: eastus
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {GatewaySubnet: 10.0.255.0/27, shared: 10.0.2.0/24}
    peerings: {near: {allowForwardedTraffic: true, allowGatewayTransit: true}, far: {}}
  near:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
  far:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  dns: {subnet: hub/shared, privateIPAddress: 10.0.2.4}
  web: {subnet: near/app, privateIPAddress: 10.1.0.4}
  db: {subnet: far/app, privateIPAddress: 10.2.0.4}
virtualNetworkGateways:
  vpn: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10], vpnClientConfiguration: {vpnClientAddressPool: [172.16.201.0/24]}}
vpnClients:
";

fn until_revoked(scene: &Scene) -> Result<()> {
    let topology = format!(
        "{TOPOLOGY}  laptop: {{gateway: vpn}}\n  tablet: {{gateway: vpn, publicIPAddress: 203.0.113.51}}\n"
    );
    let lab = scene.up(&topology)?;
    lab.wait_tunnels()?;
    for machine in ["10.0.2.4", "10.1.0.4"] {
        lab.expect_ping("laptop", machine)?;
    }
    lab.expect_ping("web", "172.16.201.2")?;
    // The far network does not use the gateway.
    lab.expect_no_ping("tablet", "10.2.0.4")?;
    let routes = lab.ctl(&["effective-routes", "web"])?.ok()?.stdout;
    ensure!(routes.contains("172.16.201.0/24"), "the pool is a route of the gateway's: {routes}");

    let revoked = edited(&topology, "laptop: {gateway: vpn}", "laptop: {gateway: vpn, revoked: true}");
    lab.apply(&revoked)?.ok()?;
    lab.expect_drop("TunnelDown", || lab.expect_no_ping("laptop", "10.0.2.4"))?;
    lab.expect_ping("tablet", "10.0.2.4")?;
    let why = tunnel(&lab, "laptop")?;
    ensure!(why["why"].as_str().is_some_and(|why| why.contains("revoked")), "{why}");
    let shown = lab.json(&["show", "vpnClients", "laptop"])?;
    ensure!(shown.to_string().contains("Revoked"), "{shown}");
    lab.apply(&topology)?.ok()?;
    lab.expect_ping("laptop", "10.0.2.4")
}

const HOME: &str = "203.0.113.50";
const ELSEWHERE: &str = "203.0.113.99";

/// From now on the client's datagrams come from another address, and those for that address reach it.
fn move_away(lab: &RunningLab, device: &Device<'_>) -> Result<()> {
    let mut route = Command::new("ip");
    route.args(["netns", "exec", &lab.namespace("internet"), "ip", "route", "add", ELSEWHERE, "via", HOME]);
    process::output(&mut route, COMMAND_LIMIT)?.ok()?;
    let rules = format!(
        "table ip roam {{
  chain out {{ type filter hook postrouting priority 300; udp dport 51820 ip saddr set {ELSEWHERE}; }}
  chain in {{ type filter hook prerouting priority -300; ip daddr {ELSEWHERE} ip daddr set {HOME}; }}
}}
"
    );
    device.feed(&["nft", "-f", "-"], &rules)?.ok()?;
    Ok(())
}

fn roams(scene: &Scene, implementation: Implementation) -> Result<()> {
    let topology = format!("{TOPOLOGY}  phone: {{gateway: vpn, kind: external, publicIPAddress: {HOME}}}\n");
    let lab = scene.up(&topology)?;
    let device = Device::start_quick(&lab, "phone", "phone", implementation)?;
    let reaches = || {
        lab.expect_ping("phone", "10.1.0.4")?;
        lab.expect_ping("web", "172.16.201.1")
    };
    reaches()?;
    let remote = || -> Result<String> {
        let tunnel = tunnel(&lab, "phone")?;
        Ok(tunnel["remote"].as_str().context("no remote")?.to_owned())
    };
    ensure!(remote()?.starts_with(HOME), "{}", remote()?);
    let handshakes = || lab.metric("vnet_gateway_tunnel_handshakes_total", &[("gateway", "vpn")]);
    let before = handshakes()?;
    move_away(&lab, &device)?;
    reaches()?;
    ensure!(remote()?.starts_with(ELSEWHERE), "the gateway follows: {}", remote()?);
    ensure!(handshakes()? == before, "with the session that it has");

    let revoked = edited(&topology, "kind: external", "kind: external, revoked: true");
    lab.apply(&revoked)?.ok()?;
    wait_until("the client is cut off", PATIENCE, || {
        let ping = lab.exec("phone", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.4"])?;
        Ok(!ping.success())
    })?;
    lab.expect_no_ping("phone", "10.0.2.4")
}
