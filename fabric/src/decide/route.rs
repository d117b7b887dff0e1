//! Selecting a route of a subnet and following it: inside the network, over a peering, to an appliance or a gateway.

use std::net::IpAddr;

use vnet_dataplane::Reason;

use super::candidates::rejected;
use super::gateway::spread;
use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::compile::describe_next_hop;
use crate::decision::SessionView;
use crate::effective::{is_global, source_name};
use crate::snapshot::lpm::contains;
use crate::snapshot::network::{EffectiveGateway, Owner};
use crate::snapshot::routes::{NextHop, Route, RouteSource};
use crate::trace::{Step, StepKind, Trace};

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    pub(super) fn route(&mut self, subnet: usize, sender: Sender) -> Next {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        let Some(route) = snapshot.subnets[subnet].routes.lookup(destination) else {
            let rule = snapshot.check(AzureRule::RouteLpm);
            return self.drop(Reason::NoRoute, rule, &snapshot.subnets[subnet].name, || {
                format!("no route matches {destination}")
            });
        };
        self.note_route(subnet, route);
        self.note_peerings_off(subnet);
        self.routed_by = Some(route.rule);
        let network = snapshot.subnets[subnet].network;
        match &route.next_hop {
            NextHop::VnetLocal | NextHop::InterfaceEndpoint(None) => self.inside(network, destination, None),
            NextHop::Peering(half) | NextHop::InterfaceEndpoint(Some(half)) => {
                match self.cross(*half, sender) {
                    Some(end) => end,
                    None => self.inside(snapshot.peerings[*half].remote, destination, None),
                }
            }
            NextHop::VirtualAppliance(address) => self.reach_appliance(network, *address, sender),
            NextHop::VirtualApplianceEcmp(addresses) => {
                let address = self.one_of(addresses, &snapshot.subnets[subnet].name);
                self.reach_appliance(network, address, sender)
            }
            NextHop::VirtualNetworkGateway => self.reach_gateway(network, sender, route),
            NextHop::ServiceEndpoint => self.reach_service(subnet, sender, route),
            NextHop::Internet => self.reach_internet(subnet, sender, route),
            NextHop::None => self.nowhere(subnet, sender, route),
        }
    }

    /// That a peering's route is kept out is doubtful, and so is what comes of it.
    fn note_peerings_off(&mut self, subnet: usize) {
        let subnet = &self.snapshot.subnets[subnet];
        let destination = self.tuple.destination;
        let kept_out = subnet.routes.absent.peerings.as_ref();
        if kept_out.is_some_and(|layer| layer.longest(destination).is_some()) {
            let rule = self.snapshot.check(AzureRule::RoutePeeringDisabled);
            self.note(StepKind::Route, Some(rule), &subnet.name, || {
                format!("disablePeeringRoute keeps out the peering's route to {destination}")
            });
        }
    }

    fn note_route(&mut self, subnet: usize, route: &Route) {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        self.trace.rests_on(route.rule);
        self.trace.steered(route.rule, route.source == RouteSource::User);
        self.trace.step(|| {
            let subnet = &snapshot.subnets[subnet];
            let rejected = rejected(snapshot, subnet, destination);
            let text = format!(
                "{destination} matches {} ({}) -> {}",
                route.prefix,
                source_name(route),
                describe_next_hop(&route.next_hop, is_global(snapshot, route))
            );
            let rule = snapshot.rule_ref(route.rule);
            Step { rejected, ..Step::new(StepKind::Route, &*subnet.name, text, rule) }
        });
    }

    /// The appliance that takes the flow, by its addresses and ports: the answer's choice is its own.
    fn one_of(&mut self, addresses: &[IpAddr], at: &str) -> IpAddr {
        let address = addresses[spread(&self.tuple) % addresses.len()];
        let rule = self.snapshot.check(AzureRule::NextHopEcmp);
        self.note(StepKind::Route, Some(rule), at, || {
            format!("the flow's addresses and ports choose {address} of {} appliances", addresses.len())
        });
        address
    }

    /// To whoever holds an address of a network. As a next hop of `by`, it must be another one that forwards.
    fn inside(&mut self, network: usize, address: IpAddr, by: Option<Sender>) -> Next {
        let snapshot = self.snapshot;
        let network = &snapshot.networks[network];
        let next_hop = by.is_some();
        let owner = network.owners.get(&address).copied();
        match (owner, owner.and_then(|port| snapshot.owner(port))) {
            (Some(_), Some(Owner::Nic(nic))) if by == Some(Sender::Nic(nic)) => self.own_appliance(address),
            (Some(_), Some(Owner::Firewall(firewall))) if by == Some(Sender::Firewall(firewall)) => {
                self.own_appliance(address)
            }
            (Some(_), Some(Owner::Nic(nic))) => Next::Nic { nic, next_hop },
            (Some(_), Some(Owner::Firewall(firewall)))
                if address != self.tuple.destination || self.answers_firewall(firewall) =>
            {
                Next::Firewall(firewall)
            }
            (Some(port), Some(Owner::Firewall(_) | Owner::Gateway { .. }))
                if address == self.tuple.destination
                    && snapshot.port(port).is_some_and(|port| port.has_address(address)) =>
            {
                self.deliver(port)
            }
            _ if next_hop => {
                let rule = snapshot.check(AzureRule::NextHopReachable);
                self.drop(Reason::NextHopUnreachable, rule, &network.name, || {
                    format!(
                        "the next hop {address} is an address of {} at which no appliance is",
                        network.name
                    )
                })
            }
            _ => {
                let rule = snapshot.check(AzureRule::FabricNoListener);
                self.drop(Reason::NoListener, rule, &network.name, || {
                    format!("nothing in {} has the address {address}", network.name)
                })
            }
        }
    }

    /// What an appliance sends comes back to it where its subnet has the route table that leads to it.
    fn own_appliance(&mut self, address: IpAddr) -> Next {
        let rule = self.snapshot.check(AzureRule::NextHopOwnSubnet);
        self.drop(Reason::RoutingLoop, rule, "", || {
            format!("the route table of the appliance's own subnet leads back to {address}")
        })
    }

    /// To the next hop of a user's route. It must be in the network, or in one that is directly peered and connected.
    fn reach_appliance(&mut self, network: usize, address: IpAddr, sender: Sender) -> Next {
        let snapshot = self.snapshot;
        let here = &snapshot.networks[network];
        if contains(&here.ranges, address) {
            return self.inside(network, address, Some(sender));
        }
        let Some((_, half)) = here.peering_ranges.longest(address) else {
            let rule = snapshot.check(AzureRule::NextHopReachable);
            return self.drop(Reason::NextHopUnreachable, rule, &here.name, || {
                format!(
                    "the next hop {address} is neither in {} nor in a network that is peered with it",
                    here.name
                )
            });
        };
        match self.cross(*half, sender) {
            Some(end) => end,
            None => self.inside(snapshot.peerings[*half].remote, address, Some(sender)),
        }
    }

    fn reach_gateway(&mut self, network: usize, sender: Sender, route: &Route) -> Next {
        let snapshot = self.snapshot;
        let here = &snapshot.networks[network];
        if let Sender::Gateway(gateway) = sender {
            return self.take_tunnel(gateway);
        }
        let subnet_route = route.source == RouteSource::User;
        if subnet_route && let Some(name) = &here.express_route {
            let rule = snapshot.check(AzureRule::NextHopGateway);
            return self.drop(Reason::NoEffectiveGateway, rule, &here.name, || {
                format!("the effective gateway of {} is {name}, an ExpressRoute gateway, to which no user route leads", here.name)
            });
        }
        match here.gateway {
            EffectiveGateway::None => {
                let rule = snapshot.check(AzureRule::NextHopGateway);
                self.drop(Reason::NoEffectiveGateway, rule, &here.name, || {
                    format!("{} has no VPN gateway, and uses none of a peer", here.name)
                })
            }
            EffectiveGateway::Own(gateway) => Next::Gateway { gateway, subnet_route },
            EffectiveGateway::Remote { gateway, peering } => match self.cross(peering, sender) {
                Some(end) => end,
                None => Next::Gateway { gateway, subnet_route },
            },
        }
    }

    /// A route with next hop None was selected.
    fn nowhere(&mut self, subnet: usize, sender: Sender, route: &Route) -> Next {
        let snapshot = self.snapshot;
        let at = &*snapshot.subnets[subnet].name;
        let destination = self.tuple.destination;
        if route.source != RouteSource::Default {
            return self.drop(Reason::RouteNone, route.rule, at, || {
                format!("the route {} leads nowhere", route.prefix)
            });
        }
        if let Some(end) = self.unconnected_peer(subnet) {
            return end;
        }
        if let Sender::Gateway(gateway) = sender {
            let rule = snapshot.check(AzureRule::VpnTable);
            let name = &snapshot.gateways[gateway].name;
            return self
                .drop(Reason::NoRoute, rule, name, || format!("{name} has no route to {destination}"));
        }
        let held = snapshot.subnets[subnet].routes.peered_around(&route.prefix);
        if let Some(range) = held {
            let rule = snapshot.check(AzureRule::RouteReservedPeer);
            self.note(StepKind::Route, Some(rule), at, || {
                format!("{range} of a peer holds {}, whose route to None is longer", route.prefix)
            });
        }
        self.drop(Reason::RouteNone, route.rule, at, || {
            format!(
                "nothing more specific than the system route {} -> None matches {destination}",
                route.prefix
            )
        })
    }
}
