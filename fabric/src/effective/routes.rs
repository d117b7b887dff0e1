//! Effective routes and the next hop of a destination.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::flow::find_local;
use super::{QuestionError, find_nics, find_subnet};
use crate::compile::next_hop_type;
use crate::snapshot::Snapshot;
use crate::snapshot::network::Subnet;
use crate::snapshot::routes::{Layer, NextHop, Route, RouteSource};

/// The answer of `az network nic show-effective-route-table`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRoutes {
    /// One row for each route.
    pub value: Vec<EffectiveRoute>,
}

/// One row of effective routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRoute {
    /// Destinations.
    pub address_prefix: Vec<String>,
    /// Whether the route table keeps gateway routes out.
    pub disable_bgp_route_propagation: bool,
    /// Name of a user's route.
    pub name: Option<String>,
    /// The appliance's or the gateway's addresses.
    pub next_hop_ip_address: Vec<String>,
    /// `VnetLocal`, `VNetPeering`, `VirtualAppliance`, ...
    pub next_hop_type: String,
    /// `Default`, `VirtualNetworkGateway` or `User`.
    pub source: String,
    /// `Active` or `Invalid`.
    pub state: String,
}

/// The answer of `az network watcher show-next-hop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextHopAnswer {
    /// The appliance's or gateway's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop_ip_address: Option<String>,
    /// `VnetLocal`, `VNetPeering`, `VirtualAppliance`, ...
    pub next_hop_type: String,
    /// The route table, or `System Route`.
    pub route_table_id: String,
}

/// The effective routes of `VM`, `VM/NIC`, `VNET/SUBNET`, a firewall or a gateway.
///
/// # Errors
/// Nothing has that name.
pub fn effective_routes(snapshot: &Snapshot, target: &str) -> Result<EffectiveRoutes, QuestionError> {
    let subnet = &snapshot.subnets[find_subnet(snapshot, target)?];
    let routes = &subnet.routes;
    let mut rows = Rows { snapshot, subnet, value: Vec::new(), lists: Vec::new() };
    let overridden = |route: &Route| routes.user_route(&route.prefix).is_some();
    let is_internet = |route: &Route| route.next_hop == NextHop::Internet;
    rows.layer(Some(&routes.own), |route| (!is_internet(route)).then(|| !overridden(route)));
    rows.layer(Some(&routes.peerings), |route| Some(!overridden(route)));
    // A gateway's route that a system route beats is not listed.
    let is_serviced = |route: &Route| routes.is_serviced(&route.prefix);
    rows.layer(routes.gateway.as_ref(), |route| (!is_serviced(route)).then(|| !overridden(route)));
    // A default route of a gateway takes the system's place without a trace; one of a user leaves it listed.
    let internet = |route: &Route| match (overridden(route), routes.gateway_route(&route.prefix)) {
        (true, _) => Some(false),
        (false, Some(_)) => None,
        (false, None) => Some(true),
    };
    rows.layer(Some(&routes.own), |route| if is_internet(route) { internet(route) } else { None });
    // A private range's None route goes where a user's route has the prefix, and stays as Invalid under a gateway's.
    rows.layer(routes.reserved.as_ref(), |route| {
        (!overridden(route)).then(|| routes.gateway_route(&route.prefix).is_none())
    });
    rows.layer(routes.service_endpoints.as_ref(), |_| Some(true));
    rows.layer(routes.private_endpoints.as_ref(), |route| Some(!overridden(route)));
    rows.layer(routes.absent.private_endpoints.as_ref(), |_| Some(false));
    rows.layer(routes.user.as_ref(), |route| Some(routes.service_route(&route.prefix).is_none()));
    for route in routes.absent.user.iter().flat_map(|lost| lost.iter()) {
        rows.push(route, false);
    }
    Ok(EffectiveRoutes { value: rows.value })
}

/// Rows in the making. The prefixes of one service tag, or of one service's endpoint, share a row.
struct Rows<'a> {
    snapshot: &'a Snapshot,
    subnet: &'a Subnet,
    value: Vec<EffectiveRoute>,
    /// List, name of the user's route, state, and the row that they have.
    lists: Vec<(&'a str, Option<&'a str>, bool, usize)>,
}

impl<'a> Rows<'a> {
    /// A row for each route of the layer that `state` lists, as Active or not.
    fn layer(&mut self, layer: Option<&'a Layer>, state: impl Fn(&Route) -> Option<bool>) {
        for (_, route) in layer.into_iter().flat_map(|layer| layer.iter()) {
            if let Some(active) = state(route) {
                self.push(route, active);
            }
        }
    }

    fn push(&mut self, route: &'a Route, active: bool) {
        if let Some(list) = route.list.as_deref() {
            let key = (list, route.name.as_deref(), active);
            let known = self.lists.iter().find(|(list, name, active, _)| (*list, *name, *active) == key);
            if let Some((.., row)) = known {
                self.value[*row].address_prefix.push(route.prefix.to_string());
                return;
            }
            self.lists.push((key.0, key.1, key.2, self.value.len()));
        }
        self.value.push(describe(self.snapshot, self.subnet, route, active));
    }
}

fn describe(snapshot: &Snapshot, subnet: &Subnet, route: &Route, active: bool) -> EffectiveRoute {
    let user = route.source == RouteSource::User;
    EffectiveRoute {
        address_prefix: vec![route.prefix.to_string()],
        disable_bgp_route_propagation: user && subnet.routes.propagation_disabled,
        name: route.name.as_deref().map(str::to_owned),
        next_hop_ip_address: next_hop_addresses(snapshot, subnet, route),
        next_hop_type: type_name(snapshot, route).to_owned(),
        source: source_name(route).to_owned(),
        state: if active { "Active" } else { "Invalid" }.to_owned(),
    }
}

/// Who made a route, as Azure prints it.
pub(crate) fn source_name(route: &Route) -> &'static str {
    match route.source {
        RouteSource::User => "User",
        RouteSource::Gateway => "VirtualNetworkGateway",
        RouteSource::Default => "Default",
    }
}

/// Whether a route leads over a peering between regions.
pub(crate) fn is_global(snapshot: &Snapshot, route: &Route) -> bool {
    matches!(route.next_hop, NextHop::Peering(half) if snapshot.peerings[half].global)
}

/// `nextHopType` of a route.
pub(crate) fn type_name(snapshot: &Snapshot, route: &Route) -> &'static str {
    next_hop_type(&route.next_hop, is_global(snapshot, route))
}

/// The appliances' addresses; the public addresses of the gateway, or `None` where a user's route finds no gateway.
pub(crate) fn next_hop_addresses(snapshot: &Snapshot, subnet: &Subnet, route: &Route) -> Vec<String> {
    match &route.next_hop {
        NextHop::VirtualAppliance(address) => vec![address.to_string()],
        NextHop::VirtualApplianceEcmp(addresses) => addresses.iter().map(IpAddr::to_string).collect(),
        NextHop::VirtualNetworkGateway => {
            let network = &snapshot.networks[subnet.network];
            let unusable = route.source == RouteSource::User && network.express_route.is_some();
            match network.gateway.index().filter(|_| !unusable) {
                Some(gateway) => snapshot.gateways[gateway].public.iter().map(IpAddr::to_string).collect(),
                None => vec!["None".to_owned()],
            }
        }
        _ => Vec::new(),
    }
}

/// The next hop that a machine's packets to a destination take; from the NIC that holds `source`, else the primary one.
///
/// # Errors
/// Nothing has that name, or it does not hold `source`.
pub fn next_hop(
    snapshot: &Snapshot,
    target: &str,
    destination: IpAddr,
    source: Option<IpAddr>,
) -> Result<NextHopAnswer, QuestionError> {
    let subnet = match source {
        Some(address) => {
            find_subnet(snapshot, target)?;
            let nics = find_nics(snapshot, target).unwrap_or_default();
            let not_local = || QuestionError::NotLocal { target: target.to_owned(), address };
            find_local(snapshot, &nics, address).ok_or_else(not_local)?.subnet
        }
        None => find_subnet(snapshot, target)?,
    };
    let subnet = &snapshot.subnets[subnet];
    let Some(route) = subnet.routes.lookup(destination) else {
        return Ok(NextHopAnswer {
            next_hop_ip_address: None,
            next_hop_type: "None".to_owned(),
            route_table_id: "System Route".to_owned(),
        });
    };
    let table = subnet.route_table.as_deref().filter(|_| route.source == RouteSource::User);
    Ok(NextHopAnswer {
        next_hop_ip_address: one_address(route, next_hop_addresses(snapshot, subnet, route)),
        next_hop_type: type_name(snapshot, route).to_owned(),
        route_table_id: table.map_or("System Route".to_owned(), |table| format!("routeTables/{table}")),
    })
}

/// The first address; all of them where the flow chooses one.
fn one_address(route: &Route, all: Vec<String>) -> Option<String> {
    match route.next_hop {
        NextHop::VirtualApplianceEcmp(_) => Some(all.join(", ")),
        _ => all.into_iter().next(),
    }
}
