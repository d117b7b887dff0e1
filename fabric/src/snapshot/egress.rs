//! The ways out to the Internet, compiled: who translates sources to which addresses and ports.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_dataplane::{FunctionId, PortPool};

use super::lpm::contains;
use crate::trace::RuleId;

/// The lowest port that translation uses.
const FIRST_PORT: u16 = 1_024;
/// Ports of one public address of a firewall: 2,496 for each of its two instances.
const FIREWALL_PORTS: u16 = 2 * 2_496;

/// A NAT gateway.
#[derive(Clone, Debug)]
pub(crate) struct NatGateway {
    pub(crate) name: Arc<str>,
    /// The network whose subnets use it.
    pub(crate) network: usize,
    pub(crate) function: FunctionId,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) idle_minutes: u8,
    /// Whether it translates ICMP, as SKU StandardV2 does.
    pub(crate) icmp: bool,
    pub(crate) rule: RuleId,
}

/// The address that Azure lends to machines of a network that have no other way out.
#[derive(Clone, Debug)]
pub(crate) struct DefaultOutbound {
    pub(crate) function: FunctionId,
    pub(crate) address: IpAddr,
}

/// What a firewall does with sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirewallSnat {
    pub(crate) public: Vec<IpAddr>,
    /// Its instances' addresses in AzureFirewallSubnet.
    pub(crate) instances: Vec<IpAddr>,
    /// Destinations that see the original source.
    pub(crate) untranslated: Vec<IpNet>,
}

impl FirewallSnat {
    /// Whether packets to this destination keep their source.
    pub(crate) fn spares(&self, destination: IpAddr) -> bool {
        contains(&self.untranslated, destination)
    }
}

/// Every port that is not reserved, of each address.
pub(crate) fn all_ports(addresses: &[IpAddr]) -> PortPool<'_> {
    PortPool { addresses, first_port: FIRST_PORT, last_port: u16::MAX }
}

/// The ports that a firewall has of each address.
pub(crate) fn firewall_ports(addresses: &[IpAddr]) -> PortPool<'_> {
    PortPool { addresses, first_port: FIRST_PORT, last_port: FIRST_PORT + FIREWALL_PORTS - 1 }
}

/// Whose a public address is that the internet edge takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdgeAddress {
    /// A NIC's, for this private address; `open` where it takes what no security group guards against.
    Nic {
        nic: usize,
        private: IpAddr,
        open: bool,
    },
    NatGateway(usize),
    /// Azure's own, lent to this network.
    DefaultOutbound(usize),
    Firewall(usize),
}

/// Whether a host's own network may take a packet for this address: an IPv4 unicast address of the Internet.
pub(crate) fn is_public(destination: IpAddr) -> bool {
    let IpAddr::V4(address) = destination else { return false };
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    !(shared
        || a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internets_addresses_are_public() {
        for inside in [
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "2001:db8::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "203.0.113.80"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }
}
