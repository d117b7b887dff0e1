//! The internet edge and Azure's platform.

use vnet_dataplane::{Action, Reason};

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionSide, SessionView, Verdict};
use crate::snapshot::routes::{Route, RouteSource};
use crate::trace::{StepKind, Trace};

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    /// A route to the Internet was selected.
    pub(super) fn reach_internet(&mut self, subnet: usize, sender: Sender, route: &Route) -> Next {
        let snapshot = self.snapshot;
        let at = &*snapshot.subnets[subnet].name;
        let destination = self.tuple.destination;
        if route.source == RouteSource::Default
            && let Some(end) = self.unconnected_peer(subnet)
        {
            return end;
        }
        match sender {
            Sender::Nic(nic) => self.by_public_address(nic),
            Sender::Firewall(firewall) => {
                let rule = snapshot.check(AzureRule::FirewallNoSnat);
                let name = &snapshot.firewalls[firewall].name;
                self.drop(Reason::NoRoute, rule, name, || {
                    format!("{name} would translate the source to reach {destination}, which this version does not do")
                })
            }
            Sender::Gateway(gateway) => {
                let rule = snapshot.check(AzureRule::VpnTable);
                let name = &snapshot.gateways[gateway].name;
                self.drop(Reason::NoRoute, rule, at, || format!("{name} has no route to {destination}"))
            }
        }
    }

    fn by_public_address(&mut self, nic: usize) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[nic];
        let name = self.port_name(nic);
        let source = self.tuple.source;
        let public = nic.public.iter().find(|(private, _)| *private == source).map(|(_, public)| *public);
        let (Some(public), Some(edge)) = (public, snapshot.edge) else {
            let rule = snapshot.check(AzureRule::EgressNone);
            return self.drop(Reason::NoRoute, rule, name, || {
                format!("{source} has no public address, and other ways to the Internet are not built in this version")
            });
        };
        let rule = snapshot.check(AzureRule::EgressPublicAddress);
        self.act(Action::RewriteSource { address: public, port: None });
        self.tuple.source = public;
        self.note(StepKind::Translate, Some(rule), name, || format!("the source {source} becomes {public}"));
        self.note(StepKind::Internet, None, "internet", || "leaves by the internet edge".to_owned());
        Next::End(Verdict::Deliver(edge), Some(rule))
    }

    /// A packet from the Internet to a public address.
    pub(super) fn enter_from_internet(&mut self) -> Next {
        let snapshot = self.snapshot;
        if let Some(end) = self.check_carried("internet") {
            return end;
        }
        let public = self.tuple.destination;
        let tuple = self.tuple;
        self.note(StepKind::Internet, None, "internet", || format!("{tuple} enters by the internet edge"));
        let Some((index, private)) = snapshot.public.get(&public).copied() else {
            let rule = snapshot.check(AzureRule::FabricNoListener);
            return self.drop(Reason::NoListener, rule, "internet", || {
                format!("no virtual machine has the public address {public}")
            });
        };
        let nic = &snapshot.nics[index];
        let name = self.port_name(nic);
        let rule = snapshot.check(AzureRule::EgressPublicAddress);
        self.act(Action::RewriteDestination { address: private, port: None });
        self.tuple.destination = private;
        if let Some(embedded) = self.embedded.as_mut().filter(|embedded| embedded.source == public) {
            embedded.source = private;
        }
        self.note(StepKind::Translate, Some(rule), name, || {
            format!("the destination {public} becomes {private}")
        });
        let guarded = nic.nic_nsg.is_some() || nic.subnet_nsg.is_some();
        if !guarded && !self.answers_nic(nic) {
            let rule = snapshot.check(AzureRule::NsgPublicNeedsNsg);
            return self.drop(Reason::NsgDeny, rule, name, || {
                format!(
                    "{name} has a Standard public address and no network security group that lets anything in"
                )
            });
        }
        Next::Nic { nic: index, next_hop: false }
    }

    /// What the platform sends: to the machine that asked, or to the only one with that address.
    pub(super) fn leave_platform(&mut self) -> Next {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        let holders = snapshot.nics_by_address.get(&destination).map_or(&[][..], Vec::as_slice);
        let flow = self.flow();
        let asked = holders.iter().copied().find(|nic| {
            let function = snapshot.nics[*nic].outbound;
            self.sessions.find(function, &flow).is_some_and(|found| found.side == SessionSide::Reply)
        });
        let only = if let [only] = holders { Some(*only) } else { None };
        match asked.or(only) {
            Some(nic) => Next::Nic { nic, next_hop: false },
            None => {
                let rule = snapshot.check(AzureRule::FabricPlatform);
                self.drop(Reason::NoListener, rule, "platform", || {
                    format!("no virtual machine, or several, have the address {destination}")
                })
            }
        }
    }
}
