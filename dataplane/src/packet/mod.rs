//! Checked views of packet headers: IPv4 (RFC 791) and IPv6 (RFC 8200) with TCP, UDP, ICMP and what ICMP
//! errors embed.
//!
//! No input panics: whatever does not hold is [`Malformed`]. Offsets that a [`Headers`] gives lie within the
//! packet that it was parsed from.

mod embedded;
mod ipv4;
mod ipv6;
mod transport;

use std::net::IpAddr;

use crate::reason::Reason;
use crate::tuple::{FiveTuple, PacketMeta, Protocol};

pub use embedded::Embedded;
pub(crate) use transport::has_identifier;

/// Octets of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Octets of an IPv6 header without extensions.
pub const IPV6_HEADER_LEN: usize = 40;
/// Octets of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;
/// Octets of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// Octets of an ICMP or ICMPv6 header, the identifier or the unused word included.
pub const ICMP_HEADER_LEN: usize = 8;
/// At most this many IPv6 extension headers are followed.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// What is wrong with a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header or the length that it states goes beyond the buffer.
    #[error("the packet ends within its headers")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("the IP version is neither 4 nor 6")]
    Version,
    /// A length field contradicts another one.
    #[error("a length field contradicts the packet")]
    Length,
    /// A multicast or broadcast address as source (RFC 1122, 3.2.1.3; RFC 4291, 2.7).
    #[error("the source address is a multicast or broadcast address")]
    Source,
    /// Extension headers out of order or more than [`EXTENSION_HEADERS_MAX`].
    #[error("the chain of IPv6 extension headers is broken or too long")]
    Extensions,
    /// A fragment that ends beyond 65,535 octets, is no multiple of eight, or is too short for its transport header.
    #[error("the fragment is impossible")]
    Fragment,
}

impl From<Malformed> for Reason {
    fn from(_: Malformed) -> Reason {
        Reason::Malformed
    }
}

/// The family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where in a fragmented packet a fragment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented; an IPv6 atomic fragment (RFC 6946) counts as such.
    Whole,
    /// The one with offset 0: it has the ports.
    First {
        /// Identification.
        id: u32,
    },
    /// Any other: it has no ports.
    Later {
        /// Identification.
        id: u32,
        /// Offset of its payload, in octets.
        offset: u16,
        /// The last one of its packet.
        last: bool,
    },
}

/// What a packet's headers say and where they lie. Offsets count from the packet's first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Tuple, flags, TTL and length: what a decision looks at.
    pub meta: PacketMeta,
    /// Family.
    pub version: IpVersion,
    /// Where the transport header begins; for a later fragment, where its payload begins.
    pub l4_offset: u16,
    /// Where the transport payload begins; equals `l4_offset` for a later fragment and for protocols that
    /// are not looked into.
    pub payload_offset: u16,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// IPv4's DF bit; true for IPv6, which is never fragmented on the way.
    pub dont_fragment: bool,
    /// For an ICMP error: the packet that it complains about.
    pub embedded: Option<Embedded>,
}

impl Headers {
    /// Reads the headers of the IP packet at the start of `bytes`. Bytes after the packet's own length are
    /// not looked at. IPv4's header checksum is not verified: see [`Headers::ipv4_checksum_holds`].
    pub fn parse(bytes: &[u8]) -> Result<Headers, Malformed> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => ipv4::parse(bytes),
            Some(6) => ipv6::parse(bytes),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    /// The packet's tuple, short for `meta.tuple`.
    pub fn tuple(&self) -> &FiveTuple {
        &self.meta.tuple
    }

    /// Protocol of the transport header.
    pub fn protocol(&self) -> Protocol {
        self.meta.tuple.protocol
    }

    /// The packet's length in octets, headers included.
    pub fn len(&self) -> usize {
        self.meta.length as usize
    }

    /// Never true: a packet has headers.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// `l4_offset` as an index.
    pub fn l4(&self) -> usize {
        usize::from(self.l4_offset)
    }

    /// `payload_offset` as an index.
    pub fn payload(&self) -> usize {
        usize::from(self.payload_offset)
    }

    /// The destination is a multicast address or IPv4's limited broadcast.
    pub fn is_multicast(&self) -> bool {
        is_multicast(self.meta.tuple.destination)
    }

    /// A fragment, the first one included.
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::Whole
    }

    /// A fragment without ports.
    pub fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later { .. })
    }

    /// An ICMP or ICMPv6 message about another packet.
    pub fn is_icmp_error(&self) -> bool {
        transport::is_error(self.protocol(), self.meta.icmp)
    }

    /// What a host says to its own link unasked, and what no router forwards: router and neighbour discovery
    /// (RFC 4861), multicast listener reports (RFC 3810), IGMP (RFC 3376), and whatever else goes to a
    /// link-local multicast group. Dropping it means nothing.
    pub fn is_link_noise(&self) -> bool {
        let link_group = match self.meta.tuple.destination {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.is_multicast() && v6.octets()[1] & 0x0f <= 2,
        };
        link_group
            || self.protocol() == Protocol(2)
            || (self.protocol() == Protocol::ICMPV6 && matches!(self.meta.icmp, Some((130..=137 | 143, _))))
    }

    /// Whether IPv4's header checksum is right; true for IPv6, which has none. `bytes` is the packet that
    /// this was parsed from.
    pub fn ipv4_checksum_holds(&self, bytes: &[u8]) -> bool {
        match self.version {
            IpVersion::V4 => {
                let end = usize::from(bytes.first().map_or(0, |first| first & 0x0f)) * 4;
                bytes
                    .get(..end)
                    .is_some_and(|header| crate::checksum::fold(crate::checksum::sum(header)) == 0xffff)
            }
            IpVersion::V6 => true,
        }
    }
}

pub(crate) fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed::Truncated),
    }
}

#[cfg(test)]
mod tests;
