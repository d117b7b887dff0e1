//! Probes with real packets, and the evidence of what became of them: flows that carried them, drops that ended
//! them. Nothing here asks the prediction.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vnet_api::{ProbeOutcome, ProbeRequest, ProbeResult, Protocol};
use vnet_dataplane::{FiveTuple, PortId, Reason};
use vnet_fabric::Verdict;
use vnet_fabric::snapshot::{PortKind, Snapshot, TunnelPeer};
use vnet_router::{DropRecord, FlowRecord};

use super::blueprint::Blueprint;
use super::lab::Lab;
use super::live;
use crate::api::{Answer, ApiError};
use crate::host::error::HostError;
use crate::host::netns::Netns;
use crate::host::probe::{self, Cancel, Deadline, Outcome, Report, Responder, Service};

/// The longest that a caller may wait for one probe.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the log of drops.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Hops of a way that evidence is followed over.
const HOPS_MAX: usize = 16;

/// The two ends of a probe or of traffic, resolved.
pub(super) struct Ends {
    /// Sender's namespace.
    pub from: Netns,
    /// Sender's address.
    pub source: IpAddr,
    /// Receiver's namespace, if it is a machine of the lab.
    pub to: Option<Netns>,
    /// Receiver's address.
    pub destination: IpAddr,
}

fn host_error(error: HostError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// The addresses of a machine, the primary one first.
pub(super) fn addresses(blueprint: &Blueprint, machine: &str) -> Vec<IpAddr> {
    let Some(namespace) = blueprint.namespaces.get(machine) else { return Vec::new() };
    let links = namespace.links.iter().filter(|link| link.name != "lo");
    links.flat_map(|link| link.addresses.iter().map(ipnet::IpNet::addr)).collect()
}

/// Finds sender and receiver: each a machine, or the address of one; `to` any address.
pub(super) fn ends(lab: &Lab, from: &str, to: &str) -> Answer<Ends> {
    let view = lab.view();
    let open = |name: &str| {
        view.machines.get(name).map(|machine| machine.ns.try_clone().map_err(host_error)).transpose()
    };
    let source = from.parse::<IpAddr>().ok();
    let from = match source {
        Some(address) => holder(&view.blueprint, address),
        None => Some(from.to_owned()).filter(|name| view.machines.contains_key(name.as_str())),
    }
    .ok_or_else(|| ApiError::not_found("machine", from))?;
    let sender = open(&from)?.ok_or_else(|| ApiError::not_found("machine", &from))?;
    let sources = source.map_or_else(|| addresses(&view.blueprint, &from), |address| vec![address]);
    let (receiver, destinations) = match to.parse::<IpAddr>() {
        Ok(address) => {
            (holder(&view.blueprint, address).map(|name| open(&name)).transpose()?.flatten(), vec![address])
        }
        Err(_) if view.machines.contains_key(to) => (open(to)?, addresses(&view.blueprint, to)),
        Err(_) => return Err(ApiError::not_found("machine or address", to)),
    };
    let pair = destinations.iter().find_map(|destination| {
        let source = sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4())?;
        Some((*source, *destination))
    });
    let Some((source, destination)) = pair else {
        return Err(ApiError::bad_request(format!("'{from}' and '{to}' have no address family in common.")));
    };
    Ok(Ends { from: sender, source, to: receiver, destination })
}

/// The machine that has this address, if only one has.
fn holder(blueprint: &Blueprint, address: IpAddr) -> Option<String> {
    let mut holders = blueprint.namespaces.iter().filter(|(name, namespace)| {
        namespace.role.is_machine() && addresses(blueprint, name).contains(&address)
    });
    let (name, _) = holders.next()?;
    holders.next().is_none().then(|| name.clone())
}

/// Sends one probe and says what became of it.
pub(super) fn probe(lab: &Arc<Lab>, request: &ProbeRequest) -> Answer<ProbeResult> {
    let ends = ends(lab, &request.from, &request.to)?;
    let mark = lab.shared.drops().mark();
    let timeout = Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
    let responder = responder(&ends, request)?;
    let cancel = Cancel::default();
    let done = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| end_when_dropped(lab, &ends, request, mark, &done, &cancel));
        let report = send(&ends, request, &Deadline::or_cancelled(timeout, &cancel));
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        report
    });
    let mut report = report.map_err(host_error)?;
    let mut evidence = Evidence::gather(lab, &ends, request, &report, mark);
    if report.outcome == Outcome::Cancelled && evidence.drop_out.is_none() && evidence.drop_back.is_none() {
        // What was dropped was somebody else's packet.
        report = send(&ends, request, &Deadline::after(timeout)).map_err(host_error)?;
        evidence = Evidence::gather(lab, &ends, request, &report, mark);
    }
    let seen = responder.as_ref().and_then(|responder| responder.seen().last().map(SocketAddr::ip));
    drop(responder);
    Ok(evidence.result(&report, &ends, seen))
}

fn send(ends: &Ends, request: &ProbeRequest, deadline: &Deadline) -> crate::host::Result<Report> {
    let destination = SocketAddr::new(ends.destination, request.service.port);
    let source = Some(ends.source);
    match request.service.protocol {
        Protocol::Icmp => {
            probe::icmp_echo(&ends.from, source, ends.destination, request.payload_bytes, deadline)
        }
        Protocol::Tcp => probe::tcp_connect(&ends.from, source, destination, deadline),
        Protocol::Udp => probe::udp_echo(&ends.from, source, destination, request.payload_bytes, deadline),
    }
}

/// Ends the wait once a packet like the probe, or an answer to it, was dropped by a decision: the next try would fare
/// no better. What a handshake or a full queue dropped may pass when it is sent again.
fn end_when_dropped(
    lab: &Lab,
    ends: &Ends,
    request: &ProbeRequest,
    mark: u64,
    done: &AtomicBool,
    cancel: &Cancel,
) {
    let passing =
        [Reason::TunnelDown, Reason::ReceiverQueueFull, Reason::ShaperQueueFull, Reason::Impairment];
    let same = |tuple: &FiveTuple| {
        let ports =
            request.service.protocol == Protocol::Icmp || tuple.destination_port == request.service.port;
        ports && tuple.source == ends.source && tuple.destination == ends.destination
    };
    while !done.load(Ordering::Relaxed) {
        std::thread::park_timeout(LOOK_AGAIN_AFTER);
        let drops = lab.shared.drops();
        let ours = drops.since(mark).any(|record| {
            !passing.contains(&record.reason)
                && record.tuple.is_some_and(|tuple| same(&tuple) || same(&tuple.reversed()))
        });
        if ours {
            return cancel.cancel();
        }
    }
}

/// Somebody who answers at the receiver, unless a program there does already.
fn responder(ends: &Ends, request: &ProbeRequest) -> Answer<Option<Responder>> {
    let service = match request.service.protocol {
        Protocol::Tcp => Service::Tcp,
        Protocol::Udp => Service::Udp,
        Protocol::Icmp => return Ok(None),
    };
    let Some(to) = &ends.to else { return Ok(None) };
    Responder::open(to, service, request.service.port).map_err(host_error)
}

/// What the lab has seen of a probe.
struct Evidence {
    via: Vec<String>,
    via_reverse: Vec<String>,
    rule: Option<String>,
    rules: Vec<String>,
    drop_out: Option<(DropRecord, Option<String>)>,
    drop_back: Option<(DropRecord, Option<String>)>,
}

impl Evidence {
    fn gather(lab: &Lab, ends: &Ends, request: &ProbeRequest, report: &Report, mark: u64) -> Evidence {
        let snapshot = lab.snapshot();
        let flows = live::flow_records(lab);
        let source_port = report.source.map_or(0, |source| source.port());
        let matches = |tuple: &FiveTuple| belongs(tuple, ends, request, source_port);
        let answers = |tuple: &FiveTuple| matches(&tuple.reversed());
        let forward: Vec<&FlowRecord> = flows.iter().filter(|flow| matches(&flow.tuple)).collect();
        let reverse: Vec<&FlowRecord> = flows.iter().filter(|flow| answers(&flow.tuple)).collect();
        let log = lab.shared.drops();
        let rule_of = |record: &DropRecord| {
            record.rule.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.reference.name.clone())
        };
        let find = |wanted: &dyn Fn(&FiveTuple) -> bool| {
            let found = log.since(mark).find(|record| record.tuple.is_some_and(|tuple| wanted(&tuple)));
            found.map(|record| (*record, rule_of(record)))
        };
        Evidence {
            via: way(&snapshot, &forward),
            via_reverse: way(&snapshot, &reverse),
            rule: deciding_rule(&snapshot, &forward),
            rules: passed_rules(&snapshot, &forward),
            drop_out: find(&matches),
            drop_back: find(&answers),
        }
    }

    fn result(self, report: &Report, ends: &Ends, seen: Option<IpAddr>) -> ProbeResult {
        let (outcome, drop) = match (report.outcome, self.drop_out, self.drop_back) {
            (Outcome::Answered(_) | Outcome::Refused(_), ..) => (ProbeOutcome::Answered, None),
            (_, Some(drop), _) => (ProbeOutcome::Dropped, Some(drop)),
            (_, None, Some(drop)) => (ProbeOutcome::AnswerLost, Some(drop)),
            (_, None, None) => (ProbeOutcome::NoAnswer, None),
        };
        let rtt = match report.outcome {
            Outcome::Answered(rtt) | Outcome::Refused(rtt) => Some(rtt.as_micros() as u64),
            _ => None,
        };
        let (reason, drop_rule) = match drop {
            Some((record, rule)) => (Some(record.reason.name().to_owned()), rule),
            None => (None, None),
        };
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
            source_seen_as: seen,
        }
    }
}

/// Whether a packet with this tuple is the probe: by its own ports, or by what is left of it after a translation of
/// one side.
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

/// The appliances on a way, in order, from the flows that carried it: from a machine's port over tunnels and
/// appliances to the end.
fn way(snapshot: &Snapshot, flows: &[&FlowRecord]) -> Vec<String> {
    let is_machine = |port: PortId| {
        snapshot.port(port).is_some_and(|info| {
            matches!(info.kind, PortKind::Nic { .. } | PortKind::SiteHost { .. } | PortKind::InternetEdge)
        })
    };
    // The first leg begins at the port that has the tuple's source as its own address.
    let first = flows.iter().find(|flow| {
        is_machine(flow.port)
            && snapshot.port(flow.port).is_some_and(|port| {
                port.has_address(flow.tuple.source) || port.kind == PortKind::InternetEdge
            })
    });
    let Some(mut leg) = first.copied() else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for _ in 0..HOPS_MAX {
        for name in live::via(snapshot, leg) {
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        let next_port = match leg.verdict {
            Verdict::Seal(tunnel) => match snapshot.tunnel(tunnel).map(|spec| &spec.peer) {
                Some(TunnelPeer::Tunnel(peer)) => snapshot.tunnel(*peer).map(|spec| spec.ingress),
                _ => None,
            },
            Verdict::Deliver(port) => appliance(snapshot, port, leg.tuple.destination).map(|name| {
                names.push(name);
                port
            }),
            Verdict::Drop(_) => None,
        };
        let Some(next) = next_port.and_then(|port| flows.iter().find(|flow| flow.port == port)) else {
            break;
        };
        leg = next;
    }
    names
}

/// The machine behind a port, if a packet for this destination only passes it: a virtual appliance.
fn appliance(snapshot: &Snapshot, port: PortId, destination: IpAddr) -> Option<String> {
    let info = snapshot.port(port)?;
    match &info.kind {
        PortKind::Nic { vm, .. } if !info.has_address(destination) => Some(vm.to_string()),
        _ => None,
    }
}

/// The rule that let the packet pass: a firewall's if one was on the way, else what decided at its first port.
fn deciding_rule(snapshot: &Snapshot, flows: &[&FlowRecord]) -> Option<String> {
    let rules = flows.iter().filter_map(|flow| snapshot.rule(flow.decided_by?));
    let mut names = rules.map(|rule| (rule.hits.is_some(), rule.reference.name.clone()));
    let all: Vec<(bool, String)> = names.by_ref().collect();
    all.iter().find(|(counted, _)| *counted).or_else(|| all.first()).map(|(_, name)| name.clone())
}

/// The rules of the stateful functions that the packet passed, each once.
fn passed_rules(snapshot: &Snapshot, flows: &[&FlowRecord]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for rule in flows.iter().flat_map(|flow| &flow.rules).filter_map(|rule| snapshot.rule(*rule)) {
        if !names.contains(&rule.reference.name) {
            names.push(rule.reference.name.clone());
        }
    }
    names
}
