//! Splitting a super-packet into the packets that a network card would make of it.

use crate::checksum::{self, ChecksumState};
use crate::packet::{Headers, IPV6_HEADER_LEN, IpVersion};
use crate::tuple::Protocol;
use crate::vnet_hdr::{GsoType, Offload};

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// The segments of a packet, each written on demand, headers and payload straight into the caller's slot with
/// every checksum complete. A packet that is no super-packet is one segment.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    headers: &'a Headers,
    offload: Offload,
    count: usize,
}

impl<'a> Segments<'a> {
    /// The segments of `packet`, which `headers` and `offload` were read from.
    pub fn new(packet: &'a [u8], headers: &'a Headers, offload: Offload) -> Segments<'a> {
        let packet = &packet[..headers.len().min(packet.len())];
        Segments { packet, headers, offload, count: offload.segments(headers) }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Octets of segment `index`, headers included.
    pub fn len_of(&self, index: usize) -> usize {
        let (header_len, from, to) = self.bounds(index);
        header_len + to - from
    }

    /// Writes segment `index` to the start of `out`. Returns its octets, none if there is no such segment or it
    /// does not fit.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let len = self.copy(index, 1, out)?;
        let out = &mut out[..len];
        match self.offload.gso {
            Some((gso_type, size)) => {
                self.write_headers(index, 1, gso_type, usize::from(size), out);
                self.write_checksum(gso_type, out, ChecksumState::Complete);
            }
            None => {
                let mut offload = self.offload;
                offload.finish_checksum(out, self.headers);
            }
        }
        Some(len)
    }

    /// Octets of the super-packet of `count` segments from `first`, headers included.
    pub fn len_of_part(&self, first: usize, count: usize) -> usize {
        let (header_len, from, _) = self.bounds(first);
        let (_, _, to) = self.bounds(first + count.max(1) - 1);
        header_len + to - from
    }

    /// Writes a smaller super-packet, of `count` segments from `first`, to the start of `out`, its checksum still partial.
    /// Returns what is left to do on it; none if it is not one of several parts, or does not fit.
    pub fn write_part(&self, first: usize, count: usize, out: &mut [u8]) -> Option<Offload> {
        let (gso_type, size) = self.offload.gso?;
        let len = self.copy(first, count, out)?;
        let out = &mut out[..len];
        self.write_headers(first, count, gso_type, usize::from(size), out);
        self.write_checksum(gso_type, out, ChecksumState::Partial);
        Some(self.offload.part(count > 1, first == 0))
    }

    fn copy(&self, first: usize, count: usize, out: &mut [u8]) -> Option<usize> {
        if count == 0 || first + count > self.count {
            return None;
        }
        let (header_len, from, _) = self.bounds(first);
        let (_, _, to) = self.bounds(first + count - 1);
        let len = header_len + to - from;
        let out = out.get_mut(..len)?;
        out[..header_len].copy_from_slice(&self.packet[..header_len]);
        out[header_len..].copy_from_slice(&self.packet[from..to]);
        Some(len)
    }

    fn bounds(&self, index: usize) -> (usize, usize, usize) {
        let (payload, end) = (self.headers.payload(), self.packet.len());
        match self.offload.gso {
            Some((_, size)) => {
                let from = (payload + index * usize::from(size)).min(end);
                (payload, from, (from + usize::from(size)).min(end))
            }
            None => (payload, payload, end),
        }
    }

    fn write_headers(&self, index: usize, count: usize, gso_type: GsoType, size: usize, out: &mut [u8]) {
        let len = out.len();
        match self.headers.version {
            IpVersion::V4 => {
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
                out[4..6].copy_from_slice(&id.to_be_bytes());
                checksum::write_ipv4_header(out);
            }
            IpVersion::V6 => out[4..6].copy_from_slice(&((len - IPV6_HEADER_LEN) as u16).to_be_bytes()),
        }
        let l4 = self.headers.l4();
        let segment = &mut out[l4..];
        match gso_type {
            GsoType::Tcp => {
                let first = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
                let sequence = first.wrapping_add((index * size) as u32);
                segment[4..8].copy_from_slice(&sequence.to_be_bytes());
                if index + count < self.count {
                    segment[13] &= !TCP_FIN_PSH;
                }
                if index > 0 {
                    // RFC 3168, 6.1.2: CWR is said once.
                    segment[13] &= !TCP_CWR;
                }
            }
            GsoType::Udp => {
                let length = segment.len() as u16;
                segment[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
    }

    fn write_checksum(&self, gso_type: GsoType, out: &mut [u8], state: ChecksumState) {
        let segment = &mut out[self.headers.l4()..];
        let (protocol, field) = match gso_type {
            GsoType::Tcp => (Protocol::TCP, 16),
            GsoType::Udp => (Protocol::UDP, 6),
        };
        let tuple = self.headers.tuple();
        let pseudo = checksum::pseudo_header_sum(tuple.source, tuple.destination, protocol, segment.len());
        let sum = match state {
            ChecksumState::Partial => checksum::fold(pseudo),
            ChecksumState::Complete => {
                segment[field..field + 2].fill(0);
                match !checksum::fold(pseudo + checksum::sum(segment)) {
                    0 if protocol == Protocol::UDP => 0xffff,
                    sum => sum,
                }
            }
        };
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Hands each segment to `sink`, written to `scratch`. A segment that does not fit there is left out; returns
/// how many were handed over.
pub fn for_each_segment(
    packet: &[u8],
    headers: &Headers,
    offload: Offload,
    scratch: &mut [u8],
    mut sink: impl FnMut(&[u8]),
) -> usize {
    let segments = Segments::new(packet, headers, offload);
    let mut handed_over = 0;
    for index in 0..segments.count() {
        if let Some(len) = segments.write(index, scratch) {
            sink(&scratch[..len]);
            handed_over += 1;
        }
    }
    handed_over
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::ChecksumState;
    use crate::coalesce::Coalescer;
    use crate::testing::{self, Rng};
    use crate::vnet_hdr::{VNET_HEADER_LEN, VnetHeader};

    fn split(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let headers = Headers::parse(packet).unwrap();
        let mut out = Vec::new();
        let mut scratch = [0; 65_575];
        for_each_segment(packet, &headers, offload, &mut scratch, |segment| out.push(segment.to_vec()));
        out
    }

    fn check(segment: &[u8]) -> Headers {
        let headers = Headers::parse(segment).unwrap();
        assert_eq!(headers.len(), segment.len());
        assert!(headers.ipv4_checksum_holds(segment));
        assert!(checksum::transport_holds(segment, &headers));
        headers
    }

    #[test]
    fn tcp_segments() {
        for v6 in [false, true] {
            let payload = Rng::new(1).bytes(3_500);
            let mut packet = testing::tcp(v6, (1, 2), 0xffff_fff0, 0x19, &payload);
            let headers = Headers::parse(&packet).unwrap();
            packet[headers.l4() + 13] |= TCP_CWR;
            let segments = split(&packet, Offload::partial(Some((GsoType::Tcp, 1_400))));
            assert_eq!(segments.len(), 3);
            let mut joined = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                let part = check(segment);
                let tcp = &segment[part.l4()..];
                let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(1_400 * index as u32));
                let flags = [0x90, 0x10, 0x19][index];
                assert_eq!(tcp[13], flags, "segment {index}");
                if !v6 {
                    let id = u16::from_be_bytes([segment[4], segment[5]]);
                    assert_eq!(id, u16::from_be_bytes([packet[4], packet[5]]) + index as u16);
                }
                joined.extend_from_slice(&segment[part.payload()..]);
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn udp_segments() {
        for v6 in [false, true] {
            let payload = Rng::new(2).bytes(2_900);
            let packet = testing::udp(v6, (1, 2), &payload);
            let segments = split(&packet, Offload::partial(Some((GsoType::Udp, 1_000))));
            assert_eq!(segments.len(), 3);
            let mut joined = Vec::new();
            for segment in &segments {
                let part = check(segment);
                joined.extend_from_slice(&segment[part.payload()..]);
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn parts_make_the_segments_of_the_whole() {
        let mut rng = Rng::new(3);
        for round in 0..500 {
            let (v6, udp) = (rng.chance(50), rng.chance(50));
            let len = 2 + rng.below(60_000);
            let payload = rng.bytes(len);
            let size = len.div_ceil(64) + rng.below(1_400);
            let (gso_type, mut packet) = if udp {
                (GsoType::Udp, testing::udp(v6, (1, 2), &payload))
            } else {
                (GsoType::Tcp, testing::tcp(v6, (1, 2), rng.next() as u32, 0x19, &payload))
            };
            let headers = Headers::parse(&packet).unwrap();
            if !udp {
                packet[headers.l4() + 13] |= TCP_CWR;
            }
            let offload = Offload::partial(Some((gso_type, size as u16)));
            let segments = Segments::new(&packet, &headers, offload);
            let (mut first, mut joined) = (0, Vec::new());
            while first < segments.count() {
                let count = (1 + rng.below(20)).min(segments.count() - first);
                let mut part = vec![0; segments.len_of_part(first, count)];
                let rest = segments.write_part(first, count, &mut part).unwrap();
                let part_headers = Headers::parse(&part).unwrap();
                assert!(part_headers.ipv4_checksum_holds(&part));
                // As the kernel gets it: written as a virtio_net header and read again.
                let vnet = rest.to_vnet(&part_headers);
                assert_eq!(Offload::read(&vnet, &part_headers), Ok(rest));
                assert_eq!(rest.segments(&part_headers), count);
                if count > 1 {
                    joined.extend(split(&part, rest));
                } else {
                    let mut rest = rest;
                    rest.finish_checksum(&mut part, &part_headers);
                    joined.push(part);
                }
                first += count;
            }
            assert!(joined == split(&packet, offload), "round {round}: v6 {v6}, udp {udp}, {len} by {size}");
            assert!(segments.write_part(segments.count(), 1, &mut [0; 65_575]).is_none());
        }
    }

    #[test]
    fn a_plain_packet_is_its_own_segment() {
        let packet = testing::udp(false, (1, 2), b"hello");
        assert_eq!(split(&packet, Offload::NONE), [packet]);
    }

    #[test]
    fn joining_undoes_splitting() {
        let mut rng = Rng::new(4);
        let mut coalescer = Coalescer::new();
        for round in 0..2_000 {
            let v6 = rng.chance(50);
            let udp = rng.chance(50);
            let len = 1 + rng.below(if udp { 60_000 } else { 65_000 });
            let payload = rng.bytes(len);
            let size = (if udp { len.div_ceil(64) } else { 500 }) + rng.below(1_400);
            let packet = if udp {
                testing::udp(v6, (1, 2), &payload)
            } else {
                testing::tcp(v6, (1, 2), rng.next() as u32, 0x18, &payload)
            };
            let gso_type = if udp { GsoType::Udp } else { GsoType::Tcp };
            let segments = split(&packet, Offload::partial(Some((gso_type, size as u16))));
            for segment in &segments {
                assert!(coalescer.push(segment, &check(segment), ChecksumState::Complete), "round {round}");
            }
            let joined = coalescer.finish().unwrap();
            let (vnet, body) = VnetHeader::read(joined).unwrap();
            let headers = Headers::parse(body).unwrap();
            let offload = Offload::read(&vnet, &headers).unwrap();
            assert_eq!(joined.len(), VNET_HEADER_LEN + headers.len());
            assert_eq!(offload.segments(&headers), segments.len());
            assert!(headers.ipv4_checksum_holds(body));
            // All but the transport checksum, which is partial now, is as before.
            let mut body = body.to_vec();
            if segments.len() > 1 {
                assert_eq!(offload.gso, Some((gso_type, size as u16)));
                checksum::write_transport(&mut body, &headers);
            }
            assert!(body == packet, "round {round}: v6 {v6}, udp {udp}, {len} by {size}");
            assert_eq!(split(&body, offload), segments);
            coalescer.clear();
        }
    }
}
