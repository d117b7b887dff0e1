//! Groups, firewalls and their rules as the topology file writes them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

/// A network security group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nsg {
    /// Changed rules judge flows that are open too.
    pub flush_connection: bool,
    /// The user's rules, in the file's order.
    pub security_rules: Vec<SecurityRule>,
}

/// A value, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Many {
    /// Several.
    List(Vec<Value>),
    /// One.
    One(Value),
}

impl Default for Many {
    fn default() -> Self {
        Many::List(Vec::new())
    }
}

impl Many {
    /// Each as text, numbers too.
    pub fn texts(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match self {
            Many::List(list) => list.iter().map(text).collect(),
            Many::One(one) => vec![text(one)],
        }
    }
}

/// `securityRules[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityRule {
    /// Its name.
    pub name: String,
    /// 100 to 4096, smaller first.
    pub priority: u16,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// `Allow` or `Deny`.
    pub access: String,
    /// `*`, `Tcp`, `Udp`, `Icmp`, `Esp`, `Ah`.
    pub protocol: String,
    /// One source.
    #[serde(default)]
    pub source_address_prefix: Many,
    /// Several sources.
    #[serde(default)]
    pub source_address_prefixes: Many,
    /// Sources by label.
    #[serde(default)]
    pub source_application_security_groups: Vec<String>,
    /// One destination.
    #[serde(default)]
    pub destination_address_prefix: Many,
    /// Several destinations.
    #[serde(default)]
    pub destination_address_prefixes: Many,
    /// Destinations by label.
    #[serde(default)]
    pub destination_application_security_groups: Vec<String>,
    /// One range of source ports.
    #[serde(default)]
    pub source_port_range: Many,
    /// Several.
    #[serde(default)]
    pub source_port_ranges: Many,
    /// One range of destination ports.
    #[serde(default)]
    pub destination_port_range: Many,
    /// Several.
    #[serde(default)]
    pub destination_port_ranges: Many,
}

/// An Azure Firewall.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// Its network.
    pub virtual_network: String,
    /// Its policy.
    pub firewall_policy: Option<String>,
    /// Public addresses.
    #[serde(default, rename = "publicIPAddresses")]
    pub public: Vec<IpAddr>,
    /// Private address: the first free one of AzureFirewallSubnet.
    #[serde(skip)]
    pub address: Option<IpAddr>,
    /// The first instance's address, which comes after it.
    #[serde(skip)]
    pub instance: Option<IpAddr>,
}

/// A firewall policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Parent.
    pub base_policy: Option<String>,
    /// Source translation.
    pub snat: Option<Snat>,
    /// Groups.
    pub rule_collection_groups: Vec<RuleCollectionGroup>,
}

/// `snat:` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snat {
    /// Destinations that see the client's own address.
    pub private_ranges: Vec<IpNet>,
}

/// `ruleCollectionGroups[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCollectionGroup {
    /// Its name.
    pub name: String,
    /// 100 to 65000, smaller first.
    pub priority: u32,
    /// Collections.
    #[serde(default)]
    pub rule_collections: Vec<RuleCollection>,
}

/// `ruleCollections[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCollection {
    /// Its name.
    pub name: String,
    /// 100 to 65000, smaller first.
    pub priority: u32,
    /// Filter or NAT.
    pub rule_collection_type: String,
    /// `Allow`, `Deny` or `DNAT`.
    pub action: String,
    /// Rules in written order.
    #[serde(default)]
    pub rules: Vec<FirewallRule>,
}

/// A rule of any of the three types; the fields of the others are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirewallRule {
    /// Its name.
    pub name: String,
    /// `NetworkRule`, `ApplicationRule`, `NatRule`.
    pub rule_type: String,
    /// `TCP`, `UDP`, `ICMP`, `Any`.
    pub ip_protocols: Vec<String>,
    /// Sources.
    pub source_addresses: Vec<String>,
    /// Sources by IP group.
    pub source_ip_groups: Vec<String>,
    /// Destinations.
    pub destination_addresses: Vec<String>,
    /// Destinations by IP group.
    pub destination_ip_groups: Vec<String>,
    /// Ports or ranges.
    pub destination_ports: Many,
}

/// An IP group.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum IpGroup {
    /// The short form.
    List(Vec<String>),
    /// REST's form.
    #[serde(rename_all = "camelCase")]
    Object {
        /// The same list.
        ip_addresses: Vec<String>,
    },
}

impl IpGroup {
    /// Addresses, prefixes and ranges.
    pub fn list(&self) -> &[String] {
        match self {
            IpGroup::List(list) | IpGroup::Object { ip_addresses: list } => list,
        }
    }
}
