//! The other end of a probe: a port inside the target, open for as long as the probe takes.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::error::{Context, Result};
use crate::host::netns::Netns;

/// Connections that are kept open at a time; the kernel's backlog holds more.
const CONNECTIONS_MAX: usize = 256;
/// Peers that are remembered.
const SEEN_MAX: usize = 4096;
/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// What a responder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Accepts connections and reads them to their end.
    Tcp,
    /// Sends every datagram back.
    Udp,
}

/// Peers in the order of their coming, and a call for those who wait for one.
#[derive(Debug, Default)]
struct Guests {
    peers: Mutex<Vec<SocketAddr>>,
    came: Condvar,
}

/// An open port, until it is dropped.
#[derive(Debug)]
pub struct Responder {
    seen: Arc<Guests>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Responder {
    /// Opens `port` of both families inside `ns`; 0 lets the kernel choose. None where a program of the machine's has the port:
    /// then that one answers.
    ///
    /// # Errors
    /// Where no socket or thread can be made.
    pub fn open(ns: &Netns, service: Service, port: u16) -> Result<Option<Self>> {
        let listener = match ns.run(|| listen(service, port))? {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => return Ok(None),
            other => other.on("open a port in", ns.label())?,
        };
        let port = listener
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
            .map_or(port, |address| address.port());
        let (stop_read, stop) = io::pipe().on("make", "a pipe")?;
        let seen = Arc::new(Guests::default());
        let known = Arc::clone(&seen);
        let thread = std::thread::Builder::new()
            .name("responder".into())
            .spawn(move || {
                let result = match service {
                    Service::Tcp => accept(&listener, &stop_read, &known),
                    Service::Udp => echo(&listener, &stop_read, &known),
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "a probe's responder ended early");
                }
            })
            .on("start", "a thread")?;
        Ok(Some(Self { seen, stop: Some(stop), thread: Some(thread), port }))
    }

    /// The port that is open.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who has come so far, with the address that was seen here: not the sender's own where it was translated on the way.
    #[must_use]
    pub fn seen(&self) -> Vec<SocketAddr> {
        self.seen.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who has come last, as in [`Responder::seen`]; waits for the first one until the time is over.
    #[must_use]
    pub fn seen_within(&self, time: Duration) -> Option<SocketAddr> {
        let peers = self.seen.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.seen.came.wait_timeout_while(peers, time, |peers| peers.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.last().copied()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // The other end of the pipe reports the hang-up.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(service: Service, port: u16) -> io::Result<Socket> {
    let (kind, protocol) = match service {
        Service::Tcp => (Type::STREAM, Protocol::TCP),
        Service::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let bind = |domain, any: IpAddr| {
        let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if service == Service::Tcp {
            // Connections of an earlier probe may still be in TIME_WAIT.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok::<_, io::Error>(socket)
    };
    let socket = match bind(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()) {
        // A kernel without IPv6.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            bind(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())?
        }
        other => other?,
    };
    if service == Service::Tcp {
        socket.listen(128)?;
    }
    Ok(socket)
}

fn remember(seen: &Guests, peer: Option<SocketAddr>) {
    let Some(peer) = peer else { return };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut peers = seen.peers.lock().unwrap_or_else(PoisonError::into_inner);
    if peers.len() < SEEN_MAX && !peers.contains(&peer) {
        peers.push(peer);
    }
    seen.came.notify_all();
}

/// Waits for any of `sockets`; false when it is time to stop.
fn wait<'a>(stop: &PipeReader, sockets: impl Iterator<Item = &'a Socket>) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[0].revents().is_none_or(|events| events.is_empty())),
        Err(nix::Error::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn accept(listener: &Socket, stop: &PipeReader, seen: &Guests) -> io::Result<()> {
    let mut connections: Vec<Socket> = Vec::new();
    let mut buffer = [0; 4096];
    while wait(stop, connections.iter().chain([listener]))? {
        while let Ok((connection, peer)) = listener.accept() {
            remember(seen, peer.as_socket());
            connection.set_nonblocking(true)?;
            if connections.len() == CONNECTIONS_MAX {
                connections.remove(0);
            }
            connections.push(connection);
        }
        // Read to the end and closed then, so that both sides part by FIN.
        connections.retain_mut(|connection| match connection.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
    }
    Ok(())
}

fn echo(socket: &Socket, stop: &PipeReader, seen: &Guests) -> io::Result<()> {
    let socket = std::net::UdpSocket::from(socket.try_clone()?);
    let waiting = Socket::from(socket.try_clone()?);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while wait(stop, [&waiting].into_iter())? {
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            remember(seen, Some(peer));
            // What can't be sent back is the network's doing, and for the prober to notice.
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
    Ok(())
}
