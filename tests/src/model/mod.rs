//! The reference model: Azure's rules as a naive interpreter of the topology file.
//!
//! It answers for the state to which a fresh `up` converges: every peering whose two halves exist is
//! Connected, dynamic addresses are the lowest free ones in the file's order, tunnels are up where both
//! sides agree, and there is no BGP.

pub mod egress;
pub mod firewall;
pub mod gateway;
pub mod guard;
pub mod lab;
pub mod machine;
pub mod nat;
pub mod negotiation;
pub mod network;
pub mod nsg;
pub mod peering;
pub mod routes;
pub mod session;
pub mod site;
pub mod subject;
pub mod walk;

pub use lab::Lab;
pub use routes::{Hop, Row, Source};
pub use walk::{Ending, Endpoint, Packet, Way};
