//! [`Tunnel`] by boringtun's `noise` module: ring's ChaCha20-Poly1305 for packets.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use crate::keys::PresharedKey;
use crate::message::{Message, sender_index};
use crate::tunnel::{OpenError, Opening, Sealing, TimerOutput, Tunnel, TunnelKeys};
use crate::{BUFFER_MIN, SEAL_OVERHEAD};

/// Handshake messages per second that one end answers before it demands cookies. The kernel's WireGuard takes
/// 50 initiations a second from one peer.
const HANDSHAKES_PER_SECOND: u64 = 50;

/// boringtun's own bound on packets that wait for a session; it drops more of them without a word.
const QUEUE_MAX: usize = 256;

const IPV4_HEADER_LEN: usize = 20;

/// One end of a WireGuard tunnel.
///
/// boringtun 0.7 hides its session keys, reads the clock itself, and does not pad packets to 16 bytes as the
/// whitepaper (section 5.4.6) wants; receivers take both. So a sealed packet is exactly [`SEAL_OVERHEAD`] longer.
pub struct NoiseTunnel {
    tunn: Tunn,
    limiter: Arc<RateLimiter>,
    queued: usize,
    queued_len_max: usize,
}

impl NoiseTunnel {
    fn after_open(&self, message: Message, result: TunnResult<'_>) -> Opening {
        match result {
            // boringtun trusts a stated length that is less than the header's.
            TunnResult::WriteToTunnelV4(packet, _) if packet.len() >= IPV4_HEADER_LEN => {
                Opening::Packet(packet.len())
            }
            TunnResult::WriteToTunnelV6(packet, _) => Opening::Packet(packet.len()),
            TunnResult::WriteToTunnelV4(..) => Opening::Refused(OpenError::Malformed),
            TunnResult::Done if matches!(message, Message::CookieReply { .. }) => Opening::CookieTaken,
            TunnResult::Done => Opening::Keepalive,
            TunnResult::WriteToNetwork(reply) => match (Message::parse(reply), sender_index(reply)) {
                (Some(Message::Response { .. }), Some(session)) => {
                    Opening::Answer { len: reply.len(), session }
                }
                (Some(Message::CookieReply { .. }), _) => Opening::CookieDemanded(reply.len()),
                _ => Opening::Established(reply.len()),
            },
            TunnResult::Err(error) => Opening::Refused(open_error(error)),
        }
    }
}

fn open_error(error: WireGuardError) -> OpenError {
    match error {
        WireGuardError::InvalidMac | WireGuardError::InvalidAeadTag => OpenError::NotAuthentic,
        WireGuardError::WrongKey => OpenError::OtherKey,
        WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::WrongTai64nTimestamp => OpenError::Replayed,
        WireGuardError::UnexpectedPacket
        | WireGuardError::WrongIndex
        | WireGuardError::NoCurrentSession
        | WireGuardError::ConnectionExpired => OpenError::NoSession,
        WireGuardError::UnderLoad => OpenError::UnderLoad,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidPacket
        | WireGuardError::LockFailed => OpenError::Malformed,
    }
}

impl Tunnel for NoiseTunnel {
    fn new(keys: &TunnelKeys, slot: u32) -> NoiseTunnel {
        let limiter =
            Arc::new(RateLimiter::new(&keys.private_key.public_key().point(), HANDSHAKES_PER_SECOND));
        let tunn = Tunn::new(
            keys.private_key.secret(),
            keys.peer_public_key.point(),
            keys.preshared_key.as_ref().map(PresharedKey::as_bytes).copied(),
            (keys.keepalive_s > 0).then_some(keys.keepalive_s),
            slot,
            Some(limiter.clone()),
        );
        NoiseTunnel { tunn, limiter, queued: 0, queued_len_max: 0 }
    }

    fn handshake(&mut self, out: &mut [u8]) -> usize {
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.len(),
            _ => 0,
        }
    }

    #[inline]
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Sealing {
        // boringtun panics on a short buffer.
        if out.len() < (packet.len() + SEAL_OVERHEAD).max(BUFFER_MIN) {
            return Sealing::Refused;
        }
        if self.queued >= QUEUE_MAX {
            return Sealing::Refused;
        }
        let initiation_len = match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(datagram) => match Message::parse(datagram) {
                Some(Message::Initiation) => datagram.len(),
                _ => return Sealing::Packet(datagram.len()),
            },
            _ => 0,
        };
        self.queued += 1;
        self.queued_len_max = self.queued_len_max.max(packet.len());
        Sealing::Queued(initiation_len)
    }

    #[inline]
    fn open(&mut self, from: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opening {
        let Some(message) = Message::parse(datagram) else { return Opening::Refused(OpenError::Malformed) };
        if out.len() < datagram.len().max(BUFFER_MIN) {
            return Opening::Refused(OpenError::Malformed);
        }
        let result = self.tunn.decapsulate(Some(from), datagram, out);
        self.after_open(message, result)
    }

    fn timers(&mut self, out: &mut [u8]) -> TimerOutput {
        self.limiter.reset_count();
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) if Message::parse(datagram) == Some(Message::Initiation) => {
                TimerOutput::Initiation(datagram.len())
            }
            TunnResult::WriteToNetwork(datagram) => TimerOutput::Keepalive(datagram.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => {
                self.queued = 0;
                TimerOutput::Expired
            }
            _ => TimerOutput::Idle,
        }
    }

    fn flush(&mut self, out: &mut [u8]) -> Option<usize> {
        // boringtun panics on a short buffer.
        if out.len() < (self.queued_len_max + SEAL_OVERHEAD).max(BUFFER_MIN) {
            return None;
        }
        self.queued = self.queued.saturating_sub(1);
        match self.tunn.decapsulate(None, &[], out) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => {
                self.queued = 0;
                None
            }
        }
    }
}
