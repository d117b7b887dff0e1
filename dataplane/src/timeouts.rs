//! How long a flow or session lives without a packet.

use serde::{Deserialize, Serialize};

use crate::tuple::Protocol;

/// Where a flow or session stands: what its timeout is, and whether it may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum FlowState {
    /// TCP: a SYN was seen, the handshake is not through.
    Opening = 1,
    /// TCP: the handshake is through. Never evicted.
    Established = 2,
    /// TCP: FIN or RST was seen.
    Closing = 3,
    /// A protocol without connections.
    Datagram = 4,
    /// Its packets are dropped.
    Dropped = 5,
}

impl FlowState {
    /// Every state.
    pub const ALL: [FlowState; 5] = [
        FlowState::Opening,
        FlowState::Established,
        FlowState::Closing,
        FlowState::Datagram,
        FlowState::Dropped,
    ];

    /// The order in which a full table takes its victims; established flows are none.
    pub(crate) const VICTIMS: [FlowState; 4] =
        [FlowState::Closing, FlowState::Dropped, FlowState::Opening, FlowState::Datagram];
}

/// Idle times after which an entry goes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// TCP before the handshake is through.
    pub tcp_opening_s: u32,
    /// TCP established.
    pub tcp_established_s: u32,
    /// TCP after FIN or RST.
    pub tcp_closing_s: u32,
    /// UDP.
    pub udp_s: u32,
    /// ICMP and ICMPv6.
    pub icmp_s: u32,
    /// Any other protocol.
    pub other_s: u32,
    /// A flow whose packets are dropped, counted from the decision and not from its last packet.
    pub dropped_s: u32,
}

impl Default for Timeouts {
    /// RFC 5382 (REQ-5) asks for at least 2 h 4 min for established TCP and RFC 4787 (REQ-5) recommends 5 min for
    /// UDP; Azure's default is 4 min, which is taken for all but established TCP, whose programs would notice.
    fn default() -> Timeouts {
        Timeouts {
            tcp_opening_s: 30,
            tcp_established_s: 7_440,
            tcp_closing_s: 30,
            udp_s: 240,
            icmp_s: 60,
            other_s: 240,
            dropped_s: 5,
        }
    }
}

impl Timeouts {
    /// The idle time of an entry in this state.
    pub fn idle_s(&self, state: FlowState, protocol: Protocol) -> u32 {
        match (state, protocol) {
            (FlowState::Opening, _) => self.tcp_opening_s,
            (FlowState::Established, _) => self.tcp_established_s,
            (FlowState::Closing, _) => self.tcp_closing_s,
            (FlowState::Dropped, _) => self.dropped_s,
            (FlowState::Datagram, Protocol::UDP) => self.udp_s,
            (FlowState::Datagram, Protocol::ICMP | Protocol::ICMPV6) => self.icmp_s,
            (FlowState::Datagram, _) => self.other_s,
        }
    }
}
