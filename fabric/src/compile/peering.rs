//! Halves of peerings, with the ranges that they hold.

use ipnet::IpNet;

use super::Builder;
use crate::azure_rule::AzureRule;
use crate::control::peering::{PeeringState, PeeringStatus, key, present};
use crate::snapshot::CounterKind;
use crate::snapshot::network::{EffectiveGateway, PeeredSubnets, PeeringHalf, PeeringRules};

impl Builder<'_> {
    pub(super) fn peerings(&mut self) {
        let topology = self.topology;
        for (local_index, (local, network)) in topology.virtual_networks.iter().enumerate() {
            for remote in network.peerings.keys() {
                if let Some(remote_index) = topology.virtual_networks.get_index_of(remote.as_str()) {
                    self.peering((local_index, local), (remote_index, remote));
                }
            }
        }
        for index in 0..self.snapshot.peerings.len() {
            let half = &self.snapshot.peerings[index];
            let reverse = self.halves.get(&(half.remote, half.local)).copied();
            self.snapshot.peerings[index].reverse = reverse;
        }
    }

    fn peering(&mut self, (local_index, local): (usize, &str), (remote_index, remote): (usize, &str)) {
        let Some(written) = self.topology.virtual_networks[local_index].peerings.get(remote) else { return };
        let status = self.peering_status(local, remote);
        let rules = self.peering_rules(local, remote);
        let subnets = (!written.peer_complete_vnets).then(|| {
            let name = format!("peering {local} -> {remote}: localSubnetNames");
            PeeredSubnets {
                local: self.subnets_of(local_index, &status.local_address_space),
                remote: self.subnets_of(remote_index, &status.remote_address_space),
                local_prefixes: status.local_address_space.clone(),
                remote_prefixes: status.remote_address_space.clone(),
                rule: self.rule("", &name, AzureRule::PeeringSubnets, None),
            }
        });
        let counter = CounterKind::Peering { from: local.into(), to: remote.into() };
        let here = self.network_location(local_index, None);
        let there = self.network_location(remote_index, None);
        let half = PeeringHalf {
            local: local_index,
            remote: remote_index,
            reverse: None,
            state: status.state,
            allow_access: written.allow_virtual_network_access,
            allow_forwarded: written.allow_forwarded_traffic,
            global: here.region != there.region,
            subnets,
            counter: self.add_counter(&format!("peering/{local}/{remote}"), counter),
            rules,
        };
        let index = self.snapshot.peerings.len();
        self.halves.insert((local_index, remote_index), index);
        for range in status.remote_address_space {
            self.snapshot.networks[local_index].peering_ranges.insert(range, index);
        }
        self.snapshot.networks[local_index].peerings.push(index);
        self.snapshot.peerings.push(half);
    }

    fn peering_rules(&mut self, local: &str, remote: &str) -> PeeringRules {
        let name = format!("peering {local} -> {remote}");
        let mut flag = |flag: &str, rule| self.rule("", &format!("{name}: {flag}"), rule, None);
        let access = flag("allowVirtualNetworkAccess", AzureRule::PeeringAccess);
        let forwarded = flag("allowForwardedTraffic", AzureRule::PeeringForwarded);
        PeeringRules {
            connected: self.rule("", &name, AzureRule::PeeringState, None),
            not_connected: self.rule("not connected", &name, AzureRule::PeeringState, None),
            access,
            forwarded,
        }
    }

    /// The half as the state has it; one that the state does not know is alone, with the present ranges.
    fn peering_status(&self, local: &str, remote: &str) -> PeeringStatus {
        self.state.peerings.get(&key(local, remote)).cloned().unwrap_or_else(|| {
            let (local_address_space, remote_address_space) =
                present(self.topology, local, remote).unwrap_or_default();
            PeeringStatus { state: PeeringState::Initiated, local_address_space, remote_address_space }
        })
    }

    /// The subnets of a network that one of these prefixes belongs to, with what stands in for them at private endpoints.
    fn subnets_of(&self, network: usize, prefixes: &[IpNet]) -> Vec<usize> {
        let subnets = self.topology.virtual_networks[network].subnets.iter();
        subnets
            .filter(|(_, subnet)| subnet.address_prefixes.iter().any(|prefix| prefixes.contains(prefix)))
            .filter_map(|(name, _)| self.subnets.get(&(network, name.clone())).copied())
            .flat_map(|subnet| [Some(subnet), self.stand_ins.get(&subnet).copied()].into_iter().flatten())
            .collect()
    }

    /// The remote network's ranges as this half holds them since its last sync; of a subnet peering, the prefixes of the
    /// remote subnets that take part.
    pub(super) fn ranges_in_force(&self, half: &PeeringHalf) -> Vec<IpNet> {
        let (local, remote) = (&self.snapshot.networks[half.local], &self.snapshot.networks[half.remote]);
        self.peering_status(&local.name, &remote.name).remote_address_space
    }

    /// Whether a subnet has the routes of its network's effective gateway: by a subnet peering, the listed ones alone.
    pub(super) fn uses_gateway(&self, subnet: usize) -> bool {
        match self.snapshot.networks[self.snapshot.subnets[subnet].network].gateway {
            EffectiveGateway::None => false,
            EffectiveGateway::Own(_) => true,
            EffectiveGateway::Remote { peering, .. } => {
                let subnets = self.snapshot.peerings[peering].subnets.as_ref();
                subnets.is_none_or(|subnets| subnets.local.contains(&subnet))
            }
        }
    }

    /// This network's connected halves.
    pub(super) fn connected(&self, network: usize) -> Vec<usize> {
        let halves = self.snapshot.networks[network].peerings.iter().copied();
        halves.filter(|half| self.snapshot.peerings[*half].state == PeeringState::Connected).collect()
    }
}
