//! Public addresses, NAT gateways and private endpoints.

use std::net::IpAddr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{PublicIpRef, SubnetRef};

/// A public address that others use by its name. Short form: the address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "ipAddress"))]
pub struct PublicIpAddress {
    /// Its region; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The address.
    pub ip_address: IpAddr,
    /// Its SKU.
    #[serde(default)]
    #[schemars(extend("x-object" = ["name", "tier"]))]
    pub sku: PublicIpSku,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// The SKU of a public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PublicIpSku {
    /// Basic, which Azure retired in September 2025: open to the Internet without a security group.
    Basic,
    /// Standard: closed to the Internet unless a security group opens it.
    #[default]
    Standard,
    /// StandardV2, for NAT gateways of that SKU.
    StandardV2,
}

/// A NAT gateway: the way out to the Internet of the subnets that name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatGateway {
    /// Its region; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The subscription that it belongs to; that of the networks that use it where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Its SKU.
    #[serde(default)]
    #[schemars(extend("x-object" = ["name"]))]
    pub sku: NatGatewaySku,
    /// The public addresses that packets leave from, 1 to 16: literals, or names of `publicIPAddresses`.
    #[serde(rename = "publicIPAddresses")]
    #[schemars(with = "Vec<PublicIpRef>", length(min = 1), extend("x-alias" = "publicIPAddress"))]
    pub public_ip_addresses: Vec<IpAddr>,
    /// Minutes after which an idle TCP connection is forgotten.
    #[serde(default = "default_idle_timeout")]
    #[schemars(range(min = 4, max = 120))]
    pub idle_timeout_in_minutes: u8,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

fn default_idle_timeout() -> u8 {
    4
}

/// The SKU of a NAT gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NatGatewaySku {
    /// Standard: in one zone, TCP and UDP.
    #[default]
    Standard,
    /// StandardV2: across zones, ICMP too.
    StandardV2,
}

/// A private endpoint: an address in a subnet that stands for a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrivateEndpoint {
    /// The subnet that it is in.
    pub subnet: SubnetRef,
    /// Its address; the first free one of the subnet where it is not given.
    #[serde(default, rename = "privateIPAddress", skip_serializing_if = "Option::is_none")]
    pub private_ip_address: Option<IpAddr>,
    /// The service that it stands for, in free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_link_service_connection: Option<String>,
    /// Free labels; `tag:NAME` in `expect` selects by them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}
