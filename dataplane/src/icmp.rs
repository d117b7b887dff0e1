//! ICMP errors about packets that can't go on: RFC 792 within the limits of RFC 1812 (4.3.2), RFC 4443.

use std::net::IpAddr;

use crate::checksum;
use crate::packet::{Headers, ICMP_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpVersion, is_multicast};
use crate::tuple::Protocol;

/// The longest ICMP error, in octets: RFC 1812, 4.3.2.3.
pub const ICMPV4_ERROR_LEN_MAX: usize = 576;
/// The longest ICMPv6 error, in octets: RFC 4443, 2.4(c), the minimum MTU of IPv6.
pub const ICMPV6_ERROR_LEN_MAX: usize = 1_280;

const HOP_LIMIT: u8 = 64;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The time to live ended on the way.
    TimeExceeded,
    /// Longer than the next link takes, and not to be fragmented (RFC 1191, 4; RFC 4443, 3.2).
    PacketTooBig {
        /// What the next link takes, in octets.
        mtu: u16,
    },
    /// There is no route.
    NetworkUnreachable,
    /// Nothing has that address.
    HostUnreachable,
    /// Nothing listens at that port.
    PortUnreachable,
    /// Policy forbids it (RFC 1812, 5.2.7.1, code 13).
    Prohibited,
}

impl IcmpError {
    fn type_and_code(self, version: IpVersion) -> (u8, u8) {
        match (version, self) {
            (IpVersion::V4, IcmpError::TimeExceeded) => (11, 0),
            (IpVersion::V4, IcmpError::PacketTooBig { .. }) => (3, 4),
            (IpVersion::V4, IcmpError::NetworkUnreachable) => (3, 0),
            (IpVersion::V4, IcmpError::HostUnreachable) => (3, 1),
            (IpVersion::V4, IcmpError::PortUnreachable) => (3, 3),
            (IpVersion::V4, IcmpError::Prohibited) => (3, 13),
            (IpVersion::V6, IcmpError::TimeExceeded) => (3, 0),
            (IpVersion::V6, IcmpError::PacketTooBig { .. }) => (2, 0),
            (IpVersion::V6, IcmpError::NetworkUnreachable) => (1, 0),
            (IpVersion::V6, IcmpError::HostUnreachable) => (1, 3),
            (IpVersion::V6, IcmpError::PortUnreachable) => (1, 4),
            (IpVersion::V6, IcmpError::Prohibited) => (1, 1),
        }
    }

    /// The header's second word: the MTU lies in its last two octets for both families.
    fn rest(self) -> [u8; 4] {
        match self {
            IcmpError::PacketTooBig { mtu } => u32::from(mtu).to_be_bytes(),
            _ => [0; 4],
        }
    }
}

/// Whether an error about this packet may be sent at all: never about an ICMP error, a later fragment, or a
/// packet to or from an address that is not one host's (RFC 1812, 4.3.2.7; RFC 4443, 2.4(e)). Too-big about
/// IPv6 multicast, which RFC 4443 allows, is not sent either.
pub fn may_answer(headers: &Headers) -> bool {
    let source = headers.tuple().source;
    !headers.is_icmp_error()
        && !headers.is_later_fragment()
        && !headers.is_multicast()
        && !is_multicast(source)
        && !source.is_unspecified()
        && !source.is_loopback()
}

/// Writes the error about `packet` from `answer_from` to its source into `out`. Returns the error's length in
/// octets; none if no error may be sent, the families differ, or `out` is too short for the headers.
pub fn build_error(
    error: IcmpError,
    answer_from: IpAddr,
    packet: &[u8],
    headers: &Headers,
    out: &mut [u8],
) -> Option<usize> {
    if !may_answer(headers) {
        return None;
    }
    let (ip_len, len_max) = match headers.version {
        IpVersion::V4 => (IPV4_HEADER_LEN, ICMPV4_ERROR_LEN_MAX),
        IpVersion::V6 => (IPV6_HEADER_LEN, ICMPV6_ERROR_LEN_MAX),
    };
    let room = out.len().min(len_max).checked_sub(ip_len + ICMP_HEADER_LEN)?;
    let quoted = &packet[..headers.len().min(packet.len()).min(room)];
    let len = ip_len + ICMP_HEADER_LEN + quoted.len();
    let out = &mut out[..len];
    let to = headers.tuple().source;
    write_ip(out, answer_from, to)?;

    let (kind, code) = error.type_and_code(headers.version);
    let message = &mut out[ip_len..];
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..ICMP_HEADER_LEN].copy_from_slice(&error.rest());
    message[ICMP_HEADER_LEN..].copy_from_slice(quoted);
    let pseudo = match headers.version {
        IpVersion::V4 => 0,
        IpVersion::V6 => checksum::pseudo_header_sum(answer_from, to, Protocol::ICMPV6, message.len()),
    };
    let sum = !checksum::fold(pseudo + checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(len)
}

fn write_ip(out: &mut [u8], source: IpAddr, destination: IpAddr) -> Option<()> {
    let len = out.len();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = u16::try_from(len).ok()?.to_be_bytes();
            // DF set, so that the identification may stay zero (RFC 6864, 4.1).
            out[..12].copy_from_slice(&[
                0x45,
                0,
                length[0],
                length[1],
                0,
                0,
                0x40,
                0,
                HOP_LIMIT,
                Protocol::ICMP.0,
                0,
                0,
            ]);
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            checksum::write_ipv4_header(out);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(len - IPV6_HEADER_LEN).ok()?.to_be_bytes();
            out[..8].copy_from_slice(&[0x60, 0, 0, 0, length[0], length[1], Protocol::ICMPV6.0, HOP_LIMIT]);
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn errors_are_whole_and_quote_the_packet() {
        for (v6, from) in [(false, "10.9.9.9"), (true, "fd00::9")] {
            let from: IpAddr = from.parse().unwrap();
            for payload in [0, 100, 3_000] {
                let packet = testing::udp(v6, (5_000, 53), &vec![7; payload]);
                let headers = Headers::parse(&packet).unwrap();
                for error in [
                    IcmpError::TimeExceeded,
                    IcmpError::PacketTooBig { mtu: 1_400 },
                    IcmpError::NetworkUnreachable,
                    IcmpError::HostUnreachable,
                    IcmpError::PortUnreachable,
                    IcmpError::Prohibited,
                ] {
                    let mut out = [0; 2_000];
                    let len = build_error(error, from, &packet, &headers, &mut out).unwrap();
                    let answer = Headers::parse(&out[..len]).unwrap();
                    assert_eq!((answer.len(), answer.tuple().source), (len, from));
                    assert_eq!(answer.tuple().destination, headers.tuple().source);
                    assert!(answer.ipv4_checksum_holds(&out[..len]));
                    assert!(checksum::transport_holds(&out[..len], &answer));
                    assert!(answer.is_icmp_error());
                    assert_eq!(answer.meta.embedded, Some(*headers.tuple()));
                    assert!(len <= if v6 { 1_280 } else { 576 });
                    assert!(len == answer.payload() + packet.len() || payload == 3_000);
                    // About an error there is none.
                    let mut again = [0; 2_000];
                    assert_eq!(build_error(error, from, &out[..len], &answer, &mut again), None);
                }
            }
        }
    }

    #[test]
    fn too_big_states_the_mtu() {
        let packet = testing::tcp(false, (1, 2), 0, 0x10, &[0; 2_000]);
        let headers = Headers::parse(&packet).unwrap();
        let mut out = [0; 600];
        let from = "10.0.0.1".parse().unwrap();
        let error = IcmpError::PacketTooBig { mtu: 1_400 };
        let len = build_error(error, from, &packet, &headers, &mut out).unwrap();
        assert_eq!(len, 576);
        assert_eq!(out[20..22], [3, 4]);
        assert_eq!(out[26..28], 1_400u16.to_be_bytes());
    }

    #[test]
    fn silence_where_the_rfcs_ask_for_it() {
        let mut out = [0; 600];
        let from = "10.0.0.1".parse().unwrap();
        let answer = |packet: &[u8], out: &mut [u8]| {
            let headers = Headers::parse(packet).unwrap();
            build_error(IcmpError::TimeExceeded, from, packet, &headers, out)
        };
        let packet = testing::udp(false, (1, 2), &[0; 64]);
        assert!(answer(&packet, &mut out).is_some());
        let mut later = packet.clone();
        later[6..8].copy_from_slice(&5u16.to_be_bytes());
        assert_eq!(answer(&later, &mut out), None);
        let mut multicast = packet.clone();
        multicast[16] = 239;
        assert_eq!(answer(&multicast, &mut out), None);
        let mut nobody = packet.clone();
        nobody[12..16].fill(0);
        assert_eq!(answer(&nobody, &mut out), None);
        assert_eq!(answer(&packet, &mut [0; 27]), None);
        let headers = Headers::parse(&packet).unwrap();
        let other_family = "fd00::1".parse().unwrap();
        assert_eq!(build_error(IcmpError::TimeExceeded, other_family, &packet, &headers, &mut out), None);
    }
}
