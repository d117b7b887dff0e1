//! Mechanisms of a virtual router's data plane. They know nothing of Azure: packets, flows, sessions,
//! rules and rates, with every policy handed in.
//!
//! Nothing here does I/O, reads a clock or draws a random number: `now` is always an argument.
#![forbid(unsafe_code)]

pub mod action;
mod action_lists;
pub mod checksum;
pub mod flow_table;
pub mod hash;
mod list;
pub mod packet;
pub mod port;
pub mod reason;
pub mod session;
pub mod time;
pub mod timeouts;
pub mod tuple;

#[cfg(test)]
mod testing;

pub use action::{Action, ActionList};
pub use checksum::ChecksumState;
pub use flow_table::{FlowDecision, FlowEntry, FlowId, FlowKey, FlowTable};
pub use hash::TupleHash;
pub use packet::{Embedded, Fragment, Headers, IpVersion, Malformed};
pub use port::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};
pub use reason::Reason;
pub use session::{SessionRecord, SessionRef, SessionSide, SessionTable};
pub use time::Nanos;
pub use timeouts::{FlowState, Timeouts};
pub use tuple::{FiveTuple, PacketMeta, Protocol, TcpFlags};
