//! A stream of stamped datagrams from one namespace to another: the rate that arrives, the time that each took, their order.
//!
//! Both ends are threads of this process. The sender writes number and time into each datagram right before it is
//! handed to the kernel; the kernel of the receiver stamps it where its device takes it (SO_TIMESTAMPNS), so that neither
//! side's scheduling counts. Both times are of the same clock. The sender goes before other threads of the machine: a gap in
//! what is offered is a gap in what arrives.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use rustix::process::setpriority_process;

use crate::contention::thread_waited;

/// Number and time at the start of each datagram.
const STAMP_BYTES: usize = 16;
/// IPv4 and UDP headers.
const HEADER_BYTES: u64 = 28;
/// How long the sender sleeps between two bursts.
const PACE: Duration = Duration::from_micros(100);
/// Room for what waits while the receiver is off the processor.
const SOCKET_BYTES: usize = 64 << 20;
/// How long nothing has to arrive until the rest counts as lost.
const QUIET: Duration = Duration::from_millis(700);
/// The niceness of who goes before others.
const FIRST: i32 = -20;
/// Until the sender has ended.
const UNKNOWN: u64 = u64::MAX;

/// What to send, over IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bits of IP packets a second.
    pub rate_bps: u64,
    /// Payload of each datagram.
    pub datagram_bytes: u16,
    /// Datagrams that are handed to the kernel as one (UDP_SEGMENT); 1 for none.
    pub segments: u16,
    /// How long to send.
    pub duration: Duration,
    /// What was sent in so much time at the start is left out of rate and delays.
    pub settle: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Datagrams that arrived after one that was sent later.
    pub reordered: u64,
    /// Bits of IP packets a second that arrived between the end of settling and the last departure.
    pub rate_bps: f64,
    /// What was offered, in the same measure.
    pub offered_bps: f64,
    /// How long the sender, ready to run, had no processor.
    pub sender_waited: Duration,
    /// Those sent after settling, as they arrived.
    settled: Vec<Arrival>,
    /// Bits of each IP packet.
    packet_bits: f64,
    /// One way, in nanoseconds, sorted.
    delays_ns: Vec<u64>,
}

impl Arrivals {
    /// How many of those that were sent after settling arrived.
    pub fn settled(&self) -> usize {
        self.settled.len()
    }

    /// The time that this share of the datagrams (0 to 1) took at most.
    pub fn delay(&self, share: f64) -> Duration {
        let last = self.delays_ns.len().saturating_sub(1);
        let index = (share * last as f64).round() as usize;
        Duration::from_nanos(self.delays_ns.get(index.min(last)).copied().unwrap_or(0))
    }

    /// The share of the datagrams (0 to 1) that took longer than so long.
    pub fn later_than(&self, limit: Duration) -> f64 {
        let in_time = self.delays_ns.partition_point(|delay| u128::from(*delay) <= limit.as_nanos());
        (self.delays_ns.len() - in_time) as f64 / self.delays_ns.len().max(1) as f64
    }

    /// How far the arrivals got ahead of a rate, at most: for any two datagrams, what arrived after the first up to the second,
    /// in time at this rate, less the time from the first one's departure to the second one's arrival.
    ///
    /// Who keeps to the rate is ahead by a burst at most, however late anybody had a processor: nobody can have let
    /// the first pass before it was sent, nor the second after it had arrived.
    pub fn ahead_of(&self, rate_bps: f64) -> Duration {
        let bit_ns = 1e9 / rate_bps;
        let Some(base_ns) = self.settled.first().map(|first| first.sent_ns) else { return Duration::ZERO };
        let since = |time_ns: u64| time_ns as i64 as f64 - base_ns as i64 as f64;
        let (mut arrived_ns, mut least, mut ahead) = (0.0, f64::INFINITY, 0.0_f64);
        for arrival in &self.settled {
            arrived_ns += self.packet_bits * bit_ns;
            ahead = ahead.max(arrived_ns - since(arrival.arrived_ns) - least);
            least = least.min(arrived_ns - since(arrival.sent_ns));
        }
        Duration::from_nanos(ahead.max(0.0) as u64)
    }
}

/// Sends `load` from the namespace `from` (a name of `ip netns`) to `destination` in the namespace `to`.
///
/// # Errors
/// A namespace that is not there, a port that is taken, or no right to enter.
pub fn measure(from: &str, to: &str, destination: SocketAddr, load: &Load) -> Result<Arrivals> {
    ensure!(usize::from(load.datagram_bytes) >= STAMP_BYTES, "a datagram holds at least {STAMP_BYTES} bytes");
    let ended = AtomicU64::new(UNKNOWN);
    let (bound, ready) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let ended = &ended;
        let receiving = scope.spawn(move || -> Result<Vec<Arrival>> {
            enter(to)?;
            let socket = receiver(destination)?;
            // The other side has given up where nobody waits for this.
            let _ = bound.send(());
            receive(&socket, load, ended)
        });
        let sending = scope.spawn(move || -> Result<Sending> {
            enter(from)?;
            // Without the right to go first it stays among the others.
            let _ = setpriority_process(None, FIRST);
            // It fails where the receiver could not be made; that says why.
            ready.recv().context("the receiver did not start")?;
            let outcome = send(destination, load);
            ended.store(outcome.as_ref().map_or(0, |sending| sending.sent), Ordering::Release);
            outcome
        });
        let sending = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        if sending.is_err() {
            ended.store(0, Ordering::Release);
        }
        let arrivals = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(summary(&arrivals, &sending?, load))
    })
}

/// One datagram.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    sent_ns: u64,
    arrived_ns: u64,
}

struct Sending {
    sent: u64,
    began_ns: u64,
    ended_ns: u64,
    waited: Duration,
}

pub(crate) fn enter(namespace: &str) -> Result<()> {
    let file = format!("/run/netns/{namespace}");
    setns(File::open(&file).with_context(|| file.clone())?, CloneFlags::CLONE_NEWNET).context(file)?;
    set_timerslack(1)?;
    Ok(())
}

fn wall_ns() -> Result<u64> {
    Ok(nanoseconds(clock_gettime(ClockId::CLOCK_REALTIME)?))
}

pub(crate) fn nanoseconds(time: TimeSpec) -> u64 {
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn receiver(destination: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(destination).with_context(|| destination.to_string())?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BYTES)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, load: &Load, ended: &AtomicU64) -> Result<Vec<Arrival>> {
    let expected = load.rate_bps as f64 * load.duration.as_secs_f64() / 8.0 / f64::from(load.datagram_bytes);
    let mut arrivals = Vec::with_capacity(expected as usize + 1024);
    let mut buffer = vec![0; 1 << 16];
    let mut control = cmsg_space!(TimeSpec, i32);
    let mut quiet_since = None;
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => {
                let (mut arrived_ns, mut size) = (None, usize::MAX);
                for part in message.cmsgs()? {
                    match part {
                        ControlMessageOwned::ScmTimestampns(time) => arrived_ns = Some(nanoseconds(time)),
                        ControlMessageOwned::UdpGroSegments(bytes) if bytes > 0 => size = bytes as usize,
                        _ => {}
                    }
                }
                let length = message.bytes;
                let arrived_ns = arrived_ns.context("the kernel did not stamp a datagram")?;
                for datagram in buffer[..length].chunks(size.min(length.max(1))) {
                    let Some((number, rest)) = datagram.split_first_chunk() else { continue };
                    let Some(sent_ns) = rest.first_chunk() else { continue };
                    let (number, sent_ns) = (u64::from_le_bytes(*number), u64::from_le_bytes(*sent_ns));
                    arrivals.push(Arrival { number, sent_ns, arrived_ns });
                }
                quiet_since = None;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {
                quiet_since.get_or_insert_with(Instant::now);
            }
            Err(error) => return Err(error).context("receive"),
        }
        let sent = ended.load(Ordering::Acquire);
        let is_over = quiet_since.is_some_and(|since| since.elapsed() > QUIET);
        if arrivals.len() as u64 >= sent || (sent != UNKNOWN && is_over) {
            return Ok(arrivals);
        }
    }
}

fn send(destination: SocketAddr, load: &Load) -> Result<Sending> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(destination)?;
    setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BYTES)?;
    let size = usize::from(load.datagram_bytes);
    let segments = usize::from(load.segments.max(1));
    if segments > 1 {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(load.datagram_bytes))?;
    }
    let mut block = vec![0x76; size * segments];
    let datagram_bits = (u64::from(load.datagram_bytes) + HEADER_BYTES) * 8;
    let waited_before = thread_waited()?;
    let (began, began_ns) = (Instant::now(), wall_ns()?);
    let mut sent = 0;
    loop {
        let elapsed = began.elapsed();
        if elapsed >= load.duration {
            let waited = thread_waited()?.saturating_sub(waited_before);
            return Ok(Sending { sent, began_ns, ended_ns: wall_ns()?, waited });
        }
        let due = (elapsed.as_nanos() * u128::from(load.rate_bps) / u128::from(datagram_bits) / 1_000_000_000)
            as u64;
        while sent < due {
            let stamp = wall_ns()?.to_le_bytes();
            for (number, datagram) in (sent..).zip(block.chunks_mut(size)) {
                datagram[..8].copy_from_slice(&number.to_le_bytes());
                datagram[8..STAMP_BYTES].copy_from_slice(&stamp);
            }
            match socket.send(&block) {
                Ok(_) => {}
                // What the machine's own kernel refuses for want of room was offered all the same.
                Err(error) if matches!(error.raw_os_error(), Some(code) if code == Errno::ENOBUFS as i32) => {
                }
                Err(error) => return Err(error).context("send"),
            }
            sent += segments as u64;
        }
        std::thread::sleep(PACE);
    }
}

fn summary(arrivals: &[Arrival], sending: &Sending, load: &Load) -> Arrivals {
    let settled_ns = sending.began_ns + load.settle.as_nanos() as u64;
    let settled: Vec<Arrival> =
        arrivals.iter().filter(|arrival| arrival.sent_ns >= settled_ns).copied().collect();
    let mut delays_ns: Vec<u64> =
        settled.iter().map(|arrival| arrival.arrived_ns.saturating_sub(arrival.sent_ns)).collect();
    delays_ns.sort_unstable();
    let packet_bits = ((u64::from(load.datagram_bytes) + HEADER_BYTES) * 8) as f64;
    let span = |from: u64, to: u64| to.saturating_sub(from).max(1) as f64 / 1e9;
    let counted =
        arrivals.iter().filter(|one| (settled_ns..sending.ended_ns).contains(&one.arrived_ns)).count();
    let newest = arrivals.iter().scan(None, |newest, arrival| {
        let late = newest.is_some_and(|newest| arrival.number < newest);
        *newest = (*newest).max(Some(arrival.number));
        Some(late)
    });
    Arrivals {
        sent: sending.sent,
        received: arrivals.len() as u64,
        reordered: newest.filter(|late| *late).count() as u64,
        rate_bps: counted as f64 * packet_bits / span(settled_ns, sending.ended_ns),
        offered_bps: sending.sent as f64 * packet_bits / span(sending.began_ns, sending.ended_ns),
        sender_waited: sending.waited,
        settled,
        packet_bits,
        delays_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        rate_bps: 8_000_000,
        datagram_bytes: 972,
        segments: 1,
        duration: Duration::from_secs(3),
        settle: Duration::from_secs(1),
    };

    #[test]
    fn sums_arrivals_up() {
        // 1000 a second of 1000 bytes each, 5 ms under way, the last two in wrong order.
        let mut arrivals: Vec<Arrival> = (0..3_000)
            .map(|number| {
                let sent_ns = 1 + number * 1_000_000;
                Arrival { number, sent_ns, arrived_ns: sent_ns + 5_000_000 + number }
            })
            .collect();
        let last = arrivals.len() - 1;
        arrivals.swap(last - 1, last);
        let sending = Sending { sent: 3_010, began_ns: 0, ended_ns: 3_000_000_000, waited: Duration::ZERO };
        let sum = summary(&arrivals, &sending, &LOAD);
        assert_eq!((sum.sent, sum.received, sum.reordered), (3_010, 3_000, 1));
        assert!((sum.rate_bps / 8e6 - 1.0).abs() < 1e-3, "{}", sum.rate_bps);
        assert_eq!(sum.delay(0.0), Duration::from_nanos(5_001_000));
        assert_eq!(sum.delay(1.0), Duration::from_nanos(5_002_999));
        assert_eq!(sum.delay(0.5).as_micros(), 5_002);
        let late = sum.later_than(Duration::from_nanos(5_002_000));
        assert!((late - 0.5).abs() < 0.001, "{late}");
        assert_eq!(sum.later_than(sum.delay(1.0)), 0.0);
        // At half the rate 1999 packets take 3998 ms; 2004 ms passed from the first one's departure to the last one's arrival.
        assert_eq!(sum.ahead_of(8e6), Duration::ZERO);
        let ahead = sum.ahead_of(4e6).as_secs_f64();
        assert!((ahead - 1.994).abs() < 1e-3, "{ahead}");
        let late = Sending { sent: 1, began_ns: u64::MAX / 2, ended_ns: u64::MAX, waited: Duration::ZERO };
        assert_eq!(summary(&arrivals, &late, &LOAD).settled(), 0);
    }
}
