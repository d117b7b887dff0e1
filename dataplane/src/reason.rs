//! Why a packet was dropped: one closed list, the same in the CLI, the metrics, the API and captures.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// The reason of a drop. Every dropped packet has exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name),+
        }

        impl Reason {
            /// Every reason, in declaration order: `ALL[reason as usize] == reason`.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The name that users see.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name)),+
                }
            }
        }
    };
}

reasons! {
    /// No route matched, as for a gateway or an appliance that lacks one.
    NoRoute,
    /// A route with next hop None was selected, the built-in ones too.
    RouteNone,
    /// The selected next hop is an address at which nothing is.
    NextHopUnreachable,
    /// The peering is Initiated or Disconnected.
    PeeringNotConnected,
    /// allowVirtualNetworkAccess is false on one half of the peering.
    PeeringAccessDenied,
    /// allowForwardedTraffic is false on the receiving half and the source is not of the sending network.
    ForwardedTrafficDenied,
    /// The subnet does not take part in the subnet peering.
    SubnetNotPeered,
    /// A network security group denied it.
    NsgDeny,
    /// A security admin rule denied it.
    AdminRuleDeny,
    /// A firewall rule or the firewall's default denied it.
    FirewallDeny,
    /// A TCP packet that opens no connection reached a firewall that holds no session for it.
    FirewallNoSession,
    /// Threat intelligence denied it.
    ThreatIntelDeny,
    /// The source address is not one of the sending NIC's and IP forwarding is off there; or a datagram for a tunnel comes
    /// from another address than the tunnel's other end has.
    SpoofedSource,
    /// The destination is not one of the receiving NIC's addresses and IP forwarding is off there.
    NotForwarding,
    /// A route to VirtualNetworkGateway was selected and the network has no effective VPN gateway.
    NoEffectiveGateway,
    /// The tunnel has no session.
    TunnelDown,
    /// The other end of the tunnel does not accept this source or destination.
    PrefixNotAllowed,
    /// The shaper's queue is full.
    ShaperQueueFull,
    /// A policer dropped it.
    PolicerDrop,
    /// The flow or session table is full.
    FlowLimit,
    /// No source port is left for translation.
    SnatPortsExhausted,
    /// A stateful function saw only one direction of the flow.
    AsymmetricReturn,
    /// The packet passed 64 hops of one decision.
    RoutingLoop,
    /// The time to live ended at a hop.
    TtlExceeded,
    /// Larger than the next link's MTU with fragmentation forbidden.
    PacketTooBig,
    /// A later fragment came before the first one.
    FragmentOutOfOrder,
    /// Multicast or broadcast: the fabric carries unicast only.
    MulticastNotSupported,
    /// An IP protocol that the fabric does not carry, as GRE or IP-in-IP.
    ProtocolNotSupported,
    /// Virtual network encryption is enforced and one side lacks it.
    EncryptionRequired,
    /// No backend of the load balancer is healthy.
    NoHealthyBackend,
    /// Shed by DDoS protection.
    DdosShed,
    /// An impairment that the user set on a link.
    Impairment,
    /// The packet's headers are broken, or a datagram for a tunnel is forged, damaged or a replay.
    Malformed,
    /// The receiving device's queue is full.
    ReceiverQueueFull,
    /// Nothing holds the destination address.
    NoListener,
    /// A fault of the daemon itself.
    Internal,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_indexed_by_discriminant() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
