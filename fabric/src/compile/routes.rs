//! Layers of routes: those of a network are shared by its subnets, those of a route table by the subnets that use it.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::{DisablePeeringRoute, Route as UserRoute, RoutePrefix, RouteTable};

use super::Builder;
use super::endpoints::{EndpointRoute, ServiceLayers};
use crate::azure_rule::AzureRule;
use crate::snapshot::lpm::{Lpm, covers};
use crate::snapshot::network::EffectiveGateway;
use crate::snapshot::routes::{Absent, Layer, NextHop, Route, RouteSource, SubnetRoutes};

/// The private ranges that lead nowhere unless something else has them.
const RESERVED: [&str; 4] = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"];

pub(super) fn default_route(v4: bool) -> IpNet {
    if v4 { IpNet::V4(Default::default()) } else { IpNet::V6(Default::default()) }
}

pub(super) fn reserved_prefixes() -> impl Iterator<Item = IpNet> {
    RESERVED.iter().map(|text| text.parse().expect("the reserved ranges are well-formed prefixes"))
}

/// The layers that all subnets of a network share.
struct NetworkLayers {
    own: Layer,
    peerings: Layer,
    reserved: Layer,
    /// The same where no peering's route takes a private range's place.
    reserved_without_peerings: Layer,
    gateway: Option<GatewayLayers>,
    endpoints: Vec<EndpointRoute>,
    endpoint_layer: Option<Layer>,
}

/// The routes of a network's effective gateway.
struct GatewayLayers {
    /// Those that no range of the network or its peers contains.
    free: Layer,
    /// The others.
    beaten: Vec<Beaten>,
    beaten_layer: Option<Layer>,
}

/// A gateway's route that system routes are preferred to, however specific it is.
struct Beaten {
    prefix: IpNet,
    /// Ranges of the network that contain it.
    own: Vec<IpNet>,
    /// Ranges of its peers that contain it.
    peers: Vec<IpNet>,
}

impl Beaten {
    /// Whether every system route that beats it is out of force: overridden by the subnet's table, or kept out by it.
    fn is_uncovered(&self, user: &Layer, peerings_disabled: bool) -> bool {
        let out_of_force = |range: &IpNet| *range != self.prefix && user.get(range).is_some();
        self.own.iter().all(out_of_force) && (peerings_disabled || self.peers.iter().all(out_of_force))
    }
}

/// A route table's routes.
pub(super) struct UserLayer {
    pub(super) routes: Layer,
    /// Those that lost to another of the table for the same prefix.
    pub(super) lost: Option<Arc<[Route]>>,
}

impl Builder<'_> {
    pub(super) fn routes(&mut self) {
        let topology = self.topology;
        let tables: HashMap<&str, UserLayer> = topology
            .route_tables
            .iter()
            .map(|(name, table)| (name.as_str(), self.user_layer(name, table)))
            .collect();
        let mut services = ServiceLayers::default();
        for (index, network) in topology.virtual_networks.values().enumerate() {
            let layers = self.network_layers(index);
            let mut uncovered = HashMap::new();
            for (name, subnet) in &network.subnets {
                let position = self.subnets[&(index, name.clone())];
                let table = subnet
                    .route_table
                    .as_deref()
                    .and_then(|name| Some((name, topology.route_tables.get(name)?, tables.get(name)?)));
                let mut routes = self.subnet_routes(position, &layers, table, &mut uncovered);
                routes.service_endpoints = self.service_layer(&subnet.service_endpoints, &mut services);
                self.snapshot.subnets[position].routes = routes;
            }
            for position in self.stand_ins_of(index) {
                self.snapshot.subnets[position].routes =
                    self.subnet_routes(position, &layers, None, &mut HashMap::new());
            }
        }
    }

    /// A route with its handle.
    pub(super) fn route(&mut self, scope: &str, azure: AzureRule, new: NewRoute<'_>) -> Route {
        let NewRoute { prefix, source, next_hop, shown } = new;
        let shown = shown.map_or_else(
            || match source {
                RouteSource::Gateway => format!("gateway route ({prefix} -> VirtualNetworkGateway)"),
                _ => format!("system route ({prefix} -> {})", describe(&next_hop, scope == GLOBAL)),
            },
            str::to_owned,
        );
        let rule = self.rule(scope, &shown, azure, None);
        Route { prefix, source, next_hop, name: None, list: None, rule }
    }

    /// Where several routes are for one prefix, an explicit one stands before a service tag, a tag of a region before one of
    /// all regions, and AzureCloud behind all others.
    pub(super) fn user_layer(&mut self, table: &str, model: &RouteTable) -> UserLayer {
        let mut all: Vec<(u8, Route)> = Vec::new();
        for route in &model.routes {
            let next_hop = user_next_hop(route);
            let shown = format!(
                "route {table}/{} ({} -> {})",
                route.name,
                route.address_prefix,
                describe(&next_hop, false)
            );
            let (azure, prefixes, list) = match &route.address_prefix {
                RoutePrefix::Prefix(prefix) => (AzureRule::RouteUser, std::slice::from_ref(prefix), None),
                RoutePrefix::Tag(tag) => {
                    let prefixes = self.topology.service_tag_prefixes(tag).unwrap_or_default();
                    (AzureRule::RouteServiceTag, prefixes, Some(Arc::from(tag.as_str())))
                }
            };
            let Some(first) = prefixes.first() else { continue };
            // One handle for all prefixes of a tag.
            let new = NewRoute { prefix: *first, source: RouteSource::User, next_hop, shown: Some(&shown) };
            let name = Some(route.name.as_str().into());
            let compiled = Route { name, list, ..self.route(table, azure, new) };
            let rank = rank(&route.address_prefix);
            all.extend(prefixes.iter().map(|prefix| (rank, Route { prefix: *prefix, ..compiled.clone() })));
        }
        all.sort_by_key(|(rank, _)| *rank);
        let mut routes = Lpm::default();
        let mut lost = Vec::new();
        for (_, route) in all {
            if routes.get(&route.prefix).is_some() {
                lost.push(route);
            } else {
                routes.insert(route.prefix, route);
            }
        }
        UserLayer { routes: Arc::new(routes), lost: (!lost.is_empty()).then(|| lost.into()) }
    }

    fn network_layers(&mut self, network: usize) -> NetworkLayers {
        let ranges = self.snapshot.networks[network].ranges.clone();
        let own = self.own_layer(&ranges);
        let mut peerings = Lpm::default();
        for half in self.connected(network) {
            let scope = if self.snapshot.peerings[half].global { GLOBAL } else { "" };
            for prefix in self.ranges_in_force(&self.snapshot.peerings[half]) {
                let new = NewRoute::system(prefix, NextHop::Peering(half));
                peerings.insert(prefix, self.route(scope, AzureRule::RoutePeering, new));
            }
        }
        let peered: Vec<IpNet> = peerings.iter().map(|(prefix, _)| prefix).collect();
        let mut reserved = |peered: &[IpNet]| {
            let mut layer = Lpm::default();
            let replaced =
                |prefix: &IpNet| ranges.iter().any(|range| covers(range, prefix)) || peered.contains(prefix);
            for prefix in reserved_prefixes().filter(|prefix| !replaced(prefix)) {
                let new = NewRoute::system(prefix, NextHop::None);
                layer.insert(prefix, self.route("", AzureRule::RouteReserved, new));
            }
            Arc::new(layer)
        };
        let (reserved, reserved_without_peerings) = (reserved(&peered), reserved(&[]));
        let gateway = self.gateway_layers(network, &ranges, &peered);
        let endpoints = self.endpoint_routes(network);
        NetworkLayers {
            own: Arc::new(own),
            peerings: Arc::new(peerings),
            reserved,
            reserved_without_peerings,
            gateway,
            endpoint_layer: layer_of(endpoints.iter().map(|endpoint| endpoint.route.clone())),
            endpoints,
        }
    }

    fn own_layer(&mut self, ranges: &[IpNet]) -> Lpm<Route> {
        let mut own = Lpm::default();
        for prefix in ranges {
            let new = NewRoute::system(*prefix, NextHop::VnetLocal);
            own.insert(*prefix, self.route("", AzureRule::RouteVnetLocal, new));
        }
        for v4 in [true, false] {
            let exists = v4 || ranges.iter().any(|range| range.addr().is_ipv6());
            let prefix = default_route(v4);
            if exists && own.get(&prefix).is_none() {
                let new = NewRoute::system(prefix, NextHop::Internet);
                own.insert(prefix, self.route("", AzureRule::RouteInternet, new));
            }
        }
        own
    }

    /// The effective gateway's prefixes, apart those that are equal to or inside ranges of the network and its peers.
    fn gateway_layers(&mut self, network: usize, own: &[IpNet], peered: &[IpNet]) -> Option<GatewayLayers> {
        let gateway = match self.snapshot.networks[network].gateway {
            EffectiveGateway::None => return None,
            EffectiveGateway::Own(gateway) | EffectiveGateway::Remote { gateway, .. } => gateway,
        };
        let prefixes: Vec<IpNet> = self.snapshot.gateways[gateway].prefixes().collect();
        let mut free = Lpm::default();
        let mut beaten = Vec::new();
        let mut beaten_routes = Vec::new();
        for prefix in prefixes {
            let containing = |ranges: &[IpNet]| -> Vec<IpNet> {
                ranges.iter().copied().filter(|range| covers(range, &prefix)).collect()
            };
            let route = self.route("", AzureRule::RouteGateway, NewRoute::gateway(prefix));
            let (own, peers) = (containing(own), containing(peered));
            if own.is_empty() && peers.is_empty() {
                free.insert(prefix, route);
            } else {
                beaten.push(Beaten { prefix, own, peers });
                beaten_routes.push(route);
            }
        }
        let beaten_layer = layer_of(beaten_routes.into_iter());
        Some(GatewayLayers { free: Arc::new(free), beaten, beaten_layer })
    }

    fn subnet_routes<'t>(
        &mut self,
        subnet: usize,
        layers: &NetworkLayers,
        table: Option<(&'t str, &RouteTable, &UserLayer)>,
        uncovered: &mut HashMap<&'t str, Option<Layer>>,
    ) -> SubnetRoutes {
        let propagation_disabled = table.is_some_and(|(_, table, _)| table.disable_bgp_route_propagation);
        let peerings_disabled =
            table.is_some_and(|(_, table, _)| table.disable_peering_route == DisablePeeringRoute::All);
        let user = table.map(|(_, _, layer)| layer.routes.clone());
        let uses_gateway = self.uses_gateway(subnet);
        let known = layers.gateway.as_ref().filter(|_| uses_gateway);
        let live = match (known, table) {
            (Some(known), Some((name, _, layer))) => uncovered
                .entry(name)
                .or_insert_with(|| self.uncovered(known, &layer.routes, peerings_disabled))
                .clone()
                .or_else(|| Some(known.free.clone())),
            (known, _) => known.map(|known| known.free.clone()),
        };
        let (gateway, kept_out) = if propagation_disabled { (None, live) } else { (live, None) };
        let reserved =
            if peerings_disabled { &layers.reserved_without_peerings } else { &layers.reserved }.clone();
        let default = default_route(true);
        let is_default =
            |layer: &Option<Layer>| layer.as_ref().is_some_and(|layer| layer.get(&default).is_some());
        let replaced = is_default(&user) || is_default(&gateway);
        let endpoints = endpoint_layers(layers, user.as_ref());
        SubnetRoutes {
            gateway,
            own: layers.own.clone(),
            peerings: if peerings_disabled { Layer::default() } else { layers.peerings.clone() },
            reserved: (!replaced).then(|| reserved.clone()),
            service_endpoints: None,
            private_endpoints: endpoints.0,
            propagation_disabled,
            absent: Absent {
                propagation: kept_out,
                beaten: known.and_then(|known| known.beaten_layer.clone()),
                peerings: peerings_disabled.then(|| layers.peerings.clone()),
                reserved: replaced.then_some(reserved),
                user: table.and_then(|(_, _, layer)| layer.lost.clone()),
                private_endpoints: endpoints.1,
            },
            user,
        }
    }

    /// The gateway's routes with those that come to life where the user's routes override every range around them; none
    /// where there is no such route.
    fn uncovered(&mut self, known: &GatewayLayers, user: &Layer, peerings_disabled: bool) -> Option<Layer> {
        let mut uncovered =
            known.beaten.iter().filter(|route| route.is_uncovered(user, peerings_disabled)).peekable();
        uncovered.peek()?;
        let mut layer = (*known.free).clone();
        for beaten in uncovered {
            let route = self.route("uncovered", AzureRule::RouteUncovered, NewRoute::gateway(beaten.prefix));
            layer.insert(beaten.prefix, route);
        }
        Some(Arc::new(layer))
    }
}

/// Scope of the routes that cross regions.
const GLOBAL: &str = "global";

/// A route that has no handle yet.
pub(super) struct NewRoute<'a> {
    pub(super) prefix: IpNet,
    pub(super) source: RouteSource,
    pub(super) next_hop: NextHop,
    /// What the explanation calls it, where that is not its prefix and next hop.
    pub(super) shown: Option<&'a str>,
}

impl NewRoute<'_> {
    fn system(prefix: IpNet, next_hop: NextHop) -> Self {
        NewRoute { prefix, source: RouteSource::Default, next_hop, shown: None }
    }

    fn gateway(prefix: IpNet) -> Self {
        NewRoute {
            prefix,
            source: RouteSource::Gateway,
            next_hop: NextHop::VirtualNetworkGateway,
            shown: None,
        }
    }
}

fn user_next_hop(route: &UserRoute) -> NextHop {
    use vnet_config::model::NextHopType;
    match (route.next_hop_type, route.appliances()) {
        (NextHopType::VirtualAppliance, [address, ..]) => NextHop::VirtualAppliance(*address),
        (NextHopType::VirtualApplianceEcmp, addresses) if !addresses.is_empty() => {
            NextHop::VirtualApplianceEcmp(addresses.into())
        }
        (NextHopType::VirtualNetworkGateway, _) => NextHop::VirtualNetworkGateway,
        (NextHopType::VnetLocal, _) => NextHop::VnetLocal,
        (NextHopType::Internet, _) => NextHop::Internet,
        (NextHopType::None | NextHopType::VirtualAppliance | NextHopType::VirtualApplianceEcmp, _) => {
            NextHop::None
        }
    }
}

/// The smaller, the more preferred among the user's routes for one prefix.
fn rank(prefix: &RoutePrefix) -> u8 {
    let RoutePrefix::Tag(tag) = prefix else { return 0 };
    let (service, region) =
        tag.split_once('.').map_or((tag.as_str(), None), |(service, region)| (service, Some(region)));
    match (service.eq_ignore_ascii_case("AzureCloud"), region) {
        (false, Some(_)) => 1,
        (false, None) => 2,
        (true, Some(_)) => 3,
        (true, None) => 4,
    }
}

/// A layer of these routes; none where there are none.
fn layer_of(routes: impl Iterator<Item = Route>) -> Option<Layer> {
    let mut layer = Lpm::default();
    for route in routes {
        layer.insert(route.prefix, route);
    }
    (!layer.is_empty()).then(|| Arc::new(layer))
}

/// The private endpoints' routes of a subnet, and those of them that its route table overrides.
fn endpoint_layers(layers: &NetworkLayers, user: Option<&Layer>) -> (Option<Layer>, Option<Layer>) {
    let Some(user) = user else { return (layers.endpoint_layer.clone(), None) };
    let (overridden, live): (Vec<&EndpointRoute>, Vec<&EndpointRoute>) =
        layers.endpoints.iter().partition(|endpoint| endpoint.is_overridden(user));
    if overridden.is_empty() {
        return (layers.endpoint_layer.clone(), None);
    }
    let layer = |endpoints: Vec<&EndpointRoute>| {
        layer_of(endpoints.into_iter().map(|endpoint| endpoint.route.clone()))
    };
    (layer(live), layer(overridden))
}

/// A next hop as Azure names it, with its addresses.
pub(crate) fn describe(next_hop: &NextHop, global: bool) -> String {
    match next_hop {
        NextHop::VirtualAppliance(address) => format!("VirtualAppliance {address}"),
        NextHop::VirtualApplianceEcmp(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("VirtualApplianceEcmp {}", addresses.join(", "))
        }
        other => next_hop_type(other, global).to_owned(),
    }
}

/// `nextHopType` as effective routes print it.
pub(crate) fn next_hop_type(next_hop: &NextHop, global: bool) -> &'static str {
    match next_hop {
        NextHop::VnetLocal => "VnetLocal",
        NextHop::Peering(_) if global => "VNetGlobalPeering",
        NextHop::Peering(_) => "VNetPeering",
        NextHop::VirtualNetworkGateway => "VirtualNetworkGateway",
        NextHop::VirtualAppliance(_) => "VirtualAppliance",
        NextHop::VirtualApplianceEcmp(_) => "VirtualApplianceEcmp",
        NextHop::ServiceEndpoint => "VirtualNetworkServiceEndpoint",
        NextHop::InterfaceEndpoint(_) => "InterfaceEndpoint",
        NextHop::Internet => "Internet",
        NextHop::None => "None",
    }
}
