//! Spokes that reach each other through the hub's firewall, by user routes.

use anyhow::{Result, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("firewall::allows_by_rule_and_counts_connections", counts_connections).needs(&["nc", "ping"]),
    Lab::new("firewall::drops_what_it_saw_no_start_of", drops_without_session).needs(&["nc"]),
    Lab::new("firewall::a_rule_taken_away_ends_its_connections", revokes).needs(&["nc"]),
    Lab::new("firewall::next_hops_that_fail", next_hops_that_fail).needs(&["nc"]),
    Lab::new("firewall::answers_of_one_direction", answers_of_one_direction),
];

pub(crate) const TOPOLOGY: &str = "\
name: fw
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: 10.0.1.0/26, shared: 10.0.2.0/24}
    peerings:
      spoke1: {allowForwardedTraffic: true}
      spoke2: {allowForwardedTraffic: true}
  spoke1:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via-fw}}
    peerings: {hub: {allowForwardedTraffic: true}} # of spoke1
  spoke2:
    addressSpace: [10.2.0.0/16]
    subnets: {db: {addressPrefix: 10.2.0.0/24, routeTable: via-fw}}
    peerings: {hub: {allowForwardedTraffic: true}} # of spoke2
virtualMachines:
  web: {subnet: spoke1/app, privateIPAddress: 10.1.0.4}
  db: {subnet: spoke2/db, privateIPAddress: 10.2.0.4}
routeTables:
  via-fw:
    routes:
      - {name: private, addressPrefix: 10.0.0.0/8, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}
azureFirewalls:
  fw: {virtualNetwork: hub, sku: Standard, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: east-west
        priority: 200
        ruleCollections:
          - name: web
            priority: 100
            ruleCollectionType: FirewallPolicyFilterRuleCollection
            action: Allow
            rules:
              - {name: https, ruleType: NetworkRule, ipProtocols: [TCP], sourceAddresses: [10.1.0.0/16], destinationAddresses: [10.2.0.0/16], destinationPorts: ['443']}
";

const HTTPS: [(&str, &str); 5] = [
    ("firewall", "fw"),
    ("group", "east-west"),
    ("collection", "web"),
    ("rule", "https"),
    ("action", "Allow"),
];

pub(crate) fn hits(lab: &RunningLab) -> Result<f64> {
    lab.metric("vnet_firewall_rule_hits_total", &HTTPS)
}

fn counts_connections(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _https = lab.serve("db", 443, &["nc", "-lk", "443"])?;
    let _ssh = lab.serve("db", 22, &["nc", "-lk", "22"])?;
    for count in 1..=3_u8 {
        ensure!(lab.connects("web", "10.2.0.4", 443)?, "TCP 443 passes the firewall");
        wait_until("one hit for each connection", PATIENCE, || Ok(hits(&lab)? == f64::from(count)))?;
    }
    lab.expect_drop("FirewallDeny", || {
        ensure!(!lab.connects("web", "10.2.0.4", 22)?, "TCP 22 is denied");
        Ok(())
    })?;
    // The rule names one direction: the other may answer, and may not begin.
    let _back = lab.serve("web", 443, &["nc", "-lk", "443"])?;
    lab.expect_drop("FirewallDeny", || {
        ensure!(!lab.connects("db", "10.1.0.4", 443)?, "db must not open connections to web");
        Ok(())
    })?;
    ensure!(hits(&lab)? == 3.0, "replies and denied packets are no hits of the rule");
    Ok(())
}

/// A connection that lives: data written at one end arrives at the other.
fn drops_without_session(scene: &Scene) -> Result<()> {
    let direct = edited(
        TOPOLOGY,
        "hub: {allowForwardedTraffic: true}} # of spoke1",
        "hub: {allowForwardedTraffic: true}, spoke2: {}}",
    );
    let direct = edited(
        &direct,
        "hub: {allowForwardedTraffic: true}} # of spoke2",
        "hub: {allowForwardedTraffic: true}, spoke1: {}}",
    );
    let lab = scene.up(&direct)?;
    let mut server = lab.serve("db", 443, &["nc", "-l", "443"])?;
    let mut client = lab.spawn("web", &["nc", "10.2.0.4", "443"])?;
    client.write("by the peering\n")?;
    server.wait_for("by the peering", PATIENCE)?;

    // The more specific user routes move the connection to the firewall, which never saw its SYN.
    let route = "- {name: private,";
    let specific = "- {name: spokes, addressPrefix: 10.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}\n      - {name: private,";
    lab.apply(&edited(&direct, route, specific))?.ok()?;
    lab.expect_drop("FirewallNoSession", || client.write("by the firewall\n"))?;
    ensure!(!server.stdout().contains("by the firewall"), "no byte passes without a session");
    Ok(())
}

fn revokes(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let without = edited(TOPOLOGY, "destinationPorts: ['443']", "destinationPorts: ['8443']");
    let mut server = lab.serve("db", 443, &["nc", "-l", "443"])?;
    let mut client = lab.spawn("web", &["nc", "10.2.0.4", "443"])?;
    client.write("allowed\n")?;
    server.wait_for("allowed", PATIENCE)?;

    // A plan names the connection that the change would end, and touches nothing.
    let plan = lab.plan(&without, &["--impact", "-o", "json"])?.ok()?;
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout)?;
    let flows = plan["impact"]["flows"].as_array().cloned().unwrap_or_default();
    let ours = |flow: &&serde_json::Value| flow["from"] == "web/eth0" && flow["destinationPort"] == 443;
    let flow = flows.iter().find(ours);
    ensure!(flow.is_some_and(|flow| flow["effect"] == "drop"), "the plan names the connection: {plan}");
    client.write("still there\n")?;
    server.wait_for("still there", PATIENCE)?;

    lab.apply(&without)?.ok()?;
    let before = lab.drops("FirewallDeny")? + lab.drops("FirewallNoSession")?;
    client.write("too late\n")?;
    wait_until("the firewall drops it", PATIENCE, || {
        Ok(lab.drops("FirewallDeny")? + lab.drops("FirewallNoSession")? > before)
    })?;
    ensure!(!server.stdout().contains("too late"), "no byte passes after the rule is gone");
    Ok(())
}

fn next_hops_that_fail(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _server = lab.serve("db", 443, &["nc", "-lk", "443"])?;
    let refused = |topology: &str, reason: &str| -> Result<()> {
        lab.apply(topology)?.ok()?;
        lab.expect_drop(reason, || {
            ensure!(!lab.connects("web", "10.2.0.4", 443)?, "{reason} expected");
            Ok(())
        })?;
        lab.apply(TOPOLOGY)?.ok()?;
        ensure!(lab.connects("web", "10.2.0.4", 443)?, "and back again");
        Ok(())
    };
    ensure!(lab.connects("web", "10.2.0.4", 443)?, "before any change");
    refused(
        &edited(TOPOLOGY, "hub: {allowForwardedTraffic: true}} # of spoke2", "hub: {}}"),
        "ForwardedTrafficDenied",
    )?;
    refused(
        &edited(TOPOLOGY, "nextHopIpAddress: 10.0.1.4", "nextHopIpAddress: 10.0.2.99"),
        "NextHopUnreachable",
    )?;
    refused(
        &edited(TOPOLOGY, "nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4", "nextHopType: None"),
        "RouteNone",
    )
}

/// Questions of `near` pass the firewall, which translates them towards addresses that are not private; those of `far`
/// go straight over the peering, and only their answers pass it.
const ONE_SIDED: &str = "\
name: one-sided
virtualNetworks:
  n:
    addressSpace: [10.1.0.0/16]
    subnets: {s: {addressPrefix: 10.1.0.0/24, routeTable: via}}
    peerings: {f: {allowForwardedTraffic: true}}
  f:
    addressSpace: [20.2.0.0/16]
    subnets: {AzureFirewallSubnet: 20.2.2.0/26, s: 20.2.0.0/24}
    peerings: {n: {allowForwardedTraffic: true}}
virtualMachines:
  near: {subnet: n/s, privateIPAddress: 10.1.0.4}
  far: {subnet: f/s, privateIPAddress: 20.2.0.4}
routeTables:
  via: {routes: [{name: far, addressPrefix: 20.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 20.2.2.4}]}
azureFirewalls: {fw: {virtualNetwork: f, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  p: {ruleCollectionGroups: [{name: g, priority: 100, ruleCollections: [{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}]}]}]}
";

/// Predictions and packets agree on answers that a firewall alone sees, or that it loses: a translated echo has another
/// identifier, and nobody takes an answer from an address that he has not asked.
fn answers_of_one_direction(scene: &Scene) -> Result<()> {
    let lab = scene.up(ONE_SIDED)?;
    let probed = |from: &str, to: &str, service: &str| -> Result<(String, String)> {
        let output = lab.ctl(&["path", from, to, service, "--probe", "--short", "-o", "json"])?;
        let report = output.json()?;
        ensure!(report["probe"]["agrees"] == true, "{from} to {to} {service}: {report:#}");
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok((text(&report["verdict"]), text(&report["reason"])))
    };
    let (allow, deny) = (("allow", ""), ("deny", "AsymmetricReturn"));
    // Each flow leaves from one of two instances: some of these from each.
    for _ in 0..4 {
        for service in ["icmp", "tcp/443", "udp/53"] {
            let (verdict, reason) = probed("near", "far", service)?;
            ensure!((verdict.as_str(), reason.as_str()) == allow, "{service}: {verdict} {reason}");
        }
    }
    for (service, expected) in [("icmp", deny), ("udp/53", deny), ("tcp/443", ("deny", "FirewallNoSession"))]
    {
        let (verdict, reason) = probed("far", "near", service)?;
        ensure!((verdict.as_str(), reason.as_str()) == expected, "{service}: {verdict} {reason}");
    }
    // By its name a firewall is asked at its own address.
    let (verdict, reason) = probed("near", "fw", "icmp")?;
    ensure!((verdict.as_str(), reason.as_str()) == allow, "{verdict} {reason}");
    let refused = lab.ctl(&["path", "fw", "near", "icmp", "--probe"])?;
    ensure!(refused.stderr.contains("is an appliance"), "{refused:?}");
    // The firewall's own route loses the answers that it has translated back.
    let lost = edited(
        ONE_SIDED,
        "{AzureFirewallSubnet: 20.2.2.0/26,",
        "{AzureFirewallSubnet: {addressPrefix: 20.2.2.0/26, routeTable: fw},",
    );
    let lost = edited(
        &lost,
        "routeTables:\n",
        "routeTables:\n  fw: {routes: [{name: out, addressPrefix: 0.0.0.0/0, nextHopType: Internet}, {name: back, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 20.2.0.77}]}\n",
    );
    lab.apply(&lost)?;
    for service in ["icmp", "udp/53", "tcp/443"] {
        let (verdict, reason) = probed("near", "far", service)?;
        ensure!(
            (verdict.as_str(), reason.as_str()) == ("deny", "NextHopUnreachable"),
            "{service}: {verdict} {reason}"
        );
    }
    lab.expect_balance()
}
