//! Two endpoints against each other: what connects, what does not, and what each side says about it.

mod common;

use std::time::Duration;

use common::*;
use vnet_gateway::{
    ConnectionMode, ConnectionStatus, Endpoint, EndpointError, FailureReason, Opened, PresharedKey,
    Rejection, SealBatch, SealOutcome, TunnelConfig,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn packets_of_both_families_pass_both_ways_and_are_never_seen_in_clear() {
    let mut pair = Pair::connected();
    let sent =
        [ipv4(0xdead_beef, 84), ipv6(0xdead_beef, 1280), ipv4(0xdead_beef, 1400), ipv4(0xdead_beef, 20)];
    for side in 0..2 {
        for packet in &sent {
            assert!(matches!(pair.seal(side, packet), SealOutcome::Sealed { .. }));
        }
    }
    pair.deliver();
    assert_eq!(pair.received[0], sent);
    assert_eq!(pair.received[1], sent);
    assert!(
        !pair.seen.iter().any(|frame| frame.data.windows(4).any(|part| part == [0xde, 0xad, 0xbe, 0xef]))
    );
    let status = pair.status(0);
    assert_eq!((status.sent_packets, status.sent_bytes), (4, 84 + 1280 + 1400 + 20));
    assert_eq!((status.received_packets, status.received_bytes), (4, 84 + 1280 + 1400 + 20));
    assert!(status.handshakes >= 1 && status.failure.is_none() && status.last_handshake.is_some());
}

#[test]
fn a_change_of_state_is_told_once() {
    let mut pair = Pair::connected();
    for side in &mut pair.sides {
        assert_eq!(side.next_change(), Some((TUNNEL, ConnectionStatus::Connecting)));
        assert_eq!(side.next_change(), Some((TUNNEL, ConnectionStatus::Connected)));
        assert_eq!(side.next_change(), None);
    }
}

#[test]
fn loss_duplication_and_reordering_neither_stop_the_handshake_nor_repeat_a_packet() {
    let mut pair = Pair::new([config(0), config(1)]);
    pair.faults = Faults { lost: 25, doubled: 20, delayed: 30 };
    pair.run(20 * SECOND);
    assert!(pair.are_connected());
    for number in 0..1000 {
        pair.seal(0, &ipv4(number, 100));
    }
    pair.deliver();
    let mut received = std::mem::take(&mut pair.received[1]);
    assert!((600..900).contains(&received.len()), "{} of 1000 at a quarter lost", received.len());
    let count = received.len();
    received.sort();
    received.dedup();
    assert_eq!(received.len(), count, "a packet came twice");
}

#[test]
fn a_replayed_datagram_is_refused() {
    let mut pair = Pair::connected();
    pair.seal(0, &ipv4(1, 100));
    pair.deliver();
    let frame = pair.seen.last().unwrap().clone();
    pair.give(1, &frame);
    assert_eq!(pair.received[1].len(), 1);
    assert_eq!(pair.status(1).rejections.replayed, 1);
    // A handshake too: its timestamp is not newer.
    let initiation =
        pair.seen.iter().find(|frame| frame.to == address(1) && frame.data[0] == 1).unwrap().clone();
    pair.give(1, &initiation);
    assert_eq!(pair.status(1).rejections.replayed, 2);
}

#[test]
fn a_datagram_that_differs_in_one_bit_is_refused() {
    let mut pair = Pair::connected();
    pair.seal(0, &ipv4(1, 60));
    let frame = pair.seen.last().unwrap().clone();
    for bit in 0..frame.data.len() * 8 {
        let mut forged = frame.clone();
        forged.data[bit / 8] ^= 1 << (bit % 8);
        let mut out = [0; 2048];
        let opened = pair.sides[1].open(pair.now, forged.from, &forged.data, &mut out);
        assert!(matches!(opened, Opened::Rejected { .. }), "bit {bit}: {opened:?}");
    }
    pair.deliver();
    assert_eq!(pair.received[1], [ipv4(1, 60)], "the true one still counts");
}

fn with_shared_key(side: usize, shared_key: &str) -> TunnelConfig {
    let mut config = config(side);
    config.keys.preshared_key = Some(PresharedKey::from_shared_key(shared_key));
    config
}

#[test]
fn different_shared_keys_never_connect_and_both_sides_say_so() {
    let mut pair = Pair::new([with_shared_key(0, "example"), with_shared_key(1, "exampel")]);
    for _ in 0..120 {
        pair.run(SECOND);
        for side in 0..2 {
            assert_ne!(pair.status(side).status, ConnectionStatus::Connected);
            assert_eq!(pair.seal(side, &ipv4(1, 100)), SealOutcome::Down);
        }
    }
    assert_eq!(pair.failure(0), FailureReason::SharedKeyDiffers);
    assert_eq!(pair.failure(1), FailureReason::SharedKeyDiffers);
    assert!(pair.failure(0).to_string().contains("sharedKey"));
    assert_eq!(pair.status(0).handshakes, 0);
    assert!(pair.received.iter().all(Vec::is_empty));
}

#[test]
fn different_shared_keys_show_on_a_side_that_only_responds() {
    let mut responder = with_shared_key(1, "other");
    responder.mode = ConnectionMode::ResponderOnly;
    let mut pair = Pair::new([config(0), responder]);
    pair.run(30 * SECOND);
    assert_eq!(pair.failure(0), FailureReason::SharedKeyDiffers);
    assert!(matches!(pair.failure(1), FailureReason::NeverCompleted { answered: 3.. }));
}

#[test]
fn another_key_pair_than_the_configured_one_is_named() {
    let mut other = config(0);
    other.keys.private_key = private_key(9);
    let mut pair = Pair::new([other, config(1)]);
    pair.run(15 * SECOND);
    assert_eq!(pair.failure(1), FailureReason::PeerKeyDiffers);
    assert!(matches!(pair.failure(0), FailureReason::NoAnswer { initiations: 3.., .. }));
}

#[test]
fn another_source_address_is_refused_counted_and_named() {
    let elsewhere = "203.0.113.77:51820".parse().unwrap();
    let mut pair = Pair::new([config(0), config(1)]);
    pair.disguise[0] = Some(elsewhere);
    pair.run(15 * SECOND);
    let expected = FailureReason::WrongSource { from: elsewhere.ip(), expected: address(0).ip() };
    assert_eq!(pair.failure(1), expected);
    assert!(pair.status(1).rejections.wrong_source > 3);
    assert_eq!(pair.status(1).handshakes, 0);

    // Data of a live session is refused from there too, and does not disturb it.
    let mut pair = Pair::connected();
    pair.disguise[0] = Some(elsewhere);
    pair.seal(0, &ipv4(1, 100));
    pair.deliver();
    assert!(pair.received[1].is_empty() && pair.are_connected());
    assert_eq!(pair.status(1).remote, address(0));
}

#[test]
fn a_side_that_may_roam_is_followed() {
    let elsewhere = "203.0.113.77:1234".parse().unwrap();
    let roaming = TunnelConfig { roaming: true, ..config(1) };
    let mut pair = Pair::new([config(0), roaming]);
    pair.run(SECOND);
    pair.disguise[0] = Some(elsewhere);
    pair.seal(0, &ipv4(1, 100));
    pair.deliver();
    assert_eq!(pair.received[1].len(), 1);
    assert_eq!(pair.status(1).remote, elsewhere);
}

fn with_modes(modes: [ConnectionMode; 2]) -> Pair {
    let mut pair = Pair::new([
        TunnelConfig { mode: modes[0], ..config(0) },
        TunnelConfig { mode: modes[1], ..config(1) },
    ]);
    pair.run(15 * SECOND);
    pair
}

#[test]
fn connection_modes_say_who_starts() {
    use ConnectionMode::{Default, InitiatorOnly, ResponderOnly};
    for modes in [[InitiatorOnly, ResponderOnly], [Default, ResponderOnly], [InitiatorOnly, Default]] {
        let pair = with_modes(modes);
        assert!(pair.are_connected(), "{modes:?}");
        let initiations =
            pair.seen.iter().filter(|frame| frame.data[0] == 1 && frame.from == address(1)).count();
        assert_eq!(initiations > 0, modes[1] != ResponderOnly, "{modes:?}");
    }
    let pair = with_modes([ResponderOnly, ResponderOnly]);
    assert!(pair.seen.is_empty());
    assert_eq!(pair.status(0).failure, Some(FailureReason::WaitingForPeer));
    let pair = with_modes([InitiatorOnly, InitiatorOnly]);
    assert_eq!(pair.failure(0), FailureReason::InitiationRefused);
}

#[test]
fn sessions_are_renewed_without_losing_a_packet() {
    for idle in [false, true] {
        let mut pair = Pair::connected();
        for number in 0..500 {
            pair.run(SECOND);
            assert!(pair.are_connected(), "second {number}, idle {idle}");
            if !idle {
                pair.seal(0, &ipv4(number, 100));
                pair.seal(1, &ipv4(number, 100));
            }
        }
        pair.deliver();
        for received in &pair.received {
            assert_eq!(received.len(), if idle { 0 } else { 500 });
        }
        // Keepalives follow boringtun's own clock, which stands still here: an idle side asks every 35 s.
        // Where both sides renew at the same moment, both handshakes count.
        let expected = if idle { 10..=32 } else { 4..=10 };
        assert!(expected.contains(&pair.status(0).handshakes), "idle {idle}: {}", pair.status(0).handshakes);
    }
}

#[test]
fn a_responder_only_side_stays_connected_by_the_others_renewals() {
    let mut pair = with_modes([ConnectionMode::InitiatorOnly, ConnectionMode::ResponderOnly]);
    for second in 0..500 {
        pair.run(SECOND);
        assert!(pair.are_connected(), "second {second}");
    }
}

#[test]
fn a_side_that_falls_silent_is_noticed_and_taken_up_again() {
    let mut pair = Pair::connected();
    pair.deaf[1] = true;
    pair.sides[1].remove(TUNNEL);
    pair.run(60 * SECOND);
    assert!(matches!(
        pair.status(0).failure,
        Some(FailureReason::PeerSilent { .. } | FailureReason::NoAnswer { .. })
    ));
    assert_eq!(pair.status(0).status, ConnectionStatus::NotConnected);
    assert_eq!(pair.seal(0, &ipv4(1, 100)), SealOutcome::Down);

    pair.deaf[1] = false;
    pair.sides[1].set(config(1)).unwrap();
    pair.sides[1].start(TUNNEL, pair.now);
    pair.run(SECOND);
    assert!(pair.are_connected());
    pair.seal(0, &ipv4(2, 100));
    pair.seal(1, &ipv4(2, 100));
    pair.deliver();
    assert_eq!((pair.received[0].len(), pair.received[1].len()), (1, 1));
}

#[test]
fn a_side_that_restarts_is_connected_again_at_once() {
    let mut pair = Pair::connected();
    pair.run(30 * SECOND);
    pair.sides[1] = Endpoint::new(address(1));
    pair.sides[1].set(config(1)).unwrap();
    pair.sides[1].start(TUNNEL, pair.now);
    pair.run(Duration::from_millis(50));
    assert!(pair.are_connected());
    pair.seal(0, &ipv4(2, 100));
    pair.seal(1, &ipv4(2, 100));
    pair.deliver();
    assert_eq!((pair.received[0].len(), pair.received[1].len()), (1, 1));
}

#[test]
fn a_batch_is_opened_datagram_by_datagram() {
    let mut pair = Pair::connected();
    let mut batch = SealBatch::new();
    let mut sent: Vec<Vec<u8>> = (0..40).map(|number| ipv4(number, 1400)).collect();
    sent.push(ipv6(40, 77));
    for packet in &sent {
        let outcome = pair.sides[0].seal_into(pair.now, TUNNEL, packet, &mut batch);
        assert_eq!(outcome, SealOutcome::Sealed { len: packet.len() + 32, to: address(1) });
    }
    assert_eq!(pair.sides[0].seal_into(pair.now, TUNNEL, &sent[0], &mut batch), SealOutcome::BatchFull);
    let datagrams = batch.datagrams().unwrap();
    assert_eq!((datagrams.to, datagrams.segment_size), (address(1), 1432));
    let mut out = vec![0; 2048];
    for (number, datagram) in datagrams.data.chunks(datagrams.segment_size).enumerate() {
        let Opened::Packet { tunnel, packet } = pair.sides[1].open(pair.now, address(0), datagram, &mut out)
        else {
            panic!("datagram {number} is not a packet");
        };
        assert_eq!((tunnel, &*packet), (TUNNEL, &sent[number][..]));
    }
    batch.clear();
    let huge = ipv4(1, 65_500);
    assert_eq!(pair.sides[0].seal_into(pair.now, TUNNEL, &huge, &mut batch), SealOutcome::TooBig);
    assert!(batch.is_empty());
}

#[test]
fn an_unchanged_configuration_keeps_the_session_and_a_changed_one_ends_it() {
    let mut pair = Pair::connected();
    pair.sides[0].set(config(0)).unwrap();
    assert_eq!(pair.status(0).status, ConnectionStatus::Connected);
    pair.sides[0].set(with_shared_key(0, "new")).unwrap();
    assert_eq!(pair.status(0).status, ConnectionStatus::Unknown);
    assert_eq!(pair.seal(0, &ipv4(1, 100)), SealOutcome::Down);
}

#[test]
fn tunnels_of_one_endpoint_are_told_apart() {
    use vnet_dataplane::TunnelId;
    // Three ends at address 0, each with its own key, for three peers at address 1.
    let ends = |side: usize| {
        (0..3_u8).map(move |number| {
            let mut config = config(side);
            config.id = TunnelId(u32::from(number));
            config.keys.private_key = private_key(20 + 2 * number + side as u8);
            config.keys.peer_public_key = public_key(21 + 2 * number - side as u8);
            config
        })
    };
    let mut pair = Pair::new([config(0), config(1)]);
    for side in 0..2 {
        for config in ends(side) {
            let id = config.id;
            pair.sides[side].set(config).unwrap();
            pair.sides[side].start(id, pair.now);
        }
    }
    pair.run(SECOND);
    for number in 0..3 {
        assert!(pair.sides.iter().all(|side| side.is_connected(TunnelId(number))), "tunnel {number}");
        let (mut sealed, mut out) = ([0; 200], [0; 200]);
        let outcome = pair.sides[0].seal(pair.now, TunnelId(number), &ipv4(number, 100), &mut sealed);
        assert_eq!(outcome, SealOutcome::Sealed { len: 132, to: address(1) });
        let opened = pair.sides[1].open(pair.now, address(0), &sealed[..132], &mut out);
        assert_eq!(opened, Opened::Packet { tunnel: TunnelId(number), packet: &mut ipv4(number, 100) });
    }
}

#[test]
fn ends_that_could_not_be_told_apart_are_refused() {
    let mut endpoint: Endpoint = Endpoint::new(address(0));
    endpoint.set(config(0)).unwrap();
    let twin = TunnelConfig { id: vnet_dataplane::TunnelId(9), ..config(0) };
    assert_eq!(endpoint.set(twin.clone()), Err(EndpointError::SameKey(public_key(1))));
    // One interface with two peers, as a VPN device with tunnels to both instances of a gateway has it.
    endpoint.set(TunnelConfig { remote: "192.0.2.9:51820".parse().unwrap(), ..twin }).unwrap();
    assert_eq!(endpoint.tunnels().count(), 2);
}

#[test]
fn what_is_for_nobody_is_counted_at_the_endpoint() {
    let mut pair = Pair::connected();
    let mut stray = pair.seen.iter().find(|frame| frame.data[0] == 4).unwrap().data.clone();
    stray[4..8].copy_from_slice(&0x00ff_ff00_u32.to_le_bytes());
    let mut out = [0; 2048];
    let opened = pair.sides[1].open(pair.now, address(0), &stray, &mut out);
    assert_eq!(opened, Opened::Rejected { tunnel: None, rejection: Rejection::UnknownTunnel });
    let opened = pair.sides[1].open(pair.now, address(0), b"not WireGuard", &mut out);
    assert_eq!(opened, Opened::Rejected { tunnel: None, rejection: Rejection::Malformed });
    assert_eq!((pair.sides[1].strays().unknown_tunnel, pair.sides[1].strays().malformed), (1, 1));
}
