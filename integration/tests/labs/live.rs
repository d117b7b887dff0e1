//! Changing a lab under traffic, and losing its daemon under traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vnet_integration::iperf::Report;
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::process::Running;
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene};

use crate::story;

pub(crate) const LABS: &[Lab] = &[
    Lab::new("live::ten_applies_disturb_no_other_path", ten_applies).needs(&["iperf3"]).alone(),
    Lab::new("live::connections_outlive_ten_kills", ten_kills).needs(&["iperf3"]).alone(),
    Lab::new("live::a_refused_file_changes_nothing", a_refused_file).needs(&["ping"]),
];

const TOPOLOGY: &str = "\
name: live
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {right: {}}
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    peerings: {left: {}}
  other:
    addressSpace: [10.3.0.0/16]
    subnets: {app: {addressPrefix: 10.3.0.0/24, routeTable: some, networkSecurityGroup: some}}
    peerings: {last: {allowForwardedTraffic: false}}
  last:
    addressSpace: [10.4.0.0/16]
    subnets: {app: 10.4.0.0/24}
    peerings: {other: {}}
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: right/app, privateIPAddress: 10.2.0.4}
  c: {subnet: other/app, privateIPAddress: 10.3.0.4}
routeTables:
  some:
    routes:
      - {name: nowhere, addressPrefix: 10.9.0.0/16, nextHopType: None}
networkSecurityGroups:
  some:
    securityRules:
      - {name: no-ssh, priority: 100, direction: Inbound, access: Deny, protocol: Tcp, sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: 22}
";

fn ten_applies(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _server = lab.serve("b", 5201, &["iperf3", "-s", "-1"])?;
    let client = start_stream(&lab, "a", "10.2.0.4", 5201, "200M", 15)?;
    let changes = [
        edited(TOPOLOGY, "addressPrefix: 10.9.0.0/16", "addressPrefix: 10.8.0.0/16"),
        edited(TOPOLOGY, "destinationPortRange: 22", "destinationPortRange: 23"),
        edited(TOPOLOGY, "allowForwardedTraffic: false", "allowForwardedTraffic: true"),
        edited(TOPOLOGY, "routeTables:", "  d: {subnet: last/app, privateIPAddress: 10.4.0.4}\nrouteTables:"),
        edited(TOPOLOGY, "    peerings: {other: {}}\n", ""),
    ];
    let mut applies = 0;
    for change in &changes {
        for topology in [change.as_str(), TOPOLOGY] {
            lab.apply(topology)?.ok()?;
            applies += 1;
        }
    }
    ensure!(applies == 10, "ten applies");
    let report = Report::read(&client.finish(PATIENCE)?)?;
    let rate = report.received_bits_per_second()?;
    ensure!((rate / 200e6 - 1.0).abs() < 0.03, "the stream ran at {:.1} Mb/s", rate / 1e6);
    // A tail-loss probe (RFC 8985, 7) of a sender that waited for a processor repeats what was not lost: the receiver says so by
    // a duplicate SACK (RFC 2883). What is left must be nothing.
    let repeated = tcp_counter(&lab, "a", "TCPDSACKRecv")?;
    let retransmissions = report.retransmissions()?;
    ensure!(
        retransmissions <= repeated,
        "{retransmissions} retransmissions, of which {repeated} were needless"
    );
    for vm in ["a", "b"] {
        let drops = lab.metric("vnet_drops_total", &[("vm", vm)])?;
        ensure!(drops == 0.0, "{drops} drops of packets of {vm}");
    }
    Ok(())
}

/// A TCP stream that runs by itself, whatever becomes of the daemon; it has begun when this returns.
fn start_stream(
    lab: &RunningLab,
    from: &str,
    to: &str,
    port: u16,
    rate: &str,
    seconds: u32,
) -> Result<Running> {
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let client = lab.spawn_apart(
        from,
        &[
            "iperf3",
            "-c",
            to,
            "-p",
            &port,
            "-b",
            rate,
            "-t",
            &seconds,
            "-i",
            "0.2",
            "-J",
            "--connect-timeout",
            "5000",
        ],
    )?;
    let labels = [("vm", from), ("direction", "outbound")];
    let start = lab.metric("vnet_nic_bytes_total", &labels)?;
    vnet_integration::wait_until("the stream runs", PATIENCE, || {
        Ok(lab.metric("vnet_nic_bytes_total", &labels)? > start + 1e6)
    })?;
    Ok(client)
}

fn ten_kills(scene: &Scene) -> Result<()> {
    const SECONDS: u32 = 60;
    let lab = scene.up(&story::topology()?)?;
    lab.wait_tunnels()?;
    let ways = [
        ("peering", "batch", "dns", "10.0.2.4", 5201),
        ("firewall", "web", "db", "10.2.0.4", 443),
        ("tunnel", "pc", "replica-side", "10.0.2.4", 5202),
    ];
    let mut streams = Vec::new();
    for (way, from, to, address, port) in ways {
        let server = if way == "tunnel" { "dns" } else { to };
        let port_text = port.to_string();
        let server = lab.serve(server, port, &["iperf3", "-s", "-1", "-p", &port_text])?;
        streams.push((way, server, start_stream(&lab, from, address, port, "20M", SECONDS)?));
    }
    for round in 1..=10 {
        let sent = |lab: &RunningLab| -> Result<Vec<f64>> {
            let scrape = lab.daemon().metrics()?;
            let of = |vm: &str| {
                scrape
                    .sum("vnet_nic_bytes_total", &[("lab", lab.name()), ("vm", vm), ("direction", "inbound")])
            };
            Ok(["dns", "db"].map(of).to_vec())
        };
        lab.daemon().kill();
        lab.daemon().run().with_context(|| format!("restart {round}"))?;
        let base = sent(&lab)?;
        vnet_integration::wait_until("traffic goes on", PATIENCE, || {
            Ok(sent(&lab)?.iter().zip(&base).all(|(now, before)| *now > before + 1e6))
        })
        .with_context(|| format!("after kill {round}"))?;
    }
    for (way, _server, client) in streams {
        let report = Report::read(&client.finish(Duration::from_secs(SECONDS.into()) + PATIENCE)?)
            .with_context(|| format!("the stream by {way}"))?;
        let silence = report.longest_silence();
        ensure!(silence < 3.0, "{way}: {silence:.1} s without a byte");
    }
    Ok(())
}

fn a_refused_file(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    lab.expect_ping("a", "10.2.0.4")?;
    for (from, to, words) in [
        ("addressSpace: [10.4.0.0/16]", "addressSpace: [10.3.0.0/17]", "VnetAddressSpacesOverlap"),
        ("nextHopType: None", "nextHopType: VirtualAppliance", "nextHopIpAddress"),
        ("priority: 100", "prioritty: 100", "priority"),
        ("peerings: {right: {}}", "peerings: {right: {}", ""),
    ] {
        let output = lab.apply(&edited(TOPOLOGY, from, to))?.code(1)?;
        let file = lab.file().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        ensure!(output.stderr.contains(&file), "the message names the file: {}", output.stderr);
        ensure!(output.stderr.contains(words), "the message says {words}: {}", output.stderr);
        lab.expect_ping("a", "10.2.0.4")?;
    }
    Ok(())
}

/// A counter of the machine's kernel from the TcpExt lines of /proc/net/netstat.
fn tcp_counter(lab: &RunningLab, vm: &str, name: &str) -> Result<u64> {
    let text = lab.exec(vm, &["cat", "/proc/net/netstat"])?.ok()?.stdout;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) =
        pairs.find(|(candidate, _)| *candidate == name).context("the kernel has no such counter")?;
    Ok(value.parse()?)
}
