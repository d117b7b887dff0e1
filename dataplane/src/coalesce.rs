//! Joining neighbours of a flow into one super-packet, by the rules of the kernel's own GRO, so that what was
//! joined can be split again into the same packets.

use crate::checksum::{self, ChecksumState};
use crate::packet::{Fragment, Headers, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpVersion};
use crate::tuple::{FiveTuple, Protocol};
use crate::vnet_hdr::{GsoType, Offload, VNET_HEADER_LEN};

/// The longest packet that is joined, IP header included.
pub const COALESCED_LEN_MAX: usize = 65_535;
/// The kernel splits no more than this many datagrams of one buffer.
const UDP_SEGMENTS_MAX: usize = 64;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const ECE_CWR: u8 = 0xc0;

/// One packet, or the super-packet that it has grown to, in a buffer of its own behind a vnet header.
#[derive(Debug)]
pub struct Coalescer {
    /// {vnet header | packet}; empty between packets.
    buffer: Vec<u8>,
    /// Of the first packet; lengths are brought up to date at the end.
    headers: Option<Headers>,
    segments: usize,
    /// Octets of payload in every segment but perhaps the last.
    segment_len: usize,
    /// Of every segment's transport checksum.
    checksum: ChecksumState,
    /// Nothing more may follow: a short segment, or one that pushes.
    closed: bool,
    /// Datagrams are joined too.
    datagrams: bool,
}

impl Default for Coalescer {
    fn default() -> Coalescer {
        Coalescer::new()
    }
}

impl Coalescer {
    /// An empty one. This is the only allocation.
    pub fn new() -> Coalescer {
        Coalescer {
            buffer: Vec::with_capacity(VNET_HEADER_LEN + IPV6_HEADER_LEN + COALESCED_LEN_MAX),
            headers: None,
            segments: 0,
            segment_len: 0,
            checksum: ChecksumState::Complete,
            closed: false,
            datagrams: true,
        }
    }

    /// One that takes no datagrams' neighbours in: Linux segments datagrams that are written to it from 6.2 on.
    pub fn for_segments() -> Coalescer {
        Coalescer { datagrams: false, ..Coalescer::new() }
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.headers.is_none()
    }

    /// The flow of what is in it.
    pub fn tuple(&self) -> Option<&FiveTuple> {
        self.headers.as_ref().map(Headers::tuple)
    }

    /// Takes the packet in if nothing is there yet, or if it continues what is there. False means: take out
    /// what is there first. `checksum` says what the packet's own transport checksum field holds.
    pub fn push(&mut self, packet: &[u8], headers: &Headers, checksum: ChecksumState) -> bool {
        let packet = &packet[..headers.len().min(packet.len())];
        let Some(first) = &self.headers else {
            self.start(packet, headers, checksum);
            return true;
        };
        if self.closed || checksum != self.checksum || !self.continues(first, packet, headers) {
            return false;
        }
        let payload = &packet[headers.payload()..];
        self.closed = payload.len() < self.segment_len;
        if headers.protocol() == Protocol::TCP {
            let flags = packet[headers.l4() + 13];
            self.buffer[VNET_HEADER_LEN + headers.l4() + 13] |= flags & (PSH | FIN);
            self.closed |= flags & (PSH | FIN) != 0;
        } else {
            self.closed |= self.segments + 1 == UDP_SEGMENTS_MAX;
        }
        self.buffer.extend_from_slice(payload);
        self.segments += 1;
        true
    }

    /// {vnet header | packet}, ready to be written or edited; none if nothing is there. Nothing may be pushed between
    /// this and [`Coalescer::clear`].
    pub fn finish(&mut self) -> Option<&mut [u8]> {
        let first = self.headers.as_ref()?;
        self.closed = true;
        if self.segments > 1 {
            let packet = &mut self.buffer[VNET_HEADER_LEN..];
            let len = packet.len();
            match first.version {
                IpVersion::V4 => {
                    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                    checksum::write_ipv4_header(packet);
                }
                IpVersion::V6 => {
                    packet[4..6].copy_from_slice(&((len - IPV6_HEADER_LEN) as u16).to_be_bytes())
                }
            }
            let (l4, protocol) = (first.l4(), first.protocol());
            let field = if protocol == Protocol::TCP { 16 } else { 6 };
            if protocol == Protocol::UDP {
                packet[l4 + 4..l4 + 6].copy_from_slice(&((len - l4) as u16).to_be_bytes());
            }
            let tuple = first.tuple();
            let pseudo = checksum::pseudo_header_sum(tuple.source, tuple.destination, protocol, len - l4);
            packet[l4 + field..l4 + field + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
            let gso_type = if protocol == Protocol::TCP { GsoType::Tcp } else { GsoType::Udp };
            let offload = Offload::partial(Some((gso_type, self.segment_len as u16)));
            self.buffer[..VNET_HEADER_LEN].copy_from_slice(&offload.to_vnet(first).to_bytes());
        } else if self.checksum == ChecksumState::Partial {
            let vnet = Offload::partial(None).to_vnet(first);
            self.buffer[..VNET_HEADER_LEN].copy_from_slice(&vnet.to_bytes());
        }
        Some(&mut self.buffer)
    }

    /// Makes room for the next packet.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.headers = None;
        self.closed = false;
        self.segments = 0;
    }

    fn start(&mut self, packet: &[u8], headers: &Headers, checksum: ChecksumState) {
        self.buffer.clear();
        self.buffer.resize(VNET_HEADER_LEN, 0);
        self.buffer.extend_from_slice(packet);
        self.segment_len = packet.len() - headers.payload();
        self.segments = 1;
        self.checksum = checksum;
        self.closed = !joinable(packet, headers, checksum)
            || (headers.protocol() == Protocol::UDP && !self.datagrams)
            || (headers.protocol() == Protocol::TCP && packet[headers.l4() + 13] & (PSH | FIN) != 0);
        self.headers = Some(*headers);
    }

    fn continues(&self, first: &Headers, packet: &[u8], headers: &Headers) -> bool {
        let so_far = &self.buffer[VNET_HEADER_LEN..];
        let payload_len = packet.len() - headers.payload();
        if headers.tuple() != first.tuple()
            || headers.payload_offset != first.payload_offset
            || payload_len > self.segment_len
            || so_far.len() + payload_len > COALESCED_LEN_MAX
            || !joinable(packet, headers, self.checksum)
            || !same_ip_header(first, so_far, packet, self.segments)
        {
            return false;
        }
        if headers.protocol() == Protocol::UDP {
            return true;
        }
        let (l4, payload) = (headers.l4(), headers.payload());
        let (a, b) = (&so_far[l4..payload], &packet[l4..payload]);
        let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let expected = sequence(a).wrapping_add((so_far.len() - payload) as u32);
        // Acknowledgement, data offset, window and options are the same octet by octet; the urgent pointer
        // means nothing without URG.
        sequence(b) == expected
            && a[8..13] == b[8..13]
            && (a[13] ^ b[13]) & !(PSH | FIN) == 0
            && a[14..16] == b[14..16]
            && a[20..] == b[20..]
    }
}

/// A packet that may be one of many segments.
fn joinable(packet: &[u8], headers: &Headers, checksum: ChecksumState) -> bool {
    let partial = checksum == ChecksumState::Partial;
    if headers.fragment != Fragment::Whole {
        return false;
    }
    let plain_ip = match headers.version {
        IpVersion::V4 => headers.l4() == IPV4_HEADER_LEN && headers.ipv4_checksum_holds(packet),
        IpVersion::V6 => headers.l4() == IPV6_HEADER_LEN,
    };
    let l4 = headers.l4();
    let plain_transport = match headers.protocol() {
        Protocol::TCP => {
            let flags = packet[l4 + 13];
            flags & (SYN | RST | URG | ECE_CWR) == 0 && packet[l4 + 18..l4 + 20] == [0, 0]
        }
        Protocol::UDP => {
            (partial || packet[l4 + 6..l4 + 8] != [0, 0])
                && usize::from(u16::from_be_bytes([packet[l4 + 4], packet[l4 + 5]])) == packet.len() - l4
        }
        _ => false,
    };
    plain_ip
        && plain_transport
        && headers.payload() < packet.len()
        && packet.len() <= COALESCED_LEN_MAX
        // A joined packet is written with a checksum yet to be made: a wrong one must not become right.
        && (partial || checksum::transport_holds(packet, headers))
}

/// Equal but for length, checksum and an identification that counts on. A datagram that must not be fragmented has
/// an identification that means nothing (RFC 6864): sockets that are not connected leave it at zero.
fn same_ip_header(headers: &Headers, first: &[u8], next: &[u8], index: usize) -> bool {
    match headers.version {
        IpVersion::V4 => {
            let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            let unused =
                headers.dont_fragment && headers.protocol() == Protocol::UDP && id(next) == id(first);
            first[..2] == next[..2]
                && first[6..10] == next[6..10]
                && (unused || id(next) == id(first).wrapping_add(index as u16))
        }
        IpVersion::V6 => first[..4] == next[..4] && first[6..8] == next[6..8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::vnet_hdr::VnetHeader;

    fn push(coalescer: &mut Coalescer, packet: &[u8]) -> bool {
        coalescer.push(packet, &Headers::parse(packet).unwrap(), ChecksumState::Complete)
    }

    fn with_id(mut packet: Vec<u8>, id: u16) -> Vec<u8> {
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        checksum::write_ipv4_header(&mut packet);
        packet
    }

    #[test]
    fn a_lone_packet_stays_as_it_is() {
        let packet = testing::tcp(false, (1, 2), 0, 0x10, b"abc");
        let mut coalescer = Coalescer::new();
        assert!(push(&mut coalescer, &packet));
        let out = coalescer.finish().unwrap();
        assert_eq!(VnetHeader::read(out).unwrap(), (VnetHeader::default(), &packet[..]));
        coalescer.clear();
        assert!(coalescer.is_empty() && coalescer.finish().is_none());
    }

    #[test]
    fn what_does_not_continue_is_refused() {
        let first = with_id(testing::tcp(false, (1, 2), 100, 0x10, &[0; 10]), 7);
        let next =
            |ports, sequence, flags, id| with_id(testing::tcp(false, ports, sequence, flags, &[1; 10]), id);
        let good = next((1, 2), 110, 0x10, 8);
        let mut wrong_checksum = good.clone();
        wrong_checksum[60] ^= 1;
        let mut other_options = good.clone();
        other_options[20 + 20 + 5] ^= 1;
        let headers = Headers::parse(&other_options).unwrap();
        checksum::write_transport(&mut other_options, &headers);
        let mut other_ttl = good.clone();
        other_ttl[8] -= 1;
        checksum::write_ipv4_header(&mut other_ttl);
        for (what, packet) in [
            ("other flow", next((1, 3), 110, 0x10, 8)),
            ("gap", next((1, 2), 111, 0x10, 8)),
            ("SYN", next((1, 2), 110, 0x12, 8)),
            ("RST", next((1, 2), 110, 0x14, 8)),
            ("identification", next((1, 2), 110, 0x10, 9)),
            ("checksum", wrong_checksum),
            ("options", other_options),
            ("TTL", other_ttl),
            ("longer", with_id(testing::tcp(false, (1, 2), 110, 0x10, &[1; 11]), 8)),
            ("empty", with_id(testing::tcp(false, (1, 2), 110, 0x10, &[]), 8)),
        ] {
            let mut coalescer = Coalescer::new();
            assert!(push(&mut coalescer, &first));
            assert!(!push(&mut coalescer, &packet), "{what}");
        }
        let mut coalescer = Coalescer::new();
        assert!(push(&mut coalescer, &first));
        assert!(push(&mut coalescer, &good));
        assert!(push(&mut coalescer, &next((1, 2), 120, 0x18, 9)), "PSH joins");
        assert!(!push(&mut coalescer, &next((1, 2), 130, 0x10, 10)), "and ends");
    }

    #[test]
    fn stays_within_an_ip_packet() {
        let mut coalescer = Coalescer::new();
        let mut sequence = 0;
        let mut taken = 0;
        loop {
            let packet = testing::tcp(true, (1, 2), sequence, 0x10, &[0; 1_400]);
            if !push(&mut coalescer, &packet) {
                break;
            }
            taken += 1;
            sequence += 1_400;
        }
        assert_eq!(taken, (65_535 - 72) / 1_400);
        assert!(coalescer.finish().unwrap().len() <= VNET_HEADER_LEN + COALESCED_LEN_MAX);
    }
}
