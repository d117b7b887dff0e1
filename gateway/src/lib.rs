//! Tunnels that stand in for VPN gateways: WireGuard, with the cryptography behind [`Tunnel`] so that another
//! implementation can take its place.
//!
//! Nothing here opens a socket. Two things are not handed in, because boringtun takes them itself: it reads
//! CLOCK_BOOTTIME for its own timers and the wall clock for the handshake's timestamp, and it draws ephemeral keys
//! from the operating system. Everything that this crate decides (retries, rekeying, liveness, status) runs on the
//! `now` of its caller.
//!
//! A packet's way out: [`Endpoint::seal_into`] fills a [`SealBatch`], which is one UDP_SEGMENT send. Its way in:
//! [`Endpoint::open`] takes one datagram (a GRO batch cut at its segment size) and gives the IP packet.
#![forbid(unsafe_code)]

pub mod batch;
pub mod endpoint;
pub mod keys;
pub mod message;
pub mod noise;
mod peer;
pub mod status;
pub mod tunnel;

pub use batch::{DatagramBatch, SealBatch};
pub use endpoint::{Endpoint, EndpointError, Opened, SealOutcome, Transmit, TunnelConfig};
pub use keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use noise::NoiseTunnel;
pub use status::{ConnectionMode, ConnectionStatus, FailureReason, Rejection, Rejections, TunnelStatus};
pub use tunnel::{Tunnel, TunnelKeys};

/// UDP port of every gateway and VPN device.
pub const PORT: u16 = 51820;

/// Bytes that sealing adds to a packet: the data message's header (16) and the AEAD's tag (16).
pub const SEAL_OVERHEAD: usize = 32;

/// Smallest buffer, in bytes, that may be given to [`Endpoint::open`] or to a [`Tunnel`] for its answers: a handshake
/// initiation is the largest of them.
pub const BUFFER_MIN: usize = 148;
