//! The internet edge and Azure's platform.

use std::net::IpAddr;

use vnet_dataplane::{Action, FunctionId, Protocol, Reason};

use super::translate::Translator;
use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionFound, SessionSide, SessionView, Verdict};
use crate::snapshot::egress::{DefaultOutbound, EdgeAddress, NatGateway, all_ports, is_public};
use crate::snapshot::network::{Nic, Owner};
use crate::snapshot::routes::{Route, RouteSource};
use crate::trace::{StepKind, Trace};

const EDGE: &str = "internet";

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
            Sender::Nic(nic) => self.leave_by_nic(nic, subnet),
            Sender::Firewall(firewall) => self.leave_by_firewall(firewall, subnet),
            Sender::Gateway(gateway) => {
                let rule = snapshot.check(AzureRule::VpnTable);
                let name = &snapshot.gateways[gateway].name;
                self.drop(Reason::NoRoute, rule, at, || format!("{name} has no route to {destination}"))
            }
        }
    }

    /// A flow that is known keeps its way. A new one takes the subnet's NAT gateway, else the NIC's public address, else
    /// default outbound access.
    fn leave_by_nic(&mut self, index: usize, subnet: usize) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[index];
        if let Some(next) = self.leave_as_before(nic, subnet) {
            return next;
        }
        let name = self.port_name(nic);
        let source = self.tuple.source;
        if !snapshot.port(nic.port).is_some_and(|port| port.has_address(source)) {
            let rule = snapshot.check(AzureRule::EgressOwnSource);
            return self.drop(Reason::NoRoute, rule, name, || {
                format!("{source} is no address of {name}, which has to translate what it forwards to the Internet")
            });
        }
        if let Some(gateway) = self.nat_gateway(subnet) {
            return self.leave_by_nat_gateway(gateway, name);
        }
        let public = nic.public.iter().find(|(private, _)| *private == source).map(|(_, public)| *public);
        if let Some(public) = public {
            self.stand_for_source(self.public_address(nic), public);
            return self.leave_edge(false);
        }
        self.leave_by_default(subnet, name)
    }

    fn leave_as_before(&mut self, nic: &'a Nic, subnet: usize) -> Option<Next> {
        let snapshot = self.snapshot;
        let network = &snapshot.networks[snapshot.subnets[subnet].network];
        let gateway = snapshot.subnets[subnet].nat_gateway.map(|index| &snapshot.nat_gateways[index]);
        let ways = [
            Some(self.public_address(nic)),
            gateway.map(|gateway| self.translation_of(gateway)),
            network.outbound.as_ref().map(|outbound| self.default_outbound(outbound)),
        ];
        for way in ways.into_iter().flatten() {
            if let Some(found) = self.session(way.function) {
                return Some(self.leave_by_session(way, &found));
            }
        }
        None
    }

    fn leave_by_session(&mut self, way: Translator<'a>, found: &SessionFound) -> Next {
        let rule = self.snapshot.check(AzureRule::EgressOrder);
        self.note(StepKind::Internet, Some(rule), way.at, || {
            "the flow keeps the way that it began with".to_owned()
        });
        self.source_by(way, found);
        // Whoever asked from the Internet is there.
        self.leave_edge(found.side == SessionSide::Reply)
    }

    fn public_address(&self, nic: &'a Nic) -> Translator<'a> {
        let rule = self.snapshot.check(AzureRule::EgressPublicAddress);
        Translator { function: nic.edge, at: self.port_name(nic), rule, session_rule: rule, idle_minutes: 0 }
    }

    fn translation_of(&self, gateway: &'a NatGateway) -> Translator<'a> {
        let NatGateway { name, function, rule, idle_minutes, .. } = gateway;
        Translator {
            function: *function,
            at: name,
            rule: *rule,
            session_rule: *rule,
            idle_minutes: *idle_minutes,
        }
    }

    fn default_outbound(&self, outbound: &DefaultOutbound) -> Translator<'a> {
        let rule = self.snapshot.check(AzureRule::EgressDefaultOutbound);
        Translator {
            function: outbound.function,
            at: "default outbound access",
            rule,
            session_rule: rule,
            idle_minutes: 4,
        }
    }

    /// The subnet's NAT gateway, if it has addresses of the packet's family.
    fn nat_gateway(&self, subnet: usize) -> Option<&'a NatGateway> {
        let gateway = &self.snapshot.nat_gateways[self.snapshot.subnets[subnet].nat_gateway?];
        let v4 = self.tuple.source.is_ipv4();
        gateway.addresses.iter().any(|address| address.is_ipv4() == v4).then_some(gateway)
    }

    fn leave_by_nat_gateway(&mut self, gateway: &'a NatGateway, from: &str) -> Next {
        let translator = self.translation_of(gateway);
        let protocol = self.flow().protocol;
        if !(self.has_ports() || gateway.icmp && protocol.is_icmp()) {
            let rule = self.snapshot.check(AzureRule::EgressNatProtocols);
            return self.drop(Reason::ProtocolNotSupported, rule, &gateway.name, || {
                let what = if gateway.icmp { "TCP, UDP and ICMP" } else { "TCP and UDP" };
                format!("{} translates {what}, not {protocol}", gateway.name)
            });
        }
        self.leave_translated(translator, &gateway.addresses, from)
    }

    fn leave_by_default(&mut self, subnet: usize, from: &str) -> Next {
        let snapshot = self.snapshot;
        let subnet = &snapshot.subnets[subnet];
        let outbound = snapshot.networks[subnet.network].outbound.as_ref();
        let (Some(outbound), true) = (outbound, subnet.default_outbound) else {
            let rule = snapshot.check(AzureRule::EgressPrivateSubnet);
            return self.drop(Reason::NoRoute, rule, from, || {
                format!(
                    "{} is a private subnet, without default outbound access, and has no NAT gateway; {from} has no public address",
                    subnet.name
                )
            });
        };
        let translator = self.default_outbound(outbound);
        let (source, protocol) = (self.tuple.source, self.flow().protocol);
        if source.is_ipv6() {
            return self.drop(Reason::NoRoute, translator.rule, from, || {
                format!("{source} has no public address, and default outbound access is for IPv4 only")
            });
        }
        if !self.has_ports() {
            return self.drop(Reason::ProtocolNotSupported, translator.rule, from, || {
                format!("default outbound access takes TCP and UDP, not {protocol}")
            });
        }
        self.act(Action::RefuseFragments);
        self.leave_translated(translator, std::slice::from_ref(&outbound.address), from)
    }

    /// A new flow leaves with an address and port of its own.
    fn leave_translated(&mut self, translator: Translator<'a>, addresses: &[IpAddr], from: &str) -> Next {
        let tuple = self.tuple;
        if self.embedded.is_some() || tuple.protocol == Protocol::TCP && !self.packet.opens() {
            let rule = self.snapshot.check(AzureRule::EgressNoInbound);
            return self.drop(Reason::AsymmetricReturn, rule, translator.at, || {
                format!("{} has no session for {tuple}, which opens none", translator.at)
            });
        }
        if self.bind(translator, &all_ports(addresses)) {
            return self.leave_edge(false);
        }
        let rule = self.snapshot.check(AzureRule::EgressPortReuse);
        self.drop(Reason::SnatPortsExhausted, rule, from, || {
            format!("{} has no port left towards {}", translator.at, tuple.destination)
        })
    }

    /// Whether the packet's flow has ports to translate.
    pub(super) fn has_ports(&self) -> bool {
        matches!(self.flow().protocol, Protocol::TCP | Protocol::UDP)
    }

    /// What a firewall has translated to one of its public addresses, or leaves to a NAT gateway.
    fn leave_by_firewall(&mut self, index: usize, subnet: usize) -> Next {
        let snapshot = self.snapshot;
        let firewall = &snapshot.firewalls[index];
        let name = &*firewall.name;
        let (source, destination) = (self.tuple.source, self.tuple.destination);
        if firewall.snat.public.contains(&source) {
            return self.leave_edge(false);
        }
        if firewall.snat.instances.contains(&source)
            && let Some(gateway) = self.nat_gateway(subnet)
        {
            let translator = self.translation_of(gateway);
            return match self.session(gateway.function) {
                Some(found) => {
                    self.source_by(translator, &found);
                    self.leave_edge(false)
                }
                None => self.leave_by_nat_gateway(gateway, name),
            };
        }
        let spared = firewall.snat.spares(destination);
        let rule =
            snapshot.check(if spared { AzureRule::FirewallSnat } else { AzureRule::FirewallForcedTunnel });
        self.drop(Reason::NoRoute, rule, name, || {
            let why = if spared {
                "its policy's privateRanges spare this destination from translation"
            } else {
                "it has no public address of that family to translate to"
            };
            format!("{source} cannot be answered from the Internet: {why}")
        })
    }

    /// A route of a service endpoint was selected: the service sees the private source.
    pub(super) fn reach_service(&mut self, subnet: usize, sender: Sender, route: &Route) -> Next {
        let snapshot = self.snapshot;
        let at = &*snapshot.subnets[subnet].name;
        let rule = snapshot.check(AzureRule::EgressServiceEndpoint);
        match sender {
            Sender::Nic(index) => {
                let nic = &snapshot.nics[index];
                let name = self.port_name(nic);
                let source = self.tuple.source;
                if !snapshot.port(nic.port).is_some_and(|port| port.has_address(source)) {
                    return self.drop(Reason::NoRoute, rule, name, || {
                        format!("{source} is no address of {name}: a service endpoint is for the subnet's own NICs")
                    });
                }
                match self.session(nic.edge) {
                    // A service that came by the public address gets its answer from there.
                    Some(found) if found.side == SessionSide::Reply => {
                        return self.leave_by_session(self.public_address(nic), &found);
                    }
                    Some(found) => self.pass_by_session(nic.edge, found.original),
                    None => self.open_session(nic.edge, rule),
                }
            }
            // A firewall's own session knows the answer.
            Sender::Firewall(_) => {}
            Sender::Gateway(gateway) => {
                let name = &snapshot.gateways[gateway].name;
                return self.drop(Reason::NoRoute, rule, at, || {
                    format!("a service endpoint does not carry what {name} brings from elsewhere")
                });
            }
        }
        let source = self.tuple.source;
        self.note(StepKind::Internet, Some(rule), EDGE, || {
            format!("reaches the service by its endpoint ({}), with its own source {source}", route.prefix)
        });
        self.deliver_outside(false)
    }

    /// A packet with a public source. One for a public address of the lab's own turns round at the edge.
    fn leave_edge(&mut self, asked: bool) -> Next {
        if self.snapshot.edge_owners.contains_key(&self.tuple.destination) {
            let rule = self.snapshot.check(AzureRule::EgressHairpin);
            self.note(StepKind::Internet, Some(rule), EDGE, || "turns round at the internet edge".to_owned());
            return self.take_public();
        }
        self.note(StepKind::Internet, None, EDGE, || "leaves by the internet edge".to_owned());
        self.deliver_outside(asked)
    }

    fn deliver_outside(&mut self, asked: bool) -> Next {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        let held = || {
            snapshot.internet_addresses.contains(&destination)
                || (snapshot.host_egress || self.trace.whole_internet()) && is_public(destination)
        };
        match snapshot.edge {
            Some(edge) if asked || held() => Next::End(Verdict::Deliver(edge), None),
            _ => {
                let rule = snapshot.check(AzureRule::FabricNoListener);
                self.drop(Reason::NoListener, rule, EDGE, || {
                    format!("no simulated host of the Internet has the address {destination}, and the lab has no other Internet (internet.egress)")
                })
            }
        }
    }

    /// A packet from the Internet.
    pub(super) fn enter_from_internet(&mut self) -> Next {
        if let Some(end) = self.check_carried(EDGE) {
            return end;
        }
        let tuple = self.tuple;
        self.note(StepKind::Internet, None, EDGE, || format!("{tuple} enters by the internet edge"));
        self.take_public()
    }

    fn take_public(&mut self) -> Next {
        let snapshot = self.snapshot;
        let public = self.tuple.destination;
        match snapshot.edge_owners.get(&public).copied() {
            Some(EdgeAddress::Nic { nic, private, open }) => self.enter_nic(nic, private, open),
            Some(EdgeAddress::NatGateway(index)) => {
                let gateway = &snapshot.nat_gateways[index];
                self.return_by(self.translation_of(gateway), gateway.network)
            }
            Some(EdgeAddress::DefaultOutbound(network)) => match &snapshot.networks[network].outbound {
                Some(outbound) => self.return_by(self.default_outbound(outbound), network),
                None => self.unasked(EDGE),
            },
            Some(EdgeAddress::Firewall(index)) => {
                let firewall = &snapshot.firewalls[index];
                match self.answered(firewall.function) {
                    Some(_) => Next::Firewall(index),
                    None => self.unasked(&firewall.name),
                }
            }
            None => self.enter_by_service_endpoint(),
        }
    }

    fn enter_nic(&mut self, index: usize, private: IpAddr, open: bool) -> Next {
        let snapshot = self.snapshot;
        let nic = &snapshot.nics[index];
        let name = self.port_name(nic);
        let translator = self.public_address(nic);
        match self.session(nic.edge) {
            Some(found) => self.destination_by(translator, &found),
            None => self.stand_for_destination(translator, private),
        }
        let guarded = nic.nic_nsg.is_some() || nic.subnet_nsg.is_some();
        if !guarded && !open && !self.answers_nic(nic) {
            let rule = snapshot.check(AzureRule::NsgPublicNeedsNsg);
            return self.drop(Reason::NsgDeny, rule, name, || {
                format!(
                    "{name} has a Standard public address and no network security group that lets anything in"
                )
            });
        }
        Next::Nic { nic: index, next_hop: false }
    }

    /// An answer, to whoever in the network has asked by this translation.
    fn return_by(&mut self, translator: Translator<'a>, network: usize) -> Next {
        let Some(found) = self.answered(translator.function) else {
            return self.unasked(translator.at);
        };
        self.destination_by(translator, &found);
        self.hand_to_owner(network)
    }

    fn hand_to_owner(&mut self, network: usize) -> Next {
        let snapshot = self.snapshot;
        let network = &snapshot.networks[network];
        let private = self.tuple.destination;
        match network.owners.get(&private).and_then(|port| snapshot.owner(*port)) {
            Some(Owner::Nic(nic)) => Next::Nic { nic, next_hop: false },
            Some(Owner::Firewall(firewall)) => Next::Firewall(firewall),
            _ => {
                let rule = snapshot.check(AzureRule::FabricNoListener);
                self.drop(Reason::NoListener, rule, &network.name, || {
                    format!("nothing in {} has the address {private} any more", network.name)
                })
            }
        }
    }

    fn unasked(&mut self, at: &str) -> Next {
        let rule = self.snapshot.check(AzureRule::EgressNoInbound);
        let public = self.tuple.destination;
        self.drop(Reason::NoListener, rule, at, || {
            format!("{public} takes answers only, and nobody has asked for this packet")
        })
    }

    /// A service's answer to a private address: to whoever of its holders has asked.
    fn enter_by_service_endpoint(&mut self) -> Next {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        let holders = snapshot.nics_by_address.get(&destination).map_or(&[][..], Vec::as_slice);
        let asked = |function: FunctionId| self.answered(function).map(|found| (function, found.original));
        let nic = holders.iter().copied().find_map(|nic| {
            asked(snapshot.nics[nic].edge).map(|(function, original)| (nic, function, original))
        });
        if let Some((nic, function, original)) = nic {
            self.pass_by_session(function, original);
            return Next::Nic { nic, next_hop: false };
        }
        let firewall = snapshot.firewalls.iter().position(|firewall| asked(firewall.function).is_some());
        if let Some(firewall) = firewall {
            return Next::Firewall(firewall);
        }
        let rule = snapshot.check(AzureRule::FabricNoListener);
        self.drop(Reason::NoListener, rule, EDGE, || {
            format!("no virtual machine has the public address {destination}")
        })
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
