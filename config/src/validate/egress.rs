//! Public addresses and NAT gateways.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{Check, Owners};
use crate::{
    diagnostic::Finding,
    limit::NAT_ADDRESSES,
    model::{GatewaySku, NatGateway, NatGatewaySku, PublicIpAddress, PublicIpSku, Topology},
};

/// Subnets whose packets no NAT gateway can translate.
const WITHOUT_NAT: &[&str] = &["GatewaySubnet", "AzureFirewallManagementSubnet", "RouteServerSubnet"];

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let named: HashMap<IpAddr, (&str, &PublicIpAddress)> = topology
        .public_ip_addresses
        .iter()
        .map(|(name, public)| (public.ip_address, (name.as_str(), public)))
        .collect();
    named_addresses(check);
    let uses = uses(topology);
    each_once(check, &uses);
    for one in &uses {
        if let Some((name, public)) = named.get(&one.address) {
            fits(check, one, name, public);
        }
    }
    families(check);
    for (name, gateway) in &topology.nat_gateways {
        nat_gateway(check, name, gateway);
    }
    subnets(check, &named);
}

/// What holds a public address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nic,
    Firewall,
    Gateway(GatewaySku),
    NatGateway(NatGatewaySku),
    RouteServer,
    /// A host of the Internet or a device of a site: outside Azure.
    Outside,
}

/// A public address where it is used.
struct Use<'t> {
    path: String,
    address: IpAddr,
    holder: Holder,
    /// The region of the holder, where it is in one.
    region: Option<&'t str>,
}

fn uses(topology: &Topology) -> Vec<Use<'_>> {
    let mut all: Vec<Use<'_>> = Vec::new();
    let mut add = |path: String, addresses: &[IpAddr], holder, region| {
        all.extend(addresses.iter().enumerate().map(|(index, address)| Use {
            path: format!("{path}[{index}]"),
            address: *address,
            holder,
            region,
        }));
    };
    let region_of = |network: &str| {
        let network = topology.virtual_networks.get(network)?;
        Some(network.location.as_deref().unwrap_or(&topology.location))
    };
    for (name, machine) in &topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let path = format!("virtualMachines.{name}.networkInterfaces[{index}].publicIPAddresses");
            add(path, &nic.public_ip_addresses, Holder::Nic, region_of(&nic.subnet.virtual_network));
        }
    }
    for (name, firewall) in &topology.azure_firewalls {
        let path = format!("azureFirewalls.{name}.publicIPAddresses");
        add(path, &firewall.public_ip_addresses, Holder::Firewall, region_of(&firewall.virtual_network));
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        let path = format!("virtualNetworkGateways.{name}.publicIPAddresses");
        let holder = Holder::Gateway(gateway.sku);
        add(path, &gateway.public_ip_addresses, holder, region_of(&gateway.virtual_network));
    }
    for (name, gateway) in &topology.nat_gateways {
        let path = format!("natGateways.{name}.publicIPAddresses");
        let region = gateway.location.as_deref().unwrap_or(&topology.location);
        add(path, &gateway.public_ip_addresses, Holder::NatGateway(gateway.sku), Some(region));
    }
    for (name, server) in &topology.route_servers {
        let path = format!("routeServers.{name}.publicIPAddresses");
        add(path, &server.public_ip_addresses, Holder::RouteServer, region_of(&server.virtual_network));
    }
    for (name, host) in &topology.internet.hosts {
        add(format!("internet.hosts.{name}.addresses"), &host.addresses, Holder::Outside, None);
    }
    for (name, site) in &topology.on_premises_sites {
        if let Some(device) = &site.vpn_device {
            let path = format!("onPremisesSites.{name}.vpnDevice.publicIPAddress");
            all.push(Use { path, address: device.public_ip_address, holder: Holder::Outside, region: None });
        }
    }
    for (name, client) in &topology.vpn_clients {
        let path = format!("vpnClients.{name}.publicIPAddress");
        let address = client.public_ip_address;
        all.extend(address.map(|address| Use { path, address, holder: Holder::Outside, region: None }));
    }
    all
}

fn named_addresses(check: &mut Check<'_, '_>) {
    let mut taken = Owners::new();
    for (name, public) in &check.topology.public_ip_addresses {
        let path = format!("publicIPAddresses.{name}.ipAddress");
        let address = public.ip_address;
        if let Some(first) = taken.take(address, || name.clone()) {
            let message = format!("{address} is the address of '{first}' already");
            let finding = Finding::error("public-address-in-use", message).code("PublicIPAddressInUse");
            check.at(&path, finding.help("give each its own"));
        }
        public_only(check, &path, address);
        if public.sku == PublicIpSku::Basic {
            let message = format!("'{name}' has SKU Basic, which Azure retired in September 2025");
            let finding = Finding::warning("basic-public-address", message);
            check.at(&format!("publicIPAddresses.{name}.sku"), finding.help("write sku: Standard"));
        }
    }
}

fn public_only(check: &mut Check<'_, '_>, path: &str, address: IpAddr) {
    if !is_public(address) {
        let finding = Finding::error("not-public", format!("{address} is no public address"));
        let help = "use one of 203.0.113.0/24, 198.51.100.0/24 or 2001:db8::/32, which are for examples";
        check.at(path, finding.help(help));
    }
}

/// Public addresses of everything that can have one: unique in the lab, and not private.
fn each_once(check: &mut Check<'_, '_>, uses: &[Use<'_>]) {
    let named: HashMap<IpAddr, &String> =
        check.topology.public_ip_addresses.iter().map(|(name, public)| (public.ip_address, name)).collect();
    let mut taken = Owners::new();
    for Use { path, address, holder, .. } in uses {
        let first = taken.take(*address, || path.clone());
        let outside = named.get(address).filter(|_| *holder == Holder::Outside);
        let first = first.or_else(|| outside.map(|name| format!("publicIPAddresses.{name}")));
        if let Some(first) = first {
            let message = format!("{address} is the public address of {first} already");
            let finding = Finding::error("public-address-in-use", message).code("PublicIPAddressInUse");
            let help = "give each its own, such as one of 203.0.113.0/24 or 198.51.100.0/24";
            check.at(path, finding.help(help));
        }
        if !named.contains_key(address) {
            public_only(check, path, *address);
        }
    }
}

/// Whether the SKU and the region of a named public address go with what uses it.
fn fits(check: &mut Check<'_, '_>, one: &Use<'_>, name: &str, public: &PublicIpAddress) {
    let wanted = match one.holder {
        Holder::Firewall | Holder::RouteServer | Holder::NatGateway(NatGatewaySku::Standard) => {
            Some(PublicIpSku::Standard)
        }
        Holder::Gateway(sku) if sku != GatewaySku::Basic => Some(PublicIpSku::Standard),
        Holder::NatGateway(NatGatewaySku::StandardV2) => Some(PublicIpSku::StandardV2),
        Holder::Nic if public.sku == PublicIpSku::StandardV2 => Some(PublicIpSku::Standard),
        _ => None,
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != public.sku) {
        let message = format!("'{name}' has SKU {:?}; {wanted:?} is needed here", public.sku);
        let finding = Finding::error("public-address-sku", message);
        check.at(&one.path, finding.help(format!("set sku: {wanted:?} at publicIPAddresses.{name}")));
    }
    if let (Some(location), Some(region)) = (&public.location, one.region)
        && location != region
    {
        let message = format!("'{name}' is in {location}, and what uses it in {region}");
        let finding = Finding::error("other-region", message).code("InvalidResourceReference");
        check.at(&one.path, finding.help(format!("set location: {region} at publicIPAddresses.{name}")));
    }
}

/// A NIC has one public address of each family that its subnet has.
fn families(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, machine) in &topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let path = format!("virtualMachines.{name}.networkInterfaces[{index}].publicIPAddresses");
            let v4 = nic.public_ip_addresses.iter().filter(|address| address.is_ipv4()).count();
            if v4 > 1 || nic.public_ip_addresses.len() - v4 > 1 {
                let finding = Finding::error(
                    "public-addresses-of-nic",
                    "a NIC has one public address of each family at most",
                );
                check.at(&path, finding.help("keep one IPv4 and one IPv6 address"));
            }
            let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
            let Some(subnet) = network.and_then(|network| network.subnets.get(&nic.subnet.subnet)) else {
                continue;
            };
            for (position, address) in nic.public_ip_addresses.iter().enumerate() {
                let has_family = |net: &IpNet| net.addr().is_ipv4() == address.is_ipv4();
                if !subnet.address_prefixes.iter().any(has_family) {
                    let message = format!(
                        "{address} has no private address to stand for: {} has no prefix of its family",
                        nic.subnet
                    );
                    let finding = Finding::error("public-address-family", message);
                    check.at(
                        &format!("{path}[{position}]"),
                        finding.help("remove it, or give the subnet a prefix of both families"),
                    );
                }
            }
        }
    }
}

fn nat_gateway(check: &mut Check<'_, '_>, name: &str, gateway: &NatGateway) {
    let path = format!("natGateways.{name}.publicIPAddresses");
    check.limit(&path, name, gateway.public_ip_addresses.len(), &NAT_ADDRESSES);
    if gateway.sku == NatGatewaySku::Standard
        && let Some(index) = gateway.public_ip_addresses.iter().position(IpAddr::is_ipv6)
    {
        let message = format!("'{name}' has SKU Standard, which translates to IPv4 addresses only");
        let finding = Finding::error("nat-gateway-family", message);
        check.at(&format!("{path}[{index}]"), finding.help("remove the address, or set sku: StandardV2"));
    }
}

/// The subnets that name a NAT gateway.
fn subnets(check: &mut Check<'_, '_>, named: &HashMap<IpAddr, (&str, &PublicIpAddress)>) {
    let topology = check.topology;
    let gateways = &topology.nat_gateways;
    let mut homes: HashMap<&str, &str> = HashMap::new();
    for (network_name, network) in &topology.virtual_networks {
        for (subnet_name, subnet) in &network.subnets {
            let Some(name) = &subnet.nat_gateway else { continue };
            let at = format!("virtualNetworks.{network_name}.subnets.{subnet_name}.natGateway");
            if !check.refers(&at, "natGateways", gateways, name, "NAT gateway") {
                continue;
            }
            if WITHOUT_NAT.contains(&subnet_name.as_str()) {
                let message = format!("{subnet_name} cannot have a NAT gateway");
                check.at(&at, Finding::error("nat-gateway-subnet", message).help("remove it"));
            }
            let gateway = &gateways[name];
            let region = gateway.location.as_deref().unwrap_or(&topology.location);
            super::network::same_place(
                check,
                &at,
                network,
                (Some(region), gateway.subscription.as_deref()),
                "NAT gateway",
            );
            let home = *homes.entry(name).or_insert(network_name);
            if home != network_name {
                let message =
                    format!("'{name}' serves '{home}' already; a NAT gateway serves one virtual network");
                let finding = Finding::error("nat-gateway-two-networks", message);
                check.at(&at, finding.help(format!("add another NAT gateway for '{network_name}'")));
            }
        }
    }
    basic_beside_nat(check, named);
}

/// Public addresses of SKU Basic cannot be in a subnet with a NAT gateway.
fn basic_beside_nat(check: &mut Check<'_, '_>, named: &HashMap<IpAddr, (&str, &PublicIpAddress)>) {
    let topology = check.topology;
    for (machine, value) in &topology.virtual_machines {
        for (index, nic) in value.network_interfaces.iter().enumerate() {
            let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
            let subnet = network.and_then(|network| network.subnets.get(&nic.subnet.subnet));
            let Some(gateway) = subnet.and_then(|subnet| subnet.nat_gateway.as_ref()) else { continue };
            for (position, address) in nic.public_ip_addresses.iter().enumerate() {
                let Some((name, public)) = named.get(address) else { continue };
                if public.sku != PublicIpSku::Basic {
                    continue;
                }
                let message = format!("'{name}' has SKU Basic, and the subnet the NAT gateway '{gateway}'");
                let at = format!(
                    "virtualMachines.{machine}.networkInterfaces[{index}].publicIPAddresses[{position}]"
                );
                let finding = Finding::error("nat-gateway-basic", message);
                check.at(&at, finding.help(format!("set sku: Standard at publicIPAddresses.{name}")));
            }
        }
    }
}

pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let shared = u32::from(address) >> 22 == u32::from_be_bytes([100, 64, 0, 0]) >> 22;
            !(address.is_private()
                || shared
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.octets() == [168, 63, 129, 16])
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            !(first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || address.is_multicast()
                || address.is_loopback()
                || address.is_unspecified())
        }
    }
}
