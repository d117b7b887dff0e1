//! A packet that an Azure Firewall is to forward.

use vnet_dataplane::{Action, Protocol, Reason};

use super::translate::Translator;
use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionFound, SessionSide, SessionView};
use crate::snapshot::egress::{all_ports, firewall_ports};
use crate::snapshot::network::Firewall;
use crate::snapshot::routes::NextHop;
use crate::trace::{Hop, RuleId, StepKind, Trace};

/// Minutes after which a firewall forgets an idle connection to the Internet.
const NORTH_SOUTH_IDLE_MINUTES: u8 = 4;

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    pub(super) fn firewall(&mut self, index: usize) -> Next {
        let firewall = &self.snapshot.firewalls[index];
        if let Some(end) = self.hop(&firewall.name) {
            return end;
        }
        self.travel(firewall.location);
        self.trace.reach(Hop::Firewall(index));
        let denied = match self.sessions.find(firewall.function, &self.flow()) {
            Some(found) => self.known_session(firewall, &found),
            None => self.new_session(firewall),
        };
        if let Some(end) = denied {
            return end;
        }
        self.trace.pass(Hop::Firewall(index));
        self.act(Action::DecrementTtl { answer_from: None });
        Next::Route { subnet: firewall.subnet, sender: Sender::Firewall(index) }
    }

    /// Whether the packet answers what the firewall has translated to an address of its own.
    pub(super) fn answers_firewall(&self, index: usize) -> bool {
        let firewall = &self.snapshot.firewalls[index];
        let found = self.answered(firewall.function);
        found.is_some_and(|found| found.reply != found.original.reversed())
    }

    /// A session passes in both directions as long as the present rules allow its first packet.
    fn known_session(&mut self, firewall: &'a Firewall, found: &SessionFound) -> Option<Next> {
        let name = &*firewall.name;
        let original = found.original;
        let rule = firewall.rules.first_match(&original);
        if rule.is_some_and(|rule| rule.allow) {
            self.allowed_by = Some(found.rule);
            let stateful = self.snapshot.check(AzureRule::FirewallStateful);
            self.note(StepKind::Firewall, Some(stateful), name, || {
                format!("passes by the session of {original}")
            });
            let translator = self.firewall_translator(firewall);
            match found.side {
                SessionSide::Original => self.source_by(translator, found),
                SessionSide::Reply => self.destination_by(translator, found),
            }
            return None;
        }
        // A loop may come here twice; the session is ended once.
        if !self.decision.revoked.contains(&(firewall.function, original)) {
            let _ = self.decision.revoked.try_push((firewall.function, original));
        }
        let rule = rule.map_or(firewall.default_deny, |rule| rule.id);
        Some(self.drop(Reason::FirewallDeny, rule, name, || {
            format!("the present rules deny {original}: its session is ended")
        }))
    }

    fn new_session(&mut self, firewall: &'a Firewall) -> Option<Next> {
        let name = &*firewall.name;
        let tuple = self.tuple;
        let mid_connection = tuple.protocol == Protocol::TCP && !self.packet.opens();
        if mid_connection || self.embedded.is_some() {
            let rule = self.snapshot.check(AzureRule::FirewallNoSession);
            return Some(self.drop(Reason::FirewallNoSession, rule, name, || {
                format!("{name} has no session for {tuple}, which opens none")
            }));
        }
        let rule = firewall.rules.first_match(&tuple);
        let (id, allow) = rule.map_or((firewall.default_deny, false), |rule| (rule.id, rule.allow));
        self.hit(id);
        if !allow {
            let by = if rule.is_some() { "a rule denies" } else { "no rule allows" };
            return Some(self.drop(Reason::FirewallDeny, id, name, || format!("{by} {tuple}")));
        }
        self.allowed_by = Some(id);
        self.note(StepKind::Firewall, Some(id), name, || format!("allows {tuple}"));
        self.translate_new(firewall, id)
    }

    fn firewall_translator(&self, firewall: &'a Firewall) -> Translator<'a> {
        let rule = self.snapshot.check(AzureRule::FirewallSnat);
        Translator {
            function: firewall.function,
            at: &firewall.name,
            rule,
            session_rule: rule,
            idle_minutes: 0,
        }
    }

    /// Opens a flow's session. Towards the Internet the source becomes one of the firewall's public addresses, towards
    /// another address that is not private one of its instances'.
    fn translate_new(&mut self, firewall: &'a Firewall, allowed_by: RuleId) -> Option<Next> {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        let subnet = &snapshot.subnets[firewall.subnet];
        let route = subnet.routes.lookup(destination);
        let outside = route.is_some_and(|route| route.next_hop == NextHop::Internet);
        let by_nat_gateway = outside && subnet.nat_gateway.is_some();
        let snat = &firewall.snat;
        let (addresses, idle_minutes) = if outside && !by_nat_gateway {
            (&snat.public, NORTH_SOUTH_IDLE_MINUTES)
        } else {
            (&snat.instances, 0)
        };
        let pool = if by_nat_gateway { all_ports(addresses) } else { firewall_ports(addresses) };
        let translator = Translator { idle_minutes, ..self.firewall_translator(firewall) };
        let family = self.tuple.source.is_ipv4();
        let possible = addresses.iter().any(|address| address.is_ipv4() == family)
            && (self.has_ports() || self.tuple.protocol.is_icmp());
        if outside && !snat.spares(destination) && !self.has_ports() {
            let rule = snapshot.check(AzureRule::FirewallSnatProtocols);
            let protocol = self.tuple.protocol;
            return Some(self.drop(Reason::ProtocolNotSupported, rule, &firewall.name, || {
                format!("{} lets only TCP and UDP out to the Internet, not {protocol}", firewall.name)
            }));
        }
        if snat.spares(destination) || !possible {
            self.open_session(firewall.function, allowed_by);
            return None;
        }
        if self.bind(Translator { session_rule: allowed_by, ..translator }, &pool) {
            return None;
        }
        let rule = snapshot.check(AzureRule::FirewallSnatPorts);
        Some(self.drop(Reason::SnatPortsExhausted, rule, &firewall.name, || {
            format!("{} has no port left towards {destination}", firewall.name)
        }))
    }
}
