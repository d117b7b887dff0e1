//! The ways out to the Internet: NAT gateways, default outbound access, firewalls' source translation.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use vnet_config::model::{InternetEgress, NatGatewaySku, Subnet, VirtualNetwork};

use super::Builder;
use super::routes::reserved_prefixes;
use crate::azure_rule::AzureRule;
use crate::snapshot::FunctionKind;
use crate::snapshot::egress::{DefaultOutbound, EdgeAddress, FirewallSnat, NatGateway, is_public};
use crate::snapshot::lpm::contains;

/// Addresses that stand for Azure's own: RFC 2544 keeps 198.18.0.0/15 for laboratories, and no private range of Azure
/// nor the tag Internet makes an exception of it.
const AZURE_OWNED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const AZURE_OWNED_COUNT: u32 = 1 << 17;
/// Instances of a firewall.
const FIREWALL_INSTANCES: usize = 2;

impl Builder<'_> {
    /// Everything of the way out but routes. NICs, firewalls and networks are there already.
    pub(super) fn egress(&mut self) {
        self.snapshot.host_egress = self.topology.internet.egress == InternetEgress::Host;
        self.nat_gateways();
        self.default_outbound();
        self.firewall_translation();
        self.ranges_at_the_edge();
        self.internet_addresses();
    }

    fn nat_gateways(&mut self) {
        let topology = self.topology;
        for (name, spec) in &topology.nat_gateways {
            let Some(network) = self.network_of(name) else { continue };
            let index = self.snapshot.nat_gateways.len();
            for address in &spec.public_ip_addresses {
                self.own_edge_address(*address, EdgeAddress::NatGateway(index));
            }
            let gateway = NatGateway {
                name: name.as_str().into(),
                network,
                function: self.add_function(format!("nat/{name}"), FunctionKind::Translation),
                addresses: spec.public_ip_addresses.clone(),
                idle_minutes: spec.idle_timeout_in_minutes,
                icmp: spec.sku == NatGatewaySku::StandardV2,
                rule: self.rule("", &format!("NAT gateway {name}"), AzureRule::EgressNatGateway, None),
            };
            self.snapshot.nat_gateways.push(gateway);
            for (subnet_name, subnet) in &topology.virtual_networks[network].subnets {
                if subnet.nat_gateway.as_deref() == Some(name) {
                    let position = self.subnets[&(network, subnet_name.clone())];
                    self.snapshot.subnets[position].nat_gateway = Some(index);
                }
            }
        }
    }

    /// The network whose subnets use a NAT gateway: Azure takes one only.
    fn network_of(&self, nat_gateway: &str) -> Option<usize> {
        let uses = |subnet: &Subnet| subnet.nat_gateway.as_deref() == Some(nat_gateway);
        self.topology.virtual_networks.values().position(|network| network.subnets.values().any(uses))
    }

    pub(super) fn own_edge_address(&mut self, address: IpAddr, owner: EdgeAddress) {
        self.snapshot.edge_owners.insert(address, owner);
        self.snapshot.edge_prefixes.push(IpNet::from(address));
    }

    fn default_outbound(&mut self) {
        let topology = self.topology;
        let mut taken = self.written_addresses();
        let ranges = self.written_ranges();
        for (index, (name, network)) in topology.virtual_networks.iter().enumerate() {
            let mut any = false;
            for (subnet_name, subnet) in &network.subnets {
                let open = topology.default_outbound_access(subnet);
                let position = self.subnets[&(index, subnet_name.clone())];
                self.snapshot.subnets[position].default_outbound = open;
                any |= open;
            }
            if !any {
                continue;
            }
            let Some(address) =
                azure_owned(name, |address| taken.contains(&address) || contains(&ranges, address))
            else {
                continue;
            };
            taken.insert(address);
            self.own_edge_address(address, EdgeAddress::DefaultOutbound(index));
            let function = self.add_function(format!("outbound/{name}"), FunctionKind::Translation);
            self.snapshot.networks[index].outbound = Some(DefaultOutbound { function, address });
        }
    }

    /// Public addresses that the file gives to something.
    fn written_addresses(&self) -> HashSet<IpAddr> {
        let topology = self.topology;
        let mut all: HashSet<IpAddr> = self.snapshot.edge_owners.keys().copied().collect();
        all.extend(topology.public_ip_addresses.values().map(|public| public.ip_address));
        all.extend(
            topology.virtual_network_gateways.values().flat_map(|gateway| &gateway.public_ip_addresses),
        );
        all.extend(topology.internet.hosts.values().flat_map(|host| &host.addresses));
        let devices = topology.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref());
        all.extend(devices.map(|device| device.public_ip_address));
        all.extend(topology.vpn_clients.values().filter_map(|client| client.public_ip_address));
        all
    }

    /// The public address of each client, those that the file leaves open by the clients' names.
    pub(super) fn client_addresses(&self) -> HashMap<String, IpAddr> {
        let (mut taken, ranges) = (self.written_addresses(), self.written_ranges());
        let mut all = HashMap::new();
        for (name, client) in &self.topology.vpn_clients {
            let found = client.public_ip_address.or_else(|| {
                let is_taken = |address| taken.contains(&address) || contains(&ranges, address);
                azure_owned(&format!("vpnClients/{name}"), is_taken)
            });
            if let Some(address) = found {
                taken.insert(address);
                all.insert(name.clone(), address);
            }
        }
        all
    }

    /// Ranges of networks and sites, which may be public addresses that somebody uses as private ones.
    fn written_ranges(&self) -> Vec<IpNet> {
        let networks = self.topology.virtual_networks.values().flat_map(|network| &network.address_space);
        let sites = self.topology.on_premises_sites.values().flat_map(|site| &site.address_space);
        networks.chain(sites).copied().collect()
    }

    fn firewall_translation(&mut self) {
        for index in 0..self.snapshot.firewalls.len() {
            let firewall = &self.snapshot.firewalls[index];
            let (port, subnet) = (firewall.port, firewall.subnet);
            let spec = &self.topology.azure_firewalls[&*firewall.name];
            let network = self.snapshot.subnets[subnet].network;
            let policy =
                spec.firewall_policy.as_ref().and_then(|name| self.topology.firewall_policies.get(name));
            let written = policy.and_then(|policy| policy.snat.as_ref()).map(|snat| &snat.private_ranges);
            let untranslated = match written {
                Some(ranges) if !ranges.is_empty() => ranges.clone(),
                _ => reserved_prefixes().collect(),
            };
            let own = self.snapshot.port(port).and_then(|port| port.addresses.first()).map(IpNet::addr);
            let instances: Vec<IpAddr> = own.map(instances_after).unwrap_or_default();
            for address in &instances {
                // A machine cannot be in AzureFirewallSubnet, so nothing else holds these.
                self.snapshot.networks[network].owners.entry(*address).or_insert(port);
            }
            for address in &spec.public_ip_addresses {
                self.own_edge_address(*address, EdgeAddress::Firewall(index));
            }
            self.snapshot.firewalls[index].snat =
                FirewallSnat { public: spec.public_ip_addresses.clone(), instances, untranslated };
        }
    }

    /// What besides public addresses reaches the edge from the Internet: a service's answers to private addresses of
    /// networks that have an endpoint for it, and packets for public ranges that a network uses as its own, so that the
    /// edge says what becomes of them. With the host's network those ranges may be somebody's.
    fn ranges_at_the_edge(&mut self) {
        let has_endpoint = |network: &VirtualNetwork| {
            network.subnets.values().any(|subnet| !subnet.service_endpoints.is_empty())
        };
        let by_host = self.snapshot.host_egress;
        let mut ranges: Vec<IpNet> = Vec::new();
        for network in self.topology.virtual_networks.values() {
            let all = has_endpoint(network);
            let led = |range: &&IpNet| all || !by_host && is_public(range.network());
            ranges.extend(network.address_space.iter().filter(led));
        }
        self.snapshot.edge_prefixes.extend(ranges);
        self.snapshot.edge_prefixes.sort();
        self.snapshot.edge_prefixes.dedup();
    }

    fn internet_addresses(&mut self) {
        let topology = self.topology;
        let hosts = topology.internet.hosts.values().flat_map(|host| &host.addresses);
        let devices = topology.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref());
        let gateways =
            topology.virtual_network_gateways.values().flat_map(|gateway| &gateway.public_ip_addresses);
        let all = hosts.chain(devices.map(|device| &device.public_ip_address)).chain(gateways);
        self.snapshot.internet_addresses = all.copied().collect();
    }
}

/// An address for a network, by its name, so that it stays the same whatever other networks come and go.
fn azure_owned(network: &str, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let hash = network
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let start = (hash >> 15) ^ hash;
    (0..AZURE_OWNED_COUNT)
        .map(|step| Ipv4Addr::from_bits(AZURE_OWNED.to_bits() + start.wrapping_add(step) % AZURE_OWNED_COUNT))
        .filter(|address| !matches!(address.octets()[3], 0 | 255))
        .map(IpAddr::V4)
        .find(|address| !taken(*address))
}

/// A firewall's instances have the addresses behind the one that routes name.
fn instances_after(own: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V4(own) = own else { return Vec::new() };
    (1..=FIREWALL_INSTANCES as u32)
        .map(|step| IpAddr::V4(Ipv4Addr::from_bits(own.to_bits() + step)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_azures_own_is_free_and_stays() {
        let first = azure_owned("hub", |_| false).unwrap();
        assert_eq!(azure_owned("hub", |_| false), Some(first));
        let next = azure_owned("hub", |address| address == first).unwrap();
        assert_ne!(next, first);
        assert_ne!(azure_owned("spoke1", |_| false), Some(first));
        let range: IpNet = "198.18.0.0/15".parse().unwrap();
        assert!(range.contains(&first) && range.contains(&next));
        assert_eq!(azure_owned("hub", |_| true), None);
    }
}
