//! What is doubtful in a design that Azure would take: each finding with the place in the file and what to do.

mod appliance;
mod asymmetry;
mod design;
mod gateway;
mod network;
mod routes;
mod rules;

use vnet_config::model::Topology;
use vnet_config::{Diagnostic, Finding, Loaded, SourceMap};
use vnet_fabric::azure_rule::AzureRule;

use design::Design;

/// One thing that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its id, in kebab case: the `rule` of its findings.
    pub id: &'static str,
    /// The rules of Azure that it rests on; the first is shown with a finding.
    pub azure_rules: &'static [AzureRule],
    /// What it finds, in one sentence.
    pub summary: &'static str,
}

macro_rules! lints {
    ($($name:ident = $id:literal, [$($rule:ident),+], $summary:literal;)+) => {
        $(#[doc = $summary] pub const $name: Lint =
            Lint { id: $id, azure_rules: &[$(AzureRule::$rule),+], summary: $summary };)+

        /// Every lint, in the order of docs/LINTS.md.
        pub const ALL: &[Lint] = &[$($name),+];
    };
}

lints! {
    ASYMMETRIC_PATH = "asymmetric-path", [FirewallNoSession, FirewallStateful],
        "Answers between two subnets pass other stateful appliances than the packets they answer.";
    DEAD_NEXT_HOP = "dead-next-hop", [NextHopReachable, FabricForwarding, NextHopGateway],
        "A route leads to an appliance that is not there, does not forward or cannot be reached, or to a gateway that is none.";
    SHADOWED_NSG_RULE = "shadowed-nsg-rule", [NsgFirstMatch],
        "Rules with a smaller priority match every packet that this one is for.";
    IGNORED_ROUTE = "ignored-route", [RouteLpm, RouteUser],
        "A user's route is for no destination: longer prefixes take all that it covers.";
    GATEWAY_SUMMARY_ROUTE = "gateway-summary-route", [RouteLpm, RoutePeering],
        "A summary on GatewaySubnet does not hold for spokes, whose peering routes are longer.";
    HUB_RANGE_ROUTE = "hub-range-route", [RouteUser],
        "A route for the whole range of the hub also catches addresses of the gateway's or the firewall's own instances.";
    PROPAGATION_BEHIND_FIREWALL = "propagation-behind-firewall", [RoutePropagation, RouteLpm],
        "Gateway routes are let into a subnet behind an appliance, and bypass it.";
    VPN_GATEWAY_RELAY = "vpn-gateway-as-spoke-relay", [NextHopGateway],
        "A route sends traffic between spokes through the VPN gateway.";
    DEV_PROD_CONNECTED = "dev-prod-connected", [PeeringState],
        "A network tagged as development is peered with one tagged as production.";
    NO_DDOS_PLAN = "no-ddos-plan", [EgressPublicAddress],
        "A network with public addresses has no DDoS protection plan.";
}

/// Machines of a design that an apply takes the time to look at. Ways are compared for every pair of them, which takes about
/// 3 us each: 0.1 s in all.
pub const MACHINES_QUICKLY_MAX: usize = 200;

/// A finding before it has its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What was looked for.
    pub lint: Lint,
    /// The place in the topology, such as `routeTables.via-fw.routes[0]`.
    pub path: String,
    /// What was found, with names.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// All that is doubtful in a topology, by lint.
pub fn lint(topology: &Topology) -> Vec<Found> {
    let design = Design::new(topology);
    let mut found = Vec::new();
    asymmetry::look(&design, &mut found);
    appliance::look(&design, &mut found);
    rules::look(&design, &mut found);
    routes::look(&design, &mut found);
    gateway::look(&design, &mut found);
    network::look(&design, &mut found);
    found
}

/// The same for a file that was loaded: warnings with line and column, in the order of the file.
pub fn lint_file(loaded: &Loaded) -> Vec<Diagnostic> {
    place(&loaded.topology, &loaded.source)
}

/// The same with the time of an apply: a design of more than [`MACHINES_QUICKLY_MAX`] machines is not looked at, and the one
/// finding says so.
pub fn lint_quickly(topology: &Topology, source: &SourceMap) -> Vec<Diagnostic> {
    let machines = topology.virtual_machines.len();
    if machines <= MACHINES_QUICKLY_MAX {
        return place(topology, source);
    }
    let message = format!("with {machines} machines, what is doubtful in the design is not looked for now");
    let finding =
        Finding::warning("lints-left-out", message).help("run `vnetctl validate`, which takes its time");
    vec![source.finding_at("virtualMachines", finding)]
}

/// All findings with line and column, in the order of the file.
pub fn place(topology: &Topology, source: &SourceMap) -> Vec<Diagnostic> {
    let placed = lint(topology).into_iter().map(|found| {
        let rule = found.lint.azure_rules.first().map_or("", |rule| rule.id());
        let finding = Finding::warning(found.lint.id, found.message).azure_rule(rule).help(found.help);
        (found.path, finding)
    });
    source.findings(placed).list
}
