//! Effective routes and the next hop of a destination.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    let mut value = Vec::new();
    let mut add = |layer: Option<&Layer>, row: &dyn Fn(&Route) -> Option<bool>| {
        for (_, route) in layer.into_iter().flat_map(|layer| layer.iter()) {
            if let Some(active) = row(route) {
                value.push(describe(snapshot, subnet, route, active));
            }
        }
    };
    let overridden = |route: &Route| routes.user_route(&route.prefix).is_some();
    let is_internet = |route: &Route| route.next_hop == NextHop::Internet;
    add(Some(&routes.own), &|route| (!is_internet(route)).then(|| !overridden(route)));
    add(Some(&routes.peerings), &|route| Some(!overridden(route)));
    add(routes.gateway.as_ref(), &|route| Some(!overridden(route)));
    // A default route of a gateway takes the system's place without a trace; one of a user leaves it listed.
    let internet = |route: &Route| match (overridden(route), routes.gateway_route(&route.prefix)) {
        (true, _) => Some(false),
        (false, Some(_)) => None,
        (false, None) => Some(true),
    };
    add(Some(&routes.own), &|route| if is_internet(route) { internet(route) } else { None });
    // A private range's None route goes where a user's route has the prefix, and stays as Invalid under a gateway's.
    add(routes.reserved.as_ref(), &|route| {
        (!overridden(route)).then(|| routes.gateway_route(&route.prefix).is_none())
    });
    add(routes.user.as_ref(), &|_| Some(true));
    Ok(EffectiveRoutes { value })
}

fn describe(snapshot: &Snapshot, subnet: &Subnet, route: &Route, active: bool) -> EffectiveRoute {
    let user = route.source == RouteSource::User;
    EffectiveRoute {
        address_prefix: vec![route.prefix.to_string()],
        disable_bgp_route_propagation: user && subnet.routes.propagation_disabled,
        name: route.name.as_deref().map(str::to_owned),
        next_hop_ip_address: next_hop_addresses(snapshot, subnet, route),
        next_hop_type: type_name(snapshot, route).to_owned(),
        source: match route.source {
            RouteSource::User => "User",
            RouteSource::Gateway => "VirtualNetworkGateway",
            RouteSource::Default => "Default",
        }
        .to_owned(),
        state: if active { "Active" } else { "Invalid" }.to_owned(),
    }
}

fn type_name(snapshot: &Snapshot, route: &Route) -> &'static str {
    let global = matches!(route.next_hop, NextHop::Peering(half) if snapshot.peerings[half].global);
    next_hop_type(route.next_hop, global)
}

/// The appliance's address; the public addresses of the gateway for routes of its own making.
fn next_hop_addresses(snapshot: &Snapshot, subnet: &Subnet, route: &Route) -> Vec<String> {
    match (route.next_hop, route.source) {
        (NextHop::VirtualAppliance(address), _) => vec![address.to_string()],
        (NextHop::VirtualNetworkGateway, RouteSource::Gateway) => {
            let gateway = snapshot.networks[subnet.network].gateway.index();
            let addresses = gateway.map_or(&[][..], |gateway| &snapshot.gateways[gateway].public);
            addresses.iter().map(IpAddr::to_string).collect()
        }
        _ => Vec::new(),
    }
}

/// The next hop that a machine's packets to a destination take; from the NIC that holds `source`, else the primary one.
///
/// # Errors
/// Nothing has that name.
pub fn next_hop(
    snapshot: &Snapshot,
    target: &str,
    destination: IpAddr,
    source: Option<IpAddr>,
) -> Result<NextHopAnswer, QuestionError> {
    let by_source = source.and_then(|source| {
        let nics = find_nics(snapshot, target)?;
        nics.into_iter()
            .find(|nic| snapshot.port(nic.port).is_some_and(|port| port.has_address(source)))
            .map(|nic| nic.subnet)
    });
    let subnet = match by_source {
        Some(subnet) => subnet,
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
        next_hop_ip_address: next_hop_addresses(snapshot, subnet, route).into_iter().next(),
        next_hop_type: type_name(snapshot, route).to_owned(),
        route_table_id: table.map_or("System Route".to_owned(), |table| format!("routeTables/{table}")),
    })
}
