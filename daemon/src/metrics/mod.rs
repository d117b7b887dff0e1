//! Prometheus metrics, built at scrape from a snapshot of the labs' counters.

mod counters;
mod render;
#[cfg(test)]
mod tests;

pub use counters::{
    BgpCounter, Direction, DropCounter, FirewallRuleCounter, LabCounters, NicCounter, NsgRuleCounter,
    PeeringCounter, ShaperQueue, SnatPorts, Traffic, TunnelCounter, WorkerCounter,
};
pub use render::Metrics;
