//! The header before each packet that a TUN device with IFF_VNET_HDR reads and writes (virtio 1.2, 5.1.6;
//! `linux/virtio_net.h`), and the offloads that it speaks of.

use zerocopy::native_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, ChecksumState};
use crate::packet::{Headers, IpVersion, Malformed};
use crate::tuple::Protocol;

/// Octets of the header.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, in the machine's byte order as a TUN device has it unless told otherwise.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VnetHeader {
    /// VIRTIO_NET_HDR_F_*.
    pub flags: u8,
    /// VIRTIO_NET_HDR_GSO_*.
    pub gso_type: u8,
    /// Octets of IP and transport header; not to be trusted when read.
    pub hdr_len: U16,
    /// Octets of payload in each segment.
    pub gso_size: U16,
    /// Where checksumming starts, in octets from the packet's start.
    pub csum_start: U16,
    /// Where the checksum goes, in octets from `csum_start`.
    pub csum_offset: U16,
}

impl VnetHeader {
    /// Reads the header at the start of a buffer; the packet is what follows it.
    pub fn read(buffer: &[u8]) -> Result<(VnetHeader, &[u8]), Malformed> {
        VnetHeader::read_from_prefix(buffer).map_err(|_| Malformed::Truncated)
    }

    /// The header's octets.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LEN] {
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }
}

/// How a super-packet is to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoType {
    /// TCP over either family.
    Tcp,
    /// UDP (USO): each segment is a datagram.
    Udp,
}

/// What is left to do on a packet before it is fit for a wire, checked against its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Segmentation, with the octets of payload per segment, never zero.
    pub gso: Option<(GsoType, u16)>,
    /// What the packet's own transport checksum field holds.
    pub checksum: ChecksumState,
    /// A partial checksum that is not the packet's own but one of a packet inside it: start and offset.
    inner_checksum: Option<(u16, u16)>,
    ecn: bool,
}

impl Offload {
    /// Nothing is left to do.
    pub const NONE: Offload =
        Offload { gso: None, checksum: ChecksumState::Complete, inner_checksum: None, ecn: false };

    /// A super-packet or one packet whose own checksum is partial.
    pub fn partial(gso: Option<(GsoType, u16)>) -> Offload {
        Offload { gso, checksum: ChecksumState::Partial, ..Offload::NONE }
    }

    /// Checks what the header says against the packet behind it. `hdr_len` is not looked at.
    pub fn read(vnet: &VnetHeader, headers: &Headers) -> Result<Offload, Malformed> {
        let mut offload = Offload::NONE;
        if vnet.flags & NEEDS_CSUM != 0 {
            let (start, offset) = (vnet.csum_start.get(), vnet.csum_offset.get());
            if usize::from(start) + usize::from(offset) + 2 > headers.len() {
                return Err(Malformed::Length);
            }
            let own = checksum::field_offset(headers.protocol(), headers.version);
            let inside = if own.is_some() { headers.payload() } else { headers.l4() };
            if start == headers.l4_offset && own == Some(usize::from(offset)) {
                offload.checksum = ChecksumState::Partial;
            } else if usize::from(start) < inside {
                // It would be written over this packet's own headers.
                return Err(Malformed::Length);
            } else {
                offload.inner_checksum = Some((start, offset));
            }
        }
        let gso_type = match (vnet.gso_type & !GSO_ECN, headers.version, headers.protocol()) {
            (GSO_NONE, _, _) => return Ok(offload),
            (GSO_TCPV4, IpVersion::V4, Protocol::TCP) | (GSO_TCPV6, IpVersion::V6, Protocol::TCP) => {
                GsoType::Tcp
            }
            (GSO_UDP_L4, _, Protocol::UDP) => GsoType::Udp,
            _ => return Err(Malformed::Length),
        };
        if vnet.gso_size.get() == 0 || headers.is_fragment() || offload.inner_checksum.is_some() {
            return Err(Malformed::Length);
        }
        offload.ecn = vnet.gso_type & GSO_ECN != 0;
        offload.gso = Some((gso_type, vnet.gso_size.get()));
        Ok(offload)
    }

    /// The header to write before the packet.
    pub fn to_vnet(self, headers: &Headers) -> VnetHeader {
        let mut vnet = VnetHeader::default();
        let own = checksum::field_offset(headers.protocol(), headers.version);
        let partial = match (self.checksum, own) {
            (ChecksumState::Partial, Some(offset)) => Some((headers.l4_offset, offset as u16)),
            _ => self.inner_checksum,
        };
        if let Some((start, offset)) = partial {
            vnet.flags = NEEDS_CSUM;
            vnet.csum_start = start.into();
            vnet.csum_offset = offset.into();
        }
        if let Some((gso_type, size)) = self.gso {
            vnet.gso_type = match (gso_type, headers.version) {
                (GsoType::Tcp, IpVersion::V4) => GSO_TCPV4,
                (GsoType::Tcp, IpVersion::V6) => GSO_TCPV6,
                (GsoType::Udp, _) => GSO_UDP_L4,
            };
            if self.ecn {
                vnet.gso_type |= GSO_ECN;
            }
            vnet.gso_size = size.into();
            vnet.hdr_len = headers.payload_offset.into();
        }
        vnet
    }

    /// What the checksum field holds of a packet that may be joined with its neighbours: not of a super-packet, nor of one
    /// with a checksum to be made elsewhere than in its own header.
    pub fn joinable(&self) -> Option<ChecksumState> {
        (self.gso.is_none() && self.inner_checksum.is_none() && !self.ecn).then_some(self.checksum)
    }

    /// Segments that the packet becomes, at least one.
    pub fn segments(&self, headers: &Headers) -> usize {
        match self.gso {
            Some((_, size)) => (headers.len() - headers.payload()).div_ceil(usize::from(size)).max(1),
            None => 1,
        }
    }

    /// What is left to do on a part of this super-packet, whose checksum is partial: of several segments or one, the
    /// first or a later one. ECN's CWR is with the first.
    pub(crate) fn part(self, is_several: bool, is_first: bool) -> Offload {
        let gso = self.gso.filter(|_| is_several);
        Offload { ecn: self.ecn && is_first && is_several, ..Offload::partial(gso) }
    }

    /// Packets on a wire and their octets, IP headers included.
    pub fn wire(&self, headers: &Headers) -> (u64, u64) {
        let segments = self.segments(headers);
        (segments as u64, (headers.len() + (segments - 1) * headers.payload()) as u64)
    }

    /// Octets of the longest IP packet on a wire: what an MTU is held against.
    pub fn wire_len_max(&self, headers: &Headers) -> usize {
        match self.gso {
            Some((_, size)) => headers.len().min(headers.payload() + usize::from(size)),
            None => headers.len(),
        }
    }

    /// Completes a partial checksum in place, for a packet that is not a super-packet.
    pub fn finish_checksum(&mut self, packet: &mut [u8], headers: &Headers) {
        if self.checksum == ChecksumState::Partial {
            checksum::write_transport(packet, headers);
            self.checksum = ChecksumState::Complete;
        }
        if let Some((start, offset)) = self.inner_checksum.take() {
            let at = usize::from(start) + usize::from(offset);
            // The field holds the pseudo-header's sum, which belongs into the checksum.
            let sum = packet.get(usize::from(start)..headers.len()).map_or(0, checksum::sum);
            if let Some(field) = packet.get_mut(at..at + 2) {
                field.copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn vnet(gso_type: u8, gso_size: u16, start: u16, offset: u16) -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: 4_321.into(),
            gso_size: gso_size.into(),
            csum_start: start.into(),
            csum_offset: offset.into(),
        }
    }

    #[test]
    fn super_packets_count_as_their_segments() {
        let packet = testing::tcp(false, (1, 2), 0, 0x10, &[0; 4_000]);
        let headers = Headers::parse(&packet).unwrap();
        assert_eq!(headers.payload(), 52);
        let offload = Offload::read(&vnet(GSO_TCPV4, 1_448, 20, 16), &headers).unwrap();
        assert_eq!(offload, Offload::partial(Some((GsoType::Tcp, 1_448))));
        assert_eq!(offload.wire(&headers), (3, 4_000 + 3 * 52));
        assert_eq!(offload.wire_len_max(&headers), 1_500);
        let written = offload.to_vnet(&headers);
        assert_eq!(written, VnetHeader { hdr_len: 52.into(), ..vnet(GSO_TCPV4, 1_448, 20, 16) });
        assert_eq!(VnetHeader::read(&written.to_bytes()).unwrap(), (written, &[][..]));
    }

    #[test]
    fn plain_packets_count_as_one() {
        let packet = testing::udp(true, (1, 2), b"x");
        let headers = Headers::parse(&packet).unwrap();
        let offload = Offload::read(&VnetHeader::default(), &headers).unwrap();
        assert_eq!(offload, Offload::NONE);
        assert_eq!(offload.wire(&headers), (1, 49));
        assert_eq!(offload.to_vnet(&headers), VnetHeader::default());
    }

    #[test]
    fn contradictions_are_refused() {
        let packet = testing::tcp(false, (1, 2), 0, 0x10, &[0; 100]);
        let headers = Headers::parse(&packet).unwrap();
        for wrong in [
            vnet(GSO_TCPV4, 0, 20, 16),
            vnet(GSO_TCPV6, 1_448, 20, 16),
            vnet(GSO_UDP_L4, 1_448, 20, 16),
            vnet(3, 1_448, 20, 16),
            vnet(GSO_TCPV4, 1_448, 20, 60_000),
            vnet(GSO_TCPV4, 1_448, 65_535, 65_535),
            vnet(GSO_TCPV4, 1_448, 30, 16),
        ] {
            assert!(Offload::read(&wrong, &headers).is_err(), "{wrong:?}");
        }
        assert!(VnetHeader::read(&[0; 9]).is_err());
    }

    #[test]
    fn a_checksum_lies_behind_the_headers() {
        let packet = testing::udp(false, (1, 2), &[0; 60]);
        let headers = Headers::parse(&packet).unwrap();
        for start in [0, 1, 19, 20, 27] {
            assert!(Offload::read(&vnet(GSO_NONE, 0, start, 0), &headers).is_err(), "{start}");
        }
        assert!(Offload::read(&vnet(GSO_NONE, 0, 48, 16), &headers).is_ok());
    }

    #[test]
    fn partial_checksums_are_finished() {
        for v6 in [false, true] {
            let complete = testing::tcp(v6, (1, 2), 0, 0x10, b"payload");
            let headers = Headers::parse(&complete).unwrap();
            let mut packet = complete.clone();
            let at = headers.l4() + 16;
            let pseudo = checksum::pseudo_header_sum(
                headers.tuple().source,
                headers.tuple().destination,
                Protocol::TCP,
                packet.len() - headers.l4(),
            );
            packet[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
            let mut offload = Offload::partial(None);
            offload.finish_checksum(&mut packet, &headers);
            assert_eq!(packet, complete);
            assert_eq!(offload, Offload::NONE);

            packet[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
            let mut inner = Offload { inner_checksum: Some((headers.l4_offset, 16)), ..Offload::NONE };
            inner.finish_checksum(&mut packet, &headers);
            assert_eq!(packet, complete);
        }
    }
}
