//! Probes with real packets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vnet_api::{ProbeRequest, ProbeResult, Protocol};
use vnet_dataplane::{FiveTuple, Reason};
use vnet_fabric::path::Endpoint;
use vnet_fabric::snapshot::{PortInfo, PortKind};

use super::blueprint::{Blueprint, Namespace, Role};
use super::evidence::Evidence;
use super::lab::Lab;
use crate::api::{Answer, ApiError};
use crate::host::error::HostError;
use crate::host::netns::Netns;
use crate::host::probe::{self, Cancel, Deadline, Outcome, Report, Responder, Service};

/// The longest that a caller may wait for one probe.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the log of drops.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// What a receiver's kernel may take to tell of a connection that its sender has already.
const SEEN_AFTER_MAX: Duration = Duration::from_secs(1);

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
    /// Namespaces of further machines with that address: routes choose who gets a packet.
    pub namesakes: Vec<Netns>,
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
    .ok_or_else(|| {
        let appliance = |name: &Namespace| matches!(name.role, Role::Appliance(_));
        if view.blueprint.namespaces.get(from).is_some_and(appliance) {
            let message =
                format!("'{from}' is an appliance, from which nothing is probed: ask from a machine.");
            return ApiError::bad_request(message);
        }
        ApiError::not_among("machine", from, view.machines.keys())
    })?;
    let sender = open(&from)?.ok_or_else(|| ApiError::not_found("machine", &from))?;
    let sources = source.map_or_else(|| addresses(&view.blueprint, &from), |address| vec![address]);
    let (receiver, destinations) = match to.parse::<IpAddr>() {
        Ok(address) => {
            let name = holder(&view.blueprint, address).or_else(|| holder_of_public(lab, address));
            (name.map(|name| open(&name)).transpose()?.flatten(), vec![address])
        }
        Err(_) if view.machines.contains_key(to) => {
            let outside =
                view.blueprint.namespaces.get(&from).is_some_and(|from| from.role == Role::InternetHost);
            let public = if outside { public_addresses(lab, to) } else { Vec::new() };
            (open(to)?, if public.is_empty() { addresses(&view.blueprint, to) } else { public })
        }
        // Appliances answer at their own addresses; a NIC is one of its machine's.
        Err(_) => match Endpoint::resolve(&lab.snapshot(), to) {
            Ok(end) => {
                let name = end.addresses.first().and_then(|address| holder(&view.blueprint, *address));
                (name.map(|name| open(&name)).transpose()?.flatten(), end.addresses)
            }
            Err(_) => {
                return Err(ApiError::not_among("machine, appliance or address", to, view.machines.keys()));
            }
        },
    };
    let pair = destinations.iter().find_map(|destination| {
        let source = sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4())?;
        Some((*source, *destination))
    });
    let Some((source, destination)) = pair else {
        return Err(ApiError::bad_request(format!("'{from}' and '{to}' have no address family in common.")));
    };
    let namesakes = holders(&view.blueprint, destination).filter(|name| *name != to && **name != from);
    let namesakes = namesakes.map(|name| open(name)).filter_map(Answer::transpose).collect::<Answer<_>>()?;
    Ok(Ends { from: sender, source, to: receiver, destination, namesakes })
}

/// The public addresses of a machine: the Internet knows no others.
fn public_addresses(lab: &Lab, machine: &str) -> Vec<IpAddr> {
    let snapshot = lab.snapshot();
    let own = |info: &&PortInfo| matches!(&info.kind, PortKind::Nic { vm, .. } if **vm == *machine);
    let public = |info: &PortInfo| -> Vec<IpAddr> {
        let private = info.addresses.iter().map(ipnet::IpNet::addr);
        private.filter_map(|address| snapshot.public_address(info.id, address)).collect()
    };
    snapshot.ports().filter(own).flat_map(public).collect()
}

/// The machine that has this public address.
fn holder_of_public(lab: &Lab, address: IpAddr) -> Option<String> {
    let snapshot = lab.snapshot();
    match &snapshot.port(snapshot.holder_of_public(address)?)?.kind {
        PortKind::Nic { vm, .. } => Some(vm.to_string()),
        _ => None,
    }
}

/// The machine that has this address, if only one has.
fn holder(blueprint: &Blueprint, address: IpAddr) -> Option<String> {
    let mut holders = holders(blueprint, address);
    let name = holders.next()?;
    holders.next().is_none().then(|| name.clone())
}

/// All machines that have this address.
fn holders(blueprint: &Blueprint, address: IpAddr) -> impl Iterator<Item = &String> {
    let holds = move |(name, namespace): &(&String, &Namespace)| {
        namespace.role.is_machine() && addresses(blueprint, name).contains(&address)
    };
    blueprint.namespaces.iter().filter(holds).map(|(name, _)| name)
}

/// Sends one probe and says what became of it.
pub(super) fn probe(lab: &Arc<Lab>, request: &ProbeRequest) -> Answer<ProbeResult> {
    let ends = ends(lab, &request.from, &request.to)?;
    let mark = lab.shared.drops().mark();
    let timeout = Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
    let responders = responders(&ends, request)?;
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
    // The last packet of TCP's handshake may still be on its way when the sender has its answer.
    let seen = match (&responders[..], report.outcome) {
        ([responder], Outcome::Answered(rtt)) => responder.seen_within(rtt + SEEN_AFTER_MAX),
        // Which of several machines is reached is known when one of them has seen it.
        (all, Outcome::Answered(_)) => all.iter().find_map(|one| one.seen().last().copied()),
        _ => None,
    };
    drop(responders);
    Ok(evidence.result(&report, &ends, seen.map(|seen| seen.ip())))
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

/// Somebody who answers at the receiver, and at who else may get what is meant for it, unless a program there does already.
fn responders(ends: &Ends, request: &ProbeRequest) -> Answer<Vec<Responder>> {
    let service = match request.service.protocol {
        Protocol::Tcp => Service::Tcp,
        Protocol::Udp => Service::Udp,
        Protocol::Icmp => return Ok(Vec::new()),
    };
    let machines = ends.to.iter().chain(&ends.namesakes);
    let opened = machines.map(|ns| Responder::open(ns, service, request.service.port).map_err(host_error));
    opened.filter_map(Answer::transpose).collect()
}
