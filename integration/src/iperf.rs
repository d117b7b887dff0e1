//! iperf3's JSON report, read.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Output;

/// What one run measured.
#[derive(Clone, Debug)]
pub struct Report(Value);

impl Report {
    /// Reads `iperf3 --json`.
    ///
    /// # Errors
    /// iperf3 failed: the error carries its own.
    pub fn read(output: &Output) -> Result<Report> {
        let report = output.json()?;
        if let Some(error) = report.get("error").and_then(Value::as_str) {
            bail!("{}: {error}", output.command);
        }
        Ok(Report(report))
    }

    /// TCP segments sent again.
    ///
    /// # Errors
    /// The report has no such figure, as one of UDP.
    pub fn retransmissions(&self) -> Result<u64> {
        self.number("/end/sum_sent/retransmits").map(|value| value as u64)
    }

    /// The receiver's rate in bits per second.
    ///
    /// # Errors
    /// The report has no such figure.
    pub fn received_bits_per_second(&self) -> Result<f64> {
        self.number("/end/sum_received/bits_per_second").or_else(|_| self.number("/end/sum/bits_per_second"))
    }

    /// Bytes that the receiver got.
    ///
    /// # Errors
    /// The report has no such figure.
    pub fn received_bytes(&self) -> Result<f64> {
        self.number("/end/sum_received/bytes")
    }

    /// The rate of each interval in bits per second, with its start and end in seconds.
    pub fn intervals(&self) -> Vec<(f64, f64, f64)> {
        let sums = self.0.pointer("/intervals").and_then(Value::as_array).into_iter().flatten();
        sums.filter_map(|interval| {
            let sum = interval.get("sum")?;
            let figure = |name: &str| sum.get(name).and_then(Value::as_f64);
            Some((figure("start")?, figure("end")?, figure("bits_per_second")?))
        })
        .collect()
    }

    /// The longest time without a byte, in seconds.
    pub fn longest_silence(&self) -> f64 {
        let mut longest: f64 = 0.0;
        let mut silence = 0.0;
        for (start, end, rate) in self.intervals() {
            silence = if rate > 0.0 { 0.0 } else { silence + end - start };
            longest = longest.max(silence);
        }
        longest
    }

    fn number(&self, pointer: &str) -> Result<f64> {
        self.0
            .pointer(pointer)
            .and_then(Value::as_f64)
            .with_context(|| format!("the report has no {pointer}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_silent_intervals() {
        let interval = |start: f64, rate: f64| serde_json::json!({"sum": {"start": start, "end": start + 0.5, "bits_per_second": rate}});
        let intervals = [(0.0, 1.0), (0.5, 0.0), (1.0, 0.0), (1.5, 9.0), (2.0, 0.0)];
        let report = Report(serde_json::json!({
            "intervals": intervals.iter().map(|(start, rate)| interval(*start, *rate)).collect::<Vec<_>>()
        }));
        assert_eq!(report.longest_silence(), 1.0);
    }
}
