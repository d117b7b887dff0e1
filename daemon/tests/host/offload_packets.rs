//! Packets of odd shapes, and ways to send them past the kernel's own ideas.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What is special of a packet from port 4000 to port 5000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Plain,
    /// TCP flags beside ACK.
    Flags(u8),
    /// TCP flags without ACK.
    Unacknowledged,
    /// The first fragment of several.
    FirstFragment,
    /// A later one.
    LaterFragment,
    /// IPv4 options: four no-operations.
    Options,
    /// An IPv6 destination options header.
    Extension,
    /// Another protocol.
    Icmp,
    /// Shorter than its header says.
    Cut,
    /// A UDP header that says another length than the IP header.
    Length(u16),
    /// A TCP header that would be longer than the packet.
    LongHeader,
}

impl Shape {
    /// Those that userspace has to see.
    pub(crate) fn special(protocol: u8, v6: bool) -> &'static [Shape] {
        use Shape::{
            Cut, Extension, FirstFragment, Flags, Icmp, LaterFragment, Length, LongHeader, Options,
            Unacknowledged,
        };
        match (protocol, v6) {
            (6, false) => &[
                Flags(0x02),
                Flags(0x01),
                Flags(0x04),
                Unacknowledged,
                FirstFragment,
                LaterFragment,
                Options,
                Icmp,
                Cut,
                LongHeader,
            ],
            (6, true) => {
                &[Flags(0x02), Flags(0x01), Flags(0x04), Unacknowledged, Extension, Icmp, Cut, LongHeader]
            }
            (_, false) => {
                &[FirstFragment, LaterFragment, Options, Icmp, Cut, Length(4), Length(27), Length(29)]
            }
            (_, true) => &[Extension, Icmp, Cut, Length(0), Length(4), Length(27), Length(29)],
        }
    }
}

/// An IP packet with a payload of twenty octets.
pub(crate) fn shaped(source: IpAddr, destination: IpAddr, protocol: u8, shape: Shape) -> Vec<u8> {
    let transport = transport(protocol, shape);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let options: &[u8] = if shape == Shape::Options { &[1, 1, 1, 1] } else { &[] };
            let length = 20 + options.len() + transport.len() + usize::from(shape == Shape::Cut);
            let fragment: u16 = match shape {
                Shape::FirstFragment => 0x2000,
                Shape::LaterFragment => 0x0002,
                _ => 0,
            };
            let protocol = if shape == Shape::Icmp { 1 } else { protocol };
            let mut packet = vec![0x40 | (5 + options.len() / 4) as u8, 0];
            packet.extend((length as u16).to_be_bytes());
            packet.extend([0x12, 0x34]);
            packet.extend(fragment.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(options);
            let sum = !folded(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(transport);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extension: &[u8] =
                if shape == Shape::Extension { &[protocol, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            let next = match shape {
                Shape::Extension => 60,
                Shape::Icmp => 58,
                _ => protocol,
            };
            let length = extension.len() + transport.len() + usize::from(shape == Shape::Cut);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((length as u16).to_be_bytes());
            packet.extend([next, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(extension);
            packet.extend(transport);
            packet
        }
        _ => unreachable!("addresses of one family"),
    }
}

fn transport(protocol: u8, shape: Shape) -> Vec<u8> {
    let mut bytes = vec![0x0f, 0xa0, 0x13, 0x88];
    if protocol == 6 {
        let flags = match shape {
            Shape::Flags(flags) => 0x10 | flags,
            Shape::Unacknowledged => 0,
            _ => 0x10,
        };
        let offset = if shape == Shape::LongHeader { 0xf0 } else { 0x50 };
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, offset, flags, 0x20, 0, 0, 0, 0, 0]);
    } else {
        let length: u16 = if let Shape::Length(length) = shape { length } else { 28 };
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend([0x2a; 20]);
    bytes
}

fn folded(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sends an IP packet as it is by `eth0` of the thread's namespace.
pub(crate) fn send(packet: &[u8]) -> io::Result<()> {
    send_by("eth0", packet)
}

/// Sends a frame as it is by a device of the thread's namespace, with the protocol that its first octets show where the device
/// has no link header.
pub(crate) fn send_by(device: &str, frame: &[u8]) -> io::Result<()> {
    let socket = packet_socket(if device == "eth0" { libc::SOCK_DGRAM } else { libc::SOCK_RAW })?;
    let protocol: u16 = if frame[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    let address = address_of(device, protocol)?;
    // SAFETY: frame and address live until the call has returned, and their lengths are their own.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has whatever leaves by a device of the thread's namespace bear a number where the lab's programs look for theirs, as a
/// program of the machine's root can.
pub(crate) fn mark_egress(device: &str, number: i32) -> io::Result<()> {
    const TC_INDEX: u64 = 44;
    let instruction = |code: u64, registers: u64, offset: u64, value: i32| {
        code | registers << 8 | offset << 16 | u64::from(value as u32) << 32
    };
    let program = [
        instruction(0xb7, 2, 0, number),
        instruction(0x63, 0x21, TC_INDEX, 0),
        instruction(0xb7, 0, 0, 0),
        instruction(0x95, 0, 0, 0),
    ];
    let licence = c"GPL";
    let mut load = [0_u64; 16];
    load[0] = 3 | (program.len() as u64) << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = licence.as_ptr() as u64;
    let index = u64::from(nix::net::if_::if_nametoindex(device)?);
    // SAFETY: what the attributes point to lives until the calls have returned; the descriptor is this function's.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, 5, load.as_ptr(), 128);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd as i32);
        const TCX_EGRESS: u64 = 47;
        let attach = [index | (fd.as_raw_fd() as u64) << 32, TCX_EGRESS, 0, 0];
        match libc::syscall(libc::SYS_bpf, 8, attach.as_ptr(), 32) {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A packet socket that listens on a device of the thread's namespace, as tcpdump's does.
pub(crate) fn listen(device: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket(libc::SOCK_DGRAM)?;
    let address = address_of(device, libc::ETH_P_ALL as u16)?;
    // SAFETY: the address lives until the call has returned, and its length is its own.
    let bound = unsafe {
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn packet_socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the descriptor is the caller's.
    unsafe {
        match libc::socket(libc::AF_PACKET, kind, 0) {
            fd @ 0.. => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn address_of(device: &str, protocol: u16) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: all zero is a valid address of that family.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(device)? as i32;
    Ok(address)
}
