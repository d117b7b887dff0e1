//! Prediction: the same decisions that a packet gets, from end to end and back, with every step explained.

mod endpoint;
mod judge;
mod way;

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, Reason, TcpFlags};

pub use endpoint::Endpoint;
pub use judge::{Judgement, PairReport, ends, first_packet, judge, judge_pair, matrix};

use crate::decision::SessionOpen;
use crate::effective::QuestionError;
use crate::snapshot::Snapshot;
use crate::trace::{Certainty, RuleId, RuleRef, Step};
use way::{Way, WayEnd, follow, via};

/// The source port, or ICMP identifier, that a predicted probe uses.
const PROBE_PORT: u16 = 49_152;
/// Length of a predicted probe, in bytes.
const PROBE_LENGTH: u32 = 60;

/// Whether a probe gets its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathVerdict {
    /// It arrives, and its answer too.
    Allow,
    /// It is dropped, or its answer is.
    Deny,
}

/// What becomes of a probe and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// The protocol.
    pub protocol: ProbeProtocol,
    /// The destination port; with tcp and udp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the probe gets its answer.
    pub verdict: PathVerdict,
    /// Why not: the reason of the drop on the way out, else of that on the way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided: of a drop its cause, else the firewall's or security group's rule that let it pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// All rules of firewalls and security groups on the way out, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Appliances on the way out, in order.
    pub via: Vec<String>,
    /// Appliances on the way back, in order.
    pub via_reverse: Vec<String>,
    /// Whether the answer takes another way than the probe.
    pub asymmetric: bool,
    /// The source address that the receiver sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_seen_as: Option<IpAddr>,
    /// Round trip that the topology's latency makes, in milliseconds; without queues and processing.
    pub rtt_ms: f64,
    /// The least certain of the rules that it rests on.
    pub certainty: Certainty,
    /// What was assumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<String>,
    /// The way out.
    pub forward: Leg,
    /// The way back; none where the probe did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Leg>,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// Whether the packet arrives.
    pub arrives: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// Every step.
    pub steps: Vec<Step>,
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
    let (source, destination) = endpoint::common_addresses(from, to)?;
    let ingress = from.port.ok_or_else(|| crate::effective::unknown(snapshot, &from.name))?;
    let port = (protocol != ProbeProtocol::Icmp).then(|| port.unwrap_or(80));
    // A machine of the lab is reached from the Internet by its public address.
    let destination =
        if Some(ingress) == snapshot.edge { public_of(snapshot, destination) } else { destination };
    let probe = probe(protocol, source, destination, port);
    let mut sessions: Vec<SessionOpen> = Vec::new();
    let forward: Way = follow(snapshot, &mut sessions, ingress, probe);
    let reverse = match forward.end {
        WayEnd::Arrived(at, tuple) => Some(follow(snapshot, &mut sessions, at, answer(&probe, tuple))),
        WayEnd::Beyond | WayEnd::Outside(_) | WayEnd::Dropped(_) => None,
    };
    Ok(report(snapshot, (from, to), (protocol, port), ingress, forward, reverse))
}

fn public_of(snapshot: &Snapshot, address: IpAddr) -> IpAddr {
    let all = snapshot.nics.iter().flat_map(|nic| nic.public.iter());
    all.into_iter().find(|(private, _)| *private == address).map_or(address, |(_, public)| *public)
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

fn report(
    snapshot: &Snapshot,
    (from, to): (&Endpoint, &Endpoint),
    (protocol, port): (ProbeProtocol, Option<u16>),
    ingress: PortId,
    forward: Way,
    reverse: Option<Way>,
) -> PathReport {
    let Outcome { out, back, decided } = outcome(ingress, &forward, reverse.as_ref());
    let failed = out.or(back);
    let via_out = via(snapshot, &forward.steps);
    let via_back = reverse.as_ref().map(|way| via(snapshot, &way.steps)).unwrap_or_default();
    let mirrored: Vec<String> = via_back.iter().rev().cloned().collect();
    let legs = || std::iter::once(&forward).chain(&reverse);
    let source_seen_as = if let WayEnd::Arrived(_, tuple) = forward.end { Some(tuple.source) } else { None };
    let delay_ns: u64 = legs().map(|way| way.delay_ns).sum();
    PathReport {
        from: from.name.clone(),
        to: to.name.clone(),
        protocol,
        port,
        verdict: if failed.is_some() { PathVerdict::Deny } else { PathVerdict::Allow },
        reason: failed.map(|reason| reason.name().to_owned()),
        rule: decided.and_then(|rule| snapshot.rule_ref(rule)),
        rules: rule_names(snapshot, &forward.rules),
        asymmetric: reverse.is_some() && via_out != mirrored,
        via: via_out,
        via_reverse: via_back,
        source_seen_as,
        rtt_ms: delay_ns as f64 / 1e6,
        certainty: least_certain(legs().flat_map(|way| &way.steps)),
        assumptions: assumptions(legs()),
        forward: leg(snapshot, &forward, out),
        reverse: reverse.as_ref().map(|way| leg(snapshot, way, back)),
    }
}

/// Why a packet gets no answer, if so, and what decided.
struct Outcome {
    /// The reason of a drop on the way out.
    out: Option<Reason>,
    /// The reason of a drop on the way back.
    back: Option<Reason>,
    decided: Option<RuleId>,
}

fn outcome<R>(ingress: PortId, forward: &Way<R>, reverse: Option<&Way<R>>) -> Outcome {
    let out = reason(forward.end);
    let back = match reverse.map(|way| way.end) {
        // The answer must come to where the probe left.
        Some(WayEnd::Arrived(at, _)) if at != ingress => Some(Reason::AsymmetricReturn),
        Some(end) => reason(end),
        None => None,
    };
    let decided = if out.is_none() && back.is_some() {
        reverse.and_then(|way| way.decided_by)
    } else {
        forward.decided_by
    };
    Outcome { out, back, decided }
}

fn reason(end: WayEnd) -> Option<Reason> {
    match end {
        WayEnd::Dropped(reason) => Some(reason),
        WayEnd::Outside(_) => Some(Reason::NoListener),
        WayEnd::Arrived(..) | WayEnd::Beyond => None,
    }
}

fn leg(snapshot: &Snapshot, way: &Way, reason: Option<Reason>) -> Leg {
    Leg {
        arrives: reason.is_none(),
        reason: reason.map(|reason| reason.name().to_owned()),
        rule: way.decided_by.and_then(|rule| snapshot.rule_ref(rule)),
        steps: way.steps.clone(),
    }
}

fn rule_names(snapshot: &Snapshot, rules: &[RuleId]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in rules.iter().filter_map(|rule| snapshot.rule_ref(*rule)).map(|rule| rule.name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn assumptions<'a>(ways: impl Iterator<Item = &'a Way>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for assumption in ways.flat_map(|way| &way.assumptions) {
        if !all.contains(assumption) {
            all.push(assumption.clone());
        }
    }
    all
}

fn least_certain<'a>(steps: impl Iterator<Item = &'a Step>) -> Certainty {
    let rank = |certainty: &Certainty| match certainty {
        Certainty::Documented => 0,
        Certainty::Observed => 1,
        Certainty::Inferred => 2,
        Certainty::Disputed => 3,
    };
    steps
        .filter_map(|step| step.rule.as_ref())
        .map(|rule| rule.certainty)
        .max_by_key(rank)
        .unwrap_or_default()
}
