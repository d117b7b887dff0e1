//! A prediction in words.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::Reason;

use super::way::{Way, WayEnd};
use super::{Endpoint, Exchange, Explained, asked_port, decided_by, reason};
use crate::snapshot::Snapshot;
use crate::trace::{Certainty, Crossing, Hop, RuleId, RuleRef, Step, StepKind};

/// Whether a probe gets its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathVerdict {
    /// It arrives, and its answer too.
    Allow,
    /// It is dropped, or its answer is.
    Deny,
}

/// What becomes of a probe and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// The protocol.
    pub protocol: ProbeProtocol,
    /// The destination port; with tcp and udp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the probe gets its answer.
    pub verdict: PathVerdict,
    /// Why not: the reason of the drop on the way out, else of that on the way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided: of a drop its cause, else the firewall's or security group's rule that let it pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// All rules of firewalls and security groups on the way out, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Appliances on the way out, in order.
    pub via: Vec<String>,
    /// Appliances on the way back, in order.
    pub via_reverse: Vec<String>,
    /// The appliance that got the answer to forward it, and dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_dropped_by: Option<String>,
    /// Whether the answer takes another way than the probe, as far as it comes.
    pub asymmetric: bool,
    /// Appliances that only the probe or only its answer passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_way: Vec<OneWay>,
    /// The source address that the receiver sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_seen_as: Option<IpAddr>,
    /// All addresses that it may be, where a hash chooses one of several for each flow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_seen_as_one_of: Vec<IpAddr>,
    /// The machine that gets the probe, where that is not the one that was asked for: both have the address, and this one is
    /// nearer by the sender's routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_to: Option<String>,
    /// Round trip that the topology's latency makes, in milliseconds; without queues and processing.
    pub rtt_ms: f64,
    /// The least certain of the rules that it rests on.
    pub certainty: Certainty,
    /// The rules among those that are inferred or disputed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubtful: Vec<RuleRef>,
    /// What was assumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<String>,
    /// The way out.
    pub forward: Leg,
    /// The way back; none where the probe did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Leg>,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// Whether the packet arrives.
    pub arrives: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// Every step.
    pub steps: Vec<Step>,
    /// Borders between regions and zones, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crossings: Vec<Crossing>,
}

/// An appliance that sees one direction of a flow only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OneWay {
    /// Its name.
    pub appliance: String,
    /// The direction that it sees.
    pub passed: Direction,
}

/// A direction of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The probe's.
    Forward,
    /// Its answer's.
    Reverse,
}

pub(super) fn report(
    snapshot: &Snapshot,
    (from, to): (&Endpoint, &Endpoint),
    (protocol, port): (ProbeProtocol, Option<u16>),
    exchange: Exchange<Explained<'_>>,
) -> PathReport {
    let outcome = exchange.outcome(snapshot);
    let out = reason(exchange.forward.0.end);
    let back = exchange.back_reason();
    let via = names(snapshot, &outcome.via);
    let via_reverse = names(snapshot, &outcome.via_reverse);
    let return_dropped_by = outcome.refused_by.map(|hop| snapshot.hop_name(hop).to_owned());
    let seen_back: Vec<String> = via_reverse.iter().chain(&return_dropped_by).cloned().collect();
    let reverse = exchange.reverse.as_ref();
    let ways = || std::iter::once(&exchange.forward).chain(reverse);
    let assumptions =
        ways().flat_map(|(way, _)| &way.assumptions).map(|assumption| assumption.text(snapshot));
    PathReport {
        from: from.name.clone(),
        to: to.name.clone(),
        protocol,
        port: asked_port(protocol, port),
        verdict: if outcome.reason.is_some() { PathVerdict::Deny } else { PathVerdict::Allow },
        reason: outcome.reason.map(|reason| reason.name().to_owned()),
        rule: outcome.rule.and_then(|rule| snapshot.rule_ref(rule)),
        rules: distinct(rule_names(snapshot, &exchange.forward.0.rules)),
        asymmetric: outcome.asymmetric,
        one_way: if outcome.asymmetric { one_way(&via, &seen_back) } else { Vec::new() },
        return_dropped_by,
        via,
        via_reverse,
        source_seen_as: outcome.source_seen_as,
        source_seen_as_one_of: outcome.source_seen_as.map(|seen| one_of(snapshot, seen)).unwrap_or_default(),
        delivered_to: outcome.delivered_elsewhere(snapshot, to).map(str::to_owned),
        rtt_ms: outcome.rtt_ns as f64 / 1e6,
        certainty: outcome.certainty,
        doubtful: distinct(ways().flat_map(|(_, explained)| doubtful(&explained.steps))),
        assumptions: distinct(assumptions),
        forward: leg(snapshot, &exchange.forward, out),
        reverse: reverse.map(|way| answer_leg(snapshot, &exchange, way, back)),
    }
}

fn leg(snapshot: &Snapshot, (way, explained): &(Way, Explained<'_>), reason: Option<Reason>) -> Leg {
    Leg {
        arrives: reason.is_none(),
        reason: reason.map(|reason| reason.name().to_owned()),
        rule: decided_by(way, explained.as_ref()).and_then(|rule| snapshot.rule_ref(rule)),
        crossings: explained.steps.iter().filter_map(|step| step.crossing.clone()).collect(),
        steps: explained.steps.clone(),
    }
}

/// The answer's way, and in the end what is wrong with an answer that arrives and is none.
fn answer_leg(
    snapshot: &Snapshot,
    exchange: &Exchange<Explained<'_>>,
    way: &(Way, Explained<'_>),
    reason: Option<Reason>,
) -> Leg {
    let mut leg = leg(snapshot, way, reason);
    let WayEnd::Arrived(port, tuple) = way.0.end else { return leg };
    if reason.is_some() {
        let name = |port| snapshot.port(port).map(|info| info.name.to_string()).unwrap_or_default();
        let text = if port == exchange.ingress {
            format!("no answer to {}: it comes as {tuple}", exchange.asked)
        } else {
            format!("no answer to {}, which {} has sent", exchange.asked, name(exchange.ingress))
        };
        leg.steps.push(Step::new(StepKind::Drop, name(port), text, None));
    }
    leg
}

fn one_of(snapshot: &Snapshot, seen: IpAddr) -> Vec<IpAddr> {
    Some(snapshot.chosen_among(seen)).filter(|all| all.len() > 1).unwrap_or_default()
}

/// Names of appliances, each once where a machine is passed by two of its NICs in a row.
fn names(snapshot: &Snapshot, hops: &[Hop]) -> Vec<String> {
    let mut names: Vec<String> = hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect();
    names.dedup();
    names
}

fn rule_names(snapshot: &Snapshot, rules: &[RuleId]) -> impl Iterator<Item = String> {
    rules.iter().filter_map(|rule| snapshot.rule_ref(*rule)).map(|rule| rule.name)
}

/// Appliances of one direction that the other lacks.
fn one_way(via: &[String], via_reverse: &[String]) -> Vec<OneWay> {
    let only = |these: &[String], others: &[String], passed: Direction| {
        let lacking = these.iter().filter(|name| !others.contains(name)).cloned();
        lacking.map(|appliance| OneWay { appliance, passed }).collect::<Vec<_>>()
    };
    let mut all = only(via, via_reverse, Direction::Forward);
    all.extend(only(via_reverse, via, Direction::Reverse));
    all
}

/// The rules of steps that are inferred or disputed. A crossing's latency is no part of the verdict.
fn doubtful(steps: &[Step]) -> impl Iterator<Item = RuleRef> {
    let judged = steps.iter().filter(|step| step.kind != StepKind::Crossing);
    let rules = judged.filter_map(|step| step.rule.as_ref());
    rules.filter(|rule| matches!(rule.certainty, Certainty::Inferred | Certainty::Disputed)).cloned()
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}
