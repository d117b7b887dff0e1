//! A UDP socket as a worker uses it: many datagrams a call, by UDP_SEGMENT, recvmmsg and UDP_GRO.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use vnet_gateway::DatagramBatch;
use vnet_gateway::batch::SEGMENTS_MAX;

/// Messages of one recvmmsg call; each may be a GRO batch of up to 64 datagrams.
const MESSAGES_MAX: usize = 16;

/// Largest UDP payload, a GRO batch's too.
const MESSAGE_LEN_MAX: usize = 65_535;

/// Asked of the kernel for either direction; what net.core allows is less where we lack CAP_NET_ADMIN.
const SOCKET_BUFFER_BYTES: libc::c_int = 8 << 20;

/// Errors in a row that a receive call forgives: each is one ICMP error that waits at the socket.
const RECEIVE_ERRORS_MAX: usize = 16;

/// A control message buffer as the kernel wants it aligned, with room for the one integer that is passed.
#[repr(C)]
union Control {
    bytes: [u8; 64],
    _align: libc::cmsghdr,
}

impl Control {
    const EMPTY: Control = Control { bytes: [0; 64] };
}

/// What a socket has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounts {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams dropped because the socket's buffer was full.
    pub send_buffer_full: u64,
    /// Datagrams dropped because there is no way to their receiver, or they are larger than the way takes.
    pub send_unreachable: u64,
    /// Datagrams received.
    pub received: u64,
    /// Received messages that were larger than any buffer, and dropped.
    pub truncated: u64,
    /// ICMP errors that earlier datagrams brought back.
    pub icmp_errors: u64,
}

/// A non-blocking UDP socket with its offloads.
pub struct UdpPort {
    socket: UdpSocket,
    gso: bool,
    gro: bool,
    counts: UdpCounts,
}

/// Buffers for one receive call, and what it brought. Allocated once.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    messages: [Message; MESSAGES_MAX],
    len: usize,
}

#[derive(Clone, Copy)]
struct Message {
    from: SocketAddr,
    len: usize,
    segment_size: usize,
}

impl Default for ReceiveBatch {
    fn default() -> ReceiveBatch {
        ReceiveBatch::new()
    }
}

impl ReceiveBatch {
    /// Empty buffers, 1 MiB in all.
    pub fn new() -> ReceiveBatch {
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        ReceiveBatch {
            buffers: vec![0; MESSAGES_MAX * MESSAGE_LEN_MAX].into_boxed_slice(),
            messages: [Message { from, len: 0, segment_size: 1 }; MESSAGES_MAX],
            len: 0,
        }
    }

    /// The datagrams of the last receive call, as they were sent, with their sender.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.messages[..self.len].iter().zip(self.buffers.chunks(MESSAGE_LEN_MAX)).flat_map(
            |(message, buffer)| {
                buffer[..message.len]
                    .chunks(message.segment_size)
                    .map(move |datagram| (message.from, datagram))
            },
        )
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UdpPort {
    /// Takes a bound socket, made in whichever namespace, and sets it up. A kernel without UDP_GRO, or without
    /// permission for large buffers, is lived with.
    ///
    /// # Errors
    /// If the socket can't be made non-blocking.
    pub fn new(socket: UdpSocket) -> io::Result<UdpPort> {
        socket.set_nonblocking(true)?;
        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if set_option(&socket, libc::SOL_SOCKET, forced, SOCKET_BUFFER_BYTES).is_err() {
                // The kernel caps this one by itself, so its failure would say nothing about the socket's use.
                let _ = set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER_BYTES);
            }
        }
        let gro = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        Ok(UdpPort { socket, gso: true, gro, counts: UdpCounts::default() })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// As `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What it has seen.
    pub fn counts(&self) -> UdpCounts {
        self.counts
    }

    /// Whether batches leave by one UDP_SEGMENT send.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Switches UDP_SEGMENT on or off. The socket switches it off by itself where the kernel refuses it.
    pub fn set_gso(&mut self, on: bool) {
        self.gso = on;
    }

    /// Whether the kernel joins datagrams of one sender.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Switches UDP_GRO on or off.
    ///
    /// # Errors
    /// If the kernel lacks it.
    pub fn set_gro(&mut self, on: bool) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_UDP, libc::UDP_GRO, on.into())?;
        self.gro = on;
        Ok(())
    }

    /// Sends one datagram. Gives whether the kernel took it; what it did not take is counted.
    ///
    /// # Errors
    /// Those that say that the socket itself is unusable.
    pub fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> io::Result<bool> {
        let sent = self.send_counted(to, datagram, None);
        self.settle(sent, 1)
    }

    /// Sends a batch, by one call if it can. Gives how many of its datagrams the kernel took; the others are
    /// counted and lost, as UDP allows.
    ///
    /// # Errors
    /// Those that say that the socket itself is unusable.
    pub fn send_batch(&mut self, batch: &DatagramBatch<'_>) -> io::Result<usize> {
        let segment_size = batch.segment_size.max(1);
        let segments = batch.data.len().div_ceil(segment_size);
        if self.gso && (2..=SEGMENTS_MAX).contains(&segments) {
            let size = u16::try_from(segment_size).map_err(|_| io::ErrorKind::InvalidInput)?;
            match self.send_counted(batch.to, batch.data, Some(size)) {
                // No checksum offload on the way (EIO), or a kernel or socket that can't segment (EINVAL).
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                    tracing::warn!(%error, "UDP_SEGMENT is refused; datagrams are sent one by one from now on");
                    self.gso = false;
                }
                sent => return Ok(if self.settle(sent, segments)? { segments } else { 0 }),
            }
        }
        let mut taken = 0;
        for datagram in batch.data.chunks(segment_size) {
            taken += usize::from(self.send(batch.to, datagram)?);
        }
        Ok(taken)
    }

    /// Receives what waits, up to the batch's room. Gives the number of messages; 0 if nothing waits. Each may be
    /// several datagrams: see [`ReceiveBatch::datagrams`].
    ///
    /// # Errors
    /// Those that say that the socket itself is unusable.
    pub fn receive_batch(&mut self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        batch.len = 0;
        for _ in 0..RECEIVE_ERRORS_MAX {
            match receive(&self.socket, batch) {
                Ok(()) => {
                    self.count_received(batch);
                    return Ok(batch.len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_icmp(&error) => self.counts.icmp_errors += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    fn count_received(&mut self, batch: &mut ReceiveBatch) {
        for message in &mut batch.messages[..batch.len] {
            if message.segment_size == 0 {
                self.counts.truncated += 1;
                (message.len, message.segment_size) = (0, 1);
            }
            self.counts.received += message.len.div_ceil(message.segment_size) as u64;
        }
    }

    /// One sendmsg; an ICMP error of an earlier datagram is not this one's fault, so it goes again.
    fn send_counted(&mut self, to: SocketAddr, data: &[u8], segment_size: Option<u16>) -> io::Result<()> {
        loop {
            match send(&self.socket, to, data, segment_size) {
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
                    self.counts.icmp_errors += 1
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    fn settle(&mut self, sent: io::Result<()>, datagrams: usize) -> io::Result<bool> {
        let Err(error) = sent else {
            self.counts.sent += datagrams as u64;
            return Ok(true);
        };
        let counter = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => &mut self.counts.send_buffer_full,
            Some(libc::EMSGSIZE | libc::EPERM | libc::EINVAL | libc::EADDRNOTAVAIL) => {
                &mut self.counts.send_unreachable
            }
            _ if is_icmp(&error) => &mut self.counts.send_unreachable,
            _ => return Err(error),
        };
        *counter += datagrams as u64;
        Ok(false)
    }
}

fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
        )
    )
}

fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, and the kernel reads the four bytes of `value` only.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn send(socket: &UdpSocket, to: SocketAddr, data: &[u8], segment_size: Option<u16>) -> io::Result<()> {
    let (mut name, name_len) = encode_address(to);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control = Control::EMPTY;
    // SAFETY: all zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = ptr::from_mut(&mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if let Some(size) = segment_size {
        message.msg_control = ptr::from_mut(&mut control).cast();
        // SAFETY: `control` is aligned for and larger than one cmsghdr with two bytes of data, so CMSG_FIRSTHDR is
        // not null and CMSG_DATA lies within it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(size);
        }
    }
    // SAFETY: every pointer in `message` is to a live local or to `data`, with its true length; the kernel only
    // reads through them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Fills the batch. A message that did not fit its buffer gets segment size 0.
fn receive(socket: &UdpSocket, batch: &mut ReceiveBatch) -> io::Result<()> {
    // SAFETY: all zero is valid for each of these plain C structures.
    let (mut names, mut parts, mut headers): (
        [libc::sockaddr_storage; MESSAGES_MAX],
        [libc::iovec; MESSAGES_MAX],
        [libc::mmsghdr; MESSAGES_MAX],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    let mut controls = [const { Control::EMPTY }; MESSAGES_MAX];
    for (index, buffer) in batch.buffers.chunks_mut(MESSAGE_LEN_MAX).enumerate() {
        parts[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let header = &mut headers[index].msg_hdr;
        header.msg_name = ptr::from_mut(&mut names[index]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &mut parts[index];
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(&mut controls[index]).cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: there are MESSAGES_MAX headers, whose pointers are to live locals and to disjoint parts of the batch's
    // buffers, each with its true length.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            MESSAGES_MAX as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for index in 0..received {
        let Some(from) = decode_address(&names[index]) else {
            (batch.messages[index].len, batch.messages[index].segment_size) = (0, 1);
            continue;
        };
        let len = headers[index].msg_len as usize;
        let header = &headers[index].msg_hdr;
        let segment_size = match header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) {
            0 => segment_size(header).unwrap_or(len).max(1),
            _ => 0,
        };
        batch.messages[index] = Message { from, len, segment_size };
    }
    batch.len = received;
    Ok(())
}

/// The size at which a GRO batch is to be cut; `None` for a single datagram.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer that `header` points to, which is alive in the caller, and set
    // msg_controllen to what it wrote; the CMSG macros stay within that.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP && (*control).cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

fn encode_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is made to be large and aligned enough for every socket address.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

fn decode_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in is there, and sockaddr_storage is large and aligned enough.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn port(address: &str) -> UdpPort {
        UdpPort::new(UdpSocket::bind(address).unwrap()).unwrap()
    }

    /// Receives until `count` datagrams are there, or nothing comes for a second.
    fn receive_all(port: &mut UdpPort, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut batch = ReceiveBatch::new();
        let mut all = Vec::new();
        while all.len() < count {
            let ready = {
                let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(1000_u16)).unwrap()
            };
            if ready == 0 {
                break;
            }
            port.receive_batch(&mut batch).unwrap();
            all.extend(batch.datagrams().map(|(from, data)| (from, data.to_vec())));
        }
        all
    }

    /// `full` datagrams of 1,000 bytes and one of 300, each filled with its number.
    fn numbered(full: u8) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut each: Vec<Vec<u8>> = (0..full).map(|number| vec![number; 1000]).collect();
        each.push(vec![full; 300]);
        (each.concat(), each)
    }

    fn check_batch(sender: &mut UdpPort, receiver: &mut UdpPort, full: u8) {
        let (data, each) = numbered(full);
        let to = receiver.local_addr().unwrap();
        let sent = sender.send_batch(&DatagramBatch { to, segment_size: 1000, data: &data }).unwrap();
        assert_eq!(sent, each.len());
        let from = sender.local_addr().unwrap();
        let received = receive_all(receiver, each.len());
        assert!(received.iter().all(|(source, _)| *source == from));
        assert_eq!(received.into_iter().map(|(_, data)| data).collect::<Vec<_>>(), each);
    }

    #[test]
    fn batches_arrive_as_the_datagrams_they_are_made_of() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
                let (mut sender, mut receiver) = (port(address), port(address));
                sender.set_gso(gso);
                receiver.set_gro(gro).unwrap();
                check_batch(&mut sender, &mut receiver, 10);
                check_batch(&mut sender, &mut receiver, 63);
                assert_eq!(sender.gso(), gso, "{address}: the kernel here is to take UDP_SEGMENT");
                assert_eq!(sender.counts().sent, 75);
                assert_eq!(receiver.counts().received, 75);
            }
        }
    }

    #[test]
    fn a_segmented_batch_crosses_the_kernel_in_one_piece() {
        let (mut sender, mut receiver) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        let (data, each) = numbered(20);
        let to = receiver.local_addr().unwrap();
        sender.send_batch(&DatagramBatch { to, segment_size: 1000, data: &data }).unwrap();
        let mut batch = ReceiveBatch::new();
        assert_eq!(receiver.receive_batch(&mut batch).unwrap(), 1);
        assert_eq!(batch.datagrams().count(), each.len());
    }

    #[test]
    fn a_batch_with_more_segments_than_one_send_takes_is_split() {
        let (mut sender, mut receiver) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        let data = [5; 200];
        let to = receiver.local_addr().unwrap();
        assert_eq!(sender.send_batch(&DatagramBatch { to, segment_size: 2, data: &data }).unwrap(), 100);
        assert_eq!(receive_all(&mut receiver, 100).len(), 100);
        assert!(sender.gso());
    }

    #[test]
    fn refused_segmentation_is_switched_off_and_nothing_is_lost() {
        let (mut sender, mut receiver) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        // Linux segments only what it may checksum, and answers EINVAL here.
        set_option(&sender.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        check_batch(&mut sender, &mut receiver, 10);
        assert!(!sender.gso());
        check_batch(&mut sender, &mut receiver, 10);
    }

    #[test]
    fn nothing_waiting_is_not_an_error() {
        let mut receiver = port("127.0.0.1:0");
        let mut batch = ReceiveBatch::new();
        assert_eq!(receiver.receive_batch(&mut batch).unwrap(), 0);
        assert_eq!(batch.datagrams().count(), 0);
    }

    #[test]
    fn an_icmp_error_is_counted_and_the_next_datagram_goes() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Only a connected socket hears of ICMP errors without asking.
        socket.connect(nobody).unwrap();
        let mut sender = UdpPort::new(socket).unwrap();
        assert!(sender.send(nobody, b"one").unwrap());
        assert!(sender.send(nobody, b"two").unwrap());
        assert_eq!(sender.receive_batch(&mut ReceiveBatch::new()).unwrap(), 0);
        assert_eq!(sender.counts().icmp_errors, 2);
        assert_eq!(sender.counts().sent, 2);
    }

    #[test]
    fn an_unreachable_receiver_costs_the_datagram_only() {
        let mut sender = port("127.0.0.1:0");
        let too_large = vec![0; 65_508];
        let to = sender.local_addr().unwrap();
        assert!(!sender.send(to, &too_large).unwrap());
        assert_eq!(sender.counts().send_unreachable, 1);
        assert!(sender.send(to, b"fits").unwrap());
    }

    #[test]
    fn an_empty_datagram_passes() {
        let (mut sender, mut receiver) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        let to = receiver.local_addr().unwrap();
        assert!(sender.send(to, b"").unwrap());
        assert!(sender.send(to, b"after").unwrap());
        assert_eq!(receive_all(&mut receiver, 1), [(sender.local_addr().unwrap(), b"after".to_vec())]);
    }
}
