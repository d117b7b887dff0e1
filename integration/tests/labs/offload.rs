//! Plain flows in the kernel: what runs there and what does not, that it is counted, and what is left of it.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vnet_integration::iperf::Report;
use vnet_integration::lab::{Lab as Running, edited};
use vnet_integration::process::{self, Running as Program};
use vnet_integration::stream::{Plan, Stream, send_raw};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

use crate::egress;
use crate::firewall;
use crate::peering::{DUAL_STACK, peered};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("offload::a_transfer_runs_in_the_kernel_and_is_counted", counted).needs(&["iperf3"]).alone(),
    Lab::new("offload::what_was_sent_received_and_counted_agrees", exact).needs(&["iperf3"]).alone(),
    Lab::new("offload::a_firewall_s_session_runs_in_the_kernel", through_firewall),
    Lab::new("offload::what_is_rewritten_stays_in_the_daemon", rewritten),
    Lab::new("offload::another_machine_cannot_use_a_flow", spoofed),
    Lab::new("offload::a_transfer_outlives_the_daemon_and_is_adopted", adopted).needs(&["iperf3"]).alone(),
    Lab::new("offload::nothing_is_left_in_the_kernel", removed).needs(&["bpftool"]),
    Lab::new("offload::a_capture_sees_every_packet", captured).needs(&["iperf3", "tcpdump"]).alone(),
    Lab::new("offload::switched_off_all_stays_in_the_daemon", switched_off).needs(&["iperf3"]).alone(),
    Lab::new("offload::a_host_that_cannot_says_why", cannot).needs(&["iperf3", "unshare", "perl"]).alone(),
];

const LIMIT: Duration = PATIENCE;
/// A sender's pause between datagrams: some thousand a second.
pub(crate) const PACE: Duration = Duration::from_micros(200);

/// Whether the lab's daemon has the kernel carry flows. That it does not is only taken for an answer where this host cannot, and
/// `doctor` knows the same reason.
pub(crate) fn is_on(lab: &Running) -> Result<bool> {
    let shown = lab.json(&["show", "offload"])?;
    let offload = &shown["value"][0];
    match offload["state"].as_str().context("show says whether the offload is on")? {
        "On" => Ok(true),
        "Off" => {
            let reason = offload["properties"]["reason"].as_str().context("off without a reason")?;
            let found = examined(lab)?;
            let (status, why) = (found["status"].as_str(), found["found"].as_str());
            ensure!(
                status != Some("ok") && why == Some(reason),
                "off for {reason:?}, and doctor says {found}"
            );
            Ok(false)
        }
        state => bail!("the offload is {state}: {offload}"),
    }
}

/// What `doctor` finds of the kernel's ability.
fn examined(lab: &Running) -> Result<Value> {
    let report = lab.ctl(&["doctor", "-o", "json"])?.json()?;
    let checks = report["checks"].as_array().context("no list of checks")?;
    checks
        .iter()
        .find(|check| check["name"] == "offload")
        .cloned()
        .context("doctor does not look at the offload")
}

/// The busiest flow from an address to a port, as `flows` has it.
pub(crate) fn flow(lab: &Running, source: &str, port: u16) -> Result<Option<Value>> {
    let flows = lab.json(&["flows"])?;
    let all = flows["value"].as_array().context("no list of flows")?;
    let own = |flow: &&Value| flow["source"] == source && flow["destinationPort"] == port;
    Ok(all.iter().filter(own).max_by_key(|flow| flow["bytes"].as_u64()).cloned())
}

pub(crate) fn wait_flow_runs_in(lab: &Running, source: &str, port: u16, place: &str) -> Result<Value> {
    let mut found = Value::Null;
    wait_until(&format!("the flow from {source} to port {port} runs in {place}"), LIMIT, || {
        found = flow(lab, source, port)?.unwrap_or_default();
        Ok(found["runsIn"] == place)
    })?;
    Ok(found)
}

fn data_flow(lab: &Running) -> Result<Option<Value>> {
    flow(lab, "10.1.0.4", 5201)
}

pub(crate) fn wait_runs_in(lab: &Running, place: &str) -> Result<Value> {
    wait_flow_runs_in(lab, "10.1.0.4", 5201, place)
}

/// A transfer from a to b, paced so that it leaves the machine room for others.
pub(crate) fn transfer(lab: &Running, seconds: &str) -> Result<(Program, Program)> {
    let server = lab.serve("b", 5201, &["iperf3", "-s", "-1"])?;
    let client =
        lab.spawn_apart("a", &["iperf3", "-c", "10.2.0.4", "-t", seconds, "-b", "200M", "--json"])?;
    Ok((server, client))
}

/// Segments of a super-packet of 64 KiB at most, with an MSS of 1,360 octets or more.
const SEGMENTS_MAX: u64 = 49;

/// Small datagrams from one machine to another, one after the other.
pub(crate) fn stream(lab: &Running, from: (&str, &str), to: (&str, &str)) -> Result<Stream> {
    let parse = |text: &str| text.parse::<SocketAddr>().with_context(|| text.to_owned());
    let plan = Plan { from: parse(from.1)?, to: parse(to.1)?, datagram_bytes: 100, every: PACE };
    Stream::start(&lab.namespace(from.0), &lab.namespace(to.0), plan)
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no {key} in {value}"))
}

fn bytes_of(flow: &Value) -> Result<u64> {
    number(flow, "bytes")
}

fn in_namespace(lab: &Running, machine: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.namespace(machine)]).args(arguments);
    Ok(process::output(&mut command, LIMIT)?.ok()?.stdout)
}

/// A counter of a machine's own stack, by its table and name in /proc/net.
fn stack_counter(lab: &Running, machine: &str, file: &str, table: &str, name: &str) -> Result<u64> {
    let text = in_namespace(lab, machine, &["cat", &format!("/proc/net/{file}")])?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(": "));
    let (names, values) =
        rows.next().zip(rows.next()).with_context(|| format!("the kernel shows no {table}"))?;
    let (_, value) =
        names.split(' ').zip(values.split(' ')).find(|(own, _)| *own == name).context(name.to_owned())?;
    Ok(value.parse()?)
}

fn counted(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let (_server, client) = transfer(&lab, "6")?;
    let first = wait_runs_in(&lab, "kernel")?;
    wait_until("the flow's count goes on", LIMIT, || {
        let now = data_flow(&lab)?.context("the flow is there")?;
        Ok(bytes_of(&now)? > bytes_of(&first)? + 1_000_000)
    })?;
    ensure!(lab.metric("vnet_offload_packets_total", &[])? > 0.0, "the kernel's packets are counted");
    ensure!(lab.metric("vnet_offload_flows", &[])? >= 1.0, "the kernel's flows are counted");
    let report = Report::read(&client.finish(LIMIT)?)?;
    ensure!(
        report.received_bits_per_second()? > 150e6,
        "the rate holds: {}",
        report.received_bits_per_second()?
    );
    // Every segment that either side's TCP has sent, retransmissions too, is one packet of its NIC; but for those that the NIC
    // had no room for, which the device counts before they are segments.
    for machine in ["a", "b"] {
        let segments = stack_counter(&lab, machine, "snmp", "Tcp", "OutSegs")?
            + stack_counter(&lab, machine, "snmp", "Tcp", "RetransSegs")?;
        wait_until(&format!("{machine}'s segments are counted"), LIMIT, || {
            let (counted, lost) = (nic(&lab, machine, "outbound", "packets")?, no_room(&lab, machine)?);
            ensure!(
                counted <= segments && counted + lost * SEGMENTS_MAX >= segments,
                "{segments} segments, {counted} packets, {lost} had no room"
            );
            Ok(true)
        })?;
    }
    lab.expect_balance()
}

fn nic(lab: &Running, machine: &str, direction: &str, unit: &str) -> Result<u64> {
    let labels = [("vm", machine), ("nic", "eth0"), ("direction", direction)];
    Ok(lab.metric(&format!("vnet_nic_{unit}_total"), &labels)? as u64)
}

/// A figure of a machine's device; a cable is laid when it is needed.
fn device(lab: &Running, machine: &str, device: &str, counter: &str) -> Result<u64> {
    let file = format!("/sys/class/net/{device}/statistics/{counter}");
    let text = in_namespace(lab, machine, &["sh", "-c", &format!("cat {file} 2>/dev/null || echo 0")])?;
    Ok(text.trim().parse()?)
}

/// What a machine's NIC had no room for: it keeps 500 packets for a daemon that is late.
fn no_room(lab: &Running, machine: &str) -> Result<u64> {
    device(lab, machine, "eth0", "tx_dropped")
}

/// What the NIC of `a` has handed to the daemon, what the cable of `b` has brought, and what `a` had no room for.
fn device_counters(lab: &Running) -> Result<[u64; 3]> {
    let (read, carried) =
        (device(lab, "a", "eth0", "tx_packets")?, device(lab, "b", "cable-eth0", "rx_packets")?);
    Ok([read, carried, no_room(lab, "a")?])
}

/// Packets and bytes of the sender's NIC, of the peering, and of the receiver's NIC.
fn charged(lab: &Running) -> Result<[u64; 6]> {
    let way = [("from", "left"), ("to", "right")];
    let mut all = [0; 6];
    for (unit, figures) in ["packets", "bytes"].iter().zip(all.chunks_mut(3)) {
        figures[0] = nic(lab, "a", "outbound", unit)?;
        figures[1] = lab.metric(&format!("vnet_peering_{unit}_total"), &way)? as u64;
        figures[2] = nic(lab, "b", "inbound", unit)?;
    }
    Ok(all)
}

/// What was sent, what the devices saw, what flow, NICs and peering were charged with, what the receiver got: the same figure, while
/// the flow began in the daemon, ran in the kernel, was called back by an epoch and went there again.
fn exact(scene: &Scene) -> Result<()> {
    let lab = scene.up(DUAL_STACK)?;
    if !is_on(&lab)? {
        return Ok(());
    }
    for (from, to, address, header) in [
        ("10.1.0.4:4000", "10.2.0.4:5000", "10.1.0.4", 28),
        ("[fd00:1::4]:4000", "[fd00:2::4]:5000", "fd00:1::4", 48),
    ] {
        let offloaded = || Ok::<u64, anyhow::Error>(lab.metric("vnet_offload_packets_total", &[])? as u64);
        let before = (charged(&lab)?, device_counters(&lab)?, offloaded()?);
        let mut stream = stream(&lab, ("a", from), ("b", to))?;
        wait_flow_runs_in(&lab, address, 5000, "kernel")?;
        stream.wait_received(2_000)?;
        // Changes that leave the flow as it is.
        let more = "\nrouteTables: {unused: {routes: []}}\nvirtualMachines:\n";
        for topology in [&edited(DUAL_STACK, "\nvirtualMachines:\n", more), DUAL_STACK] {
            lab.apply(topology)?.ok()?;
            wait_flow_runs_in(&lab, address, 5000, "kernel")?;
            stream.wait_received(2_000)?;
        }
        stream.stop_sending()?;
        let sent = stream.sent();
        wait_until("all figures agree", LIMIT, || {
            let now = device_counters(&lab)?;
            let [read, carried, dropped] = std::array::from_fn(|at| now[at] - before.1[at]);
            let total = sent - dropped;
            ensure!(
                read + carried == total,
                "{sent} sent, devices: {read} read, {carried} brought, {dropped} dropped"
            );
            ensure!(stream.received() == total, "{total} sent, {} received", stream.received());
            let bytes = total * (100 + header);
            let now = charged(&lab)?;
            let grown: [u64; 6] = std::array::from_fn(|at| now[at] - before.0[at]);
            ensure!(
                grown == [total, total, total, bytes, bytes, bytes],
                "{total} and {bytes} charged as {grown:?}"
            );
            let flow = flow(&lab, address, 5000)?.context("the flow is there")?;
            ensure!((number(&flow, "packets")?, bytes_of(&flow)?) == (total, bytes), "{total} sent: {flow}");
            ensure!(offloaded()? - before.2 == carried, "{carried} over the cable");
            ensure!(carried > 4_000 && read > 0, "{carried} in the kernel, {read} in the daemon");
            Ok(true)
        })?;
        stream.end()?;
        ensure!(
            stream.received_bytes() == stream.received() * 100 && stream.strange() == 0,
            "nothing else came"
        );
    }
    lab.expect_balance()
}

/// The rule's flow, its hits, and the counters on its way, while the kernel carries it.
fn through_firewall(scene: &Scene) -> Result<()> {
    let topology = edited(firewall::TOPOLOGY, "ipProtocols: [TCP]", "ipProtocols: [TCP, UDP]");
    let lab = scene.up(&topology)?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let mut stream = stream(&lab, ("web", "10.1.0.4:4000"), ("db", "10.2.0.4:443"))?;
    let first = wait_flow_runs_in(&lab, "10.1.0.4", 443, "kernel")?;
    ensure!(
        first["via"] == serde_json::json!(["fw"]) && first["rule"] == "east-west/web/https",
        "by the firewall's rule: {first}"
    );
    let carried = lab.metric("vnet_offload_packets_total", &[])?;
    // Each look finds what arrived until then, but for what the last merge has not seen: a quarter of a second, and the looks'
    // own time.
    for _ in 0..6 {
        let before = stream.received();
        stream.wait_received(2_000)?;
        let now = flow(&lab, "10.1.0.4", 443)?.context("the flow is listed all the time")?;
        ensure!(now["runsIn"] == "kernel", "it stays there: {now}");
        ensure!(number(&now, "packets")? >= before, "{before} had arrived before: {now}");
        ensure!(number(&now, "idleMs")? < 1_000, "it is never idle: {now}");
        ensure!(firewall::hits(&lab)? == 1.0, "one connection");
    }
    stream.stop_sending()?;
    wait_until("every counter has every packet", LIMIT, || {
        let total = stream.sent() - no_room(&lab, "web")?;
        let flow = flow(&lab, "10.1.0.4", 443)?.context("the flow is there")?;
        let peering =
            |from: &str, to: &str| lab.metric("vnet_peering_bytes_total", &[("from", from), ("to", to)]);
        let found = [
            bytes_of(&flow)?,
            nic(&lab, "web", "outbound", "bytes")?,
            peering("spoke1", "hub")? as u64,
            peering("hub", "spoke2")? as u64,
            nic(&lab, "db", "inbound", "bytes")?,
        ];
        ensure!(
            found == [total * 128; 5] && stream.received() == total,
            "{total} datagrams, {found:?} bytes"
        );
        Ok(true)
    })?;
    let carried = lab.metric("vnet_offload_packets_total", &[])? - carried;
    ensure!(carried >= 10_000.0, "{carried} ran in the kernel");
    stream.end()
}

fn rewritten(scene: &Scene) -> Result<()> {
    // To translate every source is what no private range says.
    let topology =
        edited(egress::FIREWALL, "privateRanges: [10.0.0.0/8]", "privateRanges: [255.255.255.255/32]");
    let plain =
        edited(&topology, "\n  db: {", "\n  near: {subnet: spoke/app, privateIPAddress: 10.1.0.5}\n  db: {");
    let lab = scene.up(&plain)?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let translated = stream(&lab, ("web", "10.1.0.4:4000"), ("db", "10.2.0.4:5000"))?;
    translated.wait_received(1)?;
    let witness = stream(&lab, ("web", "10.1.0.4:4001"), ("near", "10.1.0.5:5001"))?;
    wait_flow_runs_in(&lab, "10.1.0.4", 5001, "kernel")?;
    // Both have come as far: the one in the kernel began later.
    for _ in 0..3 {
        let now = flow(&lab, "10.1.0.4", 5000)?.context("the flow is there")?;
        ensure!(
            now["runsIn"] == "userspace" && now["leavesAs"].is_object(),
            "translated by the daemon: {now}"
        );
        translated.wait_received(1_000)?;
        witness.wait_received(1_000)?;
    }
    Ok(())
}

/// Datagrams with another's source; a NIC has room for them all at once.
const FORGED: u64 = 200;

fn spoofed(scene: &Scene) -> Result<()> {
    let topology =
        edited(&peered(), "\n  b: {", "\n  c: {subnet: left/app, privateIPAddress: 10.1.0.5}\n  b: {");
    let lab = scene.up(&topology)?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let mut genuine = stream(&lab, ("a", "10.1.0.4:4000"), ("b", "10.2.0.4:5000"))?;
    // So that c's NIC has the program too.
    let mut own = stream(&lab, ("c", "10.1.0.5:4000"), ("b", "10.2.0.4:5001"))?;
    wait_flow_runs_in(&lab, "10.1.0.4", 5000, "kernel")?;
    wait_flow_runs_in(&lab, "10.1.0.5", 5001, "kernel")?;
    let before = lab.drops("SpoofedSource")?;
    let dropped = || Ok::<u64, anyhow::Error>((lab.drops("SpoofedSource")? - before) as u64);
    send_raw(&lab.namespace("c"), "10.1.0.4:4000".parse()?, "10.2.0.4:5000".parse()?, FORGED as usize)?;
    wait_until("they are dropped for their source", LIMIT, || Ok(dropped()? > 0))?;
    genuine.wait_received(1_000)?;
    let flow = wait_flow_runs_in(&lab, "10.1.0.4", 5000, "kernel")?;
    ensure!(flow["from"] == "a/eth0", "the flow is still a's: {flow}");
    genuine.stop_sending()?;
    own.stop_sending()?;
    wait_until("what was sent has arrived or is dropped for its source", LIMIT, || {
        Ok(genuine.received() == genuine.sent() - no_room(&lab, "a")?
            && own.received() + dropped()? == own.sent() + FORGED - no_room(&lab, "c")?)
    })?;
    ensure!(genuine.strange() == 0, "{} forged datagrams arrived", genuine.strange());
    wait_until("c is charged with all that it sent", LIMIT, || {
        Ok(nic(&lab, "c", "outbound", "packets")? == own.sent() + FORGED - no_room(&lab, "c")?
            && nic(&lab, "a", "outbound", "packets")? == genuine.sent() - no_room(&lab, "a")?)
    })?;
    genuine.end().and(own.end())
}

fn adopted(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let (_server, client) = transfer(&lab, "12")?;
    wait_runs_in(&lab, "kernel")?;
    lab.daemon().kill();
    // Nobody but the kernel can carry these packets. A TUN counts what the daemon writes, so the receiver's stack is asked.
    let arrived = || stack_counter(&lab, "b", "netstat", "IpExt", "InOctets");
    let at_kill = arrived()?;
    wait_until("the transfer goes on without a daemon", LIMIT, || Ok(arrived()? > at_kill + 10_000_000))?;
    let meanwhile = arrived()? - at_kill;
    lab.daemon().run()?;
    let after = wait_runs_in(&lab, "kernel")?;
    // The stack counts the headers of joined segments once.
    ensure!(bytes_of(&after)? >= meanwhile, "of {meanwhile} bytes without a daemon: {after}");
    wait_until("the adopted flow's count goes on", LIMIT, || {
        let now = data_flow(&lab)?.context("the flow is there")?;
        Ok(bytes_of(&now)? > bytes_of(&after)? + 1_000_000)
    })?;
    let report = Report::read(&client.finish(LIMIT)?)?;
    ensure!(report.longest_silence() < 2.0, "silent for {} s", report.longest_silence());
    lab.expect_balance()
}

/// What bpftool knows of programs and maps, by the kernel's numbers for them.
struct Loaded(Vec<(&'static str, u64)>);

impl Loaded {
    /// Those that are pinned for a lab.
    fn of(lab: &Running) -> Result<Loaded> {
        let pinned = |kind: &'static str, name: &str| -> Result<(&'static str, u64)> {
            let path = format!("/sys/fs/bpf/vnetd/{}/{name}", lab.name());
            let mut command = Command::new("bpftool");
            command.args(["-j", kind, "show", "pinned", &path]);
            Ok((kind, number(&process::output(&mut command, LIMIT)?.ok()?.json()?, "id")?))
        };
        let programs = ["nic_egress", "fabric_ingress", "nic_ingress"].map(|name| pinned("prog", name));
        let maps = ["control", "buckets"].map(|name| pinned("map", name));
        programs.into_iter().chain(maps).collect::<Result<_>>().map(Loaded)
    }

    /// How many of them are still there.
    fn left(&self) -> Result<usize> {
        let mut left = 0;
        for (kind, id) in &self.0 {
            let mut command = Command::new("bpftool");
            command.args(["-j", kind, "show", "id", &id.to_string()]);
            left += usize::from(process::output(&mut command, LIMIT)?.success());
        }
        Ok(left)
    }

    /// The kernel ends them when it has ended the devices that they are attached to.
    fn expect_gone(&self, lab: &Running) -> Result<()> {
        wait_until("programs and maps are gone", LIMIT, || Ok(self.left()? == 0))?;
        let pins = format!("/sys/fs/bpf/vnetd/{}", lab.name());
        ensure!(!fs::exists(&pins)?, "{pins} is left");
        ensure!(
            !fs::exists(format!("/run/netns/{}", lab.namespace("fabric")))?,
            "the hidden namespace is left"
        );
        Ok(())
    }
}

fn removed(scene: &Scene) -> Result<()> {
    let mut lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let in_kernel = |lab: &Running| -> Result<(Stream, Loaded)> {
        let stream = stream(lab, ("a", "10.1.0.4:4000"), ("b", "10.2.0.4:5000"))?;
        wait_flow_runs_in(lab, "10.1.0.4", 5000, "kernel")?;
        Ok((stream, Loaded::of(lab)?))
    };
    // Killed, started again, taken down.
    let (stream, loaded) = in_kernel(&lab)?;
    lab.daemon().kill();
    stream.wait_received(1_000)?;
    ensure!(loaded.left()? == 5, "all of it outlives the daemon");
    lab.daemon().run()?;
    wait_flow_runs_in(&lab, "10.1.0.4", 5000, "kernel")?;
    drop(stream);
    lab.down()?;
    loaded.expect_gone(&lab)?;
    // Killed, and its successor is told to do without: the lab goes on.
    lab.up(&peered())?.ok()?;
    let (stream, loaded) = in_kernel(&lab)?;
    lab.daemon().kill();
    lab.daemon().clone().env("VNETD_OFFLOAD", "off").run()?;
    loaded.expect_gone(&lab)?;
    stream.wait_received(1_000)?;
    wait_flow_runs_in(&lab, "10.1.0.4", 5000, "userspace")?;
    drop(stream);
    lab.down()?;
    lab.daemon().stop()?;
    lab.daemon().run()?;
    // Killed, and what it had accepted is lost: the next daemon sweeps it away.
    lab.up(&peered())?.ok()?;
    let (stream, loaded) = in_kernel(&lab)?;
    lab.daemon().kill();
    drop(stream);
    fs::remove_file(lab.daemon().state_folder().join(lab.name()).join("accepted.json"))?;
    lab.daemon().run()?;
    loaded.expect_gone(&lab)
}

fn captured(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    let (_server, client) = transfer(&lab, "12")?;
    let on = is_on(&lab)?;
    if on {
        wait_runs_in(&lab, "kernel")?;
    }
    for target in ["b", "left/right"] {
        let file = scene.folder().join(format!("{}.pcapng", target.replace('/', "-")));
        let path = file.to_string_lossy().into_owned();
        let mut command = lab.daemon().ctl();
        command.env("VNETCTL_LAB", lab.name()).args(["capture", target, "-w", &path, "--count", "2000"]);
        let capture = Program::start(&mut command)?;
        wait_until("the capture writes", LIMIT, || Ok(file.metadata().is_ok_and(|file| file.len() > 0)))?;
        wait_runs_in(&lab, "userspace")?;
        capture.finish(LIMIT)?.ok()?;
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-n", "-r", &path, "tcp port 5201"]);
        let packets = process::output(&mut tcpdump, LIMIT)?.ok()?.stdout.lines().count();
        ensure!(packets > 1_000, "{packets} packets of the transfer to {target}");
        let bytes = fs::read(&file)?;
        let verdict = b"from a/eth0: Allow, to b/eth0";
        let said = bytes.windows(verdict.len()).any(|window| window == verdict);
        ensure!(said || target == "b", "the verdict is a comment");
    }
    if on {
        wait_runs_in(&lab, "kernel")?;
    }
    client.finish(LIMIT)?.ok()?;
    lab.expect_balance()
}

/// A transfer that the daemon carries alone.
fn expect_all_in_userspace(lab: &Running) -> Result<()> {
    let (_server, client) = transfer(lab, "4")?;
    wait_runs_in(lab, "userspace")?;
    let report = Report::read(&client.finish(LIMIT)?)?;
    let rate = report.received_bits_per_second()?;
    ensure!(rate > 150e6, "the rate holds: {rate}");
    ensure!(lab.metric("vnet_offload_packets_total", &[])? == 0.0, "the kernel carries nothing");
    lab.expect_balance()
}

fn shown(lab: &Running) -> Result<(String, String)> {
    let shown = lab.json(&["show", "offload"])?;
    let text = |pointer: &str| shown.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("/value/0/state"), text("/value/0/properties/reason")))
}

fn switched_off(scene: &Scene) -> Result<()> {
    let daemon = scene.idle_daemon()?.env("VNETD_OFFLOAD", "off");
    daemon.run()?;
    let lab = scene.up_on(daemon, &peered())?;
    ensure!(
        shown(&lab)? == ("Off".to_owned(), "--offload off".to_owned()),
        "show says that it is off, and why"
    );
    expect_all_in_userspace(&lab)
}

/// Sees no bpffs and cannot mount one.
const NO_BPFFS: &[&str] = &[
    "unshare",
    "--mount",
    "--propagation",
    "unchanged",
    "sh",
    "-c",
    "mount --make-rprivate /sys && mount -t tmpfs -o ro tmpfs /sys/fs && exec \"$0\" \"$@\"",
];

/// May not call bpf(2): seccomp answers EPERM, as in a container.
const NO_BPF_CALL: &[&str] = &[
    "perl",
    "-e",
    r#"my ($prctl, $bpf) = `uname -m` =~ /aarch64/ ? (167, 280) : (157, 321);
       my $rules = pack("SCCL" x 4, 0x20, 0, 0, 0, 0x15, 0, 1, $bpf, 6, 0, 0, 0x50001, 6, 0, 0, 0x7fff0000);
       my $filter = pack("S x![P] P", 4, $rules);
       syscall($prctl, 22, 2, $filter, 0, 0) == 0 or die "seccomp: $!";
       exec @ARGV or die "exec: $!""#,
    "--",
];

/// A daemon that lacks what it takes says what, to `show` and to `doctor`, and carries everything itself.
fn cannot(scene: &Scene) -> Result<()> {
    for (wrapper, missing) in [(NO_BPFFS, "/sys/fs/bpf"), (NO_BPF_CALL, "Operation not permitted")] {
        let daemon = scene.idle_daemon()?.wrapped_in(wrapper);
        daemon.run()?;
        let mut lab = scene.up_on(daemon, &peered())?;
        ensure!(!is_on(&lab)?, "show and doctor give the same reason");
        let (_, reason) = shown(&lab)?;
        let is_said = [missing, "built without clang"].iter().any(|what| reason.contains(what));
        ensure!(is_said, "it says that {missing} is the obstacle: {reason}");
        let remedy = examined(&lab)?["remedy"].as_str().unwrap_or_default().to_owned();
        ensure!(remedy.contains("bpf(2)"), "and what to do: {remedy}");
        expect_all_in_userspace(&lab)?;
        lab.down()?;
    }
    Ok(())
}
