use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::testing::{self, Rng, V4_A, V4_B, V6_A, V6_B};
use crate::tuple::TcpFlags;

fn with_next_headers(packet: &[u8], chain: &[(u8, usize)]) -> Vec<u8> {
    let mut out = packet[..40].to_vec();
    let last = packet[6];
    let mut extension = Vec::new();
    for (index, (_, units)) in chain.iter().enumerate() {
        let next = chain.get(index + 1).map_or(last, |(kind, _)| *kind);
        let mut header = vec![0u8; units * 8];
        header[0] = next;
        header[1] = u8::try_from(units - 1).unwrap();
        extension.extend(header);
    }
    if let Some((kind, _)) = chain.first() {
        out[6] = *kind;
    }
    out.extend(&extension);
    out.extend(&packet[40..]);
    let payload = u16::try_from(out.len() - 40).unwrap();
    out[4..6].copy_from_slice(&payload.to_be_bytes());
    out
}

#[test]
fn tcp_of_both_families() {
    for v6 in [false, true] {
        let packet = testing::tcp(v6, (40000, 443), 9, TcpFlags::SYN, b"");
        let headers = Headers::parse(&packet).unwrap();
        assert_eq!(headers.tuple().protocol, Protocol::TCP);
        assert_eq!((headers.tuple().source_port, headers.tuple().destination_port), (40000, 443));
        assert_eq!(headers.meta.tcp_flags, TcpFlags(TcpFlags::SYN));
        assert_eq!(headers.meta.ttl, 64);
        assert_eq!(headers.len(), packet.len());
        assert_eq!(headers.l4(), if v6 { 40 } else { 20 });
        assert_eq!(headers.payload(), packet.len());
        assert_eq!(headers.fragment, Fragment::Whole);
        assert!(headers.meta.opens());
        assert!(headers.ipv4_checksum_holds(&packet));
        assert!(crate::checksum::transport_holds(&packet, &headers));
    }
}

#[test]
fn trailing_octets_are_not_the_packets() {
    let mut packet = testing::udp(false, (1, 2), b"hello");
    let len = packet.len();
    packet.extend([0; 9]);
    assert_eq!(Headers::parse(&packet).unwrap().len(), len);
}

#[test]
fn echo_has_its_identifier_for_ports() {
    for v6 in [false, true] {
        let headers = Headers::parse(&testing::echo(v6, 0x1234, b"x")).unwrap();
        assert_eq!((headers.tuple().source_port, headers.tuple().destination_port), (0x1234, 0x1234));
        assert!(headers.meta.opens());
        assert!(!headers.is_icmp_error());
    }
}

#[test]
fn ipv4_options_are_skipped() {
    let mut packet = testing::udp(false, (7, 8), b"hello");
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    crate::checksum::write_ipv4_header(&mut packet);
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!(headers.l4(), 24);
    assert_eq!(headers.tuple().source_port, 7);
    assert!(headers.ipv4_checksum_holds(&packet));
    packet[8] ^= 1;
    assert!(!headers.ipv4_checksum_holds(&packet));
}

#[test]
fn ipv6_extension_headers_are_followed() {
    let packet = testing::tcp(true, (1, 2), 0, TcpFlags::SYN, b"abc");
    let chained = with_next_headers(&packet, &[(0, 1), (43, 2), (60, 3)]);
    let headers = Headers::parse(&chained).unwrap();
    assert_eq!(headers.l4(), 40 + 48);
    assert_eq!(headers.tuple(), Headers::parse(&packet).unwrap().tuple());
    assert!(crate::checksum::transport_holds(&chained, &headers));

    let eight = with_next_headers(&packet, &[(60, 1); 8]);
    assert!(Headers::parse(&eight).is_ok());
    let nine = with_next_headers(&packet, &[(60, 1); 9]);
    assert_eq!(Headers::parse(&nine), Err(Malformed::Extensions));
    let late_hop_by_hop = with_next_headers(&packet, &[(60, 1), (0, 1)]);
    assert_eq!(Headers::parse(&late_hop_by_hop), Err(Malformed::Extensions));
}

#[test]
fn ipv6_without_next_header() {
    let mut packet = testing::udp(true, (1, 2), b"");
    packet[6] = 59;
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!(headers.protocol(), Protocol(59));
    assert_eq!(headers.tuple().source_port, 0);
}

#[test]
fn fragments_of_ipv4() {
    let mut first = testing::udp(false, (5, 6), &[0; 64]);
    first[4..6].copy_from_slice(&0xbeefu16.to_be_bytes());
    first[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    let headers = Headers::parse(&first).unwrap();
    assert_eq!(headers.fragment, Fragment::First { id: 0xbeef });
    assert_eq!(headers.tuple().source_port, 5);
    assert!(!headers.is_later_fragment());

    let mut later = first.clone();
    later[6..8].copy_from_slice(&9u16.to_be_bytes());
    let headers = Headers::parse(&later).unwrap();
    assert_eq!(headers.fragment, Fragment::Later { id: 0xbeef, offset: 72, last: true });
    assert_eq!((headers.tuple().source_port, headers.tuple().destination_port), (0, 0));
    assert_eq!(headers.payload(), 20);

    later[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
    assert_eq!(Headers::parse(&later), Err(Malformed::Fragment));
}

#[test]
fn fragments_of_ipv6() {
    let packet = testing::udp(true, (5, 6), &[0; 64]);
    let mut first = with_next_headers(&packet, &[(44, 1)]);
    first[41] = 0;
    first[42..44].copy_from_slice(&1u16.to_be_bytes());
    first[44..48].copy_from_slice(&0xdead_beefu32.to_be_bytes());
    let headers = Headers::parse(&first).unwrap();
    assert_eq!(headers.fragment, Fragment::First { id: 0xdead_beef });
    assert_eq!(headers.tuple().destination_port, 6);

    let mut later = first.clone();
    later[42..44].copy_from_slice(&72u16.to_be_bytes());
    let headers = Headers::parse(&later).unwrap();
    assert_eq!(headers.fragment, Fragment::Later { id: 0xdead_beef, offset: 72, last: true });
    assert_eq!(headers.tuple().destination_port, 0);
    assert_eq!(headers.protocol(), Protocol::UDP);

    let mut atomic = first;
    atomic[42..44].copy_from_slice(&0u16.to_be_bytes());
    assert_eq!(Headers::parse(&atomic).unwrap().fragment, Fragment::Whole);
}

#[test]
fn tiny_first_fragment_is_refused() {
    let mut packet = testing::raw_v4(6, &[0; 16]);
    packet[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    assert_eq!(Headers::parse(&packet), Err(Malformed::Fragment));
}

#[test]
fn multicast_and_broadcast() {
    let mut packet = testing::udp(false, (1, 2), b"");
    packet[16..20].copy_from_slice(&[255; 4]);
    assert!(Headers::parse(&packet).unwrap().is_multicast());
    packet[16..20].copy_from_slice(&[239, 1, 2, 3]);
    let headers = Headers::parse(&packet).unwrap();
    assert!(headers.is_multicast() && !headers.is_link_noise());
    packet[12..16].copy_from_slice(&[224, 0, 0, 1]);
    assert_eq!(Headers::parse(&packet), Err(Malformed::Source));

    let mut packet = testing::udp(true, (1, 2), b"");
    packet[24..26].copy_from_slice(&[0xff, 0x02]);
    let headers = Headers::parse(&packet).unwrap();
    assert!(headers.is_multicast() && headers.is_link_noise());
}

#[test]
fn embedded_packet_of_icmp_errors() {
    let inner = testing::tcp(false, (40000, 443), 5, TcpFlags::ACK, &[0; 100]);
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0x78];
    message.extend(&inner[..28]);
    let packet = testing::raw_v4(1, &message);
    let headers = Headers::parse(&packet).unwrap();
    assert!(headers.is_icmp_error());
    let embedded = headers.embedded.unwrap();
    assert_eq!(embedded.tuple, *Headers::parse(&inner).unwrap().tuple());
    assert_eq!(headers.meta.embedded, Some(embedded.tuple));
    assert_eq!((embedded.offset, embedded.l4_offset), (28, 48));
    assert_eq!(headers.tuple().source_port, 0);
    assert!(!headers.meta.opens());

    let short = testing::raw_v4(1, &message[..30]);
    assert_eq!(Headers::parse(&short).unwrap().embedded, None);
}

#[test]
fn embedded_ipv6_with_extensions() {
    let inner = with_next_headers(&testing::udp(true, (9, 53), &[0; 40]), &[(0, 1), (60, 1)]);
    let mut packet = testing::udp(true, (0, 0), b"");
    packet.truncate(40);
    packet[6] = 58;
    packet.extend([2, 0, 0, 0, 0, 0, 5, 0]);
    packet.extend(&inner);
    let payload = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    let embedded = Headers::parse(&packet).unwrap().embedded.unwrap();
    assert_eq!(embedded.tuple.source, IpAddr::V6(Ipv6Addr::from(V6_A)));
    assert_eq!(embedded.tuple.destination, IpAddr::V6(Ipv6Addr::from(V6_B)));
    assert_eq!((embedded.tuple.source_port, embedded.tuple.destination_port), (9, 53));
    assert_eq!(embedded.l4_offset, 40 + 8 + 40 + 16);
}

#[test]
fn every_truncation_is_an_error() {
    for packet in [
        testing::tcp(false, (1, 2), 3, 0x18, b"payload"),
        testing::tcp(true, (1, 2), 3, 0x18, b"payload"),
        testing::udp(false, (1, 2), b"payload"),
        with_next_headers(&testing::udp(true, (1, 2), b"payload"), &[(0, 1), (60, 2)]),
        testing::echo(true, 1, b"payload"),
    ] {
        for len in 0..packet.len() {
            assert!(Headers::parse(&packet[..len]).is_err(), "length {len}");
        }
    }
}

#[test]
fn wrong_lengths() {
    let mut packet = testing::udp(false, (1, 2), b"payload");
    packet[24..26].copy_from_slice(&100u16.to_be_bytes());
    assert_eq!(Headers::parse(&packet), Err(Malformed::Length));
    packet[24..26].copy_from_slice(&7u16.to_be_bytes());
    assert_eq!(Headers::parse(&packet), Err(Malformed::Length));
    packet[2..4].copy_from_slice(&19u16.to_be_bytes());
    assert_eq!(Headers::parse(&packet), Err(Malformed::Length));
    let mut packet = testing::tcp(false, (1, 2), 3, 0, b"");
    packet[32] = 0x40;
    assert_eq!(Headers::parse(&packet), Err(Malformed::Length));
    assert_eq!(Headers::parse(&[0x50; 40]), Err(Malformed::Version));
}

#[test]
fn agrees_with_etherparse() {
    let mut rng = Rng::new(3);
    for round in 0..2_000 {
        let v6 = rng.chance(50);
        let ports = (rng.next() as u16, rng.next() as u16);
        let len = rng.below(300);
        let payload = rng.bytes(len);
        let packet = if rng.chance(50) {
            testing::tcp(v6, ports, rng.next() as u32, rng.next() as u8 & 0x1f, &payload)
        } else {
            testing::udp(v6, ports, &payload)
        };
        let headers = Headers::parse(&packet).unwrap();
        let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
        let (found, found_payload) = match sliced.transport.unwrap() {
            etherparse::TransportSlice::Tcp(tcp) => {
                ((tcp.source_port(), tcp.destination_port()), tcp.payload().len())
            }
            etherparse::TransportSlice::Udp(udp) => {
                ((udp.source_port(), udp.destination_port()), udp.payload().len())
            }
            _ => unreachable!("only TCP and UDP are built"),
        };
        assert_eq!((headers.tuple().source_port, headers.tuple().destination_port), found, "round {round}");
        assert_eq!(headers.len() - headers.payload(), found_payload);
        let (source, destination) = if v6 {
            (IpAddr::V6(Ipv6Addr::from(V6_A)), IpAddr::V6(Ipv6Addr::from(V6_B)))
        } else {
            (IpAddr::V4(Ipv4Addr::from(V4_A)), IpAddr::V4(Ipv4Addr::from(V4_B)))
        };
        assert_eq!((headers.tuple().source, headers.tuple().destination), (source, destination));
    }
}
