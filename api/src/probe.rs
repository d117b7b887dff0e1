//! Probes: real packets that the daemon sends from inside a machine, without any program there.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lab::TopologyFile;
use crate::live::FlowVerdict;
use crate::service::Service;

/// One packet (for TCP: one connection attempt) and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeRequest {
    /// A machine: VM, on-premises host or internet host.
    pub from: String,
    /// A machine or an address.
    pub to: String,
    /// What is asked for.
    pub service: Service,
    /// How long an answer is waited for, in milliseconds.
    pub timeout_ms: u64,
    /// Bytes of payload, where the protocol carries any.
    #[serde(default)]
    pub payload_bytes: u16,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeOutcome {
    /// The other side answered: the packet arrived and its answer came back.
    Answered,
    /// The packet arrived, and its answer was dropped on the way back, or arrived elsewhere, or as no answer to it.
    AnswerLost,
    /// The packet was dropped on the way out.
    Dropped,
    /// No answer, and the lab dropped nothing of it: it was lost outside the lab's sight.
    NoAnswer,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// How it ended.
    pub outcome: ProbeOutcome,
    /// The address that was sent from.
    pub source: IpAddr,
    /// The address that was sent to.
    pub destination: IpAddr,
    /// Round trip in microseconds, if it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// The reason of the drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that allowed the packet or dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// All rules of firewalls and security groups that let the packet pass, in order.
    #[serde(default)]
    pub rules: Vec<String>,
    /// Appliances that the packet passed.
    #[serde(default)]
    pub via: Vec<String>,
    /// Appliances that the answer passed.
    #[serde(default)]
    pub via_reverse: Vec<String>,
    /// The source address that the receiver saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_seen_as: Option<IpAddr>,
    /// The machine that got the packet, where that is not the one that was asked for: both have the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_to: Option<String>,
}

impl ProbeResult {
    /// Allow if it was answered.
    pub fn verdict(&self) -> FlowVerdict {
        match self.outcome {
            ProbeOutcome::Answered => FlowVerdict::Allow,
            _ => FlowVerdict::Deny,
        }
    }
}

/// A probe held against the prediction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeComparison {
    /// What the packet did.
    pub result: ProbeResult,
    /// Whether that is what was predicted.
    pub agrees: bool,
    /// Each point in which it differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// Asks for a series of probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PingRequest {
    /// A machine.
    pub from: String,
    /// A machine or an address.
    pub to: String,
    /// What is asked for.
    pub service: Service,
    /// How many; at most 10,000.
    pub count: u32,
    /// Time between two, in milliseconds.
    pub interval_ms: u64,
    /// How long each answer is waited for, in milliseconds.
    pub timeout_ms: u64,
    /// Bytes of payload.
    #[serde(default)]
    pub payload_bytes: u16,
}

/// One line of the answer to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum PingEvent {
    /// One probe.
    Reply {
        /// From 1.
        sequence: u32,
        /// What became of it.
        result: ProbeResult,
    },
    /// The end.
    Summary(PingSummary),
    /// It could not go on.
    Error(crate::ErrorBody),
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RttSummary {
    /// Shortest.
    pub min_us: u64,
    /// Mean.
    pub avg_us: u64,
    /// Half are shorter.
    pub p50_us: u64,
    /// 99 of 100 are shorter.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

impl RttSummary {
    /// Of a set of samples in microseconds, which it sorts; `None` if it is empty.
    pub fn of(samples: &mut [u64]) -> Option<RttSummary> {
        samples.sort_unstable();
        let (first, last) = (*samples.first()?, *samples.last()?);
        let rank = |percent: usize| samples[(samples.len() * percent).div_ceil(100).max(1) - 1];
        let avg_us = samples.iter().sum::<u64>() / samples.len() as u64;
        Some(RttSummary { min_us: first, avg_us, p50_us: rank(50), p99_us: rank(99), max_us: last })
    }
}

/// The end of a ping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PingSummary {
    /// Probes sent.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
    /// Round trips of the answered ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<RttSummary>,
}

/// Asks for a measurement of throughput and latency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRequest {
    /// A machine: it sends.
    pub from: String,
    /// A machine: it receives.
    pub to: String,
    /// TCP or UDP, and the receiver's port.
    pub service: Service,
    /// How long, in milliseconds; at most one hour.
    pub duration_ms: u64,
    /// Parallel streams, 1 to 64.
    pub streams: u16,
    /// Offered rate over all streams in megabits a second; required for UDP, as fast as it goes for TCP if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_mbps: Option<u64>,
}

/// One second of a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficInterval {
    /// Since the start, in milliseconds.
    pub at_ms: u64,
    /// Payload bytes received in this interval.
    pub bytes: u64,
    /// Payload rate in megabits a second.
    pub mbps: f64,
}

/// The result of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficReport {
    /// Payload bytes received.
    pub bytes: u64,
    /// Payload rate in megabits a second, over the whole time.
    pub mbps: f64,
    /// UDP datagrams sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_sent: Option<u64>,
    /// UDP datagrams that did not arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_lost: Option<u64>,
    /// TCP segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmissions: Option<u64>,
    /// Round trips measured while the traffic ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<RttSummary>,
    /// Appliances on the way.
    #[serde(default)]
    pub via: Vec<String>,
}

/// One line of the answer to a traffic request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum TrafficEvent {
    /// A second has passed.
    Interval(TrafficInterval),
    /// The end.
    Report(TrafficReport),
    /// It could not go on.
    Error(crate::ErrorBody),
}

/// Asks for the proof of an `expect` list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestRequest {
    /// The file whose list is taken; the lab's own if none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<TopologyFile>,
}

/// How one expectation came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExpectOutcome {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// It could not be tried.
    Error,
}

/// One expectation, tried between one pair with real packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectResult {
    /// Place in the `expect` list, from 1.
    pub index: usize,
    /// What is expected, in one line: `web -> db tcp/443 allow via fw`.
    pub title: String,
    /// How it came out.
    pub outcome: ExpectOutcome,
    /// Each point in which it differs, or why it could not be tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// The packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeResult>,
    /// Measured rate in megabits a second, where `minMbps` asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbps: Option<f64>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// The end of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestSummary {
    /// As expected.
    pub passed: usize,
    /// Not as expected.
    pub failed: usize,
    /// Could not be tried.
    pub errors: usize,
    /// How long all took, in milliseconds.
    pub ms: u64,
}

/// One line of the answer to a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum TestEvent {
    /// One expectation between one pair.
    Result(Box<ExpectResult>),
    /// The end.
    Summary(TestSummary),
    /// It could not go on.
    Error(crate::ErrorBody),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summarises_round_trips() {
        assert_eq!(RttSummary::of(&mut []), None);
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        let expected = RttSummary { min_us: 1, avg_us: 50, p50_us: 50, p99_us: 99, max_us: 100 };
        assert_eq!(RttSummary::of(&mut samples), Some(expected));
    }
}
