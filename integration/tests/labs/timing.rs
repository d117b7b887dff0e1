//! Rates and delays with real packets. A machine that builds beside a lab may starve the sender or the daemon: usual runs ask
//! for what shows the mechanism, the long ones for what the project promises.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vnet_integration::lab::Lab as RunningLab;
use vnet_integration::one_way::{Arrivals, Load, measure};
use vnet_integration::suite::Lab;
use vnet_integration::{Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("timing::a_machine_sends_at_its_bandwidth", sends_at_its_bandwidth).alone(),
    Lab::new("timing::a_delay_is_kept", delay_is_kept).alone(),
    Lab::new("timing::tcp_fills_a_delayed_and_shaped_way", tcp_fills_the_way).needs(&["iperf3"]).alone(),
];

const TOPOLOGY: &str = "\
name: timing
location: eastus
virtualNetworks:
  a: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {b: {}, c: {}}}
  b: {addressSpace: [10.2.0.0/16], location: eastus2, subnets: {s: 10.2.0.0/24}, peerings: {a: {}}}
  c: {addressSpace: [10.3.0.0/16], location: westus, subnets: {s: 10.3.0.0/24}, peerings: {a: {}}}
virtualMachines:
  r10: {subnet: a/s, bandwidthMbps: 10}
  r200: {subnet: a/s, bandwidthMbps: 200}
  free: {subnet: a/s}
  near: {subnet: b/s, privateIPAddress: 10.2.0.4}
  far: {subnet: c/s, privateIPAddress: 10.3.0.4}
regions: {latency: {eastus: {eastus2: 2, westus: 40}}}
";

/// Best of so many.
const ROUNDS: usize = 3;

/// How far off the rate, and how late the median and 99 of 100 packets may be.
struct Bounds {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn bounds() -> Bounds {
    let micros = Duration::from_micros;
    if std::env::var_os("VNET_NIGHTLY").is_some() {
        Bounds { rate: 0.01, p50: micros(50), p99: micros(200) }
    } else {
        Bounds { rate: 0.05, p50: micros(3_000), p99: micros(30_000) }
    }
}

/// Repeats until one round is within its bounds: the error is then None.
fn best(mut round: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        match round()? {
            None => return Ok(()),
            Some(error) => seen.push(error),
        }
    }
    bail!("in no round: {}", seen.join("; "))
}

fn take(lab: &RunningLab, from: &str, to: &str, address: &str, load: &Load) -> Result<Arrivals> {
    let arrivals =
        measure(&lab.namespace(from), &lab.namespace(to), format!("{address}:7007").parse()?, load)
            .with_context(|| format!("{from} to {to}"))?;
    // Whatever the machine does meanwhile: order is not a matter of luck.
    ensure!(arrivals.reordered == 0, "{} of {} overtook", arrivals.reordered, arrivals.received);
    Ok(arrivals)
}

fn sends_at_its_bandwidth(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let shown = lab.ctl(&["show", "virtualMachines"])?.ok()?.stdout;
    ensure!(shown.contains("200 Mb/s"), "show names the bandwidth:\n{shown}");
    for (machine, mbps, segments) in [("r10", 10, 1), ("r10", 10, 40), ("r200", 200, 1), ("r200", 200, 40)] {
        let rate = mbps * 1_000_000;
        let load = Load {
            rate_bps: rate * 6 / 5,
            datagram_bytes: 1372,
            segments,
            duration: Duration::from_secs(4),
            settle: Duration::from_secs(2),
        };
        best(|| {
            let arrivals = take(&lab, machine, "near", "10.2.0.4", &load)?;
            let (arrived, expected) = (arrivals.rate_bps, rate as f64);
            // The queue holds 50 ms; the way takes 1.
            let waited = arrivals.delay(0.99);
            let is_kept = (arrived / expected - 1.0).abs() <= bounds().rate
                && waited > Duration::from_millis(20)
                && waited < Duration::from_millis(60) + bounds().p99;
            Ok((!is_kept).then(|| format!("{machine}, {segments} at once: {arrived:.0} b/s, {waited:?}")))
        })?;
    }
    ensure!(lab.drops("ShaperQueueFull")? > 0.0, "what does not fit is dropped and counted");

    let load = Load {
        rate_bps: 12_000_000,
        datagram_bytes: 1372,
        segments: 1,
        duration: Duration::from_secs(5),
        settle: Duration::ZERO,
    };
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| take(&lab, "r10", "near", "10.2.0.4", &load));
        let queued = wait_until("the queue shows", Duration::from_secs(4), || {
            let labels = [("vm", "r10")];
            let delay = lab.metric("vnet_vm_shaper_delay_seconds", &labels)?;
            let bytes = lab.metric("vnet_vm_shaper_queue_bytes", &labels)?;
            Ok(delay > 0.02 && delay < 0.06 && bytes > 20_000.0)
        });
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        queued
    })
}

fn delay_is_kept(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    for (machine, address, delay) in [("near", "10.2.0.4", 1), ("far", "10.3.0.4", 20)] {
        let load = Load {
            rate_bps: 200_000_000,
            datagram_bytes: 1372,
            segments: 1,
            duration: Duration::from_secs(2),
            settle: Duration::from_millis(200),
        };
        let (delay, bounds) = (Duration::from_millis(delay), bounds());
        best(|| {
            let arrivals = take(&lab, "free", machine, address, &load)?;
            let (first, p50, p99) = (arrivals.delay(0.01), arrivals.delay(0.5), arrivals.delay(0.99));
            let is_kept =
                first + bounds.p99 >= delay && p50 <= delay + bounds.p50 && p99 <= delay + bounds.p99;
            Ok((!is_kept).then(|| format!("{machine}: {first:?} to {p99:?}, {p50:?} mostly")))
        })?;
    }
    lab.expect_balance()
}

/// 200 Mb/s and 40 ms there and back: a window of 1 MB.
fn tcp_fills_the_way(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    best(|| {
        let server = lab.serve("far", 5201, &["iperf3", "-s", "-1", "-J"])?;
        let client = ["iperf3", "-c", "10.3.0.4", "-t", "6", "-O", "2", "-J"];
        lab.exec_within("r200", &client, Duration::from_secs(30))?.ok()?;
        let report = vnet_integration::iperf::Report::read(&server.finish_open(Duration::from_secs(10))?)?;
        // Of each 1500 bytes 1448 are payload.
        let rate = report.received_bits_per_second()? * 1500.0 / 1448.0;
        Ok((!(0.7 * 200e6..=1.02 * 200e6).contains(&rate)).then(|| format!("{rate:.0} b/s")))
    })
}
