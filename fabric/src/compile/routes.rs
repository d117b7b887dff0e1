//! Layers of routes: those of a network are shared by its subnets, those of a route table by the subnets that use it.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::{NextHopType, RoutePrefix, RouteTable};

use super::Builder;
use crate::azure_rule::AzureRule;
use crate::snapshot::lpm::{Lpm, covers};
use crate::snapshot::network::EffectiveGateway;
use crate::snapshot::routes::{Layer, NextHop, Route, RouteSource, SubnetRoutes};

/// The private ranges that lead nowhere unless something else has them.
const RESERVED: [&str; 4] = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"];

fn default_route(v4: bool) -> IpNet {
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
    gateway: Option<Layer>,
}

impl Builder<'_> {
    pub(super) fn routes(&mut self) {
        let topology = self.topology;
        let tables: HashMap<String, Layer> = topology
            .route_tables
            .iter()
            .map(|(name, table)| (name.clone(), self.user_layer(name, table)))
            .collect();
        for (index, network) in topology.virtual_networks.values().enumerate() {
            let layers = self.network_layers(index);
            for (name, subnet) in &network.subnets {
                let position = self.subnets[&(index, name.clone())];
                let table = subnet
                    .route_table
                    .as_ref()
                    .and_then(|name| Some((topology.route_tables.get(name)?, tables.get(name)?)));
                self.snapshot.subnets[position].routes = subnet_routes(&layers, table);
            }
        }
    }

    fn route(&mut self, layer: &mut Lpm<Route>, scope: &str, azure: AzureRule, route: NewRoute<'_>) {
        let NewRoute { prefix, source, next_hop, name } = route;
        let shown = match (source, name) {
            (RouteSource::User, Some(name)) => {
                format!("route {scope}/{name} ({prefix} -> {})", describe(next_hop, false))
            }
            (RouteSource::Gateway, _) => format!("gateway route ({prefix} -> VirtualNetworkGateway)"),
            _ => format!(
                "system route ({prefix} -> {})",
                describe(next_hop, azure == AzureRule::RoutePeering && scope == "global")
            ),
        };
        let rule = self.rule(scope, &shown, azure, None);
        layer.insert(prefix, Route { prefix, source, next_hop, name: name.map(Into::into), rule });
    }

    fn user_layer(&mut self, table: &str, routes: &RouteTable) -> Layer {
        let mut layer = Lpm::default();
        for route in &routes.routes {
            let RoutePrefix::Prefix(prefix) = route.address_prefix else { continue };
            let next_hop = match (route.next_hop_type, route.next_hop_ip_address) {
                (NextHopType::VirtualAppliance, Some(address)) => NextHop::VirtualAppliance(address),
                (NextHopType::VirtualApplianceEcmp, _) => {
                    route.appliances().first().copied().map_or(NextHop::None, NextHop::VirtualAppliance)
                }
                (NextHopType::VirtualNetworkGateway, _) => NextHop::VirtualNetworkGateway,
                (NextHopType::VnetLocal, _) => NextHop::VnetLocal,
                (NextHopType::Internet, _) => NextHop::Internet,
                (NextHopType::None | NextHopType::VirtualAppliance, _) => NextHop::None,
            };
            let new = NewRoute { prefix, source: RouteSource::User, next_hop, name: Some(&route.name) };
            self.route(&mut layer, table, AzureRule::RouteUser, new);
        }
        Arc::new(layer)
    }

    fn network_layers(&mut self, network: usize) -> NetworkLayers {
        let ranges = self.snapshot.networks[network].ranges.clone();
        let mut own = Lpm::default();
        for prefix in &ranges {
            self.route(
                &mut own,
                "",
                AzureRule::RouteVnetLocal,
                NewRoute::system(*prefix, NextHop::VnetLocal),
            );
        }
        for v4 in [true, false] {
            let exists = v4 || ranges.iter().any(|range| range.addr().is_ipv6());
            if exists && own.get(&default_route(v4)).is_none() {
                self.route(
                    &mut own,
                    "",
                    AzureRule::RouteInternet,
                    NewRoute::system(default_route(v4), NextHop::Internet),
                );
            }
        }
        let mut peerings = Lpm::default();
        let mut preferred = ranges.clone();
        for half in self.connected(network) {
            let scope = if self.snapshot.peerings[half].global { "global" } else { "" };
            for prefix in self.ranges_in_force(&self.snapshot.peerings[half]) {
                preferred.push(prefix);
                self.route(
                    &mut peerings,
                    scope,
                    AzureRule::RoutePeering,
                    NewRoute::system(prefix, NextHop::Peering(half)),
                );
            }
        }
        let mut reserved = Lpm::default();
        for prefix in reserved_prefixes() {
            let replaced =
                ranges.iter().any(|range| covers(range, &prefix)) || peerings.get(&prefix).is_some();
            if !replaced {
                self.route(
                    &mut reserved,
                    "",
                    AzureRule::RouteReserved,
                    NewRoute::system(prefix, NextHop::None),
                );
            }
        }
        let gateway = self.gateway_layer(network, &preferred);
        NetworkLayers {
            own: Arc::new(own),
            peerings: Arc::new(peerings),
            reserved: Arc::new(reserved),
            gateway,
        }
    }

    /// The effective gateway's prefixes, less those that are equal to or inside ranges of the network and its peers.
    fn gateway_layer(&mut self, network: usize, preferred: &[IpNet]) -> Option<Layer> {
        let gateway = match self.snapshot.networks[network].gateway {
            EffectiveGateway::None => return None,
            EffectiveGateway::Own(gateway) | EffectiveGateway::Remote { gateway, .. } => gateway,
        };
        let prefixes: Vec<IpNet> =
            self.snapshot.gateways[gateway].table.iter().map(|(prefix, _)| prefix).collect();
        let mut layer = Lpm::default();
        for prefix in
            prefixes.into_iter().filter(|prefix| !preferred.iter().any(|range| covers(range, prefix)))
        {
            let new = NewRoute {
                prefix,
                source: RouteSource::Gateway,
                next_hop: NextHop::VirtualNetworkGateway,
                name: None,
            };
            self.route(&mut layer, "", AzureRule::RouteGateway, new);
        }
        Some(Arc::new(layer))
    }
}

/// A route that has no handle yet.
#[derive(Clone, Copy)]
struct NewRoute<'a> {
    prefix: IpNet,
    source: RouteSource,
    next_hop: NextHop,
    name: Option<&'a str>,
}

impl NewRoute<'_> {
    fn system(prefix: IpNet, next_hop: NextHop) -> Self {
        NewRoute { prefix, source: RouteSource::Default, next_hop, name: None }
    }
}

fn subnet_routes(layers: &NetworkLayers, table: Option<(&RouteTable, &Layer)>) -> SubnetRoutes {
    let propagation_disabled = table.is_some_and(|(table, _)| table.disable_bgp_route_propagation);
    let gateway = layers.gateway.clone().filter(|_| !propagation_disabled);
    let user = table.map(|(_, layer)| layer.clone());
    let default = default_route(true);
    let replaced = |layer: &Option<Layer>| layer.as_ref().is_some_and(|layer| layer.get(&default).is_some());
    let reserved = (!replaced(&user) && !replaced(&gateway)).then(|| layers.reserved.clone());
    SubnetRoutes {
        user,
        gateway,
        own: layers.own.clone(),
        peerings: layers.peerings.clone(),
        reserved,
        propagation_disabled,
    }
}

/// A next hop as Azure names it.
pub(crate) fn describe(next_hop: NextHop, global: bool) -> String {
    match next_hop {
        NextHop::VirtualAppliance(address) => format!("VirtualAppliance {address}"),
        other => next_hop_type(other, global).to_owned(),
    }
}

/// `nextHopType` as effective routes print it.
pub(crate) fn next_hop_type(next_hop: NextHop, global: bool) -> &'static str {
    match next_hop {
        NextHop::VnetLocal => "VnetLocal",
        NextHop::Peering(_) if global => "VNetGlobalPeering",
        NextHop::Peering(_) => "VNetPeering",
        NextHop::VirtualNetworkGateway => "VirtualNetworkGateway",
        NextHop::VirtualAppliance(_) => "VirtualAppliance",
        NextHop::Internet => "Internet",
        NextHop::None => "None",
    }
}
