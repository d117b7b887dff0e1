//! Who reaches whom: all pairs of machines, either each in full or equal answers once.

use std::collections::HashMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use vnet_dataplane::{PortId, Reason};
use vnet_fabric::Snapshot;
use vnet_fabric::path::{self, Endpoint, Hops, Outcome, PathVerdict};
use vnet_fabric::trace::{Hop, RuleId};

use crate::service::Service;

/// One pair of a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixEntry {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub answer: MatrixAnswer,
}

/// What becomes of a probe and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixAnswer {
    /// Whether the probe gets its answer.
    pub verdict: PathVerdict,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Appliances on the way out.
    pub via: Vec<String>,
    /// Appliances on the way back.
    pub via_reverse: Vec<String>,
    /// Whether the answer takes another way.
    pub asymmetric: bool,
    /// The machine that gets the probe, where that is not the one that was asked for: both have the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_to: Option<String>,
}

/// All pairs of machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixReport {
    /// What was asked for.
    pub service: Service,
    /// In the order of the file.
    pub value: Vec<MatrixEntry>,
}

/// The same with each answer once: a thousand machines are a million pairs, and most of them get one of a few answers. It
/// serialises as it is; [`MatrixGroups::report`] serialises as a [`MatrixReport`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixGroups {
    /// What was asked for.
    pub service: Service,
    /// The machines, in the order of the file.
    pub machines: Vec<String>,
    /// Answers that differ.
    pub answers: Vec<MatrixAnswer>,
    /// For each machine as sender, what it gets from each machine, in their order.
    pub rows: Vec<Vec<MatrixRun>>,
}

/// Receivers side by side that give one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixRun {
    /// How many receivers.
    pub count: usize,
    /// Which answer; nothing where there is no pair: the sender itself, no common address family, or two hosts of the Internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<usize>,
}

/// One pair, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MatrixPair<'a> {
    /// Who sends.
    pub from: &'a str,
    /// Who answers.
    pub to: &'a str,
    /// What becomes of it.
    #[serde(flatten)]
    pub answer: &'a MatrixAnswer,
}

impl MatrixGroups {
    /// Every pair of the snapshot's machines, judged by `threads` threads.
    pub fn of(snapshot: &Snapshot, service: Service, threads: usize) -> MatrixGroups {
        let ends = path::ends(snapshot);
        let share = ends.len().div_ceil(threads.max(1)).max(1);
        let parts: Vec<Part> = std::thread::scope(|scope| {
            let ranges = (0..ends.len()).step_by(share).map(|from| from..ends.len().min(from + share));
            let threads: Vec<_> = ranges
                .map(|range| {
                    let ends = &ends;
                    scope.spawn(move || Part::judge(snapshot, service, ends, range))
                })
                .collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut all = Answers::default();
        let mut rows = Vec::with_capacity(ends.len());
        for part in parts {
            let numbers: Vec<usize> = part.answers.list.into_iter().map(|key| all.number(key)).collect();
            rows.extend(part.rows.into_iter().map(|row| {
                let renumbered =
                    |run: MatrixRun| MatrixRun { answer: run.answer.map(|old| numbers[old]), ..run };
                row.into_iter().map(renumbered).collect()
            }));
        }
        MatrixGroups {
            service,
            machines: ends.into_iter().map(|end| end.name).collect(),
            answers: all.list.iter().map(|key| key.answer(snapshot)).collect(),
            rows,
        }
    }

    /// The pairs of one sender, by its place among the machines.
    pub fn pairs_of(&self, sender: usize) -> impl Iterator<Item = MatrixPair<'_>> {
        let from = self.machines.get(sender).map_or("", String::as_str);
        let runs = self.rows.get(sender).map_or(&[][..], Vec::as_slice).iter();
        let answers = runs.flat_map(|run| std::iter::repeat_n(run.answer, run.count));
        self.machines
            .iter()
            .zip(answers)
            .filter_map(move |(to, answer)| Some(MatrixPair { from, to, answer: self.answers.get(answer?)? }))
    }

    /// All pairs, in the order of the file.
    pub fn pairs(&self) -> impl Iterator<Item = MatrixPair<'_>> {
        (0..self.machines.len()).flat_map(|sender| self.pairs_of(sender))
    }

    /// Serialises as a [`MatrixReport`], pair after pair.
    pub fn report(&self) -> impl Serialize {
        Expanded { service: self.service, value: Pairs(self) }
    }
}

#[derive(Serialize)]
struct Expanded<'a> {
    service: Service,
    value: Pairs<'a>,
}

struct Pairs<'a>(&'a MatrixGroups);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for pair in self.0.pairs() {
            list.serialize_element(&pair)?;
        }
        list.end()
    }
}

/// What tells answers apart, in handles of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    reason: Option<Reason>,
    rule: Option<RuleId>,
    via: Hops,
    via_reverse: Hops,
    asymmetric: bool,
    /// Where the probe arrived, if not at the machine that was asked for.
    elsewhere: Option<PortId>,
}

impl Key {
    fn new(snapshot: &Snapshot, to: &Endpoint, outcome: Outcome) -> Key {
        let elsewhere = outcome.delivered_elsewhere(snapshot, to).and(outcome.arrived).map(|(port, _)| port);
        let Outcome { reason, rule, via, via_reverse, asymmetric, .. } = outcome;
        Key { reason, rule, via, via_reverse, asymmetric, elsewhere }
    }

    fn answer(&self, snapshot: &Snapshot) -> MatrixAnswer {
        let names = |hops: &[Hop]| hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect();
        let rule = self.rule.and_then(|rule| snapshot.rule(rule));
        MatrixAnswer {
            verdict: if self.reason.is_some() { PathVerdict::Deny } else { PathVerdict::Allow },
            reason: self.reason.map(|reason| reason.name().to_owned()),
            rule: rule.map(|rule| rule.reference.name.clone()),
            via: names(&self.via),
            via_reverse: names(&self.via_reverse),
            asymmetric: self.asymmetric,
            delivered_to: self.elsewhere.and_then(|port| snapshot.machine_at(port)).map(str::to_owned),
        }
    }
}

/// Answers by number.
#[derive(Default)]
struct Answers {
    list: Vec<Key>,
    numbers: HashMap<Key, usize>,
}

impl Answers {
    fn number(&mut self, key: Key) -> usize {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        self.list.push(key.clone());
        self.numbers.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }
}

/// Some senders' rows, with answers numbered among themselves.
struct Part {
    answers: Answers,
    rows: Vec<Vec<MatrixRun>>,
}

impl Part {
    fn judge(snapshot: &Snapshot, service: Service, ends: &[Endpoint], senders: Range<usize>) -> Part {
        let (protocol, port) = service.asked();
        let mut answers = Answers::default();
        let rows = ends[senders].iter().map(|from| {
            let mut runs: Vec<MatrixRun> = Vec::new();
            for (to, outcome) in ends.iter().zip(path::matrix_row(snapshot, ends, from, protocol, port)) {
                let answer = outcome.map(|outcome| answers.number(Key::new(snapshot, to, outcome)));
                match runs.last_mut().filter(|run| run.answer == answer) {
                    Some(run) => run.count += 1,
                    None => runs.push(MatrixRun { count: 1, answer }),
                }
            }
            runs
        });
        let rows = rows.collect();
        Part { answers, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB_SPOKE: &str = include_str!("../../examples/hub-spoke.yaml");

    fn snapshot() -> Snapshot {
        let loaded =
            vnet_config::load_with(HUB_SPOKE, "hub-spoke.yaml", &vnet_config::Attachments::default())
                .expect("the example is valid");
        vnet_fabric::converge(&loaded.topology).1
    }

    #[test]
    fn groups_say_of_every_pair_what_the_fabric_says() {
        let snapshot = snapshot();
        for service in ["tcp/443", "icmp", "tcp/22"] {
            let service: Service = service.parse().unwrap();
            let (protocol, port) = service.asked();
            let expected: Vec<MatrixEntry> = vnet_fabric::matrix(&snapshot, protocol, port)
                .into_iter()
                .map(|pair| MatrixEntry {
                    answer: Key::new(
                        &snapshot,
                        &Endpoint::resolve(&snapshot, &pair.to).unwrap(),
                        pair.outcome,
                    )
                    .answer(&snapshot),
                    from: pair.from,
                    to: pair.to,
                })
                .collect();
            assert!(expected.len() > 10);
            for threads in [1, 2, 3, 100] {
                let groups = MatrixGroups::of(&snapshot, service, threads);
                let text = serde_json::to_string(&groups.report()).unwrap();
                let report: MatrixReport = serde_json::from_str(&text).unwrap();
                assert_eq!(report, MatrixReport { service, value: expected.clone() });
                let sent: MatrixGroups =
                    serde_json::from_str(&serde_json::to_string(&groups).unwrap()).unwrap();
                assert_eq!(sent, groups);
                assert!(groups.answers.len() < expected.len());
            }
        }
    }
}
