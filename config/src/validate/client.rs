//! Point-to-site VPN: what a gateway grants, and the clients.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{Check, first_overlap};
use crate::{
    diagnostic::Finding,
    limit,
    model::{GatewaySku, VirtualNetworkGateway, VpnClientProtocol, VpnType},
    sku::SSTP_CONNECTIONS_MAX,
};

pub(crate) fn configuration(check: &mut Check<'_, '_>, path: &str, gateway: &VirtualNetworkGateway) {
    let Some(clients) = &gateway.vpn_client_configuration else { return };
    let base = format!("{path}.vpnClientConfiguration");
    if gateway.vpn_type == VpnType::PolicyBased {
        let finding = Finding::error("clients-policy-based", "a policy-based gateway has no clients");
        check.at(&base, finding.help("set vpnType: RouteBased"));
    }
    let is_other = |protocol: &&VpnClientProtocol| **protocol != VpnClientProtocol::Sstp;
    if let Some(protocol) = clients.vpn_client_protocols.iter().find(is_other)
        && gateway.sku == GatewaySku::Basic
    {
        let message = format!("Basic grants clients SSTP only, not {protocol:?}");
        let finding = Finding::error("sku-client-protocol", message);
        let help = "write vpnClientProtocols: [SSTP], or choose VpnGw1AZ or larger";
        check.at(&format!("{base}.vpnClientProtocols"), finding.help(help));
    }
    let topology = check.topology;
    let Some(network) = topology.virtual_networks.get(&gateway.virtual_network) else { return };
    let remotes = network.peerings.keys().filter_map(|remote| topology.virtual_networks.get(remote));
    let reached = std::iter::once(network).chain(remotes).flat_map(|network| &network.address_space);
    let reached: Vec<IpNet> = reached.copied().collect();
    if let Some((pool, net)) = first_overlap(&clients.vpn_client_address_pool, &reached) {
        let message = format!("{pool} overlaps {net}, which clients are to reach");
        let finding = Finding::error("client-pool-overlap", message);
        let help = "choose a range that no network and no site has";
        check.at(&format!("{base}.vpnClientAddressPool"), finding.help(help));
    }
}

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let gateways = &topology.virtual_network_gateways;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, client) in &topology.vpn_clients {
        let at = format!("vpnClients.{name}.gateway");
        if !check.refers(&at, "virtualNetworkGateways", gateways, &client.gateway, "virtual network gateway")
        {
            continue;
        }
        *counts.entry(client.gateway.as_str()).or_default() += usize::from(!client.revoked);
        if gateways[&client.gateway].vpn_client_configuration.is_none() {
            let message = format!("'{}' has no vpnClientConfiguration", client.gateway);
            let finding = Finding::error("client-gateway", message);
            let help = format!(
                "add vpnClientConfiguration: {{vpnClientAddressPool: [...]}} to virtualNetworkGateways.{}",
                client.gateway
            );
            check.at(&at, finding.help(help));
        }
    }
    for (name, gateway) in gateways {
        let (Some(clients), Some(figures)) = (&gateway.vpn_client_configuration, gateway.figures()) else {
            continue;
        };
        let count = counts.get(name.as_str()).copied().unwrap_or_default();
        let is_sstp = |protocol: &VpnClientProtocol| *protocol == VpnClientProtocol::Sstp;
        // Where a SKU grants SSTP only, other protocols are refused above.
        let sstp_only = figures.p2s_connections_max == 0 || clients.vpn_client_protocols.iter().all(is_sstp);
        let max = if sstp_only { SSTP_CONNECTIONS_MAX } else { figures.p2s_connections_max };
        let path = format!("virtualNetworkGateways.{name}");
        check.limit(&path, name, count, &limit::clients(max as usize));
        let pool: u128 = clients.vpn_client_address_pool.iter().map(addresses).fold(0, u128::saturating_add);
        if pool < count as u128 {
            let message = format!("{count} clients share a pool of {pool} addresses");
            let finding = Finding::error("client-pool-small", message);
            check.at(
                &format!("{path}.vpnClientConfiguration.vpnClientAddressPool"),
                finding.help("make the pool larger: each client needs an address"),
            );
        }
    }
}

/// Addresses of a pool that clients may get: all but the first and the last.
fn addresses(net: &IpNet) -> u128 {
    let bits = if net.addr().is_ipv4() { 32 } else { 128 } - u32::from(net.prefix_len());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX).saturating_sub(2)
}
