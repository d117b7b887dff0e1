//! Mechanisms of a virtual router's data plane. They know nothing of Azure: packets, flows, sessions,
//! rules and rates, with every policy handed in.
//!
//! Nothing here does I/O, reads a clock or draws a random number: `now` is always an argument.
#![forbid(unsafe_code)]

pub mod action;
pub mod checksum;
pub mod packet;
pub mod port;
pub mod reason;
pub mod time;
pub mod tuple;

#[cfg(test)]
mod testing;

pub use action::{Action, ActionList};
pub use checksum::ChecksumState;
pub use packet::{Embedded, Fragment, Headers, IpVersion, Malformed};
pub use port::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};
pub use reason::Reason;
pub use time::Nanos;
pub use tuple::{FiveTuple, PacketMeta, Protocol, TcpFlags};
