//! Network security groups at the subnet and at the NIC.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnet_integration::Scene;
use vnet_integration::lab::edited;
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] = &[
    Lab::new("nsg::subnet_and_nic_both_judge", both_judge).needs(&["nc", "ping"]),
    Lab::new("nsg::an_edit_meets_new_flows_only", an_edit_meets_new_flows).needs(&["nc"]),
    Lab::new("nsg::tags_tell_the_internet_from_the_network", tags).needs(&["nc"]),
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
    server.wait_for("before", Duration::from_secs(5))?;

    lab.apply(&edited(TOPOLOGY, "['443', '22']", "['22']"))?.ok()?;
    client.write("after\n")?;
    server.wait_for("after", Duration::from_secs(5))?;
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
