//! The way out: which public address the internet sees, and what no method carries.

use std::net::{IpAddr, Ipv4Addr};

use vnet_dataplane::{Protocol, Reason};

use super::lab::{Lab, NatGateway};
use super::walk::{Endpoint, Packet};

/// The address of Azure's own that machines without another way out are seen by: nobody knows it before.
pub const DEFAULT_OUTBOUND: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A translation of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Who translates.
    pub by: Endpoint,
    /// The address that the other side sees.
    pub seen: IpAddr,
    /// The address to which answers go back.
    pub source: IpAddr,
    /// For a flow from the internet: the machine's own address that it reaches.
    pub inbound: Option<IpAddr>,
}

/// The address that the internet sees of a machine: its subnet's NAT gateway's, its own public one, or one that
/// Azure lends; and whether it shares that address with others, by ports.
///
/// # Errors
/// `ProtocolNotSupported` where the method does not carry the protocol; `NoRoute` where there is no method.
pub fn machine(
    lab: &Lab,
    (vnet, subnet): (&str, &str),
    vm: &str,
    index: usize,
    packet: &Packet,
) -> Result<(IpAddr, bool), Reason> {
    let v4 = packet.source.is_ipv4();
    let subnet = &lab.vnet(vnet).subnets[subnet];
    let machine = &lab.virtual_machines[vm];
    // Whoever forwards for others has to translate by itself; private endpoints have no way out.
    if !machine.nics[index].addresses.contains(&packet.source) || machine.is_private_endpoint {
        return Err(Reason::NoRoute);
    }
    if let Some(address) = of_nat_gateway(lab, subnet.nat_gateway.as_deref(), packet)? {
        return Ok((address, true));
    }
    if let Some(public) = machine.nics[index].public(v4) {
        return Ok((public, false));
    }
    let otherwise = lab.semantics.default_outbound.as_deref() != Some("disabled");
    if !v4 || !subnet.default_outbound_access.unwrap_or(otherwise) {
        return Err(Reason::NoRoute);
    }
    if packet.protocol.is_icmp() { Err(Reason::ProtocolNotSupported) } else { Ok((DEFAULT_OUTBOUND, true)) }
}

fn of_nat_gateway(lab: &Lab, name: Option<&str>, packet: &Packet) -> Result<Option<IpAddr>, Reason> {
    let Some(name) = name else { return Ok(None) };
    let NatGateway { sku, publics } = &lab.nat_gateways[name];
    let same = publics.iter().find(|address| address.is_ipv4() == packet.source.is_ipv4());
    let Some(address) = same.copied() else { return Ok(None) };
    let carries_icmp = sku.as_deref() == Some("StandardV2");
    let carried = match packet.protocol {
        Protocol::TCP | Protocol::UDP => true,
        protocol => protocol.is_icmp() && carries_icmp,
    };
    if carried { Ok(Some(address)) } else { Err(Reason::ProtocolNotSupported) }
}

/// The address that the internet sees of a firewall.
///
/// # Errors
/// As for machines.
pub fn firewall(lab: &Lab, name: &str, packet: &Packet) -> Result<IpAddr, Reason> {
    let firewall = &lab.azure_firewalls[name];
    let subnet = &lab.vnet(&firewall.virtual_network).subnets["AzureFirewallSubnet"];
    if let Some(address) = of_nat_gateway(lab, subnet.nat_gateway.as_deref(), packet)? {
        return Ok(address);
    }
    if packet.protocol != Protocol::TCP && packet.protocol != Protocol::UDP {
        return Err(Reason::ProtocolNotSupported);
    }
    firewall.public.first().copied().ok_or(Reason::NoRoute)
}
