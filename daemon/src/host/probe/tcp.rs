//! The TCP probe: a connection, opened and closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use nix::poll::PollFlags;
use socket2::{Protocol, Socket, Type};

use super::{Deadline, Outcome, Report, local, not_sent, open};
use crate::host::error::{Context, Result};
use crate::host::netns::Netns;

/// Opens a TCP connection from inside `ns`; the round trip is that of SYN and SYN-ACK. It is closed at once, by FIN.
///
/// # Errors
/// Where no socket can be opened or the kernel fails; that the connection does not come about is an [`Outcome`].
pub fn tcp_connect(
    ns: &Netns,
    source: Option<IpAddr>,
    destination: SocketAddr,
    deadline: &Deadline,
) -> Result<Report> {
    let socket = open(ns, Type::STREAM, Protocol::TCP, destination.ip(), source)?;
    let outcome = connect(&socket, destination, deadline).on("probe", destination)?;
    Ok(Report { outcome, source: local(&socket) })
}

/// Connects a non-blocking socket.
pub(super) fn connect(socket: &Socket, destination: SocketAddr, deadline: &Deadline) -> io::Result<Outcome> {
    let started = Instant::now();
    match socket.connect(&destination.into()) {
        Ok(()) => return Ok(Outcome::Answered(started.elapsed())),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return not_sent(&error).ok_or(error),
    }
    if let Err(outcome) = deadline.wait(socket, PollFlags::POLLOUT)? {
        return Ok(outcome);
    }
    let after = started.elapsed();
    let Some(error) = socket.take_error()? else { return Ok(Outcome::Answered(after)) };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Ok(Outcome::Refused(after)),
        Some(libc::ETIMEDOUT) => Ok(Outcome::TimedOut),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENOPROTOOPT | libc::EACCES) => {
            Ok(Outcome::Unreachable { by: None, code: None })
        }
        _ => Err(error),
    }
}
