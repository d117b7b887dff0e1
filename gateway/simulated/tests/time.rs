//! What WireGuard does when time passes, by the whitepaper's section 6, with every clock in the test's hands but one: the
//! wall clock that a handshake's timestamp begins with.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::*;
use mock_instant::MockClock;
use vnet_gateway::{ConnectionMode, Opened, Rejection, SealOutcome, TunnelConfig};

const STEP: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

/// Lets `time` pass by both clocks.
fn pass(pair: &mut Pair, time: Duration) {
    let end = pair.now + time;
    while pair.now < end {
        MockClock::advance(STEP);
        pair.run(STEP);
    }
}

/// Side 0 starts handshakes, side 1 answers them.
fn one_starts(keepalive_s: u16) -> Pair {
    let with = |side: usize, mode| {
        let mut config = TunnelConfig { mode, ..config(side) };
        config.keys.keepalive_s = keepalive_s;
        config
    };
    let mut pair = Pair::new([with(0, ConnectionMode::Default), with(1, ConnectionMode::ResponderOnly)]);
    pair.run(STEP);
    assert!(pair.are_connected());
    pair.seen.clear();
    pair
}

fn kinds(pair: &Pair, kind: u8) -> impl Iterator<Item = &Frame> {
    pair.seen.iter().filter(move |frame| frame.data[0] == kind)
}

fn is_keepalive(frame: &Frame) -> bool {
    frame.data[0] == 4 && frame.data.len() == 32
}

#[test]
fn a_session_in_use_is_renewed_every_120_seconds_and_no_packet_is_lost() {
    let mut pair = one_starts(0);
    let mut renewed_at = Vec::new();
    for second in 0..1000_u32 {
        let before = kinds(&pair, 1).count();
        pair.seal(0, &ipv4(second, 100));
        pair.seal(1, &ipv4(second, 100));
        pass(&mut pair, SECOND);
        if kinds(&pair, 1).count() > before {
            renewed_at.push(second);
        }
    }
    assert_eq!(pair.received[0].len(), 1000);
    assert_eq!(pair.received[1].len(), 1000);
    assert_eq!(renewed_at.len(), 8, "{renewed_at:?}");
    let mut last = 0;
    for at in renewed_at {
        assert!((118..=123).contains(&(at - last)), "renewed {} s after the last time", at - last);
        last = at;
    }
}

#[test]
fn a_session_ends_180_seconds_after_its_handshake() {
    let mut pair = one_starts(0);
    let mut sealed = vec![0; 200];
    let SealOutcome::Sealed { len, .. } = pair.sides[0].seal(pair.now, TUNNEL, &ipv4(1, 100), &mut sealed)
    else {
        panic!("no session");
    };
    // Neither side hears of the other's attempts to renew it.
    pair.deaf = [true, true];
    pass(&mut pair, 170 * SECOND);
    let mut out = vec![0; 200];
    let early = pair.sides[1].open(pair.now, address(0), &sealed[..len], &mut out);
    assert!(matches!(early, Opened::Packet { .. }), "{early:?}");
    pass(&mut pair, 15 * SECOND);
    assert_eq!(pair.seal(0, &ipv4(2, 100)), SealOutcome::Down);
    assert_eq!(pair.seal(1, &ipv4(2, 100)), SealOutcome::Down);
    pair.deaf = [false, false];
    pass(&mut pair, 20 * SECOND);
    assert!(pair.are_connected(), "it is made anew once the way is free");
}

#[test]
fn an_idle_side_says_every_25_seconds_that_it_is_there() {
    let mut pair = one_starts(25);
    pass(&mut pair, 100 * SECOND);
    for side in 0..2 {
        let own = pair.seen.iter().filter(|frame| frame.from == address(side) && is_keepalive(frame));
        let count = own.count();
        assert!((3..=5).contains(&count), "side {side} has sent {count} keepalives in 100 s");
    }
    assert!(pair.received.iter().all(Vec::is_empty), "a keepalive is no packet");
}

#[test]
fn who_only_receives_answers_within_10_seconds_with_a_keepalive() {
    let mut pair = one_starts(0);
    pass(&mut pair, SECOND);
    pair.seen.clear();
    pair.seal(0, &ipv4(1, 100));
    pair.deliver();
    pass(&mut pair, 9 * SECOND);
    assert!(!pair.seen.iter().any(|frame| frame.from == address(1)), "too early");
    pass(&mut pair, 3 * SECOND);
    let own: Vec<&Frame> = pair.seen.iter().filter(|frame| frame.from == address(1)).collect();
    assert_eq!(own.len(), 1, "one keepalive, then silence");
    assert!(is_keepalive(own[0]));
    pass(&mut pair, 30 * SECOND);
    assert!(pair.seen.iter().filter(|frame| frame.from == address(1)).count() <= 2);
}

/// More initiations than an end answers in a second, from the other side's address; what the last of them is answered with.
fn flood(pair: &mut Pair, initiation: &Frame) -> Vec<u8> {
    let mut last = Vec::new();
    for _ in 0..60 {
        let mut out = vec![0; 2048];
        if let Opened::Reply(reply) = pair.sides[1].open(pair.now, address(0), &initiation.data, &mut out) {
            last = reply.data.to_vec();
        }
    }
    last
}

fn proves_its_address(initiation: &Frame) -> bool {
    initiation.data[132..].iter().any(|byte| *byte != 0)
}

#[test]
fn under_a_flood_a_cookie_proves_the_address_for_120_seconds() {
    let ends = || [config(0), TunnelConfig { mode: ConnectionMode::ResponderOnly, ..config(1) }];
    let mut former = Pair::new(ends());
    former.run(STEP);
    let first = kinds(&former, 1).next().expect("side 0 has started").clone();
    assert!(!proves_its_address(&first));

    let mut pair = Pair::new(ends());
    assert_eq!(flood(&mut pair, &first)[0], 3, "the flood is asked for a proof");
    pair.run(Duration::ZERO);
    assert!(kinds(&pair, 3).any(|frame| frame.to == address(0)), "and so is side 0");
    assert_eq!(kinds(&pair, 2).count(), 0, "nothing is answered without it");

    // By the cookie its next attempt is answered, while the flood goes on.
    flood(&mut pair, &first);
    pair.run(Duration::from_millis(300));
    let proven = kinds(&pair, 1).find(|frame| proves_its_address(frame)).expect("a second attempt").clone();
    assert_eq!(kinds(&pair, 2).count(), 1);
    pair.seen.clear();
    pair.seal(0, &ipv4(1, 100));
    pair.deliver();
    assert_eq!(pair.received[1].len(), 1, "the session stands");

    // What proved it is worth nothing three minutes later: the secret behind it has changed.
    pass(&mut pair, 180 * SECOND);
    flood(&mut pair, &first);
    let mut out = vec![0; 2048];
    let late = pair.sides[1].open(pair.now, address(0), &proven.data, &mut out);
    assert!(matches!(&late, Opened::Reply(reply) if reply.data[0] == 3), "{late:?}");
}

#[test]
fn an_old_initiation_is_a_replay_however_late() {
    let mut pair = Pair::new([config(0), TunnelConfig { mode: ConnectionMode::ResponderOnly, ..config(1) }]);
    pair.run(STEP);
    let first = kinds(&pair, 1).next().expect("side 0 has started").clone();
    pass(&mut pair, 300 * SECOND);
    let mut out = vec![0; 2048];
    let opened = pair.sides[1].open(pair.now, address(0), &first.data, &mut out);
    assert_eq!(opened, Opened::Rejected { tunnel: Some(TUNNEL), rejection: Rejection::Replayed });
    assert!(pair.are_connected());
}
