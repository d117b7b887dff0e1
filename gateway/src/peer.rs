//! One tunnel end's life: attempts, sessions, liveness, and the reason when it is not connected.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use vnet_dataplane::{Nanos, TunnelId};

use crate::SEAL_OVERHEAD;
use crate::endpoint::{Transmit, TunnelConfig};
use crate::message::{Mac1Key, Message};
use crate::status::{ConnectionMode, ConnectionStatus, FailureReason, Rejection, Rejections, TunnelStatus};
use crate::tunnel::{OpenError, Opening, Sealing, TimerOutput, Tunnel};

/// Age at which the one who started a session renews it (REKEY_AFTER_TIME, whitepaper section 6.1).
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Age at which the one who answered does, if the other did not: REJECT_AFTER_TIME less two attempts' time.
const REKEY_AFTER_BY_RESPONDER: Duration = Duration::from_secs(160);
/// Age at which a session ends (REJECT_AFTER_TIME).
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// An attempt without any answer for so long says that nobody is there. A silent peer is asked for a handshake so long before it
/// counts as dead, or at half of that time.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reason stands against a weaker one.
const FAILURE_STANDS: Duration = Duration::from_secs(30);
/// Answers in vain that say more than an unlucky loss would.
const ANSWERS_IN_VAIN: u32 = 3;
const TICK: Duration = Duration::from_secs(1);
/// A handshake is tried again after 250 ms, then twice as long each time. The kernel's WireGuard answers one
/// initiation per peer in 20 ms at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_DOUBLINGS_MAX: u32 = 4;

struct Session {
    since: Nanos,
    initiated: bool,
}

struct Attempt {
    since: Nanos,
    sent: u32,
    next_at: Nanos,
}

/// A tunnel end with its state machine.
pub(crate) struct Peer<T> {
    pub(crate) config: TunnelConfig,
    pub(crate) mac1: Mac1Key,
    pub(crate) remote: SocketAddr,
    tunnel: T,
    status: ConnectionStatus,
    session: Option<Session>,
    /// A session that we answered and the other side has not used yet.
    unproven: Option<(u32, Nanos)>,
    answered_in_vain: u32,
    attempt: Option<Attempt>,
    heard_at: Nanos,
    tick_at: Nanos,
    failure: Option<(FailureReason, Nanos)>,
    queued: u32,
    flush_due: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    handshakes: u64,
    initiations_sent: u64,
    sent_packets: u64,
    sent_bytes: u64,
    received_packets: u64,
    received_bytes: u64,
    rejections: Rejections,
}

/// What a datagram was to the endpoint. Lengths count from the start of the buffer.
pub(crate) enum Received {
    Packet(usize),
    Reply(usize),
    Consumed,
    Rejected(Rejection),
}

type Changes = VecDeque<(TunnelId, ConnectionStatus)>;

impl<T: Tunnel> Peer<T> {
    pub(crate) fn new(config: TunnelConfig, slot: u32) -> Peer<T> {
        Peer {
            mac1: Mac1Key::new(&config.keys.private_key.public_key()),
            remote: config.remote,
            tunnel: T::new(&config.keys, slot),
            config,
            status: ConnectionStatus::Unknown,
            session: None,
            unproven: None,
            answered_in_vain: 0,
            attempt: None,
            heard_at: Nanos::ZERO,
            tick_at: Nanos::ZERO,
            failure: None,
            queued: 0,
            flush_due: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.status == ConnectionStatus::Connected
    }

    pub(crate) fn start(&mut self, now: Nanos, changes: &mut Changes) {
        if self.status != ConnectionStatus::Unknown {
            return;
        }
        self.heard_at = now;
        self.tick_at = now;
        self.set_status(ConnectionStatus::Connecting, changes);
        if self.config.mode == ConnectionMode::ResponderOnly {
            self.fail(FailureReason::WaitingForPeer, now);
        }
        self.begin_attempt(now);
    }

    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        if self.status == ConnectionStatus::Unknown {
            return None;
        }
        if self.flush_due {
            return Some(Nanos::ZERO);
        }
        Some(self.attempt.as_ref().map_or(self.tick_at, |attempt| attempt.next_at.min(self.tick_at)))
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Nanos,
        scratch: &mut [u8],
        changes: &mut Changes,
        transmit: &mut dyn FnMut(Transmit<'_>),
    ) {
        if self.status == ConnectionStatus::Unknown {
            return;
        }
        self.judge_session(now, changes);
        self.judge_attempt(now, changes);
        if self.attempt.as_ref().is_some_and(|attempt| now >= attempt.next_at) {
            let len = self.tunnel.handshake(scratch);
            self.sent_initiation(now);
            self.transmit(&scratch[..len], transmit);
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            match self.tunnel.timers(scratch) {
                TimerOutput::Keepalive(len) => self.transmit(&scratch[..len], transmit),
                TimerOutput::Initiation(len) if self.may_initiate() => {
                    self.sent_initiation(now);
                    self.transmit(&scratch[..len], transmit);
                }
                TimerOutput::Expired => {
                    self.queued = 0;
                    self.lose_session(FailureReason::SessionExpired, now, changes);
                }
                TimerOutput::Idle | TimerOutput::Initiation(_) => {}
            }
        }
        self.flush(scratch, transmit);
    }

    #[inline]
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Nanos) -> Sealing {
        if !self.is_connected() {
            return Sealing::Refused;
        }
        let sealing = self.tunnel.seal(packet, out);
        match sealing {
            Sealing::Packet(_) => {
                self.counts.sent_packets += 1;
                self.counts.sent_bytes += packet.len() as u64;
                sealing
            }
            Sealing::Queued(_) => {
                // The initiation in `out` is replaced by the one of the attempt, which is due at once.
                self.queued += 1;
                self.begin_attempt(now);
                sealing
            }
            Sealing::Refused => sealing,
        }
    }

    #[inline]
    pub(crate) fn open(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        message: Message,
        datagram: &[u8],
        out: &mut [u8],
        changes: &mut Changes,
    ) -> Received {
        if let Err(rejection) = self.admit(now, from, message, changes) {
            return self.reject(rejection);
        }
        let opening = self.tunnel.open(from.ip(), datagram, out);
        match opening {
            Opening::Packet(len) => {
                self.heard(now, from, message, changes);
                self.counts.received_packets += 1;
                self.counts.received_bytes += len as u64;
                Received::Packet(len)
            }
            Opening::Keepalive => {
                self.heard(now, from, message, changes);
                Received::Consumed
            }
            Opening::Answer { len, session } => {
                self.answered(now, from, session, changes);
                Received::Reply(len)
            }
            Opening::Established(len) => {
                self.remote = from;
                self.established(Session { since: now, initiated: true }, now, changes);
                Received::Reply(len)
            }
            Opening::CookieDemanded(len) => Received::Reply(len),
            Opening::CookieTaken => Received::Consumed,
            Opening::Refused(error) => {
                let rejection = self.refused(error, message, now, changes);
                self.reject(rejection)
            }
        }
    }

    pub(crate) fn status(&self, now: Nanos) -> TunnelStatus {
        TunnelStatus {
            status: self.status,
            failure: self.failure.as_ref().map(|(reason, _)| reason.clone()),
            public_key: self.config.keys.private_key.public_key(),
            remote: self.remote,
            last_handshake: self.session.as_ref().map(|session| now.since(session.since)),
            handshakes: self.counts.handshakes,
            initiations_sent: self.counts.initiations_sent,
            sent_packets: self.counts.sent_packets,
            sent_bytes: self.counts.sent_bytes,
            received_packets: self.counts.received_packets,
            received_bytes: self.counts.received_bytes,
            queued_packets: self.queued,
            rejections: self.counts.rejections,
        }
    }

    fn may_initiate(&self) -> bool {
        self.config.mode != ConnectionMode::ResponderOnly
    }

    fn begin_attempt(&mut self, now: Nanos) {
        if self.may_initiate() && self.attempt.is_none() {
            self.attempt = Some(Attempt { since: now, sent: 0, next_at: now });
        }
    }

    fn sent_initiation(&mut self, now: Nanos) {
        self.counts.initiations_sent += 1;
        let attempt = self.attempt.get_or_insert(Attempt { since: now, sent: 0, next_at: now });
        attempt.next_at = now + RETRY_FIRST * (1 << attempt.sent.min(RETRY_DOUBLINGS_MAX));
        attempt.sent += 1;
    }

    fn dead_peer(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.dead_peer_s))
    }

    /// Silence after which the other side is asked for a handshake.
    fn ask_after(&self) -> Duration {
        self.dead_peer().saturating_sub(ATTEMPT_PATIENCE).max(self.dead_peer() / 2)
    }

    fn judge_session(&mut self, now: Nanos, changes: &mut Changes) {
        let Some(session) = &self.session else { return };
        let age = now.since(session.since);
        let renew_at = if session.initiated { REKEY_AFTER } else { REKEY_AFTER_BY_RESPONDER };
        if age >= REJECT_AFTER {
            self.lose_session(FailureReason::SessionExpired, now, changes);
        } else if age >= renew_at || now.since(self.heard_at) >= self.ask_after() {
            self.begin_attempt(now);
        }
    }

    fn judge_attempt(&mut self, now: Nanos, changes: &mut Changes) {
        let Some(attempt) = &self.attempt else { return };
        let is_patient = if self.is_connected() {
            now.since(self.heard_at) < self.dead_peer()
        } else {
            now.since(attempt.since) < ATTEMPT_PATIENCE
        };
        if is_patient || self.heard_at > attempt.since {
            return;
        }
        let reason = if self.is_connected() {
            FailureReason::PeerSilent { silent_s: now.since(self.heard_at).as_secs() }
        } else {
            FailureReason::NoAnswer { to: self.remote, initiations: attempt.sent }
        };
        self.fail(reason, now);
        self.set_status(ConnectionStatus::NotConnected, changes);
    }

    fn lose_session(&mut self, reason: FailureReason, now: Nanos, changes: &mut Changes) {
        if self.session.take().is_some() {
            self.fail(reason, now);
            self.set_status(ConnectionStatus::NotConnected, changes);
        }
        self.begin_attempt(now);
    }

    /// What can be said of a datagram before any cryptography.
    fn admit(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        message: Message,
        changes: &mut Changes,
    ) -> Result<(), Rejection> {
        if self.status == ConnectionStatus::Unknown {
            return Err(Rejection::UnknownTunnel);
        }
        let expected = self.config.remote.ip();
        if !self.config.roaming && from.ip() != expected {
            if message == Message::Initiation && !self.is_connected() {
                self.fail(FailureReason::WrongSource { from: from.ip(), expected }, now);
                self.set_status(ConnectionStatus::NotConnected, changes);
            }
            return Err(Rejection::WrongSource);
        }
        if message == Message::Initiation && self.config.mode == ConnectionMode::InitiatorOnly {
            if !self.is_connected() {
                self.fail(FailureReason::InitiationRefused, now);
            }
            return Err(Rejection::InitiationRefused);
        }
        Ok(())
    }

    /// An authentic message of a session came in.
    #[inline]
    fn heard(&mut self, now: Nanos, from: SocketAddr, message: Message, changes: &mut Changes) {
        self.heard_at = now;
        self.remote = from;
        if let (Some((index, since)), Message::Data { receiver }) = (self.unproven, message)
            && index == receiver
        {
            self.established(Session { since, initiated: false }, now, changes);
        } else if !self.is_connected() && self.session.is_some() {
            self.failure = None;
            self.attempt = None;
            self.set_status(ConnectionStatus::Connected, changes);
        }
    }

    fn answered(&mut self, now: Nanos, from: SocketAddr, session: u32, changes: &mut Changes) {
        self.unproven = Some((session, now));
        self.answered_in_vain += 1;
        if self.is_connected() {
            return;
        }
        self.remote = from;
        if self.answered_in_vain >= ANSWERS_IN_VAIN {
            self.fail(FailureReason::NeverCompleted { answered: self.answered_in_vain }, now);
            self.set_status(ConnectionStatus::NotConnected, changes);
        }
    }

    fn established(&mut self, session: Session, now: Nanos, changes: &mut Changes) {
        if !session.initiated {
            self.unproven = None;
        }
        self.session = Some(session);
        self.answered_in_vain = 0;
        self.attempt = None;
        self.heard_at = now;
        self.failure = None;
        self.flush_due = self.queued > 0;
        self.counts.handshakes += 1;
        self.set_status(ConnectionStatus::Connected, changes);
    }

    fn refused(
        &mut self,
        error: OpenError,
        message: Message,
        now: Nanos,
        changes: &mut Changes,
    ) -> Rejection {
        let reason = match (message, error) {
            (Message::Response { .. }, OpenError::NotAuthentic) => Some(FailureReason::SharedKeyDiffers),
            (Message::Initiation, OpenError::NotAuthentic | OpenError::OtherKey) => {
                Some(FailureReason::PeerKeyDiffers)
            }
            _ => None,
        };
        if let Some(reason) = reason
            && !self.is_connected()
        {
            self.fail(reason, now);
            self.set_status(ConnectionStatus::NotConnected, changes);
        }
        match error {
            OpenError::NotAuthentic | OpenError::OtherKey => Rejection::NotAuthentic,
            OpenError::Replayed => Rejection::Replayed,
            OpenError::NoSession => Rejection::NoSession,
            OpenError::Malformed => Rejection::Malformed,
            OpenError::UnderLoad => Rejection::UnderLoad,
        }
    }

    fn reject(&mut self, rejection: Rejection) -> Received {
        self.counts.rejections.add(rejection);
        Received::Rejected(rejection)
    }

    fn fail(&mut self, reason: FailureReason, now: Nanos) {
        let stands = self.failure.as_ref().is_some_and(|(standing, at)| {
            standing.weight() > reason.weight() && now.since(*at) < FAILURE_STANDS
        });
        if !stands {
            self.failure = Some((reason, now));
        }
    }

    fn set_status(&mut self, status: ConnectionStatus, changes: &mut Changes) {
        if self.status != status {
            self.status = status;
            changes.push_back((self.config.id, status));
        }
    }

    fn flush(&mut self, scratch: &mut [u8], transmit: &mut dyn FnMut(Transmit<'_>)) {
        if !std::mem::take(&mut self.flush_due) {
            return;
        }
        while let Some(len) = self.tunnel.flush(scratch) {
            // A keepalive may have waited too: it is no packet.
            if let Some(packet_len) = len.checked_sub(SEAL_OVERHEAD).filter(|len| *len > 0) {
                self.counts.sent_packets += 1;
                self.counts.sent_bytes += packet_len as u64;
            }
            self.transmit(&scratch[..len], transmit);
        }
        self.queued = 0;
    }

    fn transmit(&self, data: &[u8], transmit: &mut dyn FnMut(Transmit<'_>)) {
        if !data.is_empty() {
            transmit(Transmit { tunnel: self.config.id, to: self.remote, data });
        }
    }
}
