//! What a tunnel tells about itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::keys::PublicKey;

/// A tunnel's state, with Azure's names (`connectionStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionStatus {
    /// Not started.
    #[default]
    Unknown,
    /// Handshakes are under way, and nothing speaks against them yet.
    Connecting,
    /// Both ends have proven their keys and the shared key to each other, and the session is alive.
    Connected,
    /// There is a reason why not; attempts go on.
    NotConnected,
}

/// Who starts a handshake (`connectionMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionMode {
    /// Starts and answers.
    #[default]
    Default,
    /// Starts, and refuses to answer.
    InitiatorOnly,
    /// Answers, and never starts.
    ResponderOnly,
}

/// Why a tunnel is not connected, as far as this end can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// Handshake initiations have met silence.
    NoAnswer {
        /// Where they were sent to.
        to: SocketAddr,
        /// How many.
        initiations: u32,
    },
    /// The other side answered a handshake, and the answer does not authenticate: as the keys were right,
    /// the preshared key is not.
    SharedKeyDiffers,
    /// The other side's handshakes are sound and get an answer, and it never uses the session.
    NeverCompleted {
        /// How many were answered in vain.
        answered: u32,
    },
    /// A handshake for this end was made with another key pair than the one that is configured.
    PeerKeyDiffers,
    /// A handshake for this end came from an address that is not the other side's.
    WrongSource {
        /// Where it came from.
        from: IpAddr,
        /// The configured address.
        expected: IpAddr,
    },
    /// The other side starts handshakes, which InitiatorOnly refuses.
    InitiationRefused,
    /// ResponderOnly waits, and nothing came yet.
    WaitingForPeer,
    /// The session was alive and the other side has gone silent.
    PeerSilent {
        /// For so many seconds.
        silent_s: u64,
    },
    /// The session reached its greatest age without a new one.
    SessionExpired,
}

impl FailureReason {
    /// The more a reason explains, the higher: a weaker one does not hide it.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            FailureReason::WaitingForPeer | FailureReason::NoAnswer { .. } => 0,
            FailureReason::PeerSilent { .. } | FailureReason::SessionExpired => 1,
            FailureReason::WrongSource { .. } | FailureReason::InitiationRefused => 2,
            FailureReason::NeverCompleted { .. } => 3,
            FailureReason::PeerKeyDiffers | FailureReason::SharedKeyDiffers => 4,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureReason::NoAnswer { to, initiations } => {
                write!(f, "no answer from {to} to {initiations} handshake initiations")
            }
            FailureReason::SharedKeyDiffers => {
                f.write_str("the other side's handshake response does not authenticate: sharedKey differs")
            }
            FailureReason::NeverCompleted { answered } => write!(
                f,
                "{answered} handshakes of the other side were answered and never completed: \
                 sharedKey differs, or the answers do not reach it"
            ),
            FailureReason::PeerKeyDiffers => f.write_str(
                "the other side's handshakes fail to authenticate: it uses another key pair than the configured one",
            ),
            FailureReason::WrongSource { from, expected } => {
                write!(f, "handshakes come from {from}, and gatewayIpAddress is {expected}")
            }
            FailureReason::InitiationRefused => {
                f.write_str("the other side starts handshakes, and connectionMode InitiatorOnly refuses them")
            }
            FailureReason::WaitingForPeer => {
                f.write_str("connectionMode is ResponderOnly, and the other side has not started a handshake")
            }
            FailureReason::PeerSilent { silent_s } => {
                write!(f, "nothing heard from the other side for {silent_s} s")
            }
            FailureReason::SessionExpired => f.write_str("the session expired and was not renewed"),
        }
    }
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// Not a WireGuard message, or an authentic one whose content is no IP packet.
    Malformed,
    /// For no tunnel of this endpoint.
    UnknownTunnel,
    /// From another address than the tunnel's other end has.
    WrongSource,
    /// Forged or damaged, or made with another key.
    NotAuthentic,
    /// Seen before, or too old to tell.
    Replayed,
    /// Of a session or handshake that is no more.
    NoSession,
    /// A handshake initiation to an end that only initiates.
    InitiationRefused,
    /// Too many handshakes, from a sender that can't prove its address.
    UnderLoad,
}

/// Datagrams refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the variants of `Rejection`")]
pub struct Rejections {
    pub malformed: u64,
    pub unknown_tunnel: u64,
    pub wrong_source: u64,
    pub not_authentic: u64,
    pub replayed: u64,
    pub no_session: u64,
    pub initiation_refused: u64,
    pub under_load: u64,
}

impl Rejections {
    pub(crate) fn add(&mut self, rejection: Rejection) {
        let counter = match rejection {
            Rejection::Malformed => &mut self.malformed,
            Rejection::UnknownTunnel => &mut self.unknown_tunnel,
            Rejection::WrongSource => &mut self.wrong_source,
            Rejection::NotAuthentic => &mut self.not_authentic,
            Rejection::Replayed => &mut self.replayed,
            Rejection::NoSession => &mut self.no_session,
            Rejection::InitiationRefused => &mut self.initiation_refused,
            Rejection::UnderLoad => &mut self.under_load,
        };
        *counter += 1;
    }
}

/// One tunnel end at one moment. Packets and bytes are IP packets, as they were before sealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Its state.
    pub status: ConnectionStatus,
    /// The newest reason against it; a handshake that succeeds clears it.
    pub failure: Option<FailureReason>,
    /// This end's public key: what the other side configures.
    pub public_key: PublicKey,
    /// Where sealed packets go.
    pub remote: SocketAddr,
    /// Age of the session; `None` if none was ever proven.
    pub last_handshake: Option<Duration>,
    /// Handshakes that succeeded, renewals included.
    pub handshakes: u64,
    /// Handshake initiations sent.
    pub initiations_sent: u64,
    /// Packets sealed.
    pub sent_packets: u64,
    /// Bytes sealed.
    pub sent_bytes: u64,
    /// Packets opened.
    pub received_packets: u64,
    /// Bytes opened.
    pub received_bytes: u64,
    /// Packets that wait for a new session; they count as sent once they go.
    pub queued_packets: u32,
    /// Datagrams for this tunnel that were refused.
    pub rejections: Rejections,
}
