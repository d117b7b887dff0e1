//! Verdict and way of a packet and its answer without the text of every step: for questions about many packets.

use std::net::IpAddr;

use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, Reason, TcpFlags};

use super::endpoint::{self, Endpoint};
use super::way::{Way, WayEnd, follow, via};
use super::{PROBE_LENGTH, PathVerdict, answer, outcome, probe, public_of};
use crate::decision::SessionOpen;
use crate::effective::QuestionError;
use crate::snapshot::Snapshot;
use crate::trace::{Places, RuleId};

/// What becomes of a packet and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the packet gets its answer.
    pub verdict: PathVerdict,
    /// Why not: the reason of the drop on the way out, else of that on the way back.
    pub reason: Option<Reason>,
    /// What decided: of a drop its cause, else the firewall's or security group's rule that let it pass.
    pub rule: Option<RuleId>,
    /// Appliances on the way out, in order.
    pub via: Vec<String>,
    /// Appliances on the way back, in order.
    pub via_reverse: Vec<String>,
    /// Where the packet arrived, and with what tuple; the way back may have failed nonetheless.
    pub arrived: Option<(PortId, FiveTuple)>,
    /// Whether rules judged the answer anew: on a way that knows no session of its flow.
    pub answer_judged: bool,
}

impl Judgement {
    /// Whether the answer takes another way than the packet.
    pub fn asymmetric(&self) -> bool {
        self.arrived.is_some() && !self.via.iter().eq(self.via_reverse.iter().rev())
    }
}

/// The first packet of a flow: a SYN, a datagram, an echo request, or a packet of a protocol without ports.
pub fn first_packet(
    protocol: Protocol,
    (source, source_port): (IpAddr, u16),
    (destination, destination_port): (IpAddr, u16),
) -> PacketMeta {
    let (tcp_flags, icmp) = match protocol {
        Protocol::TCP => (TcpFlags(TcpFlags::SYN), None),
        Protocol::ICMP => (TcpFlags::default(), Some((8, 0))),
        Protocol::ICMPV6 => (TcpFlags::default(), Some((128, 0))),
        _ => (TcpFlags::default(), None),
    };
    let tuple = FiveTuple { protocol, source, destination, source_port, destination_port };
    PacketMeta { tuple, tcp_flags, icmp, embedded: None, ttl: 64, length: PROBE_LENGTH }
}

/// Judges a packet that enters by `ingress`, and the answer to it. One from the internet edge has its answer when that
/// leaves for the Internet again, whether or not the lab simulates a host with its source address.
pub fn judge(snapshot: &Snapshot, ingress: PortId, packet: &PacketMeta) -> Judgement {
    let mut sessions: Vec<SessionOpen> = Vec::new();
    let forward: Way<Places> = follow(snapshot, &mut sessions, ingress, *packet);
    let reverse: Option<Way<Places>> = match forward.end {
        WayEnd::Arrived(at, tuple) => {
            let mut way = follow(snapshot, &mut sessions, at, answer(packet, tuple));
            if let (WayEnd::Outside(back), Some(edge)) = (way.end, snapshot.edge)
                && ingress == edge
                && back.destination == packet.tuple.source
            {
                way.end = WayEnd::Arrived(edge, back);
            }
            Some(way)
        }
        _ => None,
    };
    let outcome = outcome(ingress, &forward, reverse.as_ref());
    let reason = outcome.out.or(outcome.back);
    Judgement {
        verdict: if reason.is_some() { PathVerdict::Deny } else { PathVerdict::Allow },
        reason,
        rule: outcome.decided,
        via: via(snapshot, &forward.steps),
        via_reverse: reverse.as_ref().map(|way| via(snapshot, &way.steps)).unwrap_or_default(),
        arrived: if let WayEnd::Arrived(port, tuple) = forward.end { Some((port, tuple)) } else { None },
        answer_judged: reverse.is_some_and(|way| !way.rules.is_empty()),
    }
}

/// What a matrix says of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairReport {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// Verdict and way.
    pub judgement: Judgement,
}

/// Every machine of the lab that sends and answers: virtual machines, site hosts and simulated hosts of the Internet, in
/// the order of the file.
pub fn ends(snapshot: &Snapshot) -> Vec<Endpoint> {
    let names = snapshot.machines().chain(snapshot.site_hosts()).chain(snapshot.internet_hosts());
    names.filter_map(|name| Endpoint::resolve(snapshot, name).ok()).collect()
}

/// Every pair of [`ends`]. Pairs without a common address family, and pairs of hosts of the Internet, are left out.
pub fn matrix(snapshot: &Snapshot, protocol: ProbeProtocol, port: Option<u16>) -> Vec<PairReport> {
    let ends = ends(snapshot);
    let edge = snapshot.internet_edge();
    let mut reports = Vec::with_capacity(ends.len() * ends.len());
    for from in &ends {
        for to in &ends {
            let outside = from.port == edge && to.port == edge;
            if from.name != to.name
                && !outside
                && let Ok(judgement) = judge_pair(snapshot, from, to, protocol, port)
            {
                reports.push(PairReport { from: from.name.clone(), to: to.name.clone(), judgement });
            }
        }
    }
    reports
}

/// As [`between`](super::between), without the text.
///
/// # Errors
/// The ends have no address family in common, or nothing holds the sender's address.
pub fn judge_pair(
    snapshot: &Snapshot,
    from: &Endpoint,
    to: &Endpoint,
    protocol: ProbeProtocol,
    port: Option<u16>,
) -> Result<Judgement, QuestionError> {
    let (source, destination) = endpoint::common_addresses(from, to)?;
    let ingress = from.port.ok_or_else(|| crate::effective::unknown(snapshot, &from.name))?;
    let port = (protocol != ProbeProtocol::Icmp).then(|| port.unwrap_or(80));
    let destination =
        if Some(ingress) == snapshot.edge { public_of(snapshot, destination) } else { destination };
    Ok(judge(snapshot, ingress, &probe(protocol, source, destination, port)))
}
