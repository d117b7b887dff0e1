//! Service endpoints and private endpoints: the routes that they make, and the private endpoints' own ports.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;
use vnet_config::model::{PrivateEndpoint, PrivateEndpointNetworkPolicies, ServiceEndpoint};

use super::Builder;
use super::routes::NewRoute;
use crate::azure_rule::AzureRule;
use crate::snapshot::lpm::{Lpm, contains};
use crate::snapshot::network::{Nic, Owner, Subnet};
use crate::snapshot::routes::{Layer, NextHop, Route, RouteSource, SubnetRoutes};
use crate::snapshot::{FunctionKind, PortKind};

/// Layers of service endpoints that are compiled already: subnets with the same endpoints share them.
#[derive(Default)]
pub(super) struct ServiceLayers<'a>(Vec<(&'a [ServiceEndpoint], Option<Layer>)>);

/// A private endpoint as the subnets of one network reach it.
pub(super) struct EndpointRoute {
    pub(super) route: Route,
    address: IpAddr,
    /// Where its subnet's policies let the user's routes in: the length of the range that it lies in. The user's route must
    /// be at least as long.
    overridden_from: Option<u8>,
}

impl EndpointRoute {
    /// Whether a route of the table overrides the endpoint's own, though it is shorter.
    pub(super) fn is_overridden(&self, user: &Layer) -> bool {
        let longest = user.longest(self.address).map(|(prefix, _)| prefix.prefix_len());
        self.overridden_from.is_some_and(|length| longest.is_some_and(|longest| longest >= length))
    }
}

impl<'a> Builder<'a> {
    pub(super) fn service_layer(
        &mut self,
        endpoints: &'a [ServiceEndpoint],
        known: &mut ServiceLayers<'a>,
    ) -> Option<Layer> {
        if endpoints.is_empty() {
            return None;
        }
        if let Some((_, layer)) = known.0.iter().find(|(other, _)| *other == endpoints) {
            return layer.clone();
        }
        let mut layer = Lpm::default();
        for endpoint in endpoints {
            let shown = format!("service endpoint {}", endpoint.service);
            let prefixes = self.topology.endpoint_prefixes(endpoint);
            let Some(first) = prefixes.first() else { continue };
            let new = NewRoute {
                prefix: *first,
                source: RouteSource::Default,
                next_hop: NextHop::ServiceEndpoint,
                shown: Some(&shown),
            };
            let route = self.route("", AzureRule::RouteServiceEndpoint, new);
            let route = Route { list: Some(endpoint.service.as_str().into()), ..route };
            for prefix in prefixes {
                if layer.get(&prefix).is_none() {
                    layer.insert(prefix, Route { prefix, ..route.clone() });
                }
            }
        }
        let layer = (!layer.is_empty()).then(|| Arc::new(layer));
        known.0.push((endpoints, layer.clone()));
        layer
    }

    /// A route of one address for each private endpoint of the network and of the peers that it reaches.
    pub(super) fn endpoint_routes(&mut self, network: usize) -> Vec<EndpointRoute> {
        let topology = self.topology;
        let halves = self.connected(network);
        let mut routes = Vec::new();
        for (name, endpoint) in &topology.private_endpoints {
            let Some((owner, _)) =
                self.find_subnet(&endpoint.subnet.virtual_network, &endpoint.subnet.subnet)
            else {
                continue;
            };
            let half = halves.iter().copied().find(|half| self.snapshot.peerings[*half].remote == owner);
            if owner != network && half.is_none() {
                continue;
            }
            for address in self.endpoint_addresses(name, endpoint) {
                let peered = half.is_none_or(|half| {
                    contains(&self.ranges_in_force(&self.snapshot.peerings[half]), address)
                });
                if !peered {
                    continue;
                }
                let prefix = IpNet::from(address);
                let shown = format!("private endpoint {name} ({prefix} -> InterfaceEndpoint)");
                let new = NewRoute {
                    prefix,
                    source: RouteSource::Default,
                    next_hop: NextHop::InterfaceEndpoint(half),
                    shown: Some(&shown),
                };
                routes.push(EndpointRoute {
                    route: self.route("", AzureRule::RoutePrivateEndpoint, new),
                    address,
                    overridden_from: self.overridden_from(endpoint, owner, address),
                });
            }
        }
        routes
    }

    fn overridden_from(&self, endpoint: &PrivateEndpoint, owner: usize, address: IpAddr) -> Option<u8> {
        if !self.endpoint_policies(endpoint).applies_routes() {
            return None;
        }
        let ranges = self.snapshot.networks[owner].ranges.iter();
        ranges.filter(|range| range.contains(&address)).map(IpNet::prefix_len).max()
    }

    fn endpoint_policies(&self, endpoint: &PrivateEndpoint) -> PrivateEndpointNetworkPolicies {
        let network = self.topology.virtual_networks.get(&endpoint.subnet.virtual_network);
        let subnet = network.and_then(|network| network.subnets.get(&endpoint.subnet.subnet));
        subnet.map(|subnet| subnet.private_endpoint_network_policies).unwrap_or_default()
    }

    fn endpoint_addresses(&self, name: &str, endpoint: &PrivateEndpoint) -> Vec<IpAddr> {
        match endpoint.private_ip_address {
            Some(address) => vec![address],
            None => self.state.addresses.of(name).to_vec(),
        }
    }

    /// A port for each private endpoint, as if it were a NIC: the service behind it answers in a namespace of its own.
    pub(super) fn private_endpoints(&mut self) {
        let topology = self.topology;
        for (name, endpoint) in &topology.private_endpoints {
            let at = &endpoint.subnet;
            if let Some((network, subnet)) = self.find_subnet(&at.virtual_network, &at.subnet) {
                self.private_endpoint(name, endpoint, network, subnet);
            }
        }
    }

    fn private_endpoint(&mut self, name: &str, endpoint: &PrivateEndpoint, network: usize, subnet: usize) {
        let addresses = self.endpoint_addresses(name, endpoint);
        let nets = addresses
            .iter()
            .map(|address| self.with_prefix(&endpoint.subnet.subnet, network, *address))
            .collect();
        let index = self.snapshot.nics.len();
        let kind = PortKind::PrivateEndpoint { name: name.into() };
        let port = self.add_port(name, kind, Owner::Nic(index), |port| port.addresses = nets);
        for address in &addresses {
            self.snapshot.networks[network].owners.insert(*address, port);
            self.snapshot.nics_by_address.entry(*address).or_default().push(index);
        }
        let routed = self.endpoint_policies(endpoint).applies_routes();
        let nic = Nic {
            accelerated: None,
            port,
            subnet: if routed { subnet } else { self.stand_in(subnet) },
            forwarding: false,
            inbound: self.add_function(format!("nsg/{name}/inbound"), FunctionKind::SecurityGroup),
            outbound: self.add_function(format!("nsg/{name}/outbound"), FunctionKind::SecurityGroup),
            untracked_tcp: false,
            nic_nsg: None,
            subnet_nsg: None,
            edge: self.add_function(format!("edge/{name}"), FunctionKind::Translation),
            public: SmallVec::new(),
            location: self.network_location(network, None),
            limiter: None,
        };
        self.snapshot.nics.push(nic);
    }

    /// The subnet without its route table, for private endpoints that answer without it.
    fn stand_in(&mut self, subnet: usize) -> usize {
        if let Some(known) = self.stand_ins.get(&subnet) {
            return *known;
        }
        let Subnet { name, network, .. } = &self.snapshot.subnets[subnet];
        let stand_in = Subnet {
            name: name.clone(),
            network: *network,
            routes: SubnetRoutes::default(),
            route_table: None,
            nat_gateway: None,
            default_outbound: false,
        };
        let index = self.snapshot.subnets.len();
        self.snapshot.subnets.push(stand_in);
        self.stand_ins.insert(subnet, index);
        index
    }

    /// Stand-ins for the network's subnets.
    pub(super) fn stand_ins_of(&self, network: usize) -> Vec<usize> {
        let all = self.stand_ins.values().copied();
        all.filter(|subnet| self.snapshot.subnets[*subnet].network == network).collect()
    }

    /// Whether security groups judge packets of this NIC: those of a private endpoint where its subnet's policies let them.
    pub(super) fn is_judged(&self, nic: usize) -> bool {
        let port = self.snapshot.port(self.snapshot.nics[nic].port);
        match port.map(|port| &port.kind) {
            Some(PortKind::PrivateEndpoint { name }) => {
                let endpoint = self.topology.private_endpoints.get(&**name);
                endpoint.is_some_and(|endpoint| self.endpoint_policies(endpoint).applies_nsg())
            }
            _ => true,
        }
    }
}
