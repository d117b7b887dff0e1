//! What follows the IP header: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443).

use std::net::IpAddr;

use super::{
    Embedded, Fragment, Headers, ICMP_HEADER_LEN, IpVersion, Malformed, TCP_HEADER_LEN, UDP_HEADER_LEN, be16,
};
use crate::tuple::{FiveTuple, PacketMeta, Protocol, TcpFlags};

/// The transport header, before the IP header's fields are added.
pub(super) struct Transport {
    protocol: Protocol,
    l4_offset: usize,
    payload_offset: usize,
    ports: (u16, u16),
    tcp_flags: TcpFlags,
    icmp: Option<(u8, u8)>,
    embedded: Option<Embedded>,
}

impl Transport {
    pub(super) fn into_headers(
        self,
        length: usize,
        version: IpVersion,
        fragment: Fragment,
        dont_fragment: bool,
        (source, destination, ttl): (IpAddr, IpAddr, u8),
    ) -> Headers {
        let offset = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        Headers {
            meta: PacketMeta {
                tuple: FiveTuple {
                    protocol: self.protocol,
                    source,
                    destination,
                    source_port: self.ports.0,
                    destination_port: self.ports.1,
                },
                tcp_flags: self.tcp_flags,
                icmp: self.icmp,
                embedded: self.embedded.map(|embedded| embedded.tuple),
                ttl,
                // A packet is at most 40 + 65,535 octets long.
                length: length as u32,
            },
            version,
            l4_offset: offset(self.l4_offset),
            payload_offset: offset(self.payload_offset),
            fragment,
            dont_fragment,
            embedded: self.embedded,
        }
    }
}

pub(super) fn parse(
    packet: &[u8],
    l4_offset: usize,
    protocol: Protocol,
    fragment: Fragment,
    version: IpVersion,
) -> Result<Transport, Malformed> {
    let mut transport = Transport {
        protocol,
        l4_offset,
        payload_offset: l4_offset,
        ports: (0, 0),
        tcp_flags: TcpFlags::default(),
        icmp: None,
        embedded: None,
    };
    if matches!(fragment, Fragment::Later { .. }) {
        return Ok(transport);
    }
    let segment = packet.get(l4_offset..).ok_or(Malformed::Truncated)?;
    let short = if fragment == Fragment::Whole { Malformed::Truncated } else { Malformed::Fragment };
    match protocol {
        Protocol::TCP => {
            // RFC 1858, 3: a first fragment that hides part of the header is an attack.
            let header = segment.first_chunk::<TCP_HEADER_LEN>().ok_or(short)?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < TCP_HEADER_LEN {
                return Err(Malformed::Length);
            }
            if header_len > segment.len() {
                return Err(short);
            }
            transport.ports = (be16(header, 0)?, be16(header, 2)?);
            transport.tcp_flags = TcpFlags(header[13]);
            transport.payload_offset += header_len;
        }
        Protocol::UDP => {
            let header = segment.first_chunk::<UDP_HEADER_LEN>().ok_or(short)?;
            let length = usize::from(be16(header, 4)?);
            if length < UDP_HEADER_LEN || (fragment == Fragment::Whole && length > segment.len()) {
                return Err(Malformed::Length);
            }
            transport.ports = (be16(header, 0)?, be16(header, 2)?);
            transport.payload_offset += UDP_HEADER_LEN;
        }
        // The other family's ICMP is a protocol like any other.
        Protocol::ICMP if version == IpVersion::V4 => transport.icmp(segment, packet, short)?,
        Protocol::ICMPV6 if version == IpVersion::V6 => transport.icmp(segment, packet, short)?,
        _ => {}
    }
    Ok(transport)
}

impl Transport {
    fn icmp(&mut self, segment: &[u8], packet: &[u8], short: Malformed) -> Result<(), Malformed> {
        let header = segment.first_chunk::<ICMP_HEADER_LEN>().ok_or(short)?;
        self.icmp = Some((header[0], header[1]));
        self.payload_offset += ICMP_HEADER_LEN;
        if has_identifier(self.protocol, header[0]) {
            let identifier = be16(header, 4)?;
            self.ports = (identifier, identifier);
        } else if is_error(self.protocol, self.icmp) {
            self.embedded = Embedded::parse(packet, self.payload_offset);
        }
        Ok(())
    }
}

/// A query or reply whose identifier stands for a port: echo, timestamp, information, address mask.
pub(crate) fn has_identifier(protocol: Protocol, kind: u8) -> bool {
    match protocol {
        Protocol::ICMP => matches!(kind, 0 | 8 | 13..=18),
        Protocol::ICMPV6 => matches!(kind, 128 | 129),
        _ => false,
    }
}

/// A message about another packet: RFC 792 (source quench and redirect too), RFC 4443, 2.1.
pub(super) fn is_error(protocol: Protocol, icmp: Option<(u8, u8)>) -> bool {
    match (protocol, icmp) {
        (Protocol::ICMP, Some((kind, _))) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (Protocol::ICMPV6, Some((kind, _))) => kind < 128,
        _ => false,
    }
}
