//! What a decision and a flow look at of a packet.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An IP protocol number (IANA).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Internet Control Message Protocol (RFC 792).
    pub const ICMP: Protocol = Protocol(1);
    /// IP in IP (RFC 2003); Azure's fabric does not carry it.
    pub const IPIP: Protocol = Protocol(4);
    /// Transmission Control Protocol (RFC 9293).
    pub const TCP: Protocol = Protocol(6);
    /// User Datagram Protocol (RFC 768).
    pub const UDP: Protocol = Protocol(17);
    /// Generic Routing Encapsulation (RFC 2784); Azure's fabric does not carry it.
    pub const GRE: Protocol = Protocol(47);
    /// Encapsulating Security Payload (RFC 4303).
    pub const ESP: Protocol = Protocol(50);
    /// Authentication Header (RFC 4302).
    pub const AH: Protocol = Protocol(51);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Protocol = Protocol(58);

    /// ICMP of either family.
    pub fn is_icmp(self) -> bool {
        self == Protocol::ICMP || self == Protocol::ICMPV6
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::ICMPV6 => f.write_str("icmpv6"),
            Protocol::ESP => f.write_str("esp"),
            Protocol::AH => f.write_str("ah"),
            Protocol(number) => write!(f, "proto-{number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// TCP's flag octet (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// A connection's first segment: SYN without ACK.
    pub fn opens(self) -> bool {
        self.0 & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN
    }

    /// Carries FIN or RST.
    pub fn closes(self) -> bool {
        self.0 & (TcpFlags::FIN | TcpFlags::RST) != 0
    }
}

/// Protocol, addresses and ports. For ICMP echo both ports are the identifier, so that a reply's tuple is
/// the request's reversed; for other protocols without ports both are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FiveTuple {
    /// IP protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Destination address; always of the source's family.
    pub destination: IpAddr,
    /// Source port or ICMP identifier.
    pub source_port: u16,
    /// Destination port or ICMP identifier.
    pub destination_port: u16,
}

impl FiveTuple {
    /// The tuple of the opposite direction.
    pub fn reversed(self) -> FiveTuple {
        FiveTuple {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FiveTuple { protocol, source, destination, source_port, destination_port } = self;
        if protocol.is_icmp() {
            return write!(f, "{protocol} {source} -> {destination}");
        }
        let side = |f: &mut fmt::Formatter<'_>, address: &IpAddr, port: u16| match address {
            IpAddr::V4(v4) => write!(f, "{v4}:{port}"),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{port}"),
        };
        write!(f, "{protocol} ")?;
        side(f, source, *source_port)?;
        f.write_str(" -> ")?;
        side(f, destination, *destination_port)
    }
}

/// What the slow path knows of a packet: enough for every rule, nothing of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMeta {
    /// The packet's own tuple; for an ICMP error the tuple is (ICMP, addresses, 0, 0).
    pub tuple: FiveTuple,
    /// Zero where the protocol is not TCP.
    pub tcp_flags: TcpFlags,
    /// ICMP type and code, for ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// For an ICMP error: the tuple of the packet that it complains about, as embedded.
    pub embedded: Option<FiveTuple>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Length of the IP packet in bytes, headers included; a super-packet's whole length.
    pub length: u32,
}

impl PacketMeta {
    /// A packet that may open a session: TCP with SYN and without ACK, an ICMP echo request, anything else
    /// but ICMP that asks for nothing (replies, errors).
    pub fn opens(&self) -> bool {
        match self.tuple.protocol {
            Protocol::TCP => self.tcp_flags.opens(),
            Protocol::ICMP => matches!(self.icmp, Some((8 | 13, _))),
            Protocol::ICMPV6 => matches!(self.icmp, Some((128, _))),
            _ => true,
        }
    }
}
