//! What a hop says to a sender whose packet it could not pass on.

use std::net::IpAddr;

use vnet_dataplane::icmp::{self, IcmpError};
use vnet_dataplane::{Action, Headers, Nanos, Offload, VNET_HEADER_LEN};

use crate::core::{Core, Packet};
use crate::output::Output;

/// Bytes of the longest error: IPv6's minimum MTU (RFC 4443, 2.4).
const ANSWER_BYTES: usize = VNET_HEADER_LEN + 1280;

/// Why a hop answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The time to live ended here.
    TimeExceeded,
    /// The next link takes packets of at most so many bytes.
    PacketTooBig(u16),
}

impl Core {
    /// Sends an ICMP error about `packet` from `hop`, back where the packet came from.
    pub(crate) fn answer(
        &mut self,
        packet: &Packet<'_>,
        hop: IpAddr,
        answer: Answer,
        now: Nanos,
        out: &mut impl Output,
    ) {
        let kind = match answer {
            Answer::TimeExceeded => IcmpError::TimeExceeded,
            Answer::PacketTooBig(mtu) => IcmpError::PacketTooBig { mtu },
        };
        let mut frame = [0; ANSWER_BYTES];
        // None where the RFCs forbid to answer: an error about an error, a later fragment, a multicast packet.
        let Some(length) =
            icmp::build_error(kind, hop, packet.ip(), &packet.headers, &mut frame[VNET_HEADER_LEN..])
        else {
            return;
        };
        let frame = &mut frame[..VNET_HEADER_LEN + length];
        let Ok(headers) = Headers::parse(&frame[VNET_HEADER_LEN..]) else { return };
        self.ledger.made(1, length as u64);
        let mut error = Packet {
            ingress: packet.ingress,
            frame,
            headers,
            offload: Offload::NONE,
            packets: 1,
            bytes: length as u64,
        };
        let end = match self.tunnel_behind(packet.ingress) {
            Some(tunnel) => Action::Seal(tunnel),
            None => Action::Deliver(packet.ingress),
        };
        self.end(&mut error, end, now, out);
    }
}
