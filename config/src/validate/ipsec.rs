//! What a connection negotiates: IPsec and IKE policies, traffic selectors, versions, and whether two sides agree.

use super::Check;
use crate::{
    diagnostic::Finding,
    ipsec,
    model::{
        Connection, ConnectionMode, ConnectionProtocol, ConnectionType, GatewaySku, IpsecEncryption,
        IpsecIntegrity, IpsecPolicy, VirtualNetworkGateway, VpnType,
    },
};

pub(crate) fn check(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
) {
    if connection.connection_type == ConnectionType::ExpressRoute {
        return;
    }
    policies(check, path, connection, gateway);
    versions(check, path, connection, gateway);
    if connection.use_policy_based_traffic_selectors {
        let at = format!("{path}.usePolicyBasedTrafficSelectors");
        if connection.enable_bgp {
            let finding = Finding::error("selectors-with-bgp", "policy-based traffic selectors exclude BGP");
            check.at(&at, finding.help("remove it, or set enableBgp: false"));
        }
        if connection.connection_protocol == Some(ConnectionProtocol::IkeV1) {
            let finding = Finding::error("selectors-protocol", "policy-based traffic selectors need IKEv2");
            check.at(&at, finding.help("remove it, or set connectionProtocol: IKEv2"));
        }
    }
    if !connection.traffic_selector_policies.is_empty() && !connection.use_policy_based_traffic_selectors {
        let message = "traffic selectors have no effect without usePolicyBasedTrafficSelectors";
        let finding = Finding::warning("selectors-without-effect", message);
        let help = "set usePolicyBasedTrafficSelectors: true, or remove them";
        check.at(&format!("{path}.trafficSelectorPolicies"), finding.help(help));
    }
    for (index, policy) in connection.traffic_selector_policies.iter().enumerate() {
        let mut all = policy.local_address_ranges.iter().chain(&policy.remote_address_ranges);
        let is_v4 = all.next().is_some_and(|net| net.addr().is_ipv4());
        if all.any(|net| net.addr().is_ipv4() != is_v4) {
            let finding = Finding::error("selector-families", "a traffic selector has ranges of one family");
            let help = "write one entry for IPv4 and one for IPv6";
            check.at(&format!("{path}.trafficSelectorPolicies[{index}]"), finding.help(help));
        }
    }
}

fn policies(check: &mut Check<'_, '_>, path: &str, connection: &Connection, gateway: &VirtualNetworkGateway) {
    let at = format!("{path}.ipsecPolicies");
    if connection.ipsec_policies.is_empty() {
        return;
    }
    if gateway.sku == GatewaySku::Basic {
        let finding = Finding::error("sku-ipsec-policy", "Basic takes no custom IPsec policy");
        check.at(&at, finding.help("remove it, or choose VpnGw1AZ or larger for the gateway"));
    }
    let count = connection.ipsec_policies.len();
    if count > 1 {
        let message = format!("the connection has {count} IPsec policies; Azure takes one");
        check.at(&format!("{at}[1]"), Finding::error("ipsec-policies", message).help("keep one of them"));
    }
    for (index, policy) in connection.ipsec_policies.iter().enumerate() {
        one_policy(check, &format!("{at}[{index}]"), policy);
    }
}

/// GCM is encryption and integrity in one.
fn one_policy(check: &mut Check<'_, '_>, path: &str, policy: &IpsecPolicy) {
    let of_encryption = match policy.ipsec_encryption {
        IpsecEncryption::GcmAes256 => Some(IpsecIntegrity::GcmAes256),
        IpsecEncryption::GcmAes192 => Some(IpsecIntegrity::GcmAes192),
        IpsecEncryption::GcmAes128 => Some(IpsecIntegrity::GcmAes128),
        _ => None,
    };
    let is_gcm = matches!(
        policy.ipsec_integrity,
        IpsecIntegrity::GcmAes256 | IpsecIntegrity::GcmAes192 | IpsecIntegrity::GcmAes128
    );
    let (encryption, integrity) = (policy.ipsec_encryption, policy.ipsec_integrity);
    let help = match of_encryption {
        Some(wanted) if wanted != integrity => format!("write ipsecIntegrity: {wanted}"),
        None if is_gcm => format!("write ipsecEncryption: {integrity}, or ipsecIntegrity: SHA256"),
        _ => return,
    };
    let message = format!("ipsecEncryption {encryption} does not go with ipsecIntegrity {integrity}");
    check.at(&format!("{path}.ipsecIntegrity"), Finding::error("ipsec-gcm", message).help(help));
}

/// Versions of IKE: policy-based gateways speak the first, route-based ones of SKU Basic the second, others both.
fn versions(check: &mut Check<'_, '_>, path: &str, connection: &Connection, gateway: &VirtualNetworkGateway) {
    let is_policy_based = gateway.vpn_type == VpnType::PolicyBased;
    let only = match gateway.sku {
        _ if is_policy_based => Some(ConnectionProtocol::IkeV1),
        GatewaySku::Basic => Some(ConnectionProtocol::IkeV2),
        _ => None,
    };
    if let (Some(given), Some(only)) = (connection.connection_protocol, only)
        && given != only
    {
        let message = format!("'{}' speaks {only} only", connection.virtual_network_gateway1);
        let finding = Finding::error("connection-protocol", message);
        check.at(&format!("{path}.connectionProtocol"), finding.help(format!("write {only}, or remove it")));
    }
    let is_v1 = is_policy_based || connection.connection_protocol == Some(ConnectionProtocol::IkeV1);
    if connection.connection_mode != ConnectionMode::Default && is_v1 {
        let message = "connectionMode is of route-based connections by IKEv2";
        let finding = Finding::error("connection-mode", message);
        check.at(
            &format!("{path}.connectionMode"),
            finding.help("remove it, or let the connection use IKEv2"),
        );
    }
}

/// Warns where the two connections of a pair of gateways do not agree: told once, at the later one.
pub(crate) fn agreement(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    let topology = check.topology;
    let reverse = topology.connections.iter().find(|(_, other)| {
        other.connection_type == ConnectionType::Vnet2Vnet
            && Some(&other.virtual_network_gateway1) == connection.virtual_network_gateway2.as_ref()
            && other.virtual_network_gateway2.as_ref() == Some(&connection.virtual_network_gateway1)
    });
    let Some((name, other)) = reverse else { return };
    let place = |wanted: &Connection| topology.connections.values().position(|one| std::ptr::eq(one, wanted));
    if place(connection) < place(other) {
        return;
    }
    if let Err(mismatch) = ipsec::matches(connection.into(), other.into()) {
        let finding = Finding::warning(
            "connection-mismatch",
            format!("this connection and '{name}' stay NotConnected: {mismatch}"),
        );
        check.at_name(path, finding.help(format!("give this connection and '{name}' what matches")));
    }
}
