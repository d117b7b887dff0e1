//! Built-in probes: real packets from inside a machine, without a program in it.
//!
//! A socket belongs to the namespace of the thread that opened it; so only the opening runs inside, and the probe itself on the
//! caller's thread, which blocks until the deadline or until the probe is cancelled.

mod echo;
mod icmp_error;
mod respond;
mod tcp;
mod trace;
mod traffic;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

pub use echo::{Echo, icmp_echo, udp_echo};
pub use respond::{Responder, Service};
pub use tcp::tcp_connect;
pub use trace::{Hop, trace};
pub use traffic::{Interval, TrafficReport, TrafficSpec, Transport, traffic};

use super::error::{Context, Result};
use super::netns::Netns;

/// How often a waiting probe looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side answered, after this time.
    Answered(Duration),
    /// The other side is there and has no such port: a TCP reset, or ICMP's port unreachable.
    Refused(Duration),
    /// A router on the way had no hops left for it (ICMP time exceeded).
    TtlExceeded {
        /// The router.
        by: IpAddr,
        /// When its message came.
        after: Duration,
    },
    /// A router or the destination sent ICMP's destination unreachable, with this code (RFC 792, RFC 4443).
    Unreachable {
        /// Who sent it; unknown where TCP only says that it came.
        by: Option<IpAddr>,
        /// The code; unknown where TCP only says that it came.
        code: Option<u8>,
    },
    /// It does not fit: ICMP's packet too big, or the machine knows by itself.
    TooBig {
        /// Who said so; none for the machine itself.
        by: Option<IpAddr>,
        /// Bytes that do fit.
        mtu: u32,
    },
    /// The machine's own kernel would not send it, with this error number (no route: `ENETUNREACH`).
    NotSent(i32),
    /// Nothing came until the deadline.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
}

impl Outcome {
    /// The round trip, where the other side answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match self {
            Self::Answered(rtt) => Some(*rtt),
            _ => None,
        }
    }
}

/// A probe's end and the address that it was sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// What became of it.
    pub outcome: Outcome,
    /// The source address and port that the machine's kernel chose; none where it chose none (no route).
    pub source: Option<SocketAddr>,
}

/// Ends probes from another thread. Clones share one switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends every probe that was given this switch, within a twentieth of a second.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was used.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Until when a probe waits.
#[derive(Clone, Debug)]
pub struct Deadline {
    at: Instant,
    cancel: Cancel,
}

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self { at: Instant::now() + time, cancel: Cancel::default() }
    }

    /// So long from now, or until cancelled.
    #[must_use]
    pub fn or_cancelled(time: Duration, cancel: &Cancel) -> Self {
        Self { at: Instant::now() + time, cancel: cancel.clone() }
    }

    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Waits for one of `events`; the outcome where they don't come in time.
    fn wait(&self, socket: &impl AsFd, events: PollFlags) -> io::Result<std::result::Result<(), Outcome>> {
        loop {
            if self.cancel.is_cancelled() {
                return Ok(Err(Outcome::Cancelled));
            }
            let left = self.left();
            // poll(2) counts whole milliseconds: rounded up, lest the last one be spent spinning.
            let step = left.min(CANCEL_POLL) + Duration::from_micros(999);
            let mut fds = [PollFd::new(socket.as_fd(), events)];
            match poll(&mut fds, PollTimeout::try_from(step).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if left.is_zero() => return Ok(Err(Outcome::TimedOut)),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(Ok(())),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens a non-blocking socket inside `ns`, bound to `source` where one is given.
fn open(
    ns: &Netns,
    kind: Type,
    protocol: Protocol,
    family: IpAddr,
    source: Option<IpAddr>,
) -> Result<Socket> {
    let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    ns.run(|| {
        let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok::<_, io::Error>(socket)
    })?
    .on("open a probe's socket in", ns.label())
}

fn local(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

/// What a failed `send` or `connect` of the machine's kernel means.
fn not_sent(error: &io::Error) -> Option<Outcome> {
    let errno = error.raw_os_error()?;
    let local = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EADDRNOTAVAIL,
        libc::EACCES,
        libc::EPERM,
        libc::EINVAL,
        libc::ENETDOWN,
        libc::ENOBUFS,
        libc::EMSGSIZE,
    ];
    local.contains(&errno).then_some(Outcome::NotSent(errno))
}
