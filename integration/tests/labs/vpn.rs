//! Gateways, their tunnels, and what transit over them means.

use anyhow::{Context, Result, ensure};
use vnet_integration::lab::edited;
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

use crate::timing;

pub(crate) const LABS: &[Lab] = &[
    Lab::new("vpn::transit_needs_both_flags", transit_needs_both_flags).needs(&["ping"]),
    Lab::new("vpn::networks_reach_each_other_by_their_gateways", networks_reach_each_other).needs(&["ping"]),
    Lab::new("vpn::nothing_in_clear_on_the_internet", nothing_in_clear).needs(&["ping", "tcpdump", "nc"]),
    Lab::new("vpn::keys_that_differ_never_connect", keys_that_differ).needs(&["ping"]),
    Lab::new("vpn::packets_fit_the_tunnel", packets_fit_the_tunnel).needs(&["ping", "tcpdump", "nc"]),
    Lab::new("vpn::carries_both_families", carries_both_families).needs(&["ping", "nc"]),
    Lab::new("vpn::shapes_to_its_rate", shapes_to_its_rate).alone(),
];

/// A hub with a spoke, a site, and a network in another region; every sharedKey stands apart.
pub(crate) const TOPOLOGY: &str = "\
name: vpn
location: eastus
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {GatewaySubnet: 10.0.255.0/27, shared: 10.0.2.0/24}
    peerings: {spoke1: {allowForwardedTraffic: true, allowGatewayTransit: true}}
  spoke1:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
  west:
    location: westus2
    addressSpace: [10.50.0.0/16]
    subnets: {GatewaySubnet: 10.50.255.0/27, app: 10.50.0.0/24}
virtualMachines:
  dns: {subnet: hub/shared, privateIPAddress: 10.0.2.4}
  web: {subnet: spoke1/app, privateIPAddress: 10.1.0.4}
  replica: {subnet: west/app, privateIPAddress: 10.50.0.4}
virtualNetworkGateways:
  hub-vpn: {virtualNetwork: hub, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.10]}
  west-vpn: {virtualNetwork: west, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.20]}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}
connections:
  hub-to-hq: {connectionType: IPsec, virtualNetworkGateway1: hub-vpn, localNetworkGateway2: hq, sharedKey: site-key}
  hub-to-west: {connectionType: Vnet2Vnet, virtualNetworkGateway1: hub-vpn, virtualNetworkGateway2: west-vpn, sharedKey: east-west-key-1}
  west-to-hub: {connectionType: Vnet2Vnet, virtualNetworkGateway1: west-vpn, virtualNetworkGateway2: hub-vpn, sharedKey: east-west-key-1} # west's
onPremisesSites:
  hq:
    addressSpace: [192.168.0.0/16]
    hosts: {pc: 192.168.1.10}
    vpnDevice: {publicIPAddress: 198.51.100.200, kind: builtin}
";

fn transit_needs_both_flags(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    lab.wait_tunnels()?;
    lab.expect_ping("pc", "10.1.0.4")?;
    lab.expect_ping("web", "192.168.1.10")?;

    // Azure refuses this, so the lab goes on as it was.
    let refused = edited(TOPOLOGY, ", allowGatewayTransit: true", "");
    let output = lab.apply(&refused)?.code(1)?;
    ensure!(
        output.stderr.contains("useRemoteGateways"),
        "the message names the other side: {}",
        output.stderr
    );
    lab.expect_ping("pc", "10.1.0.4")?;

    let unused = edited(TOPOLOGY, ", useRemoteGateways: true", "");
    lab.apply(&unused)?.ok()?;
    lab.expect_no_ping("pc", "10.1.0.4")?;
    lab.expect_no_ping("web", "192.168.1.10")?;
    lab.expect_ping("pc", "10.0.2.4")?;

    lab.apply(TOPOLOGY)?.ok()?;
    lab.expect_ping("pc", "10.1.0.4")?;
    let neither = edited(&unused, ", allowGatewayTransit: true", "");
    lab.apply(&neither)?.ok()?;
    lab.expect_no_ping("pc", "10.1.0.4")?;
    lab.expect_ping("pc", "10.0.2.4")
}

fn networks_reach_each_other(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    lab.wait_tunnels()?;
    lab.expect_ping("dns", "10.50.0.4")?;
    lab.expect_ping("replica", "10.0.2.4")?;
    // Without BGP west learns the hub's own ranges only: it has no way back to the spoke.
    lab.expect_no_ping("web", "10.50.0.4")?;
    lab.expect_no_ping("replica", "10.1.0.4")?;
    let labels = [("gateway", "hub-vpn"), ("connection", "hub-to-west"), ("direction", "outbound")];
    ensure!(lab.metric("vnet_gateway_tunnel_packets_total", &labels)? > 0.0, "the tunnel counts");
    ensure!(lab.metric("vnet_gateway_tunnel_up", &labels[..2])? == 1.0, "and is up");
    Ok(())
}

const MARKER: &str = "seen-in-clear";

fn nothing_in_clear(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let capture = lab.capture("internet", "any", "")?;
    lab.wait_tunnels()?;
    let pattern: String = MARKER.bytes().map(|byte| format!("{byte:02x}")).collect();
    for (from, to) in [("dns", "10.50.0.4"), ("pc", "10.1.0.4")] {
        lab.exec(from, &["ping", "-n", "-c", "5", "-i", "0.1", "-W", "2", "-s", "200", "-p", &pattern, to])?
            .ok()?;
    }
    let mut server = lab.serve("replica", 7000, &["nc", "-l", "7000"])?;
    let mut client = lab.spawn("dns", &["nc", "10.50.0.4", "7000"])?;
    client.write(&format!("{MARKER}\n"))?;
    server.wait_for(MARKER, PATIENCE)?;
    drop((client, server));

    let captured = capture.stop()?;
    ensure!(captured.count("udp")? >= 20, "the capture saw the tunnels' datagrams");
    ensure!(
        captured.count("ip and not udp")? == 0,
        "nothing but UDP: {:?}",
        captured.packets("ip and not udp")?
    );
    // The first byte of a WireGuard message is its type, 1 to 4; the next three are zero.
    let other =
        "udp and not (udp[8:4] >= 0x01000000 and udp[8:4] <= 0x04000000 and udp[9:2] = 0 and udp[11] = 0)";
    ensure!(captured.count(other)? == 0, "nothing but WireGuard: {:?}", captured.packets(other)?);
    ensure!(!captured.contains(MARKER.as_bytes())?, "a payload is seen in clear");
    Ok(())
}

fn keys_that_differ(scene: &Scene) -> Result<()> {
    let lab = scene.up(&edited(
        TOPOLOGY,
        "sharedKey: east-west-key-1} # west's",
        "sharedKey: another-key} # west's",
    ))?;
    wait_until("the status says why", PATIENCE, || {
        let report = lab.json(&["gateway", "status"])?;
        let tunnels = report["value"].as_array().context("no list of tunnels")?.clone();
        let of = |connection: &str| {
            tunnels.iter().find(|tunnel| tunnel["connection"] == connection).cloned().unwrap_or_default()
        };
        Ok(of("hub-to-hq")["state"] == "Connected"
            && ["hub-to-west", "west-to-hub"].iter().any(|name| {
                of(name)["why"]
                    .as_str()
                    .is_some_and(|why| why.contains("sharedKey") || why.contains("shared key"))
            }))
    })
    .with_context(|| lab.ctl(&["gateway", "status"]).map(|output| output.stdout).unwrap_or_default())?;
    lab.expect_no_ping("dns", "10.50.0.4")?;
    let report = lab.json(&["gateway", "status"])?;
    for tunnel in report["value"].as_array().context("no list of tunnels")? {
        let is_site = tunnel["connection"] == "hub-to-hq";
        ensure!((tunnel["state"] == "Connected") == is_site, "{tunnel}");
    }
    // The same key on both sides mends it, in the running lab.
    lab.apply(TOPOLOGY)?.ok()?;
    lab.wait_tunnels()?;
    lab.expect_ping("dns", "10.50.0.4")
}

fn packets_fit_the_tunnel(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    lab.wait_tunnels()?;
    lab.expect_ping("dns", "10.50.0.4")?;
    let ping = |flag: &str, size: &str| {
        lab.exec("dns", &["ping", "-n", "-c", "1", "-W", "2", "-M", flag, "-s", size, "10.50.0.4"])
    };
    ping("do", "1372")?.ok()?;
    // One byte more than the tunnel's MTU: refused with the size that fits, then known to the sender's kernel.
    let refused = ping("do", "1373")?.code(1)?;
    let text = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(text.contains("1400"), "too-big names the MTU: {text}");
    let cached = lab.exec("dns", &["ip", "route", "get", "10.50.0.4"])?.ok()?;
    ensure!(cached.stdout.contains("mtu 1400"), "path MTU discovery works: {}", cached.stdout);
    // Without DF it is fragmented before sealing.
    lab.exec("dns", &["ip", "route", "flush", "cache"])?.ok()?;
    ping("dont", "3000")?.ok()?;

    let capture = lab.capture("replica", "eth0", "tcp[tcpflags] & tcp-syn != 0")?;
    let _server = lab.serve("replica", 7000, &["nc", "-lk", "7000"])?;
    ensure!(lab.connects("dns", "10.50.0.4", 7000)?, "TCP passes the tunnel");
    let lines = capture.stop()?.text("tcp")?;
    ensure!(lines.contains("mss 1360"), "the SYN's MSS is clamped: {lines}");
    Ok(())
}

fn carries_both_families(scene: &Scene) -> Result<()> {
    let topology = TOPOLOGY
        .replace("[10.0.0.0/16]", "[10.0.0.0/16, 'fd00:0::/48']")
        .replace(
            "GatewaySubnet: 10.0.255.0/27",
            "GatewaySubnet: {addressPrefixes: [10.0.255.0/27, 'fd00:0:0:ff::/64']}",
        )
        .replace(
            "GatewaySubnet: 10.50.255.0/27",
            "GatewaySubnet: {addressPrefixes: [10.50.255.0/27, 'fd00:50:0:ff::/64']}",
        )
        .replace("shared: 10.0.2.0/24", "shared: {addressPrefixes: [10.0.2.0/24, 'fd00:0:0:2::/64']}")
        .replace("[10.50.0.0/16]", "[10.50.0.0/16, 'fd00:50::/48']")
        .replace("app: 10.50.0.0/24", "app: {addressPrefixes: [10.50.0.0/24, 'fd00:50::/64']}")
        .replace("privateIPAddress: 10.0.2.4", "privateIPAddresses: [10.0.2.4, 'fd00:0:0:2::4']")
        .replace("privateIPAddress: 10.50.0.4", "privateIPAddresses: [10.50.0.4, 'fd00:50::4']")
        .replace("[192.168.0.0/16]", "[192.168.0.0/16, 'fd00:c0::/48']")
        .replace("pc: 192.168.1.10", "pc: [192.168.1.10, 'fd00:c0::10']");
    let lab = scene.up(&topology)?;
    lab.wait_tunnels()?;
    lab.expect_ping("dns", "fd00:50::4")?;
    lab.expect_ping("pc", "fd00:0:0:2::4")?;
    let _server = lab.serve("replica", 7000, &["nc", "-6", "-lk", "7000"])?;
    let capture = lab.capture("replica", "eth0", "ip6 and tcp")?;
    ensure!(lab.connects("dns", "fd00:50::4", 7000)?, "TCP over IPv6 passes the tunnel");
    let lines = capture.stop()?.text("ip6")?;
    ensure!(lines.contains("mss 1340"), "the SYN's MSS is clamped: {lines}");
    let ping = |flag: &str, size: &str| {
        lab.exec("dns", &["ping", "-n", "-c", "1", "-W", "2", "-M", flag, "-s", size, "fd00:50::4"])
    };
    ping("do", "1352")?.ok()?;
    let refused = ping("do", "1353")?.code(1)?;
    let text = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(text.contains("1400"), "too-big names the MTU: {text}");
    Ok(())
}

fn shapes_to_its_rate(scene: &Scene) -> Result<()> {
    let topology = TOPOLOGY.replace(
        "vpnGatewayGeneration: Generation1,",
        "vpnGatewayGeneration: Generation1, throughputMbps: 100,",
    );
    let lab = scene.up(&topology)?;
    lab.wait_tunnels()?;
    // The other gateway has the same rate: what comes late to it and after that too soon waits there again.
    let ends = ("dns", "replica", "10.50.0.4");
    timing::keeps_its_rate(&lab, ends, 100_000_000, 1, timing::QUEUE / 2)?;
    ensure!(lab.drops("ShaperQueueFull")? > 0.0, "what does not fit is dropped and counted");
    Ok(())
}
