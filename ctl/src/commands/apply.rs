//! `up`, `apply`, `plan`: bring a lab to what a file says, or say what that takes.

use std::path::PathBuf;

use anyhow::bail;
use hyper::Method;
use vnet_api::{ApplyEvent, ApplyReport, ApplyRequest, Change, ChangeKind, PlanReport};
use vnet_config::Topology;

use crate::client::segment;
use crate::context::Context;
use crate::failure::{self, Failure};
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
    fn read(&self, context: &Context) -> anyhow::Result<Source> {
        let source = topology::read_and_lint(&topology::find(self.file.as_deref())?)?;
        match context.named_lab() {
            Some(lab) if lab != source.lab() => {
                Err(Failure::usage(format!("the file describes the lab '{}', not '{lab}'", source.lab())))
            }
            _ => Ok(source),
        }
    }

    fn request(&self, source: &Source) -> ApplyRequest {
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

    pub(crate) async fn plan(self, context: &Context) -> anyhow::Result<u8> {
        let source = self.read(context)?;
        let report: PlanReport = if context.client.is_served().await {
            let path = format!("/v1/labs/{}?plan=true", segment(source.lab()));
            context.client.send(Method::PUT, &path, &self.request(&source)).await?
        } else {
            let changes = everything(&source.loaded.topology)?;
            PlanReport { lab: source.lab().to_owned(), creates: true, changes, ..PlanReport::default() }
        };
        // The file's own warnings have been printed when it was read.
        context.print(&report, |report| planned(report, context.style))?;
        for refusal in &report.refused {
            eprintln!("{}\n", failure::render(refusal));
        }
        if !report.refused.is_empty() {
            bail!("Azure would refuse this change in the lab's present state");
        }
        Ok(0)
    }
}

/// What a lab that does not run yet takes: all that the file names.
fn everything(topology: &Topology) -> anyhow::Result<Vec<Change>> {
    let empty = serde_json::from_value(serde_json::json!({ "name": topology.name }))?;
    let changes = vnet_config::diff(&empty, topology).into_iter().map(|change| Change {
        kind: ChangeKind::Create,
        path: [change.resource, change.name, change.property]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("."),
        details: Vec::new(),
    });
    Ok(changes.collect())
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

fn planned(report: &PlanReport, style: Style) -> String {
    let lab = style.strong(&report.lab);
    let list = changes_text(&report.changes, style);
    match (report.creates, report.changes.is_empty()) {
        (true, true) => format!("Lab {lab} would be made; it does not run."),
        (true, false) => format!("{list}\nLab {lab} would be made; it does not run."),
        (false, true) => format!("Lab {lab} is as the file says; nothing would be touched."),
        (false, false) => {
            format!("{list}\nLab {lab}: {} would be made.", count(report.changes.len(), "change"))
        }
    }
}

fn changes_text(changes: &[Change], style: Style) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_each_change_with_its_properties() {
        let change = Change {
            kind: ChangeKind::Update,
            path: "virtualNetworks.hub.peerings.spoke1".into(),
            details: vec!["allowForwardedTraffic: true -> false".into()],
        };
        let report = PlanReport { lab: "hub".into(), changes: vec![change], ..PlanReport::default() };
        assert_eq!(
            planned(&report, Style::plain()),
            "~ virtualNetworks.hub.peerings.spoke1\n    allowForwardedTraffic: true -> false\n\
             Lab hub: 1 change would be made."
        );
        let same = PlanReport { lab: "hub".into(), ..PlanReport::default() };
        assert_eq!(planned(&same, Style::plain()), "Lab hub is as the file says; nothing would be touched.");
    }
}
