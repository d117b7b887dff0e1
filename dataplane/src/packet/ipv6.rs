//! IPv6 (RFC 8200) and its extension headers.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    EXTENSION_HEADERS_MAX, Fragment, Headers, IPV6_HEADER_LEN, IpVersion, Malformed, be16, is_multicast,
    transport,
};
use crate::tuple::Protocol;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// The fixed header's fields.
pub(super) struct Fixed {
    pub(super) payload_len: usize,
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl Fixed {
    pub(super) fn read(bytes: &[u8]) -> Result<Fixed, Malformed> {
        let Some(fixed) = bytes.first_chunk::<IPV6_HEADER_LEN>() else {
            return Err(Malformed::Truncated);
        };
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Fixed {
            payload_len: usize::from(be16(fixed, 4)?),
            next_header: fixed[6],
            hop_limit: fixed[7],
            source: address(8),
            destination: address(24),
        })
    }
}

/// Where the chain of extension headers ends.
pub(super) struct Chain {
    pub(super) protocol: Protocol,
    pub(super) l4_offset: usize,
    pub(super) fragment: Fragment,
}

/// Follows the chain from `next_header` at offset 40 of `packet` until a transport header, a later fragment's
/// payload, or "no next header" (59). `cut` says that the packet's end may be missing, as inside an ICMP error.
pub(super) fn walk(packet: &[u8], mut next_header: u8, cut: bool) -> Result<Chain, Malformed> {
    let mut at = IPV6_HEADER_LEN;
    let mut fragment = Fragment::Whole;
    for position in 0..=EXTENSION_HEADERS_MAX {
        let length = match next_header {
            // RFC 8200, 4.1: nowhere but directly after the IPv6 header.
            HOP_BY_HOP if position > 0 => return Err(Malformed::Extensions),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => match packet.get(at + 1) {
                Some(units) => usize::from(*units) * 8 + 8,
                None => return Err(Malformed::Truncated),
            },
            FRAGMENT if fragment != Fragment::Whole => return Err(Malformed::Extensions),
            FRAGMENT => {
                fragment = read_fragment(packet, at, cut)?;
                8
            }
            _ => {
                return Ok(Chain { protocol: Protocol(next_header), l4_offset: at, fragment });
            }
        };
        if position == EXTENSION_HEADERS_MAX {
            break;
        }
        if at + length > packet.len() {
            return Err(Malformed::Truncated);
        }
        next_header = packet[at];
        at += length;
        if let Fragment::Later { .. } = fragment {
            return Ok(Chain { protocol: Protocol(next_header), l4_offset: at, fragment });
        }
    }
    Err(Malformed::Extensions)
}

fn read_fragment(packet: &[u8], at: usize, cut: bool) -> Result<Fragment, Malformed> {
    let Some(header) = packet.get(at..at + 8) else {
        return Err(Malformed::Truncated);
    };
    let offset_and_flags = be16(header, 2)?;
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let offset = offset_and_flags & 0xfff8;
    let more = offset_and_flags & 1 != 0;
    let payload_len = packet.len() - at - 8;
    if !cut && more && (payload_len == 0 || !payload_len.is_multiple_of(8)) {
        return Err(Malformed::Fragment);
    }
    if usize::from(offset) + payload_len > usize::from(u16::MAX) {
        return Err(Malformed::Fragment);
    }
    Ok(match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First { id },
        (offset, more) => Fragment::Later { id, offset, last: !more },
    })
}

pub(super) fn parse(bytes: &[u8]) -> Result<Headers, Malformed> {
    let fixed = Fixed::read(bytes)?;
    let Some(packet) = bytes.get(..IPV6_HEADER_LEN + fixed.payload_len) else {
        return Err(Malformed::Truncated);
    };
    if is_multicast(fixed.source) {
        return Err(Malformed::Source);
    }
    let chain = walk(packet, fixed.next_header, false)?;
    let transport = transport::parse(packet, chain.l4_offset, chain.protocol, chain.fragment, IpVersion::V6)?;
    Ok(transport.into_headers(
        packet.len(),
        IpVersion::V6,
        chain.fragment,
        true,
        (fixed.source, fixed.destination, fixed.hop_limit),
    ))
}
