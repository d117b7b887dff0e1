//! `plan`: what an apply would change, and what that does to those who talk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use hyper::Method;
use serde::Serialize;
use vnet_analysis::impact::{Effect, FlowChange, ImpactReport, PairChange, impact_of_files};
use vnet_analysis::search::Verdict;
use vnet_api::{Change, ChangeKind, PlanReport};
use vnet_config::Topology;
use vnet_config::model::PortRange;

use super::apply::{Apply, changes_text};
use crate::client::segment;
use crate::context::Context;
use crate::failure;
use crate::output::{Style, Table, bytes, count};
use crate::topology::{self, Source};

/// Exit code of a plan that changes something, where that is asked for.
const CHANGES: u8 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    apply: Apply,
    /// Name the pairs of machines, and the live flows, that the change would drop, allow or send another way.
    #[arg(long)]
    impact: bool,
    /// Plan from this file to the other, and ask no daemon.
    #[arg(long, value_name = "OLD")]
    from_file: Option<PathBuf>,
    /// Exit 2 where something would change, 0 where nothing would.
    #[arg(long)]
    detailed_exitcode: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    plan: PlanReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<ImpactReport>,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let source = self.apply.read(context)?;
        let report = match &self.from_file {
            Some(old) => self.between(old, &source)?,
            None => self.ask(context, &source).await?,
        };
        // The file's own warnings have been printed when it was read.
        context.print(&report, |report| table(report, context.style))?;
        for refusal in &report.plan.refused {
            crate::output::tell(format_args!("{}\n", failure::render(refusal)));
        }
        if !report.plan.refused.is_empty() {
            bail!("Azure would refuse this change in the lab's present state");
        }
        let changes = report.plan.creates || !report.plan.changes.is_empty();
        Ok(if self.detailed_exitcode && changes { CHANGES } else { 0 })
    }

    /// The lab that runs against the file.
    async fn ask(&self, context: &Context, source: &Source) -> anyhow::Result<Report> {
        if !context.client.is_served().await {
            let changes = everything(&source.loaded.topology)?;
            let lab = source.lab().to_owned();
            let plan = PlanReport { lab, creates: true, changes, ..PlanReport::default() };
            return Ok(Report { plan, impact: None });
        }
        let request = self.apply.request(source);
        let path = format!("/v1/labs/{}", segment(source.lab()));
        let plan: PlanReport =
            context.client.send(Method::PUT, &format!("{path}?plan=true"), &request).await?;
        let impact = if self.impact && !plan.creates {
            Some(context.client.send(Method::POST, &format!("{path}/impact"), &request).await?)
        } else {
            None
        };
        Ok(Report { plan, impact })
    }

    /// One file against another.
    fn between(&self, old: &Path, source: &Source) -> anyhow::Result<Report> {
        let old = topology::read(old)?.loaded.topology;
        let new = &source.loaded.topology;
        let changes = vnet_config::diff(&old, new).into_iter().map(|change| {
            let details = match (&change.old, &change.new) {
                (Some(old), Some(new)) => vec![format!("{old} -> {new}")],
                _ => Vec::new(),
            };
            let kind = match change.kind {
                vnet_config::ChangeKind::Add => ChangeKind::Create,
                vnet_config::ChangeKind::Remove => ChangeKind::Delete,
                vnet_config::ChangeKind::Update => ChangeKind::Update,
            };
            Change { kind, path: path_of(change), details }
        });
        let lab = source.lab().to_owned();
        let plan = PlanReport { lab, changes: changes.collect(), ..PlanReport::default() };
        let impact = self.impact.then(|| impact_of_files(&old, new));
        Ok(Report { plan, impact })
    }
}

fn path_of(change: vnet_config::Change) -> String {
    let parts = [change.resource, change.name, change.property];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
}

/// What a lab that does not run yet takes: all that the file names.
fn everything(topology: &Topology) -> anyhow::Result<Vec<Change>> {
    let empty = serde_json::from_value(serde_json::json!({ "name": topology.name }))?;
    let changes = vnet_config::diff(&empty, topology).into_iter().map(|change| Change {
        kind: ChangeKind::Create,
        path: path_of(change),
        details: Vec::new(),
    });
    Ok(changes.collect())
}

fn table(report: &Report, style: Style) -> String {
    let plan = planned(&report.plan, style);
    match &report.impact {
        Some(impact) => format!("{plan}\n\n{}", impact_text(impact, style)),
        None => plan,
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

fn word(effect: Effect, style: Style) -> String {
    match effect {
        Effect::Drop => style.bad("drop"),
        Effect::Allow => style.good("allow"),
        Effect::Reroute => style.doubtful("reroute"),
    }
}

fn way(names: &[String]) -> String {
    if names.is_empty() { "direct".to_owned() } else { names.join(", ") }
}

/// `fw; back hub-vpn`, or why nothing passes. Of what goes another way the route and the source address that is seen count too.
fn shown(verdict: &Verdict, effect: Effect) -> String {
    let rerouted = effect == Effect::Reroute;
    let route = verdict.route.as_ref().filter(|route| rerouted && verdict.rule.as_ref() != Some(route));
    let named = verdict.rule.iter().chain(route).cloned().collect::<Vec<_>>().join("; ");
    let seen = verdict.source_seen_as.filter(|_| rerouted);
    let seen = seen.map(|seen| format!(", seen as {seen}")).unwrap_or_default();
    let rule = if named.is_empty() { seen } else { format!("{seen} ({named})") };
    match &verdict.reason {
        Some(reason) => format!("{reason}{rule}"),
        None if verdict.via.iter().eq(verdict.via_reverse.iter().rev()) => {
            format!("{}{rule}", way(&verdict.via))
        }
        None => format!("{}; back {}{rule}", way(&verdict.via), way(&verdict.via_reverse)),
    }
}

fn service(pair: &PairChange) -> String {
    let ports = |ranges: &[PortRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let name = pair.protocol.name();
    let every = pair.source_ports.first().is_none_or(|range| range.is_any());
    let from = if every { String::new() } else { format!(" from {}", ports(&pair.source_ports)) };
    if pair.destination_ports.is_empty() {
        name.to_owned()
    } else {
        format!("{name}/{}{from}", ports(&pair.destination_ports))
    }
}

/// Names of one cell beyond this number are counted, not printed.
const NAMES_MAX: usize = 6;

/// Some packets: effect, senders, receivers, what happens now and what would.
type Talk = (Effect, Vec<String>, Vec<String>, String, String);
/// The same with the services that it is about.
type Row = (Talk, Vec<String>);

/// Rows that differ in one column alone are one: `take` cuts that column out, `put` adds to it.
fn merged(
    rows: Vec<Row>,
    take: fn(&mut Row) -> Vec<String>,
    put: fn(&mut Row) -> &mut Vec<String>,
) -> Vec<Row> {
    let mut out: Vec<Row> = Vec::new();
    let mut index: BTreeMap<Row, usize> = BTreeMap::new();
    for mut row in rows {
        let column = take(&mut row);
        let at = *index.entry(row.clone()).or_insert_with(|| {
            out.push(row);
            out.len() - 1
        });
        put(&mut out[at]).extend(column);
    }
    out
}

fn named(names: &[String]) -> String {
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
    }
}

fn impact_text(impact: &ImpactReport, style: Style) -> String {
    let rows = impact.pairs.iter().map(|pair| {
        let from = match pair.source_addresses.first() {
            Some(first) if pair.source_addresses.len() == 1 => {
                vec![format!("{} ({first})", pair.from.join(", "))]
            }
            Some(_) => vec![format!("{} ({} prefixes)", pair.from.join(", "), pair.source_addresses.len())],
            None => pair.from.clone(),
        };
        let to = match (pair.public_address, &pair.destination_addresses[..]) {
            (Some(public), _) => vec![format!("{} ({public})", pair.to.join(", "))],
            (None, []) => pair.to.clone(),
            (None, [one]) => vec![format!("{} ({one})", pair.to.join(", "))],
            (None, several) => vec![format!("{} ({} prefixes)", pair.to.join(", "), several.len())],
        };
        (
            (pair.effect, from, to, shown(&pair.before, pair.effect), shown(&pair.after, pair.effect)),
            vec![service(pair)],
        )
    });
    let rows = merged(rows.collect(), |row| std::mem::take(&mut row.1), |row| &mut row.1);
    let rows = merged(rows, |row| std::mem::take(&mut row.0.1), |row| &mut row.0.1);
    let rows = merged(rows, |row| std::mem::take(&mut row.0.2), |row| &mut row.0.2);
    let mut text = Vec::new();
    if !rows.is_empty() {
        let mut table = Table::new(&["Effect", "From", "To", "Packets", "Now", "Then"]);
        for ((effect, from, to, before, after), services) in rows {
            table.row([word(effect, style), named(&from), named(&to), services.join(" "), before, after]);
        }
        text.push(table.render(""));
    }
    if !impact.flows.is_empty() {
        let mut table = Table::new(&["Effect", "Live Flow", "Bytes", "Now", "Then"]);
        for flow in &impact.flows {
            let FlowChange { protocol, source, source_port, destination, destination_port, .. } = flow;
            let name = format!("{protocol} {source}:{source_port} -> {destination}:{destination_port}");
            let depends = if flow.depends_on_first_sender { ", depending on who sends next" } else { "" };
            let then = shown(&flow.after, flow.effect);
            table.row([
                word(flow.effect, style),
                name,
                bytes(flow.bytes),
                shown(&flow.before, flow.effect),
                format!("{then}{depends}"),
            ]);
        }
        text.push(table.render(""));
    }
    text.push(sum(impact));
    text.join("\n\n")
}

fn sum(impact: &ImpactReport) -> String {
    let mut lines = Vec::new();
    for (names, verb) in [(&impact.removed, "go"), (&impact.added, "come")] {
        if !names.is_empty() {
            lines.push(format!("Interfaces that {verb}: {}.", names.join(", ")));
        }
    }
    let dropped = impact.flows.iter().filter(|flow| flow.effect == Effect::Drop).count();
    let rerouted = impact.flows.len() - dropped;
    if impact.is_empty() {
        lines.push("Nobody who talks would notice.".to_owned());
    }
    if impact.flows_total > 0 {
        lines.push(format!(
            "Of {} {dropped} would be dropped and {rerouted} sent another way.",
            count(impact.flows_total, "live flow")
        ));
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
