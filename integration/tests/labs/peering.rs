//! Two networks and the two halves of their peering.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnet_integration::lab::edited;
use vnet_integration::suite::Lab;
use vnet_integration::{Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("peering::passes_only_with_both_halves", passes_only_with_both_halves).needs(&["ping", "nc"]),
    Lab::new("peering::carries_both_families", carries_both_families).needs(&["ping", "nc"]),
    Lab::new("peering::labs_with_the_same_addresses_do_not_meet", labs_do_not_meet).needs(&["ping", "nc"]),
    Lab::new("peering::spoofed_sources_are_dropped", spoofed_sources_are_dropped).needs(&["ping"]),
];

/// Two networks that are not peered; each has a line that a half of the peering can take the place of.
pub(crate) const TWO: &str = "\
name: two
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    # left half
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    # right half
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: right/app, privateIPAddress: 10.2.0.4}
";

/// The same, peered.
pub(crate) fn peered() -> String {
    let left = edited(TWO, "# left half", "peerings: {right: {}}");
    edited(&left, "# right half", "peerings: {left: {}}")
}

fn passes_only_with_both_halves(scene: &Scene) -> Result<()> {
    let lab = scene.up(TWO)?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a", "10.2.0.4"))?;

    let initiated = edited(TWO, "# left half", "peerings: {right: {}}");
    lab.apply(&initiated)?.ok()?;
    lab.expect_no_ping("a", "10.2.0.4")?;
    lab.expect_no_ping("b", "10.1.0.4")?;

    lab.apply(&peered())?.ok()?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.expect_ping("b", "10.1.0.4")?;
    let _server = lab.serve("b", 7000, &["nc", "-lk", "7000"])?;
    ensure!(lab.connects("a", "10.2.0.4", 7000)?, "TCP passes too");

    lab.apply(&initiated)?.ok()?;
    lab.expect_no_ping("a", "10.2.0.4")?;
    ensure!(!lab.connects("a", "10.2.0.4", 7000)?, "no TCP without the other half");
    Ok(())
}

const DUAL_STACK: &str = "\
name: dual
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16, 'fd00:1::/48']
    subnets: {app: {addressPrefixes: [10.1.0.0/24, 'fd00:1::/64']}}
    peerings: {right: {}}
  right:
    addressSpace: [10.2.0.0/16, 'fd00:2::/48']
    subnets: {app: {addressPrefixes: [10.2.0.0/24, 'fd00:2::/64']}}
    peerings: {left: {}}
virtualMachines:
  a: {subnet: left/app, privateIPAddresses: [10.1.0.4, 'fd00:1::4']}
  b: {subnet: right/app, privateIPAddresses: [10.2.0.4, 'fd00:2::4']}
";

fn carries_both_families(scene: &Scene) -> Result<()> {
    let lab = scene.up(DUAL_STACK)?;
    for address in ["10.2.0.4", "fd00:2::4"] {
        lab.expect_ping("a", address)?;
        // A datagram larger than one packet: fragments pass as what they are.
        lab.exec("a", &["ping", "-n", "-c", "1", "-W", "2", "-s", "4000", address])?.ok()?;
    }
    for (port, address, family) in [("7000", "10.2.0.4", "-4"), ("7001", "fd00:2::4", "-6")] {
        let number = port.parse()?;
        let mut tcp = lab.serve("b", number, &["nc", family, "-l", port])?;
        let client =
            lab.spawn("a", &["sh", "-c", &format!("echo over tcp | nc -N -w 3 {address} {port}")])?;
        tcp.wait_for("over tcp", Duration::from_secs(5))?;
        client.finish(Duration::from_secs(5))?.ok()?;

        let mut udp = lab.serve_udp("b", number, &["nc", family, "-u", "-l", port])?;
        let mut client = lab.spawn("a", &["nc", "-u", address, port])?;
        client.write("over udp\n")?;
        udp.wait_for("over udp", Duration::from_secs(5))?;
        udp.write("and back\n")?;
        client.wait_for("and back", Duration::from_secs(5))?;
    }
    Ok(())
}

fn labs_do_not_meet(scene: &Scene) -> Result<()> {
    let daemon = scene.daemon()?;
    let one = scene.up_on(daemon.clone(), &peered())?;
    let two = scene.up_on(daemon, &peered())?;
    let other = scene.up(TWO)?;
    one.expect_ping("a", "10.2.0.4")?;
    two.expect_ping("a", "10.2.0.4")?;
    other.expect_no_ping("a", "10.2.0.4")?;

    let _listener = one.serve("b", 7000, &["nc", "-lk", "7000"])?;
    ensure!(one.connects("a", "10.2.0.4", 7000)?, "the lab's own listener answers");
    ensure!(!two.connects("a", "10.2.0.4", 7000)?, "another lab's listener must not answer");
    wait_until("each lab has counters of its own", Duration::from_secs(5), || {
        let labels = [("vm", "b"), ("direction", "inbound")];
        Ok(one.metric("vnet_nic_packets_total", &labels)? > 0.0
            && other.metric("vnet_nic_packets_total", &labels)? == 0.0)
    })
}

fn spoofed_sources_are_dropped(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.exec("a", &["ip", "address", "add", "10.1.0.77/32", "dev", "lo"])?.ok()?;
    lab.expect_drop("SpoofedSource", || {
        let output = lab.exec("a", &["ping", "-n", "-c", "1", "-W", "1", "-I", "10.1.0.77", "10.2.0.4"])?;
        ensure!(!output.success(), "a source that is not the NIC's must not pass");
        Ok(())
    })
}
