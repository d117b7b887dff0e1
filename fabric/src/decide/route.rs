//! Selecting a route of a subnet and following it: inside the network, over a peering, to an appliance or a gateway.

use std::net::IpAddr;

use vnet_dataplane::Reason;

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::compile::describe_next_hop;
use crate::decision::SessionView;
use crate::snapshot::lpm::contains;
use crate::snapshot::network::{EffectiveGateway, Owner};
use crate::snapshot::routes::{NextHop, Route, RouteSource};
use crate::trace::{RejectedRoute, RejectedState, Step, StepKind, Trace};

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
        self.routed_by = Some(route.rule);
        let network = snapshot.subnets[subnet].network;
        match route.next_hop {
            NextHop::VnetLocal => self.inside(network, destination, false),
            NextHop::Peering(half) => match self.cross(half, sender) {
                Some(end) => end,
                None => self.inside(snapshot.peerings[half].remote, destination, false),
            },
            NextHop::VirtualAppliance(address) => self.reach_appliance(network, address, sender),
            NextHop::VirtualNetworkGateway => self.reach_gateway(network, sender, route),
            NextHop::Internet => self.reach_internet(subnet, sender, route),
            NextHop::None => self.nowhere(subnet, sender, route),
        }
    }

    fn note_route(&mut self, subnet: usize, route: &Route) {
        let snapshot = self.snapshot;
        let destination = self.tuple.destination;
        self.trace.rests_on(route.rule);
        self.trace.step(|| {
            let subnet = &snapshot.subnets[subnet];
            let candidates = subnet.routes.candidates(destination);
            let rejected = candidates.iter().skip(1).map(|other| lost(snapshot, route, other)).collect();
            let text = format!(
                "{destination} matches {} ({}) -> {}",
                route.prefix,
                source_name(route),
                shown(snapshot, route)
            );
            let rule = snapshot.rule_ref(route.rule);
            Step { rejected, ..Step::new(StepKind::Route, &*subnet.name, text, rule) }
        });
    }

    /// To whoever holds an address of a network.
    fn inside(&mut self, network: usize, address: IpAddr, next_hop: bool) -> Next {
        let snapshot = self.snapshot;
        let network = &snapshot.networks[network];
        let owner = network.owners.get(&address).copied();
        match (owner, owner.and_then(|port| snapshot.owner(port))) {
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

    /// To the next hop of a user's route. It must be in the network, or in one that is directly peered and connected.
    fn reach_appliance(&mut self, network: usize, address: IpAddr, sender: Sender) -> Next {
        let snapshot = self.snapshot;
        let here = &snapshot.networks[network];
        if contains(&here.ranges, address) {
            return self.inside(network, address, true);
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
            None => self.inside(snapshot.peerings[*half].remote, address, true),
        }
    }

    fn reach_gateway(&mut self, network: usize, sender: Sender, route: &Route) -> Next {
        let snapshot = self.snapshot;
        let here = &snapshot.networks[network];
        if let Sender::Gateway(gateway) = sender {
            return self.take_tunnel(gateway);
        }
        let subnet_route = route.source == RouteSource::User;
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
        self.drop(Reason::RouteNone, route.rule, at, || {
            format!(
                "nothing more specific than the system route {} -> None matches {destination}",
                route.prefix
            )
        })
    }
}

/// Why another route that contains the destination lost.
fn lost(snapshot: &crate::Snapshot, selected: &Route, other: &Route) -> RejectedRoute {
    let shorter = other.prefix.prefix_len() < selected.prefix.prefix_len();
    let why = if shorter {
        format!("shorter than {}", selected.prefix)
    } else {
        format!("{} beats {} on the same prefix", source_name(selected), source_name(other))
    };
    RejectedRoute {
        address_prefix: other.prefix.to_string(),
        source: source_name(other).to_owned(),
        next_hop_type: shown(snapshot, other),
        next_hop_ip_address: Vec::new(),
        name: other.name.as_deref().map(str::to_owned),
        state: if shorter { RejectedState::Active } else { RejectedState::Invalid },
        why,
    }
}

fn source_name(route: &Route) -> &'static str {
    match route.source {
        RouteSource::User => "User",
        RouteSource::Gateway => "VirtualNetworkGateway",
        RouteSource::Default => "Default",
    }
}

fn shown(snapshot: &crate::Snapshot, route: &Route) -> String {
    let global = matches!(route.next_hop, NextHop::Peering(half) if snapshot.peerings[half].global);
    describe_next_hop(route.next_hop, global)
}
