//! Judges class after class, by one snapshot or by several side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::PortRange;
use vnet_dataplane::{PortId, Protocol};
use vnet_fabric::Snapshot;
use vnet_fabric::path::{Outcome, first_packet, judge, judge_outward};
use vnet_fabric::survey::PortBoundaries;
use vnet_fabric::trace::Hop;

use super::classes::{AddressClass, Ports, address_classes, append};
use super::{Reach, SearchProtocol, Verdict};

/// Source ports of one class that are judged where flows are spread over equal paths.
const SPREAD_SAMPLES: u16 = 16;

/// A snapshot, and whom packets are to reach in it.
pub(crate) struct Side<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// As it was asked for.
    pub(crate) target: String,
    /// Ports that count as reached.
    pub(crate) ports: Vec<PortId>,
    /// Whether that is the Internet: somebody is taken to answer at every address of it.
    pub(crate) outward: bool,
}

/// Packets of which each side has one verdict: every source address with every source port and destination port.
pub(crate) struct Set {
    pub(crate) source_addresses: Vec<IpNet>,
    pub(crate) source_ports: Vec<PortRange>,
    pub(crate) destination_ports: Vec<PortRange>,
    /// For each side, one verdict; several where flows are spread over ways that differ.
    pub(crate) verdicts: Vec<Vec<Verdict>>,
}

impl Set {
    pub(crate) fn reach(
        &self,
        from: &str,
        (destination, all): (IpAddr, &[IpNet]),
        protocol: SearchProtocol,
        verdict: &Verdict,
    ) -> Reach {
        Reach {
            from: from.to_owned(),
            source_addresses: self.source_addresses.clone(),
            destination,
            destination_addresses: all.to_vec(),
            protocol,
            source_ports: self.source_ports.clone(),
            destination_ports: self.destination_ports.clone(),
            verdict: verdict.clone(),
        }
    }
}

/// Judges classes and counts them.
pub(crate) struct Engine<'a> {
    sides: Vec<Side<'a>>,
    /// The one destination port that counts, if so.
    port: Option<u16>,
    spread: bool,
    boundaries: Vec<IpNet>,
    classes: usize,
}

/// Verdicts of ports: for a group of source ports, the destination ports of each verdict.
type ByPorts = Vec<(Vec<PortRange>, BTreeMap<Vec<Vec<Verdict>>, Vec<PortRange>>)>;

/// Who asks whom.
#[derive(Clone, Copy)]
struct Question<'q> {
    /// Where packets enter, for each side.
    ingress: &'q [PortId],
    source: IpAddr,
    destination: IpAddr,
    protocol: SearchProtocol,
}

impl<'a> Engine<'a> {
    /// Classes are cut by the boundaries of all sides.
    pub(crate) fn new(sides: Vec<Side<'a>>, port: Option<u16>) -> Engine<'a> {
        let boundaries: BTreeSet<IpNet> =
            sides.iter().flat_map(|side| side.snapshot.address_boundaries()).collect();
        let spread = sides.iter().any(|side| side.snapshot.spreads_flows());
        Engine { sides, port, spread, boundaries: boundaries.into_iter().collect(), classes: 0 }
    }

    /// How many classes were judged.
    pub(crate) fn classes(&self) -> usize {
        self.classes
    }

    /// Asks about other ends from here on.
    pub(crate) fn aim(&mut self, target: &str, ports: &[PortId]) {
        for (side, port) in self.sides.iter_mut().zip(ports) {
            target.clone_into(&mut side.target);
            side.ports = vec![*port];
            side.outward = Some(*port) == side.snapshot.internet_edge();
        }
    }

    /// These addresses, in classes that no boundary of any side tells apart.
    pub(crate) fn destinations(&self, addresses: &[IpNet]) -> Vec<AddressClass> {
        let mut classes: BTreeMap<Vec<&IpNet>, AddressClass> = BTreeMap::new();
        for v4 in [true, false] {
            let own: Vec<IpNet> =
                addresses.iter().filter(|net| net.addr().is_ipv4() == v4).copied().collect();
            for class in address_classes(&own, &self.boundaries) {
                let around = self.boundaries.iter().filter(|net| net.contains(&class.first)).collect();
                let prefixes = class.prefixes.clone();
                classes.entry(around).and_modify(|known| known.prefixes.extend(prefixes)).or_insert(class);
            }
        }
        classes.into_values().collect()
    }

    /// The sets into which the packets from these addresses fall. `ingress` has one port for each side.
    pub(crate) fn sets(
        &mut self,
        ingress: &[PortId],
        sources: &[IpNet],
        destination: IpAddr,
        protocol: SearchProtocol,
    ) -> Vec<Set> {
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == destination.is_ipv4();
        let own: Vec<IpNet> = sources.iter().filter(same_family).copied().collect();
        let classes = if let [one] = own[..]
            && one.prefix_len() == one.max_prefix_len()
        {
            address_classes(&own, &[])
        } else {
            address_classes(&own, &self.boundaries)
        };
        let mut groups: Vec<(Vec<IpNet>, ByPorts)> = Vec::new();
        for class in classes {
            let cells = self.cells(Question { ingress, source: class.first, destination, protocol });
            match groups.iter_mut().find(|(_, known)| *known == cells) {
                Some((addresses, _)) => addresses.extend(class.prefixes),
                None => groups.push((class.prefixes, cells)),
            }
        }
        let listed = |ports: Vec<PortRange>| if protocol.has_ports() { ports } else { Vec::new() };
        let mut sets = Vec::new();
        for (addresses, cells) in groups {
            let source_addresses = IpNet::aggregate(&addresses);
            for (source_ports, verdicts) in cells {
                sets.extend(verdicts.into_iter().map(|(verdicts, destination_ports)| Set {
                    source_addresses: source_addresses.clone(),
                    source_ports: listed(source_ports.clone()),
                    destination_ports: listed(destination_ports),
                    verdicts,
                }));
            }
        }
        sets
    }

    /// The verdicts of all ports between two addresses.
    fn cells(&mut self, question: Question<'_>) -> ByPorts {
        if !question.protocol.has_ports() {
            let (verdicts, _) = self.judge(question, PortRange::ANY, PortRange::ANY);
            return vec![(vec![PortRange::ANY], BTreeMap::from([(verdicts, vec![PortRange::ANY])]))];
        }
        let boundaries = self.port_boundaries(question.ingress, question.protocol.number(true));
        let ports = Ports::new(&boundaries.source, &boundaries.destination, self.port);
        let (cells, answers_judged) = self.grid(question, &ports);
        if !answers_judged {
            return cells;
        }
        // Where rules judge an answer anew, they see the ports the other way round.
        let ports =
            Ports::new(&boundaries.source_with_answers, &boundaries.destination_with_answers, self.port);
        self.grid(question, &ports).0
    }

    fn port_boundaries(&self, ingress: &[PortId], protocol: Protocol) -> PortBoundaries {
        let mut all = PortBoundaries::default();
        for (side, port) in self.sides.iter().zip(ingress) {
            let mut ends = side.ports.clone();
            ends.push(*port);
            let own = side.snapshot.port_boundaries(&ends, protocol);
            all.source.extend(own.source);
            all.destination.extend(own.destination);
            all.source_with_answers.extend(own.source_with_answers);
            all.destination_with_answers.extend(own.destination_with_answers);
        }
        all
    }

    fn grid(&mut self, question: Question<'_>, ports: &Ports) -> (ByPorts, bool) {
        let mut rows: ByPorts = Vec::new();
        let mut answers_judged = false;
        for source_ports in &ports.source {
            let mut row = BTreeMap::new();
            for destination_ports in &ports.destination {
                let (verdicts, judged) = self.judge(question, *source_ports, *destination_ports);
                answers_judged |= judged;
                append(row.entry(verdicts).or_default(), *destination_ports);
            }
            match rows.iter_mut().find(|(_, known)| *known == row) {
                Some((spans, _)) => append(spans, *source_ports),
                None => rows.push((vec![*source_ports], row)),
            }
        }
        (rows, answers_judged)
    }

    /// The verdicts of one class, by side. Also whether rules judged an answer anew.
    fn judge(
        &mut self,
        question: Question<'_>,
        source_ports: PortRange,
        destination_ports: PortRange,
    ) -> (Vec<Vec<Verdict>>, bool) {
        self.classes += 1;
        let Question { ingress, source, destination, protocol } = question;
        let number = protocol.number(destination.is_ipv4());
        let samples = if self.spread && protocol.has_ports() { SPREAD_SAMPLES } else { 1 };
        let last = source_ports.to.min(source_ports.from.saturating_add(samples - 1));
        let mut answer_judged = false;
        let by_side = self.sides.iter().zip(ingress).map(|(side, ingress)| {
            let mut verdicts: BTreeSet<Verdict> = BTreeSet::new();
            for port in source_ports.from..=last {
                let packet = first_packet(number, (source, port), (destination, destination_ports.from));
                let outcome = if side.outward {
                    judge_outward(side.snapshot, *ingress, &packet)
                } else {
                    judge(side.snapshot, *ingress, &packet)
                };
                answer_judged |= outcome.answer_judged;
                verdicts.insert(side.verdict(&outcome, source));
            }
            let some_flows = verdicts.len() > 1;
            verdicts.into_iter().map(|verdict| Verdict { some_flows, ..verdict }).collect()
        });
        (by_side.collect(), answer_judged)
    }
}

impl Side<'_> {
    fn verdict(&self, outcome: &Outcome, source: IpAddr) -> Verdict {
        let elsewhere = outcome
            .arrived
            .map(|(port, _)| port)
            .filter(|port| !self.ports.contains(port))
            .and_then(|port| self.snapshot.port(port))
            .map(|port| format!("not {}: {} has the address", self.target, port.name));
        verdict(self.snapshot, outcome, source, elsewhere)
    }
}

/// An outcome in words, of a packet from `source`; `other` says why it does not count though it has none of the fabric's
/// reasons.
pub(crate) fn verdict(
    snapshot: &Snapshot,
    outcome: &Outcome,
    source: IpAddr,
    other: Option<String>,
) -> Verdict {
    let reason = other.or_else(|| outcome.reason.map(|reason| reason.name().to_owned()));
    let names =
        |hops: &[Hop]| -> Vec<String> { hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect() };
    let named = |rule| snapshot.rule(rule).map(|rule| rule.reference.name.clone());
    let allowed = reason.is_none();
    let seen = outcome.arrived.map(|(_, tuple)| tuple).or(outcome.left).map(|tuple| tuple.source);
    Verdict {
        allowed,
        reason,
        rule: outcome.rule.and_then(named),
        route: outcome.route.filter(|_| allowed).and_then(named),
        source_seen_as: seen.filter(|seen| allowed && *seen != source),
        leaves: allowed && outcome.left.is_some(),
        via: names(&outcome.via),
        via_reverse: names(&outcome.via_reverse),
        some_flows: false,
    }
}
