//! What the lab has seen of a probe: the flows that carried it, one leg after the other, and the drops that ended it.
//! Nothing here asks the prediction.

use std::net::IpAddr;

use vnet_api::{ProbeOutcome, ProbeRequest, ProbeResult, Protocol};
use vnet_dataplane::{FiveTuple, PortId, Reason};
use vnet_fabric::Verdict;
use vnet_fabric::snapshot::{PortKind, Snapshot, TunnelPeer};
use vnet_router::{DropRecord, FlowRecord};

use super::lab::Lab;
use super::live;
use super::probe::Ends;
use crate::host::probe::{Outcome, Report};

/// Hops of a way that evidence is followed over.
const HOPS_MAX: usize = 16;

/// What the lab has seen of a probe.
pub(super) struct Evidence {
    via: Vec<String>,
    via_reverse: Vec<String>,
    rule: Option<String>,
    rules: Vec<String>,
    /// The source that the last leg delivered.
    arrived_from: Option<IpAddr>,
    /// The machine that the last leg delivered to, if that was not the one that was asked for.
    delivered_to: Option<String>,
    pub(super) drop_out: Option<(DropRecord, Option<String>)>,
    pub(super) drop_back: Option<(DropRecord, Option<String>)>,
    /// The answer arrived elsewhere, or as what answers another question.
    strayed: bool,
}

impl Evidence {
    pub(super) fn gather(
        lab: &Lab,
        ends: &Ends,
        request: &ProbeRequest,
        report: &Report,
        mark: u64,
    ) -> Evidence {
        let snapshot = lab.snapshot();
        let flows = live::flow_records(lab);
        let source_port = report.source.map_or(0, |source| source.port());
        let matches = |tuple: &FiveTuple| belongs(tuple, ends, request, source_port);
        let answers = |tuple: &FiveTuple| matches(&tuple.reversed());
        let ways = Ways { snapshot: &snapshot, flows: &flows };
        let first = ways.first(&matches);
        let forward = ways.follow(first, &matches);
        let last = forward.last().copied();
        let answer = last.and_then(|last| ways.answer(last)).or_else(|| ways.first(&answers));
        let reverse = ways.follow(answer, &answers);
        let passes = |legs: &[&FlowRecord], tuple: &FiveTuple| {
            legs.iter().any(|leg| leg.tuple == *tuple || leg.leaves_as == *tuple)
        };
        let log = lab.shared.drops();
        let rule_of = |record: &DropRecord| {
            record.rule.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.reference.name.clone())
        };
        let find = |wanted: &dyn Fn(&FiveTuple) -> bool| {
            let found = log.since(mark).find(|record| record.tuple.is_some_and(|tuple| wanted(&tuple)));
            found.map(|record| (*record, rule_of(record)))
        };
        let strayed = forward.first().zip(reverse.last()).is_some_and(|(asked, back)| {
            let delivered = matches!(back.verdict, Verdict::Deliver(_));
            delivered
                && (back.verdict, back.leaves_as) != (Verdict::Deliver(asked.port), asked.tuple.reversed())
        });
        Evidence {
            via: ways.names(&forward),
            via_reverse: ways.names(&reverse),
            rule: deciding_rule(&snapshot, &forward),
            rules: passed_rules(&snapshot, &forward),
            arrived_from: last
                .filter(|last| matches!(last.verdict, Verdict::Deliver(_)))
                .map(|last| last.leaves_as.source),
            delivered_to: if ends.source == ends.destination {
                // Its own address: the packet stays in the machine.
                let by_name = request.to.parse::<IpAddr>().is_err();
                Some(request.from.clone()).filter(|from| by_name && *from != request.to)
            } else {
                last.and_then(|last| elsewhere(&snapshot, request, last))
            },
            drop_out: find(&|tuple| matches(tuple) || passes(&forward, tuple)),
            drop_back: find(&|tuple| {
                answers(tuple) || passes(&reverse, tuple) || passes(&forward, &tuple.reversed())
            }),
            strayed,
        }
    }

    /// `seen`: the source that the receiver itself has seen, where somebody there could tell.
    pub(super) fn result(self, report: &Report, ends: &Ends, seen: Option<IpAddr>) -> ProbeResult {
        let (outcome, drop) = match (report.outcome, self.drop_out, self.drop_back) {
            (Outcome::Answered(_) | Outcome::Refused(_), ..) => (ProbeOutcome::Answered, None),
            (_, Some(drop), _) => (ProbeOutcome::Dropped, Some(drop)),
            (_, None, Some(drop)) => (ProbeOutcome::AnswerLost, Some(drop)),
            (_, None, None) if self.strayed => (ProbeOutcome::AnswerLost, None),
            (_, None, None) => (ProbeOutcome::NoAnswer, None),
        };
        let rtt = match report.outcome {
            Outcome::Answered(rtt) | Outcome::Refused(rtt) => Some(rtt.as_micros() as u64),
            _ => None,
        };
        let (reason, drop_rule) = match drop {
            Some((record, rule)) => (Some(record.reason.name().to_owned()), rule),
            None if outcome == ProbeOutcome::AnswerLost => {
                (Some(Reason::AsymmetricReturn.name().to_owned()), None)
            }
            None => (None, None),
        };
        let arrived = rtt.and(seen.or(self.arrived_from));
        ProbeResult {
            outcome,
            source: ends.source,
            destination: ends.destination,
            rtt_us: rtt,
            rule: if reason.is_some() { drop_rule } else { self.rule },
            rules: self.rules,
            reason,
            via: self.via,
            via_reverse: self.via_reverse,
            source_seen_as: arrived,
            delivered_to: rtt.and(self.delivered_to),
        }
    }
}

/// The machine that got what was asked of another one by its name.
fn elsewhere(snapshot: &Snapshot, request: &ProbeRequest, last: &FlowRecord) -> Option<String> {
    let Verdict::Deliver(port) = last.verdict else { return None };
    let got = snapshot.machine_at(port)?;
    let asked = snapshot.machines().chain(snapshot.site_hosts()).find(|name| **name == *request.to)?;
    (got != asked).then(|| got.to_owned())
}

/// Whether a packet with this tuple is the probe: by its own ports, or by what a virtual appliance's translation of one
/// side left of it.
fn belongs(tuple: &FiveTuple, ends: &Ends, request: &ProbeRequest, source_port: u16) -> bool {
    let protocol = match request.service.protocol {
        Protocol::Tcp => tuple.protocol == vnet_dataplane::Protocol::TCP,
        Protocol::Udp => tuple.protocol == vnet_dataplane::Protocol::UDP,
        Protocol::Icmp => tuple.protocol.is_icmp(),
    };
    let ports = match request.service.protocol {
        Protocol::Icmp => source_port == 0 || tuple.source_port == source_port,
        _ => tuple.source_port == source_port && tuple.destination_port == request.service.port,
    };
    protocol && ports && (tuple.source == ends.source || tuple.destination == ends.destination)
}

/// Puts flows together to the ways that packets took.
struct Ways<'a> {
    snapshot: &'a Snapshot,
    flows: &'a [FlowRecord],
}

impl<'a> Ways<'a> {
    /// The leg that begins at the port which has the tuple's source as its own address.
    fn first(&self, ours: &dyn Fn(&FiveTuple) -> bool) -> Option<&'a FlowRecord> {
        self.flows.iter().find(|flow| {
            let port = self.snapshot.port(flow.port);
            ours(&flow.tuple)
                && port.is_some_and(|port| match port.kind {
                    PortKind::InternetEdge => true,
                    PortKind::Nic { .. } | PortKind::PrivateEndpoint { .. } | PortKind::SiteHost { .. } => {
                        port.has_address(flow.tuple.source)
                    }
                    _ => false,
                })
        })
    }

    /// The first leg of the answer to what a leg delivered: it enters where that one ended.
    fn answer(&self, leg: &FlowRecord) -> Option<&'a FlowRecord> {
        let Verdict::Deliver(port) = leg.verdict else { return None };
        let tuple = leg.leaves_as.reversed();
        self.flows.iter().find(|flow| flow.port == port && flow.tuple == tuple)
    }

    /// All legs of a way: over tunnels, and over appliances, which may have translated what they sent on.
    fn follow(
        &self,
        first: Option<&'a FlowRecord>,
        ours: &dyn Fn(&FiveTuple) -> bool,
    ) -> Vec<&'a FlowRecord> {
        let mut legs: Vec<&FlowRecord> = Vec::new();
        let mut next = first;
        while let Some(leg) = next.filter(|_| legs.len() < HOPS_MAX) {
            legs.push(leg);
            next = self.entered_next(leg).and_then(|port| {
                let here = || self.flows.iter().filter(move |flow| flow.port == port);
                here()
                    .find(|flow| flow.tuple == leg.leaves_as)
                    .or_else(|| here().find(|flow| ours(&flow.tuple)))
            });
        }
        legs
    }

    /// Where a leg's packets enter again: by the tunnel's other end, or by the appliance that got them to forward.
    fn entered_next(&self, leg: &FlowRecord) -> Option<PortId> {
        match leg.verdict {
            Verdict::Seal(tunnel) => match &self.snapshot.tunnel(tunnel)?.peer {
                TunnelPeer::Tunnel(peer) => self.snapshot.tunnel(*peer).map(|spec| spec.ingress),
                _ => None,
            },
            Verdict::Deliver(port) => self.appliance(port, leg).map(|_| port),
            Verdict::Drop(_) => None,
        }
    }

    /// The machine behind a port, if what a leg delivers there only passes it: a virtual appliance.
    fn appliance(&self, port: PortId, leg: &FlowRecord) -> Option<&'a str> {
        let info = self.snapshot.port(port)?;
        match &info.kind {
            PortKind::Nic { vm, .. } if !info.has_address(leg.leaves_as.destination) => Some(vm),
            _ => None,
        }
    }

    /// The appliances on a way, in order.
    fn names(&self, legs: &[&FlowRecord]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for leg in legs {
            let machine = match leg.verdict {
                Verdict::Deliver(port) => self.appliance(port, leg).map(str::to_owned),
                _ => None,
            };
            for name in live::via(self.snapshot, leg).into_iter().chain(machine) {
                if names.last() != Some(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}

/// The rule that let the packet pass: a firewall's if one was on the way, else what decided at its first port.
fn deciding_rule(snapshot: &Snapshot, legs: &[&FlowRecord]) -> Option<String> {
    let rules: Vec<_> = legs.iter().filter_map(|leg| snapshot.rule(leg.decided_by?)).collect();
    let counted = rules.iter().find(|rule| rule.hits.is_some());
    counted.or(rules.first()).map(|rule| rule.reference.name.clone())
}

/// The rules of the stateful functions that the packet passed, each once.
fn passed_rules(snapshot: &Snapshot, legs: &[&FlowRecord]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for rule in legs.iter().flat_map(|leg| &leg.rules).filter_map(|rule| snapshot.rule(*rule)) {
        if !names.contains(&rule.reference.name) {
            names.push(rule.reference.name.clone());
        }
    }
    names
}
