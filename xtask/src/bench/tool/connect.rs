//! Real TCP connections: accepted, opened and closed one after another, or held open.
//!
//! A connection is closed without a reset: the client shuts its half down when the connection is open, the server closes
//! when it reads the end, and the client when it reads the server's.

use std::io::{ErrorKind, Read, stdin};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use vnet_integration::Running;

use super::{command, start};
use crate::bench::namespace::sysctl;
use crate::bench::path::Path;

/// The first of the server's ports.
pub(crate) const FIRST_PORT: u16 = 7000;
/// How many ports the server listens on: enough that no tuple comes again while its former connection is remembered.
pub(crate) const PORTS: u16 = 64;

const BACKLOG: i32 = 4096;
const EVENTS: usize = 512;
/// How many connections one process holds: within the descriptors that a process may have without privilege.
const HELD_BY_ONE: usize = 15_000;
/// A connection that takes longer has lost a packet and counts as failed.
const STALL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct AcceptArguments {
    #[arg(long)]
    address: IpAddr,
    #[arg(long, default_value_t = FIRST_PORT)]
    first_port: u16,
}

#[derive(Args)]
pub(crate) struct ConnectArguments {
    #[arg(long)]
    address: IpAddr,
    #[arg(long)]
    seconds: u64,
    /// How many are under way at once
    #[arg(long)]
    together: usize,
}

#[derive(Args)]
pub(crate) struct HoldArguments {
    #[arg(long)]
    address: IpAddr,
    #[arg(long)]
    first_port: u16,
    #[arg(long)]
    count: usize,
    #[arg(long)]
    together: usize,
}

/// Opens `count` connections over a path; they stay open as long as what is returned lives.
pub(crate) fn hold(path: &Path, count: usize) -> Result<Vec<Running>> {
    for namespace in [&path.client, &path.server] {
        prepare(namespace)?;
    }
    let mut running = Vec::new();
    let mut first_port = FIRST_PORT;
    let mut left = count;
    while left > 0 {
        let part = left.min(HELD_BY_ONE);
        let (port, part_text) = (first_port.to_string(), part.to_string());
        running.push(start(&path.server, &["accept", "--address", &path.address, "--first-port", &port])?);
        path.wait_open(first_port)?;
        let ends = ["hold", "--address", &path.address, "--first-port", &port];
        let arguments = [&ends[..], &["--count", &part_text, "--together", "64"]].concat();
        let mut client = Running::start(&mut command(&path.client, &arguments)?)?;
        client.wait_for("held", Duration::from_secs(120))?;
        running.push(client);
        first_port += PORTS;
        left -= part;
    }
    Ok(running)
}

/// Room for many connections in a namespace.
pub(crate) fn prepare(namespace: &str) -> Result<()> {
    sysctl(namespace, "ipv4/ip_local_port_range", "'1024 65000'")?;
    sysctl(namespace, "core/somaxconn", "4096")?;
    sysctl(namespace, "ipv4/tcp_max_syn_backlog", "4096")
}

/// As many as the host lets a process have.
fn many_descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

fn new_socket(address: IpAddr) -> Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sockets by number, watched together.
struct Watched {
    epoll: Epoll,
    sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    events: Vec<EpollEvent>,
}

impl Watched {
    fn new() -> Result<Watched> {
        Ok(Watched {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sockets: Vec::new(),
            free: Vec::new(),
            events: vec![EpollEvent::empty(); EVENTS],
        })
    }

    fn add(&mut self, socket: Socket, flags: EpollFlags) -> Result<usize> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        self.epoll.add(&socket, EpollEvent::new(flags, number as u64))?;
        self.sockets[number] = Some(socket);
        Ok(number)
    }

    fn close(&mut self, number: usize) {
        self.sockets[number] = None;
        self.free.push(number);
    }

    fn wait(&mut self, limit: Duration) -> Result<Vec<(usize, EpollFlags)>> {
        let limit = EpollTimeout::try_from(limit)?;
        let count = match self.epoll.wait(&mut self.events, limit) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        Ok(self.events[..count].iter().map(|event| (event.data() as usize, event.events())).collect())
    }
}

/// Whether the other end has closed; what it sent before is read away.
fn has_ended(mut socket: &Socket) -> bool {
    let mut buffer = [0; 256];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// The server, until it is killed.
pub(crate) fn accept(arguments: &AcceptArguments) -> Result<()> {
    many_descriptors()?;
    let mut watched = Watched::new()?;
    let mut listeners = 0;
    for port in arguments.first_port..arguments.first_port + PORTS {
        let socket = new_socket(arguments.address)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(arguments.address, port).into())?;
        socket.listen(BACKLOG)?;
        watched.add(socket, EpollFlags::EPOLLIN)?;
        listeners += 1;
    }
    println!("ready");
    loop {
        for (number, _) in watched.wait(Duration::from_secs(60))? {
            if number >= listeners {
                if watched.sockets[number].as_ref().is_some_and(has_ended) {
                    watched.close(number);
                }
                continue;
            }
            while let Some(Ok((socket, _))) = watched.sockets[number].as_ref().map(Socket::accept) {
                socket.set_nonblocking(true)?;
                watched.add(socket, EpollFlags::EPOLLIN)?;
            }
        }
    }
}

/// Opens connections one after another from the server's ports in turn.
struct Opener {
    address: IpAddr,
    first_port: u16,
    opened: u16,
}

impl Opener {
    fn open(&mut self, watched: &mut Watched) -> Result<usize> {
        let socket = new_socket(self.address)?;
        let port = self.first_port + self.opened % PORTS;
        self.opened = self.opened.wrapping_add(1);
        match socket.connect(&SocketAddr::new(self.address, port).into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
            Err(error) => return Err(error).context("connect"),
        }
        watched.add(socket, EpollFlags::EPOLLOUT)
    }
}

/// Opens and closes connections for a time; prints how many were opened and closed.
pub(crate) fn connect(arguments: &ConnectArguments) -> Result<()> {
    many_descriptors()?;
    let mut watched = Watched::new()?;
    let mut opener = Opener { address: arguments.address, first_port: FIRST_PORT, opened: 0 };
    let (mut closed, mut failed) = (0_u64, 0_u64);
    let started = Instant::now();
    let deadline = started + Duration::from_secs(arguments.seconds);
    let mut under_way = 0;
    while under_way < arguments.together {
        opener.open(&mut watched)?;
        under_way += 1;
    }
    while under_way > 0 {
        let events = watched.wait(STALL_LIMIT)?;
        ensure!(!events.is_empty(), "{under_way} connections stall, {closed} were closed, {failed} failed");
        for (number, flags) in events {
            let Some(socket) = watched.sockets[number].as_ref() else { continue };
            if flags.contains(EpollFlags::EPOLLOUT) && !flags.contains(EpollFlags::EPOLLERR) {
                socket.shutdown(Shutdown::Write)?;
                let mut watch = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
                watched.epoll.modify(socket, &mut watch)?;
                continue;
            }
            if let Some(_error) = socket.take_error()? {
                failed += 1;
            } else if has_ended(socket) {
                closed += 1;
            } else {
                continue;
            }
            watched.close(number);
            if Instant::now() < deadline {
                opener.open(&mut watched)?;
            } else {
                under_way -= 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"connections": closed, "failed": failed, "seconds": seconds}));
    Ok(())
}

/// Opens connections and keeps them until standard input ends.
pub(crate) fn hold_open(arguments: &HoldArguments) -> Result<()> {
    many_descriptors()?;
    let mut watched = Watched::new()?;
    let mut opener = Opener { address: arguments.address, first_port: arguments.first_port, opened: 0 };
    let (mut opened, mut under_way) = (0, 0);
    while opened < arguments.count {
        while under_way < arguments.together && opened + under_way < arguments.count {
            opener.open(&mut watched)?;
            under_way += 1;
        }
        let events = watched.wait(STALL_LIMIT)?;
        ensure!(!events.is_empty(), "{opened} connections are open and no more open");
        for (number, _) in events {
            let Some(socket) = watched.sockets[number].as_ref() else { continue };
            if let Some(error) = socket.take_error()? {
                bail!("after {opened} connections: {error}");
            }
            // Nothing is to be seen of it any more.
            watched.epoll.delete(socket)?;
            opened += 1;
            under_way -= 1;
        }
    }
    println!("held {opened}");
    let mut rest = Vec::new();
    stdin().read_to_end(&mut rest)?;
    Ok(())
}
