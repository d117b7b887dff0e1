//! A packet's way through the lab, step by step, until something delivers or drops it.

use std::net::IpAddr;

use vnet_dataplane::{Protocol, Reason};

use super::egress;
use super::gateway::{self, FarEnd};
use super::lab::{Connection, Lab, Nic};
use super::nat;
use super::nsg::{Direction, Place};
use super::peering::Sender;
use super::routes::{Hop, Row, Source};
use super::session::{Function, Session, Side, Tuple, find};
use super::{firewall, nsg, peering, routes};

/// At most this many forwarders; whoever passes more runs in a circle.
pub const HOPS_MAX: usize = 64;

/// At most this many ways are told of one packet, where hashes choose again and again.
pub const WAYS_MAX: usize = 256;

/// Ports that translations give out begin here; each has its own.
const FIRST_PORT: usize = 10_000;

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

    /// What sessions know it by.
    pub fn tuple(self) -> Tuple {
        let Packet { source, source_port, destination, destination_port, .. } = self;
        Tuple { source, source_port, destination, destination_port }
    }

    /// The same packet with other addresses and ports.
    pub fn with(self, tuple: Tuple) -> Packet {
        let Tuple { source, source_port, destination, destination_port } = tuple;
        Packet { source, source_port, destination, destination_port, ..self }
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

/// A packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// How it ends.
    pub ending: Ending,
    /// Appliances and gateways in order.
    pub via: Vec<String>,
    /// What traceroute shows of them: an address, or `*`.
    pub hops: Vec<String>,
    /// What is remembered of it now.
    pub sessions: Vec<Session>,
    /// The NSG or firewall rule that judged last.
    pub rule: Option<String>,
    /// The packet as it ended, addresses translated.
    pub last: Packet,
    /// It reached the internet's edge.
    pub outside: bool,
}

/// The way of a packet that an endpoint sends; `sessions` are what earlier packets left behind. Where a hash chooses
/// among next hops, the first one.
pub fn walk(lab: &Lab, from: &Endpoint, packet: Packet, sessions: &[Session]) -> Way {
    walks(lab, from, packet, sessions).swap_remove(0)
}

/// The way of the answer, given the way of the question.
pub fn walk_back(lab: &Lab, forward: &Way) -> Option<Way> {
    let mut ways = walks_back(lab, forward)?;
    Some(ways.swap_remove(0))
}

/// Every way that a packet may take, or [`WAYS_MAX`] of them: one for each choice of the hashes that spread flows over
/// next hops.
pub fn walks(lab: &Lab, from: &Endpoint, packet: Packet, known: &[Session]) -> Vec<Way> {
    let mut ways = Vec::new();
    let mut script = Vec::new();
    loop {
        let mut walker = Walker::new(lab, packet, known, script);
        let ending = walker.start(from);
        script = walker.next_script();
        ways.push(walker.end(ending));
        if script.is_empty() || ways.len() == WAYS_MAX {
            return ways;
        }
    }
}

/// Every way that the answer may take.
pub fn walks_back(lab: &Lab, forward: &Way) -> Option<Vec<Way>> {
    let Ending::Deliver(endpoint) = &forward.ending else { return None };
    Some(walks(lab, endpoint, forward.last.reply(), &forward.sessions))
}

struct Walker<'a> {
    lab: &'a Lab,
    packet: Packet,
    /// What earlier packets of the flow left behind.
    known: &'a [Session],
    via: Vec<String>,
    hops: Vec<String>,
    sessions: Vec<Session>,
    rule: Option<String>,
    outside: bool,
    /// Which of how many next hops is taken at each choice; the rest takes the first.
    script: Vec<usize>,
    choices: Vec<Choice>,
}

/// Which of several next hops a flow takes.
struct Choice {
    flow: Tuple,
    among: Vec<String>,
    chosen: usize,
}

type Step = Result<Endpoint, Reason>;

impl<'a> Walker<'a> {
    fn new(lab: &'a Lab, packet: Packet, known: &'a [Session], script: Vec<usize>) -> Self {
        Walker {
            lab,
            packet,
            known,
            via: Vec::new(),
            hops: Vec::new(),
            sessions: Vec::new(),
            rule: None,
            outside: false,
            script,
            choices: Vec::new(),
        }
    }

    fn end(self, ending: Step) -> Way {
        let ending = match ending {
            Ok(endpoint) => Ending::Deliver(endpoint),
            Err(reason) => Ending::Drop(reason),
        };
        let Walker { packet, via, hops, sessions, rule, outside, .. } = self;
        Way { ending, via, hops, sessions, rule, last: packet, outside }
    }

    /// One of several next hops, by index. The hash is of the flow: among the same ones it chooses the same again.
    fn choose(&mut self, among: Vec<String>) -> usize {
        let flow = self.packet.tuple();
        let before = self.choices.iter().find(|choice| choice.flow == flow && choice.among == among);
        if let Some(Choice { chosen, .. }) = before {
            return *chosen;
        }
        let chosen = self.script.get(self.choices.len()).copied().unwrap_or(0);
        self.choices.push(Choice { flow, among, chosen });
        chosen
    }

    /// One of the connections that lead to the destination: of those that carry packets.
    fn choose_connection(&mut self, leading: Vec<&'a str>) -> Result<&'a Connection, Reason> {
        let lab = self.lab;
        if leading.is_empty() {
            return Err(Reason::NoRoute);
        }
        let up: Vec<&str> =
            leading.into_iter().filter(|name| gateway::is_up(lab, &lab.connections[*name])).collect();
        if up.is_empty() {
            return Err(Reason::TunnelDown);
        }
        let chosen = self.choose(up.iter().map(ToString::to_string).collect());
        Ok(&lab.connections[up[chosen]])
    }

    /// The choices of the next way; empty after the last one.
    fn next_script(&self) -> Vec<usize> {
        let last = self.choices.iter().rposition(|choice| choice.chosen + 1 < choice.among.len());
        let Some(last) = last else { return Vec::new() };
        let mut script: Vec<usize> = self.choices[..=last].iter().map(|choice| choice.chosen).collect();
        script[last] += 1;
        script
    }

    fn remembered(&self) -> impl Iterator<Item = &Session> {
        self.known.iter().chain(&self.sessions)
    }

    /// The session that the packet belongs to.
    fn find(&self, function: &Function) -> Option<(Side, Session)> {
        find(self.remembered(), function, self.packet.tuple())
    }

    fn remember(&mut self, function: Function) {
        let first = self.packet.tuple();
        self.sessions.push(Session { function, first, reply: first.reversed() });
    }

    /// A new flow leaves with another source, and a port of its own where others have that address too.
    fn translate(&mut self, function: Function, seen: IpAddr, by_ports: bool) {
        let first = self.packet.tuple();
        self.packet.source = seen;
        if by_ports {
            let given = FIRST_PORT + self.known.len() + self.sessions.len();
            self.packet.source_port = u16::try_from(given).expect("a way gives out few ports");
        }
        let reply = self.packet.tuple().reversed();
        self.sessions.push(Session { function, first, reply });
    }

    /// Leaves by a session: the other end knows the flow by this source.
    fn pass_outward(&mut self, (side, session): (Side, Session)) {
        let outer = match side {
            Side::First => session.reply.reversed(),
            Side::Reply => session.first.reversed(),
        };
        self.packet = self.packet.with(outer);
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
            Endpoint::Firewall(name) => self.leave_firewall(self.firewall_named(name)),
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

    /// What the NIC's host keeps for itself.
    fn host_hands_on(&self) -> Result<(), Reason> {
        let reserved =
            matches!((self.packet.source_port, self.packet.destination_port), (_, 4791 | 65330) | (68, 67));
        if self.packet.protocol == Protocol::UDP && reserved {
            Err(Reason::ProtocolNotSupported)
        } else {
            Ok(())
        }
    }

    fn leave_nic(&mut self, vm: &str, index: usize) -> Step {
        self.fabric_carries()?;
        self.host_hands_on()?;
        let (vm, machine) = self.lab.virtual_machines.get_key_value(vm).expect("the machine exists");
        let nic = &machine.nics[index];
        let (vnet, subnet) = nic.place();
        self.groups(vm, index, Direction::Outbound)?;
        let rows = if machine.is_private_endpoint {
            routes::of_endpoint(self.lab, vnet, subnet)
        } else {
            routes::effective(self.lab, vnet, subnet)
        };
        let row = routes::select(&rows, self.packet.destination).ok_or(Reason::NoRoute)?.clone();
        self.follow(Leaving { place: (vnet, subnet), nic: Some((vm, index)), is_gateway: false }, &row)
    }

    /// The groups of a NIC and its subnet, in Azure's order; whoever has a session passes.
    fn groups(&mut self, vm: &str, index: usize, direction: Direction) -> Result<(), Reason> {
        let of = |began: Direction| Function::Nsg(vm.to_owned(), index, began);
        let began = self.find(&of(direction)).is_some_and(|(side, _)| side == Side::First);
        if began || self.find(&of(direction.opposite())).is_some_and(|(side, _)| side == Side::Reply) {
            return Ok(());
        }
        let machine = &self.lab.virtual_machines[vm];
        let nic = &machine.nics[index];
        let (vnet, subnet) = nic.place();
        if machine.is_private_endpoint && !self.lab.vnet(vnet).subnets[subnet].groups_judge_endpoints() {
            return Ok(());
        }
        let has_user_routes =
            !machine.is_private_endpoint || self.lab.vnet(vnet).subnets[subnet].routes_judge_endpoints();
        for group in nsg::order(self.lab, nic, direction) {
            let judgement =
                nsg::judge(self.lab, group, Place { vnet, subnet, has_user_routes }, direction, &self.packet);
            self.rule = Some(
                judgement.rule.replace("securityRules", group).replace(&format!("default{group}"), "default"),
            );
            if !judgement.allowed {
                return Err(Reason::NsgDeny);
            }
        }
        if !(nic.disable_tcp_state_tracking && self.packet.protocol == Protocol::TCP) {
            self.remember(of(direction));
        }
        Ok(())
    }

    fn follow(&mut self, leaving: Leaving<'a>, row: &Row) -> Step {
        let vnet = leaving.place.0;
        if row.source == Source::Default
            && matches!(row.hop, Hop::None | Hop::Internet)
            && self.lone_half(vnet)
        {
            return Err(Reason::PeeringNotConnected);
        }
        match &row.hop {
            Hop::None => Err(Reason::RouteNone),
            Hop::Internet => {
                self.translate_out(leaving)?;
                self.reach_internet()
            }
            Hop::ServiceEndpoint => {
                self.keep_address(leaving)?;
                self.reach_internet()
            }
            Hop::VnetLocal => self.deliver_in(leaving, vnet),
            Hop::InterfaceEndpoint(at) if at == vnet => self.deliver_in(leaving, vnet),
            Hop::Peering(remote) | Hop::GlobalPeering(remote) | Hop::InterfaceEndpoint(remote) => {
                peering::cross(self.lab, leaving.sender(), remote, self.packet.source)?;
                let (remote, _) =
                    self.lab.virtual_networks.get_key_value(remote.as_str()).expect("the peer exists");
                self.deliver_in(leaving, remote)
            }
            Hop::Appliance(address) => self.reach_appliance(leaving, *address),
            Hop::Appliances(addresses) => {
                let chosen = self.choose(addresses.iter().map(IpAddr::to_string).collect());
                self.reach_appliance(leaving, addresses[chosen])
            }
            Hop::Gateway => {
                let gateway = match row.source {
                    Source::User => gateway::for_routes(self.lab, vnet),
                    _ => gateway::effective(self.lab, vnet),
                };
                let (name, hub) = gateway.ok_or(Reason::NoEffectiveGateway)?;
                if hub != vnet {
                    peering::cross(self.lab, leaving.sender(), hub, self.packet.source)?;
                }
                self.through_gateway(name, hub)
            }
        }
    }

    /// The source address that the internet sees of what this sender sends.
    fn translate_out(&mut self, leaving: Leaving<'a>) -> Result<(), Reason> {
        let (vnet, subnet) = leaving.place;
        match leaving.nic {
            Some((vm, index)) => self.machine_out(leaving.place, vm, index),
            // What a gateway brings has a private source, and nobody to translate it.
            None if leaving.is_gateway => Err(Reason::NoRoute),
            None => self.firewall_out(vnet, subnet),
        }
    }

    /// A flow that is known keeps its way: answers to who came by a public address leave by it.
    fn machine_out(&mut self, place: (&str, &str), vm: &str, index: usize) -> Result<(), Reason> {
        let lab = self.lab;
        let ports = |by: &str| Function::Ports(place.0.to_owned(), by.to_owned());
        let gateway = lab.vnet(place.0).subnets[place.1].nat_gateway.as_deref();
        let mut ways = vec![Function::Edge(vm.to_owned(), index)];
        ways.extend(gateway.map(ports));
        ways.push(ports(egress::DEFAULT_OUTBOUND_NAME));
        if let Some(found) = ways.iter().find_map(|way| self.find(way)) {
            self.pass_outward(found);
            return Ok(());
        }
        let out = egress::machine(lab, place, vm, index, &self.packet)?;
        // Ports are given to what opens a flow, if it can be told.
        if out.by_ports && self.packet.protocol == Protocol::TCP && !self.packet.opens {
            return Err(Reason::AsymmetricReturn);
        }
        self.translate(out.function, out.seen, out.by_ports);
        Ok(())
    }

    /// A private source has no answer from the internet: it is the firewall's public one, or a NAT gateway translates it.
    fn firewall_out(&mut self, vnet: &str, subnet: &str) -> Result<(), Reason> {
        let lab = self.lab;
        let (_, firewall) = lab.firewall_of(vnet).expect("only a firewall sends from its subnet");
        let source = self.packet.source;
        if firewall.public.contains(&source) {
            return Ok(());
        }
        let gateway = lab.vnet(vnet).subnets[subnet].nat_gateway.as_deref();
        let Some(gateway) = gateway.filter(|_| firewall.instance == Some(source)) else {
            return Err(Reason::NoRoute);
        };
        let function = Function::Ports(vnet.to_owned(), gateway.to_owned());
        if let Some(found) = self.find(&function) {
            self.pass_outward(found);
            return Ok(());
        }
        let seen = egress::of_nat_gateway(lab, gateway, &self.packet)?.ok_or(Reason::NoRoute)?;
        self.translate(function, seen, true);
        Ok(())
    }

    /// A service sees the machine's own address, and answers to it, unless it came by the public one.
    fn keep_address(&mut self, leaving: Leaving<'a>) -> Result<(), Reason> {
        let Some((vm, index)) = leaving.nic else { return Ok(()) };
        if !self.lab.virtual_machines[vm].nics[index].addresses.contains(&self.packet.source) {
            return Err(Reason::NoRoute);
        }
        let function = Function::Edge(vm.to_owned(), index);
        match self.find(&function) {
            Some(found) => self.pass_outward(found),
            None => self.remember(function),
        }
        Ok(())
    }

    /// A peering of this network would lead to the destination, were it connected: no route of the system's
    /// own leads there, and that is why.
    fn lone_half(&self, vnet: &str) -> bool {
        self.lone_half_to(vnet, self.packet.destination)
    }

    fn lone_half_to(&self, vnet: &str, address: IpAddr) -> bool {
        self.lab.vnet(vnet).peerings.iter().any(|(peer, half)| {
            let there = peering::offered(self.lab, half, peer).iter().any(|prefix| prefix.contains(&address));
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

    /// From the internet: an answer goes back to whoever asked; to a machine's public address a packet is translated at
    /// the edge, judged by private addresses, and refused where no group says otherwise.
    fn leave_internet(&mut self) -> Step {
        let tuple = self.packet.tuple();
        let asked = |one: &&Session| one.reply == tuple && !matches!(one.function, Function::Nsg(..));
        let asked = self.remembered().find(asked).cloned();
        if let Some(session) = asked {
            return self.answer(&session);
        }
        let public = self.packet.destination;
        for (vm, machine) in &self.lab.virtual_machines {
            for (index, nic) in machine.nics.iter().enumerate() {
                if !nic.publics.contains(&public) {
                    continue;
                }
                let own = nic.addresses.iter().find(|address| address.is_ipv4() == public.is_ipv4());
                self.packet.destination = *own.ok_or(Reason::NoListener)?;
                let function = Function::Edge(vm.clone(), index);
                if find(self.remembered(), &function, tuple).is_none() {
                    let reply = self.packet.tuple().reversed();
                    self.sessions.push(Session { function, first: tuple, reply });
                }
                let (vnet, subnet) = nic.place();
                let guarded = nic.nsg.is_some() || self.lab.vnet(vnet).subnets[subnet].nsg.is_some();
                if !guarded && !self.lab.basic.contains(&public) {
                    return Err(Reason::NsgDeny);
                }
                return self.deliver_to(vm, index);
            }
        }
        Err(Reason::NoListener)
    }

    /// What comes back from the internet goes to the sender whose address was translated, or shown.
    fn answer(&mut self, session: &Session) -> Step {
        let vnet = match &session.function {
            // It translates the answer itself.
            Function::Firewall(name) => return self.through_firewall(self.firewall_named(name)),
            Function::Edge(vm, index) => {
                self.packet = self.packet.with(session.first.reversed());
                return self.deliver_to(vm, *index);
            }
            Function::Ports(vnet, _) => vnet,
            Function::Nsg(..) => unreachable!("groups translate nothing"),
        };
        self.packet = self.packet.with(session.first.reversed());
        match self.holder(vnet, self.packet.destination) {
            Some(Holder::Nic(vm, index)) => self.deliver_to(vm, index),
            Some(Holder::Firewall(name)) => self.through_firewall(name),
            None => Err(Reason::NoListener),
        }
    }

    fn firewall_named(&self, name: &str) -> &'a str {
        self.lab.azure_firewalls.get_key_value(name).expect("the firewall exists").0
    }

    fn deliver_in(&mut self, leaving: Leaving<'a>, vnet: &str) -> Step {
        match self.holder(vnet, self.packet.destination) {
            Some(Holder::Nic(vm, index)) => {
                self.between_machines(leaving, vm, index)?;
                self.deliver_to(vm, index)
            }
            Some(Holder::Firewall(name)) => self.at_firewall(name),
            None => Err(Reason::NoListener),
        }
    }

    fn between_machines(&self, leaving: Leaving<'a>, vm: &str, index: usize) -> Result<(), Reason> {
        let Some((from, number)) = leaving.nic else { return Ok(()) };
        let machines = &self.lab.virtual_machines;
        if [from, vm].iter().any(|name| machines[*name].is_private_endpoint) {
            return Ok(());
        }
        let nic = |name: &str, index: usize| &machines[name].nics[index];
        peering::encrypted(self.lab, nic(from, number), nic(vm, index))
    }

    /// A packet to the firewall's own address: the answer to a flow that it translated, or one for itself. Its instances
    /// have no ears of their own.
    fn at_firewall(&mut self, name: &'a str) -> Step {
        let found = self.find(&Function::Firewall(name.to_owned()));
        if found.is_some_and(|(side, session)| side == Side::Reply && session.translates()) {
            return self.through_firewall(name);
        }
        let own = self.lab.azure_firewalls[name].address == Some(self.packet.destination);
        if own { Ok(Endpoint::Firewall(name.to_owned())) } else { Err(Reason::NoListener) }
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
        let own = [firewall.address, firewall.instance];
        own.contains(&Some(address)).then_some(Holder::Firewall(name))
    }

    /// A next hop counts only in the own network or where a peering's route leads.
    fn reach_appliance(&mut self, leaving: Leaving<'a>, address: IpAddr) -> Step {
        let vnet = leaving.place.0;
        let own = self.lab.vnet(vnet).address_space.hold(address).then_some(vnet);
        let at = own.or_else(|| {
            peering::peers(self.lab, vnet).find(|peer| {
                peering::routed(self.lab, vnet, peer).iter().any(|prefix| prefix.contains(&address))
            })
        });
        let Some(at) = at else {
            let half = self.lone_half_to(vnet, address);
            return Err(if half { Reason::PeeringNotConnected } else { Reason::NextHopUnreachable });
        };
        if at != vnet {
            peering::cross(self.lab, leaving.sender(), at, self.packet.source)?;
        }
        let holder = self.holder(at, address).ok_or(Reason::NextHopUnreachable)?;
        match holder {
            // The table of the appliance's own subnet leads back to it.
            Holder::Firewall(_) if leaving.place == (at, "AzureFirewallSubnet") => Err(Reason::RoutingLoop),
            Holder::Firewall(name) if self.packet.destination == address => self.at_firewall(name),
            Holder::Firewall(name) => self.through_firewall(name),
            Holder::Nic(vm, index) if leaving.nic == Some((vm, index)) => Err(Reason::RoutingLoop),
            Holder::Nic(vm, index) => {
                let nic = &self.lab.virtual_machines[vm].nics[index];
                let own = nic.addresses.contains(&self.packet.destination);
                if !own && !nic.forwarding {
                    return Err(Reason::NotForwarding);
                }
                self.between_machines(leaving, vm, index)?;
                let endpoint = self.deliver_to(vm, index)?;
                if own {
                    return Ok(endpoint);
                }
                self.hop(vm)?;
                let v4 = self.packet.source.is_ipv4();
                let own = nic.addresses.iter().find(|address| address.is_ipv4() == v4);
                self.hops.extend(own.map(IpAddr::to_string));
                self.leave_nic(vm, index)
            }
        }
    }

    fn through_firewall(&mut self, name: &'a str) -> Step {
        self.hop(name)?;
        self.hops.push("*".to_owned());
        match self.find(&Function::Firewall(name.to_owned())) {
            Some(found @ (Side::First, _)) => self.pass_outward(found),
            Some((Side::Reply, session)) => self.packet = self.packet.with(session.first.reversed()),
            None => self.open_at_firewall(name)?,
        }
        self.leave_firewall(name)
    }

    /// A new flow: judged, and translated unless its destination is private.
    fn open_at_firewall(&mut self, name: &'a str) -> Result<(), Reason> {
        let Packet { protocol, destination, .. } = self.packet;
        // Only of TCP does a firewall ask to have seen the beginning.
        if !self.packet.opens && protocol == Protocol::TCP {
            return Err(Reason::FirewallNoSession);
        }
        let judgement = firewall::judge(self.lab, name, &self.packet);
        self.rule = judgement.rule;
        if !judgement.allowed {
            return Err(Reason::FirewallDeny);
        }
        let function = Function::Firewall(name.to_owned());
        if !firewall::translates(self.lab, name, destination) {
            self.remember(function);
            return Ok(());
        }
        let firewall = &self.lab.azure_firewalls[name];
        let (vnet, subnet) = (firewall.virtual_network.as_str(), "AzureFirewallSubnet");
        let rows = routes::effective(self.lab, vnet, subnet);
        let outside = routes::select(&rows, destination).is_some_and(|row| row.hop == Hop::Internet);
        if outside && protocol != Protocol::TCP && protocol != Protocol::UDP {
            return Err(Reason::ProtocolNotSupported);
        }
        let publicly = outside && self.lab.vnet(vnet).subnets[subnet].nat_gateway.is_none();
        let seen = if publicly { firewall.public.first().copied() } else { firewall.instance };
        match seen.filter(|seen| seen.is_ipv4() == destination.is_ipv4()) {
            Some(seen) => self.translate(function, seen, true),
            None => self.remember(function),
        }
        Ok(())
    }

    fn leave_firewall(&mut self, name: &'a str) -> Step {
        let place = (self.lab.azure_firewalls[name].virtual_network.as_str(), "AzureFirewallSubnet");
        let rows = routes::effective(self.lab, place.0, place.1);
        let row = routes::select(&rows, self.packet.destination).ok_or(Reason::NoRoute)?.clone();
        self.follow(Leaving { place, nic: None, is_gateway: false }, &row)
    }

    fn through_gateway(&mut self, name: &'a str, hub: &'a str) -> Step {
        self.hop(name)?;
        if self.lab.semantics.vpn_gateway_hop.as_deref() == Some("visible") {
            // A gateway behind a tunnel has no way to answer.
            let before = self.via.iter().rev().nth(1);
            let tunnelled =
                before.is_some_and(|name| self.lab.virtual_network_gateways.contains_key(name.as_str()));
            let address = self.lab.virtual_network_gateways[name].address.filter(|_| !tunnelled);
            self.hops.push(address.map_or("*".to_owned(), |address| address.to_string()));
        }
        let rows = routes::of_gateway(self.lab, hub);
        // What would lead nowhere in a table without that peering; a family that the network lacks has no routes.
        let table = routes::effective(self.lab, hub, "GatewaySubnet");
        let nowhere = routes::select(&table, self.packet.destination).is_some();
        let lost = if nowhere && self.lone_half(hub) { Reason::PeeringNotConnected } else { Reason::NoRoute };
        let row = routes::select(&rows, self.packet.destination).ok_or(lost)?.clone();
        if row.hop != Hop::Gateway {
            let place = (hub, "GatewaySubnet");
            return self.follow(Leaving { place, nic: None, is_gateway: true }, &row);
        }
        debug_assert_eq!(row.source, Source::Gateway, "a gateway's subnet takes no route to itself");
        let connection = self.choose_connection(gateway::towards(self.lab, name, self.packet.destination))?;
        self.packet.destination = nat::name(
            self.lab,
            connection,
            &connection.ingress_nat_rules,
            nat::Way::In,
            self.packet.destination,
        );
        self.packet.source =
            nat::name(self.lab, connection, &connection.egress_nat_rules, nat::Way::Out, self.packet.source);
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
        let connection = self.choose_connection(gateway::from_site(lab, site, self.packet.destination))?;
        let (name, gateway) = lab
            .virtual_network_gateways
            .get_key_value(connection.virtual_network_gateway1.as_str())
            .expect("validation resolves references");
        if !gateway::sources(lab, connection).iter().any(|prefix| prefix.contains(&self.packet.source)) {
            return Err(Reason::PrefixNotAllowed);
        }
        let Packet { source, destination, .. } = self.packet;
        self.packet.destination =
            nat::name(lab, connection, &connection.egress_nat_rules, nat::Way::In, destination);
        self.packet.source = nat::name(lab, connection, &connection.ingress_nat_rules, nat::Way::Out, source);
        self.through_gateway(name, &gateway.virtual_network)
    }
}

/// Whoever hands a packet to the fabric.
#[derive(Clone, Copy, Debug)]
struct Leaving<'a> {
    place: (&'a str, &'a str),
    /// A machine's NIC; else a firewall or gateway.
    nic: Option<(&'a str, usize)>,
    is_gateway: bool,
}

impl<'a> Leaving<'a> {
    fn sender(self) -> Sender<'a> {
        Sender { place: self.place, is_gateway: self.is_gateway }
    }
}

enum Holder<'a> {
    Nic(&'a str, usize),
    Firewall(&'a str),
}
