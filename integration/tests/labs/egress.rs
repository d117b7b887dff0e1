//! The way out to the Internet: who sees which source, and what comes back.

use anyhow::{Context, Result, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::process::Running;
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("egress::ways_out_in_azures_order", ways_out).needs(&["nc", "ping"]),
    Lab::new("egress::a_flow_keeps_its_way_when_a_nat_gateway_comes", keeps_its_way).needs(&["nc"]),
    Lab::new("egress::a_firewall_translates_and_answers_come_back", firewall).needs(&["nc"]),
    Lab::new("egress::a_firewalls_ports_run_out", exhaustion).needs(&["bash"]),
    Lab::new("egress::errors_come_back_through_translation", errors).needs(&["traceroute", "socat"]),
    Lab::new("egress::translated_connections_outlive_the_daemon", outlives_kill).needs(&["nc"]),
    Lab::new("egress::both_families_by_a_nat_gateway", both_families).needs(&["nc", "ping"]),
    Lab::new("egress::an_appliance_translates_on_the_way_out", appliance).needs(&["nc", "nft"]),
    Lab::new("egress::the_example_proves_itself", example),
];

const WAYS: &str = "\
name: ways
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      nat: {addressPrefix: 10.0.0.0/24, natGateway: out, networkSecurityGroup: open}
      plain: {addressPrefix: 10.0.1.0/24, networkSecurityGroup: open}
      private: {addressPrefix: 10.0.2.0/24, defaultOutboundAccess: false}
natGateways:
  out: {sku: Standard, publicIPAddresses: [203.0.113.1]}
virtualMachines:
  a: {subnet: v/nat, privateIPAddress: 10.0.0.4}
  both: {subnet: v/nat, privateIPAddress: 10.0.0.5, publicIPAddress: 203.0.113.10}
  public: {subnet: v/plain, privateIPAddress: 10.0.1.4, publicIPAddress: 203.0.113.11}
  plain: {subnet: v/plain, privateIPAddress: 10.0.1.5}
  private: {subnet: v/private, privateIPAddress: 10.0.2.4}
networkSecurityGroups:
  open: {securityRules: [{name: in, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}]}
internet: {hosts: {example: 203.0.113.80}}
";

const EXAMPLE: &str = "203.0.113.80";

/// A server that says who connects.
fn witness(lab: &RunningLab, machine: &str, port: u16) -> Result<Running> {
    lab.serve(machine, port, &["nc", "-lkvn", &port.to_string()])
}

/// Connects, and returns the address that the server has seen it come from.
fn seen(lab: &RunningLab, from: &str, to: &str, port: u16, server: &mut Running) -> Result<String> {
    let before = received(server).len();
    ensure!(lab.connects(from, to, port)?, "{from} connects to {to}:{port}");
    wait_until("the server says who came", PATIENCE, || Ok(received(server).len() > before))?;
    received(server).pop().context("nobody came")
}

fn received(server: &Running) -> Vec<String> {
    let text = server.stderr();
    let lines = text.lines().filter_map(|line| line.strip_prefix("Connection received on "));
    lines.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// What the prediction says of the source.
fn predicted(lab: &RunningLab, from: &str, to: &str, service: &str) -> Result<String> {
    let report = lab.path(from, to, service)?;
    Ok(report["sourceSeenAs"].as_str().unwrap_or_default().to_owned())
}

fn ways_out(scene: &Scene) -> Result<()> {
    let lab = scene.up(WAYS)?;
    let mut server = witness(&lab, "example", 80)?;
    for (from, source) in [("a", "203.0.113.1"), ("both", "203.0.113.1"), ("public", "203.0.113.11")] {
        let came = seen(&lab, from, EXAMPLE, 80, &mut server)?;
        ensure!(came == source, "{from} was seen as {came}, not {source}");
        ensure!(predicted(&lab, from, "example", "tcp/80")? == source, "the prediction for {from}");
    }
    let lent = seen(&lab, "plain", EXAMPLE, 80, &mut server)?;
    ensure!(lent == predicted(&lab, "plain", "example", "tcp/80")?, "default outbound access lends {lent}");
    let shown = lab.ctl(&["show", "publicIPAddresses"])?.ok()?.stdout;
    ensure!(shown.contains(&format!("{lent} Microsoft, default outbound access of v")), "{shown}");

    lab.expect_drop("NoRoute", || {
        ensure!(!lab.connects("private", EXAMPLE, 80)?, "a private subnet has no way out");
        Ok(())
    })?;
    for from in ["a", "plain"] {
        lab.expect_drop("ProtocolNotSupported", || lab.expect_no_ping(from, EXAMPLE))?;
    }
    lab.expect_ping("public", EXAMPLE)?;

    // Whoever comes by a public address is answered from it, a NAT gateway on the subnet or not.
    let _web = witness(&lab, "both", 8080)?;
    ensure!(lab.connects("example", "203.0.113.10", 8080)?, "from the Internet to a public address");
    lab.expect_drop("NoListener", || {
        ensure!(!lab.connects("example", "203.0.113.1", 8080)?, "a NAT gateway takes no flow from outside");
        Ok(())
    })?;
    let used = lab.metric("vnet_nat_gateway_snat_ports_used", &[("nat_gateway", "out")])?;
    ensure!(used >= 2.0, "{used} ports in use");
    let flows = lab.json(&["flows"])?;
    let translated = flows["value"].as_array().context("flows")?.iter().any(|flow| {
        flow["from"] == "a/eth0" && flow["leavesAs"]["source"] == "203.0.113.1" && flow["to"] == "internet"
    });
    ensure!(translated, "flows show the translated tuple: {flows:#}");

    // A public address of the same lab, from inside.
    let mut web = witness(&lab, "both", 8081)?;
    let came = seen(&lab, "plain", "203.0.113.10", 8081, &mut web)?;
    ensure!(came == lent, "by the internet edge {came} is seen, not {lent}");
    ensure!(predicted(&lab, "plain", "203.0.113.10", "tcp/8081")? == lent, "the prediction");
    // Nobody has this address, and nothing leaves the host.
    lab.expect_drop("NoListener", || {
        ensure!(!lab.connects("a", "203.0.113.99", 80)?, "nobody is there");
        Ok(())
    })?;
    Ok(())
}

fn keeps_its_way(scene: &Scene) -> Result<()> {
    let lab = scene.up(&edited(WAYS, "natGateway: out, ", ""))?;
    let mut server = lab.serve("example", 80, &["nc", "-lvn", "80"])?;
    let mut client = lab.spawn("both", &["nc", EXAMPLE, "80"])?;
    client.write("before\n")?;
    server.wait_for("before", PATIENCE)?;
    ensure!(received(&server) == ["203.0.113.10"], "{:?}", received(&server));
    lab.apply(WAYS)?.ok()?;
    client.write("after\n")?;
    server.wait_for("after", PATIENCE)?;
    let mut next = witness(&lab, "example", 81)?;
    let came = seen(&lab, "both", EXAMPLE, 81, &mut next)?;
    ensure!(came == "203.0.113.1", "a new flow takes the NAT gateway, not {came}");
    Ok(())
}

pub(crate) const FIREWALL: &str = "\
name: snat
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: 10.0.1.0/26}
    peerings: {spoke: {allowForwardedTraffic: true}, other: {allowForwardedTraffic: true}}
  spoke:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via}}
    peerings: {hub: {allowForwardedTraffic: true}}
  other:
    addressSpace: [10.2.0.0/16]
    subnets: {db: {addressPrefix: 10.2.0.0/24, routeTable: via}}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  web: {subnet: spoke/app, privateIPAddress: 10.1.0.4}
  db: {subnet: other/db, privateIPAddress: 10.2.0.4}
routeTables:
  via: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]}
azureFirewalls: {fw: {virtualNetwork: hub, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  p:
    snat: {privateRanges: [10.0.0.0/8]} # ranges
    ruleCollectionGroups:
      - {name: g, priority: 100, ruleCollections: [{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}]}]}
internet: {hosts: {example: 203.0.113.80, other-host: 203.0.113.81}}
";

fn firewall(scene: &Scene) -> Result<()> {
    let lab = scene.up(FIREWALL)?;
    let mut outside = witness(&lab, "example", 80)?;
    let mut inside = witness(&lab, "db", 80)?;
    for (to, server, source) in
        [(EXAMPLE, &mut outside, "203.0.113.20"), ("10.2.0.4", &mut inside, "10.1.0.4")]
    {
        let came = seen(&lab, "web", to, 80, server)?;
        ensure!(came == source, "to {to} the source {came} is seen, not {source}");
        ensure!(predicted(&lab, "web", to, "tcp/80")? == source, "the prediction to {to}");
    }
    lab.expect_drop("ProtocolNotSupported", || lab.expect_no_ping("web", EXAMPLE))?;
    lab.expect_drop("NoListener", || {
        ensure!(!lab.connects("example", "203.0.113.20", 80)?, "no flow begins towards a firewall's address");
        Ok(())
    })?;
    // With every destination to be translated, private ones see an instance.
    lab.apply(&edited(FIREWALL, "[10.0.0.0/8]} # ranges", "[255.255.255.255/32]}"))?.ok()?;
    let came = seen(&lab, "web", "10.2.0.4", 80, &mut inside)?;
    ensure!(["10.0.1.5", "10.0.1.6"].contains(&&*came), "{came} is an instance of the firewall");
    lab.apply(&edited(FIREWALL, "[10.0.0.0/8]} # ranges", "[0.0.0.0/0]}"))?.ok()?;
    lab.expect_drop("NoRoute", || {
        ensure!(!lab.connects("web", EXAMPLE, 80)?, "without translation there is no way to the Internet");
        Ok(())
    })?;
    Ok(())
}

fn exhaustion(scene: &Scene) -> Result<()> {
    let lab = scene.up(FIREWALL)?;
    // Each socket has a port of its own, of 28,232: 9,000 draws are some 7,700 different ones.
    let flood = "for i in $(seq 9000); do echo > /dev/udp/203.0.113.80/9; done";
    lab.expect_drop("SnatPortsExhausted", || lab.exec("web", &["bash", "-c", flood])?.ok())?;
    let used = lab.metric("vnet_firewall_snat_ports_used", &[("firewall", "fw")])?;
    ensure!(used == 4992.0, "{used} ports in use of 2,496 for each of two instances");
    let mut other = witness(&lab, "other-host", 80)?;
    let came = seen(&lab, "web", "203.0.113.81", 80, &mut other)?;
    ensure!(came == "203.0.113.20", "another destination has ports of its own, {came}");
    Ok(())
}

fn errors(scene: &Scene) -> Result<()> {
    let lab = scene.up(WAYS)?;
    // The Internet's own router is a hop, and the port that nobody listens at is the end: both by errors.
    let output =
        lab.exec("a", &["traceroute", "-n", "-q", "1", "-w", "2,0,0", "-m", "4", EXAMPLE])?.ok()?.stdout;
    let hops: Vec<&str> = output.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(hops.len() == 2 && hops[0] != "*" && hops[1] == EXAMPLE, "{output}");

    // A link on the way takes less than the connection's first guess.
    let output =
        lab.spawn_apart("internet", &["ip", "link", "set", "c-example", "mtu", "1300"])?.finish(PATIENCE)?;
    ensure!(output.success(), "{}", output.stderr);
    let mut server = lab.serve("example", 80, &["socat", "-u", "TCP-LISTEN:80", "EXEC:'wc -c'"])?;
    let sent = lab.exec("a", &["socat", "-u", "EXEC:'head -c 300000 /dev/zero'", "TCP:203.0.113.80:80"])?;
    ensure!(sent.success(), "{}", sent.stderr);
    server.wait_for("300000", PATIENCE)?;
    let learned = lab.exec("a", &["ip", "route", "get", EXAMPLE])?.ok()?.stdout;
    ensure!(learned.contains("mtu 1300"), "the error reached the sender: {learned}");
    Ok(())
}

fn outlives_kill(scene: &Scene) -> Result<()> {
    let lab = scene.up(WAYS)?;
    let mut server = lab.serve("example", 80, &["nc", "-lvn", "80"])?;
    let mut client = lab.spawn_apart("a", &["nc", EXAMPLE, "80"])?;
    client.write("before\n")?;
    server.wait_for("before", PATIENCE)?;
    let tuple = |flows: &serde_json::Value| {
        let all = flows["value"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|flow| flow["from"] == "a/eth0").map(|flow| flow["leavesAs"].clone())
    };
    let before = tuple(&lab.json(&["flows"])?).context("the flow is there")?;
    for round in 0..3 {
        lab.daemon().kill();
        lab.daemon().run()?;
        client.write(&format!("round {round}\n"))?;
        server.wait_for(&format!("round {round}"), PATIENCE)?;
    }
    let after = tuple(&lab.json(&["flows"])?).context("the flow is there again")?;
    ensure!(before == after, "the binding stays: {before} and {after}");
    // A new flow takes another port.
    let mut next = lab.serve("example", 81, &["nc", "-lkvn", "81"])?;
    let came = seen(&lab, "a", EXAMPLE, 81, &mut next)?;
    ensure!(came == "203.0.113.1", "{came}");
    Ok(())
}

const BOTH: &str = "\
name: both
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16, 'fd00:1::/48']
    subnets: {nat: {addressPrefixes: [10.0.0.0/24, 'fd00:1::/64'], natGateway: out}}
natGateways:
  out: {sku: StandardV2, publicIPAddresses: [four, six]}
publicIPAddresses:
  four: {ipAddress: 203.0.113.1, sku: StandardV2}
  six: {ipAddress: '2001:db8::1', sku: StandardV2}
virtualMachines:
  a: {subnet: v/nat, privateIPAddresses: [10.0.0.4, 'fd00:1::4']}
internet: {hosts: {example: {addresses: [203.0.113.80, '2001:db8::80']}}}
";

fn both_families(scene: &Scene) -> Result<()> {
    let lab = scene.up(BOTH)?;
    let mut four = witness(&lab, "example", 80)?;
    let came = seen(&lab, "a", EXAMPLE, 80, &mut four)?;
    ensure!(came == "203.0.113.1", "{came}");
    let mut six = lab.serve("example", 81, &["nc", "-6", "-lkvn", "81"])?;
    let came = seen(&lab, "a", "2001:db8::80", 81, &mut six)?;
    ensure!(came == "2001:db8::1", "{came}");
    for to in [EXAMPLE, "2001:db8::80"] {
        lab.expect_ping("a", to)?;
    }
    Ok(())
}

const APPLIANCE: &str = "\
name: appliance
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {nva: 10.0.2.0/24}
    peerings: {spoke: {allowForwardedTraffic: true}}
  spoke:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via}}
    peerings: {hub: {allowForwardedTraffic: true}}
routeTables:
  via: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.2.4}]}
virtualMachines:
  web: {subnet: spoke/app, privateIPAddress: 10.1.0.4}
  nva:
    networkInterfaces: [{subnet: hub/nva, privateIPAddresses: [10.0.2.4], enableIPForwarding: true, publicIPAddress: 203.0.113.10}]
    run:
      - echo 1 > /proc/sys/net/ipv4/ip_forward
      - nft add table ip nat
      - nft add chain ip nat out '{ type nat hook postrouting priority 100; }'
      - nft add rule ip nat out oifname eth0 masquerade # translate
      - echo ready
internet: {hosts: {example: 203.0.113.80}}
";

fn appliance(scene: &Scene) -> Result<()> {
    let lab = scene.up(APPLIANCE)?;
    wait_until("the appliance is set up", PATIENCE, || {
        Ok(lab.ctl(&["logs", "nva"])?.ok()?.stdout.contains("ready"))
    })?;
    let mut server = witness(&lab, "example", 80)?;
    let came = seen(&lab, "web", EXAMPLE, 80, &mut server)?;
    ensure!(came == "203.0.113.10", "{came} is the appliance's public address");
    ensure!(predicted(&lab, "web", "example", "tcp/80")? == came, "the prediction");
    // Without translation the fabric knows no answer's way.
    ensure!(lab.exec("nva", &["nft", "delete", "table", "ip", "nat"])?.success(), "the table goes");
    lab.expect_drop("NoRoute", || {
        ensure!(!lab.connects("web", EXAMPLE, 80)?, "a foreign source does not leave");
        Ok(())
    })?;
    Ok(())
}

fn example(scene: &Scene) -> Result<()> {
    let lab = scene.up(include_str!("../../../examples/egress.yaml"))?;
    let proof = lab.ctl(&["test"])?;
    ensure!(proof.success() && !proof.stdout.contains("[FAIL]"), "{}{}", proof.stdout, proof.stderr);
    Ok(())
}
