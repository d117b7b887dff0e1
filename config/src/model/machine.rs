//! Virtual machines and their network interfaces.

use std::net::IpAddr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    default_true,
    scalar::{FileSource, PublicIpRef, SubnetRef},
};

/// A virtual machine: one namespace. With one NIC, the NIC's properties may stand beside the machine's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-inline" = "networkInterfaces"))]
pub struct VirtualMachine {
    /// Its NICs, in order: `eth0`, `eth1`, ... inside the machine.
    #[schemars(length(min = 1))]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Availability zone: 1, 2 or 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub zone: Option<u8>,
    /// Free labels; `tag:NAME` in `expect` selects by them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
    /// Limit on what the machine sends, in Mb/s, as virtual machine sizes have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_mbps: Option<u32>,
    /// Files seen inside the machine only: path inside, and the file that holds the content.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub files: IndexMap<String, FileSource>,
    /// Commands run once when the machine is made, in order. `up` and `apply` wait for those that are not to be restarted, at most
    /// 2 seconds for all machines together; what takes longer, as a server, goes on beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<RunCommand>,
}

/// A network interface of a virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its name inside the machine. Never empty after loading: `eth0`, `eth1`, ... in order.
    #[serde(default)]
    pub name: String,
    /// The subnet that it is in.
    pub subnet: SubnetRef,
    /// Private addresses; where a family of the subnet is missing, its first free address is taken.
    #[serde(default, rename = "privateIPAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-alias" = "privateIPAddress"))]
    pub private_ip_addresses: Vec<IpAddr>,
    /// Public addresses, one of each family at most: literals, or names of `publicIPAddresses`.
    #[serde(default, rename = "publicIPAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<PublicIpRef>", extend("x-alias" = "publicIPAddress"))]
    pub public_ip_addresses: Vec<IpAddr>,
    /// Whether it may send and receive packets that are not of its own addresses.
    #[serde(default, rename = "enableIPForwarding")]
    pub enable_ip_forwarding: bool,
    /// Whether the NIC is of the kind that virtual network encryption needs.
    #[serde(default = "default_true")]
    pub enable_accelerated_networking: bool,
    /// Whether the state of TCP connections is not tracked: replies pass by rules alone.
    #[serde(default)]
    pub disable_tcp_state_tracking: bool,
    /// Name of the NSG that guards the NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub network_security_group: Option<String>,
    /// Names of the application security groups that it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub application_security_groups: Vec<String>,
}

/// A command run in a virtual machine. Short form: the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "command"))]
pub struct RunCommand {
    /// A line for `/bin/sh -c`.
    pub command: String,
    /// Whether the command is started again when it ends.
    #[serde(default)]
    pub restart: Restart,
}

/// Whether a command is started again when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Restart {
    /// It runs once.
    #[default]
    Never,
    /// It is started again whenever it ends.
    Always,
}
