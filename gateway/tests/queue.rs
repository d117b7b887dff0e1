//! A session that ends between two packets, played by a scripted tunnel: the seam that another implementation
//! of the cryptography would fill.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{TUNNEL, address, config, ipv4};
use vnet_dataplane::Nanos;
use vnet_gateway::tunnel::{Opening, Sealing, TimerOutput};
use vnet_gateway::{ConnectionStatus, Endpoint, FailureReason, Opened, SealOutcome, Tunnel, TunnelKeys};

const INITIATION_LEN: usize = 148;

/// Seals one packet a session; later ones wait for the next handshake response.
struct OnePacketASession {
    may_seal: bool,
    waiting: Vec<Vec<u8>>,
}

impl Tunnel for OnePacketASession {
    fn new(_: &TunnelKeys, _: u32) -> OnePacketASession {
        OnePacketASession { may_seal: false, waiting: Vec::new() }
    }

    fn handshake(&mut self, _: &mut [u8]) -> usize {
        INITIATION_LEN
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Sealing {
        if std::mem::take(&mut self.may_seal) {
            out[32..32 + packet.len()].copy_from_slice(packet);
            return Sealing::Packet(packet.len() + 32);
        }
        self.waiting.push(packet.to_vec());
        Sealing::Queued(INITIATION_LEN)
    }

    fn open(&mut self, _: IpAddr, _: &[u8], _: &mut [u8]) -> Opening {
        self.may_seal = true;
        Opening::Established(32)
    }

    fn timers(&mut self, _: &mut [u8]) -> TimerOutput {
        TimerOutput::Idle
    }

    fn flush(&mut self, out: &mut [u8]) -> Option<usize> {
        let packet = self.waiting.pop()?;
        out[32..32 + packet.len()].copy_from_slice(&packet);
        Some(packet.len() + 32)
    }
}

fn due(endpoint: &mut Endpoint<OnePacketASession>, now: Nanos) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    if endpoint.next_timeout().is_some_and(|at| at <= now) {
        endpoint.handle_timeout(now, &mut |transmit| sent.push(transmit.data.to_vec()));
    }
    sent
}

fn respond(endpoint: &mut Endpoint<OnePacketASession>, now: Nanos) {
    let mut response = [0; 92];
    response[0] = 2;
    let mut out = [0; 256];
    let opened = endpoint.open(now, address(1), &response, &mut out);
    assert!(matches!(opened, Opened::Reply(_)));
}

#[test]
fn a_packet_without_a_session_waits_for_the_next_one_and_is_not_lost() {
    let mut endpoint = Endpoint::new(address(0));
    let now = Nanos::from_millis(1);
    endpoint.set(config(0)).unwrap();
    endpoint.start(TUNNEL, now);
    assert_eq!(due(&mut endpoint, now).len(), 1);
    respond(&mut endpoint, now);

    let mut out = [0; 256];
    let sealed = endpoint.seal(now, TUNNEL, &ipv4(1, 100), &mut out);
    assert_eq!(sealed, SealOutcome::Sealed { len: 132, to: address(1) });
    assert_eq!(endpoint.seal(now, TUNNEL, &ipv4(2, 60), &mut out), SealOutcome::Queued);
    assert_eq!(endpoint.status(TUNNEL, now).unwrap().queued_packets, 1);
    assert_eq!(endpoint.status(TUNNEL, now).unwrap().sent_packets, 1);

    let sent = due(&mut endpoint, now);
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [INITIATION_LEN], "a handshake starts at once");
    respond(&mut endpoint, now);
    let sent = due(&mut endpoint, now);
    assert_eq!(sent.len(), 1);
    assert_eq!(&sent[0][32..], ipv4(2, 60));
    let status = endpoint.status(TUNNEL, now).unwrap();
    assert_eq!((status.queued_packets, status.sent_packets, status.sent_bytes), (0, 2, 160));
    assert!(endpoint.next_timeout().unwrap() > now, "nothing is due any more");
}

#[test]
fn attempts_are_spaced_out_and_silence_is_named() {
    let mut endpoint = Endpoint::<OnePacketASession>::new(address(0));
    let start = Nanos::from_millis(1000);
    endpoint.set(config(0)).unwrap();
    assert_eq!(endpoint.next_timeout(), None);
    endpoint.start(TUNNEL, start);
    let mut at_ms = Vec::new();
    for millis in 0..20_000 {
        if !due(&mut endpoint, start + Duration::from_millis(millis)).is_empty() {
            at_ms.push(millis);
        }
    }
    assert_eq!(at_ms, [0, 250, 750, 1750, 3750, 7750, 11_750, 15_750, 19_750]);
    let status = endpoint.status(TUNNEL, start + Duration::from_secs(20)).unwrap();
    assert_eq!(status.status, ConnectionStatus::NotConnected);
    assert!(matches!(status.failure, Some(FailureReason::NoAnswer { to, .. }) if to == address(1)));
}
