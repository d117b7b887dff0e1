//! Gateways, on-premises sites and the simulated internet as the topology file writes them.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::lab::Map;
use super::nat::NatRule;
use super::network::Prefixes;

/// A virtual network gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Its network.
    pub virtual_network: String,
    /// `Vpn` or `ExpressRoute`.
    pub gateway_type: String,
    /// Public addresses.
    #[serde(default, rename = "publicIPAddresses")]
    pub public: Vec<IpAddr>,
    /// NAT rules.
    #[serde(default)]
    pub nat_rules: Vec<NatRule>,
    /// The local network gateway that everything else goes to.
    pub gateway_default_site: Option<String>,
    /// The address of its only instance: the last usable one of GatewaySubnet.
    #[serde(skip)]
    pub address: Option<IpAddr>,
}

/// A local network gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalGateway {
    /// The device's public address.
    pub gateway_ip_address: Option<IpAddr>,
    /// What lies behind it.
    #[serde(default)]
    pub local_network_address_space: Prefixes,
}

/// A connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// `IPsec` or `Vnet2Vnet`.
    pub connection_type: String,
    /// This side's gateway.
    pub virtual_network_gateway1: String,
    /// The other gateway, for `Vnet2Vnet`.
    pub virtual_network_gateway2: Option<String>,
    /// The other side, for `IPsec`.
    pub local_network_gateway2: Option<String>,
    /// Pre-shared key.
    #[serde(default)]
    pub shared_key: Value,
    /// `Default`, `InitiatorOnly` or `ResponderOnly`.
    pub connection_mode: Option<String>,
    /// `IKEv1` or `IKEv2`.
    pub connection_protocol: Option<String>,
    /// Custom policies.
    #[serde(default)]
    pub ipsec_policies: Vec<Value>,
    /// NAT rules for packets into Azure.
    #[serde(default)]
    pub ingress_nat_rules: Vec<String>,
    /// NAT rules for packets out of Azure.
    #[serde(default)]
    pub egress_nat_rules: Vec<String>,
}

/// An on-premises site.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Site {
    /// Ranges.
    pub address_space: Prefixes,
    /// Hosts by name.
    pub hosts: Map<HostForm>,
    /// The device.
    pub vpn_device: Option<VpnDevice>,
}

/// A host's address, or an object that holds it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum HostForm {
    /// The short form.
    One(IpAddr),
    /// Several, one for each family.
    Several(Vec<IpAddr>),
    /// With a name for the field.
    Object {
        /// The address.
        address: IpAddr,
    },
    /// With a name for the list.
    Objects {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

impl HostForm {
    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            HostForm::One(address) | HostForm::Object { address } => vec![*address],
            HostForm::Several(addresses) | HostForm::Objects { addresses } => addresses.clone(),
        }
    }
}

/// A site's VPN device.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VpnDevice {
    /// Public address.
    #[serde(rename = "publicIPAddress")]
    pub public: IpAddr,
    /// What it routes into the tunnel; absent: what the gateway would advertise.
    pub remote_address_space: Option<Prefixes>,
    /// Its key, where it is not the connection's.
    #[serde(default)]
    pub shared_key: Value,
}

/// The simulated internet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Internet {
    /// Hosts by name.
    pub hosts: Map<HostForm>,
}
