//! What the tests of this crate share: a seeded generator and packets made by another implementation.

use etherparse::{IpNumber, PacketBuilder, TcpHeader, TcpOptionElement};

/// SplitMix64: small, seeded, the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub(crate) const V4_A: [u8; 4] = [10, 1, 0, 4];
pub(crate) const V4_B: [u8; 4] = [10, 2, 0, 4];
pub(crate) const V6_A: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
pub(crate) const V6_B: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];

/// A TCP segment with the timestamp option, over IPv4 or IPv6.
pub(crate) fn tcp(v6: bool, ports: (u16, u16), sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(ports.0, ports.1, sequence, 0x2000);
    header.fin = flags & 0x01 != 0;
    header.syn = flags & 0x02 != 0;
    header.rst = flags & 0x04 != 0;
    header.psh = flags & 0x08 != 0;
    header.ack = flags & 0x10 != 0;
    header.acknowledgment_number = 77;
    let elements = if header.syn {
        vec![TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::Timestamp(1, 2)]
    } else {
        vec![TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(1, 2)]
    };
    header.set_options(&elements).expect("the options fit");
    let builder = if v6 { PacketBuilder::ipv6(V6_A, V6_B, 64) } else { PacketBuilder::ipv4(V4_A, V4_B, 64) };
    let mut packet = Vec::new();
    builder.tcp_header(header).write(&mut packet, payload).expect("written to memory");
    packet
}

/// A UDP datagram.
pub(crate) fn udp(v6: bool, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = if v6 { PacketBuilder::ipv6(V6_A, V6_B, 64) } else { PacketBuilder::ipv4(V4_A, V4_B, 64) };
    let mut packet = Vec::new();
    builder.udp(ports.0, ports.1).write(&mut packet, payload).expect("written to memory");
    packet
}

/// An echo request.
pub(crate) fn echo(v6: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if v6 {
        PacketBuilder::ipv6(V6_A, V6_B, 64).icmpv6_echo_request(id, 1).write(&mut packet, payload)
    } else {
        PacketBuilder::ipv4(V4_A, V4_B, 64).icmpv4_echo_request(id, 1).write(&mut packet, payload)
    }
    .expect("written to memory");
    packet
}

/// An IPv4 packet of any protocol.
pub(crate) fn raw_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(V4_A, V4_B, 64)
        .write(&mut packet, IpNumber(protocol), payload)
        .expect("written to memory");
    packet
}
