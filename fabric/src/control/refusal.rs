//! What Azure would refuse of a change although the file is valid: what needs something else to be taken away first, by a
//! request before it.

use ipnet::IpNet;
use vnet_config::Finding;
use vnet_config::model::{Peering, Topology};

use super::peering::{PeeringState, offered, retyped, written};
use super::{State, peering};
use crate::azure_rule::AzureRule;
use crate::snapshot::lpm::covers;

/// The change from what is in force to a file.
struct Change<'a> {
    state: &'a State,
    before: &'a Topology,
    after: &'a Topology,
    found: Vec<(String, Finding)>,
}

impl State {
    /// What Azure would refuse of the change to this file in the present state, each with its place in the file, in the
    /// file's order. Empty where no file is in force.
    pub fn refusals(&self, wanted: &Topology) -> Vec<(String, Finding)> {
        let Some(before) = self.topology() else { return Vec::new() };
        let mut change = Change { state: self, before, after: wanted, found: Vec::new() };
        for (local, network) in &wanted.virtual_networks {
            for (remote, half) in &network.peerings {
                change.half(local, remote, half);
            }
        }
        change.gateways_added();
        change.gateways_removed();
        change.found.extend(vnet_config::refused_changes(before, wanted));
        change.found
    }
}

fn path(local: &str, remote: &str) -> String {
    format!("virtualNetworks.{local}.peerings.{remote}")
}

impl Change<'_> {
    fn refuse(&mut self, path: String, rule: AzureRule, finding: Finding, help: String) {
        self.found.push((path, finding.azure_rule(rule.id()).help(help)));
    }

    fn half(&mut self, local: &str, remote: &str, half: &Peering) {
        if !self.after.virtual_networks.contains_key(remote) {
            return self.orphan(local, remote, half);
        }
        match written(self.before, local, remote) {
            None => self.created(local, remote),
            Some(before) if retyped(before, half) => {
                let message =
                    "a peering of whole networks cannot become one of subnets, or the other way round";
                let help = "remove both halves, apply, and add them again; apply without --as-azure does so"
                    .to_owned();
                let finding = Finding::error("peering-type-fixed", message);
                self.refuse(path(local, remote), AzureRule::PeeringSubnetType, finding, help);
            }
            Some(before) => self.updated((local, remote), before, half),
        }
        self.ranges(local, remote, half);
        let used_before = written(self.before, local, remote).is_some_and(|half| half.use_remote_gateways);
        if half.use_remote_gateways && !used_before {
            self.begins_use(local, remote);
        }
    }

    /// A half whose remote network is not there stands as it was and is not written.
    fn orphan(&mut self, local: &str, remote: &str, half: &Peering) {
        if written(self.before, local, remote) == Some(half) {
            return;
        }
        let message = format!("there is no virtual network '{remote}'");
        let finding = Finding::error("unknown-reference", message).code("InvalidResourceReference");
        let help = format!("add '{remote}', or leave the peering as it was, or remove it");
        self.refuse(path(local, remote), AzureRule::PeeringState, finding, help);
    }

    fn created(&mut self, local: &str, remote: &str) {
        let status = self.state.peerings.get(&peering::key(remote, local));
        let disconnected = status.is_some_and(|status| status.state == PeeringState::Disconnected);
        if disconnected && written(self.before, remote, local) == written(self.after, remote, local) {
            let message = format!(
                "the peering of '{remote}' towards '{local}' is Disconnected, so that this one cannot be created"
            );
            let help = format!(
                "remove virtualNetworks.{remote}.peerings.{local} too, apply, and add both; apply without --as-azure does so"
            );
            let finding =
                Finding::error("remote-peering-disconnected", message).code("RemotePeeringIsDisconnected");
            self.refuse(path(local, remote), AzureRule::PeeringState, finding, help);
        }
    }

    fn updated(&mut self, (local, remote): (&str, &str), before: &Peering, half: &Peering) {
        let in_use = written(self.before, remote, local).is_some_and(|other| other.use_remote_gateways);
        if before.allow_gateway_transit && !half.allow_gateway_transit && in_use {
            let message = format!("'{remote}' uses the gateways of '{local}' at present");
            let help = format!(
                "clear useRemoteGateways in virtualNetworks.{remote}.peerings.{local}, apply, and clear allowGatewayTransit then"
            );
            let at = format!("{}.allowGatewayTransit", path(local, remote));
            self.refuse(at, AzureRule::PeeringTransit, Finding::error("transit-in-use", message), help);
        }
    }

    /// Ranges that come to be peered must not overlap what is peered at present, although the file removes that.
    fn ranges(&mut self, local: &str, remote: &str, half: &Peering) {
        let Some(network) = self.after.virtual_networks.get(remote) else { return };
        let known = written(self.before, local, remote)
            .zip(self.before.virtual_networks.get(remote))
            .map(|(half, network)| offered(network, half, &half.remote_subnet_names))
            .unwrap_or_default();
        let mut new = offered(network, half, &half.remote_subnet_names);
        new.retain(|range| !known.contains(range));
        let Some(present) = self.before.virtual_networks.get(local) else { return };
        if half.peer_complete_vnets
            && !known.is_empty()
            && let Some((range, own)) = overlap(&new, &present.address_space)
        {
            let message = format!("{range} of '{remote}' overlaps {own}, which '{local}' has at present");
            let finding = Finding::error("peered-ranges-overlap", message).code("VnetAddressSpacesOverlap");
            let help = format!("remove {own} from '{local}', apply, and add {range} then");
            self.refuse(
                format!("virtualNetworks.{remote}.addressSpace"),
                AzureRule::PeeringOverlap,
                finding,
                help,
            );
        }
        for (peer, peering) in present.peerings.iter().filter(|(peer, _)| *peer != remote) {
            let Some(peer_network) = self.before.virtual_networks.get(peer) else { continue };
            let theirs = offered(peer_network, peering, &peering.remote_subnet_names);
            let Some((range, other)) = overlap(&new, &theirs) else { continue };
            let message = format!(
                "{range} of '{remote}' overlaps {other} of '{peer}', which '{local}' is peered with at present"
            );
            let finding = Finding::error("peers-overlap", message)
                .code("VnetAddressSpaceOverlapsWithAlreadyPeeredVnet");
            let help = format!("remove the peering with '{peer}', apply, and add this then");
            self.refuse(path(local, remote), AzureRule::PeeringOverlap, finding, help);
            return;
        }
    }

    /// A half begins to use remote gateways: its network must have none at present, and use no others.
    fn begins_use(&mut self, local: &str, remote: &str) {
        let at = format!("{}.useRemoteGateways", path(local, remote));
        if let Some(own) = gateways_of(self.before, local).next() {
            let message = format!("'{local}' has the gateway '{own}' at present and cannot use remote ones");
            let help = format!("remove '{own}', apply, and set useRemoteGateways then");
            let finding = Finding::error("remote-gateways-beside-own", message);
            self.refuse(at.clone(), AzureRule::PeeringTransit, finding, help);
        }
        if let Some(first) = uses(self.before, local).find(|first| *first != remote) {
            let message =
                format!("'{local}' uses the gateways of '{first}' at present; one peering at most may do so");
            let help =
                format!("clear useRemoteGateways in {}, apply, and set it here then", path(local, first));
            self.refuse(
                at,
                AzureRule::PeeringTransit,
                Finding::error("remote-gateways-twice", message),
                help,
            );
        }
    }

    fn gateways_added(&mut self) {
        let (before, after) = (self.before, self.after);
        for (name, gateway) in &after.virtual_network_gateways {
            let network = gateway.virtual_network.as_str();
            let is_new = before
                .virtual_network_gateways
                .get(name)
                .is_none_or(|earlier| earlier.virtual_network != gateway.virtual_network);
            if let Some(remote) = uses(before, network).next().filter(|_| is_new) {
                let message =
                    format!("'{network}' uses the gateways of '{remote}' at present and cannot have its own");
                let help = format!(
                    "clear useRemoteGateways in {}, apply, and add the gateway then",
                    path(network, remote)
                );
                let at = format!("virtualNetworkGateways.{name}.virtualNetwork");
                self.refuse(
                    at,
                    AzureRule::PeeringTransit,
                    Finding::error("gateway-beside-remote", message),
                    help,
                );
            }
        }
    }

    fn gateways_removed(&mut self) {
        let (before, after) = (self.before, self.after);
        for (name, gateway) in &before.virtual_network_gateways {
            let hub = gateway.virtual_network.as_str();
            let stays = after
                .virtual_network_gateways
                .get(name)
                .is_some_and(|later| later.virtual_network == gateway.virtual_network);
            // A network whose last gateway stays is still a remote gateway to its peers.
            let others = gateways_of(before, hub).any(|other| {
                other != name
                    && after
                        .virtual_network_gateways
                        .get(other)
                        .is_some_and(|kept| kept.virtual_network == hub)
            });
            let user = before.virtual_networks.iter().find_map(|(user, network)| {
                network.peerings.get(hub).filter(|half| half.use_remote_gateways).map(|_| user)
            });
            let Some(user) = user.filter(|_| !stays && !others) else { continue };
            let message = format!("the gateway '{name}' cannot be removed: '{user}' uses it at present");
            let help =
                format!("clear useRemoteGateways in {}, apply, and remove the gateway then", path(user, hub));
            let finding = Finding::error("gateway-in-use", message);
            self.refuse(format!("virtualNetworkGateways.{name}"), AzureRule::PeeringTransit, finding, help);
        }
    }
}

/// Names of the gateways of a network.
fn gateways_of<'t>(topology: &'t Topology, network: &'t str) -> impl Iterator<Item = &'t String> {
    let all = topology.virtual_network_gateways.iter();
    all.filter(move |(_, gateway)| gateway.virtual_network == network).map(|(name, _)| name)
}

/// Remote networks whose gateways a network uses.
fn uses<'t>(topology: &'t Topology, network: &str) -> impl Iterator<Item = &'t String> {
    let halves = topology.virtual_networks.get(network).into_iter().flat_map(|network| &network.peerings);
    halves.filter(|(_, half)| half.use_remote_gateways).map(|(remote, _)| remote)
}

fn overlap(these: &[IpNet], those: &[IpNet]) -> Option<(IpNet, IpNet)> {
    these.iter().find_map(|this| {
        let other = those.iter().find(|that| covers(this, that) || covers(that, this))?;
        Some((*this, *other))
    })
}
