//! Gateways by Azure's rules: what two sides agree on, instances that fail, NAT rules, forced tunnelling.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnet_integration::lab::{Lab as Running, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("gateways::policies_that_differ_stay_apart", policies_that_differ).needs(&["ping"]),
    Lab::new("gateways::a_gateway_takes_its_time", a_gateway_takes_its_time).needs(&["ping"]),
    Lab::new("gateways::a_standby_takes_over", a_standby_takes_over).needs(&["ping"]),
    Lab::new("gateways::active_active_survives_an_instance", active_active_survives).needs(&["ping"]),
    Lab::new("gateways::nat_rules_join_overlapping_sites", nat_rules_join).needs(&["ping", "nc", "tcpdump"]),
    Lab::new("gateways::a_default_site_takes_the_rest", a_default_site).needs(&["ping"]),
];

/// Two networks with a gateway each, whose public addresses and connections the arguments complete.
fn pair(gateways: (&str, &str), connections: (&str, &str)) -> String {
    format!(
        "\
name: pair
virtualNetworks:
  east: {{addressSpace: [10.1.0.0/16], subnets: {{GatewaySubnet: 10.1.255.0/27, s: 10.1.0.0/24}}}}
  west: {{addressSpace: [10.2.0.0/16], subnets: {{GatewaySubnet: 10.2.255.0/27, s: 10.2.0.0/24}}}}
virtualMachines: {{e: {{subnet: east/s, privateIPAddress: 10.1.0.4}}, w: {{subnet: west/s, privateIPAddress: 10.2.0.4}}}}
virtualNetworkGateways:
  ge: {{virtualNetwork: east, sku: VpnGw2AZ, {}}}
  gw: {{virtualNetwork: west, sku: VpnGw2AZ, {}}}
connections:
  e2w: {{connectionType: Vnet2Vnet, virtualNetworkGateway1: ge, virtualNetworkGateway2: gw, sharedKey: k{}}} # east
  w2e: {{connectionType: Vnet2Vnet, virtualNetworkGateway1: gw, virtualNetworkGateway2: ge, sharedKey: k{}}} # west
provisioning: {{timeScale: 0}}
",
        gateways.0, gateways.1, connections.0, connections.1
    )
}

const STANDBY: (&str, &str) = ("publicIPAddresses: [198.51.100.10]", "publicIPAddresses: [198.51.100.20]");
const ACTIVE: (&str, &str) = (
    "activeActive: true, publicIPAddresses: [198.51.100.10, 198.51.100.11]",
    "activeActive: true, publicIPAddresses: [198.51.100.20, 198.51.100.21]",
);
const GCM128: &str = ", ipsecPolicies: [{ikeEncryption: AES256, ikeIntegrity: SHA256, dhGroup: DHGroup14, ipsecEncryption: GCMAES128, ipsecIntegrity: GCMAES128, pfsGroup: PFS14}]";

fn tunnels(lab: &Running) -> Result<Vec<Value>> {
    let report = lab.json(&["gateway", "status"])?;
    Ok(report["value"].as_array().context("no list of tunnels")?.clone())
}

fn policies_that_differ(scene: &Scene) -> Result<()> {
    let lab = scene.up(&pair(STANDBY, (GCM128, "")))?;
    for tunnel in tunnels(&lab)? {
        let why = tunnel["why"].as_str().unwrap_or_default();
        ensure!(tunnel["state"] == "NotConnected" && why.contains("dhGroup"), "{tunnel}");
    }
    lab.expect_drop("TunnelDown", || lab.expect_no_ping("e", "10.2.0.4"))?;
    let path = lab.path("e", "w", "icmp")?.to_string();
    ensure!(path.contains("dhGroup does not match"), "the explanation names the parameter: {path}");

    // The same policy on both sides mends it, in the running lab; and a change to one of them ends the session.
    lab.apply(&pair(STANDBY, (GCM128, GCM128)))?.ok()?;
    lab.wait_tunnels()?;
    lab.expect_ping("e", "10.2.0.4")?;
    lab.apply(&pair(STANDBY, (GCM128, "")))?.ok()?;
    lab.expect_drop("TunnelDown", || lab.expect_no_ping("w", "10.1.0.4"))
}

/// With so much of the time that Azure takes. Gateways that are there already take none to be made.
fn scaled(topology: &str, scale: &str) -> String {
    edited(topology, "timeScale: 0", &format!("timeScale: {scale}"))
}

fn a_gateway_takes_its_time(scene: &Scene) -> Result<()> {
    // Half an hour, two thousand times as fast.
    let lab = scene.up(&scaled(&pair(STANDBY, ("", "")), "0.0005"))?;
    let shown = |kind: &str| -> Result<Vec<String>> {
        let all = lab.json(&["show", kind])?;
        let all = all["value"].as_array().context("no list of resources")?;
        Ok(all.iter().filter_map(|one| Some(one["state"].as_str()?.to_owned())).collect())
    };
    let seen = [shown("virtualNetworkGateways")?, shown("connections")?];
    // A machine that is busy may have taken longer to come up than the gateways did.
    let is_early = seen == [["Updating"; 2], ["Unknown"; 2]];
    ensure!(is_early || seen[0] == ["Succeeded"; 2], "{seen:?}");
    lab.wait_tunnels()?;
    lab.expect_ping("e", "10.2.0.4")?;
    wait_until("the connections are Connected", PATIENCE, || Ok(shown("connections")? == ["Connected"; 2]))?;
    ensure!(shown("virtualNetworkGateways")? == ["Succeeded"; 2], "the gateways are made");
    let status = tunnels(&lab)?;
    ensure!(status.iter().all(|tunnel| tunnel["packetsPerSecond"] == 110_000), "{status:?}");
    Ok(())
}

fn a_standby_takes_over(scene: &Scene) -> Result<()> {
    let topology = pair(STANDBY, ("", ""));
    let lab = scene.up(&topology)?;
    lab.wait_tunnels()?;
    lab.expect_ping("e", "10.2.0.4")?;
    lab.apply(&scaled(&topology, "0.6"))?.ok()?;
    let began = Instant::now();
    let failover = lab.json(&["gateway", "fail", "ge", "--planned"])?;
    ensure!(
        failover["interruptionMs"].as_u64().is_some_and(|ms| (7_400..=7_500).contains(&ms)),
        "{failover}"
    );
    let own = tunnels(&lab)?;
    let own = own.iter().find(|tunnel| tunnel["gateway"] == "ge").context("no tunnel of ge")?;
    let why = own["why"].as_str().unwrap_or_default();
    ensure!(own["state"] == "NotConnected" && why.contains("planned maintenance"), "{own}");
    lab.expect_drop("TunnelDown", || lab.expect_no_ping("e", "10.2.0.4"))?;
    lab.wait_tunnels()?;
    ensure!(
        began.elapsed() >= Duration::from_millis(7_400),
        "it was down for its time: {:?}",
        began.elapsed()
    );
    lab.expect_ping("e", "10.2.0.4")?;

    // An outage goes on over a restart of the daemon, and ends when its time has come.
    lab.json(&["gateway", "fail", "ge", "--planned"])?;
    lab.daemon().kill();
    lab.daemon().run()?;
    lab.wait_tunnels()?;
    lab.expect_ping("w", "10.1.0.4")?;

    let unknown = lab.ctl(&["gateway", "fail", "gx"])?.code(1)?;
    ensure!(unknown.stderr.contains("gx"), "{}", unknown.stderr);
    let second = lab.ctl(&["gateway", "fail", "ge", "--instance", "1"])?.code(1)?;
    ensure!(second.stderr.contains("active-standby"), "{}", second.stderr);
    Ok(())
}

/// What each tunnel of a connection has sealed so far, by its number.
fn sealed(lab: &Running, connection: &str) -> Result<Vec<u64>> {
    let own = tunnels(lab)?.into_iter().filter(|tunnel| tunnel["connection"] == connection);
    Ok(own.map(|tunnel| tunnel["egressBytes"].as_u64().unwrap_or(0)).collect())
}

fn active_active_survives(scene: &Scene) -> Result<()> {
    let dpd = ", dpdTimeoutSeconds: 9";
    let topology = pair(ACTIVE, (dpd, dpd));
    let lab = scene.up(&topology)?;
    lab.wait_tunnels()?;
    ensure!(tunnels(&lab)?.len() == 8, "four tunnels, seen from both sides");
    // Each run of ping is another flow.
    wait_until("flows are spread over all four tunnels", PATIENCE, || {
        lab.exec("e", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.4"])?.ok()?;
        let of = sealed(&lab, "e2w")?;
        Ok(of.len() == 4 && of.iter().all(|bytes| *bytes > 0))
    })?;

    lab.apply(&scaled(&topology, "1"))?.ok()?;
    lab.json(&["gateway", "fail", "ge", "--instance", "1"])?;
    let before = sealed(&lab, "e2w")?;
    for tunnel in tunnels(&lab)?.iter().filter(|tunnel| tunnel["connection"] == "e2w") {
        let down = ["2", "3"].iter().any(|number| tunnel["tunnel"] == *number);
        let why = tunnel["why"].as_str().unwrap_or_default();
        ensure!(tunnel["state"] == if down { "NotConnected" } else { "Connected" }, "{tunnel}");
        ensure!(!down || why.contains("instance 1 of ge has failed"), "{tunnel}");
    }
    // The other side finds out, and then every answer comes back, by what is left.
    wait_until("ten pings in a row are answered", PATIENCE, || {
        for _ in 0..10 {
            if !lab.exec("e", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.4"])?.success() {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let after = sealed(&lab, "e2w")?;
    let still_down = tunnels(&lab)?.iter().any(|tunnel| tunnel["why"] == "instance 1 of ge has failed");
    ensure!(still_down, "the other instance has carried them");
    ensure!(after[0] + after[1] > before[0] + before[1], "{before:?} {after:?}");
    lab.expect_ping("w", "10.1.0.4")
}

/// A network and two sites that all use 10.0.1.0/24.
const OVERLAP: &str = "\
name: overlap
virtualNetworks: {v: {addressSpace: [10.0.1.0/24], subnets: {GatewaySubnet: 10.0.1.224/27, s: 10.0.1.0/25}}}
virtualMachines: {vm: {subnet: v/s, privateIPAddress: 10.0.1.4}}
virtualNetworkGateways:
  gw:
    virtualNetwork: v
    sku: VpnGw2AZ
    publicIPAddresses: [198.51.100.10]
    natRules:
      - {name: out, mode: EgressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.1.0/24]}
      - {name: one, mode: IngressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.2.0/24]}
      - {name: few, mode: IngressSnat, type: Dynamic, internalMappings: [10.0.1.0/24], externalMappings: [192.168.4.1/32]}
localNetworkGateways:
  l1: {gatewayIpAddress: 198.51.100.101, localNetworkAddressSpace: [10.0.1.0/24]}
  l2: {gatewayIpAddress: 198.51.100.102, localNetworkAddressSpace: [10.0.1.0/24]}
connections:
  c1: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: l1, sharedKey: k, egressNatRules: [out], ingressNatRules: [one]}
  c2: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: l2, sharedKey: k, egressNatRules: [out], ingressNatRules: [few]}
onPremisesSites:
  b1: {addressSpace: [10.0.1.0/24], hosts: {h1: 10.0.1.21}, vpnDevice: {publicIPAddress: 198.51.100.101}}
  b2: {addressSpace: [10.0.1.0/24], hosts: {h2: 10.0.1.21, h3: 10.0.1.22}, vpnDevice: {publicIPAddress: 198.51.100.102}}
";

fn nat_rules_join(scene: &Scene) -> Result<()> {
    let lab = scene.up(OVERLAP)?;
    lab.wait_tunnels()?;
    let capture = lab.capture("vm", "eth0", "icmp[0] == 8")?;
    for host in ["h1", "h2", "h3"] {
        lab.expect_ping(host, "192.168.1.4")?;
    }
    let seen = capture.stop()?;
    for source in ["192.168.2.21", "192.168.4.1"] {
        ensure!(seen.count(&format!("src host {source}"))? > 0, "the machine sees {source}");
    }
    ensure!(seen.count("src net 10.0.1.0/24")? == 0, "no site's own address is seen in the network");
    // Static rules let the network begin, dynamic ones do not.
    lab.expect_ping("vm", "192.168.2.21")?;
    lab.expect_drop("AsymmetricReturn", || lab.expect_no_ping("vm", "192.168.4.1"))?;

    // Two hosts behind one address talk at once, over TCP.
    let mut server = lab.serve("vm", 7000, &["nc", "-lk", "7000"])?;
    for host in ["h2", "h3"] {
        let mut client = lab.spawn(host, &["nc", "-n", "192.168.1.4", "7000"])?;
        client.write(&format!("from {host}\n"))?;
        server.wait_for(&format!("from {host}"), PATIENCE)?;
    }
    let path = lab.path("h1", "192.168.1.4", "icmp")?.to_string();
    for rule in ["NAT rule gw/out", "NAT rule gw/one"] {
        ensure!(path.contains(rule), "the explanation names {rule}: {path}");
    }
    // A datagram to a port where nobody listens: the error quotes what the host has sent, 10.0.1.21 to 192.168.1.4.
    let quotes =
        "icmp[0] == 3 and src host 192.168.1.4 and icmp[20:4] == 0x0a000115 and icmp[24:4] == 0xc0a80104";
    let errors = lab.capture("h1", "eth0", quotes)?;
    lab.exec("h1", &["sh", "-c", "echo x | nc -n -u -w 1 192.168.1.4 9"])?;
    ensure!(errors.stop()?.count(quotes)? > 0, "no error has come back as the host expects it");
    Ok(())
}

fn a_default_site(scene: &Scene) -> Result<()> {
    let topology = "\
name: forced
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.255.0/27, s: 10.0.1.0/24}, peerings: {p: {allowGatewayTransit: true}}}
  p: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {h: {useRemoteGateways: true}}}
virtualMachines: {m: {subnet: p/s, privateIPAddress: 10.1.0.4}}
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}} # gateway
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16, 203.0.113.0/24], hosts: {web: 203.0.113.80}, vpnDevice: {publicIPAddress: 198.51.100.200}}}
";
    let lab = scene.up(topology)?;
    lab.wait_tunnels()?;
    lab.expect_no_ping("m", "203.0.113.80")?;
    lab.apply(&edited(topology, "}} # gateway", ", gatewayDefaultSite: hq}}"))?.ok()?;
    lab.wait_tunnels()?;
    lab.expect_ping("m", "203.0.113.80")?;
    let routes = lab.ctl(&["effective-routes", "m"])?.ok()?.stdout;
    let default = routes.lines().find(|line| line.contains("0.0.0.0/0") && line.contains("Active"));
    ensure!(default.is_some_and(|line| line.contains("VirtualNetworkGateway")), "{routes}");
    // What the device sends elsewhere is no host of the site.
    lab.expect_drop("NoListener", || lab.expect_no_ping("m", "192.0.2.1"))
}
