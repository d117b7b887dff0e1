//! The tunnel ends of a lab: segments sealed into one buffer per send, opened neighbours joined again.

use std::net::SocketAddr;

use vnet_dataplane::{Nanos, Reason, TunnelId};
use vnet_gateway::{
    ConnectionStatus, Endpoint, EndpointError, Opened, Rejection, SealBatch, SealOutcome, Transmit,
    TunnelConfig, TunnelStatus,
};

use crate::output::Output;

/// A tunnel end with the public address that it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSetup {
    /// Where its datagrams leave from.
    pub local: SocketAddr,
    /// Keys and peer.
    pub config: TunnelConfig,
}

/// What became of a packet for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// It leaves with this batch, or waits for the handshake that is under way.
    Taken,
    /// There is no session.
    Down,
    /// It cannot be sealed: larger than a datagram can be.
    TooBig,
}

/// What a datagram carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A packet of this length.
    Packet(TunnelId, usize),
    /// Nothing to route: a handshake's part, a keepalive, or what is for no tunnel.
    Nothing,
    /// It is refused: a drop at the tunnel's end.
    Refused(TunnelId, Reason),
}

/// The first octet of a response to a handshake initiation (WireGuard, 5.4.3).
const HANDSHAKE_RESPONSE: u8 = 2;

/// Why a tunnel's end drops a datagram.
fn reason(rejection: Rejection) -> Reason {
    match rejection {
        Rejection::WrongSource => Reason::SpoofedSource,
        Rejection::Malformed | Rejection::NotAuthentic | Rejection::Replayed => Reason::Malformed,
        Rejection::UnknownTunnel | Rejection::NoSession | Rejection::InitiationRefused => Reason::TunnelDown,
        Rejection::UnderLoad => Reason::DdosShed,
    }
}

/// All endpoints, one for each public address.
pub struct Tunnels {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint, by tunnel.
    homes: Vec<Option<usize>>,
    batch: SealBatch,
    /// Where the datagrams in the batch leave from.
    batch_from: Option<SocketAddr>,
    /// Answers to handshakes, which wait for the output: from, to, datagram.
    answers: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnels").field("endpoints", &self.endpoints.len()).finish_non_exhaustive()
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Tunnels {
            endpoints: Vec::new(),
            homes: Vec::new(),
            batch: SealBatch::new(),
            batch_from: None,
            answers: Vec::new(),
        }
    }
}

impl Tunnels {
    /// Brings the tunnel ends to these. One that is the same as before keeps its session; a new one starts its
    /// handshake.
    ///
    /// # Errors
    /// Two ends of one address with the same key, or too many of them. The others are set.
    pub fn set(&mut self, setups: Vec<TunnelSetup>, now: Nanos) -> Result<(), EndpointError> {
        for endpoint in &mut self.endpoints {
            let local = endpoint.local();
            let gone: Vec<TunnelId> = endpoint
                .tunnels()
                .filter(|id| !setups.iter().any(|setup| setup.local == local && setup.config.id == *id))
                .collect();
            for id in gone {
                endpoint.remove(id);
            }
        }
        self.endpoints.retain(|endpoint| setups.iter().any(|setup| setup.local == endpoint.local()));
        let mut outcome = Ok(());
        for setup in setups {
            let id = setup.config.id;
            let endpoint = self.endpoint(setup.local);
            match endpoint.set(setup.config) {
                Ok(()) => endpoint.start(id, now),
                Err(error) => outcome = Err(error),
            }
        }
        self.rebuild_homes();
        outcome
    }

    fn endpoint(&mut self, local: SocketAddr) -> &mut Endpoint {
        let index = match self.endpoints.iter().position(|endpoint| endpoint.local() == local) {
            Some(index) => index,
            None => {
                self.endpoints.push(Endpoint::new(local));
                self.endpoints.len() - 1
            }
        };
        &mut self.endpoints[index]
    }

    fn rebuild_homes(&mut self) {
        self.homes.clear();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            for id in endpoint.tunnels() {
                if self.homes.len() <= id.index() {
                    self.homes.resize(id.index() + 1, None);
                }
                self.homes[id.index()] = Some(index);
            }
        }
    }

    fn home(&self, tunnel: TunnelId) -> Option<usize> {
        *self.homes.get(tunnel.index())?
    }

    /// Status of a tunnel end.
    pub fn status(&self, tunnel: TunnelId, now: Nanos) -> Option<TunnelStatus> {
        self.endpoints[self.home(tunnel)?].status(tunnel, now)
    }

    /// The oldest change of a tunnel's state that was not asked for yet.
    pub fn next_change(&mut self) -> Option<(TunnelId, ConnectionStatus)> {
        self.endpoints.iter_mut().find_map(Endpoint::next_change)
    }

    /// When a handshake, keepalive or judgement is due.
    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        self.endpoints.iter().filter_map(Endpoint::next_timeout).min()
    }

    /// Seals one IP packet. It leaves with the batch: see [`Tunnels::flush`].
    pub(crate) fn seal(
        &mut self,
        tunnel: TunnelId,
        packet: &[u8],
        now: Nanos,
        out: &mut impl Output,
    ) -> Sealed {
        let Some(home) = self.home(tunnel) else { return Sealed::Down };
        let local = self.endpoints[home].local();
        if self.batch_from != Some(local) {
            self.flush(out);
            self.batch_from = Some(local);
        }
        // A full batch is sent, after which an empty one either takes the packet or never will.
        for _ in 0..2 {
            match self.endpoints[home].seal_into(now, tunnel, packet, &mut self.batch) {
                SealOutcome::Sealed { .. } | SealOutcome::Queued => return Sealed::Taken,
                SealOutcome::Down => return Sealed::Down,
                SealOutcome::TooBig => return Sealed::TooBig,
                SealOutcome::BatchFull => self.flush(out),
            }
        }
        Sealed::TooBig
    }

    /// Sends what was sealed and what answers handshakes.
    pub(crate) fn flush(&mut self, out: &mut impl Output) {
        if let (Some(from), Some(datagrams)) = (self.batch_from, self.batch.datagrams()) {
            out.send(from, datagrams.to, datagrams.segment_size, datagrams.data);
        }
        self.batch.clear();
        for (from, to, data) in self.answers.drain(..) {
            out.send(from, to, data.len(), &data);
        }
    }

    /// Opens a datagram into `buffer`.
    pub(crate) fn open(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        buffer: &mut [u8],
        now: Nanos,
    ) -> Carried {
        let Some(endpoint) = self.endpoints.iter_mut().find(|endpoint| endpoint.local() == local) else {
            return Carried::Nothing;
        };
        match endpoint.open(now, from, datagram, buffer) {
            Opened::Packet { tunnel, packet } => Carried::Packet(tunnel, packet.len()),
            Opened::Reply(Transmit { to, data, .. }) => {
                self.answers.push((local, to, data.to_vec()));
                Carried::Nothing
            }
            // Where both ends begin a handshake at once, the answer to one of them comes too late.
            Opened::Rejected { rejection: Rejection::NotAuthentic, .. }
                if datagram.first() == Some(&HANDSHAKE_RESPONSE) =>
            {
                Carried::Nothing
            }
            Opened::Rejected { tunnel: Some(tunnel), rejection } => {
                Carried::Refused(tunnel, reason(rejection))
            }
            Opened::Consumed { .. } | Opened::Rejected { tunnel: None, .. } => Carried::Nothing,
        }
    }

    /// Does what time demands.
    pub(crate) fn handle_timeout(&mut self, now: Nanos, out: &mut impl Output) {
        for endpoint in &mut self.endpoints {
            if endpoint.next_timeout().is_some_and(|at| at <= now) {
                let local = endpoint.local();
                endpoint.handle_timeout(now, &mut |transmit| {
                    out.send(local, transmit.to, transmit.data.len(), transmit.data);
                });
            }
        }
    }
}
