//! The routes that a packet might have taken, each with why it was not.

use std::net::IpAddr;

use crate::control::PeeringState;
use crate::effective::{next_hop_addresses, source_name, type_name};
use crate::snapshot::Snapshot;
use crate::snapshot::network::Subnet;
use crate::snapshot::routes::{Layer, NextHop, Route, RouteSource, covering};
use crate::trace::{RejectedRoute, RejectedState};

/// Every route of the subnet that contains the destination but the selected one, listed or not, and those that a peering
/// would make.
pub(super) fn rejected(snapshot: &Snapshot, subnet: &Subnet, destination: IpAddr) -> Vec<RejectedRoute> {
    let mut all = beaten(snapshot, subnet, destination);
    let absent = &subnet.routes.absent;
    let table = subnet.route_table.as_deref().unwrap_or_default();
    let mut add = |layer: Option<&Layer>, state: RejectedState, why: &dyn Fn(&Route) -> String| {
        let routes = layer.into_iter().flat_map(|layer| covering(layer, destination));
        all.extend(routes.map(|route| reject(snapshot, subnet, route, state, why(route))));
    };
    add(absent.private_endpoints.as_ref(), RejectedState::Invalid, &|_| {
        format!("overridden by route table {table}: the subnet of the private endpoint lets user routes in")
    });
    add(absent.propagation.as_ref(), RejectedState::Absent, &|_| {
        format!("kept out by disableBgpRoutePropagation of route table {table}")
    });
    add(absent.peerings.as_ref(), RejectedState::Absent, &|_| {
        format!("kept out by disablePeeringRoute of route table {table}")
    });
    add(absent.beaten.as_ref(), RejectedState::Absent, &|route| {
        let live = subnet.routes.gateway_route(&route.prefix).is_some();
        if live {
            String::new()
        } else {
            "a system route of the network or a peer holds it, and beats gateway routes however specific"
                .to_owned()
        }
    });
    add(absent.reserved.as_ref(), RejectedState::Absent, &|_| {
        "gone: a default route of the route table or the gateway takes its place".to_owned()
    });
    all.retain(|route| !route.why.is_empty());
    let tags = absent.user.iter().flat_map(|routes| routes.iter());
    all.extend(tags.filter(|route| route.prefix.contains(&destination)).map(|route| {
        let why = "another route of the table for this prefix is preferred: an explicit prefix, then a region's service tag, then a service's";
        reject(snapshot, subnet, route, RejectedState::Invalid, why.to_owned())
    }));
    all.extend(unconnected(snapshot, subnet, destination));
    all
}

/// Routes that are in the subnet's layers and lost.
fn beaten(snapshot: &Snapshot, subnet: &Subnet, destination: IpAddr) -> Vec<RejectedRoute> {
    let candidates = subnet.routes.candidates(destination);
    let Some((selected, others)) = candidates.split_first() else { return Vec::new() };
    let judge = |other: &&Route| {
        let first = candidates.iter().find(|route| {
            let system = |route: &Route| route.next_hop == NextHop::ServiceEndpoint;
            route.prefix == other.prefix && system(route) == system(other)
        });
        let (state, why) = match first {
            Some(first) if !std::ptr::eq(*first, *other) => (
                overridden(first, other),
                format!("{} beats {} on the same prefix", source_name(first), source_name(other)),
            ),
            _ if selected.next_hop == NextHop::ServiceEndpoint
                && other.next_hop != NextHop::ServiceEndpoint =>
            {
                let state = match other.source {
                    RouteSource::Gateway if subnet.routes.is_serviced(&other.prefix) => RejectedState::Absent,
                    _ if selected.prefix == other.prefix => RejectedState::Invalid,
                    _ => RejectedState::Active,
                };
                (state, "nothing overrides a service endpoint's route".to_owned())
            }
            _ => (RejectedState::Active, format!("shorter than {}", selected.prefix)),
        };
        reject(snapshot, subnet, other, state, why)
    };
    others.iter().map(judge).collect()
}

/// What is listed of a route under a preferred one of the same prefix.
fn overridden(first: &Route, other: &Route) -> RejectedState {
    let gone = match other.next_hop {
        NextHop::None => first.source == RouteSource::User,
        NextHop::Internet => first.source == RouteSource::Gateway,
        _ => false,
    };
    if gone && other.source == RouteSource::Default { RejectedState::Absent } else { RejectedState::Invalid }
}

/// Routes that peerings make only when they are connected.
fn unconnected(snapshot: &Snapshot, subnet: &Subnet, destination: IpAddr) -> Vec<RejectedRoute> {
    let network = &snapshot.networks[subnet.network];
    let halves = network.peering_ranges.covering(destination);
    let waiting = halves.into_iter().filter_map(|(prefix, half)| {
        let index = *half;
        let half = &snapshot.peerings[index];
        (half.state != PeeringState::Connected).then_some((prefix, index, half))
    });
    waiting
        .map(|(prefix, index, half)| {
            let route = Route {
                prefix,
                source: RouteSource::Default,
                next_hop: NextHop::Peering(index),
                name: None,
                list: None,
                rule: half.rules.not_connected,
            };
            let remote = &snapshot.networks[half.remote].name;
            let why = format!("no route: the peering from {} to {remote} is {:?}", network.name, half.state);
            reject(snapshot, subnet, &route, RejectedState::Absent, why)
        })
        .collect()
}

fn reject(
    snapshot: &Snapshot,
    subnet: &Subnet,
    route: &Route,
    state: RejectedState,
    why: String,
) -> RejectedRoute {
    RejectedRoute {
        address_prefix: route.prefix.to_string(),
        source: source_name(route).to_owned(),
        next_hop_type: type_name(snapshot, route).to_owned(),
        next_hop_ip_address: next_hop_addresses(snapshot, subnet, route),
        name: route.name.as_deref().map(str::to_owned),
        state,
        why,
    }
}
