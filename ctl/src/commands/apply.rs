//! `up`, `apply`: bring a lab to what a file says.

use std::path::PathBuf;

use anyhow::bail;
use hyper::Method;
use vnet_api::{ApplyEvent, ApplyReport, ApplyRequest, Change, ChangeKind};

use crate::client::segment;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Style, count, duration};
use crate::topology::{self, Source};
use crate::{daemon, events};

#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    /// The topology file; - for standard input; topology.yaml in the working directory if none is named.
    file: Option<PathBuf>,
    /// Make the file's changes as Azure takes them: refuse what it would refuse in the present state, leave Disconnected
    /// peerings so, and changed ranges to `peering sync`.
    #[arg(long)]
    as_azure: bool,
}

impl Apply {
    pub(super) fn read(&self, context: &Context) -> anyhow::Result<Source> {
        let source = topology::read_and_lint(&topology::find(self.file.as_deref())?)?;
        match context.named_lab() {
            Some(lab) if lab != source.lab() => {
                Err(Failure::usage(format!("the file describes the lab '{}', not '{lab}'", source.lab())))
            }
            _ => Ok(source),
        }
    }

    pub(super) fn request(&self, source: &Source) -> ApplyRequest {
        ApplyRequest { as_azure: self.as_azure, ..source.request() }
    }

    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let source = self.read(context)?;
        daemon::ensure(&context.client).await?;
        let body = serde_json::to_vec(&self.request(&source))?;
        let path = format!("/v1/labs/{}", segment(source.lab()));
        let ApplyEvent::Applied(report) =
            events::follow(&context.client, Method::PUT, &path, Some(body)).await?
        else {
            bail!("vnetd answers an apply with something else");
        };
        context.print(&report, |report| applied(report, context.style))?;
        Ok(0)
    }
}

fn applied(report: &ApplyReport, style: Style) -> String {
    let lab = style.strong(&report.lab);
    let changes = count(report.changes.len(), "change");
    match (report.created, report.changes.is_empty()) {
        (true, _) => format!("Lab {lab} is up ({}).", duration(report.ms)),
        (false, true) => {
            format!("Lab {lab} is as the file says; nothing was touched ({}).", duration(report.ms))
        }
        (false, false) => {
            format!(
                "{}\nLab {lab}: {changes} ({}).",
                changes_text(&report.changes, style),
                duration(report.ms)
            )
        }
    }
}

pub(super) fn changes_text(changes: &[Change], style: Style) -> String {
    let mut lines = Vec::new();
    for change in changes {
        let mark = match change.kind {
            ChangeKind::Create => style.good("+"),
            ChangeKind::Update => style.doubtful("~"),
            ChangeKind::Replace => style.doubtful("±"),
            ChangeKind::Delete => style.bad("-"),
        };
        lines.push(format!("{mark} {}", change.path));
        lines.extend(change.details.iter().map(|detail| format!("    {detail}")));
    }
    lines.join("\n")
}
