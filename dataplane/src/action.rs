//! The Action language: what a decision tells the packet's way to do, in order. The flow table replays it.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::port::{CounterId, DelayId, LimiterId, PortId, TunnelId};
use crate::reason::Reason;

/// At most this many actions make one decision: a full path (two functions, rewriting both addresses,
/// clamp, MTU, shaper, delay, counters, delivery) takes 14.
pub const ACTIONS_MAX: usize = 16;

/// One step of a packet's way. The last one of a list is terminal (`Deliver`, `Seal`, `Proxy`, `Drop`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Adds one packet (or a super-packet's segments) and its bytes to a counter.
    Count(CounterId),
    /// Decrements TTL or hop limit. Where it reaches zero the packet is dropped with `TtlExceeded`, and a
    /// time-exceeded error (RFC 792, RFC 4443) is sent from `answer_from`, if the hop answers at all.
    DecrementTtl {
        /// The hop's own address; `None` for a hop that stays silent.
        answer_from: Option<IpAddr>,
    },
    /// Replaces the source address and, where given, the source port (or ICMP identifier).
    RewriteSource {
        /// New address, of the packet's family.
        address: IpAddr,
        /// New port; `None` keeps it.
        port: Option<u16>,
    },
    /// Replaces the destination address and, where given, the destination port (or ICMP identifier).
    RewriteDestination {
        /// New address, of the packet's family.
        address: IpAddr,
        /// New port; `None` keeps it.
        port: Option<u16>,
    },
    /// Lowers the MSS option of TCP SYN segments to at most these (RFC 9293, 3.7.1).
    ClampMss {
        /// Bound for IPv4.
        ipv4: u16,
        /// Bound for IPv6.
        ipv6: u16,
    },
    /// Largest IP packet that the next link takes, in bytes. A larger one with DF set, or IPv6, is dropped with
    /// `PacketTooBig` and answered from `answer_from`; without DF it is fragmented (RFC 791). A super-packet is
    /// measured by its segments.
    LimitMtu {
        /// Bytes.
        mtu: u16,
        /// Source of the packet-too-big error.
        answer_from: IpAddr,
    },
    /// Drops fragments, the first ones too, with `ProtocolNotSupported`: a translator that does not take them.
    RefuseFragments,
    /// Passes through a rate limiter's bounded queue.
    Shape(LimiterId),
    /// Passes through a delay line.
    Delay(DelayId),
    /// Terminal: seals the packet into the tunnel. Its arrival at the other end is a new flow there.
    Seal(TunnelId),
    /// Terminal: hands the connection to a transparent proxy that listens at this port.
    Proxy(PortId),
    /// Terminal: writes the packet to the port.
    Deliver(PortId),
    /// Terminal.
    Drop(Reason),
}

impl Action {
    /// Nothing may follow this action.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Action::Seal(_) | Action::Proxy(_) | Action::Deliver(_) | Action::Drop(_))
    }

    /// Whether a program that can only count, lower the TTL and redirect may replay this action for whole packets that
    /// open or close nothing: what concerns SYN segments or fragments alone does nothing to those.
    pub fn is_plain(&self) -> bool {
        matches!(
            self,
            Action::Count(_)
                | Action::Deliver(_)
                | Action::DecrementTtl { .. }
                | Action::ClampMss { .. }
                | Action::RefuseFragments
        )
    }
}

/// The actions of one decision, in order, inline.
pub type ActionList = ArrayVec<Action, ACTIONS_MAX>;
