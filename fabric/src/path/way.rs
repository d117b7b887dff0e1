//! One direction of a path: decision after decision, through tunnels and machines that forward.

use vnet_dataplane::{Action, FiveTuple, PacketMeta, PortId, Reason};

use crate::decide::{HOPS_MAX, decide};
use crate::decision::{SessionOpen, Verdict};
use crate::snapshot::network::Owner;
use crate::snapshot::{HitKind, Snapshot, TunnelPeer};
use crate::trace::{Recorder, RuleId, Step, StepKind};

/// What became of a packet.
#[derive(Clone, Debug)]
pub(super) struct Way<R = Vec<Step>> {
    pub(super) steps: R,
    pub(super) end: WayEnd,
    /// Rules of firewalls and security groups that it met, in order.
    pub(super) rules: Vec<RuleId>,
    /// What dropped it, or the last firewall's or security group's rule that let it pass.
    pub(super) decided_by: Option<RuleId>,
    pub(super) delay_ns: u64,
    pub(super) assumptions: Vec<String>,
}

/// Where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayEnd {
    /// At a port, with this tuple.
    Arrived(PortId, FiveTuple),
    /// Out of the lab's sight: a device that the user runs.
    Beyond,
    /// At the internet edge, for an address that no simulated host has.
    Outside(FiveTuple),
    Dropped(Reason),
}

/// Follows a packet; what it opens is added to the sessions.
pub(super) fn follow<R: Recorder>(
    snapshot: &Snapshot,
    sessions: &mut Vec<SessionOpen>,
    ingress: PortId,
    packet: PacketMeta,
) -> Way<R> {
    let mut way = Way {
        steps: R::default(),
        end: WayEnd::Dropped(Reason::RoutingLoop),
        rules: Vec::new(),
        decided_by: None,
        delay_ns: 0,
        assumptions: Vec::new(),
    };
    let (mut port, mut packet) = (ingress, packet);
    for _ in 0..HOPS_MAX {
        let decision = decide(snapshot, sessions, port, &packet, &mut way.steps);
        sessions.extend(decision.opens.iter().copied());
        way.rules.extend(decision.hits.iter().copied());
        way.decided_by = decisive(snapshot, &way.rules, decision.decided_by, decision.verdict);
        way.delay_ns += delay(snapshot, &decision.actions);
        rewrite(&mut packet.tuple, &decision.actions);
        match after(snapshot, &mut way, decision.verdict, &packet) {
            Ok(next) => port = next,
            Err(end) => {
                way.end = end;
                return way;
            }
        }
    }
    way
}

/// Of a drop its cause; else the firewall's rule before a security group's.
fn decisive(snapshot: &Snapshot, rules: &[RuleId], by: Option<RuleId>, verdict: Verdict) -> Option<RuleId> {
    if let Verdict::Drop(_) = verdict {
        return by;
    }
    let kind = |rule: &RuleId| snapshot.rule(*rule).and_then(|info| info.hits.as_ref());
    let firewall = rules.iter().rev().find(|rule| matches!(kind(rule), Some(HitKind::Firewall { .. })));
    let group = || rules.iter().rev().find(|rule| matches!(kind(rule), Some(HitKind::Nsg { .. })));
    firewall.or_else(group).copied().or(by)
}

/// The port by which the packet goes on, or its end.
fn after<R: Recorder>(
    snapshot: &Snapshot,
    way: &mut Way<R>,
    verdict: Verdict,
    packet: &PacketMeta,
) -> Result<PortId, WayEnd> {
    match verdict {
        Verdict::Drop(reason) => Err(WayEnd::Dropped(reason)),
        Verdict::Seal(tunnel) => match snapshot.tunnel(tunnel).map(|spec| &spec.peer) {
            Some(TunnelPeer::Tunnel(peer)) => {
                snapshot.tunnel(*peer).map(|spec| spec.ingress).ok_or(WayEnd::Dropped(Reason::TunnelDown))
            }
            Some(TunnelPeer::External(site)) => {
                way.assumptions.push(format!(
                    "the device of {site} is the user's: what it does with the packet is not known"
                ));
                Err(WayEnd::Beyond)
            }
            _ => Err(WayEnd::Dropped(Reason::TunnelDown)),
        },
        Verdict::Deliver(port) => delivered(snapshot, way, port, packet),
    }
}

fn delivered<R: Recorder>(
    snapshot: &Snapshot,
    way: &mut Way<R>,
    port: PortId,
    packet: &PacketMeta,
) -> Result<PortId, WayEnd> {
    let destination = packet.tuple.destination;
    let arrived = Err(WayEnd::Arrived(port, packet.tuple));
    match snapshot.owner(port) {
        Some(Owner::Nic(nic)) if snapshot.port(port).is_some_and(|info| !info.has_address(destination)) => {
            let forwarder = snapshot.port(snapshot.nics[nic].port).map_or("", |info| &info.name);
            way.assumptions.push(format!("{} is assumed to forward", machine(forwarder)));
            Ok(leaves_by(snapshot, nic, destination))
        }
        Some(Owner::InternetEdge) if snapshot.public.contains_key(&destination) => Ok(port),
        Some(Owner::InternetEdge)
            if !snapshot.names.internet_hosts.values().flatten().any(|host| *host == destination) =>
        {
            way.steps.step(StepKind::Drop, "internet", || Step {
                kind: StepKind::Drop,
                at: "internet".to_owned(),
                text: format!("no simulated host of the Internet has the address {destination}"),
                rule: snapshot.rule_ref(snapshot.check(crate::azure_rule::AzureRule::FabricNoListener)),
                rejected: Vec::new(),
            });
            Err(WayEnd::Outside(packet.tuple))
        }
        _ => arrived,
    }
}

/// The NIC by which a forwarding machine sends on: the one whose subnet holds the destination, else the primary one.
fn leaves_by(snapshot: &Snapshot, nic: usize, destination: std::net::IpAddr) -> PortId {
    let all =
        snapshot.names.machines.values().find(|nics| nics.contains(&nic)).map_or(&[][..], Vec::as_slice);
    let near = all.iter().find(|other| {
        let port = snapshot.port(snapshot.nics[**other].port);
        port.is_some_and(|port| port.addresses.iter().any(|own| own.contains(&destination)))
    });
    let chosen = near.or(all.first()).copied().unwrap_or(nic);
    snapshot.nics[chosen].port
}

fn delay(snapshot: &Snapshot, actions: &[Action]) -> u64 {
    let delays =
        actions.iter().filter_map(|action| if let Action::Delay(id) = action { Some(*id) } else { None });
    delays
        .filter_map(|id| snapshot.delays.iter().find(|delay| delay.id == id))
        .map(|delay| delay.delay_ns)
        .sum()
}

fn rewrite(tuple: &mut FiveTuple, actions: &[Action]) {
    for action in actions {
        match *action {
            Action::RewriteSource { address, port } => {
                tuple.source = address;
                tuple.source_port = port.unwrap_or(tuple.source_port);
            }
            Action::RewriteDestination { address, port } => {
                tuple.destination = address;
                tuple.destination_port = port.unwrap_or(tuple.destination_port);
            }
            _ => {}
        }
    }
}

fn machine(port: &str) -> &str {
    port.split_once('/').map_or(port, |(vm, _)| vm)
}

/// Appliances in the order in which they forwarded the packet: firewalls, gateways, machines.
pub(super) fn via<R: Recorder>(snapshot: &Snapshot, steps: &R) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (kind, at) in steps.places() {
        let name = match kind {
            StepKind::Firewall | StepKind::Gateway => at,
            StepKind::Appliance => machine(at),
            StepKind::Tunnel if snapshot.gateways.iter().any(|gateway| *gateway.name == *at) => at,
            _ => continue,
        };
        if names.last().is_none_or(|last| last != name) {
            names.push(name.to_owned());
        }
    }
    names
}
