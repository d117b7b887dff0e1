//! Leaving a NIC and arriving at one: source check, security groups, delivery.

use std::net::IpAddr;

use vnet_dataplane::{Action, FiveTuple, FunctionId, Reason};

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionOpen, SessionSide, SessionView};
use crate::snapshot::network::{Judgement, Nic, Nsg, is_platform};
use crate::snapshot::rules::Rule;
use crate::snapshot::tags::Tags;
use crate::trace::{Hop, StepKind, Trace};

/// The way of a packet through a NIC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn opposite(self) -> Way {
        match self {
            Way::In => Way::Out,
            Way::Out => Way::In,
        }
    }

    /// Whose sessions are those of flows that began this way.
    fn function(self, nic: &Nic) -> FunctionId {
        match self {
            Way::In => nic.inbound,
            Way::Out => nic.outbound,
        }
    }

    /// The address that is not the NIC's.
    fn other_end(self, tuple: &FiveTuple) -> IpAddr {
        match self {
            Way::In => tuple.source,
            Way::Out => tuple.destination,
        }
    }

    fn step(self) -> StepKind {
        match self {
            Way::In => StepKind::NsgInbound,
            Way::Out => StepKind::NsgOutbound,
        }
    }
}

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    pub(super) fn leave_nic(&mut self, index: usize) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[index];
        let name = self.port_name(nic);
        let tuple = self.tuple;
        self.place = Some(nic.location);
        self.sent_by = Some(index);
        let refused = self
            .check_source(nic.port, nic.forwarding)
            .or_else(|| self.check_carried(name))
            .or_else(|| self.check_reserved(name));
        if let Some(end) = refused {
            return end;
        }
        self.note(StepKind::Origin, None, name, || format!("{tuple} leaves {name}"));
        if let Some(limiter) = nic.limiter {
            self.act(Action::Shape(limiter));
        }
        if let Some(end) = self.security_groups(nic, Way::Out) {
            return end;
        }
        if is_platform(tuple.destination) {
            return self.reach_platform(nic);
        }
        Next::Route { subnet: nic.subnet, sender: Sender::Nic(index) }
    }

    fn reach_platform(&mut self, nic: &Nic) -> Next {
        let rule = self.snapshot.check(AzureRule::FabricPlatform);
        // The platform answers to an address that several networks may use: the session says whose it is.
        match self.known_flow(nic, Way::Out) {
            Some(known) => self.pass_by_session(known.function, known.original),
            None => self.open_session(nic.outbound, rule),
        }
        match self.snapshot.platform {
            Some(port) => self.deliver(port),
            None => self.drop(Reason::NoListener, rule, "platform", || "the lab has no platform".to_owned()),
        }
    }

    pub(super) fn arrive(&mut self, index: usize, next_hop: bool) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[index];
        let name = self.port_name(nic);
        let destination = self.tuple.destination;
        self.travel(nic.location);
        let own = snapshot.port(nic.port).is_some_and(|port| port.has_address(destination));
        if next_hop && !own {
            self.trace.reach(Hop::Nic(index));
        }
        if !own && !nic.forwarding {
            let rule = snapshot.check(AzureRule::FabricForwarding);
            return self.drop(Reason::NotForwarding, rule, name, || {
                format!("{destination} is not an address of {name}, and its enableIPForwarding is false")
            });
        }
        if let Some(end) = self.encryption(index) {
            return end;
        }
        if let Some(end) = self.security_groups(nic, Way::In) {
            return end;
        }
        if next_hop && !own {
            self.trace.pass(Hop::Nic(index));
            self.note(StepKind::Appliance, None, name, || format!("{name} is to forward it"));
        }
        self.deliver(nic.port)
    }

    pub(super) fn port_name(&self, nic: &Nic) -> &'a str {
        self.snapshot.port(nic.port).map_or("", |port| &port.name)
    }

    /// Both groups must allow: outbound the NIC's first, inbound the subnet's. A flow that began in one direction passes
    /// with its replies in the other.
    fn security_groups(&mut self, nic: &'a Nic, way: Way) -> Option<Next> {
        if !nic.stateful() {
            return None;
        }
        let name = self.port_name(nic);
        let platform = is_platform(way.other_end(&self.tuple));
        let tracked = platform || nic.tracks(self.flow().protocol);
        if tracked && let Some(known) = self.known_flow(nic, way) {
            return self.pass_known(nic, way, &known);
        }
        if !tracked {
            let rule = self.snapshot.check(AzureRule::NsgUntracked);
            self.note(way.step(), Some(rule), name, || "judged by itself, reply or not".to_owned());
        }
        for group in nic.groups(way == Way::In) {
            if let Some(end) = self.security_group(group, way, name) {
                return Some(end);
            }
        }
        if tracked {
            let rule = self.allowed_by.unwrap_or_else(|| self.snapshot.check(AzureRule::NsgStateful));
            let network = &self.snapshot.networks[self.snapshot.subnets[nic.subnet].network];
            self.add_session(SessionOpen {
                idle_minutes: network.flow_timeout_minutes,
                ..SessionOpen::new(way.function(nic), self.tuple, rule)
            });
        }
        None
    }

    /// The flow that the packet belongs to, having begun in this direction, or that it answers.
    fn known_flow(&self, nic: &Nic, way: Way) -> Option<KnownFlow> {
        let flow = self.flow();
        let of = |began: Way, side| {
            let function = began.function(nic);
            let found = self.sessions.find(function, &flow).filter(|found| found.side == side)?;
            Some(KnownFlow { function, began, original: found.original })
        };
        of(way, SessionSide::Original).or_else(|| of(way.opposite(), SessionSide::Reply))
    }

    /// A known flow passes, but for a group with flushConnection whose present rules deny its first packet. Its session
    /// stays: without it, what the other end sends would begin the flow anew in the other direction.
    fn pass_known(&mut self, nic: &'a Nic, way: Way, known: &KnownFlow) -> Option<Next> {
        let name = self.port_name(nic);
        let original = known.original;
        let inbound = known.began == Way::In;
        for group in nic.groups(inbound).filter(|group| group.flush) {
            if let Judgement::By(rule) = group.judge(inbound, &original)
                && !rule.allow
            {
                self.hit(rule.id);
                let flush = self.snapshot.check(AzureRule::NsgFlush);
                self.note(way.step(), Some(flush), name, || {
                    format!("network security group {} judges live flows again", group.name)
                });
                return Some(self.drop(Reason::NsgDeny, rule.id, name, || {
                    format!("network security group {} denies {original} now", group.name)
                }));
            }
        }
        self.pass_by_session(known.function, original);
        let rule = self.snapshot.check(AzureRule::NsgStateful);
        self.note(way.step(), Some(rule), name, || "passes by the session of its flow".to_owned());
        None
    }

    fn security_group(&mut self, group: &'a Nsg, way: Way, at: &str) -> Option<Next> {
        let tuple = self.tuple;
        let rule = match group.judge(way == Way::In, &tuple) {
            Judgement::By(rule) => rule,
            Judgement::Exempt => {
                let rule = self.snapshot.check(AzureRule::FabricPlatform);
                self.note(way.step(), Some(rule), at, || {
                    format!("no rule of network security group {} names the platform's service", group.name)
                });
                return None;
            }
            Judgement::Unmatched => {
                let rule = self.snapshot.check(AzureRule::NsgDefault);
                return Some(
                    self.drop(Reason::NsgDeny, rule, at, || format!("no rule of {} matches", group.name)),
                );
            }
        };
        self.hit(rule.id);
        if self.trace.listens() && rests_on_user_route(rule, &group.tags, &tuple) {
            let rule = self.snapshot.check(AzureRule::NsgTagUserRoute);
            self.note(way.step(), Some(rule), at, || {
                "VirtualNetwork holds an address of the packet by a route of the subnet's table".to_owned()
            });
        }
        if rule.allow {
            self.allowed_by = Some(rule.id);
            self.note(way.step(), Some(rule.id), at, || {
                format!("network security group {} allows {tuple}", group.name)
            });
            return None;
        }
        Some(self.drop(Reason::NsgDeny, rule.id, at, || {
            format!("network security group {} denies {tuple}", group.name)
        }))
    }

    /// Whether the NIC would take a packet from the Internet without a security group: an answer only.
    pub(super) fn answers_nic(&mut self, nic: &Nic) -> bool {
        let Some(known) = self.known_flow(nic, Way::In) else { return false };
        self.pass_by_session(known.function, known.original);
        true
    }
}

/// Whether the rule is for the packet because the tag VirtualNetwork holds user routes.
fn rests_on_user_route(rule: &Rule, tags: &Tags, tuple: &FiveTuple) -> bool {
    let by_tag = |written: &[String], address| {
        written.iter().any(|spec| spec.eq_ignore_ascii_case("VirtualNetwork")) && tags.by_user_route(address)
    };
    by_tag(&rule.written.source, tuple.source) || by_tag(&rule.written.destination, tuple.destination)
}

/// A flow that a NIC's groups have let begin.
struct KnownFlow {
    function: FunctionId,
    began: Way,
    original: FiveTuple,
}
