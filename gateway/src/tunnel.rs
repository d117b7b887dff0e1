//! The seam between a tunnel's life, which this crate runs, and its cryptography, which it does not.

use std::net::IpAddr;

use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// What the cryptography of one tunnel end needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelKeys {
    /// This end's own key. Each end has one of its own, so that a peer with several tunnels to one gateway can
    /// tell them apart, and so can the gateway by the first MAC of a handshake.
    pub private_key: PrivateKey,
    /// The other end's key.
    pub peer_public_key: PublicKey,
    /// Must be the same at both ends.
    pub preshared_key: Option<PresharedKey>,
    /// An empty packet is sent after this many seconds without one; 0 for never.
    pub keepalive_s: u16,
}

/// One end of one tunnel, as a protocol sees it. Every method writes what is to be sent to the start of `out`,
/// which must hold at least [`crate::BUFFER_MIN`] bytes, and allocates nothing for a packet of an established session.
pub trait Tunnel: Sized {
    /// An end without a session. `slot` (24 bits) becomes the upper part of the session indices that it gives
    /// out, by which the endpoint finds it again.
    fn new(keys: &TunnelKeys, slot: u32) -> Self;

    /// Writes a handshake initiation, a new one even if one is under way. Gives its length, 0 if none can be made.
    fn handshake(&mut self, out: &mut [u8]) -> usize;

    /// Seals an IP packet into `out`, which must hold [`crate::SEAL_OVERHEAD`] bytes more than the packet.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Sealing;

    /// Takes a datagram that came from `from`. `out` must hold at least the datagram's length too.
    fn open(&mut self, from: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opening;

    /// Does what time demands; to be called about once a second.
    fn timers(&mut self, out: &mut [u8]) -> TimerOutput;

    /// Seals the next packet that waited for a session. Gives its length, `None` once none is left.
    fn flush(&mut self, out: &mut [u8]) -> Option<usize>;
}

/// What became of a packet to seal. Lengths count bytes from the start of `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// Sealed.
    Packet(usize),
    /// There is no session: the packet waits within the tunnel, and this handshake initiation is to be sent.
    /// Length 0: none, one is under way.
    Queued(usize),
    /// There is no session and no room to wait.
    Refused,
}

/// What a datagram was. Lengths count bytes from the start of `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// An IP packet, its length checked against its header.
    Packet(usize),
    /// An authentic packet that carries nothing.
    Keepalive,
    /// An authentic handshake initiation; the answer is to be sent. Whether the other side can finish the
    /// handshake shows only when it uses the session.
    Answer {
        /// Length of the response.
        len: usize,
        /// The session's index at this end.
        session: u32,
    },
    /// An authentic handshake response: there is a session, proven by both keys and the preshared key. The
    /// keepalive that tells the other side is to be sent.
    Established(usize),
    /// Too many handshakes: the sender is to prove its address first, and is told so by this reply.
    CookieDemanded(usize),
    /// The other side wants the next handshake to prove our address; it will.
    CookieTaken,
    /// Not accepted.
    Refused(OpenError),
}

/// What a tunnel does by itself when time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerOutput {
    /// Nothing.
    Idle,
    /// A handshake initiation of this length is to be sent.
    Initiation(usize),
    /// A keepalive of this length is to be sent.
    Keepalive(usize),
    /// Every session and every waiting packet is gone.
    Expired,
}

/// Why a datagram was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A tag does not verify: forged, damaged, or made with another key.
    NotAuthentic,
    /// A handshake by another key pair than the other end's.
    OtherKey,
    /// Seen before, or older than the replay window.
    Replayed,
    /// Belongs to no session or handshake that is known.
    NoSession,
    /// Authentic, but not an IP packet of the stated length.
    Malformed,
    /// Too many handshakes, from one whose address can't be proven.
    UnderLoad,
}
