//! A steady stream of datagrams that runs in the background, one at a time: how many were sent, how many arrived, when the last.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use crate::one_way::{enter, nanoseconds};
use crate::wait::{PATIENCE, wait_until};

/// What a sender writes into each datagram.
const FILLER: u8 = 0x76;
/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Address and port of the sender.
    pub from: SocketAddr,
    /// Address and port of the receiver.
    pub to: SocketAddr,
    /// Bytes of each datagram.
    pub datagram_bytes: u16,
    /// How long the sender sleeps after each.
    pub every: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    strange: AtomicU64,
    last_ns: AtomicU64,
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
}

/// A stream that runs until it is ended or dropped.
#[derive(Debug)]
pub struct Stream {
    counts: Arc<Counts>,
    sender: Option<JoinHandle<Result<()>>>,
    receiver: Option<JoinHandle<Result<()>>>,
}

impl Stream {
    /// Sends from a thread in the namespace `from` (a name of `ip netns`) to one in the namespace `to`.
    ///
    /// # Errors
    /// A namespace that is not there, an address or a port that cannot be had.
    pub fn start(from: &str, to: &str, plan: Plan) -> Result<Stream> {
        let counts = Arc::new(Counts::default());
        let (source, sink) =
            (in_namespace(from, move || sender(&plan))?, in_namespace(to, move || receiver(&plan))?);
        let (own, other) = (Arc::clone(&counts), Arc::clone(&counts));
        let receiver = std::thread::spawn(move || receive(&sink, &own));
        let sender = std::thread::spawn(move || send(&source, &plan, &other));
        Ok(Stream { counts, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Acquire)
    }

    /// Datagrams received so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Acquire)
    }

    /// Bytes in the datagrams received so far.
    pub fn received_bytes(&self) -> u64 {
        self.counts.received_bytes.load(Ordering::Acquire)
    }

    /// Datagrams to the receiver's port that are not the stream's.
    pub fn strange(&self) -> u64 {
        self.counts.strange.load(Ordering::Acquire)
    }

    /// When the last datagram reached the receiver's device, in seconds since 1970.
    pub fn last_arrival(&self) -> f64 {
        self.counts.last_ns.load(Ordering::Acquire) as f64 / 1e9
    }

    /// Waits until it has been so long since anything arrived while the sender went on.
    ///
    /// # Errors
    /// It does not fall silent.
    pub fn wait_silent(&self, silence: u64) -> Result<()> {
        let mut seen = (self.received(), self.sent());
        wait_until("nothing arrives any more", PATIENCE, || {
            let now = (self.received(), self.sent());
            if now.0 != seen.0 {
                seen = now;
            }
            Ok(now.1 > seen.1 + silence)
        })
    }

    /// Waits until this many more datagrams have arrived.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_received(&self, more: u64) -> Result<()> {
        let goal = self.received() + more;
        wait_until("datagrams arrive", PATIENCE, || Ok(self.received() >= goal))
    }

    /// Ends the sender; what is under way still arrives.
    ///
    /// # Errors
    /// What the sender met.
    pub fn stop_sending(&mut self) -> Result<()> {
        self.counts.stop_sending.store(true, Ordering::Release);
        join(&mut self.sender)
    }

    /// Ends both.
    ///
    /// # Errors
    /// What either of them met.
    pub fn end(&mut self) -> Result<()> {
        let sent = self.stop_sending();
        self.counts.stop_receiving.store(true, Ordering::Release);
        sent.and(join(&mut self.receiver))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Who wants to know what they met has ended it before.
        let _ = self.end();
    }
}

fn join(thread: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("a stream's thread panicked"))?)
}

/// Runs `make` in a namespace: what it opens belongs there.
///
/// # Errors
/// No such namespace, or what `make` says.
pub fn in_namespace<T: Send + 'static>(
    namespace: &str,
    make: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let namespace = namespace.to_owned();
    let thread = std::thread::spawn(move || enter(&namespace).and_then(|()| make()));
    thread.join().map_err(|_| anyhow!("a thread in a namespace panicked"))?
}

fn sender(plan: &Plan) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(plan.from).with_context(|| plan.from.to_string())?;
    socket.connect(plan.to).with_context(|| plan.to.to_string())?;
    Ok(socket)
}

fn receiver(plan: &Plan) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(plan.to).with_context(|| plan.to.to_string())?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn send(socket: &UdpSocket, plan: &Plan, counts: &Counts) -> Result<()> {
    nix::sys::prctl::set_timerslack(1)?;
    let datagram = vec![FILLER; usize::from(plan.datagram_bytes)];
    while !counts.stop_sending.load(Ordering::Acquire) {
        let length = socket.send(&datagram).context("send")?;
        ensure!(length == datagram.len(), "a datagram was cut");
        counts.sent.fetch_add(1, Ordering::AcqRel);
        std::thread::sleep(plan.every);
    }
    Ok(())
}

fn receive(socket: &UdpSocket, counts: &Counts) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut control = cmsg_space!(TimeSpec);
    while !counts.stop_receiving.load(Ordering::Acquire) {
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        let message =
            match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()) {
                Ok(message) => message,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error).context("receive"),
            };
        let stamp = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(time) => Some(nanoseconds(time)),
            _ => None,
        });
        let stamp = stamp.context("the kernel did not stamp a datagram")?;
        let length = message.bytes;
        if buffer[..length].iter().any(|byte| *byte != FILLER) {
            counts.strange.fetch_add(1, Ordering::AcqRel);
            continue;
        }
        counts.last_ns.store(stamp, Ordering::Release);
        counts.received_bytes.fetch_add(length as u64, Ordering::AcqRel);
        counts.received.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}

/// Sends datagrams by a raw socket of the namespace `namespace` under a source that need not be its own.
///
/// # Errors
/// No right to, or the kernel refuses.
pub fn send_raw(namespace: &str, from: SocketAddrV4, to: SocketAddrV4, count: usize) -> Result<()> {
    in_namespace(namespace, move || {
        // IPPROTO_RAW: the header is in the data.
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        let packet = datagram(from, to, b"forged");
        for _ in 0..count {
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty()).context("send")?;
        }
        Ok(())
    })
}

/// An IPv4 packet with a datagram without checksum; the kernel fills the header's own.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let udp_bytes = 8 + data.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_bytes).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(data);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_datagrams() {
        let packet = datagram("10.1.0.4:4000".parse().unwrap(), "10.2.0.4:5000".parse().unwrap(), b"abc");
        assert_eq!((packet.len(), packet[3], packet[9]), (31, 31, 17));
        assert_eq!(packet[12..20], [10, 1, 0, 4, 10, 2, 0, 4]);
        assert_eq!(packet[20..26], [15, 160, 19, 136, 0, 11]);
        assert_eq!(packet[28..], *b"abc");
    }

    #[test]
    fn streams_over_the_loopback() {
        let port = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let plan = Plan { from: port(), to: port(), datagram_bytes: 32, every: Duration::from_micros(100) };
        let counts = Arc::new(Counts::default());
        let (source, sink) = (sender(&plan).unwrap(), receiver(&plan).unwrap());
        let (own, other) = (Arc::clone(&counts), Arc::clone(&counts));
        let receiver = std::thread::spawn(move || receive(&sink, &own));
        let sender = std::thread::spawn(move || send(&source, &plan, &other));
        let mut stream = Stream { counts, sender: Some(sender), receiver: Some(receiver) };
        stream.wait_received(50).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"strange", plan.to).unwrap();
        wait_until("the strange one is told apart", PATIENCE, || Ok(stream.strange() == 1)).unwrap();
        stream.stop_sending().unwrap();
        wait_until("all arrive", PATIENCE, || Ok(stream.received() == stream.sent())).unwrap();
        assert_eq!(stream.received_bytes(), 32 * stream.sent());
        assert!(stream.last_arrival() > 1.6e9);
        stream.end().unwrap();
    }
}
