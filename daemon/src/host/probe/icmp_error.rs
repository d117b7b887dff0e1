//! ICMP errors that came back for a socket's packets, off the socket's error queue (IP_RECVERR).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::Socket;

use super::Outcome;

/// Types and codes of RFC 792 and RFC 4443.
mod v4 {
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const TIME_EXCEEDED: u8 = 11;
    pub(super) const PORT: u8 = 3;
    pub(super) const FRAGMENTATION_NEEDED: u8 = 4;
}
mod v6 {
    pub(super) const UNREACHABLE: u8 = 1;
    pub(super) const TOO_BIG: u8 = 2;
    pub(super) const TIME_EXCEEDED: u8 = 3;
    pub(super) const PORT: u8 = 4;
}

/// Asks the kernel to queue the errors of this socket.
pub(super) fn enable(socket: &Socket, family: IpAddr) -> io::Result<()> {
    match family {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Takes one error off the queue; none where there is none that ends a probe.
pub(super) fn take(socket: &Socket, after: Duration) -> io::Result<Option<Outcome>> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    // The packet that caused the error comes along; it is of no interest.
    let mut bytes = [0; 64];
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Err(nix::Error::EAGAIN) => return Ok(None),
        other => other?,
    };
    for control in message.cmsgs()? {
        let found = match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let by = from.map(|from| IpAddr::V4(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr))));
                outcome(&error, by, after)
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                let by = from.map(|from| IpAddr::V6(Ipv6Addr::from(from.sin6_addr.s6_addr)));
                outcome(&error, by, after)
            }
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn outcome(error: &libc::sock_extended_err, by: Option<IpAddr>, after: Duration) -> Option<Outcome> {
    let unreachable = Outcome::Unreachable { by, code: Some(error.ee_code) };
    let exceeded = || by.map(|by| Outcome::TtlExceeded { by, after });
    let too_big = Outcome::TooBig { by, mtu: error.ee_info };
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, v4::TIME_EXCEEDED, _)
        | (libc::SO_EE_ORIGIN_ICMP6, v6::TIME_EXCEEDED, _) => exceeded(),
        (libc::SO_EE_ORIGIN_ICMP, v4::UNREACHABLE, v4::PORT)
        | (libc::SO_EE_ORIGIN_ICMP6, v6::UNREACHABLE, v6::PORT) => Some(Outcome::Refused(after)),
        (libc::SO_EE_ORIGIN_ICMP, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED)
        | (libc::SO_EE_ORIGIN_ICMP6, v6::TOO_BIG, _) => Some(too_big),
        (libc::SO_EE_ORIGIN_ICMP, v4::UNREACHABLE, _) | (libc::SO_EE_ORIGIN_ICMP6, v6::UNREACHABLE, _) => {
            Some(unreachable)
        }
        (libc::SO_EE_ORIGIN_LOCAL, _, _) if error.ee_errno == libc::EMSGSIZE as u32 => {
            Some(Outcome::TooBig { by: None, mtu: error.ee_info })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(origin: u8, kind: u8, code: u8) -> libc::sock_extended_err {
        libc::sock_extended_err {
            ee_errno: 0,
            ee_origin: origin,
            ee_type: kind,
            ee_code: code,
            ee_pad: 0,
            ee_info: 1400,
            ee_data: 0,
        }
    }

    #[test]
    fn errors_of_both_families_mean_the_same() {
        let router: IpAddr = "192.0.2.1".parse().unwrap();
        let by = Some(router);
        let after = Duration::from_millis(3);
        let (four, six) = (libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6);
        let twins = [
            ((11, 0), (3, 0), Some(Outcome::TtlExceeded { by: router, after })),
            ((3, 3), (1, 4), Some(Outcome::Refused(after))),
            ((3, 4), (2, 0), Some(Outcome::TooBig { by, mtu: 1400 })),
            ((3, 1), (1, 1), Some(Outcome::Unreachable { by, code: Some(1) })),
            ((12, 0), (4, 0), None),
        ];
        for ((kind4, code4), (kind6, code6), expected) in twins {
            assert_eq!(outcome(&error(four, kind4, code4), by, after), expected);
            assert_eq!(outcome(&error(six, kind6, code6), by, after), expected);
        }
    }
}
