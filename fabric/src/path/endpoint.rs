//! Who talks to whom: names and addresses resolved to ports.

use std::net::IpAddr;

use vnet_dataplane::PortId;

use crate::effective::{QuestionError, find_nics, unknown};
use crate::snapshot::{PortInfo, Snapshot};

/// One end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was asked.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its packets enter the router; the internet edge for hosts of the Internet.
    pub port: Option<PortId>,
}

impl Endpoint {
    /// Resolves a VM, `VM/NIC`, host, firewall, gateway or address.
    ///
    /// # Errors
    /// Nothing has that name.
    pub fn resolve(snapshot: &Snapshot, name: &str) -> Result<Endpoint, QuestionError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Endpoint {
                name: name.to_owned(),
                addresses: vec![address],
                port: holder(snapshot, address),
            });
        }
        if let Some(nics) = find_nics(snapshot, name) {
            return from_port(snapshot, name, nics[0].port);
        }
        if let Some(port) = snapshot.names.site_hosts.get(name) {
            return from_port(snapshot, name, *port);
        }
        if let Some(addresses) = snapshot.names.internet_hosts.get(name) {
            return Ok(Endpoint { name: name.to_owned(), addresses: addresses.clone(), port: snapshot.edge });
        }
        let firewall =
            snapshot.firewalls.iter().find(|firewall| &*firewall.name == name).map(|firewall| firewall.port);
        let gateway = || {
            snapshot
                .gateways
                .iter()
                .find(|gateway| &*gateway.name == name)?
                .instances
                .first()
                .map(|instance| instance.port)
        };
        let named = || snapshot.port_by_name(name).map(|port| port.id);
        match firewall.or_else(gateway).or_else(named) {
            Some(port) => from_port(snapshot, name, port),
            None => Err(unknown(snapshot, name)),
        }
    }
}

fn from_port(snapshot: &Snapshot, name: &str, port: PortId) -> Result<Endpoint, QuestionError> {
    let info = snapshot.port(port).ok_or_else(|| unknown(snapshot, name))?;
    Ok(Endpoint { name: name.to_owned(), addresses: addresses(info), port: Some(port) })
}

fn addresses(port: &PortInfo) -> Vec<IpAddr> {
    port.addresses.iter().map(ipnet::IpNet::addr).collect()
}

/// The only port that holds an address; the internet edge for an address that nobody in the lab holds privately.
fn holder(snapshot: &Snapshot, address: IpAddr) -> Option<PortId> {
    let mut holders = snapshot.ports().filter(|port| port.has_address(address)).map(|port| port.id);
    match (holders.next(), holders.next()) {
        (Some(port), None) => Some(port),
        (None, _) => snapshot.edge,
        _ => None,
    }
}

/// The pair of addresses that two ends use: IPv4 where both have it.
pub(super) fn common_addresses(from: &Endpoint, to: &Endpoint) -> Result<(IpAddr, IpAddr), QuestionError> {
    let of = |end: &Endpoint, v4: bool| end.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    [true, false]
        .into_iter()
        .find_map(|v4| Some((of(from, v4)?, of(to, v4)?)))
        .ok_or_else(|| QuestionError::NoCommonFamily(from.name.clone(), to.name.clone()))
}
