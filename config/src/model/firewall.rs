//! Azure Firewall, its policies and IP groups.

use std::net::IpAddr;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{AddressSpec, Cidr, PortRange, PublicIpRef};

/// An Azure Firewall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureFirewall {
    /// The virtual network whose AzureFirewallSubnet it is in.
    pub virtual_network: String,
    /// Its tier.
    #[serde(default)]
    #[schemars(extend("x-object" = ["tier", "name"]))]
    pub sku: FirewallSku,
    /// Name of its policy; without one it denies everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub firewall_policy: Option<String>,
    /// Its public addresses: literals, or names of `publicIPAddresses`.
    #[serde(default, rename = "publicIPAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<PublicIpRef>", extend("x-alias" = "publicIPAddress"))]
    pub public_ip_addresses: Vec<IpAddr>,
    /// Availability zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<u8>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// The tier of a firewall or of a policy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FirewallSku {
    /// Basic: 250 Mb/s, threat intelligence alerts only.
    Basic,
    /// Standard.
    #[default]
    Standard,
    /// Premium.
    Premium,
}

/// A firewall policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirewallPolicy {
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["tier"]))]
    pub sku: Option<FirewallSku>,
    /// Name of the policy that it inherits from; the parent's rules come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub base_policy: Option<String>,
    /// What threat intelligence does.
    #[serde(default)]
    pub threat_intel_mode: ThreatIntelMode,
    /// Source translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<FirewallSnat>,
    /// Its rules, in groups.
    #[serde(default)]
    pub rule_collection_groups: Vec<RuleCollectionGroup>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// What threat intelligence does with known bad addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ThreatIntelMode {
    /// Nothing.
    Off,
    /// It reports.
    #[default]
    Alert,
    /// It reports and denies.
    Deny,
}

/// Source translation of a firewall policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirewallSnat {
    /// Destinations that are not translated; the private ranges of RFC 1918 and RFC 6598 where none is given.
    #[serde(default)]
    #[schemars(with = "Vec<Cidr>")]
    pub private_ranges: Vec<IpNet>,
}

/// A group of rule collections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleCollectionGroup {
    /// Its name, unique in the policy.
    pub name: String,
    /// 100 to 65000, the lowest first.
    pub priority: u32,
    /// Its collections.
    #[serde(default)]
    pub rule_collections: Vec<RuleCollection>,
}

/// A collection of firewall rules with one action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleCollection {
    /// Its name, unique in the group.
    pub name: String,
    /// 100 to 65000, the lowest first.
    pub priority: u32,
    /// Filter rules or translation rules.
    #[serde(default)]
    pub rule_collection_type: RuleCollectionType,
    /// What its rules do: Allow or Deny in a filter collection, DNAT in a translation collection.
    #[schemars(extend("x-object" = ["type"]))]
    pub action: RuleAction,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<FirewallRule>,
}

/// The kind of a rule collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleCollectionType {
    /// Network and application rules.
    #[default]
    #[serde(rename = "FirewallPolicyFilterRuleCollection")]
    Filter,
    /// Destination translation rules.
    #[serde(rename = "FirewallPolicyNatRuleCollection")]
    Nat,
}

/// What the rules of a collection do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    /// The connection passes.
    Allow,
    /// The connection is dropped.
    Deny,
    /// The destination is translated.
    #[serde(rename = "DNAT")]
    Dnat,
}

/// A firewall rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "ruleType")]
pub enum FirewallRule {
    /// By addresses, protocol and ports.
    NetworkRule(NetworkRule),
    /// By names and application protocol.
    ApplicationRule(ApplicationRule),
    /// Translates the destination.
    NatRule(NatRule),
}

impl FirewallRule {
    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::NetworkRule(rule) => &rule.name,
            Self::ApplicationRule(rule) => &rule.name,
            Self::NatRule(rule) => &rule.name,
        }
    }
}

/// A firewall rule by addresses, protocol and ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkRule {
    /// Its name, unique in the collection.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Protocols.
    #[schemars(length(min = 1))]
    pub ip_protocols: Vec<FirewallProtocol>,
    /// Sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<AddressSpec>,
    /// IP groups as sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ip_groups: Vec<String>,
    /// Destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_addresses: Vec<AddressSpec>,
    /// IP groups as destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_ip_groups: Vec<String>,
    /// Names as destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_fqdns: Vec<String>,
    /// Destination ports; for ICMP `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<PortRange>,
}

/// The protocol of a network rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-values" = {"*": "Any"}))]
pub enum FirewallProtocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// ICMP.
    #[serde(rename = "ICMP")]
    Icmp,
    /// Every protocol.
    Any,
}

/// A firewall rule by names and application protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationRule {
    /// Its name, unique in the collection.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<AddressSpec>,
    /// IP groups as sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ip_groups: Vec<String>,
    /// Names that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_fqdns: Vec<String>,
    /// FQDN tags that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fqdn_tags: Vec<String>,
    /// Application protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ApplicationProtocol>,
    /// Whether TLS is opened for inspection.
    #[serde(default, rename = "terminateTLS")]
    pub terminate_tls: bool,
}

/// An application protocol and its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationProtocol {
    /// The protocol.
    pub protocol_type: ApplicationProtocolType,
    /// The port.
    pub port: u16,
}

/// An application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplicationProtocolType {
    /// HTTP.
    Http,
    /// HTTPS.
    Https,
    /// SQL Server.
    Mssql,
}

/// A firewall rule that translates the destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatRule {
    /// Its name, unique in the collection.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Protocols.
    #[schemars(length(min = 1))]
    pub ip_protocols: Vec<FirewallProtocol>,
    /// Sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<AddressSpec>,
    /// IP groups as sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ip_groups: Vec<String>,
    /// The firewall's addresses that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_addresses: Vec<AddressSpec>,
    /// Ports that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<PortRange>,
    /// Address of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_address: Option<IpAddr>,
    /// Name of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_fqdn: Option<String>,
    /// Port of the target.
    pub translated_port: u16,
}

/// A named list of addresses. Short form: the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "ipAddresses"))]
pub struct IpGroup {
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Addresses, prefixes and ranges.
    pub ip_addresses: Vec<AddressSpec>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}
