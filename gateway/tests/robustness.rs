//! Nothing that comes by the wire makes an endpoint panic.

mod common;

use common::*;
use proptest::prelude::*;
use vnet_gateway::Opened;

/// A datagram with a WireGuard message's type and, often, its length.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![Just(148_usize), Just(92), Just(64), 0..200_usize, Just(1432)];
    (0..6_u8, 0..12_u32, any::<[u8; 32]>(), len).prop_map(|(kind, receiver, noise, len)| {
        let mut bytes: Vec<u8> = noise.into_iter().cycle().take(len).collect();
        let index = ((receiver >> 2) << 8 | receiver & 3).to_le_bytes();
        for (at, part) in [(0, &[kind, 0, 0, 0][..]), (4, &index), (if kind == 2 { 8 } else { 4 }, &index)] {
            if let Some(slot) = bytes.get_mut(at..at + part.len()) {
                slot.copy_from_slice(part);
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_datagrams_are_refused_and_harm_nothing(
        datagrams in prop::collection::vec(datagram(), 0..200),
        out_len in 0..2048_usize,
    ) {
        let mut pair = Pair::connected();
        let mut out = vec![0; out_len];
        for data in datagrams {
            let opened = pair.sides[1].open(pair.now, address(0), &data, &mut out);
            prop_assert!(matches!(opened, Opened::Rejected { .. }), "{opened:?}");
        }
        prop_assert!(pair.are_connected());
        pair.seal(0, &ipv4(7, 100));
        pair.deliver();
        prop_assert_eq!(&pair.received[1], &[ipv4(7, 100)]);
    }

    #[test]
    fn authentic_packets_of_any_content_are_packets_of_their_stated_length_or_refused(
        content in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut pair = Pair::connected();
        pair.seal(0, &content);
        pair.deliver();
        if let Some(packet) = pair.received[1].first() {
            prop_assert_eq!(&packet[..], &content[..packet.len()]);
            let stated = match packet[0] >> 4 {
                4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                _ => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
            };
            prop_assert_eq!(packet.len(), stated);
        } else if !content.is_empty() {
            prop_assert_eq!(pair.status(1).rejections.malformed, 1);
        }
    }
}
