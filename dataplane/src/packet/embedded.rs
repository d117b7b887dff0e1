//! The packet that an ICMP error carries: often cut off after the first octets of its transport header.

use super::{Fragment, IpVersion, be16, ipv4, ipv6, transport};
use crate::tuple::{FiveTuple, Protocol};

/// A packet inside an ICMP error. Its own length fields speak of the packet as it was sent, not of what is
/// left of it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Its tuple.
    pub tuple: FiveTuple,
    /// Family.
    pub version: IpVersion,
    /// Where it begins, in octets from the start of the packet around it.
    pub offset: u16,
    /// Where its transport header begins, counted likewise. At least the ports, or the ICMP identifier, are there.
    pub l4_offset: u16,
}

impl Embedded {
    /// Reads the packet at `offset` of `packet`; none if its ports are not there to read.
    pub(super) fn parse(packet: &[u8], offset: usize) -> Option<Embedded> {
        let bytes = packet.get(offset..)?;
        let version = match bytes.first()? >> 4 {
            4 => IpVersion::V4,
            6 => IpVersion::V6,
            _ => return None,
        };
        let (protocol, l4_offset, source, destination) = match version {
            IpVersion::V4 => {
                let fixed = ipv4::Fixed::read(bytes).ok()?;
                if fixed.offset() != 0 {
                    return None;
                }
                (fixed.protocol, fixed.header_len, fixed.source, fixed.destination)
            }
            IpVersion::V6 => {
                let fixed = ipv6::Fixed::read(bytes).ok()?;
                let chain = ipv6::walk(bytes, fixed.next_header, true).ok()?;
                if let Fragment::Later { .. } = chain.fragment {
                    return None;
                }
                (chain.protocol, chain.l4_offset, fixed.source, fixed.destination)
            }
        };
        let segment = bytes.get(l4_offset..)?;
        let (source_port, destination_port) = match protocol {
            Protocol::TCP | Protocol::UDP => (be16(segment, 0).ok()?, be16(segment, 2).ok()?),
            Protocol::ICMP | Protocol::ICMPV6 => {
                let kind = *segment.first()?;
                if transport::has_identifier(protocol, kind) {
                    let identifier = be16(segment, 4).ok()?;
                    (identifier, identifier)
                } else {
                    (0, 0)
                }
            }
            _ => (0, 0),
        };
        Some(Embedded {
            tuple: FiveTuple { protocol, source, destination, source_port, destination_port },
            version,
            offset: u16::try_from(offset).ok()?,
            l4_offset: u16::try_from(offset + l4_offset).ok()?,
        })
    }
}
