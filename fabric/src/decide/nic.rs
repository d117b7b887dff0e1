//! Leaving a NIC and arriving at one: source check, security groups, delivery.

use vnet_dataplane::{Action, FunctionId, Reason};

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionSide, SessionView};
use crate::snapshot::network::{Nic, Nsg};
use crate::snapshot::{METADATA_ADDRESS, PLATFORM_ADDRESS};
use crate::trace::{Hop, StepKind, Trace};

/// The way of a packet through a NIC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    pub(super) fn leave_nic(&mut self, index: usize) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[index];
        let name = self.port_name(nic);
        let tuple = self.tuple;
        self.place = Some(nic.location);
        if let Some(end) = self.check_source(nic.port, nic.forwarding).or_else(|| self.check_carried(name)) {
            return end;
        }
        self.note(StepKind::Origin, None, name, || format!("{tuple} leaves {name}"));
        if let Some(limiter) = nic.limiter {
            self.act(Action::Shape(limiter));
        }
        if tuple.destination == PLATFORM_ADDRESS || tuple.destination == METADATA_ADDRESS {
            return self.reach_platform(nic);
        }
        if let Some(end) = self.security_groups(nic, Way::Out) {
            return end;
        }
        Next::Route { subnet: nic.subnet, sender: Sender::Nic(index) }
    }

    fn reach_platform(&mut self, nic: &Nic) -> Next {
        let rule = self.snapshot.check(AzureRule::FabricPlatform);
        // The platform answers to an address that several networks may use: the session says whose it is.
        self.open_session(nic.outbound, rule);
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
        if !own && !nic.forwarding {
            let rule = snapshot.check(AzureRule::FabricForwarding);
            return self.drop(Reason::NotForwarding, rule, name, || {
                format!("{destination} is not an address of {name}, and its enableIPForwarding is false")
            });
        }
        let platform = self.tuple.source == PLATFORM_ADDRESS || self.tuple.source == METADATA_ADDRESS;
        if !platform && let Some(end) = self.security_groups(nic, Way::In) {
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
        let (own, other) = match way {
            Way::In => (nic.inbound, nic.outbound),
            Way::Out => (nic.outbound, nic.inbound),
        };
        if !nic.stateful() {
            return None;
        }
        let kind = if way == Way::In { StepKind::NsgInbound } else { StepKind::NsgOutbound };
        let name = self.port_name(nic);
        if self.by_session(own, other) {
            let rule = self.snapshot.check(AzureRule::NsgStateful);
            self.note(kind, Some(rule), name, || "passes by the session of its flow".to_owned());
            return None;
        }
        let groups = match way {
            Way::In => [&nic.subnet_nsg, &nic.nic_nsg],
            Way::Out => [&nic.nic_nsg, &nic.subnet_nsg],
        };
        for group in groups.into_iter().flatten() {
            if let Some(end) = self.security_group(group, way, name) {
                return Some(end);
            }
        }
        let rule = self.allowed_by.unwrap_or_else(|| self.snapshot.check(AzureRule::NsgStateful));
        self.open_session(own, rule);
        None
    }

    /// Whether the packet belongs to a flow that began in this direction, or answers one that began in the other.
    fn by_session(&mut self, own: FunctionId, other: FunctionId) -> bool {
        let flow = self.flow();
        for (function, side) in [(own, SessionSide::Original), (other, SessionSide::Reply)] {
            if let Some(found) = self.sessions.find(function, &flow)
                && found.side == side
            {
                self.pass_by_session(function, found.original);
                return true;
            }
        }
        false
    }

    fn security_group(&mut self, group: &'a Nsg, way: Way, at: &str) -> Option<Next> {
        let (rules, kind) = match way {
            Way::In => (&group.inbound, StepKind::NsgInbound),
            Way::Out => (&group.outbound, StepKind::NsgOutbound),
        };
        let tuple = self.tuple;
        // The default rules match every packet; a group without a match would be a fault that must not let anything pass.
        let Some(rule) = rules.first_match(&tuple) else {
            let rule = self.snapshot.check(AzureRule::NsgDefault);
            return Some(
                self.drop(Reason::NsgDeny, rule, at, || format!("no rule of {} matches", group.name)),
            );
        };
        self.hit(rule.id);
        if rule.allow {
            self.allowed_by = Some(rule.id);
            self.note(kind, Some(rule.id), at, || {
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
        self.by_session(nic.inbound, nic.outbound)
    }
}
