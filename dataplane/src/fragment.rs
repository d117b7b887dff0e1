//! Fragmenting IPv4 packets on the way (RFC 791, 3.2).

use crate::checksum;
use crate::packet::{Headers, IPV4_HEADER_LEN, IpVersion};

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;
/// The longest IPv4 header.
const HEADER_LEN_MAX: usize = 60;

/// Why a packet can't be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotFragment {
    /// DF is set, or it is IPv6.
    #[error("the packet forbids fragmentation")]
    Forbidden,
    /// The MTU leaves no room for eight octets of payload behind the header, or `scratch` is shorter than it.
    #[error("the MTU is too small for the packet's header")]
    MtuTooSmall,
}

/// Cuts a packet into fragments of at most `mtu` octets, each written to `scratch` and handed to `sink`. A
/// fragment is cut again by the same rule. Its transport checksum must be complete. Returns how many fragments
/// there were.
pub fn fragment_ipv4(
    packet: &[u8],
    headers: &Headers,
    mtu: usize,
    scratch: &mut [u8],
    mut sink: impl FnMut(&[u8]),
) -> Result<usize, CannotFragment> {
    if headers.version != IpVersion::V4 || headers.dont_fragment {
        return Err(CannotFragment::Forbidden);
    }
    let packet = &packet[..headers.len().min(packet.len())];
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let mut later_header = [0; HEADER_LEN_MAX];
    let later_len = copy_header_for_later(&packet[..header_len], &mut later_header);
    let payload = &packet[header_len..];
    let flags_and_offset = u16::from_be_bytes([packet[6], packet[7]]);
    let first_offset = flags_and_offset & OFFSET_MASK;
    let more_after = flags_and_offset & MORE_FRAGMENTS;

    let mut at = 0;
    let mut count = 0;
    loop {
        let header = if at == 0 { &packet[..header_len] } else { &later_header[..later_len] };
        let room = mtu.min(scratch.len()).saturating_sub(header.len());
        let rest = payload.len() - at;
        let take = if rest <= room { rest } else { room & !7 };
        if take == 0 && rest > 0 {
            return Err(CannotFragment::MtuTooSmall);
        }
        let len = header.len() + take;
        let out = scratch.get_mut(..len).ok_or(CannotFragment::MtuTooSmall)?;
        out[..header.len()].copy_from_slice(header);
        out[header.len()..].copy_from_slice(&payload[at..at + take]);
        let more = if take < rest { MORE_FRAGMENTS } else { more_after };
        let offset = first_offset + (at / 8) as u16;
        out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        checksum::write_ipv4_header(out);
        sink(out);
        count += 1;
        at += take;
        if at == payload.len() {
            return Ok(count);
        }
    }
}

/// The header of every fragment but the first: only options with the copied flag go along. Returns its length.
fn copy_header_for_later(header: &[u8], out: &mut [u8; HEADER_LEN_MAX]) -> usize {
    out[..IPV4_HEADER_LEN].copy_from_slice(&header[..IPV4_HEADER_LEN]);
    let mut len = IPV4_HEADER_LEN;
    let mut at = IPV4_HEADER_LEN;
    while let Some(&kind) = header.get(at) {
        let option_len = match kind {
            0 => break,
            1 => {
                at += 1;
                continue;
            }
            _ => usize::from(header.get(at + 1).copied().unwrap_or(0)),
        };
        let Some(option) = header.get(at..at + option_len).filter(|option| option.len() >= 2) else { break };
        if kind & 0x80 != 0 {
            out[len..len + option_len].copy_from_slice(option);
            len += option_len;
        }
        at += option_len;
    }
    // The rest stays zero: end of the option list.
    len = len.next_multiple_of(4);
    out[0] = 0x40 | (len / 4) as u8;
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Fragment;
    use crate::testing::{self, Rng};

    fn cut(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, CannotFragment> {
        let headers = Headers::parse(packet).unwrap();
        let mut out = Vec::new();
        let count = fragment_ipv4(packet, &headers, mtu, &mut [0; 2_000], |part| out.push(part.to_vec()))?;
        assert_eq!(count, out.len());
        Ok(out)
    }

    fn without_df(mut packet: Vec<u8>) -> Vec<u8> {
        packet[6] &= !0x40;
        checksum::write_ipv4_header(&mut packet);
        packet
    }

    fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            let headers = Headers::parse(fragment).unwrap();
            assert!(headers.ipv4_checksum_holds(fragment));
            let last = index + 1 == fragments.len();
            match headers.fragment {
                Fragment::First { .. } => assert!(index == 0 && !last),
                Fragment::Later { offset, last: said, .. } => {
                    assert_eq!((usize::from(offset), said), (payload.len(), last));
                }
                Fragment::Whole => assert_eq!(fragments.len(), 1),
            }
            payload.extend_from_slice(&fragment[usize::from(fragment[0] & 0x0f) * 4..]);
        }
        payload
    }

    #[test]
    fn fragments_join_to_the_packet() {
        let mut rng = Rng::new(6);
        for _ in 0..500 {
            let len = rng.below(9_000);
            let packet = without_df(testing::udp(false, (1, 2), &rng.bytes(len)));
            let mtu = 68 + rng.below(1_500);
            let fragments = cut(&packet, mtu).unwrap();
            assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
            assert_eq!(joined(&fragments), packet[20..]);
            // Cutting the fragments again gives the same packet.
            let again: Vec<_> = fragments.iter().flat_map(|part| cut(part, 68).unwrap()).collect();
            assert_eq!(joined(&again), packet[20..]);
        }
    }

    #[test]
    fn only_marked_options_are_copied() {
        let mut packet = without_df(testing::udp(false, (1, 2), &[9; 400]));
        // Record route (7) stays with the first; a source route (0x83) goes along.
        packet.splice(20..20, [7, 3, 4, 1, 0x83, 7, 4, 10, 0, 0, 1, 0]);
        packet[0] = 0x48;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        checksum::write_ipv4_header(&mut packet);
        let fragments = cut(&packet, 200).unwrap();
        assert_eq!(fragments[0][..2], packet[..2]);
        assert_eq!(fragments[0][20..32], packet[20..32]);
        for later in &fragments[1..] {
            assert_eq!(later[0], 0x47);
            assert_eq!(later[20..28], [0x83, 7, 4, 10, 0, 0, 1, 0]);
        }
        assert_eq!(joined(&fragments), packet[32..]);
    }

    #[test]
    fn refusals() {
        let mut packet = testing::udp(false, (1, 2), &[0; 100]);
        packet[6] |= 0x40;
        assert_eq!(cut(&packet, 68), Err(CannotFragment::Forbidden));
        assert_eq!(cut(&testing::udp(true, (1, 2), &[0; 100]), 68), Err(CannotFragment::Forbidden));
        assert_eq!(cut(&without_df(packet), 27), Err(CannotFragment::MtuTooSmall));
    }
}
