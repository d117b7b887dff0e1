//! The way out: which public address the internet sees, and what no method carries.

use std::net::{IpAddr, Ipv4Addr};

use vnet_dataplane::{Protocol, Reason};

use super::lab::{Lab, NatGateway};
use super::session::Function;
use super::walk::Packet;

/// The address of Azure's own that machines without another way out are seen by: nobody knows it before.
pub const DEFAULT_OUTBOUND: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What stands for a NAT gateway's name where flows leave by it.
pub const DEFAULT_OUTBOUND_NAME: &str = "default outbound access";

/// How a machine's packet leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// Who remembers the flow.
    pub function: Function,
    /// The address that the other side sees.
    pub seen: IpAddr,
    /// Others share that address, each by ports of its own.
    pub by_ports: bool,
}

/// How a new flow of a machine leaves: by its subnet's NAT gateway, its own public address, or one that Azure lends.
///
/// # Errors
/// `ProtocolNotSupported` where the method does not carry the protocol; `NoRoute` where there is no method.
pub fn machine(
    lab: &Lab,
    (vnet, subnet): (&str, &str),
    vm: &str,
    index: usize,
    packet: &Packet,
) -> Result<WayOut, Reason> {
    let v4 = packet.source.is_ipv4();
    let by_ports = |by: &str, seen| {
        let function = Function::Ports(vnet.to_owned(), by.to_owned());
        WayOut { function, seen, by_ports: true }
    };
    let subnet = &lab.vnet(vnet).subnets[subnet];
    let machine = &lab.virtual_machines[vm];
    // Whoever forwards for others has to translate by itself; private endpoints have no way out.
    if !machine.nics[index].addresses.contains(&packet.source) || machine.is_private_endpoint {
        return Err(Reason::NoRoute);
    }
    if let Some(gateway) = &subnet.nat_gateway
        && let Some(address) = of_nat_gateway(lab, gateway, packet)?
    {
        return Ok(by_ports(gateway, address));
    }
    if let Some(seen) = machine.nics[index].public(v4) {
        return Ok(WayOut { function: Function::Edge(vm.to_owned(), index), seen, by_ports: false });
    }
    let otherwise = lab.semantics.default_outbound.as_deref() != Some("disabled");
    if !v4 || !subnet.default_outbound_access.unwrap_or(otherwise) {
        return Err(Reason::NoRoute);
    }
    if packet.protocol.is_icmp() {
        return Err(Reason::ProtocolNotSupported);
    }
    Ok(by_ports(DEFAULT_OUTBOUND_NAME, DEFAULT_OUTBOUND))
}

/// The address that the internet sees of what a NAT gateway translates; none where it has none of the packet's family.
///
/// # Errors
/// `ProtocolNotSupported`.
pub fn of_nat_gateway(lab: &Lab, name: &str, packet: &Packet) -> Result<Option<IpAddr>, Reason> {
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
