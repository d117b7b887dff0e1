//! Flows that live: what their next packets meet, by any policy, with the sessions that stand.

use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, TcpFlags};

use super::judge::first_packet;
use super::known::{Known, StandingSessions};
use super::way::{Assumption, Way, WayEnd, follow, follow_legs};
use super::{Exchange, Outcome, Outline};
use crate::snapshot::{PortKind, Snapshot};

/// A conversation that lives, whatever ways and translations its packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// Where packets of the side that began it enter the router.
    pub port: PortId,
    /// As they enter.
    pub tuple: FiveTuple,
    /// Where the other side's packets enter, and as what; none where it has sent none that pass.
    pub answers: Option<(PortId, FiveTuple)>,
    /// IP bytes of both directions, each as it entered.
    pub bytes: u64,
}

/// Whose packet is the first to meet a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// The side that began the flow.
    Beginner,
    /// The other one.
    Answerer,
}

/// Judges the next packet of each side of a flow, in this order, with the sessions that stand: what a router decides of
/// them where this policy has just come into force. A security group's session lets them pass, a firewall judges its own
/// anew, a translation keeps its binding; without a session a packet is one in the middle of a connection.
pub fn judge_live(
    snapshot: &Snapshot,
    sessions: &StandingSessions,
    flow: &LiveFlow,
    first: Sends,
) -> Outcome {
    let mut known = Known::new(sessions);
    let new = || Outline::new(snapshot);
    let mut send = |port, packet| {
        let mut outline = new();
        let way = follow(snapshot, &mut known, port, packet, &mut outline);
        (way, outline)
    };
    let asked = later_packet(flow.tuple, Sends::Beginner);
    let answer = flow.answers.map(|(port, tuple)| (port, later_packet(tuple, Sends::Answerer)));
    let (forward, reverse) = match (first, answer) {
        (Sends::Answerer, Some((port, packet))) => {
            let reverse = send(port, packet);
            (send(flow.port, asked), Some(reverse))
        }
        (_, answer) => {
            let forward = send(flow.port, asked);
            (forward, answer.map(|(port, packet)| send(port, packet)))
        }
    };
    let answers_by = flow.answers.map(|(port, _)| port);
    let reverse = reverse.filter(|_| !leaves_by_other_tunnel(snapshot, &forward.0, answers_by));
    Exchange { ingress: flow.port, edge: snapshot.edge, asked: flow.tuple, forward, reverse }
        .outcome(snapshot)
}

/// The same of the first decision about the packet of the side that began it alone: where a machine on the way translates by
/// rules of its own, no more can be told.
pub fn judge_leg(snapshot: &Snapshot, sessions: &StandingSessions, flow: &LiveFlow) -> Outcome {
    let mut outline = Outline::new(snapshot);
    let packet = later_packet(flow.tuple, Sends::Beginner);
    let way = follow_legs(1, snapshot, &mut Known::new(sessions), (flow.port, packet), &mut outline);
    let forward = (way, outline);
    Exchange { ingress: flow.port, edge: snapshot.edge, asked: flow.tuple, forward, reverse: None }
        .outcome(snapshot)
}

fn later_packet(tuple: FiveTuple, by: Sends) -> PacketMeta {
    let (from, to) = ((tuple.source, tuple.source_port), (tuple.destination, tuple.destination_port));
    let mut packet = PacketMeta { tuple, ..first_packet(tuple.protocol, from, to) };
    if tuple.protocol == Protocol::TCP {
        packet.tcp_flags = TcpFlags(TcpFlags::ACK);
    }
    if by == Sends::Answerer {
        // An echo's reply.
        packet.icmp = packet.icmp.map(|(kind, code)| (if kind == 8 { 0 } else { 129 }, code));
    }
    packet
}

/// Whether packets go to a user's device by another tunnel than the one by which its answers came: what the device will do
/// with them is not known.
fn leaves_by_other_tunnel(snapshot: &Snapshot, forward: &Way, answers_by: Option<PortId>) -> bool {
    let came_by = answers_by.and_then(|port| snapshot.port(port)).map(|port| &port.kind);
    let Some(PortKind::Tunnel(came_by)) = came_by else { return false };
    forward.end == WayEnd::Beyond
        && forward.assumptions.iter().any(|one| matches!(one, Assumption::Device(by) if by != came_by))
}
