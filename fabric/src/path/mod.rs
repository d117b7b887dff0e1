//! Prediction: the same decisions that a packet gets, from end to end and back, with every step explained.

mod endpoint;
mod judge;
mod known;
mod live;
mod report;
mod way;

use std::net::IpAddr;

use smallvec::SmallVec;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, Reason, TcpFlags};

pub use endpoint::Endpoint;
pub use judge::{PairReport, ends, first_packet, judge, judge_outward, matrix, matrix_row};
pub use known::StandingSessions;
pub use live::{LiveFlow, Sends, judge_leg, judge_live};
pub use report::{Direction, Leg, OneWay, PathReport, PathVerdict};

use crate::effective::QuestionError;
use crate::snapshot::Snapshot;
use crate::trace::{Certainty, Hop, RuleId, Step, Trace};
use known::Known;
use way::{Way, WayEnd, follow};

/// The source port, or ICMP identifier, that a predicted probe uses.
const PROBE_PORT: u16 = 49_152;
/// Length of a predicted probe, in bytes.
const PROBE_LENGTH: u32 = 60;

/// Appliances in the order in which they forward a packet.
pub type Hops = SmallVec<[Hop; 8]>;

/// What becomes of a probe and its answer, in numbers and handles: a [`PathReport`] without its words. Names are in the
/// snapshot ([`Snapshot::hop_name`], [`Snapshot::rule`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why the probe gets no answer: the reason of the drop on the way out, else of that on the way back.
    pub reason: Option<Reason>,
    /// Whether the probe itself arrives.
    pub arrives: bool,
    /// What decided: of a drop its cause, else the firewall's or security group's rule that let it pass, else the first
    /// route of a user that steered it, else the last route.
    pub rule: Option<RuleId>,
    /// The first route of a user that steered the probe, else the last route that it took.
    pub route: Option<RuleId>,
    /// Appliances on the way out.
    pub via: Hops,
    /// Appliances on the way back.
    pub via_reverse: Hops,
    /// The appliance that got the answer to forward it, and dropped it.
    pub refused_by: Option<Hop>,
    /// Whether the answer takes another way than the probe, as far as it comes.
    pub asymmetric: bool,
    /// The source address that the receiver sees.
    pub source_seen_as: Option<IpAddr>,
    /// Round trip that the topology's latency makes, in nanoseconds; without queues and processing.
    pub rtt_ns: u64,
    /// The least certain of the rules that it rests on.
    pub certainty: Certainty,
    /// Where the probe arrived, and with what tuple; the way back may have failed nonetheless.
    pub arrived: Option<(PortId, FiveTuple)>,
    /// With what tuple the probe leaves by the internet edge, for an address that no simulated host has.
    pub left: Option<FiveTuple>,
    /// Whether rules judged the answer anew: on a way that knows no session of its flow.
    pub answer_judged: bool,
}

impl Outcome {
    /// The machine that gets what was meant for another one: several have the address, and the sender's routes lead to this one.
    pub fn delivered_elsewhere<'a>(&self, snapshot: &'a Snapshot, to: &Endpoint) -> Option<&'a str> {
        let asked = snapshot.machine_at(to.port.filter(|_| to.name.parse::<IpAddr>().is_err())?)?;
        let got = snapshot.machine_at(self.arrived?.0)?;
        (got != asked).then_some(got)
    }
}

/// What becomes of a probe from one end to the other, and of its answer. Ends are virtual machines, `VM/NIC`, hosts,
/// firewalls, gateways or addresses. `port` counts for tcp and udp; without one it is 80.
///
/// # Errors
/// A name is not known, or the ends have no address family in common.
pub fn path(
    snapshot: &Snapshot,
    from: &str,
    to: &str,
    protocol: ProbeProtocol,
    port: Option<u16>,
) -> Result<PathReport, QuestionError> {
    let from = Endpoint::resolve(snapshot, from)?;
    let to = Endpoint::resolve(snapshot, to)?;
    between(snapshot, &from, &to, protocol, port)
}

/// The same between ends that are resolved already.
///
/// # Errors
/// The ends have no address family in common, or nothing holds the sender's address.
pub fn between(
    snapshot: &Snapshot,
    from: &Endpoint,
    to: &Endpoint,
    protocol: ProbeProtocol,
    port: Option<u16>,
) -> Result<PathReport, QuestionError> {
    let explain = || Explained { outline: Outline::new(snapshot), steps: Vec::new() };
    let exchange = exchange(snapshot, (from, to), (protocol, port), explain)?;
    Ok(report::report(snapshot, (from, to), (protocol, port), exchange))
}

/// The same without the words, for many pairs: nothing is put into text.
///
/// # Errors
/// The ends have no address family in common, or nothing holds the sender's address.
pub fn outcome(
    snapshot: &Snapshot,
    from: &Endpoint,
    to: &Endpoint,
    protocol: ProbeProtocol,
    port: Option<u16>,
) -> Result<Outcome, QuestionError> {
    let exchange = exchange(snapshot, (from, to), (protocol, port), || Outline::new(snapshot))?;
    Ok(exchange.outcome(snapshot))
}

/// A packet's way and, where it arrived, its answer's, each with what was noted of it.
struct Exchange<T> {
    ingress: PortId,
    edge: Option<PortId>,
    /// The probe's tuple, as it was sent.
    asked: FiveTuple,
    forward: (Way, T),
    reverse: Option<(Way, T)>,
}

fn exchange<T: Trace>(
    snapshot: &Snapshot,
    (from, to): (&Endpoint, &Endpoint),
    (protocol, port): (ProbeProtocol, Option<u16>),
    new: impl Fn() -> T,
) -> Result<Exchange<T>, QuestionError> {
    let (source, destination) = endpoint::common_addresses(from, to)?;
    let ingress = from.port.ok_or_else(|| crate::effective::unknown(snapshot, &from.name))?;
    let port = asked_port(protocol, port);
    // A machine of the lab is reached from the Internet by its public address.
    let public = to.port.filter(|_| Some(ingress) == snapshot.edge);
    let public = public.and_then(|port| snapshot.public_address(port, destination));
    let destination = public.unwrap_or(destination);
    Ok(exchange_of(snapshot, ingress, probe(protocol, source, destination, port), new))
}

fn exchange_of<T: Trace>(
    snapshot: &Snapshot,
    ingress: PortId,
    probe: PacketMeta,
    new: impl Fn() -> T,
) -> Exchange<T> {
    let (mut sessions, mut out) = (Known::default(), new());
    if way::stays(snapshot, ingress, &probe.tuple) {
        let mut back = new();
        let forward = way::looped(snapshot, ingress, probe.tuple, &mut out);
        let reverse = way::looped(snapshot, ingress, probe.tuple.reversed(), &mut back);
        let reverse = Some((reverse, back));
        return Exchange {
            ingress,
            edge: snapshot.edge,
            asked: probe.tuple,
            forward: (forward, out),
            reverse,
        };
    }
    let forward = follow(snapshot, &mut sessions, ingress, probe, &mut out);
    answered(snapshot, &mut sessions, (ingress, &probe), (forward, out), new)
}

/// The same where somebody is taken to answer at every address for which a packet leaves by the internet edge.
fn exchange_outward<T: Trace>(
    snapshot: &Snapshot,
    ingress: PortId,
    probe: PacketMeta,
    new: impl Fn() -> T,
) -> Exchange<T> {
    let (mut sessions, mut out) = (Known::default(), new());
    let mut forward = follow(snapshot, &mut sessions, ingress, probe, &mut out);
    if let (Some(edge), Some(tuple)) = (snapshot.edge, forward.left) {
        forward.end = WayEnd::Arrived(edge, tuple);
    }
    answered(snapshot, &mut sessions, (ingress, &probe), (forward, out), new)
}

/// Adds the answer's way where the probe arrived.
fn answered<T: Trace>(
    snapshot: &Snapshot,
    sessions: &mut Known<'_>,
    (ingress, probe): (PortId, &PacketMeta),
    forward: (Way, T),
    new: impl Fn() -> T,
) -> Exchange<T> {
    let reverse = match forward.0.end {
        WayEnd::Arrived(at, tuple) => {
            let mut back = new();
            let way = follow(snapshot, sessions, at, answer(probe, tuple), &mut back);
            Some((way, back))
        }
        WayEnd::Beyond | WayEnd::Outside(_) | WayEnd::Dropped(_) => None,
    };
    Exchange { ingress, edge: snapshot.edge, asked: probe.tuple, forward, reverse }
}

/// ICMP has no port; without one asked for, it is 80.
fn asked_port(protocol: ProbeProtocol, port: Option<u16>) -> Option<u16> {
    (protocol != ProbeProtocol::Icmp).then(|| port.unwrap_or(80))
}

impl<'a, T: AsRef<Outline<'a>>> Exchange<T> {
    fn outcome(&self, snapshot: &Snapshot) -> Outcome {
        let (forward, out) = (&self.forward.0, self.forward.1.as_ref());
        let reverse = self.reverse.as_ref();
        let back = self.back_reason();
        let arrives = reason(forward.end).is_none();
        let rule = match reverse {
            Some((way, outline)) if arrives && back.is_some() => decided_by(way, outline.as_ref()),
            _ => decided_by(forward, out),
        };
        let via_reverse = reverse.map(|(_, back)| back.as_ref().hops.clone()).unwrap_or_default();
        let refused_by = reverse.and_then(|(way, back)| refused_by(way, back.as_ref()));
        let strays = reverse.is_some_and(|(way, _)| {
            let name = |hop: &Hop| snapshot.hop_name(*hop);
            let mut mirrored = out.hops.iter().rev().map(name);
            let on_the_way =
                via_reverse.iter().chain(&refused_by).map(name).all(|at| mirrored.next() == Some(at));
            // An answer that is lost on the probe's own way comes back by no other.
            let whole = matches!(way.end, WayEnd::Dropped(_)) || mirrored.next().is_none();
            !(on_the_way && whole)
        });
        let back_certainty = reverse.map(|(_, back)| back.as_ref().certainty).unwrap_or_default();
        let arrived = match forward.end {
            WayEnd::Arrived(port, tuple) => Some((port, tuple)),
            _ => None,
        };
        Outcome {
            reason: reason(forward.end).or(back),
            arrives,
            rule,
            route: out.user_route.or(out.last_route),
            via: out.hops.clone(),
            asymmetric: strays,
            via_reverse,
            refused_by,
            source_seen_as: arrived.map(|(_, tuple)| tuple.source),
            rtt_ns: forward.delay_ns + reverse.map_or(0, |(way, _)| way.delay_ns),
            certainty: less_certain(out.certainty, back_certainty),
            arrived,
            left: forward.left,
            answer_judged: reverse.is_some_and(|(way, _)| !way.rules.is_empty()),
        }
    }

    /// Why the answer does not come back to where the probe left, as an answer to it: who asked one address takes nothing
    /// from another.
    fn back_reason(&self) -> Option<Reason> {
        let asked = self.asked.source;
        match self.reverse.as_ref()?.0.end {
            WayEnd::Arrived(at, tuple) if at != self.ingress || tuple != self.asked.reversed() => {
                Some(Reason::AsymmetricReturn)
            }
            // Who asked from the Internet is there, whether or not the lab simulates it.
            WayEnd::Outside(tuple) if Some(self.ingress) == self.edge && tuple.destination == asked => None,
            end => reason(end),
        }
    }
}

/// Where no rule let a packet pass, the first route of a user that steered it says more than the last route.
fn decided_by(way: &Way, outline: &Outline<'_>) -> Option<RuleId> {
    let passes = reason(way.end).is_none() && way.rules.is_empty();
    outline.user_route.filter(|_| passes).or(way.decided_by)
}

/// The appliance at which a packet was dropped that it had to forward.
fn refused_by(way: &Way, outline: &Outline<'_>) -> Option<Hop> {
    outline.reached.filter(|_| matches!(way.end, WayEnd::Dropped(_)))
}

fn reason(end: WayEnd) -> Option<Reason> {
    match end {
        WayEnd::Dropped(reason) => Some(reason),
        WayEnd::Outside(_) => Some(Reason::NoListener),
        WayEnd::Arrived(..) | WayEnd::Beyond => None,
    }
}

/// The appliances of a way and how certain its rules are.
#[derive(Clone, Debug)]
struct Outline<'a> {
    snapshot: &'a Snapshot,
    hops: Hops,
    /// The appliance that has the packet and has not yet forwarded it.
    reached: Option<Hop>,
    certainty: Certainty,
    user_route: Option<RuleId>,
    last_route: Option<RuleId>,
    whole_internet: bool,
}

impl<'a> Outline<'a> {
    fn new(snapshot: &'a Snapshot) -> Outline<'a> {
        Outline {
            snapshot,
            hops: SmallVec::new(),
            reached: None,
            certainty: Certainty::Documented,
            user_route: None,
            last_route: None,
            whole_internet: false,
        }
    }
}

impl Trace for Outline<'_> {
    fn step(&mut self, _build: impl FnOnce() -> Step) {}

    fn reach(&mut self, hop: Hop) {
        self.reached = Some(hop);
    }

    fn pass(&mut self, hop: Hop) {
        self.reached = None;
        if self.hops.last() != Some(&hop) {
            self.hops.push(hop);
        }
    }

    fn whole_internet(&self) -> bool {
        self.whole_internet
    }

    fn steered(&mut self, route: RuleId, by_user: bool) {
        self.last_route = Some(route);
        if by_user && self.user_route.is_none() {
            self.user_route = Some(route);
        }
    }

    fn rests_on(&mut self, rule: RuleId) {
        if let Some(info) = self.snapshot.rule(rule) {
            self.certainty = less_certain(self.certainty, info.reference.certainty);
        }
    }
}

impl<'a> AsRef<Outline<'a>> for Outline<'a> {
    fn as_ref(&self) -> &Outline<'a> {
        self
    }
}

/// A way with every step in words.
#[derive(Clone, Debug)]
struct Explained<'a> {
    outline: Outline<'a>,
    steps: Vec<Step>,
}

impl Trace for Explained<'_> {
    fn step(&mut self, build: impl FnOnce() -> Step) {
        self.steps.push(build());
    }

    fn reach(&mut self, hop: Hop) {
        self.outline.reach(hop);
    }

    fn pass(&mut self, hop: Hop) {
        self.outline.pass(hop);
    }

    fn steered(&mut self, route: RuleId, by_user: bool) {
        self.outline.steered(route, by_user);
    }

    fn rests_on(&mut self, rule: RuleId) {
        self.outline.rests_on(rule);
    }
}

impl<'a> AsRef<Outline<'a>> for Explained<'a> {
    fn as_ref(&self) -> &Outline<'a> {
        &self.outline
    }
}

fn less_certain(one: Certainty, other: Certainty) -> Certainty {
    let rank = |certainty: Certainty| match certainty {
        Certainty::Documented => 0,
        Certainty::Observed => 1,
        Certainty::Inferred => 2,
        Certainty::Disputed => 3,
    };
    if rank(other) > rank(one) { other } else { one }
}

fn probe(protocol: ProbeProtocol, source: IpAddr, destination: IpAddr, port: Option<u16>) -> PacketMeta {
    let v4 = source.is_ipv4();
    let (number, tcp_flags, icmp) = match protocol {
        ProbeProtocol::Tcp => (Protocol::TCP, TcpFlags(TcpFlags::SYN), None),
        ProbeProtocol::Udp => (Protocol::UDP, TcpFlags::default(), None),
        ProbeProtocol::Icmp if v4 => (Protocol::ICMP, TcpFlags::default(), Some((8, 0))),
        ProbeProtocol::Icmp => (Protocol::ICMPV6, TcpFlags::default(), Some((128, 0))),
    };
    let tuple = FiveTuple {
        protocol: number,
        source,
        destination,
        source_port: PROBE_PORT,
        destination_port: port.unwrap_or(PROBE_PORT),
    };
    PacketMeta { tuple, tcp_flags, icmp, embedded: None, ttl: 64, length: PROBE_LENGTH }
}

fn answer(probe: &PacketMeta, arrived: FiveTuple) -> PacketMeta {
    let icmp = probe.icmp.map(|(kind, _)| if kind == 8 { (0, 0) } else { (129, 0) });
    let flags = if probe.tuple.protocol == Protocol::TCP { TcpFlags::SYN | TcpFlags::ACK } else { 0 };
    PacketMeta { tuple: arrived.reversed(), tcp_flags: TcpFlags(flags), icmp, ..*probe }
}
