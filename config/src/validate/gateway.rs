//! Virtual network gateways, connections and on-premises sites.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{Check, Owners, first_overlap};
use crate::{
    diagnostic::Finding,
    limit,
    model::{
        Connection, ConnectionType, GatewaySku, GatewayType, OnPremisesSite, Peering, VirtualNetworkGateway,
        VpnType,
    },
};

/// ASNs that Azure or IANA keeps; 65515 is the gateways' own default.
fn is_reserved_asn(asn: u32) -> bool {
    matches!(asn, 0 | 8074 | 8075 | 12076 | 23456 | 64496..=64511 | 65517..=65520 | 65535..=65551)
}

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut networks = Owners::new();
    for (name, gateway) in &topology.virtual_network_gateways {
        let path = format!("virtualNetworkGateways.{name}");
        place(check, &path, name, gateway, &mut networks);
        sku(check, &path, gateway);
        unsupported(check, &path, gateway);
        bgp(check, &path, gateway);
    }
    let mut ends = Owners::new();
    for (name, connection) in &topology.connections {
        let path = format!("connections.{name}");
        one_connection(check, &path, connection);
        let other =
            connection.virtual_network_gateway2.as_ref().or(connection.local_network_gateway2.as_ref());
        let key = (connection.virtual_network_gateway1.as_str(), connection.connection_type, other);
        if let Some(first) = ends.take(key, || name.clone()) {
            let finding = Finding::error("connection-twice", format!("'{first}' connects the same two ends"));
            check.at_name(&path, finding.help("one connection for each pair of ends and direction"));
        }
    }
    tunnels(check);
    for (name, local) in &topology.local_network_gateways {
        let address = local.gateway_ip_address;
        let mut devices = topology.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref());
        if !devices.any(|device| device.public_ip_address == address) {
            let finding = Finding::warning(
                "no-such-device",
                format!("no site has a VPN device with the address {address}"),
            );
            let help = "add vpnDevice: {publicIPAddress: ...} with this address to a site; until then nothing answers there";
            check.at(&format!("localNetworkGateways.{name}.gatewayIpAddress"), finding.help(help));
        }
    }
    for (name, site) in &topology.on_premises_sites {
        one_site(check, name, site);
    }
}

fn place<'a>(
    check: &mut Check<'a, '_>,
    path: &str,
    name: &str,
    gateway: &'a VirtualNetworkGateway,
    networks: &mut Owners<(&'a str, GatewayType)>,
) {
    let topology = check.topology;
    let at = format!("{path}.virtualNetwork");
    let network_name = gateway.virtual_network.as_str();
    if !check.refers(&at, "virtualNetworks", &topology.virtual_networks, network_name, "virtual network") {
        return;
    }
    if let Some(first) = networks.take((network_name, gateway.gateway_type), || name.to_owned()) {
        let message =
            format!("'{network_name}' has the {:?} gateway '{first}' already", gateway.gateway_type);
        check.at(
            &at,
            Finding::error("two-gateways", message).help("a virtual network has one gateway of a type"),
        );
    }
    let network = &topology.virtual_networks[network_name];
    let base = format!("virtualNetworks.{network_name}.subnets.GatewaySubnet");
    let Some(subnet) = network.subnets.get("GatewaySubnet") else {
        if !check.is_dropped(&base) {
            let finding =
                Finding::error("gateway-subnet-missing", format!("'{network_name}' has no GatewaySubnet"));
            check.at(
                &at,
                finding.help(format!("add GatewaySubnet with a /27 to the subnets of '{network_name}'")),
            );
        }
        return;
    };
    let bits_max = if gateway.sku == GatewaySku::Basic { 29 } else { 27 };
    let v4 = subnet.address_prefixes.iter().filter(|net| matches!(net, IpNet::V4(_)));
    if let Some(small) = v4.clone().find(|net| net.prefix_len() > bits_max) {
        let message =
            format!("GatewaySubnet is {small}; a {:?} gateway needs a /{bits_max} or larger", gateway.sku);
        let finding = Finding::error("gateway-subnet-small", message);
        check.at(&format!("{base}.addressPrefixes"), finding.help(format!("make it a /{bits_max}")));
    }
    if network.peerings.values().any(|peering: &Peering| peering.use_remote_gateways) {
        let finding = Finding::error(
            "gateway-beside-remote",
            format!("'{network_name}' uses remote gateways, so it cannot have one"),
        );
        check.at(
            &at,
            finding.help("clear useRemoteGateways in the network's peerings, or remove this gateway"),
        );
    }
}

fn sku(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    let at = format!("{path}.sku");
    if gateway.sku.gateway_type() != gateway.gateway_type {
        let message = format!("{:?} is a SKU of {:?} gateways", gateway.sku, gateway.sku.gateway_type());
        check.at(
            &at,
            Finding::error("sku-type", message)
                .help("choose VpnGw1AZ to VpnGw5AZ for VPN, ErGw1AZ to ErGw3AZ for ExpressRoute"),
        );
        return;
    }
    let Some(figures) = gateway.figures() else {
        let generations: Vec<String> = crate::sku::SKUS
            .iter()
            .filter(|row| row.sku == gateway.sku)
            .filter_map(|row| row.generation.map(|generation| format!("{generation:?}")))
            .collect();
        let finding =
            Finding::error("sku-generation", format!("{:?} does not exist in this generation", gateway.sku));
        check.at(
            &format!("{path}.vpnGatewayGeneration"),
            finding.help(format!("write {}", generations.join(" or "))),
        );
        return;
    };
    if gateway.active_active && !figures.active_active {
        let finding =
            Finding::error("sku-active-active", format!("{:?} cannot be active-active", gateway.sku));
        check.at(&format!("{path}.activeActive"), finding.help("choose VpnGw1AZ or larger"));
    }
    let needed = if gateway.active_active { 2 } else { 1 };
    let given = gateway.public_ip_addresses.len();
    if gateway.gateway_type == GatewayType::Vpn && given != needed {
        let finding = Finding::error(
            "gateway-addresses",
            format!("the gateway has {given} public addresses and needs {needed}"),
        );
        let at = if given == 0 { path.to_owned() } else { format!("{path}.publicIPAddresses") };
        check.at_name(&at, finding.help("one public address, or two with activeActive: true"));
    }
    if (gateway.enable_bgp || gateway.bgp_settings.is_some()) && !figures.bgp {
        let finding = Finding::error("sku-bgp", format!("{:?} does not speak BGP", gateway.sku));
        let property = if gateway.enable_bgp { "enableBgp" } else { "bgpSettings" };
        check.at(&format!("{path}.{property}"), finding.help("choose VpnGw1AZ or larger"));
    }
    if !gateway.nat_rules.is_empty() && !figures.nat_rules {
        let finding = Finding::error("sku-nat", format!("{:?} has no NAT rules", gateway.sku));
        check.at(&format!("{path}.natRules"), finding.help("choose VpnGw2AZ or larger"));
    }
}

fn unsupported(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    if gateway.gateway_type == GatewayType::ExpressRoute {
        let finding = Finding::warning(
            "express-route-gateway",
            "an ExpressRoute gateway carries nothing yet: it stands before a VPN gateway, and no user route leads to it",
        );
        check.at(&format!("{path}.gatewayType"), finding.help("a later version will take its connections"));
    }
    if gateway.vpn_type == VpnType::PolicyBased {
        check.unsupported(&format!("{path}.vpnType"), "a policy-based gateway");
    }
    if !gateway.nat_rules.is_empty() {
        check.unsupported(&format!("{path}.natRules"), "NAT at a gateway");
    }
    if gateway.vpn_client_configuration.is_some() {
        check.unsupported(&format!("{path}.vpnClientConfiguration"), "point-to-site VPN");
    }
    if gateway.allow_remote_vnet_traffic {
        check.unsupported(&format!("{path}.allowRemoteVnetTraffic"), "traffic of other networks on circuits");
    }
}

fn bgp(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    if let Some(settings) = &gateway.bgp_settings
        && is_reserved_asn(settings.asn)
    {
        let finding = Finding::error("reserved-asn", format!("the ASN {} is reserved", settings.asn));
        check.at(
            &format!("{path}.bgpSettings.asn"),
            finding.help("use 65515, or one of 64512-65514 and 65521-65534"),
        );
    }
}

fn one_connection(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    let gateways = &check.topology.virtual_network_gateways;
    let at = format!("{path}.virtualNetworkGateway1");
    let first = &connection.virtual_network_gateway1;
    let has_first = check.refers(&at, "virtualNetworkGateways", gateways, first, "virtual network gateway");
    if has_first && connection.enable_bgp && !gateways[first].enable_bgp {
        let finding = Finding::error("connection-bgp", format!("enableBgp is set here and not at '{first}'"));
        check.at(
            &format!("{path}.enableBgp"),
            finding.help(format!("set enableBgp: true at '{first}', or remove it here")),
        );
    }
    if connection.enable_bgp {
        let finding = Finding::warning("bgp-not-yet", "routes are not exchanged by BGP yet");
        let help =
            "until then only localNetworkAddressSpace and the ranges of the gateways' networks are routed";
        check.at(&format!("{path}.enableBgp"), finding.help(help));
    }
    match connection.connection_type {
        ConnectionType::IPsec => site_to_site(check, path, connection),
        ConnectionType::Vnet2Vnet => vnet_to_vnet(check, path, connection, has_first),
        ConnectionType::ExpressRoute => {
            check.unsupported(&format!("{path}.connectionType"), "an ExpressRoute connection")
        }
    }
    if connection.connection_type != ConnectionType::ExpressRoute {
        if connection.shared_key.is_none() {
            let finding = Finding::error("missing-shared-key", "the connection has no sharedKey");
            check.at_name(
                path,
                finding.help("add sharedKey: a text, {env: NAME} or {file: PATH}; both ends need the same"),
            );
        }
        if connection.peer.is_some() {
            let finding =
                Finding::error("connection-end", "'peer' names a circuit; this connection has none");
            check.at(&format!("{path}.peer"), finding.help("remove it"));
        }
    }
    for (property, rules) in
        [("ingressNatRules", &connection.ingress_nat_rules), ("egressNatRules", &connection.egress_nat_rules)]
    {
        if !rules.is_empty() {
            check.unsupported(&format!("{path}.{property}"), "NAT at a gateway");
        }
    }
}

fn site_to_site(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    let locals = &check.topology.local_network_gateways;
    match &connection.local_network_gateway2 {
        Some(local) => {
            let at = format!("{path}.localNetworkGateway2");
            check.refers(&at, "localNetworkGateways", locals, local, "local network gateway");
        }
        None => {
            let finding =
                Finding::error("connection-end", "an IPsec connection ends at a local network gateway");
            check.at_name(path, finding.help("add localNetworkGateway2"));
        }
    }
    if connection.virtual_network_gateway2.is_some() {
        let finding =
            Finding::error("connection-end", "an IPsec connection has no second virtual network gateway");
        check.at(
            &format!("{path}.virtualNetworkGateway2"),
            finding.help("remove it, or set connectionType: Vnet2Vnet"),
        );
    }
}

fn vnet_to_vnet(check: &mut Check<'_, '_>, path: &str, connection: &Connection, has_first: bool) {
    let topology = check.topology;
    let gateways = &topology.virtual_network_gateways;
    if connection.local_network_gateway2.is_some() {
        let finding = Finding::error("connection-end", "a Vnet2Vnet connection has no local network gateway");
        check.at(
            &format!("{path}.localNetworkGateway2"),
            finding.help("remove it, or set connectionType: IPsec"),
        );
    }
    let first = &connection.virtual_network_gateway1;
    let Some(second) = &connection.virtual_network_gateway2 else {
        let finding = Finding::error(
            "connection-end",
            "a Vnet2Vnet connection ends at a second virtual network gateway",
        );
        check.at_name(path, finding.help("add virtualNetworkGateway2"));
        return;
    };
    let at = format!("{path}.virtualNetworkGateway2");
    if !check.refers(&at, "virtualNetworkGateways", gateways, second, "virtual network gateway") || !has_first
    {
        return;
    }
    if first == second {
        let finding =
            Finding::error("connection-with-itself", format!("'{first}' cannot be connected to itself"));
        check.at(&at, finding.help("name the gateway of the other network"));
        return;
    }
    let has_reverse = topology.connections.values().any(|other| {
        other.connection_type == ConnectionType::Vnet2Vnet
            && &other.virtual_network_gateway1 == second
            && other.virtual_network_gateway2.as_ref() == Some(first)
    });
    if !has_reverse {
        let finding = Finding::warning(
            "connection-one-sided",
            format!("no connection leads back from '{second}': this one stays NotConnected"),
        );
        check.at_name(path, finding.help(format!("add a Vnet2Vnet connection from '{second}' to '{first}'")));
    }
    let ranges = |gateway: &str| {
        let network = topology.virtual_networks.get(&gateways[gateway].virtual_network);
        network.map_or(&[][..], |network| &network.address_space)
    };
    // Both directions have the same overlap: it is told once.
    let is_later = gateways.get_index_of(first) > gateways.get_index_of(second);
    if (is_later || !has_reverse)
        && gateways[first].virtual_network != gateways[second].virtual_network
        && let Some((own, other)) = first_overlap(ranges(first), ranges(second))
    {
        let message = format!("{own} and {other} of the two networks overlap, so they cannot be connected");
        let finding = Finding::error("connected-ranges-overlap", message).code("VnetAddressSpacesOverlap");
        check.at(&at, finding.help("give one of the two networks another range"));
    }
}

/// The connections of each gateway, against what its SKU takes.
fn tunnels(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for connection in topology.connections.values() {
        *counts.entry(&connection.virtual_network_gateway1).or_default() += 1;
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        let Some(figures) = gateway.figures() else { continue };
        let limit = limit::tunnels(figures.tunnels_max);
        let count = counts.get(name.as_str()).copied().unwrap_or_default();
        check.limit(format_args!("virtualNetworkGateways.{name}"), name, count, &limit);
    }
}

fn one_site(check: &mut Check<'_, '_>, name: &str, site: &OnPremisesSite) {
    let path = format!("onPremisesSites.{name}");
    let mut taken = Owners::new();
    for (host, value) in &site.hosts {
        let v4 = value.addresses.iter().filter(|address| address.is_ipv4()).count();
        let base = format!("{path}.hosts.{host}.addresses");
        if v4 > 1 || value.addresses.len() - v4 > 1 {
            let finding = Finding::error("host-addresses", "a host has one address of each family at most");
            check.at(&base, finding.help("keep one IPv4 and one IPv6 address"));
        }
        for (index, address) in value.addresses.iter().enumerate() {
            let at = format!("{base}[{index}]");
            if !site.address_space.iter().any(|net| net.contains(address)) {
                let finding = Finding::error(
                    "host-outside-site",
                    format!("{address} is not inside the address space of '{name}'"),
                );
                check.at(
                    &at,
                    finding.help("choose an address in the site's addressSpace, or add its range there"),
                );
            }
            if let Some(first) = taken.take(*address, || host.clone()) {
                let finding = Finding::error(
                    "address-in-use",
                    format!("{address} is the address of '{first}' already"),
                );
                check.at(&at, finding.help("give each host its own"));
            }
        }
    }
    if !site.express_route.is_empty() {
        check.unsupported(&format!("{path}.expressRoute"), "an ExpressRoute circuit");
    }
}
