//! The fabric as one that answers the same questions: `decide` driven from port to port, as the router does it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use vnet_config::Topology;
use vnet_dataplane::{Action, FiveTuple, Nanos, PacketMeta, PortId, Protocol, Reason, TcpFlags, TunnelId};
use vnet_fabric::decide::decide;
use vnet_fabric::effective::{
    EffectiveRoute, FlowDirection, FlowQuery, effective_routes, ip_flow_verify, next_hop,
};
use vnet_fabric::snapshot::{PortKind, TunnelPeer};
use vnet_fabric::trace::StepKind;
use vnet_fabric::{Event, SessionOpen, Snapshot, State, Step, Verdict, converge};

use crate::accept::load;
use crate::golden::{self, Capacity, FlowCheck, Request, SessionCheck, patched};
use crate::model::subject::SOURCE_PORT;
use crate::model::{Lab, Packet};
use crate::simulation::Simulation;
use crate::subject::{Line, Outcome, Probe, Subject};

/// At most this many decisions make one way: appliances that are machines, and tunnels.
const DECISIONS_MAX: usize = 64;

/// A topology as the fabric holds it.
#[derive(Debug)]
pub struct Fabric {
    /// What was loaded.
    pub topology: Arc<Topology>,
    /// What is in force.
    pub state: State,
    /// The compiled form.
    pub snapshot: Snapshot,
    /// Who is called what.
    pub names: Lab,
}

/// One packet's way, decision after decision.
#[derive(Clone, Debug)]
pub struct Travel {
    /// Where it ends: a port, or a reason.
    pub end: Result<PortId, Reason>,
    /// Appliances and gateways on the way.
    pub via: Vec<String>,
    /// Sessions that it opens.
    pub opens: Vec<SessionOpen>,
    /// Addresses at the end.
    pub tuple: FiveTuple,
    /// The rule that decided last.
    pub rule: Option<String>,
    /// Every step.
    pub steps: Vec<Step>,
}

/// The first packet of a flow, or one from its middle.
pub fn meta(tuple: FiveTuple, opens: bool) -> PacketMeta {
    let v4 = tuple.protocol == Protocol::ICMP;
    let icmp = tuple.protocol.is_icmp().then_some(match (v4, opens) {
        (true, true) => (8, 0),
        (true, false) => (0, 0),
        (false, true) => (128, 0),
        (false, false) => (129, 0),
    });
    let flags = if opens { TcpFlags::SYN } else { TcpFlags::ACK };
    let tcp_flags = TcpFlags(if tuple.protocol == Protocol::TCP { flags } else { 0 });
    PacketMeta { tuple, tcp_flags, icmp, embedded: None, ttl: 64, length: 100 }
}

impl Fabric {
    /// Follows a packet from a port until something delivers or drops it. A machine that gets a packet for
    /// somebody else and may forward is assumed to send it on by the same NIC.
    pub fn travel(&self, from: PortId, packet: PacketMeta, sessions: &[SessionOpen]) -> Travel {
        let mut travel = Travel {
            end: Err(Reason::RoutingLoop),
            via: Vec::new(),
            opens: Vec::new(),
            tuple: packet.tuple,
            rule: None,
            steps: Vec::new(),
        };
        let mut port = from;
        for _ in 0..DECISIONS_MAX {
            let meta = PacketMeta { tuple: travel.tuple, ..packet };
            let mut known: Vec<SessionOpen> = sessions.to_vec();
            known.extend(&travel.opens);
            let mut steps: Vec<Step> = Vec::new();
            let decision = decide(&self.snapshot, &known, port, &meta, &mut steps);
            self.note(&mut travel, steps);
            travel.opens.extend(decision.opens);
            travel.rule = decision
                .decided_by
                .and_then(|rule| self.snapshot.rule(rule))
                .map(|rule| short_name(&rule.reference.name));
            rewrite(&mut travel.tuple, &decision.actions);
            match decision.verdict {
                Verdict::Drop(reason) => {
                    travel.end = Err(reason);
                    return travel;
                }
                Verdict::Seal(tunnel) => match self.far_end(tunnel) {
                    Some((ingress, gateway)) => {
                        port = ingress;
                        travel.via.extend(gateway);
                    }
                    None => {
                        travel.end = Err(Reason::TunnelDown);
                        return travel;
                    }
                },
                Verdict::Deliver(to) => {
                    let info = self.snapshot.port(to).expect("a decision names ports of its snapshot");
                    let own = info.has_address(travel.tuple.destination)
                        || !matches!(info.kind, PortKind::Nic { .. });
                    if own {
                        travel.end = Ok(to);
                        return travel;
                    }
                    port = to;
                }
            }
        }
        travel
    }

    fn note(&self, travel: &mut Travel, steps: Vec<Step>) {
        for step in &steps {
            if matches!(step.kind, StepKind::Firewall | StepKind::Gateway | StepKind::Appliance) {
                travel.via.push(step.at.split('/').next().unwrap_or_default().to_owned());
            }
        }
        travel.steps.extend(steps);
    }

    /// Where a tunnel's other end lets packets in, and the gateway there, if it is one's.
    fn far_end(&self, tunnel: TunnelId) -> Option<(PortId, Option<String>)> {
        match self.snapshot.tunnel(tunnel)?.peer {
            TunnelPeer::Tunnel(peer) => {
                let end = self.snapshot.tunnel(peer)?;
                Some((end.ingress, (!end.at_site).then(|| end.gateway.to_string())))
            }
            _ => None,
        }
    }

    /// The port of a machine's first NIC, of a site's host or of the internet.
    pub fn port_of(&self, name: &str) -> PortId {
        let found = self.snapshot.ports().find(|port| match &port.kind {
            PortKind::Nic { vm, .. } => &**vm == name,
            PortKind::SiteHost { host, .. } => &**host == name,
            PortKind::PrivateEndpoint { name: own } => &**own == name,
            _ => false,
        });
        let port = found.map(|port| port.id).or_else(|| self.snapshot.internet_edge());
        port.expect("every name of a topology has a port")
    }

    fn ask(&self, from: &str, to: &str, probe: &Probe) -> (PortId, FiveTuple) {
        let (_, packet) = self.names.asked(from, to, probe);
        (self.port_of(from), self.tuple(packet))
    }

    /// The tuple of the model's packet: an echo's identifier stands in both ports.
    pub fn tuple(&self, packet: Packet) -> FiveTuple {
        let ports = if packet.protocol.is_icmp() {
            (SOURCE_PORT, SOURCE_PORT)
        } else {
            (packet.source_port, packet.destination_port)
        };
        FiveTuple {
            protocol: packet.protocol,
            source: packet.source,
            destination: packet.destination,
            source_port: ports.0,
            destination_port: ports.1,
        }
    }

    /// Question and answer between two ends.
    pub fn travel_both(&self, from: PortId, tuple: FiveTuple, opens: bool) -> (Travel, Option<Travel>) {
        let forward = self.travel(from, meta(tuple, opens), &[]);
        let back = forward.end.ok().map(|port| {
            let mut packet = meta(forward.tuple.reversed(), tuple.protocol == Protocol::UDP);
            if tuple.protocol == Protocol::TCP {
                packet.tcp_flags = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
            }
            self.travel(port, packet, &forward.opens)
        });
        (forward, back)
    }
}

fn rewrite(tuple: &mut FiveTuple, actions: &[Action]) {
    for action in actions {
        let port = match action {
            Action::RewriteSource { address, port } => {
                tuple.source = *address;
                tuple.source_port = port.unwrap_or(tuple.source_port);
                port
            }
            Action::RewriteDestination { address, port } => {
                tuple.destination = *address;
                tuple.destination_port = port.unwrap_or(tuple.destination_port);
                port
            }
            _ => continue,
        };
        // An echo has one identifier, which stands in both ports.
        if let (Some(identifier), true) = (port, tuple.protocol.is_icmp()) {
            (tuple.source_port, tuple.destination_port) = (*identifier, *identifier);
        }
    }
}

/// The answer comes to the port that asked, as an answer to what it has asked.
fn returns_to((port, asked): (PortId, FiveTuple), back: &Travel) -> Result<(), Reason> {
    let answers = back.end? == port && back.tuple == asked.reversed();
    if answers { Ok(()) } else { Err(Reason::AsymmetricReturn) }
}

fn name(reason: Reason) -> String {
    reason.name().to_owned()
}

impl Subject for Fabric {
    fn build(topology: &Value) -> Result<Self, String> {
        let names = Lab::read(topology)?;
        let topology = Arc::new(load(topology).map_err(|said| format!("{said:?}"))?);
        let (state, snapshot) = converge(&topology);
        Ok(Fabric { topology, state, snapshot, names })
    }

    fn routes(&self, subnet: &str) -> Option<Vec<Line>> {
        let table = effective_routes(&self.snapshot, subnet).expect("the subnet exists");
        // A row for a service holds all its prefixes.
        let lines = |row: EffectiveRoute| {
            let EffectiveRoute { source, state, address_prefix, next_hop_type, next_hop_ip_address, .. } =
                row;
            address_prefix.into_iter().map(move |prefix| Line {
                source: source.clone(),
                state: state.clone(),
                prefix,
                kind: next_hop_type.clone(),
                addresses: next_hop_ip_address.clone(),
            })
        };
        Some(table.value.into_iter().flat_map(lines).collect())
    }

    fn next_hop(&self, subnet: &str, to: IpAddr) -> Option<Option<Line>> {
        // The product's answer names no prefix: the line with the longest one that fits it is meant.
        let answer = next_hop(&self.snapshot, subnet, to, None).expect("the subnet exists");
        let holds = |line: &Line| line.prefix.parse::<IpNet>().is_ok_and(|prefix| prefix.contains(&to));
        let length = |line: &Line| line.prefix.parse::<IpNet>().map_or(0, |prefix| prefix.prefix_len());
        let lines = self.routes(subnet)?.into_iter().filter(|line| line.state == "Active" && holds(line));
        let same = |line: &Line| {
            let user = answer.route_table_id != "System Route";
            line.kind == answer.next_hop_type
                && line.addresses.first() == answer.next_hop_ip_address.as_ref()
                && (line.source == "User") == user
        };
        Some(lines.filter(same).max_by_key(length))
    }

    fn route_table(&self, subnet: &str, to: IpAddr) -> Option<String> {
        let answer = next_hop(&self.snapshot, subnet, to, None).expect("the subnet exists");
        Some(answer.route_table_id)
    }

    /// By real packets with growing TTLs.
    fn hops(&self, from: &str, to: &str, probe: &Probe) -> Vec<String> {
        let (port, tuple) = self.ask(from, to, probe);
        let (_, snapshot) = converge(&self.topology);
        Simulation::new(snapshot).trace(port, tuple)
    }

    fn links(topology: &Value) -> Result<usize, String> {
        let topology = Arc::new(load(topology).map_err(|said| format!("{said:?}"))?);
        let (state, _) = converge(&topology);
        let halves = state.peerings.values().filter(|status| format!("{:?}", status.state) == "Connected");
        Ok(halves.count() / 2)
    }

    fn path(&self, from: &str, to: &str, probe: &Probe) -> Outcome {
        let (port, tuple) = self.ask(from, to, probe);
        let (forward, back) = self.travel_both(port, tuple, !probe.mid_stream);
        Outcome {
            reason: forward.end.err().map(name),
            reply_reason: back.as_ref().and_then(|back| returns_to((port, tuple), back).err()).map(name),
            via_reverse: back.map(|back| back.via).unwrap_or_default(),
            rule: forward.rule,
            source_seen_as: forward.end.is_ok().then_some(forward.tuple.source),
            via: forward.via,
        }
    }

    fn flow(&self, flow: &FlowCheck) -> Option<(bool, String)> {
        let query = FlowQuery {
            direction: if flow.direction == "Inbound" {
                FlowDirection::Inbound
            } else {
                FlowDirection::Outbound
            },
            protocol: if flow.protocol == "udp" { Protocol::UDP } else { Protocol::TCP },
            local: (flow.local.ip(), flow.local.port()),
            remote: (flow.remote.ip(), flow.remote.port()),
        };
        let verdict = ip_flow_verify(&self.snapshot, &flow.vm, &query).expect("the machine exists");
        Some((verdict.access == "Allow", verdict.rule_name))
    }

    fn order(&self, _policy: &str) -> Option<Vec<String>> {
        None
    }

    fn capacity(_capacity: &Capacity) -> Vec<String> {
        Vec::new()
    }

    fn requests(topology: &Value, requests: &[Request]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut now = topology.clone();
        let mut state = State::default();
        for (index, request) in requests.iter().enumerate() {
            let half = |text: &String| {
                text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("LOCAL REMOTE")
            };
            if let Some((local, remote)) = request.create.as_ref().map(half) {
                now = patched(&now, &json!({"virtualNetworks": {local: {"peerings": {remote: {}}}}}));
            }
            if let Some((local, remote)) = request.delete.as_ref().map(half) {
                now = patched(&now, &json!({"virtualNetworks": {local: {"peerings": {remote: null}}}}));
            }
            if request.fails.is_some() || request.resize.is_some() {
                // An apply reaches the file by deleting and creating both halves; Azure's own refusal of the
                // single request belongs to `apply --as-azure`.
                break;
            }
            let topology = match load(&now) {
                Ok(topology) => Arc::new(topology),
                Err(said) => return vec![format!("request {index}: {said:?}")],
            };
            state.step(Event::Apply(topology), Nanos::ZERO);
            for names in ["a b", "b a"] {
                let key = names.replace(' ', " -> ");
                let got = state.peerings.get(&key).map(|status| format!("{:?}", status.state));
                if got.as_ref() != request.states.get(names) {
                    wrong.push(format!(
                        "request {index}: {names} is {got:?}, expected {:?}",
                        request.states.get(names)
                    ));
                }
            }
        }
        wrong
    }

    fn session(&self, topology: &Value, session: &SessionCheck) -> Vec<String> {
        let open = &session.open;
        let probe = Probe { mid_stream: false, ..open.probe() };
        let (port, tuple) = self.ask(&open.from, &open.to, &probe);
        let first = self.travel(port, meta(tuple, true), &[]);
        let changed = match load(&patched(topology, &session.patch)) {
            Ok(changed) => Arc::new(changed),
            Err(said) => return vec![format!("{said:?}")],
        };
        let mut state = self.state.clone();
        state.step(Event::Apply(changed.clone()), Nanos::ZERO);
        let snapshot = vnet_fabric::compile(&changed, &state);
        let later = Fabric { topology: changed, state, snapshot, names: self.names.clone() };
        let ongoing = later.travel(port, meta(tuple, false), &first.opens);
        let again = later.travel(port, meta(tuple, true), &[]);
        let verdict =
            |travel: &Travel| if travel.end.is_ok() { golden::Verdict::Allow } else { golden::Verdict::Deny };
        let mut wrong = Vec::new();
        if first.end.is_err() {
            wrong.push(format!("the session can't be opened: {first:?}"));
        }
        if verdict(&ongoing) != session.ongoing || verdict(&again) != session.again {
            wrong.push(format!("later packet {ongoing:?}, new session {again:?}"));
        }
        wrong
    }
}

/// A security group's rule as the worked examples name it: a user's with its group, a default one without.
fn short_name(name: &str) -> String {
    match name.split_once('/') {
        Some((_, rest)) if rest.starts_with("defaultSecurityRules/") => rest.to_owned(),
        _ => name.replacen("/securityRules/", "/", 1),
    }
}
