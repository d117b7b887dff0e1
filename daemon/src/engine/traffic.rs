//! Built-in traffic between two machines.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use vnet_api::{Protocol, RttSummary, TrafficInterval, TrafficReport, TrafficRequest};

use super::lab::Lab;
use super::{live, probe};
use crate::api::{Answer, ApiError};
use crate::host::probe::{Cancel, Outcome, TrafficSpec, Transport, traffic as run};

/// The longest measurement.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Most streams of one measurement.
const STREAMS_MAX: u16 = 128;
/// Rate of UDP where none is asked for.
const UDP_RATE_DEFAULT_BPS: u64 = 10_000_000;
/// Payload of a datagram: fits the tunnels' MTU.
const DATAGRAM_BYTES: u16 = 1200;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs traffic and reports it.
pub(super) fn traffic(
    lab: &Arc<Lab>,
    request: &TrafficRequest,
    intervals: &mpsc::Sender<TrafficInterval>,
) -> Answer<TrafficReport> {
    let ends = probe::ends(lab, &request.from, &request.to)?;
    let Some(to) = &ends.to else {
        return Err(ApiError::bad_request(format!(
            "'{}' is no machine of the lab: nobody can receive there.",
            request.to
        )));
    };
    let rate_bps = request.rate_mbps.map(|rate| rate * 1_000_000);
    let transport = match request.service.protocol {
        Protocol::Tcp => Transport::Tcp { rate_bps },
        Protocol::Udp => Transport::Udp {
            rate_bps: rate_bps.unwrap_or(UDP_RATE_DEFAULT_BPS),
            datagram_bytes: DATAGRAM_BYTES,
        },
        Protocol::Icmp => return Err(ApiError::bad_request("Traffic is tcp or udp: ICMP echo is for ping.")),
    };
    let spec = TrafficSpec {
        destination: std::net::SocketAddr::new(ends.destination, request.service.port),
        source: Some(ends.source),
        transport,
        duration: Duration::from_millis(request.duration_ms).min(DURATION_MAX),
        streams: request.streams.clamp(1, STREAMS_MAX),
        connect_timeout: CONNECT_TIMEOUT,
    };
    let cancel = Cancel::default();
    let mut via = Vec::new();
    let report = run(&ends.from, to, &spec, &cancel, |interval| {
        if intervals.is_closed() {
            cancel.cancel();
        }
        let seconds = interval.length.as_secs_f64();
        let mbps = if seconds > 0.0 { interval.bytes as f64 * 8.0 / seconds / 1e6 } else { 0.0 };
        // A reader that is slow loses lines, not the measurement its time.
        let at_ms = interval.at.as_millis() as u64;
        let _ = intervals.try_send(TrafficInterval { at_ms, bytes: interval.bytes, mbps });
        if via.is_empty() {
            via = busiest_way(lab, &ends);
        }
    });
    match report.map_err(|error| ApiError::internal(error.to_string()))? {
        Ok(mut report) => {
            let udp = request.service.protocol == Protocol::Udp;
            Ok(TrafficReport {
                bytes: report.bytes,
                mbps: report.rate_bps() / 1e6,
                datagrams_sent: udp.then_some(report.datagrams_sent),
                datagrams_lost: udp.then(|| report.datagrams_sent.saturating_sub(report.datagrams_received)),
                retransmissions: (!udp).then_some(report.retransmissions),
                rtt: RttSummary::of(&mut report.rtt_us),
                via,
            })
        }
        Err(outcome) => Err(ApiError::conflict(unconnected(&request.from, &request.to, outcome))),
    }
}

/// The appliances of the busiest flow between the two ends.
fn busiest_way(lab: &Lab, ends: &probe::Ends) -> Vec<String> {
    let snapshot = lab.snapshot();
    let flows = live::flow_records(lab);
    let own = flows
        .iter()
        .filter(|flow| flow.tuple.source == ends.source && flow.tuple.destination == ends.destination);
    own.max_by_key(|flow| flow.bytes).map(|flow| live::via(&snapshot, flow)).unwrap_or_default()
}

fn unconnected(from: &str, to: &str, outcome: Outcome) -> String {
    let why = match outcome {
        Outcome::Refused(_) => "the receiver refused the connection",
        Outcome::TimedOut => "no answer; `vnetctl path` and `vnetctl drops` say why",
        Outcome::Unreachable { .. } | Outcome::NotSent(_) => "there is no way there",
        _ => "it did not come about",
    };
    format!("No connection from '{from}' to '{to}': {why}.")
}
