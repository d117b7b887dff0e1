//! Two networks and the two halves of their peering.

use anyhow::{Result, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("peering::passes_only_with_both_halves", passes_only_with_both_halves).needs(&["ping", "nc"]),
    Lab::new("peering::carries_both_families", carries_both_families).needs(&["ping", "nc"]),
    Lab::new("peering::labs_with_the_same_addresses_do_not_meet", labs_do_not_meet).needs(&["ping", "nc"]),
    Lab::new("peering::spoofed_sources_are_dropped", spoofed_sources_are_dropped).needs(&["ping"]),
    Lab::new("peering::goes_through_azures_states", goes_through_azures_states).needs(&["ping"]),
    Lab::new("peering::changed_ranges_wait_for_a_sync", changed_ranges_wait).needs(&["ping"]),
    Lab::new("peering::of_subnets_passes_the_listed_ones", of_subnets).needs(&["ping", "nc"]),
    Lab::new("peering::across_regions_takes_1500_bytes", across_regions).needs(&["ping"]),
    Lab::new("peering::unencrypted_traffic_is_dropped", unencrypted_traffic).needs(&["ping"]),
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

pub(crate) const DUAL_STACK: &str = "\
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
        tcp.wait_for("over tcp", PATIENCE)?;
        client.finish(PATIENCE)?.ok()?;

        let mut udp = lab.serve_udp("b", number, &["nc", family, "-u", "-l", port])?;
        let mut client = lab.spawn("a", &["nc", "-u", address, port])?;
        client.write("over udp\n")?;
        udp.wait_for("over udp", PATIENCE)?;
        udp.write("and back\n")?;
        client.wait_for("and back", PATIENCE)?;
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
    wait_until("each lab has counters of its own", PATIENCE, || {
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

/// State and sync level of each half.
fn halves(lab: &RunningLab) -> Result<Vec<String>> {
    let all = lab.json(&["peering", "list"])?;
    let text = |half: &serde_json::Value, key: &str| half[key].as_str().unwrap_or_default().to_owned();
    let each = all["value"].as_array().cloned().unwrap_or_default();
    let line = |half: &serde_json::Value| {
        format!("{} {} {}", text(half, "name"), text(half, "peeringState"), text(half, "peeringSyncLevel"))
    };
    Ok(each.iter().map(line).collect())
}

fn expect_halves(lab: &RunningLab, expected: &[&str]) -> Result<()> {
    let found = halves(lab)?;
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

const IN_SYNC: [&str; 2] = ["left/right Connected FullyInSync", "right/left Connected FullyInSync"];

fn goes_through_azures_states(scene: &Scene) -> Result<()> {
    let left_alone = edited(TWO, "# left half", "peerings: {right: {}}");
    let lab = scene.up(TWO)?;
    lab.apply_as_azure(&left_alone)?.ok()?;
    expect_halves(&lab, &["left/right Initiated FullyInSync"])?;
    lab.expect_no_ping("a", "10.2.0.4")?;
    lab.apply_as_azure(&peered())?.ok()?;
    expect_halves(&lab, &IN_SYNC)?;
    lab.expect_ping("a", "10.2.0.4")?;

    let output = lab.apply_as_azure(&left_alone)?.ok()?;
    ensure!(output.stdout.contains("Connected -> Disconnected"), "{}", output.stdout);
    expect_halves(&lab, &["left/right Disconnected FullyInSync"])?;
    lab.expect_drop("PeeringNotConnected", || lab.expect_no_ping("a", "10.2.0.4"))?;

    // The other half cannot come back alone, and a plan says so before.
    let plan = lab.plan(&peered(), &["--as-azure"])?;
    let refused = lab.apply_as_azure(&peered())?;
    for output in [&plan, &refused] {
        ensure!(
            output.code == 1 && output.stderr.contains("RemotePeeringIsDisconnected"),
            "{}",
            output.stderr
        );
        ensure!(output.stderr.contains(".yaml:"), "the refusal has a place: {}", output.stderr);
    }
    expect_halves(&lab, &["left/right Disconnected FullyInSync"])?;
    lab.expect_no_ping("a", "10.2.0.4")?;

    // A plain apply does what it takes, and lists it.
    let plan = lab.plan(&peered(), &[])?.ok()?;
    let applied = lab.apply(&peered())?.ok()?;
    for output in [&plan, &applied] {
        ensure!(output.stdout.contains("deleted and created anew"), "{}", output.stdout);
    }
    expect_halves(&lab, &IN_SYNC)?;
    lab.expect_ping("a", "10.2.0.4")?;

    // The other network goes with its machine: this half is left alone, and outlives the daemon so.
    let right = "  right:\n    addressSpace: [10.2.0.0/16]\n    subnets: {app: 10.2.0.0/24}\n    peerings: {left: {}}\n";
    let gone = edited(&peered(), right, "");
    let gone = edited(&gone, "  b: {subnet: right/app, privateIPAddress: 10.2.0.4}\n", "");
    let output = lab.apply_as_azure(&gone)?.ok()?;
    ensure!(output.stdout.contains("Connected -> Disconnected"), "{}", output.stdout);
    expect_halves(&lab, &["left/right Disconnected FullyInSync"])?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a", "10.2.0.4"))?;
    lab.daemon().kill();
    lab.daemon().run()?;
    expect_halves(&lab, &["left/right Disconnected FullyInSync"])
}

fn changed_ranges_wait(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    let wider = edited(&peered(), "[10.1.0.0/16]", "[10.1.0.0/16, 10.7.0.0/16]");
    let wider = edited(&wider, "{app: 10.1.0.0/24}", "{app: 10.1.0.0/24, new: 10.7.0.0/24}");
    let wider =
        edited(&wider, "  a: {subnet", "  c: {subnet: left/new, privateIPAddress: 10.7.0.4}\n  a: {subnet");
    lab.expect_ping("a", "10.2.0.4")?;
    let pings = lab.spawn("a", &["ping", "-n", "-q", "-i", "0.05", "-c", "60", "10.2.0.4"])?;
    let output = lab.apply_as_azure(&wider)?.ok()?;
    ensure!(output.stdout.contains("vnetctl peering sync left/right"), "{}", output.stdout);
    let behind = ["left/right Connected LocalNotInSync", "right/left Connected RemoteNotInSync"];
    expect_halves(&lab, &behind)?;
    // The request arrives; the answer has no route back.
    lab.expect_drop("RouteNone", || lab.expect_no_ping("c", "10.2.0.4"))?;
    let pings = pings.finish(PATIENCE)?;
    ensure!(pings.stdout.contains(" 0% packet loss"), "what is in force goes on: {}", pings.stdout);

    // A restart of the daemon is no sync.
    lab.daemon().stop()?;
    lab.daemon().run()?;
    expect_halves(&lab, &behind)?;
    lab.expect_no_ping("c", "10.2.0.4")?;

    lab.ctl(&["peering", "sync", "right/left"])?.ok()?;
    expect_halves(&lab, &IN_SYNC)?;
    lab.expect_ping("c", "10.2.0.4")?;
    lab.expect_ping("a", "10.2.0.4")?;
    let output = lab.ctl(&["peering", "sync", "left/nowhere"])?;
    ensure!(output.code == 1, "a peering that is not there cannot be synced: {}", output.stdout);

    // A plain apply syncs by itself, and says so.
    let back = lab.apply(&peered())?.ok()?;
    ensure!(back.stdout.contains("synchronised with the changed ranges"), "{}", back.stdout);
    expect_halves(&lab, &IN_SYNC)
}

const SUBNETS: &str = "\
name: subnets
virtualNetworks:
  a:
    addressSpace: [10.1.0.0/16, 10.0.0.0/16]
    subnets: {own: 10.1.1.0/24, shared: 10.0.1.0/24}
    peerings: {c: {peerCompleteVnets: false, localSubnetNames: [shared], remoteSubnetNames: [shared]}}
  c:
    addressSpace: [10.1.0.0/16, 10.6.0.0/16]
    subnets: {own: 10.1.1.0/24, shared: 10.6.1.0/24, other: 10.6.2.0/24}
    peerings: {a: {peerCompleteVnets: false, localSubnetNames: [shared], remoteSubnetNames: [shared]}}
  six:
    addressSpace: [10.20.0.0/16, 'fd00:1::/48']
    subnets: {app: [10.20.0.0/24, 'fd00:1::/64']}
    peerings: {seven: {peerCompleteVnets: false, enableOnlyIPv6Peering: true, localSubnetNames: [app], remoteSubnetNames: [app]}}
  seven:
    addressSpace: [10.21.0.0/16, 'fd00:2::/48']
    subnets: {app: [10.21.0.0/24, 'fd00:2::/64']}
    peerings: {six: {peerCompleteVnets: false, enableOnlyIPv6Peering: true, localSubnetNames: [app], remoteSubnetNames: [app]}}
virtualMachines:
  a-own: {subnet: a/own, privateIPAddress: 10.1.1.4}
  a-shared: {subnet: a/shared, privateIPAddress: 10.0.1.4}
  c-own: {subnet: c/own, privateIPAddress: 10.1.1.4}
  c-shared: {subnet: c/shared, privateIPAddress: 10.6.1.4}
  c-other: {subnet: c/other, privateIPAddress: 10.6.2.4}
  six: {subnet: six/app, privateIPAddresses: [10.20.0.4, 'fd00:1::4']}
  seven: {subnet: seven/app, privateIPAddresses: [10.21.0.4, 'fd00:2::4']}
";

fn of_subnets(scene: &Scene) -> Result<()> {
    let lab = scene.up(SUBNETS)?;
    lab.expect_ping("a-shared", "10.6.1.4")?;
    lab.expect_ping("c-shared", "10.0.1.4")?;
    let _server = lab.serve("c-shared", 7000, &["nc", "-lk", "7000"])?;
    ensure!(lab.connects("a-shared", "10.6.1.4", 7000)?, "TCP passes between listed subnets");
    // The route is there, the packet is dropped.
    let routes = lab.ctl(&["effective-routes", "a-own"])?.ok()?.stdout;
    ensure!(routes.contains("10.6.1.0/24") && !routes.contains("10.6.2.0/24"), "{routes}");
    lab.expect_drop("SubnetNotPeered", || lab.expect_no_ping("a-own", "10.6.1.4"))?;
    lab.expect_drop("SubnetNotPeered", || lab.expect_no_ping("c-other", "10.0.1.4"))?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a-shared", "10.6.2.4"))?;
    // Each network has a range of its own that the other has too.
    lab.expect_ping("a-shared", "10.1.1.4")?;
    lab.expect_ping("c-shared", "10.1.1.4")?;
    for service in ["icmp", "tcp/443", "udp/53"] {
        let path = lab.ctl(&["path", "a-shared", "c-own", service, "--probe"])?.ok()?.stdout;
        ensure!(path.contains("a-own gets it, not c-own") && path.contains("the packet agrees"), "{path}");
    }
    let matrix = lab.ctl(&["matrix"])?.ok()?.stdout;
    ensure!(matrix.contains("Allow, but a-own gets it"), "{matrix}");

    lab.expect_ping("six", "fd00:2::4")?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("six", "10.21.0.4"))?;

    // Another subnet is listed in both halves: it waits for the sync.
    let list = "localSubnetNames: [shared], remoteSubnetNames: [shared]";
    let more = edited(
        SUBNETS,
        &format!("c: {{peerCompleteVnets: false, {list}"),
        "c: {peerCompleteVnets: false, localSubnetNames: [shared], remoteSubnetNames: [shared, other]",
    );
    let more = edited(
        &more,
        &format!("a: {{peerCompleteVnets: false, {list}"),
        "a: {peerCompleteVnets: false, localSubnetNames: [shared, other], remoteSubnetNames: [shared]",
    );
    lab.apply_as_azure(&more)?.ok()?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a-shared", "10.6.2.4"))?;
    lab.ctl(&["peering", "sync", "a/c"])?.ok()?;
    lab.expect_ping("a-shared", "10.6.2.4")?;
    lab.expect_ping("c-other", "10.0.1.4")
}

const REGIONS: &str = "\
name: regions
regions: {latency: none}
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    location: eastus
    subnets: {app: 10.1.0.0/24}
    peerings: {near: {}, far: {}}
  near:
    addressSpace: [10.2.0.0/16]
    location: eastus
    subnets: {app: 10.2.0.0/24}
    peerings: {left: {}}
  far:
    addressSpace: [10.3.0.0/16]
    location: westus
    subnets: {app: 10.3.0.0/24}
    peerings: {left: {}}
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: near/app, privateIPAddress: 10.2.0.4}
  c: {subnet: far/app, privateIPAddress: 10.3.0.4}
";

/// Machines that take larger packets: they reach each other by a peering inside the region, and learn of 1500 bytes on
/// the way to another one.
fn across_regions(scene: &Scene) -> Result<()> {
    let lab = scene.up(REGIONS)?;
    for machine in ["a", "b", "c"] {
        lab.exec(machine, &["ip", "link", "set", "eth0", "mtu", "3900"])?.ok()?;
    }
    let ping =
        |to: &str, bytes: &str| lab.exec("a", &["ping", "-c", "1", "-W", "5", "-M", "do", "-s", bytes, to]);
    ping("10.2.0.4", "3000")?.ok()?;
    let refused = lab.expect_drop("PacketTooBig", || ping("10.3.0.4", "3000"))?;
    ensure!(!refused.success() && refused.stdout.contains("From 10.1.0.1"), "{refused:?}");
    ensure!(refused.stdout.contains("mtu = 1500") || refused.stdout.contains("mtu=1500"), "{refused:?}");
    ping("10.3.0.4", "1400")?.ok()?;
    let drops = lab.ctl(&["drops"])?.ok()?.stdout;
    ensure!(drops.contains("over peerings of one region only"), "{drops}");
    Ok(())
}

const ENCRYPTED: &str = "\
name: encrypted
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    encryption: {enabled: true, enforcement: AllowUnencrypted} # left
    peerings: {right: {}}
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    encryption: {enabled: true, enforcement: AllowUnencrypted}
    peerings: {left: {}}
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: right/app, privateIPAddress: 10.2.0.4}
  old: {networkInterfaces: [{subnet: right/app, privateIPAddress: 10.2.0.5, enableAcceleratedNetworking: false}]}
";

fn unencrypted_traffic(scene: &Scene) -> Result<()> {
    let lab = scene.up(ENCRYPTED)?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.expect_ping("a", "10.2.0.5")?;
    for (to, status) in [("b", "(X)"), ("old", "(NX_NOT_SUPPORTED)")] {
        let path = lab.ctl(&["path", "a", to, "icmp"])?.ok()?.stdout;
        ensure!(path.contains(status), "{path}");
    }
    // One network of the two enforces it: what can encrypt goes on, the rest is dropped both ways.
    let text = edited(ENCRYPTED, "AllowUnencrypted} # left", "DropUnencrypted}");
    lab.apply(&text)?.ok()?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.expect_drop("EncryptionRequired", || lab.expect_no_ping("a", "10.2.0.5"))?;
    lab.expect_drop("EncryptionRequired", || lab.expect_no_ping("old", "10.1.0.4"))?;
    // Inside the network that does not enforce it, it passes in clear.
    lab.expect_ping("b", "10.2.0.5")?;
    let shown = lab.ctl(&["show", "virtualNetworks", "left"])?.ok()?.stdout;
    ensure!(shown.contains("encryption DropUnencrypted"), "{shown}");
    Ok(())
}
