//! Edits of packets in place: TTL, addresses and ports, and the MSS option, with every checksum patched. They
//! serve single packets and super-packets alike, and reach into the packet that an ICMP error carries.

use std::net::IpAddr;

use crate::action::Action;
use crate::checksum::{ChecksumState, Delta, field_offset};
use crate::packet::{Headers, IpVersion};
use crate::reason::Reason;
use crate::tuple::{FiveTuple, Protocol, TcpFlags};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Side {
    fn opposite(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}

/// Applies an action that edits the packet; any other action does nothing. Fails with
/// [`Reason::TtlExceeded`] where the TTL ends.
pub fn apply(
    action: &Action,
    packet: &mut [u8],
    headers: &mut Headers,
    checksum: ChecksumState,
) -> Result<(), Reason> {
    match *action {
        Action::DecrementTtl { .. } if !decrement_ttl(packet, headers) => return Err(Reason::TtlExceeded),
        Action::RewriteSource { address, port } => rewrite_source(packet, headers, address, port, checksum),
        Action::RewriteDestination { address, port } => {
            rewrite_destination(packet, headers, address, port, checksum);
        }
        Action::ClampMss { ipv4, ipv6 } => {
            clamp_mss(packet, headers, ipv4, ipv6, checksum);
        }
        _ => {}
    }
    Ok(())
}

/// Decrements TTL or hop limit. False, and the packet untouched, where it would reach zero (RFC 1812, 5.3.1;
/// RFC 8200, 3).
pub fn decrement_ttl(packet: &mut [u8], headers: &mut Headers) -> bool {
    if headers.meta.ttl <= 1 {
        return false;
    }
    headers.meta.ttl -= 1;
    match headers.version {
        IpVersion::V6 => packet[7] = headers.meta.ttl,
        IpVersion::V4 => {
            let before = [packet[8], packet[9]];
            packet[8] = headers.meta.ttl;
            let mut delta = Delta::default();
            delta.replace(&before, &packet[8..10]);
            delta.patch(packet, 10, ChecksumState::Complete);
        }
    }
    true
}

/// Replaces the source address and, where given, the source port or ICMP identifier. In an ICMP error the
/// destination of the packet inside is replaced likewise: it was the translated flow's other direction.
/// An address of the other family changes nothing.
pub fn rewrite_source(
    packet: &mut [u8],
    headers: &mut Headers,
    address: IpAddr,
    port: Option<u16>,
    checksum: ChecksumState,
) {
    rewrite(packet, headers, Side::Source, (address, port), checksum);
}

/// Replaces the destination, as [`rewrite_source`] does the source; in an ICMP error the source of the packet
/// inside.
pub fn rewrite_destination(
    packet: &mut [u8],
    headers: &mut Headers,
    address: IpAddr,
    port: Option<u16>,
    checksum: ChecksumState,
) {
    rewrite(packet, headers, Side::Destination, (address, port), checksum);
}

fn rewrite(
    packet: &mut [u8],
    headers: &mut Headers,
    side: Side,
    new: (IpAddr, Option<u16>),
    checksum: ChecksumState,
) {
    if new.0.is_ipv4() != (headers.version == IpVersion::V4) {
        return;
    }
    let addresses = replace_address(packet, 0, side, new.0);
    if headers.is_icmp_error() {
        let mut delta = match headers.version {
            IpVersion::V4 => Delta::default(),
            IpVersion::V6 => addresses,
        };
        rewrite_embedded(packet, headers, side.opposite(), new, &mut delta);
        delta.patch(packet, headers.l4() + 2, checksum);
        set(&mut headers.meta.tuple, side, (new.0, None));
        return;
    }
    if !headers.is_later_fragment() {
        let protocol = headers.protocol();
        let kind = headers.meta.icmp.map(|(kind, _)| kind);
        let ports = match new.1 {
            Some(port) => replace_port(packet, headers.l4(), (protocol, kind), side, port),
            None => Delta::default(),
        };
        patch_transport(packet, headers, addresses, ports, checksum);
    }
    let has_port = has_port(headers.protocol(), headers.meta.icmp.map(|(kind, _)| kind));
    let port = new.1.filter(|_| has_port && !headers.is_later_fragment());
    set(&mut headers.meta.tuple, side, (new.0, port));
}

fn set(tuple: &mut FiveTuple, side: Side, (address, port): (IpAddr, Option<u16>)) {
    match side {
        Side::Source => tuple.source = address,
        Side::Destination => tuple.destination = address,
    }
    let Some(port) = port else { return };
    // An ICMP identifier stands on both sides.
    if side == Side::Source || tuple.protocol.is_icmp() {
        tuple.source_port = port;
    }
    if side == Side::Destination || tuple.protocol.is_icmp() {
        tuple.destination_port = port;
    }
}

/// Replaces an address of the IP header at `start`, IPv4's header checksum included. The change of the
/// address is returned, for the transport checksum.
fn replace_address(packet: &mut [u8], start: usize, side: Side, address: IpAddr) -> Delta {
    let mut delta = Delta::default();
    match address {
        IpAddr::V4(v4) => {
            let at = start + if side == Side::Source { 12 } else { 16 };
            replace(packet, at, &v4.octets(), &mut delta);
            delta.patch(packet, start + 10, ChecksumState::Complete);
        }
        IpAddr::V6(v6) => {
            let at = start + if side == Side::Source { 8 } else { 24 };
            replace(packet, at, &v6.octets(), &mut delta);
        }
    }
    delta
}

fn replace(packet: &mut [u8], at: usize, new: &[u8], delta: &mut Delta) {
    if let Some(field) = packet.get_mut(at..at + new.len()) {
        delta.replace(field, new);
        field.copy_from_slice(new);
    }
}

fn has_port(protocol: Protocol, icmp_kind: Option<u8>) -> bool {
    match protocol {
        Protocol::TCP | Protocol::UDP => true,
        _ => icmp_kind.is_some_and(|kind| crate::packet::has_identifier(protocol, kind)),
    }
}

fn replace_port(
    packet: &mut [u8],
    l4: usize,
    (protocol, icmp_kind): (Protocol, Option<u8>),
    side: Side,
    port: u16,
) -> Delta {
    let mut delta = Delta::default();
    if !has_port(protocol, icmp_kind) {
        return delta;
    }
    let at = match (protocol.is_icmp(), side) {
        (true, _) => l4 + 4,
        (false, Side::Source) => l4,
        (false, Side::Destination) => l4 + 2,
    };
    replace(packet, at, &port.to_be_bytes(), &mut delta);
    delta
}

/// Whether addresses are part of this protocol's checksum.
fn has_pseudo_header(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::ICMPV6)
}

fn patch_transport(
    packet: &mut [u8],
    headers: &Headers,
    addresses: Delta,
    ports: Delta,
    checksum: ChecksumState,
) {
    let protocol = headers.protocol();
    let Some(field) = field_offset(protocol, headers.version) else { return };
    let at = headers.l4() + field;
    let mut delta = Delta::default();
    if has_pseudo_header(protocol) {
        delta.combine(addresses);
    }
    if checksum == ChecksumState::Complete {
        delta.combine(ports);
        if protocol == Protocol::UDP && packet.get(at..at + 2) == Some(&[0, 0]) {
            // RFC 768: the sender made no checksum.
            return;
        }
    }
    delta.patch(packet, at, checksum);
    if protocol == Protocol::UDP && checksum == ChecksumState::Complete && packet[at..at + 2] == [0, 0] {
        packet[at..at + 2].fill(0xff);
    }
}

/// Rewrites the packet inside an ICMP error, as far as it is there, and adds every change to `outer`.
fn rewrite_embedded(
    packet: &mut [u8],
    headers: &mut Headers,
    side: Side,
    (address, port): (IpAddr, Option<u16>),
    outer: &mut Delta,
) {
    let Some(embedded) = &mut headers.embedded else { return };
    if address.is_ipv4() != (embedded.version == IpVersion::V4) {
        return;
    }
    let (start, l4) = (usize::from(embedded.offset), usize::from(embedded.l4_offset));
    let protocol = embedded.tuple.protocol;
    let watched = start..packet.len().min(l4 + 20);
    // Nothing outside these octets changes; at most a header with options and extensions, kept to compare.
    let mut before = [0; 512];
    let Some(before) = before.get_mut(..watched.len()) else { return };
    before.copy_from_slice(&packet[watched.clone()]);

    let addresses = replace_address(packet, start, side, address);
    let kind = protocol.is_icmp().then(|| packet[l4]);
    let ports = match port {
        Some(port) => replace_port(packet, l4, (protocol, kind), side, port),
        None => Delta::default(),
    };
    if let Some(field) = field_offset(protocol, embedded.version) {
        let mut delta = ports;
        if has_pseudo_header(protocol) {
            delta.combine(addresses);
        }
        let at = l4 + field;
        let absent = protocol == Protocol::UDP && packet.get(at..at + 2) == Some(&[0, 0]);
        if !absent {
            delta.patch(packet, at, ChecksumState::Complete);
        }
    }
    let even = watched.len() & !1;
    outer.replace(&before[..even], &packet[watched.start..watched.start + even]);
    let port = port.filter(|_| has_port(protocol, kind));
    set(&mut embedded.tuple, side, (address, port));
    headers.meta.embedded = Some(embedded.tuple);
}

/// Lowers the MSS option of a SYN segment to at most the bound of its family. True where it was higher.
pub fn clamp_mss(
    packet: &mut [u8],
    headers: &Headers,
    ipv4: u16,
    ipv6: u16,
    checksum: ChecksumState,
) -> bool {
    let syn = headers.protocol() == Protocol::TCP && headers.meta.tcp_flags.0 & TcpFlags::SYN != 0;
    if !syn || headers.is_later_fragment() {
        return false;
    }
    let bound = if headers.version == IpVersion::V4 { ipv4 } else { ipv6 };
    let (l4, end) = (headers.l4(), headers.payload());
    let Some(at) = find_mss(&packet[..end], l4 + 20) else { return false };
    if u16::from_be_bytes([packet[at], packet[at + 1]]) <= bound {
        return false;
    }
    // The option may lie at an odd octet: the change is taken over whole words.
    let start = at - (at - l4) % 2;
    let words = start..(start + 4).min(end);
    let mut before = [0; 4];
    let before = &mut before[..words.len()];
    before.copy_from_slice(&packet[words.clone()]);
    packet[at..at + 2].copy_from_slice(&bound.to_be_bytes());
    if checksum == ChecksumState::Complete {
        let mut delta = Delta::default();
        delta.replace(before, &packet[words]);
        delta.patch(packet, l4 + 16, ChecksumState::Complete);
    }
    true
}

/// Where the value of the MSS option lies (RFC 9293, 3.2).
fn find_mss(header: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *header.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if kind == 2 && length == 4 {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests;
