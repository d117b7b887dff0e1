//! Network security groups at the subnet and at the NIC.

use anyhow::{Context, Result, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::process::Running;
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("nsg::subnet_and_nic_both_judge", both_judge).needs(&["nc", "ping"]),
    Lab::new("nsg::an_edit_meets_new_flows_only", an_edit_meets_new_flows).needs(&["nc"]),
    Lab::new("nsg::tags_tell_the_internet_from_the_network", tags).needs(&["nc"]),
    Lab::new("nsg::application_groups_and_lists_of_prefixes_and_ports", application_groups).needs(&["nc"]),
    Lab::new("nsg::flush_connection_ends_a_live_connection", flush_connection).needs(&["nc"]),
    Lab::new("nsg::platform_tags_close_the_platform", platform_tags).needs(&["nc"]),
    Lab::new("nsg::without_tcp_state_tracking_replies_need_rules", untracked_tcp).needs(&["nc"]),
    Lab::new("nsg::drops_name_the_group_that_denies", drops_name_the_group).needs(&["nc"]),
];

const TOPOLOGY: &str = "\
name: nsg
virtualNetworks:
  net:
    addressSpace: [10.1.0.0/16]
    subnets:
      app: {addressPrefix: 10.1.0.0/24, networkSecurityGroup: subnet-level}
      clients: 10.1.1.0/24
virtualMachines:
  web: {subnet: net/app, privateIPAddress: 10.1.0.4, networkSecurityGroup: nic-level, publicIPAddress: 203.0.113.10}
  client: {subnet: net/clients, privateIPAddress: 10.1.1.4}
networkSecurityGroups:
  subnet-level:
    securityRules:
      - {name: allow-web, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: VirtualNetwork, sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRanges: ['443', '22']}
      - {name: allow-public, priority: 110, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: Internet, sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: 8080}
      - {name: deny-rest, priority: 4000, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: VirtualNetwork, sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}
  nic-level:
    securityRules:
      - {name: deny-ssh, priority: 100, direction: Inbound, access: Deny, protocol: Tcp, sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: 22}
      - {name: allow-public, priority: 110, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: Internet, sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: 8080}
      - {name: no-web-out, priority: 100, direction: Outbound, access: Deny, protocol: Tcp, sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: Internet, destinationPortRange: 80}
internet: {hosts: {example: {address: 203.0.113.80}}}
";

fn both_judge(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _servers = (
        lab.serve("web", 443, &["nc", "-lk", "443"])?,
        lab.serve("web", 22, &["nc", "-lk", "22"])?,
        lab.serve("web", 80, &["nc", "-lk", "80"])?,
        lab.serve("client", 9000, &["nc", "-lk", "9000"])?,
    );
    ensure!(lab.connects("client", "10.1.0.4", 443)?, "both groups allow 443");
    for (port, group, rule) in
        [(22, "nic-level", "securityRules/deny-ssh"), (80, "subnet-level", "securityRules/deny-rest")]
    {
        let labels = [("nsg", group), ("rule", rule), ("direction", "inbound"), ("action", "Deny")];
        let before = lab.metric("vnet_nsg_rule_hits_total", &labels)?;
        lab.expect_drop("NsgDeny", || {
            ensure!(!lab.connects("client", "10.1.0.4", port)?, "{port} is denied");
            Ok(())
        })?;
        ensure!(lab.metric("vnet_nsg_rule_hits_total", &labels)? > before, "{group}/{rule} counts its hit");
    }
    lab.expect_drop("NsgDeny", || lab.expect_no_ping("client", "10.1.0.4"))?;
    // Nothing allows the replies but the session.
    ensure!(lab.connects("web", "10.1.1.4", 9000)?, "the group is stateful");
    lab.expect_ping("web", "10.1.1.4")
}

fn an_edit_meets_new_flows(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let mut server = lab.serve("web", 443, &["nc", "-lk", "443"])?;
    let mut client = lab.spawn("client", &["nc", "10.1.0.4", "443"])?;
    client.write("before\n")?;
    server.wait_for("before", PATIENCE)?;

    lab.apply(&edited(TOPOLOGY, "['443', '22']", "['22']"))?.ok()?;
    client.write("after\n")?;
    server.wait_for("after", PATIENCE)?;
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("client", "10.1.0.4", 443)?, "a new connection meets the new rules");
        Ok(())
    })
}

fn tags(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _servers = (
        lab.serve("web", 8080, &["nc", "-lk", "8080"])?,
        lab.serve("web", 443, &["nc", "-lk", "443"])?,
        lab.serve("example", 80, &["nc", "-lk", "80"])?,
        lab.serve("example", 443, &["nc", "-lk", "443"])?,
    );
    ensure!(lab.connects("example", "203.0.113.10", 8080)?, "the Internet may reach 8080");
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("example", "203.0.113.10", 443)?, "443 is for the virtual network");
        Ok(())
    })?;
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("client", "10.1.0.4", 8080)?, "8080 is for the Internet");
        Ok(())
    })?;
    ensure!(lab.connects("web", "203.0.113.80", 443)?, "the default rules allow the way out");
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("web", "203.0.113.80", 80)?, "the NIC's group denies port 80 to the Internet");
        Ok(())
    })
}

/// Machines whose groups are told apart by application security groups, and a rule with lists on both sides.
const GROUPED: &str = "\
name: nsg-groups
virtualNetworks:
  net:
    addressSpace: [10.1.0.0/16]
    subnets: {all: {addressPrefix: 10.1.0.0/24, networkSecurityGroup: guard}}
virtualMachines:
  web: {subnet: net/all, privateIPAddress: 10.1.0.4, applicationSecurityGroups: [web-servers]}
  db: {subnet: net/all, privateIPAddress: 10.1.0.5, applicationSecurityGroups: [databases]}
  other: {subnet: net/all, privateIPAddress: 10.1.0.6}
  admin: {subnet: net/all, privateIPAddress: 10.1.0.70}
applicationSecurityGroups: {web-servers: {}, databases: {}}
networkSecurityGroups:
  guard:
    securityRules:
      - {name: web-to-db, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceApplicationSecurityGroups: [web-servers], destinationApplicationSecurityGroups: [databases], destinationPortRange: 1433}
      - {name: admins, priority: 110, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefixes: [10.1.0.64/27, 10.1.0.128/25], destinationAddressPrefixes: [10.1.0.4, 10.1.0.5], destinationPortRanges: ['22', '3000-3010']}
      - {name: rest, priority: 4000, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
";

fn application_groups(scene: &Scene) -> Result<()> {
    let lab = scene.up(GROUPED)?;
    let _servers = (
        lab.serve("db", 1433, &["nc", "-lk", "1433"])?,
        lab.serve("db", 3010, &["nc", "-lk", "3010"])?,
        lab.serve("web", 1433, &["nc", "-lk", "1433"])?,
        lab.serve("web", 22, &["nc", "-lk", "22"])?,
        lab.serve("other", 22, &["nc", "-lk", "22"])?,
    );
    for (from, to, port) in
        [("web", "10.1.0.5", 1433), ("admin", "10.1.0.4", 22), ("admin", "10.1.0.5", 3010)]
    {
        ensure!(lab.connects(from, to, port)?, "{from} reaches {to} on {port}");
    }
    // Another source, another destination, another port.
    for (from, to, port) in [("other", "10.1.0.5", 1433), ("db", "10.1.0.4", 1433), ("admin", "10.1.0.6", 22)]
    {
        lab.expect_drop("NsgDeny", || {
            ensure!(!lab.connects(from, to, port)?, "{from} does not reach {to} on {port}");
            Ok(())
        })?;
    }
    // A machine that joins the group passes from then on.
    let joined = edited(
        GROUPED,
        "other: {subnet: net/all, privateIPAddress: 10.1.0.6}",
        "other: {subnet: net/all, privateIPAddress: 10.1.0.6, applicationSecurityGroups: [web-servers]}",
    );
    lab.apply(&joined)?.ok()?;
    ensure!(lab.connects("other", "10.1.0.5", 1433)?, "a member of the group reaches the database");
    Ok(())
}

/// Sends a line over a live connection, which arrives.
fn arrives(client: &mut Running, server: &mut Running, line: &str) -> Result<()> {
    client.write(&format!("{line}\n"))?;
    server.wait_for(line, PATIENCE)
}

/// Sends a line over a live connection, which a group drops; it has not arrived when TCP has sent it again.
fn is_cut(lab: &RunningLab, client: &mut Running, server: &mut Running, line: &str) -> Result<()> {
    let before = lab.drops("NsgDeny")?;
    client.write(&format!("{line}\n"))?;
    wait_until("it is dropped again and again", PATIENCE, || Ok(lab.drops("NsgDeny")? >= before + 3.0))?;
    ensure!(!server.stdout().contains(line), "{line:?} arrives");
    Ok(())
}

/// A server behind one group; the rule lets clients in.
const LIVE: &str = "\
name: nsg-live
virtualNetworks:
  net:
    addressSpace: [10.1.0.0/16]
    subnets:
      servers: {addressPrefix: 10.1.0.0/24, networkSecurityGroup: guard}
      clients: 10.1.1.0/24
virtualMachines:
  server: {subnet: net/servers, privateIPAddress: 10.1.0.4}
  client: {subnet: net/clients, privateIPAddress: 10.1.1.4}
networkSecurityGroups:
  guard:
    flushConnection: false
    securityRules:
      - {name: in, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: 7000-7010}
      - {name: rest, priority: 4000, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
";

fn connection(lab: &RunningLab, port: &str) -> Result<Running> {
    lab.spawn("client", &["nc", "10.1.0.4", port])
}

fn flush_connection(scene: &Scene) -> Result<()> {
    let lab = scene.up(LIVE)?;
    let mut first_server = lab.serve("server", 7001, &["nc", "-lk", "7001"])?;
    let mut second_server = lab.serve("server", 7002, &["nc", "-lk", "7002"])?;
    let closed = |topology: &str| edited(topology, "7000-7010", "6000-6010");
    let flushing = edited(LIVE, "flushConnection: false", "flushConnection: true");

    let mut first = connection(&lab, "7001")?;
    arrives(&mut first, &mut first_server, "open").context("the rule allows the connection")?;
    // Without the switch the connection outlives its rule; switching it on judges by the rules of now.
    lab.apply(&closed(LIVE))?.ok()?;
    arrives(&mut first, &mut first_server, "after the rule").context("a change meets new flows only")?;
    lab.apply(&closed(&flushing))?.ok()?;
    is_cut(&lab, &mut first, &mut first_server, "after the switch")?;
    // What the server sends does not begin it anew.
    is_cut(&lab, &mut first_server, &mut first, "from the server")?;

    // Under the switch a change that leaves the rule alone keeps the connection, and one that takes it away cuts it.
    lab.apply(&flushing)?.ok()?;
    let mut second = connection(&lab, "7002")?;
    arrives(&mut second, &mut second_server, "again").context("the rule is back")?;
    lab.apply(&edited(&flushing, "7000-7010", "7000-7011"))?.ok()?;
    arrives(&mut second, &mut second_server, "still allowed").context("the rules of now allow it")?;
    lab.apply(&closed(&flushing))?.ok()?;
    is_cut(&lab, &mut second, &mut second_server, "no more")
}

fn platform_tags(scene: &Scene) -> Result<()> {
    let rule = |name: &str, priority: u16, tag: &str| {
        format!(
            "      - {{name: {name}, priority: {priority}, direction: Outbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '{tag}'}}\n"
        )
    };
    let none = format!("{LIVE}{}", rule("nothing-out", 4000, "*"));
    let lab = scene.up(&none)?;
    let _services =
        (lab.serve("platform", 80, &["nc", "-lk", "80"])?, lab.serve("platform", 53, &["nc", "-lk", "53"])?);
    let reaches = |address: &str, port| lab.connects("server", address, port);
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("server", "10.1.1.4", 80)?, "the group lets nothing out");
        Ok(())
    })?;
    ensure!(reaches("169.254.169.254", 80)?, "the metadata service is none of the group's business");
    ensure!(reaches("168.63.129.16", 53)?, "nor is DNS");
    let tagged = format!(
        "{none}{}{}",
        rule("no-metadata", 200, "AzurePlatformIMDS"),
        rule("no-dns", 210, "AzurePlatformDNS")
    );
    lab.apply(&tagged)?.ok()?;
    for (address, port) in [("169.254.169.254", 80), ("168.63.129.16", 53)] {
        lab.expect_drop("NsgDeny", || {
            ensure!(!reaches(address, port)?, "the tag's rule denies {address}:{port}");
            Ok(())
        })?;
    }
    ensure!(reaches("168.63.129.16", 80)?, "no tag stands for the rest of the platform");
    Ok(())
}

fn untracked_tcp(scene: &Scene) -> Result<()> {
    let out = "      - {name: none-out, priority: 4000, direction: Outbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}\n";
    let tracked = format!("{LIVE}{out}");
    let lab = scene.up(&tracked)?;
    let _server = lab.serve("server", 7001, &["nc", "-lk", "7001"])?;
    ensure!(lab.connects("client", "10.1.0.4", 7001)?, "replies pass by the flow's state");
    let untracked = edited(
        &tracked,
        "privateIPAddress: 10.1.0.4}",
        "privateIPAddress: 10.1.0.4, disableTcpStateTracking: true}",
    );
    lab.apply(&untracked)?.ok()?;
    lab.expect_drop("NsgDeny", || {
        ensure!(!lab.connects("client", "10.1.0.4", 7001)?, "the reply needs a rule");
        Ok(())
    })?;
    let replies = "      - {name: replies, priority: 100, direction: Outbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', sourcePortRange: 7001, destinationAddressPrefix: '*'}\n";
    lab.apply(&format!("{untracked}{replies}"))?.ok()?;
    ensure!(lab.connects("client", "10.1.0.4", 7001)?, "the reply has a rule");
    Ok(())
}

/// The rule that `drops` names for the machine's last packet that a group denied.
fn denied_by(lab: &RunningLab, machine: &str) -> Result<String> {
    let report = lab.json(&["drops"])?;
    let rows = report["value"].as_array().map_or(&[][..], Vec::as_slice);
    let row = rows.iter().find(|row| row["vm"] == machine && row["reason"] == "NsgDeny");
    Ok(row.and_then(|row| row["rule"].as_str()).unwrap_or_default().to_owned())
}

fn drops_name_the_group(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    for (port, rule) in [
        // The subnet's group allows, the NIC's denies; and the other way round the NIC's is not asked.
        (22, "nic-level/securityRules/deny-ssh"),
        (80, "subnet-level/securityRules/deny-rest"),
    ] {
        lab.expect_drop("NsgDeny", || lab.connects("client", "10.1.0.4", port))?;
        let named = denied_by(&lab, "client")?;
        ensure!(named == rule, "port {port} is denied by {named}");
    }
    // Without rules of its own the NIC's group denies by its default.
    let bare = edited(
        TOPOLOGY,
        "networkSecurityGroup: nic-level, publicIPAddress",
        "networkSecurityGroup: bare, publicIPAddress",
    );
    let bare = edited(&bare, "  nic-level:\n", "  bare: {}\n  nic-level:\n");
    lab.apply(&bare)?.ok()?;
    lab.expect_drop("NsgDeny", || lab.connects("example", "203.0.113.10", 8080))?;
    let report = lab.json(&["drops"])?;
    ensure!(
        report.to_string().contains("bare/defaultSecurityRules/DenyAllInBound"),
        "the NIC's group is named: {report}"
    );
    let allowed = lab.json(&[
        "ip-flow-verify",
        "--vm",
        "web",
        "--direction",
        "Inbound",
        "--protocol",
        "TCP",
        "--local",
        "10.1.0.4:443",
        "--remote",
        "10.1.1.4:50000",
    ])?;
    ensure!(allowed["networkSecurityGroup"] == "bare", "the last group that allows is named: {allowed}");
    Ok(())
}
