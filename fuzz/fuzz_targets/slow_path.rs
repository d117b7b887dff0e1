//! Any packet that enters by any port of a lab with everything in it gets one verdict, its last action says the
//! same, and its explanation changes nothing.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};
use vnet_dataplane::{Action, FiveTuple, PacketMeta, PortId, Protocol, TcpFlags};
use vnet_fabric::decision::NoSessions;
use vnet_fabric::{NoTrace, SessionOpen, Snapshot, Step, Verdict, converge, decide};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let loaded = vnet_config::load(include_str!("../lab.yaml"), "lab.yaml", None).expect("the lab is accepted");
    converge(&loaded.topology).1
});

/// Addresses that mean something in the lab, then any at all.
fn address(bytes: &mut Unstructured<'_>, v4: bool) -> Option<IpAddr> {
    const V4: [&str; 10] = [
        "10.0.1.4", "10.0.2.4", "10.1.0.4", "10.2.0.4", "10.3.0.4", "10.50.0.4", "192.168.1.10", "203.0.113.10",
        "203.0.113.80", "168.63.129.16",
    ];
    const V6: [&str; 3] = ["fd00:1::4", "fd00:3::4", "ff02::1"];
    let known: &[&str] = if v4 { &V4 } else { &V6 };
    if bytes.ratio(7, 8).ok()? {
        return bytes.choose(known).ok()?.parse().ok();
    }
    if v4 { bytes.arbitrary().ok().map(|raw: [u8; 4]| raw.into()) } else { bytes.arbitrary().ok().map(|raw: [u8; 16]| raw.into()) }
}

fn tuple(bytes: &mut Unstructured<'_>) -> Option<FiveTuple> {
    let v4 = bytes.ratio(3, 4).ok()?;
    Some(FiveTuple {
        protocol: Protocol(*bytes.choose(&[1, 6, 17, 58, 47, 4, 50, 51, bytes.peek_bytes(1)?[0]]).ok()?),
        source: address(bytes, v4)?,
        destination: address(bytes, v4)?,
        source_port: bytes.arbitrary().ok()?,
        destination_port: bytes.arbitrary().ok()?,
    })
}

fn question(bytes: &mut Unstructured<'_>) -> Option<(PortId, PacketMeta)> {
    let ports = SNAPSHOT.ports().count();
    let port = PortId(bytes.int_in_range(0..=ports as u32 + 1).ok()?);
    let packet = PacketMeta {
        tuple: tuple(bytes)?,
        tcp_flags: TcpFlags(bytes.arbitrary().ok()?),
        icmp: bytes.arbitrary().ok()?,
        embedded: if bytes.ratio(1, 4).ok()? { tuple(bytes) } else { None },
        ttl: bytes.arbitrary().ok()?,
        length: bytes.arbitrary().ok()?,
    };
    Some((port, packet))
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Unstructured::new(data);
    let mut sessions: Vec<SessionOpen> = Vec::new();
    while let Some((port, packet)) = question(&mut bytes) {
        let decision = decide(&SNAPSHOT, &sessions, port, &packet, &mut NoTrace);
        let same = match (decision.verdict, decision.actions.last()) {
            (Verdict::Deliver(to), Some(Action::Deliver(at) | Action::Proxy(at))) => to == *at,
            (Verdict::Seal(into), Some(Action::Seal(tunnel))) => into == *tunnel,
            (Verdict::Drop(reason), Some(Action::Drop(why))) => reason == *why,
            _ => false,
        };
        assert!(same, "{decision:?}: the last action is not the verdict");
        let mut steps: Vec<Step> = Vec::new();
        let explained = decide(&SNAPSHOT, &sessions, port, &packet, &mut steps);
        assert_eq!(explained.verdict, decision.verdict, "an explanation changed the verdict");
        drop(decide(&SNAPSHOT, &NoSessions, port, &packet, &mut NoTrace));
        sessions.extend(decision.opens);
    }
});
