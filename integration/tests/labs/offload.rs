//! Plain flows in the kernel: what runs there, how it stops, and what a new daemon finds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnet_integration::iperf::Report;
use vnet_integration::lab::{Lab as Running, edited};
use vnet_integration::process::{self, Running as Program};
use vnet_integration::suite::Lab;
use vnet_integration::{Scene, wait_until};

use crate::peering::{TWO, peered};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("offload::a_transfer_runs_in_the_kernel_and_is_counted", counted).needs(&["iperf3"]).alone(),
    Lab::new("offload::a_change_of_policy_stops_a_transfer_at_once", stopped)
        .needs(&["iperf3", "tcpdump"])
        .alone(),
    Lab::new("offload::a_transfer_outlives_the_daemon_and_is_adopted", adopted).needs(&["iperf3"]).alone(),
    Lab::new("offload::a_capture_sees_every_packet", captured).needs(&["iperf3", "tcpdump"]).alone(),
    Lab::new("offload::switched_off_all_stays_in_the_daemon", switched_off).needs(&["iperf3"]).alone(),
];

const LIMIT: Duration = Duration::from_secs(20);

/// How the lab's own daemon says that the kernel carries flows; a host that cannot leaves nothing to show.
fn is_on(lab: &Running) -> Result<bool> {
    let shown = lab.json(&["show", "offload"])?;
    let state = shown["value"][0]["state"].as_str().context("show says whether the offload is on")?;
    Ok(state == "On")
}

/// The flow that carries the transfer's data, as `flows` has it.
fn data_flow(lab: &Running) -> Result<Option<Value>> {
    let flows = lab.json(&["flows"])?;
    let all = flows["value"].as_array().context("no list of flows")?;
    let own = |flow: &&Value| flow["source"] == "10.1.0.4" && flow["destinationPort"] == 5201;
    Ok(all.iter().filter(own).max_by_key(|flow| flow["bytes"].as_u64()).cloned())
}

fn wait_runs_in(lab: &Running, place: &str) -> Result<Value> {
    let mut found = Value::Null;
    wait_until(&format!("the transfer runs in {place}"), LIMIT, || {
        found = data_flow(lab)?.unwrap_or_default();
        Ok(found["runsIn"] == place)
    })?;
    Ok(found)
}

/// A transfer from a to b, paced so that it leaves the machine room for others.
fn transfer(lab: &Running, seconds: &str) -> Result<(Program, Program)> {
    let server = lab.serve("b", 5201, &["iperf3", "-s", "-1"])?;
    let client =
        lab.spawn_apart("a", &["iperf3", "-c", "10.2.0.4", "-t", seconds, "-b", "200M", "--json"])?;
    Ok((server, client))
}

fn bytes_of(flow: &Value) -> Result<u64> {
    flow["bytes"].as_u64().context("a flow has bytes")
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
    let nic = [("vm", "b"), ("nic", "eth0"), ("direction", "inbound")];
    let received = lab.metric("vnet_nic_bytes_total", &nic)?;
    ensure!(received >= report.received_bytes()?, "{received} bytes at the NIC");
    lab.expect_balance()
}

fn stopped(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let (_server, _client) = transfer(&lab, "60")?;
    wait_runs_in(&lab, "kernel")?;
    let initiated = edited(TWO, "# left half", "peerings: {right: {}}");
    let capture = lab.capture("b", "eth0", "dst port 5201 and src host 10.1.0.4")?;
    lab.apply(&initiated)?.ok()?;
    let changed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    // Long enough for a sender that was not stopped to be seen.
    std::thread::sleep(Duration::from_secs(1));
    let times = capture.stop()?.times()?;
    let last = times.last().context("packets arrived before the change")?;
    ensure!(last - changed < 0.010, "packets arrive until {} s after the change", last - changed);
    ensure!(lab.drops("RouteNone")? > 0.0, "what comes after it is dropped by its reason");
    let flow = data_flow(&lab)?.context("the denied flow is there")?;
    ensure!(flow["runsIn"] == "userspace", "a denied flow is not carried by the kernel: {flow}");
    Ok(())
}

fn adopted(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let (_server, client) = transfer(&lab, "12")?;
    let before = bytes_of(&wait_runs_in(&lab, "kernel")?)?;
    lab.daemon().kill();
    // Nobody but the kernel can carry these packets.
    let arrived = || -> Result<u64> {
        let mut cat = std::process::Command::new("ip");
        let namespace = lab.namespace("b");
        cat.args(["netns", "exec", &namespace, "cat", "/sys/class/net/eth0/statistics/rx_bytes"]);
        Ok(process::output(&mut cat, LIMIT)?.ok()?.stdout.trim().parse()?)
    };
    let at_kill = arrived()?;
    wait_until("the transfer goes on without a daemon", LIMIT, || Ok(arrived()? > at_kill + 10_000_000))?;
    lab.daemon().run()?;
    let after = wait_runs_in(&lab, "kernel")?;
    ensure!(bytes_of(&after)? > before + 10_000_000, "what the kernel carried meanwhile is counted");
    wait_until("the adopted flow's count goes on", LIMIT, || {
        let now = data_flow(&lab)?.context("the flow is there")?;
        Ok(bytes_of(&now)? > bytes_of(&after)? + 1_000_000)
    })?;
    let report = Report::read(&client.finish(LIMIT)?)?;
    ensure!(report.longest_silence() < 2.0, "silent for {} s", report.longest_silence());
    lab.expect_balance()
}

fn captured(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    let (_server, client) = transfer(&lab, "12")?;
    if is_on(&lab)? {
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
        let mut tcpdump = std::process::Command::new("tcpdump");
        tcpdump.args(["-n", "-r", &path, "tcp port 5201"]);
        let packets = process::output(&mut tcpdump, LIMIT)?.ok()?.stdout.lines().count();
        ensure!(packets > 1_000, "{packets} packets of the transfer to {target}");
        let bytes = std::fs::read(&file)?;
        let verdict = b"from a/eth0: Allow, to b/eth0";
        let said = bytes.windows(verdict.len()).any(|window| window == verdict);
        ensure!(said || target == "b", "the verdict is a comment");
    }
    if is_on(&lab)? {
        wait_runs_in(&lab, "kernel")?;
    }
    client.finish(LIMIT)?.ok()?;
    lab.expect_balance()
}

fn switched_off(scene: &Scene) -> Result<()> {
    let daemon = scene.idle_daemon()?.env("VNETD_OFFLOAD", "off");
    daemon.run()?;
    let lab = scene.up_on(daemon, &peered())?;
    ensure!(!is_on(&lab)?, "show says that it is off");
    let (_server, client) = transfer(&lab, "4")?;
    wait_runs_in(&lab, "userspace")?;
    let report = Report::read(&client.finish(LIMIT)?)?;
    ensure!(
        report.received_bits_per_second()? > 150e6,
        "the rate holds: {}",
        report.received_bits_per_second()?
    );
    ensure!(lab.metric("vnet_offload_packets_total", &[])? == 0.0, "the kernel carries nothing");
    lab.expect_balance()
}
