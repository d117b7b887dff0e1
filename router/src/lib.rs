//! The virtual router: composes the data plane, Azure's policy and the tunnels, still without I/O.
//!
//! [`Router::input`] takes a frame from a port, [`Router::datagram`] one from a tunnel's socket; what leaves goes to an
//! [`Output`]. [`Router::next_timeout`] says when [`Router::poll_output`] wants to be called although nothing came.
#![forbid(unsafe_code)]

mod answers;
mod conversations;
mod core;
mod departures;
mod drops;
mod gather;
mod handover;
mod ledger;
mod offload;
mod output;
mod rates;
mod replay;
mod router;
mod shared;
mod slow;
mod tap;
mod tunnels;

pub use conversations::conversations;
pub use drops::{DropLog, DropRecord};
pub use ledger::{Balance, Ledger, Pair, PortCounts, Single};
pub use output::Output;
pub use rates::Rates;
pub use router::{FlowRecord, NIC_FLOWS_MAX, Router, RouterOptions};
pub use shared::{SessionMemory, Sessions, Shared};
pub use tap::{TapFilter, TapId, TapSink, Tapped};
pub use tunnels::{TunnelSetup, Tunnels};
