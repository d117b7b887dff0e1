//! Random small topologies: a sketch of small numbers, which shrinks well, and its rendering as a topology file.

mod guards;
mod render;
mod sites;
pub mod sketch;
mod strategy;

pub use sketch::Sketch;
pub use strategy::{draw, seed, seeded, sketch};

/// What sketches are rendered with; what is left out stands as if nobody had asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Peerings of some subnets only, and ranges that networks share.
    pub subnet_peering: bool,
    /// VNet encryption.
    pub encryption: bool,
    /// Service tags as destinations of routes.
    pub route_tags: bool,
    /// Service tags in security rules.
    pub rule_tags: bool,
    /// Application security groups.
    pub labels: bool,
    /// `VirtualApplianceEcmp`.
    pub several_hops: bool,
    /// `disablePeeringRoute`.
    pub peering_route_switch: bool,
    /// Service endpoints.
    pub services: bool,
    /// Private endpoints.
    pub private_endpoints: bool,
    /// Public addresses, NAT gateways, default outbound access, and hosts of the internet.
    pub egress: bool,
    /// Source translation by firewalls, and public ranges behind them.
    pub firewall_snat: bool,
    /// `disableTcpStateTracking`.
    pub untracked: bool,
    /// ExpressRoute gateways beside VPN gateways.
    pub express: bool,
    /// Other readings of disputed behaviour than the default.
    pub readings: bool,
}

impl Features {
    /// What router and fabric know.
    pub const BUILT: Features = Features {
        subnet_peering: true,
        encryption: true,
        route_tags: true,
        rule_tags: true,
        labels: true,
        several_hops: true,
        peering_route_switch: true,
        services: true,
        private_endpoints: true,
        egress: true,
        firewall_snat: true,
        untracked: true,
        express: true,
        readings: true,
    };
}

/// How many service tags there are.
const TAGS: u8 = 6;

/// A service tag and its prefixes: tags that hold others' prefixes, and one of a network's range.
fn tag(number: u8) -> (&'static str, &'static [&'static str]) {
    match number % TAGS {
        0 => ("Storage", &["20.200.0.0/16", "20.200.1.0/24"]),
        1 => ("Storage.eastus", &["20.200.1.0/24"]),
        2 => ("Sql", &["20.201.0.0/16"]),
        3 => ("AzureCloud", &["20.200.0.0/15", "20.200.1.0/24"]),
        4 => ("AzureCloud.eastus", &["20.200.1.0/24", "20.201.0.0/16"]),
        _ => ("AzureMonitor", &["10.2.0.0/16", "20.201.0.9/32"]),
    }
}

/// Services that subnets have endpoints for.
const SERVICES: [&str; 2] = ["Microsoft.Storage", "Microsoft.Sql"];
