//! The reference model as one that answers the worked examples.

use std::net::IpAddr;

use serde_json::Value;
use vnet_dataplane::{Protocol, Reason};

use super::lab::usable;
use super::nsg::{Direction, Place};
use super::peering::{Machine, State};
use super::routes::{Hop, Source};
use super::session::{Function, Session};
use super::walk::{Ending, Endpoint, Packet, Way, walk, walk_back};
use super::{Lab, Row, firewall, gateway, nsg, routes};
use crate::golden::{Capacity, FlowCheck, Request, Resize, SessionCheck, Verdict, patched};
use crate::subject::{Line, Outcome, Probe, Subject};

/// The port that questions come from.
pub const SOURCE_PORT: u16 = 50_000;

impl Lab {
    /// The machines and hosts of that name: a machine by its first NIC.
    pub fn endpoint(&self, name: &str) -> Option<Endpoint> {
        if self.virtual_machines.contains_key(name) {
            return Some(Endpoint::Nic(name.to_owned(), 0));
        }
        for (site, form) in &self.on_premises_sites {
            if form.hosts.contains_key(name) {
                return Some(Endpoint::SiteHost(site.clone(), name.to_owned()));
            }
        }
        self.internet.hosts.contains_key(name).then(|| Endpoint::InternetHost(name.to_owned()))
    }

    /// All addresses of an endpoint.
    pub fn addresses(&self, endpoint: &Endpoint) -> Vec<IpAddr> {
        match endpoint {
            Endpoint::Nic(vm, index) => self.virtual_machines[vm.as_str()].nics[*index].addresses.clone(),
            Endpoint::SiteHost(site, host) => {
                self.on_premises_sites[site.as_str()].hosts[host.as_str()].addresses()
            }
            Endpoint::InternetHost(name) => self.internet.hosts[name.as_str()].addresses(),
            Endpoint::Firewall(name) => self.azure_firewalls[name.as_str()].address.into_iter().collect(),
        }
    }

    /// The question that a probe asks between two addresses.
    pub fn question(source: IpAddr, destination: IpAddr, probe: &Probe) -> Packet {
        let icmp = if source.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
        let protocol = match probe.protocol.as_str() {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            _ => icmp,
        };
        let ports = if protocol.is_icmp() { (0, 0) } else { (probe.source_port, probe.port) };
        let (source_port, destination_port) = ports;
        Packet { protocol, source, destination, source_port, destination_port, opens: !probe.mid_stream }
    }

    /// Who asks, and what, where `to` is a name or an address.
    ///
    /// # Panics
    /// Where a name is nobody's, or the two share no family.
    pub fn asked(&self, from: &str, to: &str, probe: &Probe) -> (Endpoint, Packet) {
        let from = self.endpoint(from).unwrap_or_else(|| panic!("nobody is called {from}"));
        let there = match to.parse() {
            Ok(address) => vec![address],
            Err(_) => self.addresses(&self.endpoint(to).unwrap_or_else(|| panic!("nobody is called {to}"))),
        };
        let here = self.addresses(&from);
        let pair = there.iter().find_map(|to| {
            let from = here.iter().find(|from| from.is_ipv4() == to.is_ipv4())?;
            Some((*from, *to))
        });
        let (source, destination) = pair.expect("the two share a family");
        (from, Lab::question(source, destination, probe))
    }

    fn line(&self, vnet: &str, row: &Row) -> Line {
        let addresses = match &row.hop {
            Hop::Appliance(address) => vec![address.to_string()],
            Hop::Appliances(addresses) => addresses.iter().map(IpAddr::to_string).collect(),
            Hop::Gateway if row.source == Source::Gateway => {
                let public = gateway::effective(self, vnet)
                    .map(|(name, _)| &self.virtual_network_gateways[name].public);
                public.into_iter().flatten().map(IpAddr::to_string).collect()
            }
            Hop::Gateway => match gateway::for_routes(self, vnet) {
                Some((name, _)) => {
                    self.virtual_network_gateways[name].public.iter().map(IpAddr::to_string).collect()
                }
                None => vec!["None".to_owned()],
            },
            _ => Vec::new(),
        };
        Line {
            source: row.source.name().to_owned(),
            state: if row.active { "Active" } else { "Invalid" }.to_owned(),
            prefix: row.prefix.to_string(),
            kind: row.hop.name().to_owned(),
            addresses,
        }
    }
}

fn split(subnet: &str) -> (&str, &str) {
    subnet.split_once('/').expect("a subnet is VNET/SUBNET")
}

fn reason(way: &Way) -> Option<String> {
    match way.ending {
        Ending::Deliver(_) => None,
        Ending::Drop(reason) => Some(reason.name().to_owned()),
    }
}

/// Why an answer does not come back to whoever asked: where two networks hold the address, it may reach the other, and
/// what a firewall has translated on the way back alone comes from an address that nobody has asked.
fn reply_reason(asked: &Endpoint, question: Packet, back: &Way) -> Option<String> {
    let answers = (back.last.source, back.last.destination) == (question.destination, question.source);
    match &back.ending {
        Ending::Deliver(endpoint) if endpoint != asked || !answers => {
            Some(Reason::AsymmetricReturn.name().to_owned())
        }
        _ => reason(back),
    }
}

/// `LOCAL REMOTE`.
fn half(text: &str) -> (String, String) {
    text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("LOCAL REMOTE")
}

/// Makes one request; everything that comes out otherwise than it says.
fn request_of(machine: &mut Machine, request: &Request) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut code = None;
    if let Some((local, remote)) = request.create.as_deref().map(half) {
        code = machine.create(&local, &remote).err();
    }
    if let Some((local, remote)) = request.delete.as_deref().map(half) {
        machine.delete(&local, &remote);
    }
    if let Some(Resize { network, ranges }) = &request.resize {
        code = machine.resize(network, ranges).err();
    }
    if let Some((local, remote)) = request.sync.as_deref().map(half) {
        machine.sync(&local, &remote);
    }
    if code != request.fails.as_deref() {
        wrong.push(format!("expected {:?}, got {code:?}", request.fails));
    }
    for names in ["a b", "b a"] {
        let (local, remote) = half(names);
        let got = machine.state(&local, &remote);
        let expected = request.states.get(names).map(String::as_str);
        if got.map(State::name) != expected {
            wrong.push(format!("{names} is {got:?}, expected {expected:?}"));
        }
        let level = machine.level(&local, &remote);
        let expected = request.levels.get(names).map(String::as_str);
        if expected.is_some() && level != expected {
            wrong.push(format!("{names} is {level:?}, expected {expected:?}"));
        }
        let routed = machine.routes(&local, &remote);
        let expected = request.routed.get(names);
        if expected.is_some_and(|expected| *expected != routed) {
            wrong.push(format!("{names} routes {routed:?}, expected {expected:?}"));
        }
    }
    let works = |names: &str| {
        let (local, remote) = half(names);
        machine.state(&local, &remote) == Some(State::Connected)
    };
    let reaches = works("a b") && works("b a");
    if request.reaches.is_some_and(|expected| expected != reaches) {
        wrong.push(format!("traffic passes: {reaches}"));
    }
    wrong
}

impl Subject for Lab {
    fn build(topology: &Value) -> Result<Self, String> {
        Lab::read(topology)
    }

    fn routes(&self, subnet: &str) -> Option<Vec<Line>> {
        let (vnet, subnet) = split(subnet);
        Some(routes::effective(self, vnet, subnet).iter().map(|row| self.line(vnet, row)).collect())
    }

    fn next_hop(&self, subnet: &str, to: IpAddr) -> Option<Option<Line>> {
        let (vnet, subnet) = split(subnet);
        Some(routes::select(&routes::effective(self, vnet, subnet), to).map(|row| self.line(vnet, row)))
    }

    fn route_table(&self, subnet: &str, to: IpAddr) -> Option<String> {
        let (vnet, name) = split(subnet);
        let rows = routes::effective(self, vnet, name);
        let by_user = routes::select(&rows, to).is_some_and(|row| row.source == Source::User);
        let table = self.vnet(vnet).subnets[name].route_table.as_ref().filter(|_| by_user);
        Some(table.map_or("System Route".to_owned(), |table| format!("routeTables/{table}")))
    }

    fn hops(&self, from: &str, to: &str, probe: &Probe) -> Vec<String> {
        let (from, packet) = self.asked(from, to, probe);
        let way = walk(self, &from, packet, &[]);
        let mut hops = way.hops;
        match way.ending {
            Ending::Deliver(_) => hops.push(packet.destination.to_string()),
            Ending::Drop(reason) => hops.push(reason.name().to_owned()),
        }
        hops
    }

    fn links(topology: &Value) -> Result<usize, String> {
        let lab = Lab::read(topology)?;
        let halves: usize =
            lab.virtual_networks.keys().map(|vnet| super::peering::peers(&lab, vnet).count()).sum();
        Ok(halves / 2)
    }

    fn path(&self, from: &str, to: &str, probe: &Probe) -> Outcome {
        let (from, packet) = self.asked(from, to, probe);
        let way = walk(self, &from, packet, &[]);
        let back = walk_back(self, &way);
        Outcome {
            reason: reason(&way),
            reply_reason: back.as_ref().and_then(|back| reply_reason(&from, packet, back)),
            via_reverse: back.map(|back| back.via).unwrap_or_default(),
            rule: way.rule,
            source_seen_as: matches!(way.ending, Ending::Deliver(_)).then_some(way.last.source),
            via: way.via,
        }
    }

    fn flow(&self, flow: &FlowCheck) -> Option<(bool, String)> {
        let nic = &self.virtual_machines[flow.vm.as_str()].nics[0];
        let (vnet, subnet) = nic.place();
        let direction = if flow.direction == "Inbound" { Direction::Inbound } else { Direction::Outbound };
        let (from, to) = match direction {
            Direction::Inbound => (flow.remote, flow.local),
            Direction::Outbound => (flow.local, flow.remote),
        };
        let protocol = flow.protocol.clone();
        let probe = Probe { protocol, port: to.port(), source_port: from.port(), mid_stream: false };
        let packet = Lab::question(from.ip(), to.ip(), &probe);
        let mut said = None;
        for group in nsg::order(self, nic, direction) {
            let judgement =
                nsg::judge(self, group, Place { vnet, subnet, has_user_routes: true }, direction, &packet);
            let allowed = judgement.allowed;
            said = Some((allowed, judgement.rule));
            if !allowed {
                break;
            }
        }
        said
    }

    fn order(&self, policy: &str) -> Option<Vec<String>> {
        let ordered = firewall::order(self, policy);
        Some(ordered.into_iter().map(|(_, placed)| placed.collection.name.clone()).collect())
    }

    fn capacity(capacity: &Capacity) -> Vec<String> {
        let range = usable(capacity.subnet);
        let count = range.map(|(first, last)| match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u64::from(u32::from(last) - u32::from(first) + 1),
            _ => unreachable!("capacities are asked of IPv4 subnets"),
        });
        let expected = (capacity.usable, capacity.first, capacity.last);
        let got = (count, range.map(|(first, _)| first), range.map(|(_, last)| last));
        if expected == got {
            Vec::new()
        } else {
            vec![format!("{}: expected {expected:?}, got {got:?}", capacity.subnet)]
        }
    }

    fn requests(topology: &Value, requests: &[Request]) -> Vec<String> {
        let mut machine = match Lab::read(topology) {
            Ok(lab) => Machine::new(&lab),
            Err(error) => return vec![error],
        };
        let numbered = requests.iter().enumerate();
        let wrong = |(index, request)| {
            let wrong = request_of(&mut machine, request).into_iter();
            wrong.map(|wrong| format!("request {index}: {wrong}")).collect::<Vec<_>>()
        };
        numbered.flat_map(wrong).collect()
    }

    fn session(&self, topology: &Value, session: &SessionCheck) -> Vec<String> {
        let open = &session.open;
        let probe = Probe { mid_stream: false, ..open.probe() };
        let (from, packet) = self.asked(&open.from, &open.to, &probe);
        let first = walk(self, &from, packet, &[]);
        let changed = match Lab::read(&patched(topology, &session.patch)) {
            Ok(changed) => changed,
            Err(error) => return vec![error],
        };
        // A changed group judges new flows only, unless it flushes connections; a changed firewall ends the
        // sessions that it would now deny.
        let outlives = |session: &&Session| match &session.function {
            Function::Nsg(vm, index, direction) => {
                let nic = &changed.virtual_machines[vm].nics[*index];
                let (vnet, subnet) = nic.place();
                nsg::order(&changed, nic, *direction).all(|group| {
                    let flushes = changed.network_security_groups[group].flush_connection;
                    let place = Place { vnet, subnet, has_user_routes: true };
                    let first = packet.with(session.first);
                    !flushes || nsg::judge(&changed, group, place, *direction, &first).allowed
                })
            }
            Function::Firewall(name) => firewall::judge(&changed, name, &packet.with(session.first)).allowed,
            Function::Edge(..) | Function::Ports(..) => true,
        };
        let kept: Vec<Session> = first.sessions.iter().filter(outlives).cloned().collect();
        let later = walk(&changed, &from, Packet { opens: false, ..packet }, &kept);
        let again = walk(&changed, &from, packet, &[]);
        let verdict = |way: &Way| if reason(way).is_none() { Verdict::Allow } else { Verdict::Deny };
        let mut wrong = Vec::new();
        if reason(&first).is_some() {
            wrong.push(format!("the session can't be opened: {first:?}"));
        }
        if verdict(&later) != session.ongoing || verdict(&again) != session.again {
            wrong.push(format!("later packet {later:?}, new session {again:?}"));
        }
        if session.reason.is_some() && reason(&later) != session.reason {
            wrong.push(format!("later packet: {:?}", reason(&later)));
        }
        wrong
    }
}
