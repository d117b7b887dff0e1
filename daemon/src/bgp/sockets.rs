//! The sockets of the speakers: opened in their namespaces, non-blocking, watched by one epoll.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vnet_bgp::PORT;
use vnet_dataplane::Nanos;

use crate::host::netns::Netns;

/// Which instance of a gateway: lab, gateway, number.
pub(super) type Key = (Arc<str>, Arc<str>, u16);

/// Bytes that wait for a peer that does not read; one that lets more wait is given up.
const UNSENT_BYTES_MAX: usize = 8 << 20;
/// Bytes read from one connection before others have their turn.
const BATCH_BYTES: usize = 64 << 10;
/// How long an attempt to connect may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that is to close may take to send what it was given.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 16;

/// A connection of a speaker with a peer.
struct Connection {
    key: Key,
    peer: IpAddr,
    stream: TcpStream,
    unsent: Vec<u8>,
    /// When the attempt to connect, or to close, has taken too long.
    until: Option<Nanos>,
    is_connecting: bool,
    is_closing: bool,
}

enum Entry {
    Listener(Key, TcpListener),
    Connection(Connection),
}

/// What has happened at a socket. Connections are named by their tokens.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection that was asked for stands.
    Connected(u64),
    /// It could not be opened.
    Failed(String),
    /// A peer has opened a connection.
    Accepted(u64),
    /// Bytes.
    Received(u64, Vec<u8>),
    /// A connection is gone.
    Closed(u64),
}

/// An event with the speaker and the peer that it concerns.
pub(super) type Happening = (Key, IpAddr, Event);

/// All sockets.
pub(super) struct Sockets {
    epoll: Epoll,
    entries: HashMap<u64, Entry>,
    next: u64,
}

impl Sockets {
    pub(super) fn new(epoll: Epoll) -> Sockets {
        Sockets { epoll, entries: HashMap::new(), next: 0 }
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn enter(&mut self, entry: Entry, flags: EpollFlags) -> io::Result<u64> {
        let token = self.next;
        self.next += 1;
        let event = EpollEvent::new(flags, token);
        match &entry {
            Entry::Listener(_, listener) => self.epoll.add(listener.as_fd(), event)?,
            Entry::Connection(connection) => self.epoll.add(connection.stream.as_fd(), event)?,
        }
        self.entries.insert(token, entry);
        Ok(token)
    }

    /// Listens at a speaker's address.
    ///
    /// # Errors
    /// The address is not there or taken, or the namespace cannot be entered.
    pub(super) fn listen(&mut self, key: &Key, ns: &Netns, address: IpAddr) -> io::Result<u64> {
        let open = move || -> io::Result<TcpListener> {
            let address = SocketAddr::new(address, PORT);
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::from(address))?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        let listener = ns.run(open).map_err(io::Error::other)??;
        self.enter(Entry::Listener(key.clone(), listener), EpollFlags::EPOLLIN)
    }

    /// Begins to connect to a peer from a speaker's address.
    ///
    /// # Errors
    /// The attempt could not even begin.
    pub(super) fn connect(
        &mut self,
        key: &Key,
        ns: &Netns,
        (local, peer): (IpAddr, IpAddr),
        now: Nanos,
    ) -> io::Result<()> {
        let open = move || -> io::Result<TcpStream> {
            let (local, remote) = (SocketAddr::new(local, 0), SocketAddr::new(peer, PORT));
            let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::from(local))?;
            match socket.connect(&SockAddr::from(remote)) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(socket.into()),
            }
        };
        let stream = ns.run(open).map_err(io::Error::other)??;
        // One message at a time: a KEEPALIVE waits for nothing.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            key: key.clone(),
            peer,
            stream,
            unsent: Vec::new(),
            until: Some(now + CONNECT_PATIENCE),
            is_connecting: true,
            is_closing: false,
        };
        self.enter(Entry::Connection(connection), EpollFlags::EPOLLOUT).map(|_| ())
    }

    /// Sends bytes of a connection, or keeps them until it takes them. False if the connection is lost.
    pub(super) fn send(&mut self, token: u64, bytes: &[u8]) -> bool {
        let Some(Entry::Connection(connection)) = self.entries.get_mut(&token) else { return true };
        connection.unsent.extend_from_slice(bytes);
        if connection.unsent.len() > UNSENT_BYTES_MAX {
            return false;
        }
        let sent = connection.flush();
        self.watch(token);
        sent.is_ok()
    }

    /// Closes a connection once it has sent what it was given. It is not heard of again.
    pub(super) fn close(&mut self, token: u64, now: Nanos) {
        let Some(Entry::Connection(connection)) = self.entries.get_mut(&token) else { return };
        if connection.flush().is_err() || connection.unsent.is_empty() {
            self.remove(token);
            return;
        }
        connection.is_closing = true;
        connection.until = Some(now + CLOSE_PATIENCE);
        self.watch(token);
    }

    /// Closes a socket at once.
    pub(super) fn remove(&mut self, token: u64) {
        // Closing the descriptor takes it out of the epoll.
        self.entries.remove(&token);
    }

    /// Closes every socket of a speaker at once.
    pub(super) fn remove_all(&mut self, key: &Key) {
        self.entries.retain(|_, entry| match entry {
            Entry::Listener(of, _) => of != key,
            Entry::Connection(connection) => connection.key != *key,
        });
    }

    /// Has the epoll tell what is waited for at a connection.
    fn watch(&self, token: u64) {
        let Some(Entry::Connection(connection)) = self.entries.get(&token) else { return };
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !connection.is_connecting && !connection.is_closing);
        flags.set(EpollFlags::EPOLLOUT, connection.is_connecting || !connection.unsent.is_empty());
        let mut event = EpollEvent::new(flags, token);
        if let Err(error) = self.epoll.modify(connection.stream.as_fd(), &mut event) {
            tracing::error!(%error, "a BGP connection is not watched any more");
        }
    }

    /// The next time at which [`Sockets::overdue`] has something.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let until = |entry: &Entry| match entry {
            Entry::Listener(..) => None,
            Entry::Connection(connection) => connection.until,
        };
        self.entries.values().filter_map(until).min()
    }

    /// Gives up attempts that have taken too long.
    pub(super) fn overdue(&mut self, now: Nanos) -> Vec<Happening> {
        let mut happened = Vec::new();
        self.entries.retain(|_, entry| {
            let Entry::Connection(connection) = entry else { return true };
            let over = connection.until.is_some_and(|until| until <= now);
            if over && connection.is_connecting {
                let event = Event::Failed("no answer".to_owned());
                happened.push((connection.key.clone(), connection.peer, event));
            }
            !over
        });
        happened
    }

    /// What is ready at a socket.
    pub(super) fn ready(&mut self, token: u64) -> Vec<Happening> {
        match self.entries.get_mut(&token) {
            Some(Entry::Listener(key, listener)) => {
                let (key, accepted) = (key.clone(), accept(listener));
                accepted.into_iter().filter_map(|(stream, peer)| self.accepted(&key, stream, peer)).collect()
            }
            Some(Entry::Connection(connection)) => {
                let (key, peer) = (connection.key.clone(), connection.peer);
                let events = connection.ready(token);
                let is_done = connection.is_closing && connection.unsent.is_empty();
                let is_lost = matches!(events.last(), Some(Event::Closed(_) | Event::Failed(_))) || is_done;
                if is_lost {
                    self.remove(token);
                } else {
                    self.watch(token);
                }
                events.into_iter().map(|event| (key.clone(), peer, event)).collect()
            }
            None => Vec::new(),
        }
    }

    fn accepted(&mut self, key: &Key, stream: TcpStream, peer: IpAddr) -> Option<Happening> {
        let connection = Connection {
            key: key.clone(),
            peer,
            stream,
            unsent: Vec::new(),
            until: None,
            is_connecting: false,
            is_closing: false,
        };
        let token = self.enter(Entry::Connection(connection), EpollFlags::EPOLLIN).ok()?;
        Some((key.clone(), peer, Event::Accepted(token)))
    }
}

/// Connections that wait at a listening socket, with the addresses that they came from.
fn accept(listener: &TcpListener) -> Vec<(TcpStream, IpAddr)> {
    let mut accepted = Vec::new();
    while accepted.len() < BACKLOG as usize {
        match listener.accept() {
            Ok((stream, from)) => {
                if stream.set_nonblocking(true).is_ok() {
                    let _ = stream.set_nodelay(true);
                    accepted.push((stream, from.ip()));
                }
            }
            Err(_) => break,
        }
    }
    accepted
}

impl Connection {
    fn ready(&mut self, token: u64) -> Vec<Event> {
        if self.is_connecting {
            return match self.stream.take_error() {
                Ok(None) => {
                    (self.is_connecting, self.until) = (false, None);
                    vec![Event::Connected(token)]
                }
                Ok(Some(error)) | Err(error) => vec![Event::Failed(error.to_string())],
            };
        }
        if self.flush().is_err() {
            return if self.is_closing { self.forget() } else { vec![Event::Closed(token)] };
        }
        if self.is_closing { Vec::new() } else { self.read(token) }
    }

    /// What is left of a connection that was to close anyway.
    fn forget(&mut self) -> Vec<Event> {
        self.unsent.clear();
        Vec::new()
    }

    fn read(&mut self, token: u64) -> Vec<Event> {
        let mut bytes = vec![0; BATCH_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => vec![Event::Closed(token)],
            Ok(length) => {
                bytes.truncate(length);
                vec![Event::Received(token, bytes)]
            }
            Err(error) if is_for_later(&error) => Vec::new(),
            Err(_) => vec![Event::Closed(token)],
        }
    }

    /// Sends as much as the kernel takes.
    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() && !self.is_connecting {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if is_for_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
