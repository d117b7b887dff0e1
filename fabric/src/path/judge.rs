//! Questions about many packets: verdict and way of any packet and its answer, and the matrix of all pairs.

use std::net::IpAddr;

use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, TcpFlags};

use super::{Endpoint, Outcome, Outline, PROBE_LENGTH, exchange_of, exchange_outward, outcome};
use crate::snapshot::Snapshot;

/// The first packet of a flow: a SYN, a datagram, an echo request, or a packet of a protocol without ports. An echo has one
/// identifier, its source port here, which stands on both sides.
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
    let destination_port = if icmp.is_some() { source_port } else { destination_port };
    let tuple = FiveTuple { protocol, source, destination, source_port, destination_port };
    PacketMeta { tuple, tcp_flags, icmp, embedded: None, ttl: 64, length: PROBE_LENGTH }
}

/// Judges a first packet that enters by `ingress`, and the answer to it. One from the internet edge has its answer when
/// that leaves for the Internet again, whether or not the lab simulates a host with its source address.
pub fn judge(snapshot: &Snapshot, ingress: PortId, packet: &PacketMeta) -> Outcome {
    exchange_of(snapshot, ingress, *packet, || Outline::new(snapshot)).outcome(snapshot)
}

/// The same of a packet for the Internet: somebody is taken to answer at every address for which it leaves by the internet
/// edge, whether or not the lab simulates a host there ([`Outcome::left`] says so).
pub fn judge_outward(snapshot: &Snapshot, ingress: PortId, packet: &PacketMeta) -> Outcome {
    let outline = || Outline { whole_internet: true, ..Outline::new(snapshot) };
    exchange_outward(snapshot, ingress, *packet, outline).outcome(snapshot)
}

/// What a matrix says of one pair.
#[derive(Clone, Debug, PartialEq)]
pub struct PairReport {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// Verdict and way.
    pub outcome: Outcome,
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
    let mut reports = Vec::with_capacity(ends.len() * ends.len());
    for from in &ends {
        let row = matrix_row(snapshot, &ends, from, protocol, port);
        reports.extend(ends.iter().zip(row).filter_map(|(to, outcome)| {
            Some(PairReport { from: from.name.clone(), to: to.name.clone(), outcome: outcome? })
        }));
    }
    reports
}

/// What one of the `ends` gets from each of them, in their order: nothing of pairs that are left out, as of itself.
pub fn matrix_row(
    snapshot: &Snapshot,
    ends: &[Endpoint],
    from: &Endpoint,
    protocol: ProbeProtocol,
    port: Option<u16>,
) -> impl Iterator<Item = Option<Outcome>> {
    let edge = snapshot.internet_edge();
    ends.iter().map(move |to| {
        let outside = from.port == edge && to.port == edge;
        let is_pair = from.name != to.name && !outside;
        is_pair.then(|| outcome(snapshot, from, to, protocol, port).ok()).flatten()
    })
}
