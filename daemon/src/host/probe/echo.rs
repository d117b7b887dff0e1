//! Echo probes: ICMP by the kernel's unprivileged ping sockets, and UDP to a responder.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use nix::poll::PollFlags;
use socket2::{Protocol, Socket, Type};

use super::{Deadline, Outcome, Report, icmp_error, local, not_sent, open};
use crate::host::error::{Context, Result};
use crate::host::netns::Netns;

/// Bytes of type, code, checksum, identifier and sequence (RFC 792, RFC 4443).
const ICMP_HEADER_BYTES: usize = 8;
/// Echo request of ICMP.
const ECHO_V4: u8 = 8;
/// Echo request of ICMPv6.
const ECHO_V6: u8 = 128;
/// The most that one IPv4 packet holds beside its header.
const DATAGRAM_BYTES_MAX: usize = 65_535 - 20 - ICMP_HEADER_BYTES;

/// Sends one ICMP echo request from inside `ns` and waits for its reply.
///
/// # Errors
/// Where no socket can be opened or the kernel fails; that the packet gets nowhere is an [`Outcome`].
pub fn icmp_echo(
    ns: &Netns,
    source: Option<IpAddr>,
    destination: IpAddr,
    payload_bytes: u16,
    deadline: &Deadline,
) -> Result<Report> {
    match Echo::open(ns, source, destination)? {
        Ok(echo) => echo.send(1, payload_bytes, deadline),
        Err(report) => Ok(report),
    }
}

/// A series of ICMP echo requests that are one flow.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    destination: IpAddr,
}

impl Echo {
    /// Opens the flow. The inner error is the report where the machine's kernel has no way to the destination.
    ///
    /// # Errors
    /// Where no socket can be opened.
    pub fn open(
        ns: &Netns,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> Result<std::result::Result<Self, Report>> {
        let protocol = if destination.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = open(ns, Type::DGRAM, protocol, destination, source)?;
        icmp_error::enable(&socket, destination).on("prepare a probe's socket in", ns.label())?;
        if let Err(error) = socket.connect(&SocketAddr::new(destination, 0).into()) {
            let outcome = not_sent(&error).ok_or(error).on("probe", destination)?;
            return Ok(Err(Report { outcome, source: local(&socket) }));
        }
        Ok(Ok(Self { socket, destination }))
    }

    /// Limits how far the requests go.
    ///
    /// # Errors
    /// Zero, or a kernel that refuses.
    pub fn set_hops_max(&self, hops: u8) -> Result<()> {
        match self.destination {
            IpAddr::V4(_) => self.socket.set_ttl_v4(hops.into()),
            IpAddr::V6(_) => self.socket.set_unicast_hops_v6(hops.into()),
        }
        .on("limit the hops to", self.destination)
    }

    /// Sends one request and waits for its reply; replies to earlier ones are passed over.
    ///
    /// # Errors
    /// Where the kernel fails.
    pub fn send(&self, sequence: u16, payload_bytes: u16, deadline: &Deadline) -> Result<Report> {
        let request = self.request(sequence, payload_bytes);
        let started = Instant::now();
        let outcome = exchange(&self.socket, &request, started, deadline, |reply| {
            reply.get(6..8).is_some_and(|found| found == sequence.to_be_bytes())
        })
        .on("probe", self.destination)?;
        Ok(Report { outcome, source: local(&self.socket) })
    }

    /// The kernel sets identifier and checksum.
    fn request(&self, sequence: u16, payload_bytes: u16) -> Vec<u8> {
        let payload = usize::from(payload_bytes).min(DATAGRAM_BYTES_MAX);
        let mut request = vec![0; ICMP_HEADER_BYTES + payload];
        request[0] = if self.destination.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
        request[6..8].copy_from_slice(&sequence.to_be_bytes());
        request
    }
}

/// Sends one UDP datagram from inside `ns` to a responder and waits for it to come back.
///
/// # Errors
/// As [`icmp_echo`].
pub fn udp_echo(
    ns: &Netns,
    source: Option<IpAddr>,
    destination: SocketAddr,
    payload_bytes: u16,
    deadline: &Deadline,
) -> Result<Report> {
    let socket = open(ns, Type::DGRAM, Protocol::UDP, destination.ip(), source)?;
    icmp_error::enable(&socket, destination.ip()).on("prepare a probe's socket in", ns.label())?;
    if let Err(error) = socket.connect(&destination.into()) {
        let outcome = not_sent(&error).ok_or(error).on("probe", destination)?;
        return Ok(Report { outcome, source: local(&socket) });
    }
    // One byte at least: an empty datagram can't be told from the end of a stream by every responder.
    let payload = vec![0x76; usize::from(payload_bytes).clamp(1, DATAGRAM_BYTES_MAX)];
    let outcome = exchange(&socket, &payload, Instant::now(), deadline, |reply| reply == payload)
        .on("probe", destination)?;
    Ok(Report { outcome, source: local(&socket) })
}

/// Sends `request` and waits for a datagram that `is_reply` takes for its answer, or an ICMP error.
fn exchange(
    socket: &Socket,
    request: &[u8],
    started: Instant,
    deadline: &Deadline,
    is_reply: impl Fn(&[u8]) -> bool,
) -> io::Result<Outcome> {
    if let Err(error) = socket.send(request) {
        // The error of an earlier request of the series is delivered at the next call, whichever that is.
        if let Some(outcome) = icmp_error::take(socket, started.elapsed())? {
            return Ok(outcome);
        }
        return not_sent(&error).ok_or(error);
    }
    let mut buffer = vec![0; request.len().max(64)];
    loop {
        if let Err(outcome) = deadline.wait(socket, PollFlags::POLLIN | PollFlags::POLLERR)? {
            return Ok(outcome);
        }
        let after = started.elapsed();
        match (&mut &*socket).read(&mut buffer) {
            Ok(len) if is_reply(&buffer[..len]) => return Ok(Outcome::Answered(after)),
            Ok(_) => {}
            Err(error) => {
                if let Some(outcome) = icmp_error::take(socket, after)? {
                    return Ok(outcome);
                }
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    Some(libc::ECONNREFUSED) => return Ok(Outcome::Refused(after)),
                    Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES) => {
                        return Ok(Outcome::Unreachable { by: None, code: None });
                    }
                    _ => return Err(error),
                }
            }
        }
    }
}
