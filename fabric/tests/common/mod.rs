//! Small topologies and packets for tests of decisions.
#![allow(dead_code, reason = "each test file uses its own part")]

use vnet_config::Topology;
use vnet_dataplane::{FiveTuple, PacketMeta, PortId, Protocol, Reason, TcpFlags};
use vnet_fabric::effective::effective_routes;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Decision, NoTrace, SessionOpen, Verdict, converge, decide};

pub(crate) fn topology(text: &str) -> Topology {
    match vnet_config::load(text, "test.yaml", None) {
        Ok(loaded) => loaded.topology,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

pub(crate) fn lab(text: &str) -> Snapshot {
    converge(&topology(text)).1
}

pub(crate) fn port(snapshot: &Snapshot, name: &str) -> PortId {
    snapshot.port_by_name(name).unwrap_or_else(|| panic!("no port {name}")).id
}

pub(crate) fn packet(protocol: Protocol, source: &str, destination: &str, port: u16) -> PacketMeta {
    let icmp = match protocol {
        Protocol::ICMP => Some((8, 0)),
        Protocol::ICMPV6 => Some((128, 0)),
        _ => None,
    };
    let tcp_flags = TcpFlags(if protocol == Protocol::TCP { TcpFlags::SYN } else { 0 });
    let source_port = if icmp.is_some() { port } else { 40_000 };
    let tuple = FiveTuple {
        protocol,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        source_port,
        destination_port: port,
    };
    PacketMeta { tuple, tcp_flags, icmp, embedded: None, ttl: 64, length: 60 }
}

/// The packet that answers: SYN and ACK, or an echo reply.
pub(crate) fn answer(packet: &PacketMeta) -> PacketMeta {
    let tcp_flags =
        TcpFlags(if packet.tuple.protocol == Protocol::TCP { TcpFlags::SYN | TcpFlags::ACK } else { 0 });
    let icmp = packet.icmp.map(|(kind, _)| if kind == 8 { (0, 0) } else { (129, 0) });
    PacketMeta { tuple: packet.tuple.reversed(), tcp_flags, icmp, ..*packet }
}

/// A time-exceeded error from `router` about a packet.
pub(crate) fn error_about(packet: &PacketMeta, router: &str) -> PacketMeta {
    let mut error = *packet;
    error.tuple = FiveTuple {
        protocol: Protocol::ICMP,
        source: router.parse().unwrap(),
        destination: packet.tuple.source,
        source_port: 0,
        destination_port: 0,
    };
    error.tcp_flags = TcpFlags::default();
    error.icmp = Some((11, 0));
    error.embedded = Some(packet.tuple);
    error
}

pub(crate) fn send(snapshot: &Snapshot, from: &str, packet: &PacketMeta) -> Decision {
    decide(snapshot, &Vec::new(), port(snapshot, from), packet, &mut NoTrace)
}

pub(crate) fn send_with(
    snapshot: &Snapshot,
    sessions: &Vec<SessionOpen>,
    from: &str,
    packet: &PacketMeta,
) -> Decision {
    decide(snapshot, sessions, port(snapshot, from), packet, &mut NoTrace)
}

pub(crate) fn delivered(snapshot: &Snapshot, decision: &Decision) -> String {
    match decision.verdict {
        Verdict::Deliver(port) => snapshot.port(port).unwrap().name.to_string(),
        other => panic!("not delivered: {other:?}"),
    }
}

pub(crate) fn dropped(decision: &Decision) -> Reason {
    match decision.verdict {
        Verdict::Drop(reason) => reason,
        other => panic!("not dropped: {other:?}"),
    }
}

/// The id of the Azure rule that decided.
pub(crate) fn azure_rule(snapshot: &Snapshot, decision: &Decision) -> String {
    let rule = decision.decided_by.and_then(|rule| snapshot.rule(rule)).expect("a rule decided");
    rule.reference.azure_rule.clone()
}

/// Effective routes as lines: `Default Active 10.0.0.0/16 VnetLocal`.
pub(crate) fn routes(snapshot: &Snapshot, target: &str) -> Vec<String> {
    let rows = effective_routes(snapshot, target).unwrap().value;
    let line = |row: vnet_fabric::effective::EffectiveRoute| {
        format!(
            "{} {} {} {} {}",
            row.source,
            row.state,
            row.address_prefix[0],
            row.next_hop_type,
            row.next_hop_ip_address.join(",")
        )
        .trim_end()
        .to_owned()
    };
    rows.into_iter().map(line).collect()
}

/// Two peered networks with a machine each, `a` 10.0.0.4 and `b` 10.1.0.4; the arguments are the halves' flags.
pub(crate) fn pair(a_flags: &str, b_flags: &str) -> String {
    format!(
        "
name: pair
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.0.0/24}}, peerings: {{b: {a_flags}}}}}
  b: {{addressSpace: [10.1.0.0/16], subnets: {{s: 10.1.0.0/24}}, peerings: {{a: {b_flags}}}}}
virtualMachines:
  a1: {{subnet: a/s}}
  b1: {{subnet: b/s}}
"
    )
}
