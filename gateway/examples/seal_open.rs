//! Nanoseconds per packet of sealing and opening on one core: an [`Endpoint`] against boringtun's bare `Tunn`,
//! in turns. Run with `cargo run --release -p vnet-gateway --example seal_open`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use vnet_dataplane::{Nanos, TunnelId};
use vnet_gateway::{
    ConnectionMode, Endpoint, Opened, PresharedKey, PrivateKey, SealBatch, SealOutcome, TunnelConfig,
    TunnelKeys,
};

const TUNNEL: TunnelId = TunnelId(0);
const NOW: Nanos = Nanos(1_000_000_000);
const BATCH: usize = 45;
const BATCHES: usize = 400;
const TURNS: usize = 9;

fn keys(own: u8, peer: u8) -> TunnelKeys {
    TunnelKeys {
        private_key: PrivateKey::from_bytes([own; 32]),
        peer_public_key: PrivateKey::from_bytes([peer; 32]).public_key(),
        preshared_key: Some(PresharedKey::from_shared_key("example")),
        keepalive_s: 25,
    }
}

fn address(side: u8) -> SocketAddr {
    ([192, 0, 2, side], vnet_gateway::PORT).into()
}

fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).expect("a packet's length").to_be_bytes());
    packet
}

fn endpoints() -> (Endpoint, Endpoint) {
    let mut pair = [(1, 2), (2, 1)].map(|(own, peer)| {
        let mut endpoint: Endpoint = Endpoint::new(address(own));
        let mode = ConnectionMode::Default;
        let config = TunnelConfig {
            id: TUNNEL,
            keys: keys(own, peer),
            remote: address(peer),
            roaming: false,
            mode,
            dead_peer_s: 45,
        };
        endpoint.set(config).expect("one tunnel");
        endpoint.start(TUNNEL, NOW);
        endpoint
    });
    let mut datagram = Vec::new();
    pair[0].handle_timeout(NOW, &mut |transmit| datagram = transmit.data.to_vec());
    let mut side = 1;
    while !datagram.is_empty() {
        let mut out = [0; 2048];
        let from = address(2 - side as u8);
        datagram = match pair[side].open(NOW, from, &datagram, &mut out) {
            Opened::Reply(reply) => reply.data.to_vec(),
            _ => Vec::new(),
        };
        side = 1 - side;
    }
    let [first, second] = pair;
    assert!(first.is_connected(TUNNEL) && second.is_connected(TUNNEL));
    (first, second)
}

fn tunns() -> (Tunn, Tunn) {
    let make = |own: u8, peer: u8| {
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([peer; 32]));
        Tunn::new(x25519_dalek::StaticSecret::from([own; 32]), public, None, None, u32::from(own), None)
    };
    let (mut first, mut second) = (make(1, 2), make(2, 1));
    let (mut a, mut b) = ([0; 2048], [0; 2048]);
    let TunnResult::WriteToNetwork(initiation) = first.format_handshake_initiation(&mut a, false) else {
        panic!("no initiation");
    };
    let TunnResult::WriteToNetwork(response) = second.decapsulate(None, initiation, &mut b) else {
        panic!("no response");
    };
    let TunnResult::WriteToNetwork(keepalive) = first.decapsulate(None, response, &mut a) else {
        panic!("no keepalive");
    };
    second.decapsulate(None, keepalive, &mut b);
    (first, second)
}

/// Time for sealing and for opening of `BATCH` packets, `BATCHES` times.
fn run_endpoints(first: &mut Endpoint, second: &mut Endpoint, packet: &[u8]) -> [Duration; 2] {
    let mut batch = SealBatch::new();
    let mut out = vec![0; 2048];
    let mut spent = [Duration::ZERO; 2];
    for _ in 0..BATCHES {
        batch.clear();
        let start = Instant::now();
        for _ in 0..BATCH {
            let outcome = first.seal_into(NOW, TUNNEL, packet, &mut batch);
            assert!(matches!(outcome, SealOutcome::Sealed { .. }));
        }
        spent[0] += start.elapsed();
        let datagrams = batch.datagrams().expect("a full batch");
        let start = Instant::now();
        for datagram in datagrams.data.chunks(datagrams.segment_size) {
            let opened = second.open(NOW, address(1), datagram, &mut out);
            assert!(matches!(opened, Opened::Packet { .. }));
        }
        spent[1] += start.elapsed();
    }
    spent
}

fn run_tunns(first: &mut Tunn, second: &mut Tunn, packet: &[u8]) -> [Duration; 2] {
    let sealed_len = packet.len() + vnet_gateway::SEAL_OVERHEAD;
    let mut buffer = vec![0; BATCH * sealed_len + 148];
    let mut out = vec![0; 2048];
    let mut spent = [Duration::ZERO; 2];
    for _ in 0..BATCHES {
        let start = Instant::now();
        for number in 0..BATCH {
            let result = first.encapsulate(packet, &mut buffer[number * sealed_len..]);
            assert!(matches!(result, TunnResult::WriteToNetwork(_)));
        }
        spent[0] += start.elapsed();
        let start = Instant::now();
        for datagram in buffer[..BATCH * sealed_len].chunks(sealed_len) {
            let result = second.decapsulate(None, datagram, &mut out);
            assert!(matches!(result, TunnResult::WriteToTunnelV4(..)));
        }
        spent[1] += start.elapsed();
    }
    spent
}

fn nanoseconds(spent: Duration) -> f64 {
    spent.as_nanos() as f64 / (BATCH * BATCHES) as f64
}

fn main() {
    println!(
        "{:>6} {:>22} {:>22} {:>22} {:>22}",
        "bytes", "seal: Tunn ns", "Endpoint ns", "open: Tunn ns", "Endpoint ns"
    );
    for len in [100, 576, 1400] {
        let packet = packet(len);
        let (mut bare, mut ours) = (tunns(), endpoints());
        let (mut best_bare, mut best_ours) = ([Duration::MAX; 2], [Duration::MAX; 2]);
        for _ in 0..TURNS {
            let bare = run_tunns(&mut bare.0, &mut bare.1, &packet);
            let ours = run_endpoints(&mut ours.0, &mut ours.1, &packet);
            for way in 0..2 {
                best_bare[way] = best_bare[way].min(bare[way]);
                best_ours[way] = best_ours[way].min(ours[way]);
            }
        }
        let [seal_bare, open_bare] = best_bare.map(nanoseconds);
        let [seal_ours, open_ours] = best_ours.map(nanoseconds);
        println!("{len:>6} {seal_bare:>22.0} {seal_ours:>22.0} {open_bare:>22.0} {open_ours:>22.0}");
    }
}
