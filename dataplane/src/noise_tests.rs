//! No octets whatever make any part of the packet's way panic.

use crate::checksum::ChecksumState;
use crate::coalesce::Coalescer;
use crate::fragment::fragment_ipv4;
use crate::fragment_tracker::FragmentTracker;
use crate::icmp::{IcmpError, build_error};
use crate::packet::Headers;
use crate::port::PortId;
use crate::testing::{self, Rng};
use crate::time::Nanos;
use crate::vnet_hdr::{Offload, VNET_HEADER_LEN, VnetHeader};
use crate::{gso, rewrite};

const PACKETS: usize = 1_000_000;

struct Way {
    tracker: FragmentTracker,
    coalescer: Coalescer,
    scratch: Vec<u8>,
    parsed: usize,
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for v6 in [false, true] {
        seeds.push(testing::tcp(v6, (1, 443), 7, 0x02, b""));
        seeds.push(testing::tcp(v6, (1, 443), 7, 0x18, &[5; 90]));
        seeds.push(testing::udp(v6, (1, 53), &[6; 60]));
        seeds.push(testing::echo(v6, 9, &[7; 20]));
        let inner = testing::tcp(v6, (1, 443), 7, 0x10, &[5; 90]);
        let headers = Headers::parse(&inner).unwrap();
        let mut error = vec![0; 600];
        let from = headers.tuple().destination;
        let len = build_error(IcmpError::TimeExceeded, from, &inner, &headers, &mut error).unwrap();
        error.truncate(len);
        seeds.push(error);
    }
    let mut chained = testing::udp(true, (1, 53), &[6; 60]);
    chained.splice(40..40, [60, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9]);
    chained[6] = 0;
    chained[5] += 24;
    seeds.push(chained);
    seeds
}

fn mutate(rng: &mut Rng, packet: &mut Vec<u8>) {
    for _ in 0..rng.below(5) {
        // Most of what matters lies in the headers.
        let reach = if rng.chance(80) { packet.len().min(80) } else { packet.len() };
        if reach == 0 {
            return;
        }
        let at = rng.below(reach);
        match rng.below(6) {
            0 => packet[at] = rng.next() as u8,
            1 => packet[at] ^= 1 << rng.below(8),
            2 => packet[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            3 => packet.truncate(at),
            4 => {
                let noise = rng.bytes(8);
                packet.splice(at..at, noise);
            }
            _ => {
                let len = packet.len() as u16;
                if packet.len() > 6 {
                    let v6 = packet[0] >> 4 == 6;
                    let (field, value) = if v6 { (4, len.saturating_sub(40)) } else { (2, len) };
                    packet[field..field + 2].copy_from_slice(&value.to_be_bytes());
                }
            }
        }
    }
}

fn walk(way: &mut Way, rng: &mut Rng, packet: &mut [u8]) {
    let Ok(mut headers) = Headers::parse(packet) else { return };
    way.parsed += 1;
    assert!(headers.len() <= packet.len());
    assert!(headers.l4() <= headers.payload() && headers.payload() <= headers.len());
    let packet = &mut packet[..headers.len()];
    let vnet = VnetHeader::read(&rng.bytes(VNET_HEADER_LEN)).unwrap().0;
    let vnet = VnetHeader { gso_type: [0, 1, 4, 5, 0x81][rng.below(5)], ..vnet };
    let offload = Offload::read(&vnet, &headers).unwrap_or(Offload::NONE);
    headers.is_link_noise();
    headers.ipv4_checksum_holds(packet);
    crate::checksum::transport_holds(packet, &headers);
    let _ = way.tracker.track(PortId(1), &mut headers, Nanos(way.parsed as u64));
    let (packets, bytes) = offload.wire(&headers);
    assert!(packets >= 1 && bytes >= headers.len() as u64);
    if packets < 64 {
        gso::for_each_segment(packet, &headers, offload, &mut way.scratch, |_| {});
    }
    let _ = fragment_ipv4(packet, &headers, 68 + rng.below(100), &mut way.scratch, |_| {});
    build_error(IcmpError::TimeExceeded, headers.tuple().destination, packet, &headers, &mut way.scratch);
    if !way.coalescer.push(packet, &headers, ChecksumState::Complete) {
        way.coalescer.finish();
        way.coalescer.clear();
    }
    let state = if rng.chance(50) { ChecksumState::Complete } else { ChecksumState::Partial };
    let address = if headers.tuple().source.is_ipv4() { "192.0.2.1" } else { "fd00::1" }.parse().unwrap();
    rewrite::decrement_ttl(packet, &mut headers);
    rewrite::rewrite_source(packet, &mut headers, address, Some(rng.next() as u16), state);
    rewrite::rewrite_destination(packet, &mut headers, address, None, state);
    rewrite::clamp_mss(packet, &headers, 1_360, 1_340, state);
    Offload::partial(None).finish_checksum(packet, &headers);
}

#[test]
fn a_million_packets_without_a_panic() {
    let mut rng = Rng::new(0x5eed);
    let seeds = seeds();
    let mut way = Way {
        tracker: FragmentTracker::new(64, 1),
        coalescer: Coalescer::new(),
        scratch: vec![0; 66_000],
        parsed: 0,
    };
    for number in 0..PACKETS {
        let mut packet = if number % 10 == 0 {
            let len = rng.below(120);
            let mut noise = rng.bytes(len);
            if let Some(first) = noise.first_mut() {
                *first = [0x45, 0x46, 0x4f, 0x60, 0x6f][rng.below(5)];
            }
            noise
        } else {
            seeds[rng.below(seeds.len())].clone()
        };
        mutate(&mut rng, &mut packet);
        walk(&mut way, &mut rng, &mut packet);
    }
    // Enough of them must get beyond the parser for this to mean something.
    assert!(way.parsed > PACKETS / 3, "{}", way.parsed);
}
