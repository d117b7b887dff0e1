//! The measures of a path, each taken by a program that everybody has: iperf3 and sockperf.

use std::time::Duration;

use anyhow::{Context, Result};
use vnet_integration::iperf::Report;
use vnet_integration::process::Output;

use super::Plan;
use super::cpu::Usage;
use super::path::{Path, SOCKPERF_PORT, on_processor};
use super::section::Figure;

/// One measure; it gives several figures.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// A transfer over one TCP connection.
    Tcp1,
    /// Over four.
    Tcp4,
    /// Over sixteen.
    Tcp16,
    /// Datagrams of 64 bytes, as many as go.
    SmallPackets,
    /// One datagram there and back, the next when it is back.
    RoundTrip,
}

/// The figures that all measures give.
pub(crate) const FIGURES: &[Figure] = &[
    Figure::more("tcp1_gbps", "TCP, 1 stream (Gb/s)"),
    Figure::more("tcp4_gbps", "TCP, 4 streams (Gb/s)"),
    Figure::more("tcp16_gbps", "TCP, 16 streams (Gb/s)"),
    Figure::more("udp64_kpps", "UDP, 64 bytes (1000/s)"),
    Figure::less("rtt_us", "round trip, median (us)"),
    Figure::less("rtt_p99_us", "round trip, p99 (us)"),
    Figure::cost("tcp1_machine_ns_per_byte", "TCP 1: machine (ns/byte)"),
    Figure::cost("tcp1_carrier_ns_per_byte", "carrier (ns/byte)"),
    Figure::cost("tcp4_machine_ns_per_byte", "TCP 4: machine (ns/byte)"),
    Figure::cost("tcp4_carrier_ns_per_byte", "carrier (ns/byte)"),
    Figure::cost("tcp16_machine_ns_per_byte", "TCP 16: machine (ns/byte)"),
    Figure::cost("tcp16_carrier_ns_per_byte", "carrier (ns/byte)"),
    Figure::cost("udp64_machine_ns_per_packet", "UDP: machine (ns/packet)"),
    Figure::cost("udp64_carrier_ns_per_packet", "carrier (ns/packet)"),
    Figure::cost("udp64_calls_per_packet", "reads and writes (1/packet)"),
    Figure::cost("udp64_sleeps_per_packet", "sleeps (1/packet)"),
    Figure::cost("rtt_machine_us", "round trip: machine (us)"),
    Figure::cost("rtt_carrier_us", "carrier (us)"),
];

/// Figures of one measure, by name.
pub(crate) type Taken = Vec<(&'static str, f64)>;

impl Measure {
    /// As in the progress.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Measure::Tcp1 => "TCP, 1 stream",
            Measure::Tcp4 => "TCP, 4 streams",
            Measure::Tcp16 => "TCP, 16 streams",
            Measure::SmallPackets => "UDP, 64 bytes",
            Measure::RoundTrip => "round trip",
        }
    }

    /// Takes it once.
    pub(crate) fn take(self, path: &Path, plan: &Plan) -> Result<Taken> {
        let seconds = plan.seconds;
        let taken = match self {
            Measure::Tcp1 => {
                tcp(path, plan, 1, ["tcp1_gbps", "tcp1_machine_ns_per_byte", "tcp1_carrier_ns_per_byte"])
            }
            Measure::Tcp4 => {
                tcp(path, plan, 4, ["tcp4_gbps", "tcp4_machine_ns_per_byte", "tcp4_carrier_ns_per_byte"])
            }
            Measure::Tcp16 => {
                tcp(path, plan, 16, ["tcp16_gbps", "tcp16_machine_ns_per_byte", "tcp16_carrier_ns_per_byte"])
            }
            Measure::SmallPackets => small_packets(path, seconds),
            Measure::RoundTrip => round_trip(path, seconds),
        };
        taken.with_context(|| format!("{} of {}", self.title(), path.name))
    }
}

fn limit(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds) + 30)
}

/// Runs a client program; its output, and what it cost.
fn measured(path: &Path, arguments: &[&str], seconds: u32) -> Result<(Output, Usage)> {
    let before = Usage::read(&path.carriers)?;
    let output = path.client(arguments, limit(seconds))?;
    Ok((output, Usage::read(&path.carriers)? - before))
}

fn tcp(path: &Path, plan: &Plan, streams: u32, names: [&'static str; 3]) -> Result<Taken> {
    let (seconds, streams) = (plan.seconds.to_string(), streams.to_string());
    let congestion = plan.congestion.as_str();
    let arguments = ["iperf3", "-c", &path.address, "-t", &seconds, "-P", &streams, "-C", congestion, "-J"];
    let (output, spent) = measured(path, &arguments, plan.seconds)?;
    let report = Report::read(&output).with_context(|| shown(&output))?;
    let bytes = report.received_bytes().with_context(|| shown(&output))?;
    let rate = report.received_bits_per_second().with_context(|| shown(&output))? / 1e9;
    let costs = [rate, spent.machine_ns as f64 / bytes, spent.carriers_ns as f64 / bytes];
    Ok(of_carriers(path, names.into_iter().zip(costs)))
}

/// Datagrams of 64 bytes that arrive.
fn small_packets(path: &Path, seconds: u32) -> Result<Taken> {
    let seconds_text = seconds.to_string();
    let arguments = ["iperf3", "-c", &path.address, "-u", "-b", "0", "-l", "64", "-t", &seconds_text, "-J"];
    let (output, spent) = measured(path, &arguments, seconds)?;
    let report = output.json()?;
    let figure = |name: &str| {
        let value = report.pointer(&format!("/end/sum/{name}")).and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("iperf3 reports no {name}: {}", shown(&output)))
    };
    let delivered = figure("packets")? - figure("lost_packets")?;
    let figures = [
        ("udp64_kpps", delivered / figure("seconds")? / 1e3),
        ("udp64_machine_ns_per_packet", spent.machine_ns as f64 / delivered),
        ("udp64_carrier_ns_per_packet", spent.carriers_ns as f64 / delivered),
        ("udp64_calls_per_packet", spent.calls as f64 / delivered),
        ("udp64_sleeps_per_packet", spent.sleeps as f64 / delivered),
    ];
    Ok(of_carriers(path, figures))
}

fn round_trip(path: &Path, seconds: u32) -> Result<Taken> {
    let (seconds_text, port) = (seconds.to_string(), SOCKPERF_PORT.to_string());
    let (program, address) = ("sockperf", path.address.as_str());
    let arguments =
        [program, "ping-pong", "-i", address, "-p", &port, "-t", &seconds_text, "-m", "64", "--full-rtt"];
    let (output, spent) = measured(path, &on_processor("0", &arguments), seconds)?;
    let output = output.ok()?;
    let text = format!("{}{}", output.stdout, output.stderr);
    let after = |label: &str| {
        let value = text.lines().find_map(|line| Some(line.split_once(label)?.1));
        let number = value.and_then(|value| value.split([';', ' ']).find(|part| !part.is_empty()));
        number
            .and_then(|number| number.parse::<f64>().ok())
            .with_context(|| format!("sockperf reports no '{label}':\n{text}"))
    };
    let trips = after("ReceivedMessages=")?;
    let figures = [
        ("rtt_us", after("percentile 50.000 =")?),
        ("rtt_p99_us", after("percentile 99.000 =")?),
        ("rtt_machine_us", spent.machine_ns as f64 / 1e3 / trips),
        ("rtt_carrier_us", spent.carriers_ns as f64 / 1e3 / trips),
    ];
    Ok(of_carriers(path, figures))
}

/// Without the figures of carriers where there are none.
fn of_carriers(path: &Path, figures: impl IntoIterator<Item = (&'static str, f64)>) -> Taken {
    let belongs = |name: &str| {
        !path.carriers.is_empty() || !["carrier", "calls", "sleeps"].iter().any(|part| name.contains(part))
    };
    figures.into_iter().filter(|(name, _)| belongs(name)).collect()
}

/// The end of what a program printed.
fn shown(output: &Output) -> String {
    let text = format!("{}: {}{}", output.command, output.stdout, output.stderr);
    let from = text.char_indices().rev().nth(1500).map_or(0, |(at, _)| at);
    text[from..].to_owned()
}
