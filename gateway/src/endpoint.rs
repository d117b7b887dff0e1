//! One WireGuard interface as a gateway instance or a VPN device has it: one public UDP address, many tunnels.
//!
//! Each tunnel end has a key pair of its own. An incoming handshake initiation is told apart by its first MAC,
//! which is made with the public key of the end that it is meant for; every other message names its receiver's
//! session. An external peer thus needs one private key for its interface and one public key per tunnel, also
//! with two tunnels to the two instances of one gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;

use vnet_dataplane::{Nanos, TunnelId};

use crate::batch::SealBatch;
use crate::keys::PublicKey;
use crate::message::Message;
use crate::peer::{Peer, Received};
use crate::status::{ConnectionMode, ConnectionStatus, Rejection, Rejections, TunnelStatus};
use crate::tunnel::{Sealing, Tunnel, TunnelKeys};
use crate::{BUFFER_MIN, NoiseTunnel, SEAL_OVERHEAD};

/// Session indices leave 24 bits to tell tunnels apart; no SKU comes near this bound.
const TUNNELS_MAX: usize = 4096;

const NO_SLOT: u32 = u32::MAX;

/// One tunnel end, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// The end's handle.
    pub id: TunnelId,
    /// Its keys.
    pub keys: TunnelKeys,
    /// The other end's public address and port (`gatewayIpAddress`). The port that an authentic packet came
    /// from takes its place.
    pub remote: SocketAddr,
    /// Accept the other end from any address, and follow it there. Azure does not.
    pub roaming: bool,
    /// Who starts handshakes.
    pub mode: ConnectionMode,
    /// Seconds of silence after which the other end counts as dead; it is asked for a handshake some time before.
    pub dead_peer_s: u16,
}

/// An endpoint that can't take a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Two ends with the same key pair have other ends at the same address, or that may roam: their handshakes
    /// could not be told apart.
    #[error("two tunnel ends with public key {0} could not be told apart by their other ends' addresses")]
    SameKey(PublicKey),
    /// Too many tunnels.
    #[error("an endpoint takes at most {TUNNELS_MAX} tunnels")]
    TooManyTunnels,
}

/// A datagram to send from the endpoint's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// Whose it is.
    pub tunnel: TunnelId,
    /// Where it goes.
    pub to: SocketAddr,
    /// Its payload.
    pub data: &'a [u8],
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An IP packet of the other side, at the start of the buffer that was handed in.
    Packet {
        /// The tunnel that it came by.
        tunnel: TunnelId,
        /// The whole packet.
        packet: &'a mut [u8],
    },
    /// Part of a handshake, with an answer to send.
    Reply(Transmit<'a>),
    /// Authentic, and nothing more to do.
    Consumed {
        /// The tunnel that it came by.
        tunnel: TunnelId,
    },
    /// Refused and counted.
    Rejected {
        /// The tunnel that it was for; `None` if it can't be laid to any.
        tunnel: Option<TunnelId>,
        /// Why.
        rejection: Rejection,
    },
}

/// What became of a packet to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealOutcome {
    /// Sealed: so many bytes at the start of the buffer, or in the batch, for this address.
    Sealed {
        /// Bytes.
        len: usize,
        /// Where they go.
        to: SocketAddr,
    },
    /// The batch has no room for it, or it can't join those in it: send the batch, clear it and try again.
    BatchFull,
    /// The session has just ended. The packet is not lost: it waits within the tunnel and leaves by
    /// [`Endpoint::handle_timeout`] after the handshake, which starts at the next timeout.
    Queued,
    /// Not connected, or the waiting room is full: a drop with `TunnelDown`.
    Down,
    /// Larger than one send can be.
    TooBig,
}

/// One public address with its tunnels.
pub struct Endpoint<T: Tunnel = NoiseTunnel> {
    local: SocketAddr,
    peers: Vec<Option<Peer<T>>>,
    /// Slot in `peers` by tunnel.
    slots: Vec<u32>,
    changes: VecDeque<(TunnelId, ConnectionStatus)>,
    strays: Rejections,
    scratch: Box<[u8]>,
}

impl<T: Tunnel> Endpoint<T> {
    /// An endpoint at `local` without tunnels.
    pub fn new(local: SocketAddr) -> Endpoint<T> {
        Endpoint {
            local,
            peers: Vec::new(),
            slots: Vec::new(),
            changes: VecDeque::new(),
            strays: Rejections::default(),
            scratch: vec![0; usize::from(u16::MAX) + SEAL_OVERHEAD].into_boxed_slice(),
        }
    }

    /// The address that its socket is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Adds a tunnel end, or replaces the one of the same id. One whose configuration is the same stays as it is,
    /// with its session. A new one does nothing before [`Self::start`].
    ///
    /// # Errors
    /// [`EndpointError`], and nothing has changed.
    pub fn set(&mut self, config: TunnelConfig) -> Result<(), EndpointError> {
        let own_key = config.keys.private_key.public_key();
        for peer in self.peers.iter().flatten() {
            if peer.config == config {
                return Ok(());
            }
            let apart =
                peer.config.remote.ip() != config.remote.ip() && !peer.config.roaming && !config.roaming;
            if peer.config.id != config.id && peer.config.keys.private_key.public_key() == own_key && !apart {
                return Err(EndpointError::SameKey(own_key));
            }
        }
        self.remove(config.id);
        let slot = match self.peers.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.peers.len() < TUNNELS_MAX => {
                self.peers.push(None);
                self.peers.len() - 1
            }
            None => return Err(EndpointError::TooManyTunnels),
        };
        let index = config.id.index();
        if self.slots.len() <= index {
            self.slots.resize(index + 1, NO_SLOT);
        }
        // At most TUNNELS_MAX, so the cast loses nothing.
        self.slots[index] = slot as u32;
        self.peers[slot] = Some(Peer::new(config, slot as u32));
        Ok(())
    }

    /// Forgets a tunnel end with its keys and session.
    pub fn remove(&mut self, tunnel: TunnelId) {
        if let Some(slot) = self.slots.get_mut(tunnel.index()) {
            if let Some(peer) = self.peers.get_mut(*slot as usize) {
                *peer = None;
            }
            *slot = NO_SLOT;
        }
    }

    /// Brings a tunnel up: unless it only responds, its first handshake leaves at the next
    /// [`Self::handle_timeout`], which is due at once.
    pub fn start(&mut self, tunnel: TunnelId, now: Nanos) {
        let Some(peer) = self.slots.get(tunnel.index()).and_then(|slot| self.peers.get_mut(*slot as usize))
        else {
            return;
        };
        if let Some(peer) = peer {
            peer.start(now, &mut self.changes);
        }
    }

    /// Its tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelId> {
        self.peers.iter().flatten().map(|peer| peer.config.id)
    }

    /// A tunnel's status; `None` if it is not of this endpoint.
    pub fn status(&self, tunnel: TunnelId, now: Nanos) -> Option<TunnelStatus> {
        Some(self.peer(tunnel)?.status(now))
    }

    /// Whether packets can be sealed into the tunnel.
    pub fn is_connected(&self, tunnel: TunnelId) -> bool {
        self.peer(tunnel).is_some_and(Peer::is_connected)
    }

    /// The oldest change of a tunnel's state that was not asked for yet.
    pub fn next_change(&mut self) -> Option<(TunnelId, ConnectionStatus)> {
        self.changes.pop_front()
    }

    /// Datagrams that could not be laid to any tunnel.
    pub fn strays(&self) -> Rejections {
        self.strays
    }

    /// Seals one IP packet into `out`, which must hold 32 bytes more than it and at least [`BUFFER_MIN`].
    pub fn seal(&mut self, now: Nanos, tunnel: TunnelId, packet: &[u8], out: &mut [u8]) -> SealOutcome {
        let Some(peer) = peer_mut(&self.slots, &mut self.peers, tunnel) else { return SealOutcome::Down };
        if out.len() < (packet.len() + SEAL_OVERHEAD).max(BUFFER_MIN) {
            return SealOutcome::TooBig;
        }
        match peer.seal(packet, out, now) {
            Sealing::Packet(len) => SealOutcome::Sealed { len, to: peer.remote },
            Sealing::Queued(_) => SealOutcome::Queued,
            Sealing::Refused => SealOutcome::Down,
        }
    }

    /// Seals one IP packet into its slot of a batch.
    #[inline]
    pub fn seal_into(
        &mut self,
        now: Nanos,
        tunnel: TunnelId,
        packet: &[u8],
        batch: &mut SealBatch,
    ) -> SealOutcome {
        let Some(peer) = peer_mut(&self.slots, &mut self.peers, tunnel) else { return SealOutcome::Down };
        if !peer.is_connected() {
            return SealOutcome::Down;
        }
        let to = peer.remote;
        let sealed_len = packet.len() + SEAL_OVERHEAD;
        let Some(slot) = batch.slot(tunnel, to, sealed_len) else {
            return if batch.is_empty() { SealOutcome::TooBig } else { SealOutcome::BatchFull };
        };
        match peer.seal(packet, slot, now) {
            Sealing::Packet(len) => {
                batch.commit(tunnel, to, len);
                SealOutcome::Sealed { len, to }
            }
            Sealing::Queued(_) => SealOutcome::Queued,
            Sealing::Refused => SealOutcome::Down,
        }
    }

    /// Takes one datagram that came from `from`. `out` must hold its length and at least [`BUFFER_MIN`];
    /// a smaller one refuses everything as Malformed.
    #[inline]
    pub fn open<'a>(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        datagram: &[u8],
        out: &'a mut [u8],
    ) -> Opened<'a> {
        let Some(message) = Message::parse(datagram) else { return self.stray(Rejection::Malformed) };
        if out.len() < datagram.len().max(BUFFER_MIN) {
            return self.stray(Rejection::Malformed);
        }
        let slot = match message {
            Message::Initiation => self.initiation_slot(from, datagram),
            Message::Response { receiver }
            | Message::CookieReply { receiver }
            | Message::Data { receiver } => Some((receiver >> 8) as usize),
        };
        let Some(Some(peer)) = slot.and_then(|slot| self.peers.get_mut(slot)) else {
            return self.stray(Rejection::UnknownTunnel);
        };
        let tunnel = peer.config.id;
        match peer.open(now, from, message, datagram, out, &mut self.changes) {
            Received::Packet(len) => Opened::Packet { tunnel, packet: &mut out[..len] },
            Received::Reply(len) => Opened::Reply(Transmit { tunnel, to: from, data: &out[..len] }),
            Received::Consumed => Opened::Consumed { tunnel },
            Received::Rejected(rejection) => Opened::Rejected { tunnel: Some(tunnel), rejection },
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next; `None` if nothing is started. It may change with
    /// every call to another method.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.peers.iter().flatten().filter_map(Peer::next_timeout).min()
    }

    /// Does what is due: handshakes, keepalives, renewals, packets that waited, and judges which tunnels live.
    pub fn handle_timeout(&mut self, now: Nanos, transmit: &mut dyn FnMut(Transmit<'_>)) {
        for peer in self.peers.iter_mut().flatten() {
            if peer.next_timeout().is_some_and(|at| at <= now) {
                peer.handle_timeout(now, &mut self.scratch, &mut self.changes, transmit);
            }
        }
    }

    fn peer(&self, tunnel: TunnelId) -> Option<&Peer<T>> {
        self.peers.get(*self.slots.get(tunnel.index())? as usize)?.as_ref()
    }

    /// The end that an initiation is meant for. Ends that expect its sender's address come first, since each try
    /// costs a hash.
    fn initiation_slot(&self, from: SocketAddr, initiation: &[u8]) -> Option<usize> {
        let meant_for = |expected: bool| {
            self.peers.iter().position(|peer| {
                peer.as_ref().is_some_and(|peer| {
                    (peer.config.remote.ip() == from.ip()) == expected && peer.mac1.matches(initiation)
                })
            })
        };
        meant_for(true).or_else(|| meant_for(false))
    }

    fn stray(&mut self, rejection: Rejection) -> Opened<'static> {
        self.strays.add(rejection);
        Opened::Rejected { tunnel: None, rejection }
    }
}

#[inline]
fn peer_mut<'a, T>(
    slots: &[u32],
    peers: &'a mut [Option<Peer<T>>],
    tunnel: TunnelId,
) -> Option<&'a mut Peer<T>> {
    peers.get_mut(*slots.get(tunnel.index())? as usize)?.as_mut()
}
