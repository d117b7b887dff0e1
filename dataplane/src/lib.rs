//! Mechanisms of a virtual router's data plane. They know nothing of Azure: packets, flows, sessions,
//! rules and rates, with every policy handed in.
//!
//! Nothing here does I/O, reads a clock or draws a random number: `now` is always an argument.
#![forbid(unsafe_code)]

pub mod action;
mod action_lists;
pub mod buffer;
pub mod checksum;
pub mod classifier;
pub mod coalesce;
pub mod flow_table;
pub mod fragment;
pub mod fragment_tracker;
pub mod gso;
pub mod hash;
pub mod icmp;
mod index;
mod list;
pub mod offload;
pub mod packet;
pub mod port;
pub mod reason;
pub mod rewrite;
pub mod session;
pub mod shaper;
pub mod time;
pub mod timeouts;
pub mod tuple;
pub mod vnet_hdr;

#[cfg(test)]
mod noise_tests;
#[cfg(test)]
mod testing;

pub use action::{Action, ActionList};
pub use buffer::{BufferPool, PacketBuf};
pub use checksum::ChecksumState;
pub use classifier::{Classifier, RuleSpec};
pub use coalesce::Coalescer;
pub use flow_table::{FLOW_UNDER_WAY_PACKETS, FlowDecision, FlowEntry, FlowId, FlowKey, FlowTable};
pub use fragment_tracker::FragmentTracker;
pub use gso::Segments;
pub use hash::TupleHash;
pub use icmp::IcmpError;
pub use offload::{OffloadCounts, OffloadEntry, OffloadSlot};
pub use packet::{Embedded, Fragment, Headers, IpVersion, Malformed};
pub use port::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};
pub use reason::Reason;
pub use session::{NewSession, PortPool, SessionFound, SessionRecord, SessionRef, SessionSide, SessionTable};
pub use shaper::{DepartureQueue, Limiter, Policer};
pub use time::Nanos;
pub use timeouts::{FlowState, Timeouts};
pub use tuple::{FiveTuple, PacketMeta, Protocol, TcpFlags};
pub use vnet_hdr::{GsoType, Offload, VNET_HEADER_LEN, VnetHeader};
