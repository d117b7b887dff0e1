//! IPv4 (RFC 791).

use std::net::{IpAddr, Ipv4Addr};

use super::{Fragment, Headers, IPV4_HEADER_LEN, IpVersion, Malformed, be16, is_multicast, transport};
use crate::tuple::Protocol;

pub(super) const DONT_FRAGMENT: u16 = 0x4000;
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;
pub(super) const OFFSET_MASK: u16 = 0x1fff;

/// The fixed part of an IPv4 header, checked against nothing but the header's own length.
pub(super) struct Fixed {
    pub(super) header_len: usize,
    pub(super) total_len: usize,
    pub(super) id: u16,
    pub(super) flags_and_offset: u16,
    pub(super) ttl: u8,
    pub(super) protocol: Protocol,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl Fixed {
    pub(super) fn read(bytes: &[u8]) -> Result<Fixed, Malformed> {
        let Some(fixed) = bytes.first_chunk::<IPV4_HEADER_LEN>() else {
            return Err(Malformed::Truncated);
        };
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        if header_len < IPV4_HEADER_LEN {
            return Err(Malformed::Length);
        }
        if header_len > bytes.len() {
            return Err(Malformed::Truncated);
        }
        Ok(Fixed {
            header_len,
            total_len: usize::from(be16(fixed, 2)?),
            id: be16(fixed, 4)?,
            flags_and_offset: be16(fixed, 6)?,
            ttl: fixed[8],
            protocol: Protocol(fixed[9]),
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        })
    }

    /// Octets that lie before this fragment's payload in the whole packet's.
    pub(super) fn offset(&self) -> usize {
        usize::from(self.flags_and_offset & OFFSET_MASK) * 8
    }

    fn fragment(&self) -> Result<Fragment, Malformed> {
        let more = self.flags_and_offset & MORE_FRAGMENTS != 0;
        let payload_len = self.total_len - self.header_len;
        let id = u32::from(self.id);
        if more && (payload_len == 0 || !payload_len.is_multiple_of(8)) {
            return Err(Malformed::Fragment);
        }
        match (self.offset(), more) {
            (0, false) => Ok(Fragment::Whole),
            (0, true) => Ok(Fragment::First { id }),
            (offset, _) if offset + payload_len + self.header_len > usize::from(u16::MAX) => {
                Err(Malformed::Fragment)
            }
            (offset, more) => Ok(Fragment::Later {
                id,
                offset: u16::try_from(offset).map_err(|_| Malformed::Fragment)?,
                last: !more,
            }),
        }
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Headers, Malformed> {
    let fixed = Fixed::read(bytes)?;
    if fixed.total_len < fixed.header_len {
        return Err(Malformed::Length);
    }
    let Some(packet) = bytes.get(..fixed.total_len) else {
        return Err(Malformed::Truncated);
    };
    if is_multicast(fixed.source) {
        return Err(Malformed::Source);
    }
    let fragment = fixed.fragment()?;
    let transport = transport::parse(packet, fixed.header_len, fixed.protocol, fragment, IpVersion::V4)?;
    Ok(transport.into_headers(
        packet.len(),
        IpVersion::V4,
        fragment,
        fixed.flags_and_offset & DONT_FRAGMENT != 0,
        (fixed.source, fixed.destination, fixed.ttl),
    ))
}
