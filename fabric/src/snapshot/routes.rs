//! The routes of a subnet: layers that subnets share, and the selection among them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::lpm::{Lpm, covers};
use crate::trace::RuleId;

/// Who made a route, in the order of preference for an equal prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteSource {
    /// A route table.
    User,
    /// A virtual network gateway: learned, or a prefix of a local network gateway.
    Gateway,
    /// Azure itself.
    Default,
}

/// Where a route sends packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Inside the virtual network.
    VnetLocal,
    /// Over a peering: index of this network's half.
    Peering(usize),
    /// To the network's effective gateway.
    VirtualNetworkGateway,
    /// To the appliance at this address.
    VirtualAppliance(IpAddr),
    /// To one of the appliances at these addresses, by the flow's addresses and ports.
    VirtualApplianceEcmp(Arc<[IpAddr]>),
    /// To a service of Azure, with the private source kept.
    ServiceEndpoint,
    /// To a private endpoint of the network, or of a peer over this network's half.
    InterfaceEndpoint(Option<usize>),
    /// To the internet edge.
    Internet,
    /// Nowhere.
    None,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Destinations.
    pub prefix: IpNet,
    /// Who made it.
    pub source: RouteSource,
    /// Where it leads.
    pub next_hop: NextHop,
    /// Its name in the route table, for a user's route.
    pub name: Option<Arc<str>>,
    /// The service tag or the service whose list of prefixes this is one of.
    pub list: Option<Arc<str>>,
    /// For the explanation.
    pub rule: RuleId,
}

/// The routes of one origin, shared by the subnets that have them.
pub type Layer = Arc<Lpm<Route>>;

/// The routes of one subnet.
#[derive(Clone, Debug, Default)]
pub struct SubnetRoutes {
    /// The route table's; of several for one prefix the one that is preferred.
    pub user: Option<Layer>,
    /// The effective gateway's, less those that lose to ranges of the network and its peers; none where propagation is off.
    pub gateway: Option<Layer>,
    /// The network's own ranges, and the way to the Internet.
    pub own: Layer,
    /// The ranges of peered networks.
    pub peerings: Layer,
    /// The private ranges that lead nowhere. None where a default route of a user or gateway replaced them.
    pub reserved: Option<Layer>,
    /// Public prefixes of services that have an endpoint in the subnet.
    pub service_endpoints: Option<Layer>,
    /// Private endpoints of the network and its peers.
    pub private_endpoints: Option<Layer>,
    /// disableBgpRoutePropagation of the route table.
    pub propagation_disabled: bool,
    /// Routes that no packet takes, for listing and explanation.
    pub absent: Absent,
}

/// Routes that would be a subnet's if nothing kept them out.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    /// Gateway routes that disableBgpRoutePropagation keeps out.
    pub propagation: Option<Layer>,
    /// Gateway routes that are equal to, or inside, ranges of the network or its peers.
    pub beaten: Option<Layer>,
    /// Routes of peerings that disablePeeringRoute keeps out.
    pub peerings: Option<Layer>,
    /// The private ranges' None routes that a default route replaced.
    pub reserved: Option<Layer>,
    /// The user's routes that lost to another of the same table for the same prefix. Listed as Invalid.
    pub user: Option<Arc<[Route]>>,
    /// Private endpoints' routes that a user's route overrides. Listed as Invalid.
    pub private_endpoints: Option<Layer>,
}

impl SubnetRoutes {
    /// The layers, the preferred first where prefixes are equal.
    fn layers(&self) -> [Option<&Layer>; 6] {
        [
            self.user.as_ref(),
            self.gateway.as_ref(),
            self.private_endpoints.as_ref(),
            Some(&self.own),
            Some(&self.peerings),
            self.reserved.as_ref(),
        ]
    }

    /// The prefixes of all routes that packets may take.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let layers = self.layers().into_iter().chain([self.service_endpoints.as_ref()]).flatten();
        layers.flat_map(|layer| layer.iter().map(|(prefix, _)| prefix))
    }

    /// The route for a destination: a service endpoint's before all others, then the longest prefix, then user before gateway
    /// before system. Gateway routes that Azure ranks below the routes of the network and its peers, however specific, are not
    /// in the gateway layer.
    pub fn lookup(&self, destination: IpAddr) -> Option<&Route> {
        if let Some((_, route)) =
            self.service_endpoints.as_ref().and_then(|services| services.longest(destination))
        {
            return Some(route);
        }
        let mut best: Option<&Route> = None;
        for layer in self.layers().into_iter().flatten() {
            if let Some((prefix, route)) = layer.longest(destination)
                && best.is_none_or(|best| prefix.prefix_len() > best.prefix.prefix_len())
            {
                best = Some(route);
            }
        }
        best
    }

    /// Every route that contains the destination: those of service endpoints, then the others by length and rank. The
    /// first is the one that [`lookup`](Self::lookup) selects.
    pub fn candidates(&self, destination: IpAddr) -> Vec<&Route> {
        let mut all: Vec<&Route> =
            self.layers().into_iter().flatten().flat_map(|layer| covering(layer, destination)).collect();
        // Stable: among the system's routes of one prefix the order of the layers decides.
        all.sort_by(|a, b| b.prefix.prefix_len().cmp(&a.prefix.prefix_len()).then(a.source.cmp(&b.source)));
        let mut services: Vec<&Route> =
            self.service_endpoints.iter().flat_map(|layer| covering(layer, destination)).collect();
        services.sort_by_key(|route| std::cmp::Reverse(route.prefix.prefix_len()));
        services.extend(all);
        services
    }

    /// The user's route of exactly this prefix.
    pub fn user_route(&self, prefix: &IpNet) -> Option<&Route> {
        self.user.as_ref().and_then(|layer| layer.get(prefix))
    }

    /// The gateway's route of exactly this prefix.
    pub fn gateway_route(&self, prefix: &IpNet) -> Option<&Route> {
        self.gateway.as_ref().and_then(|layer| layer.get(prefix))
    }

    /// Whether a service endpoint's route holds the whole prefix.
    pub fn is_serviced(&self, prefix: &IpNet) -> bool {
        let longest = self.service_endpoints.as_ref().and_then(|layer| layer.longest(prefix.addr()));
        longest.is_some_and(|(service, _)| covers(&service, prefix))
    }

    /// The range of a peer that holds this prefix and is wider.
    pub(crate) fn peered_around(&self, prefix: &IpNet) -> Option<IpNet> {
        let (range, _) = self.peerings.longest(prefix.addr())?;
        (range.prefix_len() < prefix.prefix_len()).then_some(range)
    }

    /// The service endpoint's route of exactly this prefix.
    pub fn service_route(&self, prefix: &IpNet) -> Option<&Route> {
        self.service_endpoints.as_ref().and_then(|layer| layer.get(prefix))
    }
}

/// The routes of a layer that contain the destination, the shortest first.
pub(crate) fn covering(layer: &Layer, destination: IpAddr) -> impl Iterator<Item = &Route> {
    layer.covering(destination).into_iter().map(|(_, route)| route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(routes: &[(&str, RouteSource, NextHop)]) -> Layer {
        let mut lpm = Lpm::default();
        for (prefix, source, next_hop) in routes {
            let prefix: IpNet = prefix.parse().unwrap();
            lpm.insert(
                prefix,
                Route {
                    prefix,
                    source: *source,
                    next_hop: next_hop.clone(),
                    name: None,
                    list: None,
                    rule: RuleId(0),
                },
            );
        }
        Arc::new(lpm)
    }

    fn table() -> SubnetRoutes {
        let nva = NextHop::VirtualAppliance("10.0.9.4".parse().unwrap());
        SubnetRoutes {
            user: Some(layer(&[
                ("10.2.0.0/16", RouteSource::User, nva.clone()),
                ("20.60.0.0/24", RouteSource::User, nva),
                ("10.2.0.0/15", RouteSource::User, NextHop::None),
            ])),
            gateway: Some(layer(&[("10.0.0.0/8", RouteSource::Gateway, NextHop::VirtualNetworkGateway)])),
            own: layer(&[
                ("10.0.0.0/16", RouteSource::Default, NextHop::VnetLocal),
                ("0.0.0.0/0", RouteSource::Default, NextHop::Internet),
            ]),
            peerings: layer(&[
                ("10.2.0.0/16", RouteSource::Default, NextHop::Peering(0)),
                ("10.3.0.0/16", RouteSource::Default, NextHop::Peering(1)),
            ]),
            reserved: Some(layer(&[("10.0.0.0/8", RouteSource::Default, NextHop::None)])),
            service_endpoints: Some(layer(&[(
                "20.60.0.0/16",
                RouteSource::Default,
                NextHop::ServiceEndpoint,
            )])),
            ..SubnetRoutes::default()
        }
    }

    fn next_hop(destination: &str) -> NextHop {
        table().lookup(destination.parse().unwrap()).unwrap().next_hop.clone()
    }

    #[test]
    fn user_beats_system_on_an_equal_prefix() {
        assert_eq!(next_hop("10.2.1.1"), NextHop::VirtualAppliance("10.0.9.4".parse().unwrap()));
    }

    #[test]
    fn a_shorter_user_route_does_not_hide_a_peering() {
        assert_eq!(next_hop("10.3.1.1"), NextHop::Peering(1));
    }

    #[test]
    fn gateway_beats_system_on_an_equal_prefix() {
        assert_eq!(next_hop("10.9.1.1"), NextHop::VirtualNetworkGateway);
    }

    #[test]
    fn nothing_overrides_a_service_endpoint() {
        assert_eq!(next_hop("20.60.0.1"), NextHop::ServiceEndpoint);
        assert_eq!(next_hop("20.61.0.1"), NextHop::Internet);
    }

    #[test]
    fn candidates_begin_with_the_selected_route() {
        let table = table();
        let destination = "10.2.1.1".parse().unwrap();
        let candidates = table.candidates(destination);
        assert_eq!(candidates[0].next_hop, table.lookup(destination).unwrap().next_hop);
        assert_eq!(candidates.len(), 6);
    }
}
