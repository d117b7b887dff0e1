//! Throughput between two machines: payload bytes counted where they arrive.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Cancel, Deadline, Outcome, open, tcp};
use crate::host::error::{Context, HostError, Result};
use crate::host::netns::Netns;

/// How often counts are read and round trips sampled.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often UDP senders wake up to send what is due.
const PACE: Duration = Duration::from_millis(1);
/// How long the receiver waits for what is still on its way (shapers queue).
const DRAIN: Duration = Duration::from_millis(300);
/// Bytes of one write or read of a stream.
const BLOCK_BYTES: usize = 128 << 10;

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As much as goes, or up to a rate of payload over all streams.
    Tcp {
        /// Bits a second; none for no limit.
        rate_bps: Option<u64>,
    },
    /// Datagrams at a rate, whatever becomes of them.
    Udp {
        /// Payload bits a second over all streams.
        rate_bps: u64,
        /// Payload of each datagram, 1 to 65,507.
        datagram_bytes: u16,
    },
}

/// A measurement to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficSpec {
    /// The receiver's address and port; the port is opened for the measurement.
    pub destination: SocketAddr,
    /// The sender's address; none lets the kernel choose.
    pub source: Option<IpAddr>,
    /// What to send.
    pub transport: Transport,
    /// How long.
    pub duration: Duration,
    /// Parallel streams, at least one.
    pub streams: u16,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Part of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its end, since the start.
    pub at: Duration,
    /// Its length.
    pub length: Duration,
    /// Payload bytes that arrived in it.
    pub bytes: u64,
}

/// The whole of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficReport {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Time that they took.
    pub elapsed: Duration,
    /// UDP: datagrams sent.
    pub datagrams_sent: u64,
    /// UDP: datagrams that arrived.
    pub datagrams_received: u64,
    /// TCP: segments sent again.
    pub retransmissions: u64,
    /// TCP: the streams' smoothed round trips, sampled ten times a second, in microseconds.
    pub rtt_us: Vec<u64>,
}

impl TrafficReport {
    /// Payload bits a second over the whole time.
    #[must_use]
    pub fn rate_bps(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64() }
    }
}

/// What sender, receiver and sampler share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes: AtomicU64,
    datagrams_received: AtomicU64,
    datagrams_sent: AtomicU64,
    senders: Mutex<Vec<Socket>>,
    failure: Mutex<Option<io::Error>>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Sends from inside `from` to a port opened inside `to`; `report` is called about once a second. The outer error is the daemon's; the inner
/// outcome is why no connection came about.
///
/// # Errors
/// A port that a program of the machine's has, or a kernel that fails.
pub fn traffic(
    from: &Netns,
    to: &Netns,
    spec: &TrafficSpec,
    cancel: &Cancel,
    mut report: impl FnMut(Interval),
) -> Result<std::result::Result<TrafficReport, Outcome>> {
    if spec.streams == 0 {
        return Err(HostError::Invalid("traffic needs at least one stream".into()));
    }
    let receiver = to.run(|| receiver(spec))?.on("open the receiving port in", to.label())?;
    let mut senders = Vec::new();
    for _ in 0..spec.streams {
        match connect(from, spec, cancel)? {
            Ok(sender) => senders.push(sender),
            Err(outcome) => return Ok(Err(outcome)),
        }
    }
    let shared = Shared::default();
    let clones =
        senders.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>().on("duplicate", "a socket")?;
    *shared.senders.lock().unwrap_or_else(PoisonError::into_inner) = clones;
    let started = Instant::now();
    let mut result = std::thread::scope(|scope| {
        let shared = &shared;
        let receiving = scope.spawn(move || shared.note(receive(scope, &receiver, spec, shared)));
        for sender in senders {
            scope.spawn(move || shared.note(send(&sender, spec, shared)));
        }
        let result = watch(spec, cancel, shared, started, &mut report);
        shared.stop.store(true, Ordering::Relaxed);
        let _ = receiving.join();
        result
    });
    if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error).on("send traffic to", spec.destination);
    }
    result.datagrams_sent = shared.datagrams_sent.into_inner();
    result.datagrams_received = shared.datagrams_received.into_inner();
    Ok(if cancel.is_cancelled() { Err(Outcome::Cancelled) } else { Ok(result) })
}

fn receiver(spec: &TrafficSpec) -> io::Result<Socket> {
    let domain = if spec.destination.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = match spec.transport {
        Transport::Tcp { .. } => (Type::STREAM, Protocol::TCP),
        Transport::Udp { .. } => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        // The receiver may be off the processor for a while; what the lab delivered is not to be lost here.
        socket.set_recv_buffer_size(8 << 20)?;
    }
    // Not the destination itself: the packets may arrive under another address (DNAT).
    let any: IpAddr =
        if spec.destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, spec.destination.port()).into())?;
    if kind == Type::STREAM {
        socket.listen(i32::from(spec.streams))?;
    }
    Ok(socket)
}

fn connect(
    from: &Netns,
    spec: &TrafficSpec,
    cancel: &Cancel,
) -> Result<std::result::Result<Socket, Outcome>> {
    let deadline = Deadline::or_cancelled(spec.connect_timeout, cancel);
    let (kind, protocol) = match spec.transport {
        Transport::Tcp { .. } => (Type::STREAM, Protocol::TCP),
        Transport::Udp { .. } => (Type::DGRAM, Protocol::UDP),
    };
    let socket = open(from, kind, protocol, spec.destination.ip(), spec.source)?;
    if let Transport::Tcp { rate_bps: Some(rate) } = spec.transport {
        let bytes_per_second = (rate / 8 / u64::from(spec.streams)).max(1);
        // SAFETY: the option takes an integer of 64 bits, which lives during the call, and its size.
        let rc = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                (&raw const bytes_per_second).cast(),
                size_of::<u64>() as libc::socklen_t,
            )
        };
        if rc < 0 {
            return Err(io::Error::last_os_error()).on("limit the rate to", spec.destination);
        }
    }
    match tcp::connect(&socket, spec.destination, &deadline).on("connect to", spec.destination)? {
        Outcome::Answered(_) => Ok(Ok(socket)),
        outcome => Ok(Err(outcome)),
    }
}

/// Runs on the caller's thread: counts, samples and ends the measurement.
fn watch(
    spec: &TrafficSpec,
    cancel: &Cancel,
    shared: &Shared,
    started: Instant,
    report: &mut impl FnMut(Interval),
) -> TrafficReport {
    let mut result = TrafficReport::default();
    let (mut last_bytes, mut last_at) = (0, Duration::ZERO);
    loop {
        let left = spec.duration.saturating_sub(started.elapsed());
        std::thread::sleep(left.min(SAMPLE));
        let (at, bytes) = (started.elapsed(), shared.bytes.load(Ordering::Relaxed));
        let ended = at >= spec.duration || cancel.is_cancelled() || shared.stopped();
        if at - last_at >= Duration::from_secs(1) || ended {
            report(Interval { at, length: at - last_at, bytes: bytes - last_bytes });
            (last_bytes, last_at) = (bytes, at);
        }
        if matches!(spec.transport, Transport::Tcp { .. }) {
            result.retransmissions = 0;
            for sender in shared.senders.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                if let Ok((rtt_us, retransmissions)) = tcp_info(sender) {
                    result.rtt_us.push(rtt_us);
                    result.retransmissions += retransmissions;
                }
            }
        }
        if ended {
            return TrafficReport { bytes, elapsed: at, ..result };
        }
    }
}

fn send(socket: &Socket, spec: &TrafficSpec, shared: &Shared) -> io::Result<()> {
    match spec.transport {
        Transport::Tcp { .. } => send_stream(socket, shared),
        Transport::Udp { rate_bps, datagram_bytes } => {
            send_datagrams(socket, rate_bps / u64::from(spec.streams), datagram_bytes.max(1), shared)
        }
    }
}

fn send_stream(mut socket: &Socket, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    // A blocked write has to notice the end.
    socket.set_write_timeout(Some(SAMPLE))?;
    let block = vec![0x76; BLOCK_BYTES];
    while !shared.stopped() {
        match socket.write(&block) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The receiver has gone first: the end.
            Err(_) if shared.stopped() => {}
            Err(error) => return Err(error),
        }
    }
    socket.shutdown(std::net::Shutdown::Write).or(Ok(()))
}

fn send_datagrams(socket: &Socket, rate_bps: u64, bytes: u16, shared: &Shared) -> io::Result<()> {
    let payload = vec![0x76; usize::from(bytes)];
    let started = Instant::now();
    let mut sent: u64 = 0;
    while !shared.stopped() {
        let due = started.elapsed().as_micros() * u128::from(rate_bps) / (u128::from(bytes) * 8 * 1_000_000);
        while u128::from(sent) < due && !shared.stopped() {
            // What the machine's own kernel refuses counts as sent: it was offered.
            match socket.send(&payload) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {
                    return Err(error);
                }
                _ => sent += 1,
            }
        }
        std::thread::sleep(PACE);
    }
    shared.datagrams_sent.fetch_add(sent, Ordering::Relaxed);
    Ok(())
}

fn receive<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    listener: &Socket,
    spec: &TrafficSpec,
    shared: &'scope Shared,
) -> io::Result<()> {
    if let Transport::Udp { .. } = spec.transport {
        return receive_datagrams(listener, shared);
    }
    for _ in 0..spec.streams {
        let deadline = Deadline::after(spec.connect_timeout);
        if deadline.wait(listener, PollFlags::POLLIN)?.is_err() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (connection, _) = listener.accept()?;
        scope.spawn(move || shared.note(receive_stream(&connection, shared)));
    }
    Ok(())
}

fn receive_stream(mut connection: &Socket, shared: &Shared) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(SAMPLE))?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut ended = None;
    loop {
        match connection.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) if shared.stopped() => return Ok(()),
            Err(error) => return Err(error),
        }
        // Read to the sender's FIN, so that it does not meet a reset; but not for longer than a moment.
        if shared.stopped() && ended.get_or_insert_with(Instant::now).elapsed() > DRAIN {
            return Ok(());
        }
    }
}

fn receive_datagrams(socket: &Socket, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(SAMPLE))?;
    let mut buffer = vec![0; 65_535];
    let mut ended = None;
    loop {
        match (&mut &*socket).read(&mut buffer) {
            Ok(len) => {
                shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
                shared.datagrams_received.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if shared.stopped() && ended.get_or_insert_with(Instant::now).elapsed() > DRAIN {
            return Ok(());
        }
    }
}

/// Smoothed round trip in microseconds, and segments sent again.
fn tcp_info(socket: &Socket) -> io::Result<(u64, u64)> {
    // SAFETY: tcp_info is plain data for which all zeroes is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = SockRef::from(socket).as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `info`, which lives during the call.
    let rc = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((u64::from(info.tcpi_rtt), u64::from(info.tcpi_total_retrans)))
}
