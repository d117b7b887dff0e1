//! What rates and delays are worth: datagrams with number and time, offered by a machine to another.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnet_integration::one_way::{Arrivals, Load, measure as send};

use crate::bench::Bench;
use crate::bench::lab::{BenchLab, Offload};
use crate::bench::samples::Samples;
use crate::bench::section::{Aim, Bound, Figure, Section};

/// A machine's rate, offered a fifth more.
pub(crate) const SHAPER: Section = Section {
    name: "shaper",
    title: "Shaper: a machine's bandwidth, offered 1.2 times as UDP",
    figures: &[
        Figure::neutral("offered_mbps", "offered (Mb/s)"),
        Figure::neutral("arrived_mbps", "arrived (Mb/s)"),
        Figure::less("rate_error_percent", "off the rate (%)"),
        Figure::neutral("queue_ms", "one way, median (ms)"),
        Figure::less("queue_p99_ms", "p99 (ms)"),
        Figure::less("reordered", "reordered"),
    ],
    pairs: &[],
    aims: &[
        Aim::each("rate_error_percent", Bound::AtMost(1.0)),
        // The queue holds 50 ms.
        Aim::each("queue_p99_ms", Bound::AtMost(55.0)),
        Aim::each("reordered", Bound::AtMost(0.0)),
    ],
    is_quick: false,
    measure: shaper,
};

/// A delay line at 1 Gb/s.
pub(crate) const DELAY: Section = Section {
    name: "delay",
    title: "Delay line at 1 Gb/s",
    figures: &[
        Figure::neutral("arrived_mbps", "arrived (Mb/s)"),
        Figure::neutral("p50_us", "one way, median (us)"),
        Figure::less("p50_error_us", "off the delay (us)"),
        Figure::less("p99_error_us", "p99 (us)"),
        Figure::less("reordered", "reordered"),
        Figure::less("lost", "lost"),
    ],
    pairs: &[],
    aims: &[
        Aim::each("p50_error_us", Bound::AtMost(50.0)),
        Aim::each("p99_error_us", Bound::AtMost(200.0)),
        Aim::each("reordered", Bound::AtMost(0.0)),
    ],
    is_quick: false,
    measure: delay,
};

const PORT: u16 = 7007;
/// IP packets of 1400 bytes.
const DATAGRAM_BYTES: u16 = 1372;
/// Datagrams of one super-packet, where single ones would be the sender's limit.
const SEGMENTS: u16 = 44;
/// After so long a shaper has to be at its rate.
const SETTLE: Duration = Duration::from_secs(2);

/// Path, machine, rate, datagrams that are sent as one.
const RATES: &[(&str, &str, u64, u16)] = &[
    ("10 Mb/s", "r10", 10, 1),
    ("100 Mb/s", "r100", 100, 1),
    ("100 Mb/s, super-packets", "r100", 100, SEGMENTS),
    ("1 Gb/s", "r1000", 1000, 1),
    ("1 Gb/s, super-packets", "r1000", 1000, SEGMENTS),
    ("5 Gb/s, super-packets", "r5000", 5000, SEGMENTS),
];

const SHAPED: &str = "\
name: bench
location: eastus
virtualNetworks:
  a: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {b: {}}}
  b: {addressSpace: [10.2.0.0/16], subnets: {s: 10.2.0.0/24}, peerings: {a: {}}}
virtualMachines:
  r10: {subnet: a/s, bandwidthMbps: 10}
  r100: {subnet: a/s, bandwidthMbps: 100}
  r1000: {subnet: a/s, bandwidthMbps: 1000}
  r5000: {subnet: a/s, bandwidthMbps: 5000}
  server: {subnet: b/s, privateIPAddress: 10.2.0.4}
";

/// Path, machine, address, one way.
const DELAYS: &[(&str, &str, &str, Duration)] = &[
    ("0.1 ms", "d100us", "10.2.0.4", Duration::from_micros(100)),
    ("1 ms", "d1", "10.3.0.4", Duration::from_millis(1)),
    ("10 ms", "d10", "10.4.0.4", Duration::from_millis(10)),
    ("50 ms", "d50", "10.5.0.4", Duration::from_millis(50)),
    ("200 ms", "d200", "10.6.0.4", Duration::from_millis(200)),
];

const DELAYED: &str = "\
name: bench
location: eastus
virtualNetworks:
  a: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {b: {}, c: {}, d: {}, e: {}, f: {}}}
  b: {addressSpace: [10.2.0.0/16], location: eastus2, subnets: {s: 10.2.0.0/24}, peerings: {a: {}}}
  c: {addressSpace: [10.3.0.0/16], location: centralus, subnets: {s: 10.3.0.0/24}, peerings: {a: {}}}
  d: {addressSpace: [10.4.0.0/16], location: westus, subnets: {s: 10.4.0.0/24}, peerings: {a: {}}}
  e: {addressSpace: [10.5.0.0/16], location: westeurope, subnets: {s: 10.5.0.0/24}, peerings: {a: {}}}
  f: {addressSpace: [10.6.0.0/16], location: australiaeast, subnets: {s: 10.6.0.0/24}, peerings: {a: {}}}
virtualMachines:
  client: {subnet: a/s}
  d100us: {subnet: b/s, privateIPAddress: 10.2.0.4}
  d1: {subnet: c/s, privateIPAddress: 10.3.0.4}
  d10: {subnet: d/s, privateIPAddress: 10.4.0.4}
  d50: {subnet: e/s, privateIPAddress: 10.5.0.4}
  d200: {subnet: f/s, privateIPAddress: 10.6.0.4}
regions: {latency: {eastus: {eastus2: 0.2, centralus: 2, westus: 20, westeurope: 100, australiaeast: 400}}}
";

fn shaper(bench: &Bench) -> Result<Samples> {
    let lab = BenchLab::start(bench, "rates", SHAPED, Offload::Off)?;
    let mut samples = Samples::default();
    for round in 0..bench.plan.rounds {
        for (path, machine, mbps, segments) in RATES {
            let rate = mbps * 1_000_000;
            let load = Load {
                rate_bps: rate * 6 / 5,
                segments: *segments,
                duration: SETTLE + seconds(bench),
                settle: SETTLE,
                datagram_bytes: DATAGRAM_BYTES,
            };
            let arrivals = take(&lab, machine, "server", "10.2.0.4", &load)?;
            let error = (arrivals.rate_bps / rate as f64 - 1.0).abs() * 100.0;
            samples.extend(
                path,
                [
                    ("offered_mbps", arrivals.offered_bps / 1e6),
                    ("arrived_mbps", arrivals.rate_bps / 1e6),
                    ("rate_error_percent", error),
                    ("queue_ms", arrivals.delay(0.5).as_secs_f64() * 1e3),
                    ("queue_p99_ms", arrivals.delay(0.99).as_secs_f64() * 1e3),
                    ("reordered", arrivals.reordered as f64),
                ],
            );
        }
        println!("round {} of {}", round + 1, bench.plan.rounds);
    }
    Ok(samples)
}

fn delay(bench: &Bench) -> Result<Samples> {
    let lab = BenchLab::start(bench, "delays", DELAYED, Offload::Off)?;
    let mut samples = Samples::default();
    for round in 0..bench.plan.rounds {
        for (path, machine, address, delay) in DELAYS {
            let load = Load {
                rate_bps: 1_000_000_000,
                segments: 1,
                duration: seconds(bench),
                settle: Duration::from_millis(100),
                datagram_bytes: DATAGRAM_BYTES,
            };
            let arrivals = take(&lab, "client", machine, address, &load)?;
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            let error = |share| micros(arrivals.delay(share)) - micros(*delay);
            samples.extend(
                path,
                [
                    ("arrived_mbps", arrivals.rate_bps / 1e6),
                    ("p50_us", micros(arrivals.delay(0.5))),
                    ("p50_error_us", error(0.5).abs()),
                    ("p99_error_us", error(0.99).abs().max(error(0.01).abs())),
                    ("reordered", arrivals.reordered as f64),
                    ("lost", (arrivals.sent - arrivals.received) as f64),
                ],
            );
        }
        println!("round {} of {}", round + 1, bench.plan.rounds);
    }
    Ok(samples)
}

fn seconds(bench: &Bench) -> Duration {
    Duration::from_secs(u64::from(bench.plan.seconds))
}

fn take(lab: &BenchLab, from: &str, to: &str, address: &str, load: &Load) -> Result<Arrivals> {
    let lab = lab.lab();
    let arrivals =
        send(&lab.namespace(from), &lab.namespace(to), format!("{address}:{PORT}").parse()?, load)?;
    ensure!(arrivals.settled() > 0, "none of {} datagrams arrived after settling", arrivals.sent);
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_accepted() {
        for text in [SHAPED, DELAYED] {
            // A lab puts its own name in the place of this one.
            assert_eq!(text.lines().filter(|line| line.starts_with("name:")).count(), 1);
            let loaded = vnet_config::load(text, "bench.yaml", None);
            assert!(loaded.is_ok(), "{:?}", loaded.err());
        }
    }
}
