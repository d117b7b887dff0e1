//! The harness of the labs: brings a topology up with a daemon of its own, runs real programs in it, waits for
//! conditions, and takes everything down again, whatever happens.
//!
//! A lab is `fn(&Scene) -> anyhow::Result<()>`. The [`Scene`] has a folder for logs and captures, which is kept when
//! the lab fails. Labs run side by side under unique names; one that measures time or the host as a whole runs
//! [alone](suite::Lab::alone).
#![forbid(unsafe_code)]

pub mod bgp;
pub mod binaries;
pub mod capture;
pub mod contention;
pub mod host;
pub mod iperf;
pub mod lab;
pub mod metrics;
pub mod one_way;
pub mod process;
pub mod scale;
pub mod stream;
pub mod suite;
pub mod switches;
pub mod tools;
pub mod wait;
pub mod wireguard;

pub use capture::Capture;
pub use lab::{Daemon, Lab};
pub use process::{Output, Running};
pub use suite::Scene;
pub use wait::{PATIENCE, wait_until};
