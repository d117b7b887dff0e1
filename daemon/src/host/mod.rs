//! The host layer: namespaces, netlink, sysctls, processes, state files, probes.
//!
//! Each module has one subject and knows nothing of Azure. Functions block; they are called from a blocking task of the
//! control plane, never from a packet worker.

pub mod error;
pub mod netns;
pub mod sysctl;

pub use error::{HostError, Result};
