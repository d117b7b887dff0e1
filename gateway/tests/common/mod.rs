//! Two endpoints and the wire between them, on a clock that the test moves.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use vnet_dataplane::{Nanos, TunnelId};
use vnet_gateway::{
    ConnectionMode, ConnectionStatus, Endpoint, FailureReason, Opened, PresharedKey, PrivateKey, PublicKey,
    SealOutcome, TunnelConfig, TunnelKeys, TunnelStatus,
};

pub(crate) const TUNNEL: TunnelId = TunnelId(3);

pub(crate) fn address(side: usize) -> SocketAddr {
    ["198.51.100.1:51820", "[2001:db8::2]:51820"][side].parse().unwrap()
}

pub(crate) fn private_key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

pub(crate) fn public_key(number: u8) -> PublicKey {
    private_key(number).public_key()
}

/// Side 0 or 1 of a tunnel, with keys 1 and 2.
pub(crate) fn config(side: usize) -> TunnelConfig {
    TunnelConfig {
        id: TUNNEL,
        keys: TunnelKeys {
            private_key: private_key(side as u8 + 1),
            peer_public_key: public_key(2 - side as u8),
            preshared_key: Some(PresharedKey::from_shared_key("example")),
            keepalive_s: 25,
        },
        remote: address(1 - side),
        roaming: false,
        mode: ConnectionMode::Default,
        dead_peer_s: 45,
    }
}

/// An IPv4 packet of `len` bytes that carries `number` over and over.
pub(crate) fn ipv4(number: u32, len: usize) -> Vec<u8> {
    let mut packet = filled(number, len);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

/// An IPv6 packet of `len` bytes that carries `number` over and over.
pub(crate) fn ipv6(number: u32, len: usize) -> Vec<u8> {
    let mut packet = filled(number, len);
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    packet
}

fn filled(number: u32, len: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(len).collect()
}

/// What the wire does to datagrams, out of a hundred.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delayed: u64,
}

#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Pair {
    pub(crate) sides: [Endpoint; 2],
    pub(crate) received: [Vec<Vec<u8>>; 2],
    pub(crate) now: Nanos,
    pub(crate) faults: Faults,
    /// Every datagram that was ever sent.
    pub(crate) seen: Vec<Frame>,
    /// A side whose datagrams come from another address than its own.
    pub(crate) disguise: [Option<SocketAddr>; 2],
    /// A side that takes nothing in.
    pub(crate) deaf: [bool; 2],
    wire: VecDeque<Frame>,
    seed: u64,
}

impl Pair {
    pub(crate) fn new(configs: [TunnelConfig; 2]) -> Pair {
        let mut sides = [Endpoint::new(address(0)), Endpoint::new(address(1))];
        for (side, config) in sides.iter_mut().zip(configs) {
            let id = config.id;
            side.set(config).unwrap();
            side.start(id, Nanos::from_millis(1000));
        }
        Pair {
            sides,
            received: [Vec::new(), Vec::new()],
            now: Nanos::from_millis(1000),
            faults: Faults::default(),
            seen: Vec::new(),
            disguise: [None; 2],
            deaf: [false; 2],
            wire: VecDeque::new(),
            seed: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(crate) fn connected() -> Pair {
        let mut pair = Pair::new([config(0), config(1)]);
        pair.run(Duration::from_millis(100));
        assert!(pair.are_connected());
        pair
    }

    pub(crate) fn are_connected(&self) -> bool {
        (0..2).all(|side| self.status(side).status == ConnectionStatus::Connected)
    }

    pub(crate) fn status(&self, side: usize) -> TunnelStatus {
        self.sides[side].status(TUNNEL, self.now).unwrap()
    }

    pub(crate) fn failure(&self, side: usize) -> FailureReason {
        let status = self.status(side);
        assert_eq!(status.status, ConnectionStatus::NotConnected, "{status:?}");
        status.failure.unwrap()
    }

    pub(crate) fn seal(&mut self, side: usize, packet: &[u8]) -> SealOutcome {
        let mut out = vec![0; packet.len() + 200];
        let outcome = self.sides[side].seal(self.now, TUNNEL, packet, &mut out);
        if let SealOutcome::Sealed { len, to } = outcome {
            self.send(side, to, out[..len].to_vec());
        }
        outcome
    }

    pub(crate) fn send(&mut self, side: usize, to: SocketAddr, data: Vec<u8>) {
        let from = self.disguise[side].unwrap_or(address(side));
        let frame = Frame { from, to, data };
        self.seen.push(frame.clone());
        if self.chance(self.faults.lost) {
            return;
        }
        if self.chance(self.faults.doubled) {
            self.wire.push_back(frame.clone());
        }
        if self.chance(self.faults.delayed) && !self.wire.is_empty() {
            let at = self.random() as usize % self.wire.len();
            self.wire.insert(at, frame);
        } else {
            self.wire.push_back(frame);
        }
    }

    /// Lets `time` pass in steps of 50 ms, with everything due done and every datagram delivered.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for side in 0..2 {
                let mut out = Vec::new();
                if self.sides[side].next_timeout().is_some_and(|at| at <= self.now) {
                    self.sides[side].handle_timeout(self.now, &mut |transmit| {
                        out.push((transmit.to, transmit.data.to_vec()));
                    });
                }
                for (to, data) in out {
                    self.send(side, to, data);
                }
            }
            self.deliver();
            if self.now >= end {
                return;
            }
            self.now = self.now + Duration::from_millis(50);
        }
    }

    pub(crate) fn deliver(&mut self) {
        while let Some(frame) = self.wire.pop_front() {
            let side = usize::from(frame.to == address(1));
            if frame.to == address(side) && !self.deaf[side] {
                self.give(side, &frame);
            }
        }
    }

    pub(crate) fn give(&mut self, side: usize, frame: &Frame) {
        let mut out = vec![0; 65_535];
        match self.sides[side].open(self.now, frame.from, &frame.data, &mut out) {
            Opened::Packet { packet, .. } => self.received[side].push(packet.to_vec()),
            Opened::Reply(reply) => {
                let (to, data) = (reply.to, reply.data.to_vec());
                self.send(side, to, data);
            }
            Opened::Consumed { .. } | Opened::Rejected { .. } => {}
        }
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        of_hundred > 0 && self.random() % 100 < of_hundred
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }
}
