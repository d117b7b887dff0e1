//! `path`: each step of a packet and of its answer, with the rule that makes it.

use std::path::PathBuf;

use vnet_api::{PathAnswer, ProbeComparison, Service};
use vnet_fabric::PathReport;
use vnet_fabric::path::{Direction, Leg, PathVerdict};
use vnet_fabric::trace::{Certainty, RejectedState, RuleRef, Step, StepKind};

use super::ping;
use crate::client::query;
use crate::context::Context;
use crate::failure::Failure;
use crate::offline;
use crate::output::Style;

#[derive(Debug, clap::Args)]
pub(crate) struct Path {
    /// A machine, appliance or address; with --probe a machine or its address.
    from: String,
    /// A machine, appliance or address.
    to: String,
    /// tcp/PORT, udp/PORT or icmp.
    #[arg(default_value = "icmp")]
    service: Service,
    /// Send a real packet too, and say whether it agrees.
    #[arg(long)]
    probe: bool,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Leave out the routes that lost.
    #[arg(long)]
    short: bool,
    /// Show the routes that lost, each with why: as it does without --short.
    #[arg(long, hide = true, conflicts_with = "short")]
    rejected: bool,
}

impl Path {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let answer: PathAnswer = match &self.file {
            Some(_) if self.probe => {
                return Err(Failure::usage("--probe needs a lab that runs; --file has none"));
            }
            Some(file) => {
                let snapshot = offline::converge(file, context)?;
                let (protocol, port) = self.service.asked();
                let prediction = vnet_fabric::path(&snapshot, &self.from, &self.to, protocol, port)?;
                PathAnswer { prediction, probe: None }
            }
            None => {
                let query = query([
                    ("from", Some(self.from)),
                    ("to", Some(self.to)),
                    ("service", Some(self.service.to_string())),
                    ("probe", Some(self.probe.to_string())),
                ]);
                context.client.get(&context.lab_path(&format!("/path{query}")).await?).await?
            }
        };
        let service = self.service;
        let rejected = self.rejected || !self.short;
        context.print(&answer, |answer| text(answer, service, rejected, context.style))?;
        Ok(u8::from(answer.probe.is_some_and(|probe| !probe.agrees)))
    }
}

fn way(appliances: &[String]) -> String {
    if appliances.is_empty() { "directly".to_owned() } else { format!("via {}", appliances.join(", ")) }
}

fn text(answer: &PathAnswer, service: Service, rejected: bool, style: Style) -> String {
    let report = &answer.prediction;
    let mut lines = vec![style.strong(format!("{} -> {}  {service}", report.from, report.to)), String::new()];
    legs(&mut lines, report, rejected, style);
    lines.push(verdict(report, style));
    if let Some(other) = &report.delivered_to {
        let text = format!("{other} gets it, not {}: both have the address that was asked for", report.to);
        lines.push(style.bad(text));
    }
    if report.asymmetric {
        lines.push(style.doubtful(asymmetry(report)));
    }
    lines.extend(doubts(report).map(|doubt| style.doubtful(doubt)));
    lines
        .extend(report.assumptions.iter().map(|assumption| style.doubtful(format!("assumed: {assumption}"))));
    if let Some(probe) = &answer.probe {
        lines.push(String::new());
        lines.extend(probe_lines(probe, style));
    }
    lines.join("\n")
}

/// Out and back, and which appliances see one direction only.
fn asymmetry(report: &PathReport) -> String {
    let back: Vec<String> = report.via_reverse.iter().chain(&report.return_dropped_by).cloned().collect();
    let mut text = format!("asymmetric return: out {}, back {}", way(&report.via), way(&back));
    for one_way in &report.one_way {
        let name = &one_way.appliance;
        text.push_str(&match one_way.passed {
            Direction::Forward => format!("; {name} is passed on the way out only"),
            Direction::Reverse if report.return_dropped_by.as_ref() == Some(name) => {
                format!("; {name} has not seen the way out, and drops the answer")
            }
            Direction::Reverse => format!("; {name} is passed on the way back only"),
        });
    }
    if let Some(name) = &report.return_dropped_by
        && report.one_way.iter().all(|one_way| one_way.appliance != *name)
    {
        text.push_str(&format!("; {name} drops the answer"));
    }
    text
}

/// What the verdict rests on and is not simply documented: each doubtful rule by its id.
fn doubts(report: &PathReport) -> impl Iterator<Item = String> {
    let rule = |rule: &RuleRef| {
        format!("rests on {}, which is {}: {}", rule.azure_rule, certainty(rule.certainty), rule.name)
    };
    let plain = (report.certainty != Certainty::Documented && report.doubtful.is_empty())
        .then(|| format!("the verdict rests on a rule that is {}", certainty(report.certainty)));
    report.doubtful.iter().map(rule).chain(plain)
}

fn legs(lines: &mut Vec<String>, report: &PathReport, rejected: bool, style: Style) {
    lines.extend(leg_lines(&report.forward, rejected, style));
    lines.push(String::new());
    if let Some(reverse) = &report.reverse {
        lines.push(style.strong("return"));
        lines.push(String::new());
        lines.extend(leg_lines(reverse, rejected, style));
        lines.push(String::new());
    }
}

fn leg_lines(leg: &Leg, rejected: bool, style: Style) -> Vec<String> {
    let width = leg.steps.iter().map(|step| step.at.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (index, step) in leg.steps.iter().enumerate() {
        let number = index + 1;
        let at = format!("{:width$}", step.at);
        lines.push(format!("{number:>3}. {at}  {}", step_text(step, style)));
        // Below the text of the step.
        let indent = " ".repeat(5 + width + 2);
        lines.extend(step.rule.iter().map(|rule| format!("{indent}{}", rule_text(rule, style))));
        let lost = step.rejected.iter().filter(|_| rejected);
        lines.extend(
            lost.map(|route| {
                format!("{indent}{}", style.faint(format!("not: {route}{}", listed(route.state))))
            }),
        );
    }
    lines
}

/// What effective routes show of a route that lost, where that is not `Active`.
fn listed(state: RejectedState) -> &'static str {
    match state {
        RejectedState::Active => "",
        RejectedState::Invalid => " (Invalid)",
        RejectedState::Absent => " (not listed)",
    }
}

fn step_text(step: &Step, style: Style) -> String {
    match step.kind {
        StepKind::Deliver => style.good(&step.text),
        StepKind::Drop => style.bad(&step.text),
        _ => step.text.clone(),
    }
}

/// The rule, its id, and its certainty where it is not simply documented.
fn rule_text(rule: &RuleRef, style: Style) -> String {
    let name = style.faint(format!("{} [{}]", rule.name, rule.azure_rule));
    match rule.certainty {
        Certainty::Documented => name,
        other => format!("{name} {}", style.doubtful(certainty(other))),
    }
}

fn certainty(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Documented => "documented",
        Certainty::Observed => "observed",
        Certainty::Inferred => "inferred",
        Certainty::Disputed => "disputed",
    }
}

fn verdict(report: &PathReport, style: Style) -> String {
    let rule = report.rule.as_ref().map(|rule| format!(", by {}", rule.name)).unwrap_or_default();
    match (report.verdict, &report.reason) {
        (PathVerdict::Allow, _) => {
            let mut text = format!("{} {}{rule}", style.good("allow"), way(&report.via));
            if report.rtt_ms > 0.0 {
                text.push_str(&format!(", round trip {:.1} ms of distance", report.rtt_ms));
            }
            text
        }
        (PathVerdict::Deny, reason) => {
            let reason = reason.as_deref().unwrap_or("no reason");
            let where_ = if report.reverse.is_some() { ", of the answer" } else { "" };
            format!("{} {reason}{where_}{rule}", style.bad("deny"))
        }
    }
}

fn probe_lines(probe: &ProbeComparison, style: Style) -> Vec<String> {
    let mut lines = vec![format!("probe: {}", ping::line(&probe.result, style))];
    if probe.agrees {
        lines.push(style.good("the packet agrees with the prediction"));
    } else {
        lines.push(style.bad("the packet does not agree with the prediction"));
        lines.extend(probe.differences.iter().map(|difference| format!("  {difference}")));
    }
    lines
}
