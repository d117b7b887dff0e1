//! `up`, `apply`: bring a lab to what a file says.

use std::path::PathBuf;

use anyhow::bail;
use hyper::Method;
use vnet_api::{ApplyEvent, ApplyReport, ApplyRequest, Change, ChangeKind, ErrorBody};

use crate::client::segment;
use crate::context::Context;
use crate::failure::{self, Failure};
use crate::output::{Style, count, duration};
use crate::topology::{self, Source, Unread};
use crate::{daemon, events};

/// The daemon's code for a file that describes another lab than the one that was asked for.
const BAD_REQUEST: &str = "BadRequest";

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
        self.check(context, self.open()?)
    }

    fn open(&self) -> anyhow::Result<Unread> {
        Unread::open(&topology::find(self.file.as_deref())?)
    }

    fn check(&self, context: &Context, text: Unread) -> anyhow::Result<Source> {
        let source = text.read_and_lint()?;
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
        let text = self.open()?;
        let report = match self.send_unchecked(context, &text).await? {
            Some(report) => {
                report
                    .warnings
                    .iter()
                    .for_each(|warning| crate::output::tell(format_args!("{}\n", failure::render(warning))));
                report
            }
            None => {
                let source = self.check(context, text)?;
                daemon::ensure(&context.client).await?;
                send(context, source.lab(), &self.request(&source)).await?
            }
        };
        context.print(&report, |report| applied(report, context.style))?;
        Ok(0)
    }

    /// Leaves it to a daemon that runs to check the file: one that knows the lab needs to look at what has changed only. None
    /// where the file is refused or is better looked at here: then nothing has been done.
    async fn send_unchecked(&self, context: &Context, text: &Unread) -> anyhow::Result<Option<ApplyReport>> {
        let Some(lab) = text.likely_lab() else { return Ok(None) };
        if context.named_lab().is_some_and(|named| named != lab) || !context.client.is_served().await {
            return Ok(None);
        }
        let Some(topology) = text.unchecked() else { return Ok(None) };
        let request = ApplyRequest { topology, as_azure: self.as_azure };
        match send(context, lab, &request).await {
            Ok(report) => Ok(Some(report)),
            Err(error) => match error.downcast_ref::<ErrorBody>() {
                // It is told in the words of the checks here.
                Some(body) if !body.diagnostics.is_empty() || body.code == BAD_REQUEST => Ok(None),
                _ => Err(error),
            },
        }
    }
}

async fn send(context: &Context, lab: &str, request: &ApplyRequest) -> anyhow::Result<ApplyReport> {
    let body = serde_json::to_vec(request)?;
    let path = format!("/v1/labs/{}", segment(lab));
    match events::follow(&context.client, Method::PUT, &path, Some(body)).await? {
        ApplyEvent::Applied(report) => Ok(report),
        _ => bail!("vnetd answers an apply with something else"),
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
