//! One peer's finite state machine (RFC 4271 section 8).
//!
//! A session has at most two connections: the one that it has opened and one that the peer has opened. They live side
//! by side until an OPEN tells which of them stays (section 6.8). The caller names connections by [`ConnectionId`] and
//! does what [`Output`] says; it calls [`Session::step`] with [`Input::Timer`] when [`Session::deadline`] is due.

mod connection;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vnet_dataplane::Nanos;

use crate::message::{self, Coding, Notification, Open, Update};
use crate::types::Family;
use connection::{Connection, Event, Phase};

/// Names a TCP connection. The caller gives each a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What a session must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// The speaker's AS number.
    pub local_asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// The AS number that the peer must have.
    pub peer_asn: u32,
    /// Hold time that is proposed, in seconds: 0 or at least 3. The lower of both sides' counts.
    pub hold_time_s: u16,
    /// Families to offer.
    pub families: Vec<Family>,
    /// Waits for the peer to connect instead of connecting (section 8.1.1, PassiveTcpEstablishment).
    pub passive: bool,
    /// Wait after the first failed connection; doubles with each further one.
    pub retry_min: Duration,
    /// Longest wait between two attempts.
    pub retry_max: Duration,
}

impl SessionConfig {
    /// With Azure's timers (60 and 180 seconds) and both families.
    pub fn new(local_asn: u32, router_id: Ipv4Addr, peer_asn: u32) -> SessionConfig {
        SessionConfig {
            local_asn,
            router_id,
            peer_asn,
            hold_time_s: 180,
            families: Family::ALL.to_vec(),
            passive: false,
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(120),
        }
    }
}

/// States of RFC 4271 section 8.2.2: that of the connection which is furthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SessionState {
    /// Refuses connections.
    Idle,
    /// Waits before it connects again, or for the peer to connect.
    Active,
    /// A connection is being opened.
    Connect,
    /// OPEN was sent.
    OpenSent,
    /// OPEN was received, a KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// Why a session, or an attempt at one, ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DownReason {
    /// The peer broke a rule, or this side wanted to end: this NOTIFICATION was sent.
    Sent(Notification),
    /// The peer's NOTIFICATION.
    Received(Notification),
    /// The peer closed the connection.
    Closed,
    /// No connection could be opened; the caller's words.
    ConnectFailed(String),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Sent(notification) => write!(f, "sent notification: {notification}"),
            DownReason::Received(notification) => write!(f, "received notification: {notification}"),
            DownReason::Closed => f.write_str("the peer closed the connection"),
            DownReason::ConnectFailed(why) => write!(f, "cannot connect: {why}"),
        }
    }
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// ManualStart: leave Idle.
    Start,
    /// ManualStop: go to Idle with this NOTIFICATION, see [`Notification::shutdown`].
    Stop(Notification),
    /// Ends the session with this NOTIFICATION and tries again after the longest wait.
    Reset(Notification),
    /// The connection that [`Output::Connect`] asked for stands.
    Connected(ConnectionId),
    /// It could not be opened.
    ConnectFailed(String),
    /// The peer has opened a connection.
    Accepted(ConnectionId),
    /// Bytes of a connection.
    Received(ConnectionId, &'a [u8]),
    /// A connection is gone.
    Closed(ConnectionId),
    /// Time has passed.
    Timer,
}

/// What the caller is to do or to know, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a connection to the peer; answered by [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect,
    /// Send these bytes.
    Send(ConnectionId, Vec<u8>),
    /// Close the connection, after what was sent. It is not heard of again.
    Close(ConnectionId),
    /// The session stands.
    Established(Coding),
    /// The session that stood has ended.
    Down(DownReason),
    /// The peer's routes.
    Update(Update),
    /// The peer wants all routes of a family again (RFC 2918).
    Refresh(Family),
}

/// One peer's state machine.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    started: bool,
    connecting: bool,
    retry_at: Option<Nanos>,
    retry_wait: Duration,
    connections: Vec<Connection>,
    last_error: Option<DownReason>,
    since: Nanos,
    messages_sent: u64,
    messages_received: u64,
}

impl Session {
    /// A session in Idle.
    pub fn new(config: SessionConfig, now: Nanos) -> Session {
        Session {
            retry_wait: config.retry_min,
            config,
            started: false,
            connecting: false,
            retry_at: None,
            connections: Vec::new(),
            last_error: None,
            since: now,
            messages_sent: 0,
            messages_received: 0,
        }
    }

    /// Its state.
    pub fn state(&self) -> SessionState {
        let phase = self.connections.iter().map(|connection| connection.phase).max();
        match phase {
            Some(Phase::Established) => SessionState::Established,
            Some(Phase::OpenConfirm) => SessionState::OpenConfirm,
            Some(Phase::OpenSent) => SessionState::OpenSent,
            None if self.connecting => SessionState::Connect,
            None if self.started => SessionState::Active,
            None => SessionState::Idle,
        }
    }

    /// When the state was entered, as far as Established and its loss go.
    pub fn since(&self) -> Nanos {
        self.since
    }

    /// Why the last session or attempt ended.
    pub fn last_error(&self) -> Option<&DownReason> {
        self.last_error.as_ref()
    }

    /// Messages sent and received since the session was made.
    pub fn messages(&self) -> (u64, u64) {
        (self.messages_sent, self.messages_received)
    }

    /// The configuration.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What was agreed with the peer, while the session stands.
    pub fn coding(&self) -> Option<&Coding> {
        self.established().and_then(|at| self.connections[at].coding.as_ref())
    }

    /// When [`Input::Timer`] is due; none if nothing is waited for.
    pub fn deadline(&self) -> Option<Nanos> {
        self.connections.iter().filter_map(Connection::deadline).chain(self.retry_at).min()
    }

    /// Asks the peer for all its routes of a family; nothing if the session does not stand or the peer cannot.
    pub fn request_refresh(&mut self, family: Family, out: &mut Vec<Output>) {
        if let Some(at) = self.established()
            && self.connections[at].peer_refreshes
        {
            self.send_message(at, message::route_refresh(family), out);
        }
    }

    /// Sends a whole message, if the session stands.
    pub fn send(&mut self, message: Vec<u8>, out: &mut Vec<Output>) {
        if let Some(at) = self.established() {
            self.send_message(at, message, out);
        }
    }

    /// Takes one input. What it leads to is appended to `out`.
    pub fn step(&mut self, input: Input<'_>, now: Nanos, out: &mut Vec<Output>) {
        match input {
            Input::Start if !self.started => {
                self.started = true;
                self.retry_wait = self.config.retry_min;
                if !self.config.passive {
                    self.connect(out);
                }
            }
            Input::Start => {}
            Input::Stop(notification) => {
                self.started = false;
                self.drop_all(&notification, now, out);
                self.retry_at = None;
                self.connecting = false;
            }
            Input::Reset(notification) => {
                self.drop_all(&notification, now, out);
                self.retry_wait = self.config.retry_max;
                self.retry_later(now);
            }
            Input::Connected(id) => {
                self.connecting = false;
                self.opened(id, false, now, out);
            }
            Input::ConnectFailed(why) => {
                self.connecting = false;
                self.last_error = Some(DownReason::ConnectFailed(why));
                self.retry_later(now);
            }
            Input::Accepted(id) => self.opened(id, true, now, out),
            Input::Received(id, bytes) => self.received(id, bytes, now, out),
            Input::Closed(id) => {
                if let Some(at) = self.position(id) {
                    self.lose(at, DownReason::Closed, now, out);
                }
            }
            Input::Timer => self.timers(now, out),
        }
    }

    fn position(&self, id: ConnectionId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == id)
    }

    fn established(&self) -> Option<usize> {
        self.connections.iter().position(|connection| connection.phase == Phase::Established)
    }

    fn connect(&mut self, out: &mut Vec<Output>) {
        self.retry_at = None;
        self.connecting = true;
        out.push(Output::Connect);
    }

    /// The next attempt, once there is nothing left that could become a session.
    fn retry_later(&mut self, now: Nanos) {
        if !self.started || self.config.passive || self.connecting || !self.connections.is_empty() {
            return;
        }
        self.retry_at = Some(now + self.retry_wait);
        self.retry_wait = (self.retry_wait * 2).min(self.config.retry_max);
    }

    fn opened(&mut self, id: ConnectionId, incoming: bool, now: Nanos, out: &mut Vec<Output>) {
        let rejected = Notification::new(Notification::CEASE, 5, &[]);
        let twice = self.connections.iter().any(|connection| connection.incoming == incoming);
        if !self.started || twice || self.established().is_some() {
            out.push(Output::Send(id, rejected.encode()));
            out.push(Output::Close(id));
            return;
        }
        self.retry_at = None;
        self.connections.push(Connection::new(id, incoming, now));
        let open = Open {
            asn: self.config.local_asn,
            hold_time_s: self.config.hold_time_s,
            router_id: self.config.router_id,
            families: self.config.families.clone(),
            four_octet: true,
            route_refresh: true,
        };
        self.send_message(self.connections.len() - 1, open.encode(), out);
    }

    fn send_message(&mut self, at: usize, message: Vec<u8>, out: &mut Vec<Output>) {
        self.messages_sent += 1;
        out.push(Output::Send(self.connections[at].id, message));
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8], now: Nanos, out: &mut Vec<Output>) {
        let Some(at) = self.position(id) else { return };
        self.connections[at].framer.push(bytes);
        // A collision can end this connection, or another, in between.
        while let Some(at) = self.position(id) {
            match self.connections[at].next_event(&self.config, now) {
                Ok(None) => return,
                Ok(Some(event)) => {
                    self.messages_received += 1;
                    self.event(at, event, now, out);
                }
                Err(notification) => return self.refuse(at, notification, now, out),
            }
        }
    }

    fn event(&mut self, at: usize, event: Event, now: Nanos, out: &mut Vec<Output>) {
        match event {
            Event::Opened => {
                self.send_message(at, message::keepalive(), out);
                self.resolve_collision(at, now, out);
            }
            Event::Established => {
                self.since = now;
                self.retry_wait = self.config.retry_min;
                self.retry_at = None;
                let coding = self.connections[at].coding.clone();
                out.extend(coding.map(Output::Established));
            }
            Event::Update(update) => out.push(Output::Update(update)),
            Event::Refresh(family) => out.push(Output::Refresh(family)),
            Event::Notification(notification) => {
                out.push(Output::Close(self.connections[at].id));
                self.lose(at, DownReason::Received(notification), now, out);
            }
            Event::Nothing => {}
        }
    }

    /// Section 6.8: of two connections whose OPENs are both known, that of the speaker with the higher identifier
    /// stays, or with the higher AS number between equal ones (RFC 6286). One that stands already stays in any case.
    fn resolve_collision(&mut self, at: usize, now: Nanos, out: &mut Vec<Output>) {
        let Some(other) = (0..self.connections.len()).find(|other| *other != at) else { return };
        let peer_id = self.connections[at].peer_router_id;
        let local_wins = (u32::from(self.config.router_id), self.config.local_asn)
            > (u32::from(peer_id), self.config.peer_asn);
        let loser = match self.connections[other].phase {
            Phase::OpenSent => return,
            Phase::Established => at,
            Phase::OpenConfirm if self.connections[at].incoming == local_wins => at,
            Phase::OpenConfirm => other,
        };
        self.refuse(loser, Notification::new(Notification::CEASE, 7, &[]), now, out);
    }

    fn refuse(&mut self, at: usize, notification: Notification, now: Nanos, out: &mut Vec<Output>) {
        self.send_message(at, notification.encode(), out);
        out.push(Output::Close(self.connections[at].id));
        self.lose(at, DownReason::Sent(notification), now, out);
    }

    fn lose(&mut self, at: usize, reason: DownReason, now: Nanos, out: &mut Vec<Output>) {
        let lost = self.connections.remove(at);
        if lost.phase == Phase::Established {
            self.since = now;
            out.push(Output::Down(reason.clone()));
        }
        if self.connections.is_empty() || lost.phase == Phase::Established {
            self.last_error = Some(reason);
        }
        self.retry_later(now);
    }

    fn drop_all(&mut self, notification: &Notification, now: Nanos, out: &mut Vec<Output>) {
        while !self.connections.is_empty() {
            self.refuse(0, notification.clone(), now, out);
        }
    }

    fn timers(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let mut at = 0;
        while at < self.connections.len() {
            if self.connections[at].hold_at.is_some_and(|due| due <= now) {
                self.refuse(at, Notification::new(4, 0, &[]), now, out);
                continue;
            }
            if self.connections[at].keepalive_due(now) {
                self.send_message(at, message::keepalive(), out);
            }
            at += 1;
        }
        if self.retry_at.is_some_and(|due| due <= now) {
            self.connect(out);
        }
    }
}
