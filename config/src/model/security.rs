//! Network security groups and application security groups.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{AddressSpec, PortRange};

/// A network security group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSecurityGroup {
    /// Its region; without one it stands for a copy in each region that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The subscription that it belongs to; that of the networks that use it where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Its rules. The six default rules stand behind them and are not written.
    #[serde(default)]
    pub security_rules: Vec<SecurityRule>,
    /// Whether live flows are decided again when a rule changes.
    #[serde(default)]
    pub flush_connection: bool,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// A rule of a network security group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityRule {
    /// Its name, unique in the group.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// 100 to 4096, the lowest first; unique in the group for each direction.
    pub priority: u16,
    /// The way of the packets that it judges.
    pub direction: Direction,
    /// The verdict.
    #[schemars(extend("x-object" = ["type"]))]
    pub access: Access,
    /// The protocol.
    pub protocol: SecurityProtocol,
    /// Sources. Empty where `sourceApplicationSecurityGroups` says whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-alias" = "sourceAddressPrefix"))]
    pub source_address_prefixes: Vec<AddressSpec>,
    /// Application security groups as sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_application_security_groups: Vec<String>,
    /// Source ports; every port where none is given.
    #[serde(default = "any_port")]
    #[schemars(extend("x-alias" = "sourcePortRange"))]
    pub source_port_ranges: Vec<PortRange>,
    /// Destinations. Empty where `destinationApplicationSecurityGroups` says whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-alias" = "destinationAddressPrefix"))]
    pub destination_address_prefixes: Vec<AddressSpec>,
    /// Application security groups as destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_application_security_groups: Vec<String>,
    /// Destination ports; every port where none is given.
    #[serde(default = "any_port")]
    #[schemars(extend("x-alias" = "destinationPortRange"))]
    pub destination_port_ranges: Vec<PortRange>,
}

fn any_port() -> Vec<PortRange> {
    vec![PortRange::ANY]
}

/// The way of the packets that a rule judges, as the NIC sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// Towards the NIC.
    Inbound,
    /// From the NIC.
    Outbound,
}

/// The verdict of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Access {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

/// The protocol of a security rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-values" = {"Any": "*"}))]
pub enum SecurityProtocol {
    /// Every protocol: `*`.
    #[serde(rename = "*")]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, and ICMPv6 for IPv6.
    Icmp,
    /// ESP.
    Esp,
    /// AH.
    Ah,
}

/// An application security group: a name that NICs join.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationSecurityGroup {
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}
