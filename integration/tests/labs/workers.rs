//! More than one worker: each has a queue of every device, and the kernel hashes flows onto the queues.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::one_way::{Arrivals, Load, measure};
use vnet_integration::suite::Lab;
use vnet_integration::{Scene, process, wait_until};

use crate::firewall;

pub(crate) const LABS: &[Lab] = &[
    Lab::new("workers::two_keep_each_flow_in_order_and_lose_no_count", two_keep_order).alone(),
    Lab::new("workers::two_adopt_what_runs_in_the_kernel", two_adopt).alone(),
];

const WORKERS: usize = 2;
/// Flows of each way. All on one queue is one case in 2^17.
const FLOWS: u16 = 6;
const FIRST_PORT: u16 = 7_000;
/// Timers wake a worker four times a second; only packets do it so often.
const BATCHES_MIN: f64 = 500.0;
const LIMIT: Duration = Duration::from_secs(10);

/// By the peering there and back, and through the firewall.
const WAYS: [(&str, &str, &str); 3] =
    [("web", "near", "10.0.2.4"), ("near", "web", "10.1.0.4"), ("web", "db", "10.2.0.4")];
const LOAD: Load = Load {
    rate_bps: 20_000_000,
    datagram_bytes: 472,
    segments: 1,
    duration: Duration::from_secs(2),
    settle: Duration::ZERO,
};

fn topology() -> String {
    let ports = format!("'{FIRST_PORT}-{}'", FIRST_PORT + FLOWS * WAYS.len() as u16);
    let udp = edited(firewall::TOPOLOGY, "ipProtocols: [TCP]", "ipProtocols: [UDP]");
    let udp = edited(&udp, "'443'", &ports);
    edited(
        &udp,
        "virtualMachines:\n",
        "virtualMachines:\n  near: {subnet: hub/shared, privateIPAddress: 10.0.2.4}\n",
    )
}

fn two_keep_order(scene: &Scene) -> Result<()> {
    // What changes from the daemon to the kernel in the midst of a flow is not the workers' matter.
    let daemon = scene.idle_daemon()?.env("VNETD_WORKERS", &WORKERS.to_string()).env("VNETD_OFFLOAD", "off");
    daemon.run()?;
    let lab = scene.up_on(daemon, &topology())?;
    let before = batches(&lab)?;
    let arrivals = run_flows(&lab)?;
    for (name, Arrivals { received, reordered, .. }) in &arrivals {
        ensure!(*received > 0, "{name}: nothing arrived");
        ensure!(*reordered == 0, "{name}: {reordered} of {received} overtook");
    }
    for (worker, (before, after)) in before.iter().zip(batches(&lab)?).enumerate() {
        ensure!(after - before >= BATCHES_MIN, "worker {worker} had {} batches", after - before);
    }
    let sum = |of: fn(&Arrivals) -> u64| arrivals.iter().map(|(_, one)| of(one)).sum::<u64>() as f64;
    let (sent, arrived) = (sum(|one| one.sent), sum(|one| one.received));
    let refused = refused_by_devices(&lab)?;
    wait_until("the daemon has counted what the machines have seen", LIMIT, || {
        let (received, delivered) = (packets(&lab, "received")?, packets(&lab, "sent")?);
        ensure!(
            received + refused == sent,
            "{sent} sent, of which devices refused {refused}; {received} received"
        );
        ensure!(delivered == arrived, "{delivered} written, {arrived} arrived");
        Ok(true)
    })?;
    lab.expect_balance()
}

/// What came of a flow, behind its way and port.
type Outcome = (String, Arrivals);

/// All flows of all ways at the same time.
fn run_flows(lab: &RunningLab) -> Result<Vec<Outcome>> {
    let flows = WAYS.iter().flat_map(|way| (0..FLOWS).map(move |_| way)).zip(FIRST_PORT..);
    std::thread::scope(|scope| {
        let running: Vec<_> = flows
            .map(|(&(from, to, address), port)| {
                let flow = scope.spawn(move || {
                    let destination = format!("{address}:{port}").parse()?;
                    measure(&lab.namespace(from), &lab.namespace(to), destination, &LOAD)
                });
                (format!("{from} to {to}, port {port}"), flow)
            })
            .collect();
        running
            .into_iter()
            .map(|(name, flow)| {
                let arrivals = flow.join().map_err(|_| anyhow!("a flow's thread panicked"))?;
                let arrivals = arrivals.with_context(|| name.clone())?;
                Ok((name, arrivals))
            })
            .collect()
    })
}

fn batches(lab: &RunningLab) -> Result<Vec<f64>> {
    (0..WORKERS)
        .map(|worker| lab.metric("vnet_worker_batches_total", &[("worker", &worker.to_string())]))
        .collect()
}

fn packets(lab: &RunningLab, fate: &str) -> Result<f64> {
    lab.metric("vnet_packets_total", &[("fate", fate)])
}

/// Packets for which a machine's NIC had no room while the daemon was late.
fn refused_by_devices(lab: &RunningLab) -> Result<f64> {
    let machines: BTreeSet<&str> = WAYS.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    machines.into_iter().try_fold(0.0, |sum, machine| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.namespace(machine)]);
        command.args(["cat", "/sys/class/net/eth0/statistics/tx_dropped"]);
        let dropped = process::output(&mut command, LIMIT)?.ok()?.stdout;
        let dropped: f64 = dropped.trim().parse().with_context(|| format!("{machine}: {dropped}"))?;
        Ok(sum + dropped)
    })
}

/// Datagrams of each flow, a flow a port.
const OFFLOADED_FLOWS: u16 = 8;

/// Each flow from near to web and back once, and with all that was sent since the daemon began: nothing is counted that did not
/// come, and nothing twice.
fn expect_each_once(lab: &RunningLab) -> Result<usize> {
    let flows = lab.json(&["flows"])?;
    let all = flows["value"].as_array().context("no list of flows")?;
    let mut in_kernel = 0;
    for port in (FIRST_PORT..).take(usize::from(OFFLOADED_FLOWS)) {
        let own: Vec<_> = all
            .iter()
            .filter(|flow| flow["source"] == "10.1.0.4" && flow["destinationPort"] == port)
            .collect();
        ensure!(own.len() <= 1, "port {port} is listed {} times: {own:?}", own.len());
        in_kernel += own.iter().filter(|flow| flow["runsIn"] == "kernel").count();
    }
    Ok(in_kernel)
}

fn two_adopt(scene: &Scene) -> Result<()> {
    let daemon = scene.idle_daemon()?.env("VNETD_WORKERS", &WORKERS.to_string());
    daemon.run()?;
    let lab = scene.up_on(daemon, &topology())?;
    if !crate::offload::is_on(&lab)? {
        return Ok(());
    }
    let mut streams = (0..OFFLOADED_FLOWS)
        .map(|flow| {
            let (from, to) =
                (format!("10.1.0.4:{}", 4_000 + flow), format!("10.0.2.4:{}", FIRST_PORT + flow));
            crate::offload::stream(&lab, ("web", &from), ("near", &to))
        })
        .collect::<Result<Vec<_>>>()?;
    let all_in_kernel = |when: &str| {
        wait_until(&format!("every flow runs in the kernel {when}"), LIMIT, || {
            Ok(expect_each_once(&lab)? == usize::from(OFFLOADED_FLOWS))
        })
    };
    all_in_kernel("at first")?;
    lab.daemon().kill();
    streams.iter().try_for_each(|stream| stream.wait_received(500))?;
    lab.daemon().run()?;
    all_in_kernel("after the restart")?;
    // Every packet comes to the workers again, to whichever queue the kernel chooses.
    for topology in
        [edited(&topology(), "routeTables:\n", "routeTables:\n  unused: {routes: []}\n"), topology()]
    {
        lab.apply(&topology)?.ok()?;
        all_in_kernel("after an apply")?;
        streams.iter().try_for_each(|stream| stream.wait_received(200))?;
    }
    streams.iter_mut().try_for_each(|stream| stream.stop_sending())?;
    let web = |direction: &str| {
        let labels = [("vm", "web"), ("nic", "eth0"), ("direction", direction)];
        Ok::<u64, anyhow::Error>(lab.metric("vnet_nic_packets_total", &labels)? as u64)
    };
    wait_until("flows and NIC have counted the same", LIMIT, || {
        let flows = lab.json(&["flows"])?;
        let all = flows["value"].as_array().context("no list of flows")?;
        let own = all.iter().filter(|flow| flow["source"] == "10.1.0.4");
        let sum: u64 = own.filter_map(|flow| flow["packets"].as_u64()).sum();
        let charged = web("outbound")?;
        ensure!(sum == charged, "{sum} at the flows, {charged} at the NIC");
        Ok(expect_each_once(&lab)? <= usize::from(OFFLOADED_FLOWS))
    })?;
    streams.iter_mut().try_for_each(|stream| stream.end())?;
    lab.expect_balance()
}
