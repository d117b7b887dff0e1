//! Handles: dense indices that a snapshot gives out and that the packet's way resolves by array access.

use serde::{Deserialize, Serialize};

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// The handle as an array index.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

handle! {
    /// Where a packet enters or leaves the router: a NIC's TUN, an appliance's TUN, the internet edge, or a
    /// tunnel's end (a packet that a tunnel opened enters by that end's port).
    PortId
}
handle! {
    /// One end of one tunnel: the key of its cryptographic state.
    TunnelId
}
handle! {
    /// A stateful function that keeps sessions of its own: the NSGs at one NIC, one firewall, one NAT.
    FunctionId
}
handle! {
    /// A rate limiter with its queue.
    LimiterId
}
handle! {
    /// A constant-delay line.
    DelayId
}
handle! {
    /// A pair of counters, packets and bytes, counted as IP packets after segmentation.
    CounterId
}
