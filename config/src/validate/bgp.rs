//! BGP speakers: of gateways, of what is at the other end of connections, and of devices.

use std::net::{IpAddr, Ipv4Addr};

use super::{Check, Owners};
use crate::{
    diagnostic::Finding,
    model::{
        BgpSettings, Connection, ConnectionType, LocalNetworkGateway, VirtualNetworkGateway, VpnDevice,
        VpnDeviceKind,
    },
};

/// The ASN of Azure's gateways and route servers.
pub(crate) const AZURE_ASN: u32 = 65_515;

/// ASNs that Azure or IANA keeps; 65515 is the gateways' own default.
fn is_reserved_asn(asn: u32) -> bool {
    matches!(asn, 0 | 8074 | 8075 | 12076 | 23456 | 64496..=64511 | 65517..=65520 | 65535..=65551)
}

/// An ASN outside Azure.
pub(crate) fn peer_asn(check: &mut Check<'_, '_>, path: &str, asn: u32) {
    if is_reserved_asn(asn) || asn == AZURE_ASN {
        let finding = Finding::error("reserved-asn", format!("the ASN {asn} is reserved"));
        check.at(path, finding.help("use one of 64512-65514 and 65521-65534"));
    }
}

/// Link-local addresses, which a tunnel's BGP session may use.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_link_local())
}

/// The link-local addresses that Azure's side may have.
fn is_azures_link_local(address: IpAddr) -> bool {
    let range = Ipv4Addr::new(169, 254, 21, 0)..=Ipv4Addr::new(169, 254, 22, 255);
    matches!(address, IpAddr::V4(address) if range.contains(&address))
}

pub(crate) fn gateway(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    let Some(settings) = &gateway.bgp_settings else { return };
    let base = format!("{path}.bgpSettings");
    if is_reserved_asn(settings.asn) {
        let finding = Finding::error("reserved-asn", format!("the ASN {} is reserved", settings.asn));
        check.at(&format!("{base}.asn"), finding.help("use 65515, or one of 64512-65514 and 65521-65534"));
    }
    let list = format!("{base}.bgpPeeringAddresses");
    let (given, instances) = (settings.bgp_peering_addresses.len(), gateway.public_ip_addresses.len());
    if given > instances.max(1) {
        let message = format!("there are entries for {given} instances, and the gateway has {instances}");
        check.at(
            &format!("{list}[{instances}]"),
            Finding::error("bgp-instances", message).help("one entry for each public address"),
        );
    }
    let mut taken = Owners::new();
    for (index, entry) in settings.bgp_peering_addresses.iter().enumerate() {
        let at = format!("{list}[{index}]");
        if let Some(id) = &entry.ipconfiguration_id {
            instance(check, &format!("{at}.ipconfigurationId"), gateway, id);
        }
        for (position, address) in entry.custom_bgp_ip_addresses.iter().enumerate() {
            let at = format!("{at}.customBgpIpAddresses[{position}]");
            if !is_azures_link_local(*address) {
                let message = format!("{address} is outside 169.254.21.0 to 169.254.22.255");
                let finding = Finding::error("custom-bgp-address", message);
                check.at(&at, finding.help("choose an address of that range"));
            }
            if taken.take(*address, || at.clone()).is_some() {
                let finding =
                    Finding::error("custom-bgp-address-twice", format!("{address} stands here twice"));
                check.at(&at, finding.help("give each instance and each connection an address of its own"));
            }
        }
    }
}

/// A public address of the gateway, by which one of its instances is meant.
pub(crate) fn instance(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway, id: &str) {
    if gateway.instance_of(check.topology, id).is_none() {
        let message = format!("'{}' is no public address of the gateway", super::shown(id));
        let finding = Finding::error("gateway-instance", message).code("InvalidResourceReference");
        check.at(path, finding.help("name one of the gateway's publicIPAddresses"));
    }
}

/// What is behind a local network gateway.
pub(crate) fn local(check: &mut Check<'_, '_>, path: &str, local: &LocalNetworkGateway) {
    for (index, net) in local.local_network_address_space.iter().enumerate() {
        if is_link_local(net.addr()) {
            let finding = Finding::error("local-range-link-local", format!("{net} is link-local"));
            let help = "remove it: the route to the peer's BGP address is there without it";
            check.at(&format!("{path}.localNetworkAddressSpace[{index}]"), finding.help(help));
        }
    }
    let Some(settings) = &local.bgp_settings else { return };
    peer_asn(check, &format!("{path}.bgpSettings.asn"), settings.asn);
    if settings.bgp_peering_address == Some(local.gateway_ip_address) {
        let finding =
            Finding::error("bgp-address-public", "the BGP speaker cannot have the device's public address");
        let help = "give the device an address inside the tunnel, such as one of the site's ranges";
        check.at(&format!("{path}.bgpSettings.bgpPeeringAddress"), finding.help(help));
    }
}

fn asn(settings: Option<&BgpSettings>) -> u32 {
    settings.map_or(AZURE_ASN, |settings| settings.asn)
}

pub(crate) fn connection(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
) {
    custom_addresses(check, path, connection, gateway);
    if !connection.enable_bgp {
        return;
    }
    let topology = check.topology;
    let own = asn(gateway.bgp_settings.as_ref());
    let at = format!("{path}.enableBgp");
    let second = connection.virtual_network_gateway2.as_ref();
    if let Some((name, other)) = second.and_then(|name| topology.virtual_network_gateways.get_key_value(name))
    {
        if !other.enable_bgp {
            let finding =
                Finding::error("connection-bgp", format!("enableBgp is set here and not at '{name}'"));
            check.at(&at, finding.help(format!("set enableBgp: true at '{name}', or remove it here")));
        }
        if other.enable_bgp
            && connection.virtual_network_gateway1 != *name
            && asn(other.bgp_settings.as_ref()) == own
        {
            same_asn(check, &at, name, own);
        }
    }
    let local = connection.local_network_gateway2.as_ref();
    let Some((name, local)) = local.and_then(|name| topology.local_network_gateways.get_key_value(name))
    else {
        return;
    };
    let Some((settings, address)) =
        local.bgp_settings.as_ref().and_then(|settings| Some((settings, settings.bgp_peering_address?)))
    else {
        let message =
            format!("enableBgp is set here, and '{name}' has no bgpSettings with bgpPeeringAddress");
        let finding = Finding::error("connection-bgp-peer", message);
        let help =
            format!("add bgpSettings: {{asn: ..., bgpPeeringAddress: ...}} to localNetworkGateways.{name}");
        check.at(&at, finding.help(help));
        return;
    };
    if settings.asn == own {
        same_asn(check, &at, name, own);
    }
    peer_address(check, path, connection, gateway, (name, address));
}

fn same_asn(check: &mut Check<'_, '_>, path: &str, other: &str, asn: u32) {
    let finding = Finding::error("same-asn", format!("'{other}' has the ASN {asn} too"));
    check.at(
        path,
        finding.help("give one of the two ends another ASN: BGP drops routes with its own in their path"),
    );
}

/// The peer's address is outside the gateway's network; a link-local one needs one on Azure's side.
fn peer_address(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
    (name, address): (&str, IpAddr),
) {
    let at = format!("{path}.localNetworkGateway2");
    let network = check.topology.virtual_networks.get(&gateway.virtual_network);
    let mut ranges = network.into_iter().flat_map(|network| &network.address_space);
    if let Some(net) = ranges.find(|net| net.contains(&address)) {
        let message =
            format!("the BGP address {address} of '{name}' is inside {net} of the gateway's network");
        let finding = Finding::error("bgp-address-inside", message);
        check.at(&at, finding.help(format!("give localNetworkGateways.{name} an address outside of it")));
    }
    let settings = gateway.bgp_settings.as_ref();
    let mut own = settings.into_iter().flat_map(|settings| &settings.bgp_peering_addresses);
    let has_custom = own.any(|entry| !entry.custom_bgp_ip_addresses.is_empty());
    if is_link_local(address) && !has_custom {
        let message = format!("'{name}' has the link-local BGP address {address}, and the gateway has none");
        let finding = Finding::warning("bgp-link-local", message);
        check.at(
            &at,
            finding.help("add bgpSettings.bgpPeeringAddresses with customBgpIpAddresses to the gateway"),
        );
    }
    let uses_nat = !connection.ingress_nat_rules.is_empty() || !connection.egress_nat_rules.is_empty();
    if is_link_local(address) && uses_nat {
        let finding = Finding::error("nat-link-local", "NAT rules exclude link-local BGP addresses");
        let help = format!("remove the NAT rules, or give localNetworkGateways.{name} another BGP address");
        check.at(&at, finding.help(help));
    }
}

/// Addresses of the gateway's that the connection names.
fn custom_addresses(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
) {
    let list = &connection.gateway_custom_bgp_ip_addresses;
    if list.is_empty() {
        return;
    }
    let base = format!("{path}.gatewayCustomBgpIpAddresses");
    if !connection.enable_bgp || connection.connection_type == ConnectionType::ExpressRoute {
        let finding = Finding::error("connection-without-bgp", "the connection does not speak BGP");
        check.at(&base, finding.help("remove it, or set enableBgp: true"));
    }
    let settings = gateway.bgp_settings.as_ref();
    let own = settings.into_iter().flat_map(|settings| &settings.bgp_peering_addresses);
    let own: Vec<IpAddr> = own.flat_map(|entry| entry.custom_bgp_ip_addresses.iter().copied()).collect();
    for (index, entry) in list.iter().enumerate() {
        let at = format!("{base}[{index}]");
        let address = entry.custom_bgp_ip_address;
        if !own.contains(&address) {
            let message = format!("{address} is none of the gateway's customBgpIpAddresses");
            let finding = Finding::error("unknown-bgp-address", message).code("InvalidResourceReference");
            check.at(&at, finding.help("add it to bgpSettings.bgpPeeringAddresses of the gateway"));
        }
        if let Some(id) = &entry.ip_configuration_id {
            instance(check, &format!("{at}.ipConfigurationId"), gateway, id);
        }
    }
}

/// The BGP speaker of a device, against the local network gateway that stands for it.
pub(crate) fn device(check: &mut Check<'_, '_>, path: &str, device: &VpnDevice) {
    let Some(bgp) = &device.bgp else { return };
    let at = format!("{path}.bgp");
    if device.kind == VpnDeviceKind::External {
        let finding =
            Finding::error("device-bgp-external", "an external device runs a BGP speaker of its own");
        check.at(&at, finding.help("remove it, or set kind: builtin"));
    }
    peer_asn(check, &format!("{at}.asn"), bgp.asn);
    let topology = check.topology;
    for (name, local) in &topology.local_network_gateways {
        let Some(settings) = &local.bgp_settings else { continue };
        let is_this = local.gateway_ip_address == device.public_ip_address;
        let is_equal = settings.asn == bgp.asn && settings.bgp_peering_address == Some(bgp.address);
        if is_this && !is_equal {
            let message = format!("'{name}' stands for the device, and its bgpSettings differ");
            let finding = Finding::warning("device-bgp-differs", message);
            check.at(&at, finding.help(format!("write asn and address as localNetworkGateways.{name} does")));
        }
    }
}
