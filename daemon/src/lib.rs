//! vnetd.

pub mod api;
pub mod metrics;
