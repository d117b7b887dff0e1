//! A packet's way through the lab, step by step, until something delivers or drops it.

use std::net::IpAddr;

use vnet_dataplane::{Protocol, Reason};

use super::gateway::{self, FarEnd};
use super::lab::{Lab, Nic};
use super::nsg::{Direction, Place};
use super::routes::{Hop, Row, Source};
use super::{firewall, nsg, peering, routes};

/// At most this many forwarders; whoever passes more runs in a circle.
pub const HOPS_MAX: usize = 64;

/// What of a packet rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; zero without ports.
    pub source_port: u16,
    /// Destination port; zero without ports.
    pub destination_port: u16,
    /// It may open a session: no TCP segment from the middle, no ICMP reply.
    pub opens: bool,
}

impl Packet {
    /// The answer to it.
    pub fn reply(self) -> Packet {
        Packet {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            // An answer to UDP looks like a request; TCP's and ICMP's do not.
            opens: self.protocol == Protocol::UDP,
            ..self
        }
    }
}

/// Who sends or gets packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A machine's interface, by index.
    Nic(String, usize),
    /// A site's host.
    SiteHost(String, String),
    /// A host of the simulated internet.
    InternetHost(String),
    /// A firewall itself.
    Firewall(String),
}

impl Endpoint {
    /// The name that users see.
    pub fn name(&self) -> &str {
        match self {
            Endpoint::Nic(name, _)
            | Endpoint::SiteHost(_, name)
            | Endpoint::InternetHost(name)
            | Endpoint::Firewall(name) => name,
        }
    }
}

/// How a way ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At an endpoint.
    Deliver(Endpoint),
    /// Nowhere.
    Drop(Reason),
}

/// A stateful function that let a packet pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// The groups at a NIC, for a flow that passed them in this direction: its answers pass in the other one.
    Nsg(String, usize, Direction),
    /// A firewall.
    Firewall(String),
}

/// A packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// How it ends.
    pub ending: Ending,
    /// Appliances and gateways in order.
    pub via: Vec<String>,
    /// Who remembers it now.
    pub sessions: Vec<Function>,
    /// The NSG or firewall rule that judged last.
    pub rule: Option<String>,
    /// The packet as it ended, addresses translated.
    pub last: Packet,
    /// Who translated the source, and the source before: answers from the internet come back there.
    pub translated: Option<(Endpoint, IpAddr)>,
    /// It reached the internet's edge.
    pub outside: bool,
}

/// The way of a packet that an endpoint sends; `sessions` are those of an earlier packet of the other
/// direction.
pub fn walk(lab: &Lab, from: &Endpoint, packet: Packet, sessions: &[Function]) -> Way {
    let mut walker = Walker::new(lab, packet, sessions);
    let ending = walker.start(from);
    walker.end(ending)
}

/// The way of the answer, given the way of the question.
pub fn walk_back(lab: &Lab, forward: &Way) -> Option<Way> {
    let Ending::Deliver(endpoint) = &forward.ending else { return None };
    let reply = forward.last.reply();
    let Some((translator, source)) = &forward.translated else {
        return Some(walk(lab, endpoint, reply, &forward.sessions));
    };
    let mut walker = Walker::new(lab, Packet { destination: *source, ..reply }, &forward.sessions);
    let ending = walker.answer_to_translator(translator);
    Some(walker.end(ending))
}

struct Walker<'a> {
    lab: &'a Lab,
    packet: Packet,
    known: &'a [Function],
    via: Vec<String>,
    sessions: Vec<Function>,
    rule: Option<String>,
    translated: Option<(Endpoint, IpAddr)>,
    outside: bool,
}

type Step = Result<Endpoint, Reason>;

impl<'a> Walker<'a> {
    fn new(lab: &'a Lab, packet: Packet, known: &'a [Function]) -> Self {
        Walker {
            lab,
            packet,
            known,
            via: Vec::new(),
            sessions: Vec::new(),
            rule: None,
            translated: None,
            outside: false,
        }
    }

    fn end(self, ending: Step) -> Way {
        let ending = match ending {
            Ok(endpoint) => Ending::Deliver(endpoint),
            Err(reason) => Ending::Drop(reason),
        };
        let Walker { packet, via, sessions, rule, translated, outside, .. } = self;
        Way { ending, via, sessions, rule, last: packet, translated, outside }
    }

    fn answer_to_translator(&mut self, translator: &Endpoint) -> Step {
        match translator {
            Endpoint::Nic(vm, index) => self.deliver_to(vm, *index),
            Endpoint::Firewall(name) => {
                let (name, _) =
                    self.lab.azure_firewalls.get_key_value(name.as_str()).expect("the firewall exists");
                self.through_firewall(name)
            }
            other => unreachable!("{} translates nothing", other.name()),
        }
    }

    fn start(&mut self, from: &Endpoint) -> Step {
        match from {
            Endpoint::Nic(vm, index) => {
                let nic: &'a Nic = &self.lab.virtual_machines[vm.as_str()].nics[*index];
                if !nic.addresses.contains(&self.packet.source) && !nic.forwarding {
                    return Err(Reason::SpoofedSource);
                }
                self.leave_nic(vm, *index)
            }
            Endpoint::SiteHost(site, _) => self.leave_site(site),
            Endpoint::InternetHost(_) => self.leave_internet(),
            Endpoint::Firewall(name) => {
                let name =
                    self.lab.azure_firewalls.get_key_value(name.as_str()).expect("the firewall exists").0;
                self.leave_firewall(name)
            }
        }
    }

    fn hop(&mut self, name: &str) -> Result<(), Reason> {
        self.via.push(name.to_owned());
        if self.via.len() > HOPS_MAX { Err(Reason::RoutingLoop) } else { Ok(()) }
    }

    fn fabric_carries(&self) -> Result<(), Reason> {
        let destination = self.packet.destination;
        let broadcast = destination == IpAddr::from([255, 255, 255, 255]);
        if destination.is_multicast() || broadcast {
            return Err(Reason::MulticastNotSupported);
        }
        if self.packet.protocol == Protocol::IPIP || self.packet.protocol == Protocol::GRE {
            return Err(Reason::ProtocolNotSupported);
        }
        Ok(())
    }

    fn leave_nic(&mut self, vm: &str, index: usize) -> Step {
        self.fabric_carries()?;
        let nic = &self.lab.virtual_machines[vm].nics[index];
        let (vnet, subnet) = nic.place();
        self.groups(vm, index, Direction::Outbound)?;
        let rows = routes::effective(self.lab, vnet, subnet);
        let row = routes::select(&rows, self.packet.destination).ok_or(Reason::NoRoute)?.clone();
        if row.hop == Hop::Internet {
            self.translated = Some((Endpoint::Nic(vm.to_owned(), index), self.packet.source));
            self.packet.source = nic.public.unwrap_or(self.packet.source);
        }
        self.follow(vnet, &row, false)
    }

    /// The groups of a NIC and its subnet, in Azure's order; whoever has a session passes.
    fn groups(&mut self, vm: &str, index: usize, direction: Direction) -> Result<(), Reason> {
        if self.known.contains(&Function::Nsg(vm.to_owned(), index, direction.opposite())) {
            return Ok(());
        }
        let nic = &self.lab.virtual_machines[vm].nics[index];
        let (vnet, subnet) = nic.place();
        let of_subnet = self.lab.vnet(vnet).subnets[subnet].nsg.as_deref();
        let of_nic = nic.nsg.as_deref();
        let order = match direction {
            Direction::Inbound => [of_subnet, of_nic],
            Direction::Outbound => [of_nic, of_subnet],
        };
        for group in order.into_iter().flatten() {
            let judgement = nsg::judge(self.lab, group, Place { vnet, subnet }, direction, &self.packet);
            self.rule = Some(
                judgement.rule.replace("securityRules", group).replace(&format!("default{group}"), "default"),
            );
            if !judgement.allowed {
                return Err(Reason::NsgDeny);
            }
        }
        self.sessions.push(Function::Nsg(vm.to_owned(), index, direction));
        Ok(())
    }

    fn follow(&mut self, vnet: &'a str, row: &Row, by_gateway: bool) -> Step {
        if row.source == Source::Default
            && matches!(row.hop, Hop::None | Hop::Internet)
            && self.lone_half(vnet)
        {
            return Err(Reason::PeeringNotConnected);
        }
        match &row.hop {
            Hop::None => Err(Reason::RouteNone),
            Hop::Internet => self.reach_internet(),
            Hop::VnetLocal => self.deliver_in(vnet),
            Hop::Peering(remote) | Hop::GlobalPeering(remote) => {
                peering::cross(self.lab, vnet, remote, self.packet.source, by_gateway)?;
                let (remote, _) =
                    self.lab.virtual_networks.get_key_value(remote.as_str()).expect("the peer exists");
                self.deliver_in(remote)
            }
            Hop::Appliance(address) => self.reach_appliance(vnet, *address, by_gateway),
            Hop::Gateway => {
                let (name, hub) = gateway::effective(self.lab, vnet).ok_or(Reason::NoEffectiveGateway)?;
                if hub != vnet {
                    peering::cross(self.lab, vnet, hub, self.packet.source, by_gateway)?;
                }
                self.through_gateway(name, hub)
            }
        }
    }

    /// A peering of this network would lead to the destination, were it connected: no route of the system's
    /// own leads there, and that is why.
    fn lone_half(&self, vnet: &str) -> bool {
        let mut halves = self.lab.vnet(vnet).peerings.keys().map(String::as_str);
        halves.any(|peer| {
            let there = self
                .lab
                .virtual_networks
                .get(peer)
                .is_some_and(|peer| peer.address_space.hold(self.packet.destination));
            there && peering::connected(self.lab, vnet, peer).is_none()
        })
    }

    fn reach_internet(&mut self) -> Step {
        self.outside = true;
        let destination = self.packet.destination;
        for (name, host) in &self.lab.internet.hosts {
            if host.addresses().contains(&destination) {
                return Ok(Endpoint::InternetHost(name.clone()));
            }
        }
        Err(Reason::NoListener)
    }

    /// From the internet to a machine's public address: translated at the edge, judged by private addresses,
    /// and refused where no group says otherwise.
    fn leave_internet(&mut self) -> Step {
        for (vm, machine) in &self.lab.virtual_machines {
            for (index, nic) in machine.nics.iter().enumerate() {
                if nic.public != Some(self.packet.destination) {
                    continue;
                }
                let own = nic
                    .addresses
                    .iter()
                    .find(|address| address.is_ipv4() == self.packet.destination.is_ipv4());
                self.packet.destination = *own.ok_or(Reason::NoListener)?;
                let (vnet, subnet) = nic.place();
                let guarded = nic.nsg.is_some() || self.lab.vnet(vnet).subnets[subnet].nsg.is_some();
                if !guarded && !self.known.contains(&Function::Nsg(vm.clone(), index, Direction::Outbound)) {
                    return Err(Reason::NsgDeny);
                }
                return self.deliver_to(vm, index);
            }
        }
        Err(Reason::NoListener)
    }

    fn deliver_in(&mut self, vnet: &str) -> Step {
        match self.holder(vnet, self.packet.destination) {
            Some(Holder::Nic(vm, index)) => self.deliver_to(vm, index),
            Some(Holder::Firewall(name)) => Ok(Endpoint::Firewall(name.to_owned())),
            None => Err(Reason::NoListener),
        }
    }

    fn deliver_to(&mut self, vm: &str, index: usize) -> Step {
        self.groups(vm, index, Direction::Inbound)?;
        Ok(Endpoint::Nic(vm.to_owned(), index))
    }

    fn holder(&self, vnet: &str, address: IpAddr) -> Option<Holder<'a>> {
        for (vm, machine) in &self.lab.virtual_machines {
            for (index, nic) in machine.nics.iter().enumerate() {
                if nic.place().0 == vnet && nic.addresses.contains(&address) {
                    return Some(Holder::Nic(vm, index));
                }
            }
        }
        let (name, firewall) = self.lab.firewall_of(vnet)?;
        (firewall.address == Some(address)).then_some(Holder::Firewall(name))
    }

    /// A next hop counts only in the own network or a directly peered one.
    fn reach_appliance(&mut self, vnet: &'a str, address: IpAddr, by_gateway: bool) -> Step {
        let own = self.lab.vnet(vnet).address_space.hold(address).then_some(vnet);
        let at = own.or_else(|| {
            peering::peers(self.lab, vnet).find(|peer| self.lab.vnet(peer).address_space.hold(address))
        });
        let Some(at) = at else {
            let mut halves = self.lab.vnet(vnet).peerings.keys();
            let half = halves.any(|peer| {
                self.lab.virtual_networks.get(peer).is_some_and(|peer| peer.address_space.hold(address))
            });
            return Err(if half { Reason::PeeringNotConnected } else { Reason::NextHopUnreachable });
        };
        if at != vnet {
            peering::cross(self.lab, vnet, at, self.packet.source, by_gateway)?;
        }
        let holder = self.holder(at, address).ok_or(Reason::NextHopUnreachable)?;
        match holder {
            Holder::Firewall(name) => self.through_firewall(name),
            Holder::Nic(vm, index) => {
                let nic = &self.lab.virtual_machines[vm].nics[index];
                let own = nic.addresses.contains(&self.packet.destination);
                if !own && !nic.forwarding {
                    return Err(Reason::NotForwarding);
                }
                let endpoint = self.deliver_to(vm, index)?;
                if own {
                    return Ok(endpoint);
                }
                self.hop(vm)?;
                self.leave_nic(vm, index)
            }
        }
    }

    fn through_firewall(&mut self, name: &'a str) -> Step {
        if self.lab.azure_firewalls[name].address == Some(self.packet.destination) {
            return Ok(Endpoint::Firewall(name.to_owned()));
        }
        self.hop(name)?;
        let function = Function::Firewall(name.to_owned());
        if !self.known.contains(&function) && !self.sessions.contains(&function) {
            // Only of TCP does a firewall ask to have seen the beginning.
            if !self.packet.opens && self.packet.protocol == Protocol::TCP {
                return Err(Reason::FirewallNoSession);
            }
            let judgement = firewall::judge(self.lab, name, &self.packet);
            self.rule = judgement.rule;
            if !judgement.allowed {
                return Err(Reason::FirewallDeny);
            }
            self.sessions.push(function);
        }
        self.leave_firewall(name)
    }

    fn leave_firewall(&mut self, name: &'a str) -> Step {
        let firewall = &self.lab.azure_firewalls[name];
        let rows = routes::effective(self.lab, &firewall.virtual_network, "AzureFirewallSubnet");
        let row = routes::select(&rows, self.packet.destination).ok_or(Reason::NoRoute)?.clone();
        if row.hop == Hop::Internet && firewall::translates(self.packet.destination) {
            self.translated = Some((Endpoint::Firewall(name.to_owned()), self.packet.source));
            self.packet.source = *firewall.public.first().ok_or(Reason::NoRoute)?;
        }
        self.follow(&firewall.virtual_network, &row, false)
    }

    fn through_gateway(&mut self, name: &'a str, hub: &'a str) -> Step {
        self.hop(name)?;
        let rows = routes::of_gateway(self.lab, hub);
        // What would lead nowhere in a table without that peering; a family that the network lacks has no routes.
        let table = routes::effective(self.lab, hub, "GatewaySubnet");
        let nowhere = routes::select(&table, self.packet.destination).is_some();
        let lost = if nowhere && self.lone_half(hub) { Reason::PeeringNotConnected } else { Reason::NoRoute };
        let row = routes::select(&rows, self.packet.destination).ok_or(lost)?.clone();
        if row.hop != Hop::Gateway {
            return self.follow(hub, &row, true);
        }
        debug_assert_eq!(row.source, Source::Gateway, "a gateway's subnet takes no route to itself");
        let (_, connection) =
            gateway::towards(self.lab, name, self.packet.destination).ok_or(Reason::NoRoute)?;
        match gateway::pass(self.lab, connection, self.packet.source)? {
            FarEnd::Gateway(other) => {
                let (other, gateway) = self
                    .lab
                    .virtual_network_gateways
                    .get_key_value(other.as_str())
                    .expect("the gateway exists");
                self.through_gateway(other, &gateway.virtual_network)
            }
            FarEnd::Site(site) => self.deliver_at_site(&site),
        }
    }

    fn deliver_at_site(&mut self, site: &str) -> Step {
        for (name, host) in &self.lab.on_premises_sites[site].hosts {
            if host.addresses().contains(&self.packet.destination) {
                return Ok(Endpoint::SiteHost(site.to_owned(), name.clone()));
            }
        }
        Err(Reason::NoListener)
    }

    fn leave_site(&mut self, site: &str) -> Step {
        let lab = self.lab;
        if lab.on_premises_sites[site].address_space.hold(self.packet.destination) {
            return self.deliver_at_site(site);
        }
        let connection = gateway::from_site(lab, site, self.packet.destination).ok_or(Reason::NoRoute)?;
        let (name, gateway) = lab
            .virtual_network_gateways
            .get_key_value(connection.virtual_network_gateway1.as_str())
            .expect("validation resolves references");
        gateway::agreed_site(lab, connection)?;
        if !gateway::behind(lab, connection).iter().any(|prefix| prefix.contains(&self.packet.source)) {
            return Err(Reason::PrefixNotAllowed);
        }
        self.through_gateway(name, &gateway.virtual_network)
    }
}

enum Holder<'a> {
    Nic(&'a str, usize),
    Firewall(&'a str),
}
