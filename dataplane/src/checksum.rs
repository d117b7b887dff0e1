//! The internet checksum (RFC 1071), its incremental update (RFC 1624), and the distinction between a complete
//! one and the folded pseudo-header sum that the kernel leaves where a device is to finish it (NEEDS_CSUM).

use std::net::IpAddr;

use crate::packet::{Headers, IpVersion};
use crate::tuple::Protocol;

/// What a transport checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// The checksum of header and payload.
    Complete,
    /// The folded sum of the pseudo-header alone, not complemented: addresses change it, ports don't.
    Partial,
}

/// The ones-complement sum of big-endian 16-bit words, not folded; an odd last octet counts as the high one.
/// Correct for up to 16 MiB.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total: u64 = 0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().unwrap_or([0; 8]));
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        let word = u64::from_ne_bytes(padded);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    // A ones-complement sum may be taken in any octet order and swapped once at the end (RFC 1071, 2B).
    u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits, with end-around carry.
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Sum of the pseudo-header of TCP, UDP (RFC 9293, 3.1) and of everything over IPv6 (RFC 8200, 8.1); `length`
/// is that of transport header and payload.
pub fn pseudo_header_sum(source: IpAddr, destination: IpAddr, protocol: Protocol, length: usize) -> u64 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        // No packet mixes the families.
        _ => 0,
    };
    addresses + u64::from(protocol.0) + (length as u64 & 0xffff) + (length as u64 >> 16)
}

/// A change of checksummed octets, collected before it is applied to one or more checksums (RFC 1624, eqn. 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Records that `old` became `new`. Both are of one even length and begin at an even offset.
    pub fn replace(&mut self, old: &[u8], new: &[u8]) {
        debug_assert_eq!(old.len(), new.len());
        self.0 += u64::from(!fold(sum(old))) + sum(new);
    }

    /// Records the change of a 16-bit word.
    pub fn replace_u16(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Adds the changes that `other` has recorded.
    pub fn combine(&mut self, other: Delta) {
        self.0 += u64::from(fold(other.0));
    }

    /// The complete checksum after the change.
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }

    /// The pseudo-header's folded sum after the change.
    pub fn apply_to_partial(self, partial: u16) -> u16 {
        fold(u64::from(partial) + self.0)
    }

    /// Patches the checksum at `at`, if the packet reaches that far.
    pub fn patch(self, packet: &mut [u8], at: usize, state: ChecksumState) {
        if let Some(field) = packet.get_mut(at..at + 2) {
            let old = u16::from_be_bytes([field[0], field[1]]);
            let new = match state {
                ChecksumState::Complete => self.apply(old),
                ChecksumState::Partial => self.apply_to_partial(old),
            };
            field.copy_from_slice(&new.to_be_bytes());
        }
    }
}

/// Where the checksum of this protocol's header lies, in octets from the header's start.
pub fn field_offset(protocol: Protocol, version: IpVersion) -> Option<usize> {
    match (protocol, version) {
        (Protocol::TCP, _) => Some(16),
        (Protocol::UDP, _) => Some(6),
        (Protocol::ICMP, IpVersion::V4) | (Protocol::ICMPV6, IpVersion::V6) => Some(2),
        _ => None,
    }
}

/// The checksum that an IPv4 header should have; what its field holds does not matter.
pub fn ipv4_header(header: &[u8]) -> u16 {
    let field = header.get(10..12).map_or(0, sum);
    !fold(sum(header) + u64::from(!fold(field)))
}

/// Writes the checksum of the IPv4 header at the start of `packet`.
pub fn write_ipv4_header(packet: &mut [u8]) {
    let header_len = usize::from(packet.first().map_or(0, |first| first & 0x0f)) * 4;
    if let Some(header) = packet.get_mut(..header_len).filter(|header| header.len() >= 20) {
        header[10..12].fill(0);
        let checksum = !fold(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The transport checksum that this packet should have, whatever its field holds; none for protocols without
/// one and for fragments. An UDP checksum of zero comes out as 0xffff (RFC 768).
pub fn transport(packet: &[u8], headers: &Headers) -> Option<u16> {
    if headers.is_fragment() {
        return None;
    }
    let protocol = headers.protocol();
    let at = headers.l4() + field_offset(protocol, headers.version)?;
    let segment = packet.get(headers.l4()..headers.len())?;
    let field = sum(packet.get(at..at + 2)?);
    let pseudo = if protocol == Protocol::ICMP {
        0
    } else {
        pseudo_header_sum(headers.tuple().source, headers.tuple().destination, protocol, segment.len())
    };
    let checksum = !fold(sum(segment) + u64::from(!fold(field)) + pseudo);
    Some(if protocol == Protocol::UDP && checksum == 0 { 0xffff } else { checksum })
}

/// Writes the transport checksum in full, as for a packet that the kernel left partial.
pub fn write_transport(packet: &mut [u8], headers: &Headers) {
    let Some(checksum) = transport(packet, headers) else { return };
    let Some(field) = field_offset(headers.protocol(), headers.version) else { return };
    let at = headers.l4() + field;
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether the transport checksum is right; true where there is none: other protocols, fragments, UDP over
/// IPv4 with a zero field.
pub fn transport_holds(packet: &[u8], headers: &Headers) -> bool {
    let Some(expected) = transport(packet, headers) else { return true };
    let Some(field) = field_offset(headers.protocol(), headers.version) else { return true };
    let at = headers.l4() + field;
    let found = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let absent = found == 0 && headers.protocol() == Protocol::UDP && headers.version == IpVersion::V4;
    // 0x0000 and 0xffff are the same number in ones' complement.
    absent || found == expected || (found == 0 && expected == 0xffff) || (found == 0xffff && expected == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
    }

    #[test]
    fn odd_octet_counts_as_the_high_one() {
        assert_eq!(fold(sum(&[0x12, 0x34, 0x56])), 0x1234 + 0x5600);
    }

    #[test]
    fn example_of_rfc_1624() {
        let mut delta = Delta::default();
        delta.replace_u16(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn sum_equals_the_plain_loop() {
        let mut rng = crate::testing::Rng::new(7);
        for len in 0..200 {
            let bytes = rng.bytes(len);
            let mut plain: u64 = 0;
            for pair in bytes.chunks(2) {
                plain += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            assert_eq!(fold(sum(&bytes)), fold(plain), "length {len}");
        }
    }

    #[test]
    fn incremental_equals_full() {
        let mut rng = crate::testing::Rng::new(8);
        for _ in 0..20_000 {
            let len = 2 + 2 * rng.below(40);
            let mut bytes = rng.bytes(len);
            let before = !fold(sum(&bytes));
            let at = 2 * rng.below(len / 2);
            let width = 2 * (1 + rng.below((len - at) / 2));
            let new = rng.bytes(width);
            let mut delta = Delta::default();
            delta.replace(&bytes[at..at + width], &new);
            bytes[at..at + width].copy_from_slice(&new);
            let after = !fold(sum(&bytes));
            let patched = delta.apply(before);
            // All-zero input is the one case in which the two zeros of ones' complement differ.
            assert!(
                patched == after || (patched == 0 && after == 0xffff) || (patched == 0xffff && after == 0)
            );
        }
    }
}
