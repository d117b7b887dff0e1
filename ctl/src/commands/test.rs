//! `test`: the `expect` list, proved with real packets.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use hyper::Method;
use serde::Serialize;
use vnet_api::{ExpectOutcome, ExpectResult, TestEvent, TestRequest, TestSummary};

use crate::client::segment;
use crate::context::{Context, say};
use crate::failure::{COULD_NOT_RUN, Failure};
use crate::output::{Format, Style, duration};
use crate::topology;

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// Prove this file's list on the lab that runs; the lab's own if none is named; - for standard input.
    file: Option<PathBuf>,
    /// Write a JUnit report too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print TAP 14 in place of lines for people.
    #[arg(long)]
    tap: bool,
}

#[derive(Default, Serialize)]
struct Report {
    results: Vec<ExpectResult>,
    summary: TestSummary,
}

impl Test {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        self.prove(context).await.map_err(|error| Failure::with_code(COULD_NOT_RUN, error))
    }

    async fn prove(self, context: &Context) -> anyhow::Result<u8> {
        let (path, request) = match &self.file {
            Some(file) => {
                let source = topology::read(file)?;
                let request = TestRequest { topology: Some(source.request().topology) };
                (format!("/v1/labs/{}/test", segment(source.lab())), request)
            }
            None => (context.lab_path("/test").await?, TestRequest::default()),
        };
        let live = context.format == Format::Table && !self.tap;
        let mut report = Report::default();
        let body = serde_json::to_vec(&request)?;
        context
            .client
            .stream(Method::POST, &path, Some(body), |event| {
                match event {
                    TestEvent::Result(result) => {
                        if live {
                            say(&lines(&result, context.style))?;
                        }
                        report.results.push(*result);
                    }
                    TestEvent::Summary(summary) => report.summary = summary,
                    TestEvent::Error(body) => return Err(anyhow!(body)),
                }
                Ok(())
            })
            .await?;
        if let Some(file) = &self.junit {
            std::fs::write(file, junit(&report))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        match self.tap {
            true => say(&tap(&report))?,
            false => context.print(&report, |report| summary(&report.summary, context.style))?,
        }
        Ok(exit_code(&report.summary))
    }
}

/// 1 where one failed, else 2 where one could not run: a failure is worth more than what is not known.
fn exit_code(summary: &TestSummary) -> u8 {
    match (summary.failed, summary.errors) {
        (0, 0) => 0,
        (0, _) => COULD_NOT_RUN,
        _ => 1,
    }
}

fn lines(result: &ExpectResult, style: Style) -> String {
    let mark = match result.outcome {
        ExpectOutcome::Pass => style.good("[PASS]"),
        ExpectOutcome::Fail => style.bad("[FAIL]"),
        ExpectOutcome::Error => style.doubtful("[ERROR]"),
    };
    let mut text = format!("{mark} {}", result.title);
    if let Some(mbps) = result.mbps {
        text.push_str(&format!(" ({mbps:.1} Mb/s)"));
    }
    for message in &result.messages {
        text.push_str(&format!("\n       {message}"));
    }
    text
}

fn summary(summary: &TestSummary, style: Style) -> String {
    let mut text = format!("\n{} passed, {} failed", summary.passed, summary.failed);
    if summary.errors > 0 {
        text.push_str(&format!(", {} could not run", summary.errors));
    }
    if summary.passed + summary.failed + summary.errors == 0 {
        text = format!("\n{}", style.doubtful("the file expects nothing"));
    }
    format!("{text} ({})", duration(summary.ms))
}

fn tap(report: &Report) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", report.results.len());
    for (index, result) in report.results.iter().enumerate() {
        let word = if result.outcome == ExpectOutcome::Pass { "ok" } else { "not ok" };
        // TAP's own signs: a description must not hold a directive.
        let title = result.title.replace('\\', "\\\\").replace('#', "\\#");
        text.push_str(&format!("{word} {} - {title}\n", index + 1));
        if !result.messages.is_empty() {
            let messages = result.messages.join("; ").replace('"', "'");
            text.push_str(&format!("  ---\n  message: \"{messages}\"\n  ...\n"));
        }
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn junit(report: &Report) -> String {
    let TestSummary { failed, errors, ms, .. } = report.summary;
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"vnetctl test\" tests=\"{}\" \
         failures=\"{failed}\" errors=\"{errors}\" time=\"{:.3}\">\n",
        report.results.len(),
        seconds(ms)
    );
    for result in &report.results {
        let head = format!(
            "    <testcase classname=\"expect.{}\" name=\"{}\" time=\"{:.3}\"",
            result.index,
            escape(&result.title),
            seconds(result.ms)
        );
        let messages = escape(&result.messages.join("; "));
        text.push_str(&match result.outcome {
            ExpectOutcome::Pass => format!("{head}/>\n"),
            ExpectOutcome::Fail => {
                format!("{head}>\n      <failure message=\"{messages}\"/>\n    </testcase>\n")
            }
            ExpectOutcome::Error => {
                format!("{head}>\n      <error message=\"{messages}\"/>\n    </testcase>\n")
            }
        });
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let result = |index, title: &str, outcome, messages: &[&str]| ExpectResult {
            index,
            title: title.into(),
            outcome,
            messages: messages.iter().map(|message| (*message).to_owned()).collect(),
            probe: None,
            mbps: None,
            ms: 12,
        };
        Report {
            results: vec![
                result(1, "web -> db tcp/443 allow", ExpectOutcome::Pass, &[]),
                result(
                    2,
                    "batch -> web icmp deny",
                    ExpectOutcome::Fail,
                    &["expected \"deny\" & got <allow>"],
                ),
            ],
            summary: TestSummary { passed: 1, failed: 1, errors: 0, ms: 24 },
        }
    }

    #[test]
    fn exit_codes_tell_failure_from_impossibility() {
        let code = |failed, errors| exit_code(&TestSummary { passed: 1, failed, errors, ms: 0 });
        assert_eq!([code(0, 0), code(1, 0), code(0, 1), code(1, 1)], [0, 1, 2, 1]);
    }

    #[test]
    fn lines_for_people() {
        let report = report();
        let text: Vec<String> = report.results.iter().map(|result| lines(result, Style::plain())).collect();
        assert_eq!(text[0], "[PASS] web -> db tcp/443 allow");
        assert_eq!(text[1], "[FAIL] batch -> web icmp deny\n       expected \"deny\" & got <allow>");
        assert_eq!(summary(&report.summary, Style::plain()), "\n1 passed, 1 failed (24 ms)");
    }

    #[test]
    fn tap_for_harnesses() {
        assert_eq!(
            tap(&report()),
            "TAP version 14\n1..2\nok 1 - web -> db tcp/443 allow\nnot ok 2 - batch -> web icmp deny\n  ---\n  \
             message: \"expected 'deny' & got <allow>\"\n  ...\n"
        );
    }

    #[test]
    fn junit_is_well_formed() {
        let text = junit(&report());
        assert!(text.contains("tests=\"2\" failures=\"1\" errors=\"0\" time=\"0.024\""), "{text}");
        assert!(text.contains("name=\"web -&gt; db tcp/443 allow\" time=\"0.012\"/>"), "{text}");
        assert!(text.contains("expected &quot;deny&quot; &amp; got &lt;allow&gt;"), "{text}");
    }
}
