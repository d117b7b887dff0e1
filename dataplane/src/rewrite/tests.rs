use super::*;
use crate::checksum;
use crate::testing::{self, Rng};

fn check(packet: &[u8], headers: &Headers) {
    let again = Headers::parse(packet).unwrap();
    assert_eq!(again.meta, headers.meta);
    assert_eq!(again.embedded, headers.embedded);
    assert!(again.ipv4_checksum_holds(packet));
    assert!(checksum::transport_holds(packet, &again));
}

fn address(v6: bool, number: u8) -> IpAddr {
    if v6 { format!("fd00:9::{number:x}") } else { format!("203.0.113.{number}") }.parse().unwrap()
}

fn packets(rng: &mut Rng, v6: bool) -> Vec<Vec<u8>> {
    let len = rng.below(200);
    let payload = rng.bytes(len);
    let ports = (1 + rng.below(65_535) as u16, 1 + rng.below(65_535) as u16);
    vec![
        testing::tcp(v6, ports, rng.next() as u32, 0x02, &payload),
        testing::tcp(v6, ports, rng.next() as u32, 0x18, &payload),
        testing::udp(v6, ports, &payload),
        testing::echo(v6, ports.0, &payload),
    ]
}

/// An ICMP error from a hop about `inner`, of which it quotes `quoted` octets.
fn error_about(v6: bool, inner: &[u8], quoted: usize) -> Vec<u8> {
    let headers = Headers::parse(inner).unwrap();
    let mut out = vec![0; 1_280];
    let len = crate::icmp::build_error(
        crate::icmp::IcmpError::TimeExceeded,
        address(v6, 250),
        inner,
        &headers,
        &mut out,
    )
    .unwrap();
    out.truncate(len);
    let ip = if v6 { 40 } else { 20 };
    let cut = out.len().min(ip + 8 + quoted);
    out.truncate(cut);
    if v6 {
        out[4..6].copy_from_slice(&((cut - 40) as u16).to_be_bytes());
    } else {
        out[2..4].copy_from_slice(&(cut as u16).to_be_bytes());
        checksum::write_ipv4_header(&mut out);
    }
    let headers = Headers::parse(&out).unwrap();
    checksum::write_transport(&mut out, &headers);
    out
}

#[test]
fn checksums_hold_after_every_edit() {
    let mut rng = Rng::new(31);
    for _ in 0..500 {
        for v6 in [false, true] {
            for mut packet in packets(&mut rng, v6) {
                let mut headers = Headers::parse(&packet).unwrap();
                check(&packet, &headers);
                assert!(decrement_ttl(&mut packet, &mut headers));
                check(&packet, &headers);
                let port = rng.chance(70).then(|| rng.next() as u16);
                rewrite_source(&mut packet, &mut headers, address(v6, 9), port, ChecksumState::Complete);
                check(&packet, &headers);
                let port = rng.chance(70).then(|| rng.next() as u16);
                rewrite_destination(&mut packet, &mut headers, address(v6, 8), port, ChecksumState::Complete);
                check(&packet, &headers);
                clamp_mss(&mut packet, &headers, 1_360, 1_340, ChecksumState::Complete);
                check(&packet, &headers);
                assert_eq!(headers.tuple().source, address(v6, 9));
                assert_eq!(headers.tuple().destination, address(v6, 8));
            }
        }
    }
}

#[test]
fn partial_checksums_are_patched_for_addresses_only() {
    let mut rng = Rng::new(32);
    for _ in 0..500 {
        for v6 in [false, true] {
            for mut packet in packets(&mut rng, v6).into_iter().take(3) {
                let mut headers = Headers::parse(&packet).unwrap();
                let at = headers.l4() + field_offset(headers.protocol(), headers.version).unwrap();
                let pseudo = |headers: &Headers| {
                    let (source, destination) = (headers.tuple().source, headers.tuple().destination);
                    let len = headers.len() - headers.l4();
                    let sum = checksum::pseudo_header_sum(source, destination, headers.protocol(), len);
                    checksum::fold(sum)
                };
                packet[at..at + 2].copy_from_slice(&pseudo(&headers).to_be_bytes());
                let partial = ChecksumState::Partial;
                rewrite_source(&mut packet, &mut headers, address(v6, 9), Some(rng.next() as u16), partial);
                rewrite_destination(
                    &mut packet,
                    &mut headers,
                    address(v6, 8),
                    Some(rng.next() as u16),
                    partial,
                );
                clamp_mss(&mut packet, &headers, 1_360, 1_340, partial);
                let found = u16::from_be_bytes([packet[at], packet[at + 1]]);
                assert_eq!(found, pseudo(&headers));
                checksum::write_transport(&mut packet, &headers);
                check(&packet, &headers);
            }
        }
    }
}

#[test]
fn ttl_ends_at_one() {
    for v6 in [false, true] {
        let mut packet = testing::udp(v6, (1, 2), b"");
        packet[if v6 { 7 } else { 8 }] = 1;
        checksum::write_ipv4_header(if v6 { &mut [] } else { &mut packet });
        let mut headers = Headers::parse(&packet).unwrap();
        let before = packet.clone();
        let action = Action::DecrementTtl { answer_from: None };
        let result = apply(&action, &mut packet, &mut headers, ChecksumState::Complete);
        assert_eq!(result, Err(Reason::TtlExceeded));
        assert_eq!(packet, before);
    }
}

#[test]
fn mss_is_lowered_and_never_raised() {
    for (v6, bound) in [(false, 1_360u16), (true, 1_340)] {
        let mut packet = testing::tcp(v6, (1, 2), 0, 0x02, b"");
        let headers = Headers::parse(&packet).unwrap();
        let at = headers.l4() + 22;
        assert_eq!(packet[at..at + 2], 1_460u16.to_be_bytes());
        assert!(clamp_mss(&mut packet, &headers, 1_360, 1_340, ChecksumState::Complete));
        assert_eq!(packet[at..at + 2], bound.to_be_bytes());
        check(&packet, &headers);
        assert!(!clamp_mss(&mut packet, &headers, 1_400, 1_400, ChecksumState::Complete));
        assert_eq!(packet[at..at + 2], bound.to_be_bytes());
        let mut established = testing::tcp(v6, (1, 2), 0, 0x10, b"");
        let headers = Headers::parse(&established).unwrap();
        assert!(!clamp_mss(&mut established, &headers, 100, 100, ChecksumState::Complete));
    }
}

#[test]
fn mss_at_an_odd_octet() {
    let mut packet = testing::tcp(false, (1, 2), 0, 0x02, b"x");
    let headers = Headers::parse(&packet).unwrap();
    packet[40..45].copy_from_slice(&[1, 2, 4, 0x05, 0xb4]);
    packet[45..headers.payload()].fill(1);
    checksum::write_transport(&mut packet, &headers);
    assert!(clamp_mss(&mut packet, &headers, 1_361, 0, ChecksumState::Complete));
    assert_eq!(packet[43..45], 1_361u16.to_be_bytes());
    check(&packet, &headers);
}

#[test]
fn udp_without_checksum_stays_so() {
    let mut packet = testing::udp(false, (1, 2), b"abc");
    packet[26..28].fill(0);
    let mut headers = Headers::parse(&packet).unwrap();
    rewrite_source(&mut packet, &mut headers, address(false, 9), Some(7), ChecksumState::Complete);
    assert_eq!(packet[26..28], [0, 0]);
    check(&packet, &headers);
}

#[test]
fn later_fragments_change_in_their_ip_header_only() {
    let mut packet = testing::udp(false, (1, 2), &[0; 64]);
    packet[6..8].copy_from_slice(&3u16.to_be_bytes());
    checksum::write_ipv4_header(&mut packet);
    let before = packet.clone();
    let mut headers = Headers::parse(&packet).unwrap();
    rewrite_source(&mut packet, &mut headers, address(false, 9), Some(7), ChecksumState::Complete);
    assert_eq!(packet[12..16], [203, 0, 113, 9]);
    assert_eq!(packet[16..], before[16..]);
    assert!(headers.ipv4_checksum_holds(&packet));
}

#[test]
fn icmp_errors_are_translated_inside_too() {
    let mut rng = Rng::new(33);
    for _ in 0..200 {
        for v6 in [false, true] {
            for inner in packets(&mut rng, v6) {
                // The flow left as (NAT address, 1024); the error about it comes back to the NAT address.
                let original = *Headers::parse(&inner).unwrap().tuple();
                let mut sent = inner.clone();
                let mut headers = Headers::parse(&sent).unwrap();
                rewrite_source(
                    &mut sent,
                    &mut headers,
                    address(v6, 10),
                    Some(1_024),
                    ChecksumState::Complete,
                );
                let header_len = if v6 { 40 } else { 20 };
                for quoted in [header_len + 8, header_len + 19, 2_000] {
                    let mut error = error_about(v6, &sent, quoted);
                    let mut headers = Headers::parse(&error).unwrap();
                    check(&error, &headers);
                    rewrite_destination(
                        &mut error,
                        &mut headers,
                        original.source,
                        Some(original.source_port),
                        ChecksumState::Complete,
                    );
                    check(&error, &headers);
                    assert_eq!(headers.tuple().destination, original.source);
                    assert_eq!(headers.meta.embedded, Some(original));
                    // What is quoted is what was sent, but for the zeros of ones' complement.
                    let quote = &error[headers.payload()..];
                    let differing = quote.iter().zip(&inner).filter(|(a, b)| a != b).count();
                    assert!(differing <= 2, "{differing} octets differ");
                }
            }
        }
    }
}

#[test]
fn another_familys_address_changes_nothing() {
    let mut packet = testing::udp(false, (1, 2), b"abc");
    let before = packet.clone();
    let mut headers = Headers::parse(&packet).unwrap();
    rewrite_source(&mut packet, &mut headers, address(true, 9), Some(7), ChecksumState::Complete);
    assert_eq!(packet, before);
}
