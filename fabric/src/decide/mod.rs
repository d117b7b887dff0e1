//! The one place where a verdict is made: a packet walks from its ingress port over routes, peerings, firewalls and
//! gateways to a port, a tunnel or a drop. Nothing is allocated unless the way is traced.

mod candidates;
mod edge;
mod encryption;
mod firewall;
mod gateway;
mod nat;
mod nic;
mod peering;
mod route;
mod translate;

use std::net::IpAddr;

use vnet_dataplane::{Action, DelayId, FiveTuple, FunctionId, PacketMeta, PortId, Protocol, Reason};

use crate::azure_rule::AzureRule;
use crate::decision::{Decision, SessionOpen, SessionView, Verdict};
use crate::snapshot::Snapshot;
use crate::snapshot::network::{Location, Owner};
use crate::trace::{Crossing, RuleId, Step, StepKind, Trace};

/// A packet passes at most this many appliances in one decision.
pub const HOPS_MAX: u8 = 64;

/// Destination ports that a host keeps for itself.
pub(crate) const RESERVED_UDP_PORTS: [u16; 2] = [4791, 65_330];
/// Source and destination port of a DHCP client's packets.
pub(crate) const DHCP: (u16, u16) = (68, 67);

/// Judges one packet that enters by `ingress`.
pub fn decide<S: SessionView, T: Trace>(
    snapshot: &Snapshot,
    sessions: &S,
    ingress: PortId,
    packet: &PacketMeta,
    trace: &mut T,
) -> Decision {
    let mut decision = Decision::new();
    decide_into(&mut decision, snapshot, sessions, ingress, packet, trace);
    decision
}

/// As [`decide`], into a decision of the caller's, whatever it holds: one is more than a kilobyte, which whoever decides often
/// need not move about.
pub fn decide_into<S: SessionView, T: Trace>(
    decision: &mut Decision,
    snapshot: &Snapshot,
    sessions: &S,
    ingress: PortId,
    packet: &PacketMeta,
    trace: &mut T,
) {
    decision.clear();
    let mut walk = Walk {
        snapshot,
        sessions,
        trace,
        packet,
        tuple: packet.tuple,
        embedded: packet.embedded,
        place: None,
        sent_by: None,
        hops: 0,
        overflow: false,
        allowed_by: None,
        routed_by: None,
        decision,
    };
    let mut next = walk.enter(ingress);
    loop {
        next = match next {
            Next::Route { subnet, sender } => walk.route(subnet, sender),
            Next::Firewall(index) => walk.firewall(index),
            Next::Gateway { gateway, subnet_route } => walk.gateway(gateway, subnet_route),
            Next::Nic { nic, next_hop } => walk.arrive(nic, next_hop),
            Next::End(verdict, rule) => return walk.finish(verdict, rule),
        };
    }
}

/// Who puts a packet on the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Nic(usize),
    Firewall(usize),
    Gateway(usize),
}

/// Where the walk goes on.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// A route of this subnet is to be selected.
    Route { subnet: usize, sender: Sender },
    /// The packet is at a firewall, to be forwarded.
    Firewall(usize),
    /// The packet is at a gateway, to be forwarded; the route that led there was one of its own.
    Gateway { gateway: usize, subnet_route: bool },
    /// The packet is at a NIC, as its destination or as next hop.
    Nic { nic: usize, next_hop: bool },
    /// The walk ends.
    End(Verdict, Option<RuleId>),
}

/// One packet's way so far.
struct Walk<'a, S, T> {
    snapshot: &'a Snapshot,
    sessions: &'a S,
    trace: &'a mut T,
    packet: &'a PacketMeta,
    /// The packet's tuple, as rewritten so far.
    tuple: FiveTuple,
    /// For an ICMP error, the tuple that it complains about, as rewritten so far.
    embedded: Option<FiveTuple>,
    place: Option<Location>,
    /// The NIC that put it on the fabric, until an appliance of Azure forwards it.
    sent_by: Option<usize>,
    hops: u8,
    overflow: bool,
    /// The last rule of a firewall or security group that let it pass.
    allowed_by: Option<RuleId>,
    /// The last route that was selected.
    routed_by: Option<RuleId>,
    decision: &'a mut Decision,
}

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    fn enter(&mut self, ingress: PortId) -> Next {
        match self.snapshot.owner(ingress) {
            Some(Owner::Nic(nic)) => self.leave_nic(nic),
            Some(Owner::Firewall(firewall)) => self.leave_appliance(ingress, Sender::Firewall(firewall)),
            Some(Owner::Gateway { gateway, .. }) => self.leave_appliance(ingress, Sender::Gateway(gateway)),
            Some(Owner::SiteHost(site)) => self.leave_site(site, ingress),
            Some(Owner::Platform) => self.leave_platform(),
            Some(Owner::InternetEdge) => self.enter_from_internet(),
            Some(Owner::Tunnel(tunnel)) => self.open(tunnel),
            None => Next::End(Verdict::Drop(Reason::Internal), None),
        }
    }

    fn finish(self, mut verdict: Verdict, rule: Option<RuleId>) {
        if self.overflow && !matches!(verdict, Verdict::Drop(_)) {
            verdict = Verdict::Drop(Reason::Internal);
        }
        let last = match verdict {
            Verdict::Deliver(port) => Action::Deliver(port),
            Verdict::Seal(tunnel) => Action::Seal(tunnel),
            Verdict::Drop(reason) => Action::Drop(reason),
        };
        let Decision { actions, opens, .. } = &mut *self.decision;
        if let Verdict::Drop(_) = verdict {
            actions.retain(|action| matches!(action, Action::Count(_)));
            opens.clear();
        }
        if actions.try_push(last).is_err() {
            actions.pop();
            actions.push(last);
        }
        self.decision.verdict = verdict;
        self.decision.decided_by = rule.or(self.allowed_by).or(self.routed_by);
    }

    fn act(&mut self, action: Action) {
        // One place is kept for the terminal action; a counter that finds no room is the least loss.
        if self.decision.actions.remaining_capacity() > 1 {
            self.decision.actions.push(action);
        } else if !matches!(action, Action::Count(_)) {
            self.overflow = true;
        }
    }

    fn note(&mut self, kind: StepKind, rule: Option<RuleId>, at: &str, text: impl FnOnce() -> String) {
        let snapshot = self.snapshot;
        if let Some(rule) = rule {
            self.trace.rests_on(rule);
        }
        self.trace.step(|| Step::new(kind, at, text(), rule.and_then(|rule| snapshot.rule_ref(rule))));
    }

    fn drop(&mut self, reason: Reason, rule: RuleId, at: &str, text: impl FnOnce() -> String) -> Next {
        self.note(StepKind::Drop, Some(rule), at, || format!("dropped, {reason}: {}", text()));
        Next::End(Verdict::Drop(reason), Some(rule))
    }

    fn deliver(&mut self, port: PortId) -> Next {
        let snapshot = self.snapshot;
        let name = snapshot.port(port).map_or("", |port| &port.name);
        self.note(StepKind::Deliver, None, name, || format!("delivered to {name}"));
        Next::End(Verdict::Deliver(port), None)
    }

    /// Goes to another place: the way there takes its time.
    fn travel(&mut self, to: Location) {
        if let Some(from) = self.place {
            let delay = self.snapshot.delay_of.get(&(from, to)).copied();
            if let Some(delay) = delay {
                self.act(Action::Delay(delay));
            }
            if from.region != to.region || (from.zone != to.zone && from.zone != 0 && to.zone != 0) {
                self.note_crossing(from, to, delay);
            }
        }
        self.place = Some(to);
    }

    /// The verdict does not rest on the latency's rule, so that it is named in the step only.
    fn note_crossing(&mut self, from: Location, to: Location, delay: Option<DelayId>) {
        let snapshot = self.snapshot;
        self.trace.step(|| {
            let one_way_ms = delay.and_then(|id| snapshot.delay_ms(id));
            let (from_name, to_name) = (snapshot.place_name(from), snapshot.place_name(to));
            let takes =
                one_way_ms.map_or("no latency is configured".to_owned(), |ms| format!("{ms} ms one way"));
            let rule =
                if from.region == to.region { AzureRule::LatencyZone } else { AzureRule::LatencyRegion };
            let text = format!("from {from_name} to {to_name}: {takes}");
            let mut step = Step::new(
                StepKind::Crossing,
                to_name.clone(),
                text,
                snapshot.rule_ref(snapshot.check(rule)).filter(|_| one_way_ms.is_some()),
            );
            step.crossing = Some(Crossing { from: from_name, to: to_name, one_way_ms });
            step
        });
    }

    /// Counts an appliance on the way; a drop where it goes in a circle.
    fn hop(&mut self, at: &str) -> Option<Next> {
        self.hops += 1;
        self.sent_by = None;
        if self.hops <= HOPS_MAX {
            return None;
        }
        let rule = self.snapshot.check(AzureRule::FabricLoop);
        Some(self.drop(Reason::RoutingLoop, rule, at, || {
            format!("the packet passed {HOPS_MAX} appliances and goes in a circle")
        }))
    }

    /// The tuple by which the packet's flow is known: an ICMP error belongs to the flow that it complains about, running
    /// against the packet that it quotes.
    fn flow(&self) -> FiveTuple {
        self.embedded.map_or(self.tuple, FiveTuple::reversed)
    }

    fn open_session(&mut self, function: FunctionId, rule: RuleId) {
        self.add_session(SessionOpen::new(function, self.tuple, rule));
    }

    fn add_session(&mut self, open: SessionOpen) {
        let SessionOpen { function, tuple, .. } = open;
        let known =
            self.decision.opens.iter().any(|other| other.function == function && other.tuple == tuple);
        if self.embedded.is_none() && !known && self.decision.opens.try_push(open).is_err() {
            self.overflow = true;
        }
    }

    fn hit(&mut self, rule: RuleId) {
        if !self.decision.hits.contains(&rule) {
            // More rules than a way of bounded functions can meet: the counter of the last is the least loss.
            let _ = self.decision.hits.try_push(rule);
        }
    }

    /// Takes note of a session by the tuple that it was found by: the side of the packet follows from that.
    fn pass_by_session(&mut self, function: FunctionId, original: FiveTuple) {
        let tuple = if self.embedded.is_some() { original } else { self.tuple };
        if !self.decision.passed.contains(&(function, tuple))
            && self.decision.passed.try_push((function, tuple)).is_err()
        {
            self.overflow = true;
        }
    }

    /// Checks that hold wherever a packet enters the fabric.
    fn check_carried(&mut self, at: &str) -> Option<Next> {
        let FiveTuple { protocol, destination, .. } = self.tuple;
        if destination.is_multicast()
            || destination.is_unspecified()
            || destination == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
        {
            let rule = self.snapshot.check(AzureRule::FabricUnicast);
            return Some(self.drop(Reason::MulticastNotSupported, rule, at, || {
                format!("{destination} is no unicast address")
            }));
        }
        let carried =
            [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6, Protocol::ESP, Protocol::AH];
        if carried.contains(&protocol) {
            return None;
        }
        let rule = self.snapshot.check(AzureRule::FabricProtocols);
        Some(
            self.drop(Reason::ProtocolNotSupported, rule, at, || {
                format!("the fabric does not carry {protocol}")
            }),
        )
    }

    /// UDP that the host of a NIC takes for itself, so that it never reaches the network.
    fn check_reserved(&mut self, at: &str) -> Option<Next> {
        let FiveTuple { protocol, source_port, destination_port, .. } = self.tuple;
        let dhcp = (source_port, destination_port) == DHCP;
        if protocol != Protocol::UDP || !(dhcp || RESERVED_UDP_PORTS.contains(&destination_port)) {
            return None;
        }
        let rule = self.snapshot.check(AzureRule::FabricReservedPorts);
        Some(self.drop(Reason::ProtocolNotSupported, rule, at, || {
            if dhcp {
                "the host answers DHCP itself, and hands none on".to_owned()
            } else {
                format!("the host keeps UDP port {destination_port} for itself")
            }
        }))
    }

    /// A NIC, host or appliance may send from its own addresses only.
    fn check_source(&mut self, port: PortId, forwarding: bool) -> Option<Next> {
        let snapshot = self.snapshot;
        let info = snapshot.port(port)?;
        let source = self.tuple.source;
        if forwarding || info.has_address(source) {
            return None;
        }
        let rule = snapshot.check(AzureRule::FabricSpoof);
        Some(self.drop(Reason::SpoofedSource, rule, &info.name, || {
            format!("{source} is not an address of {}", info.name)
        }))
    }
}
