//! Virtual network gateways.

use ipnet::IpNet;

use super::{Check, Owners};
use crate::{
    diagnostic::Finding,
    model::{GatewaySku, GatewayType, Peering, VirtualNetworkGateway, VpnType},
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut networks = Owners::new();
    for (name, gateway) in &topology.virtual_network_gateways {
        let path = format!("virtualNetworkGateways.{name}");
        place(check, &path, name, gateway, &mut networks);
        sku(check, &path, gateway);
        by_type(check, &path, gateway);
        default_site(check, &path, name, gateway);
        super::bgp::gateway(check, &path, gateway);
        super::nat::check(check, &path, name, gateway);
        super::client::configuration(check, &path, gateway);
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

/// What only gateways of one type have.
fn by_type(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    let is_vpn = gateway.gateway_type == GatewayType::Vpn;
    if !is_vpn {
        let finding = Finding::warning(
            "express-route-gateway",
            "an ExpressRoute gateway carries nothing yet: it stands before a VPN gateway, and no user route leads to it",
        );
        check.at(&format!("{path}.gatewayType"), finding.help("a later version will take its connections"));
    }
    for (property, is_given, vpn_only) in [
        ("vpnClientConfiguration", gateway.vpn_client_configuration.is_some(), true),
        ("gatewayDefaultSite", gateway.gateway_default_site.is_some(), true),
        ("enableBgpRouteTranslationForNat", gateway.enable_bgp_route_translation_for_nat, true),
        ("allowRemoteVnetTraffic", gateway.allow_remote_vnet_traffic, false),
        ("allowVirtualWanTraffic", gateway.allow_virtual_wan_traffic, false),
    ] {
        if is_given && is_vpn != vpn_only {
            let (has, lacks) =
                if vpn_only { ("a VPN", "an ExpressRoute") } else { ("an ExpressRoute", "a VPN") };
            let message = format!("'{property}' is of {has} gateway, and this is {lacks} gateway");
            check.at(
                &format!("{path}.{property}"),
                Finding::error("gateway-property", message).help("remove it"),
            );
        }
    }
    if gateway.active_active && gateway.vpn_type == VpnType::PolicyBased {
        let finding =
            Finding::error("active-active-policy", "a policy-based gateway cannot be active-active");
        check.at(&format!("{path}.activeActive"), finding.help("set vpnType: RouteBased"));
    }
}

/// The site that everything goes to that no other route takes.
fn default_site(check: &mut Check<'_, '_>, path: &str, name: &str, gateway: &VirtualNetworkGateway) {
    let topology = check.topology;
    let Some(site) = &gateway.gateway_default_site else { return };
    let at = format!("{path}.gatewayDefaultSite");
    let locals = &topology.local_network_gateways;
    if !check.refers(&at, "localNetworkGateways", locals, site, "local network gateway") {
        return;
    }
    let is_connected = topology.connections.values().any(|connection| {
        connection.virtual_network_gateway1 == name
            && connection.local_network_gateway2.as_ref() == Some(site)
    });
    if !is_connected {
        let message = format!("no connection of '{name}' leads to '{site}', so nothing goes there");
        let finding = Finding::warning("default-site-unconnected", message);
        check.at(&at, finding.help(format!("add an IPsec connection from '{name}' to '{site}'")));
    }
}
