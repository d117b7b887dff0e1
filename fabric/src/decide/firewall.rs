//! A packet that an Azure Firewall is to forward.

use vnet_dataplane::{Action, Protocol, Reason};

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionFound, SessionView};
use crate::snapshot::network::Firewall;
use crate::trace::{Hop, StepKind, Trace};

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    pub(super) fn firewall(&mut self, index: usize) -> Next {
        let firewall = &self.snapshot.firewalls[index];
        if let Some(end) = self.hop(&firewall.name) {
            return end;
        }
        self.travel(firewall.location);
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

    /// A session passes in both directions as long as the present rules allow its first packet.
    fn known_session(&mut self, firewall: &'a Firewall, found: &SessionFound) -> Option<Next> {
        let name = &*firewall.name;
        let original = found.original;
        let rule = firewall.rules.first_match(&original);
        if rule.is_some_and(|rule| rule.allow) {
            self.pass_by_session(firewall.function, original);
            self.allowed_by = Some(found.rule);
            let stateful = self.snapshot.check(AzureRule::FirewallStateful);
            self.note(StepKind::Firewall, Some(stateful), name, || {
                format!("passes by the session of {original}")
            });
            return None;
        }
        // A loop may come here twice; the session is ended once.
        if !self.revoked.contains(&(firewall.function, original)) {
            let _ = self.revoked.try_push((firewall.function, original));
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
        self.open_session(firewall.function, id);
        self.note(StepKind::Firewall, Some(id), name, || format!("allows {tuple}"));
        None
    }
}
