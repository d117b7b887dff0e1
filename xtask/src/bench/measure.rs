//! The measures, each taken by a program that everybody has: iperf3 and sockperf.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vnet_integration::iperf::Report;

use super::paths::Path;

/// One kind of figure.
pub(crate) struct Measure {
    /// As in the JSON.
    pub(crate) name: &'static str,
    /// As in the table.
    pub(crate) title: &'static str,
    /// Whether a smaller figure is the better one.
    pub(crate) is_time: bool,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp { streams: u32 },
    SmallPackets,
    RoundTrip,
}

/// All of them.
pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "tcp1_gbps",
        title: "TCP, 1 stream (Gb/s)",
        is_time: false,
        kind: Kind::Tcp { streams: 1 },
    },
    Measure {
        name: "tcp4_gbps",
        title: "TCP, 4 streams (Gb/s)",
        is_time: false,
        kind: Kind::Tcp { streams: 4 },
    },
    Measure {
        name: "udp64_kpps",
        title: "UDP, 64 bytes (1000 packets/s)",
        is_time: false,
        kind: Kind::SmallPackets,
    },
    Measure { name: "rtt_us", title: "round trip, median (us)", is_time: true, kind: Kind::RoundTrip },
];

impl Measure {
    /// Takes it once.
    pub(crate) fn take(&self, path: &Path, seconds: u32) -> Result<f64> {
        match self.kind {
            Kind::Tcp { streams } => tcp(path, seconds, streams),
            Kind::SmallPackets => small_packets(path, seconds),
            Kind::RoundTrip => round_trip(path, seconds),
        }
    }
}

fn limit(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds) + 30)
}

fn tcp(path: &Path, seconds: u32, streams: u32) -> Result<f64> {
    let (seconds_text, streams) = (seconds.to_string(), streams.to_string());
    let output = path.client(
        &["iperf3", "-c", &path.address, "-t", &seconds_text, "-P", &streams, "-O", "1", "-J"],
        limit(seconds),
    )?;
    Ok(Report::read(&output)?.received_bits_per_second()? / 1e9)
}

/// Datagrams of 64 bytes that arrive.
fn small_packets(path: &Path, seconds: u32) -> Result<f64> {
    let seconds_text = seconds.to_string();
    let output = path.client(
        &["iperf3", "-c", &path.address, "-u", "-b", "0", "-l", "64", "-t", &seconds_text, "-J"],
        limit(seconds),
    )?;
    let report = output.json()?;
    let figure = |name: &str| {
        report.pointer(&format!("/end/sum/{name}")).and_then(serde_json::Value::as_f64).with_context(|| {
            format!("iperf3 reports no {name}: {}", output.stdout.chars().take(400).collect::<String>())
        })
    };
    Ok((figure("packets")? - figure("lost_packets")?) / figure("seconds")? / 1e3)
}

fn round_trip(path: &Path, seconds: u32) -> Result<f64> {
    let seconds_text = seconds.to_string();
    let output = path.client(
        &[
            "sockperf",
            "ping-pong",
            "-i",
            &path.address,
            "-p",
            "11111",
            "-t",
            &seconds_text,
            "-m",
            "64",
            "--full-rtt",
        ],
        limit(seconds),
    )?;
    let output = output.ok()?;
    let text = format!("{}{}", output.stdout, output.stderr);
    for line in text.lines() {
        if let Some((_, value)) = line.split_once("percentile 50.000 =") {
            return value.trim().parse().with_context(|| line.to_owned());
        }
    }
    bail!("sockperf reports no median:\n{text}")
}

/// All figures taken, by path and measure.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Samples(BTreeMap<String, BTreeMap<String, Vec<f64>>>);

/// Several figures of one measure, as one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Samples {
    /// Takes in one figure.
    pub(crate) fn add(&mut self, path: &str, measure: &str, value: f64) {
        self.0.entry(path.to_owned()).or_default().entry(measure.to_owned()).or_default().push(value);
    }

    /// What the figures of one measure on one path come to.
    pub(crate) fn summary(&self, path: &str, measure: &str) -> Option<Summary> {
        let mut values = self.0.get(path)?.get(measure)?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            *values.get(middle)?
        } else {
            (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0
        };
        Some(Summary { median, min: *values.first()?, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_median() {
        let mut samples = Samples::default();
        for value in [9.0, 1.0, 3.0] {
            samples.add("a", "b", value);
        }
        assert_eq!(samples.summary("a", "b"), Some(Summary { median: 3.0, min: 1.0, max: 9.0 }));
        samples.add("a", "b", 5.0);
        assert_eq!(samples.summary("a", "b").unwrap().median, 4.0);
        assert_eq!(samples.summary("a", "c"), None);
    }
}
