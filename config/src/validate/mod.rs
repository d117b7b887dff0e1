//! What Azure would refuse, and what this product cannot run yet.
//!
//! Each check reports with the path of what it is about; the path finds the place in the text.

mod bgp;
mod client;
mod connection;
mod egress;
mod encryption;
mod endpoint;
mod expect;
mod express_route;
mod firewall;
mod gateway;
mod ipsec;
mod limits;
mod machine;
mod names;
mod nat;
mod network;
mod not_yet;
mod peering;
mod region;
mod route;
mod route_server;
mod security;
mod service_tag;
mod site;
mod subnet;
mod subnet_peering;

pub(crate) use names::shown;

use std::{collections::HashMap, fmt::Display};

use ipnet::IpNet;

use crate::{
    diagnostic::{Finding, Reporter, Span, nearest},
    limit::Limit,
    model::Topology,
    pending,
    positions::Positions,
};

/// Subnets that Azure's own appliances live in; no virtual machine may.
pub(crate) const APPLIANCE_SUBNETS: &[&str] = &[
    "GatewaySubnet",
    "AzureFirewallSubnet",
    "AzureFirewallManagementSubnet",
    "RouteServerSubnet",
    "AzureBastionSubnet",
];

/// The topology under check, and where findings go.
pub(crate) struct Check<'a, 'r> {
    pub(crate) topology: &'a Topology,
    positions: &'a Positions,
    /// Whether a peering's remote network may be gone.
    pub(crate) orphans: bool,
    reporter: &'a mut Reporter<'r>,
}

pub(crate) fn validate(
    topology: &Topology,
    positions: &Positions,
    orphans: bool,
    reporter: &mut Reporter<'_>,
) {
    let mut check = Check { topology, positions, orphans, reporter };
    names::check(&mut check);
    region::check(&mut check);
    network::check(&mut check);
    subnet::check(&mut check);
    encryption::check(&mut check);
    peering::check(&mut check);
    subnet_peering::check(&mut check);
    machine::check(&mut check);
    egress::check(&mut check);
    security::check(&mut check);
    service_tag::check(&mut check);
    route::check(&mut check);
    firewall::check(&mut check);
    gateway::check(&mut check);
    connection::check(&mut check);
    client::check(&mut check);
    route_server::check(&mut check);
    express_route::check(&mut check);
    site::check(&mut check);
    expect::check(&mut check);
    limits::check(&mut check);
    not_yet::check(&mut check);
}

impl Check<'_, '_> {
    /// Reports at the value that `path` names.
    pub(crate) fn at(&mut self, path: &str, finding: Finding) {
        let path = self.positions.in_file(path);
        self.report(self.positions.find(&path), &path, finding);
    }

    /// Reports at the name that `path` ends with.
    pub(crate) fn at_name(&mut self, path: &str, finding: Finding) {
        let path = self.positions.in_file(path);
        self.report(self.positions.find_name(&path), &path, finding);
    }

    fn report(&mut self, span: Span, path: &str, finding: Finding) {
        // Where a part could not be read, what follows from its absence would mislead.
        if !self.positions.is_touched(path) {
            self.reporter.report(span, path, finding);
        }
    }

    /// Reports at the name that `path` ends with where `owner` has more than a limit allows, or nearly as many.
    pub(crate) fn limit(&mut self, path: impl Display, owner: &str, count: usize, limit: &Limit) {
        let Limit { rule, max, what, code, help, .. } = limit;
        if count > *max {
            let message = format!("{} has {count} {what}; Azure takes {max} at most", quoted(owner));
            let mut finding = Finding::error(rule, message).help(*help);
            finding.code = *code;
            self.at_name(&path.to_string(), finding);
        } else if count * 10 >= max * 9 {
            let message = format!(
                "{} has {count} {what} of the {max} that Azure takes ({} %)",
                quoted(owner),
                count * 100 / max
            );
            self.at_name(&path.to_string(), Finding::warning("limit-near", message).help(*help));
        }
    }

    /// Reports a property that the model takes and nothing acts on yet.
    pub(crate) fn unsupported(&mut self, path: &str, what: &str) {
        let finding = Finding::error("not-supported-yet", format!("{what} is not supported yet"));
        self.at(path, finding.help("remove it here; a later version will take it"));
    }

    /// Reports `name` at `path` where `section` has no such entry. Gives whether it has.
    pub(crate) fn refers<T>(
        &mut self,
        path: &str,
        section: &str,
        entries: &indexmap::IndexMap<String, T>,
        name: &str,
        kind: &str,
    ) -> bool {
        if entries.contains_key(name) {
            return true;
        }
        // A section that is not supported yet has its own error, and one that refers to it too.
        if entries.is_empty() && pending::is_reserved_section(section) {
            return false;
        }
        // What is there but wrong has its own error.
        if !self.positions.is_dropped(&format!("{section}.{name}")) {
            let finding = Finding::error("unknown-reference", format!("there is no {kind} '{name}'"));
            let help = match nearest(name, entries.keys().map(String::as_str)) {
                Some(known) => format!("did you mean '{known}'?"),
                None => format!("add it under {section}"),
            };
            self.at(path, finding.code("InvalidResourceReference").help(help));
        }
        false
    }

    /// Whether the entry at `path` was left out because it is wrong in itself.
    pub(crate) fn is_dropped(&self, path: &str) -> bool {
        self.positions.is_dropped(&self.positions.in_file(path))
    }

    /// Whether something inside the value at `path` is wrong in itself, so that it may lack entries that the file has.
    pub(crate) fn is_touched(&self, path: &str) -> bool {
        self.positions.is_touched(&self.positions.in_file(path))
    }

    /// The region of something with the given `location`.
    pub(crate) fn region<'t>(&'t self, location: Option<&'t str>) -> &'t str {
        location.unwrap_or(&self.topology.location)
    }
}

/// A name in quotes; a description as it is.
fn quoted(owner: &str) -> String {
    if owner.contains(' ') { owner.to_owned() } else { format!("'{owner}'") }
}

/// Whether two prefixes have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first pair of prefixes of the two lists that have an address in common.
pub(crate) fn first_overlap<'n>(a: &'n [IpNet], b: &'n [IpNet]) -> Option<(&'n IpNet, &'n IpNet)> {
    a.iter().find_map(|net| b.iter().find(|other| overlap(net, other)).map(|other| (net, other)))
}

/// Pairs of labelled prefixes that overlap: each prefix at most once as the inner one, in time n log n.
pub(crate) fn overlaps<L: Copy>(nets: impl IntoIterator<Item = (IpNet, L)>) -> Vec<((IpNet, L), (IpNet, L))> {
    let mut sorted: Vec<(IpNet, L)> = nets.into_iter().collect();
    sorted.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    let mut found = Vec::new();
    let mut around: Vec<(IpNet, L)> = Vec::new();
    for (net, label) in sorted {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
            around.pop();
        }
        if let Some(outer) = around.last() {
            found.push((*outer, (net, label)));
        }
        around.push((net, label));
    }
    found
}

/// Remembers who has a name or an address, and tells who had it first.
pub(crate) struct Owners<K> {
    first: HashMap<K, String>,
}

impl<K: std::hash::Hash + Eq> Owners<K> {
    pub(crate) fn new() -> Self {
        Self { first: HashMap::new() }
    }

    /// `Some`: who had it before.
    pub(crate) fn take(&mut self, key: K, owner: impl FnOnce() -> String) -> Option<String> {
        match self.first.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => Some(entry.get().clone()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(owner());
                None
            }
        }
    }
}
