//! The host layer: namespaces, netlink, sysctls, processes, state files, probes.
//!
//! Each module has one subject and knows nothing of Azure. Functions block; they are called from a blocking task of the
//! control plane, never from a packet worker.

pub mod backing;
pub mod doctor;
pub mod enter;
pub mod error;
pub mod exec;
pub mod link;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod probe;
pub mod process;
pub mod state_dir;
pub mod supervise;
pub mod sweep;
pub mod sysctl;
pub mod twin;
pub mod uplink;

pub use error::{HostError, Result};
