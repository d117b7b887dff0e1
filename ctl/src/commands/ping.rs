//! `ping`: probes from inside a machine.

use anyhow::anyhow;
use hyper::Method;
use serde::Serialize;
use vnet_api::{PingEvent, PingRequest, PingSummary, ProbeOutcome, ProbeResult, Service};

use crate::context::{Context, say};
use crate::output::{Format, Style, round_trip};

#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// The machine that sends.
    from: String,
    /// A machine or an address.
    to: String,
    /// tcp/PORT, udp/PORT or icmp.
    #[arg(default_value = "icmp")]
    service: Service,
    /// How many probes.
    #[arg(long, short, default_value_t = 4, value_name = "N")]
    count: u32,
    /// Milliseconds between two.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    interval_ms: u64,
    /// Milliseconds to wait for each answer.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout_ms: u64,
    /// Bytes of payload.
    #[arg(long, default_value_t = 56, value_name = "BYTES")]
    size: u16,
}

/// Everything, for -o json and yaml.
#[derive(Default, Serialize)]
struct Report {
    replies: Vec<ProbeResult>,
    summary: PingSummary,
}

impl Ping {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = context.lab_path("/ping").await?;
        let request = PingRequest {
            from: self.from,
            to: self.to,
            service: self.service,
            count: self.count,
            interval_ms: self.interval_ms,
            timeout_ms: self.timeout_ms,
            payload_bytes: self.size,
        };
        let live = context.format == Format::Table;
        let mut report = Report::default();
        let body = serde_json::to_vec(&request)?;
        context
            .client
            .stream(Method::POST, &path, Some(body), |event| {
                match event {
                    PingEvent::Reply { sequence, result } => {
                        if live {
                            say(&format!("{sequence}: {}", line(&result, context.style)))?;
                        }
                        report.replies.push(result);
                    }
                    PingEvent::Summary(summary) => report.summary = summary,
                    PingEvent::Error(body) => return Err(anyhow!(body)),
                }
                Ok(())
            })
            .await?;
        context.print(&report, |report| summary(&report.summary))?;
        Ok(u8::from(report.summary.answered == 0))
    }
}

pub(crate) fn line(result: &ProbeResult, style: Style) -> String {
    let way = if result.via.is_empty() { String::new() } else { format!(" via {}", result.via.join(", ")) };
    let why = result.reason.as_deref().unwrap_or("no reason known");
    let rule = result.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
    let ends = format!("{} -> {}", result.source, result.destination);
    match (result.outcome, result.rtt_us) {
        (ProbeOutcome::Answered, Some(rtt)) => {
            format!("{ends} {} in {}{way}", style.good("answered"), round_trip(rtt))
        }
        (ProbeOutcome::Answered, None) => format!("{ends} {}{way}", style.good("answered")),
        (ProbeOutcome::Dropped, _) => format!("{ends} {}: {why}{rule}{way}", style.bad("dropped")),
        (ProbeOutcome::AnswerLost, _) => {
            format!("{ends} arrived{way}; its answer was {}: {why}{rule}", style.bad("lost"))
        }
        (ProbeOutcome::NoAnswer, _) => {
            format!("{ends} {}; the lab dropped nothing of it", style.bad("no answer"))
        }
    }
}

fn summary(summary: &PingSummary) -> String {
    let mut text = format!("{} sent, {} answered", summary.sent, summary.answered);
    if let Some(rtt) = summary.rtt {
        text.push_str(&format!(
            "; round trip min {}, avg {}, p99 {}, max {}",
            round_trip(rtt.min_us),
            round_trip(rtt.avg_us),
            round_trip(rtt.p99_us),
            round_trip(rtt.max_us)
        ));
    }
    text
}
