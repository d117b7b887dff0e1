//! `traffic`: throughput and latency between two machines.

use std::io::IsTerminal;

use anyhow::anyhow;
use hyper::Method;
use vnet_api::{Protocol, Service, TrafficEvent, TrafficReport, TrafficRequest};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{bytes, round_trip};

#[derive(Debug, clap::Args)]
pub(crate) struct Traffic {
    /// The machine that sends.
    from: String,
    /// The machine that receives.
    to: String,
    /// tcp/PORT or udp/PORT.
    #[arg(default_value = "tcp/5201")]
    service: Service,
    /// Seconds.
    #[arg(long, short, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Parallel streams.
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// Offered rate in megabits a second; as fast as it goes for TCP if not given.
    #[arg(long, value_name = "MBPS")]
    rate_mbps: Option<u64>,
}

impl Traffic {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        match (self.service.protocol, self.rate_mbps) {
            (Protocol::Icmp, _) => return Err(Failure::usage("traffic is tcp/PORT or udp/PORT")),
            (Protocol::Udp, None) => {
                return Err(Failure::usage("udp needs --rate-mbps: it does not slow down by itself"));
            }
            _ => {}
        }
        let path = context.lab_path("/traffic").await?;
        let request = TrafficRequest {
            from: self.from,
            to: self.to,
            service: self.service,
            duration_ms: self.duration * 1000,
            streams: self.streams,
            rate_mbps: self.rate_mbps,
        };
        let shown = std::io::stderr().is_terminal();
        let mut end = None;
        let body = serde_json::to_vec(&request)?;
        context
            .client
            .stream(Method::POST, &path, Some(body), |event| {
                match event {
                    TrafficEvent::Interval(interval) if shown => {
                        crate::output::tell(format_args!(
                            "  {:>5.1} s  {:>8.1} Mb/s",
                            interval.at_ms as f64 / 1000.0,
                            interval.mbps
                        ));
                    }
                    TrafficEvent::Interval(_) => {}
                    TrafficEvent::Report(report) => end = Some(report),
                    TrafficEvent::Error(body) => return Err(anyhow!(body)),
                }
                Ok(())
            })
            .await?;
        let report = end.ok_or_else(|| anyhow!("vnetd ended the measurement without a result"))?;
        context.print(&report, text)?;
        Ok(u8::from(report.bytes == 0))
    }
}

fn text(report: &TrafficReport) -> String {
    let way =
        if report.via.is_empty() { "direct".to_owned() } else { format!("via {}", report.via.join(", ")) };
    let mut lines = vec![format!("{:.1} Mb/s, {} received, {way}", report.mbps, bytes(report.bytes))];
    if let (Some(sent), Some(lost)) = (report.datagrams_sent, report.datagrams_lost) {
        let percent = if sent == 0 { 0.0 } else { 100.0 * lost as f64 / sent as f64 };
        lines.push(format!("datagrams: {sent} sent, {lost} lost ({percent:.2} %)"));
    }
    if let Some(again) = report.retransmissions {
        lines.push(format!("retransmissions: {again}"));
    }
    if let Some(rtt) = report.rtt {
        lines.push(format!(
            "round trip under load: min {}, p50 {}, p99 {}",
            round_trip(rtt.min_us),
            round_trip(rtt.p50_us),
            round_trip(rtt.p99_us)
        ));
    }
    lines.join("\n")
}
