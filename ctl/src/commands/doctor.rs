//! `doctor`: what this host lacks, and how to mend it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use vnet_api::{CheckStatus, DoctorReport};

use crate::context::Context;
use crate::daemon;
use crate::output::Style;

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let report = if context.client.is_served().await {
            context.client.get("/v1/doctor").await?
        } else {
            ask_program()?
        };
        context.print(&report, |report| text(report, context.style))?;
        Ok(u8::from(!report.can_run()))
    }
}

/// Without a daemon its program looks by itself: a host may lack just what a daemon needs to start.
fn ask_program() -> anyhow::Result<DoctorReport> {
    let program = daemon::program();
    let output = Command::new(&program).arg("--doctor").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    if output.stdout.is_empty() {
        bail!("{} --doctor says: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text(report: &DoctorReport, style: Style) -> String {
    let mut lines = Vec::new();
    for check in &report.checks {
        let mark = match check.status {
            CheckStatus::Ok => style.good("ok     "),
            CheckStatus::Warning => style.doubtful("warning"),
            CheckStatus::Failed => style.bad("missing"),
        };
        lines.push(format!("{mark}  {}: {}", check.name, check.found));
        lines.extend(check.remedy.iter().map(|remedy| format!("         {remedy}")));
    }
    lines.push(match report.can_run() {
        true => "Labs can run here.".to_owned(),
        false => "Labs cannot run here until what is missing is mended.".to_owned(),
    });
    lines.join("\n")
}
