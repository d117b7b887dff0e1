//! Allocation of private addresses. Dynamic ones are state: an apply never shifts them, only removal frees them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vnet_config::model::{GatewayType, Topology};

/// Azure keeps the first four addresses of a subnet and the last one.
const RESERVED_AT_START: u128 = 4;

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Addresses that Azure chose, by owner: `web/eth0`, `fw`, `hub-vpn/0`, `vpnClients/laptop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allocations(Arc<BTreeMap<String, Vec<IpAddr>>>);

/// One that needs addresses.
struct Request<'a> {
    owner: String,
    subnet: (&'a str, &'a str),
    prefixes: &'a [IpNet],
    fixed: &'a [IpAddr],
    /// A single gateway instance takes the last usable address.
    from_end: bool,
    /// How many addresses are kept at the start of each prefix.
    reserved_at_start: u128,
}

impl Allocations {
    /// The addresses that were allocated to an owner, those that the file fixes excluded.
    pub fn of(&self, owner: &str) -> &[IpAddr] {
        self.0.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Frees what the file no longer has and allocates what it has anew.
    pub fn converge(&mut self, topology: &Topology) {
        let requests = requests(topology);
        let mut used: HashMap<(&str, &str), HashSet<IpAddr>> = HashMap::new();
        for request in &requests {
            used.entry(request.subnet).or_default().extend(request.fixed);
        }
        let mut kept = BTreeMap::new();
        for request in &requests {
            let taken = used.entry(request.subnet).or_default();
            let mut own = self.0.get(&request.owner).cloned().unwrap_or_default();
            own.retain(|address| still_fits(request, *address) && taken.insert(*address));
            kept.insert(request.owner.clone(), own);
        }
        for request in &requests {
            let taken = used.entry(request.subnet).or_default();
            let own = kept.entry(request.owner.clone()).or_default();
            for family in missing_families(request, own) {
                if let Some(address) = free_address(request, family, taken) {
                    taken.insert(address);
                    own.push(address);
                }
            }
        }
        kept.retain(|_, addresses| !addresses.is_empty());
        if *self.0 != kept {
            self.0 = Arc::new(kept);
        }
    }
}

/// Everything that holds private addresses, in the order in which dynamic ones are given.
fn requests(topology: &Topology) -> Vec<Request<'_>> {
    let mut requests = Vec::new();
    for (name, firewall) in &topology.azure_firewalls {
        push(
            &mut requests,
            topology,
            name.clone(),
            (&firewall.virtual_network, "AzureFirewallSubnet"),
            &[],
            false,
        );
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        let instances = if gateway.active_active { 2 } else { 1 };
        let from_end = !gateway.active_active && gateway.gateway_type == GatewayType::Vpn;
        for instance in 0..instances {
            let owner = format!("{name}/{instance}");
            push(&mut requests, topology, owner, (&gateway.virtual_network, "GatewaySubnet"), &[], from_end);
        }
    }
    for (vm, machine) in &topology.virtual_machines {
        for nic in &machine.network_interfaces {
            let owner = format!("{vm}/{}", nic.name);
            let subnet = (nic.subnet.virtual_network.as_str(), nic.subnet.subnet.as_str());
            push(&mut requests, topology, owner, subnet, &nic.private_ip_addresses, false);
        }
    }
    for (name, endpoint) in &topology.private_endpoints {
        let subnet = (endpoint.subnet.virtual_network.as_str(), endpoint.subnet.subnet.as_str());
        push(&mut requests, topology, name.clone(), subnet, endpoint.private_ip_address.as_slice(), false);
    }
    requests.extend(clients(topology));
    requests
}

/// Clients of point-to-site VPN get an address of their gateway's pool, those that are revoked after the others.
fn clients(topology: &Topology) -> impl Iterator<Item = Request<'_>> {
    let pass = |revoked| topology.vpn_clients.iter().filter(move |(_, client)| client.revoked == revoked);
    pass(false).chain(pass(true)).filter_map(|(name, client)| {
        let gateway = topology.virtual_network_gateways.get(&client.gateway)?;
        let pool = &gateway.vpn_client_configuration.as_ref()?.vpn_client_address_pool;
        Some(Request {
            owner: client_owner(name),
            subnet: (&client.gateway, "vpnClientAddressPool"),
            prefixes: pool,
            fixed: &[],
            from_end: false,
            reserved_at_start: 1,
        })
    })
}

/// The name by which a client holds its address of the pool.
pub(crate) fn client_owner(client: &str) -> String {
    format!("vpnClients/{client}")
}

fn push<'a>(
    requests: &mut Vec<Request<'a>>,
    topology: &'a Topology,
    owner: String,
    subnet: (&'a str, &'a str),
    fixed: &'a [IpAddr],
    from_end: bool,
) {
    let found = topology.virtual_networks.get(subnet.0).and_then(|network| network.subnets.get(subnet.1));
    if let Some(found) = found {
        let prefixes = &found.address_prefixes;
        let reserved_at_start = RESERVED_AT_START;
        requests.push(Request { owner, subnet, prefixes, fixed, from_end, reserved_at_start });
    }
}

fn still_fits(request: &Request<'_>, address: IpAddr) -> bool {
    let fixed_family = request.fixed.iter().any(|fixed| fixed.is_ipv4() == address.is_ipv4());
    !fixed_family && request.prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// Families of the subnet in which the owner has no address yet.
fn missing_families(request: &Request<'_>, own: &[IpAddr]) -> Vec<Family> {
    let has = |v4: bool| request.fixed.iter().chain(own).any(|address| address.is_ipv4() == v4);
    let offers = |v4: bool| request.prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == v4);
    [(true, Family::V4), (false, Family::V6)]
        .into_iter()
        .filter(|(v4, _)| offers(*v4) && !has(*v4))
        .map(|(_, family)| family)
        .collect()
}

fn free_address(request: &Request<'_>, family: Family, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let prefixes = request.prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == (family == Family::V4));
    for prefix in prefixes {
        let (first, last) = usable(prefix, request.reserved_at_start)?;
        let at = |offset: u128| address_at(prefix, offset);
        let free = |address: &IpAddr| !taken.contains(address);
        let found = if request.from_end && family == Family::V4 {
            (first..=last).rev().map(at).find(free)
        } else {
            (first..=last).map(at).find(free)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Offsets of the first and last usable address of a prefix that keeps some at its start, and the last one.
fn usable(prefix: &IpNet, reserved_at_start: u128) -> Option<(u128, u128)> {
    let host_bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let size = if host_bits >= 128 { u128::MAX } else { 1u128 << host_bits };
    (size > reserved_at_start + 1).then(|| (reserved_at_start, size - 2))
}

fn address_at(prefix: &IpNet, offset: u128) -> IpAddr {
    match prefix {
        IpNet::V4(net) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).wrapping_add(offset)))
        }
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).wrapping_add(offset))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_addresses_of_a_subnet_are_reserved() {
        let usable_of = |text: &str| {
            let prefix: IpNet = text.parse().unwrap();
            let (first, last) = usable(&prefix, RESERVED_AT_START).unwrap();
            (address_at(&prefix, first).to_string(), address_at(&prefix, last).to_string())
        };
        assert_eq!(usable_of("10.0.0.0/24"), ("10.0.0.4".to_owned(), "10.0.0.254".to_owned()));
        assert_eq!(usable_of("10.0.0.0/29"), ("10.0.0.4".to_owned(), "10.0.0.6".to_owned()));
        assert_eq!(usable_of("10.0.0.0/26"), ("10.0.0.4".to_owned(), "10.0.0.62".to_owned()));
    }
}
