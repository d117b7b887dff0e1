//! The model's answers held against the fabric's: routes, predictions and packets driven from port to port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{PortId, Protocol, Reason};
use vnet_fabric::PathReport;

use crate::fabric::{Fabric, Travel, meta};
use crate::generate::Features;
use crate::model::gateway;
use crate::model::session::Session;
use crate::model::subject::SOURCE_PORT;
use crate::model::walk::{Ending, WAYS_MAX, Way, walks, walks_back};
use crate::model::{Endpoint, Lab, Packet};
use crate::subject::{Line, Outcome, Probe, Subject};

/// What came out how often: a generator that makes dull topologies proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u32>);

impl Tally {
    /// Takes what another run has met too.
    pub fn add(&mut self, other: Tally) {
        for (outcome, count) in other.0 {
            *self.0.entry(outcome).or_default() += count;
        }
    }

    fn note(&mut self, way: &Way) {
        let key = match &way.ending {
            Ending::Drop(reason) => reason.name().to_owned(),
            Ending::Deliver(Endpoint::InternetHost(_)) => "Deliver to the internet".to_owned(),
            Ending::Deliver(_) => format!("Deliver via {}", way.via.len().min(3)),
        };
        *self.0.entry(key).or_default() += 1;
    }
}

/// Who can send, and who can be sent to.
pub fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    let machines = lab.virtual_machines.keys();
    let sites = lab.on_premises_sites.values().flat_map(|site| site.hosts.keys());
    let names = machines.chain(sites).chain(lab.internet.hosts.keys());
    names.map(|name| lab.endpoint(name).expect("the name is in the topology")).collect()
}

/// A private endpoint answers and never asks.
fn asks(lab: &Lab, endpoint: &Endpoint) -> bool {
    let machine = lab.virtual_machines.get(endpoint.name());
    machine.is_none_or(|machine| !machine.is_private_endpoint)
}

/// Every pair of ends, with addresses of one family: who asks, whom, from where, to where. The internet's hosts ask
/// public addresses only, and nobody of the internet.
pub fn pairs(lab: &Lab) -> Vec<(Endpoint, Endpoint, IpAddr, IpAddr)> {
    let mut pairs = Vec::new();
    let outside = |end: &Endpoint| matches!(end, Endpoint::InternetHost(_));
    for from in endpoints(lab).into_iter().filter(|from| asks(lab, from)) {
        for to in endpoints(lab).into_iter().filter(|to| *to != from) {
            let goals = match &to {
                Endpoint::InternetHost(_) if outside(&from) => Vec::new(),
                Endpoint::Nic(vm, index) if outside(&from) => {
                    lab.virtual_machines[vm.as_str()].nics[*index].publics.clone()
                }
                _ if outside(&from) => Vec::new(),
                to => lab.addresses(to),
            };
            for source in lab.addresses(&from) {
                let same = goals.iter().filter(|goal| goal.is_ipv4() == source.is_ipv4());
                pairs.extend(same.map(|goal| (from.clone(), to.clone(), source, *goal)));
            }
        }
    }
    pairs
}

/// Whether an ending is the one that the model gives.
pub fn same_end(fabric: &Fabric, way: &Way, end: &Result<PortId, Reason>) -> bool {
    match (&way.ending, end) {
        (Ending::Drop(expected), Err(got)) if expected == got => true,
        // Without ways out every packet for the internet ends where the fabric looks for one.
        (Ending::Drop(Reason::NoListener), Err(Reason::NoRoute)) if !Features::BUILT.egress => way.outside,
        (Ending::Drop(Reason::ProtocolNotSupported), Err(Reason::NoRoute)) => !Features::BUILT.egress,
        (Ending::Deliver(expected), Ok(port)) => fabric.port_of(expected.name()) == *port,
        _ => false,
    }
}

fn same_way(fabric: &Fabric, way: &Way, travel: &Travel) -> bool {
    let delivered = matches!(way.ending, Ending::Deliver(_));
    same_end(fabric, way, &travel.end) && (!delivered || way.via == travel.via)
}

fn differs(ways: &[Way], travel: &Travel) -> String {
    let said: Vec<_> = ways.iter().map(|way| (&way.ending, &way.via, &way.rule)).collect();
    format!("the model says {said:?}, the fabric {travel:#?}")
}

/// The packet that follows question and answer.
fn later(lab: &Lab, from: &Endpoint, packet: Packet, forward: &Way, back: &Way) -> Vec<Way> {
    let sessions: Vec<Session> = forward.sessions.iter().chain(&back.sessions).cloned().collect();
    walks(lab, from, Packet { opens: packet.protocol == Protocol::UDP, ..packet }, &sessions)
}

fn compare_packet(
    tally: &mut Tally,
    (fabric, lab): (&Fabric, &Lab),
    from: &Endpoint,
    packet: Packet,
) -> Result<(), String> {
    let port = fabric.port_of(from.name());
    let tuple = fabric.tuple(packet);
    let (forward, back) = fabric.travel_both(port, tuple, packet.opens);
    let ways = walks(lab, from, packet, &[]);
    tally.note(&ways[0]);
    let fitting: Vec<&Way> = ways.iter().filter(|way| same_way(fabric, way, &forward)).collect();
    if fitting.is_empty() {
        return unless_cut_short(&ways, || differs(&ways, &forward));
    }
    let Some(back) = back else { return Ok(()) };
    let mut answers = Vec::new();
    for way in fitting {
        let ways = walks_back(lab, way).expect("it was delivered");
        if let Some(answer) = ways.iter().find(|answer| same_way(fabric, answer, &back)) {
            return compare_later((fabric, lab), from, packet, (way, answer), (&forward, &back));
        }
        answers.extend(ways);
    }
    unless_cut_short(&answers, || format!("the answer: {}", differs(&answers, &back)))
}

/// Hashes may choose among so many ways that not all are known: the fabric's may be one of the others.
fn unless_cut_short(ways: &[Way], differs: impl Fn() -> String) -> Result<(), String> {
    if ways.len() < WAYS_MAX { Err(differs()) } else { Ok(()) }
}

/// What follows a question that was answered meets the sessions that both opened.
fn compare_later(
    (fabric, lab): (&Fabric, &Lab),
    from: &Endpoint,
    packet: Packet,
    (forward, back): (&Way, &Way),
    (asked, answered): (&Travel, &Travel),
) -> Result<(), String> {
    if answered.end.is_err() || packet.protocol.is_icmp() {
        return Ok(());
    }
    let mut sessions = asked.opens.clone();
    sessions.extend(&answered.opens);
    let got = fabric.travel(fabric.port_of(from.name()), meta(fabric.tuple(packet), false), &sessions);
    let ways = later(lab, from, packet, forward, back);
    if ways.iter().any(|way| same_way(fabric, way, &got)) {
        Ok(())
    } else {
        unless_cut_short(&ways, || format!("a later packet: {}", differs(&ways, &got)))
    }
}

/// The tables of every subnet list the same rows.
fn compare_tables(fabric: &Fabric, lab: &Lab) -> Result<(), String> {
    for (vnet, network) in &lab.virtual_networks {
        for subnet in network.subnets.keys() {
            let name = format!("{vnet}/{subnet}");
            let sorted = |lines: Option<Vec<Line>>| {
                let mut lines = lines.expect("both tell");
                lines.sort();
                lines
            };
            let (expected, got) = (sorted(lab.routes(&name)), sorted(fabric.routes(&name)));
            if expected != got {
                let missing: Vec<_> = expected.iter().filter(|line| !got.contains(line)).collect();
                let besides: Vec<_> = got.iter().filter(|line| !expected.contains(line)).collect();
                return Err(format!("{name}: the fabric lacks {missing:?} and has {besides:?} besides"));
            }
        }
    }
    Ok(())
}

/// What `path` prints is what a packet driven from port to port meets.
fn compare_path(fabric: &Fabric, from: &Endpoint, to: &Endpoint) -> Result<(), String> {
    let protocols = [
        ("tcp", ProbeProtocol::Tcp, Some(443)),
        ("udp", ProbeProtocol::Udp, Some(53)),
        ("icmp", ProbeProtocol::Icmp, None),
    ];
    protocols.into_iter().try_for_each(|protocol| compare_protocol(fabric, (from, to), protocol))
}

fn compare_protocol(
    fabric: &Fabric,
    (from, to): (&Endpoint, &Endpoint),
    (name, protocol, port): (&str, ProbeProtocol, Option<u16>),
) -> Result<(), String> {
    let number = port.unwrap_or(0);
    let probe =
        Probe { protocol: name.to_owned(), port: number, source_port: SOURCE_PORT, mid_stream: false };
    let report = vnet_fabric::path(&fabric.snapshot, from.name(), to.name(), protocol, port);
    let report = report.map_err(|error| error.to_string())?;
    // The fabric picks the pair of addresses; the same pair is asked of the driver.
    let driven = fabric.path(from.name(), to.name(), &probe);
    // `path` assumes of a machine that forwards to the Internet that it translates; the driver's machines do not.
    let is_machine = |name: &String| fabric.topology.virtual_machines.contains_key(name.as_str());
    if [&report.via, &report.via_reverse, &driven.via, &driven.via_reverse]
        .into_iter()
        .flatten()
        .any(is_machine)
    {
        return Ok(());
    }
    let reason = driven.reason.clone().or(driven.reply_reason.clone());
    let arrives = driven.reason.is_none();
    let same = report.reason == reason
        && report.forward.arrives == arrives
        && (!arrives || report.via == driven.via)
        && (reason.is_some() || report.via_reverse == driven.via_reverse)
        && (!arrives || same_return(&report, &driven));
    if same { Ok(()) } else { Err(format!("{name}: path says {report:#?}, a driven packet {driven:?}")) }
}

/// Whether `path` calls the answer asymmetric where it passes other appliances than its question, or is dropped by another one.
fn same_return(report: &PathReport, driven: &Outcome) -> bool {
    let back: Vec<&String> = driven.via_reverse.iter().chain(&report.return_dropped_by).collect();
    let as_far =
        driven.via.len() >= back.len() && driven.via.iter().rev().zip(&back).all(|(out, back)| out == *back);
    let whole = driven.via.len() == back.len();
    match driven.reply_reason.as_deref() {
        // Either it was dropped, or it came as what nobody has asked for.
        Some("AsymmetricReturn") => true,
        lost => report.asymmetric != (as_far && (whole || lost.is_some())),
    }
}

fn probes() -> Vec<Probe> {
    let probe = |protocol: &str, port, mid_stream| Probe {
        protocol: protocol.to_owned(),
        port,
        source_port: SOURCE_PORT,
        mid_stream,
    };
    vec![probe("icmp", 0, false), probe("tcp", 22, false), probe("udp", 443, false), probe("tcp", 80, true)]
}

/// Everything that both can be asked about a topology.
///
/// # Errors
/// The first difference.
pub fn compare(tally: &mut Tally, fabric: &Fabric, lab: &Lab) -> Result<(), String> {
    compare_tables(fabric, lab)?;
    let mut named: Vec<(Endpoint, Endpoint)> = Vec::new();
    // Where a hash spreads flows, `path` asks about a flow of its own.
    let mut routes = lab.route_tables.values().flat_map(|table| &table.routes);
    let spreads = routes.any(|route| route.next_hop_type == "VirtualApplianceEcmp") || gateway::spreads(lab);
    for (from, to, source, destination) in pairs(lab) {
        for probe in probes() {
            let packet = Lab::question(source, destination, &probe);
            compare_packet(tally, (fabric, lab), &from, packet).map_err(|wrong| {
                format!("{} ({source}) to {} ({destination}): {probe:?}: {wrong}", from.name(), to.name())
            })?;
        }
        let pair = (from, to);
        let inside = [&pair.0, &pair.1].iter().all(|end| !matches!(end, Endpoint::InternetHost(_)));
        if inside && !spreads && !named.contains(&pair) {
            compare_path(fabric, &pair.0, &pair.1)?;
            named.push(pair);
        }
    }
    Ok(())
}
