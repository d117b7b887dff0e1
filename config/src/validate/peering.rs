//! Peerings: what Azure checks when they are made.

use ipnet::IpNet;

use super::{Check, first_overlap, overlaps};
use crate::{
    diagnostic::{Finding, nearest},
    limit::PEERINGS,
    model::{GatewaySku, GatewayType, Peering, Topology, VirtualNetwork},
};

/// The cloud of a network that names none.
const PUBLIC_CLOUD: &str = "AzureCloud";

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, network) in &topology.virtual_networks {
        for (remote_name, peering) in &network.peerings {
            let path = format!("virtualNetworks.{name}.peerings.{remote_name}");
            if remote_name == name {
                let finding =
                    Finding::error("peering-with-itself", format!("'{name}' cannot be peered with itself"));
                check.at_name(&path, finding.help("name another virtual network, or remove the peering"));
                continue;
            }
            match topology.virtual_networks.get(remote_name) {
                Some(remote) => pair(check, &path, (name, network), (remote_name, remote), peering),
                None => unknown(check, &path, name, remote_name),
            }
        }
        remote_gateways(check, name, network);
        peers_overlap(check, name, network);
        check.limit(format_args!("virtualNetworks.{name}.peerings"), name, network.peerings.len(), &PEERINGS);
    }
}

fn unknown(check: &mut Check<'_, '_>, path: &str, name: &str, remote_name: &str) {
    if check.is_dropped(&format!("virtualNetworks.{remote_name}")) {
        return;
    }
    if check.orphans {
        let message = format!("'{remote_name}' is gone: the peering is Disconnected and passes nothing");
        let finding = Finding::warning("peering-orphaned", message);
        return check.at_name(path, finding.help("remove it, or add the network and both halves again"));
    }
    let others = check.topology.virtual_networks.keys().map(String::as_str).filter(|other| *other != name);
    let help = match nearest(remote_name, others) {
        Some(known) => format!("did you mean '{known}'?"),
        None => "a peering is named by its remote virtual network".to_owned(),
    };
    let finding = Finding::error("unknown-reference", format!("there is no virtual network '{remote_name}'"));
    check.at_name(path, finding.code("InvalidResourceReference").help(help));
}

fn pair(
    check: &mut Check<'_, '_>,
    path: &str,
    (name, network): (&String, &VirtualNetwork),
    (remote_name, remote): (&String, &VirtualNetwork),
    peering: &Peering,
) {
    let remote_half = remote.peerings.get(name);
    let earlier = check.topology.virtual_networks.get_index_of(remote_name)
        < check.topology.virtual_networks.get_index_of(name);
    let of_family = |net: &&IpNet| !peering.enable_only_ipv6_peering || net.addr().is_ipv6();
    let own_ranges: Vec<IpNet> = network.address_space.iter().filter(of_family).copied().collect();
    if peering.peer_complete_vnets
        && let Some((own, other)) = first_overlap(&own_ranges, &remote.address_space)
        // Both halves have the same overlap: it is told once, at the later one.
        && (earlier || remote_half.is_none())
    {
        let message =
            format!("{own} of '{name}' and {other} of '{remote_name}' overlap, so the two cannot be peered");
        let finding = Finding::error("peered-ranges-overlap", message).code("VnetAddressSpacesOverlap");
        check.at_name(path, finding.help("give one of the two networks another range"));
    }
    let cloud = |network: &'_ VirtualNetwork| network.cloud.as_deref().unwrap_or(PUBLIC_CLOUD).to_lowercase();
    if cloud(network) != cloud(remote) && (earlier || remote_half.is_none()) {
        let finding = Finding::error(
            "peering-across-clouds",
            format!("'{name}' and '{remote_name}' are in different clouds"),
        );
        check.at_name(
            path,
            finding.help("networks of different clouds cannot be peered; connect them by VPN"),
        );
    }
    if remote_half.is_none() && !check.is_dropped(&format!("virtualNetworks.{remote_name}.peerings.{name}")) {
        let message = format!(
            "'{remote_name}' has no peering back to '{name}': this one passes nothing until it has (Initiated, or Disconnected where it was connected)"
        );
        let finding = Finding::warning("peering-one-sided", message);
        check.at_name(path, finding.help(format!("add virtualNetworks.{remote_name}.peerings.{name}")));
    }
    if peering.use_remote_gateways {
        uses_gateway(check, path, remote_name, remote_half, peering);
    }
}

fn uses_gateway(
    check: &mut Check<'_, '_>,
    path: &str,
    remote_name: &str,
    remote_half: Option<&Peering>,
    peering: &Peering,
) {
    let path = format!("{path}.useRemoteGateways");
    if remote_half.is_some_and(|half| !half.allow_gateway_transit) {
        let message =
            format!("useRemoteGateways needs allowGatewayTransit on '{remote_name}', where it is false");
        let help =
            format!("set allowGatewayTransit: true in '{remote_name}', or clear useRemoteGateways here");
        check.at(&path, Finding::error("transit-not-allowed", message).help(help));
    }
    let mut gateways = gateways_of(check.topology, remote_name).peekable();
    if gateways.peek().is_none() {
        if peering.do_not_verify_remote_gateways {
            return;
        }
        let message = format!("'{remote_name}' has no virtual network gateway that could be used");
        let finding = Finding::error("remote-without-gateway", message).code("RemoteVnetHasNoGateways");
        check
            .at(&path, finding.help(format!("add a gateway in '{remote_name}', or clear useRemoteGateways")));
    } else if gateways.all(|(_, sku)| sku == GatewaySku::Basic) {
        let message = format!("the gateway of '{remote_name}' has SKU Basic, which offers no transit");
        check.at(
            &path,
            Finding::error("basic-transit", message).help("choose VpnGw1AZ or larger for the gateway"),
        );
    }
}

fn gateways_of<'t>(
    topology: &'t Topology,
    network: &'t str,
) -> impl Iterator<Item = (GatewayType, GatewaySku)> + 't {
    let own =
        topology.virtual_network_gateways.values().filter(move |gateway| gateway.virtual_network == network);
    own.map(|gateway| (gateway.gateway_type, gateway.sku))
}

fn remote_gateways(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let mut users = network.peerings.iter().filter(|(_, peering)| peering.use_remote_gateways);
    let Some((first, _)) = users.next() else { return };
    let path = |remote: &str| format!("virtualNetworks.{name}.peerings.{remote}.useRemoteGateways");
    for (second, _) in users {
        let message =
            format!("'{name}' uses the gateways of '{first}' already; one peering at most may do so");
        check.at(
            &path(second),
            Finding::error("remote-gateways-twice", message)
                .help("clear useRemoteGateways on one of the two"),
        );
    }
    if gateways_of(check.topology, name).next().is_some() {
        let message = format!("'{name}' has a gateway of its own and cannot use remote ones");
        let finding = Finding::error("remote-gateways-beside-own", message);
        check.at(&path(first), finding.help("clear useRemoteGateways, or remove the network's own gateway"));
    }
}

fn peers_overlap(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let topology = check.topology;
    let ranges = network.peerings.iter().enumerate().filter_map(|(index, (remote, peering))| {
        let remote_network = topology.virtual_networks.get(remote).filter(|_| remote != name)?;
        let reached = super::subnet_peering::reached(remote_network, peering);
        Some(reached.into_iter().map(move |net| (net, (index, remote))))
    });
    for ((outer, a), (inner, b)) in overlaps(ranges.flatten()) {
        if a.1 == b.1 {
            continue;
        }
        let ((first_net, first), (later_net, later)) =
            if a.0 < b.0 { ((outer, a.1), (inner, b.1)) } else { ((inner, b.1), (outer, a.1)) };
        let message = format!(
            "{later_net} of '{later}' overlaps {first_net} of '{first}', which '{name}' is peered with already"
        );
        let finding =
            Finding::error("peers-overlap", message).code("VnetAddressSpaceOverlapsWithAlreadyPeeredVnet");
        let path = format!("virtualNetworks.{name}.peerings.{later}");
        check.at_name(&path, finding.help("networks peered with the same one need ranges of their own"));
    }
}
