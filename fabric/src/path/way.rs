//! One direction of a path: decision after decision, through tunnels and machines that forward.

use std::net::IpAddr;

use smallvec::SmallVec;
use vnet_dataplane::session::reply_to;
use vnet_dataplane::{Action, FiveTuple, FunctionId, PacketMeta, PortId, Reason, TunnelId};

use super::known::Known;
use crate::decide::{HOPS_MAX, decide};
use crate::decision::{SessionOpen, SessionSide, SessionView, Verdict};
use crate::snapshot::network::Owner;
use crate::snapshot::routes::NextHop;
use crate::snapshot::{HitKind, Snapshot, TunnelPeer};
use crate::trace::{Hop, RuleId, Step, StepKind, Trace};

/// What became of a packet.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) end: WayEnd,
    /// Rules of firewalls and security groups that it met, in order.
    pub(super) rules: SmallVec<[RuleId; 8]>,
    /// What dropped it, or the last firewall's or security group's rule that let it pass.
    pub(super) decided_by: Option<RuleId>,
    /// With what tuple it left by the internet edge, for an address that no simulated host has.
    pub(super) left: Option<FiveTuple>,
    pub(super) delay_ns: u64,
    pub(super) assumptions: SmallVec<[Assumption; 2]>,
}

/// What a prediction takes for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assumption {
    /// The machine of this NIC forwards.
    Forwards(usize),
    /// The machine of this NIC translates to its own address what it forwards to the Internet.
    Translates(usize),
    /// What the user's device at the other end of this tunnel does is not known.
    Device(TunnelId),
    /// What the host's own network does with the packet is not known.
    HostNetwork,
}

impl Assumption {
    pub(super) fn text(self, snapshot: &Snapshot) -> String {
        match self {
            Assumption::Forwards(nic) => {
                format!("{} is assumed to forward", snapshot.hop_name(Hop::Nic(nic)))
            }
            Assumption::Translates(nic) => {
                let machine = snapshot.hop_name(Hop::Nic(nic));
                format!(
                    "{machine} is assumed to translate to its own address what it forwards to the Internet"
                )
            }
            Assumption::HostNetwork => {
                "it leaves by the host's own network: what answers there is not known".to_owned()
            }
            Assumption::Device(tunnel) => {
                let site = match snapshot.tunnel(tunnel).map(|spec| &spec.peer) {
                    Some(TunnelPeer::External(site)) => &**site,
                    _ => "",
                };
                format!("the device of {site} is the user's: what it does with the packet is not known")
            }
        }
    }
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

/// Whether whoever sends by this port has the destination too: its kernel delivers such a packet itself, whatever rules are
/// around it.
pub(super) fn stays(snapshot: &Snapshot, ingress: PortId, tuple: &FiveTuple) -> bool {
    let own = |address: IpAddr| match snapshot.machine_at(ingress) {
        Some(machine) => snapshot
            .ports()
            .any(|port| port.has_address(address) && snapshot.machine_at(port.id) == Some(machine)),
        None => snapshot.port(ingress).is_some_and(|port| port.has_address(address)),
    };
    // Hosts of the Internet share one port.
    let outside = Some(ingress) == snapshot.edge && tuple.source == tuple.destination;
    outside || own(tuple.source) && own(tuple.destination)
}

/// The way of a packet that [`stays`].
pub(super) fn looped<T: Trace>(snapshot: &Snapshot, ingress: PortId, tuple: FiveTuple, trace: &mut T) -> Way {
    trace.step(|| {
        let name = snapshot.port(ingress).map_or("", |port| &port.name);
        let text =
            format!("{tuple} stays in the machine: its kernel delivers it by the loopback, past every rule");
        Step::new(StepKind::Deliver, name, text, None)
    });
    Way {
        end: WayEnd::Arrived(ingress, tuple),
        rules: SmallVec::new(),
        decided_by: None,
        left: None,
        delay_ns: 0,
        assumptions: SmallVec::new(),
    }
}

/// Follows a packet to its end; what it opens is added to the sessions.
pub(super) fn follow<T: Trace>(
    snapshot: &Snapshot,
    sessions: &mut Known<'_>,
    ingress: PortId,
    packet: PacketMeta,
    trace: &mut T,
) -> Way {
    follow_legs(HOPS_MAX, snapshot, sessions, (ingress, packet), trace)
}

/// The same over this many decisions at most: with fewer than it takes, the packet ends where the next one would be made.
pub(super) fn follow_legs<T: Trace>(
    legs: u8,
    snapshot: &Snapshot,
    sessions: &mut Known<'_>,
    (ingress, packet): (PortId, PacketMeta),
    trace: &mut T,
) -> Way {
    let mut way = Way {
        end: WayEnd::Dropped(Reason::RoutingLoop),
        rules: SmallVec::new(),
        decided_by: None,
        left: None,
        delay_ns: 0,
        assumptions: SmallVec::new(),
    };
    let (mut port, mut packet) = (ingress, packet);
    for _ in 0..legs {
        let decision = decide(snapshot, sessions, port, &packet, trace);
        decision.opens.iter().for_each(|open| sessions.open(*open));
        way.rules.extend(decision.hits.iter().copied());
        way.decided_by = decisive(snapshot, &way, decision.decided_by, decision.verdict);
        way.delay_ns += delay(snapshot, &decision.actions);
        rewrite(&mut packet.tuple, &decision.actions);
        match after(snapshot, &mut way, decision.verdict, (&mut packet.tuple, sessions), trace) {
            Ok(next) => port = next,
            Err(end) => {
                way.end = end;
                return way;
            }
        }
    }
    if legs < HOPS_MAX {
        way.end = WayEnd::Arrived(port, packet.tuple);
    }
    way
}

/// Of a drop its cause; else the firewall's rule before a security group's.
fn decisive(snapshot: &Snapshot, way: &Way, by: Option<RuleId>, verdict: Verdict) -> Option<RuleId> {
    if let Verdict::Drop(_) = verdict {
        return by;
    }
    let kind = |rule: &RuleId| snapshot.rule(*rule).and_then(|info| info.hits.as_ref());
    let firewall = way.rules.iter().rev().find(|rule| matches!(kind(rule), Some(HitKind::Firewall { .. })));
    let group = || way.rules.iter().rev().find(|rule| matches!(kind(rule), Some(HitKind::Nsg { .. })));
    firewall.or_else(group).copied().or(by)
}

/// The port by which the packet goes on, or its end.
fn after(
    snapshot: &Snapshot,
    way: &mut Way,
    verdict: Verdict,
    (tuple, sessions): (&mut FiveTuple, &mut Known<'_>),
    trace: &mut impl Trace,
) -> Result<PortId, WayEnd> {
    match verdict {
        Verdict::Drop(reason) => Err(WayEnd::Dropped(reason)),
        Verdict::Seal(tunnel) => match snapshot.tunnel(tunnel).map(|spec| &spec.peer) {
            Some(TunnelPeer::Tunnel(peer)) => {
                snapshot.tunnel(*peer).map(|spec| spec.ingress).ok_or(WayEnd::Dropped(Reason::TunnelDown))
            }
            Some(TunnelPeer::External(_)) => {
                way.assumptions.push(Assumption::Device(tunnel));
                Err(WayEnd::Beyond)
            }
            _ => Err(WayEnd::Dropped(Reason::TunnelDown)),
        },
        Verdict::Deliver(port) => delivered(snapshot, way, port, (tuple, sessions), trace),
    }
}

fn delivered(
    snapshot: &Snapshot,
    way: &mut Way,
    port: PortId,
    (tuple, sessions): (&mut FiveTuple, &mut Known<'_>),
    trace: &mut impl Trace,
) -> Result<PortId, WayEnd> {
    let destination = tuple.destination;
    let arrived = Err(WayEnd::Arrived(port, *tuple));
    match snapshot.owner(port) {
        Some(Owner::Nic(nic)) if snapshot.port(port).is_some_and(|info| !info.has_address(destination)) => {
            way.assumptions.push(Assumption::Forwards(nic));
            let out = leaves_by(snapshot, nic, destination);
            if let Some(own) = translates_to(snapshot, out, tuple) {
                way.assumptions.push(Assumption::Translates(nic));
                let before = tuple.source;
                trace.step(|| translated(snapshot, nic, format!("the source {before} becomes {own}")));
                sessions.open(SessionOpen {
                    reply: Some(reply_to(tuple, own, tuple.source_port)),
                    ..SessionOpen::new(assumed(out), *tuple, RuleId(0))
                });
                tuple.source = own;
            }
            Ok(out)
        }
        Some(Owner::Nic(nic)) => {
            let found = sessions.find(assumed(port), tuple);
            let Some(found) = found.filter(|found| found.side == SessionSide::Reply) else {
                return arrived;
            };
            *tuple = found.original.reversed();
            let inside = tuple.destination;
            trace.pass(Hop::Nic(nic));
            trace.step(|| {
                translated(snapshot, nic, format!("the destination {destination} becomes {inside}"))
            });
            Ok(leaves_by(snapshot, nic, tuple.destination))
        }
        Some(Owner::InternetEdge) if snapshot.internet_addresses.contains(&destination) => arrived,
        Some(Owner::InternetEdge) if snapshot.host_egress => {
            way.left = Some(*tuple);
            way.assumptions.push(Assumption::HostNetwork);
            Err(WayEnd::Beyond)
        }
        Some(Owner::InternetEdge) => {
            way.left = Some(*tuple);
            Err(WayEnd::Outside(*tuple))
        }
        _ => arrived,
    }
}

/// The address to which a forwarding machine translates the source, as it has to where the Internet is next.
fn translates_to(snapshot: &Snapshot, out: PortId, tuple: &FiveTuple) -> Option<IpAddr> {
    let Some(Owner::Nic(nic)) = snapshot.owner(out) else { return None };
    let port = snapshot.port(out)?;
    let route = snapshot.subnets[snapshot.nics[nic].subnet].routes.lookup(tuple.destination)?;
    if route.next_hop != NextHop::Internet || port.has_address(tuple.source) {
        return None;
    }
    let own = port.addresses.iter().map(ipnet::IpNet::addr);
    own.into_iter().find(|own| own.is_ipv4() == tuple.source.is_ipv4())
}

fn translated(snapshot: &Snapshot, nic: usize, text: String) -> Step {
    let at = snapshot.port(snapshot.nics[nic].port).map_or("", |port| &port.name);
    Step::new(StepKind::Translate, at, text, None)
}

/// What a machine is assumed to translate is kept as a session of a function that no snapshot has.
fn assumed(port: PortId) -> FunctionId {
    FunctionId(u32::MAX - port.0)
}

/// The NIC by which a forwarding machine sends on: the one whose subnet holds the destination, else the primary one.
fn leaves_by(snapshot: &Snapshot, nic: usize, destination: std::net::IpAddr) -> PortId {
    let all = snapshot.names.machines.get(snapshot.hop_name(Hop::Nic(nic))).map_or(&[][..], Vec::as_slice);
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
        let (Action::RewriteSource { port, .. } | Action::RewriteDestination { port, .. }) = *action else {
            continue;
        };
        // An ICMP identifier stands on both sides.
        let either = port.filter(|_| tuple.protocol.is_icmp());
        match *action {
            Action::RewriteSource { address, .. } => {
                tuple.source = address;
                tuple.source_port = port.unwrap_or(tuple.source_port);
                tuple.destination_port = either.unwrap_or(tuple.destination_port);
            }
            Action::RewriteDestination { address, .. } => {
                tuple.destination = address;
                tuple.destination_port = port.unwrap_or(tuple.destination_port);
                tuple.source_port = either.unwrap_or(tuple.source_port);
            }
            _ => {}
        }
    }
}
