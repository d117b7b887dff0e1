//! Local network gateways and on-premises sites.

use super::{Check, Owners};
use crate::{diagnostic::Finding, model::OnPremisesSite};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, local) in &topology.local_network_gateways {
        let path = format!("localNetworkGateways.{name}");
        let address = local.gateway_ip_address;
        let mut devices = topology.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref());
        if !devices.any(|device| device.public_ip_address == address) {
            let finding = Finding::warning(
                "no-such-device",
                format!("no site has a VPN device with the address {address}"),
            );
            let help = "add vpnDevice: {publicIPAddress: ...} with this address to a site; until then nothing answers there";
            check.at(&format!("{path}.gatewayIpAddress"), finding.help(help));
        }
        super::bgp::local(check, &path, local);
    }
    for (name, site) in &topology.on_premises_sites {
        one_site(check, name, site);
    }
}

fn one_site(check: &mut Check<'_, '_>, name: &str, site: &OnPremisesSite) {
    let path = format!("onPremisesSites.{name}");
    let mut taken = Owners::new();
    for (host, value) in &site.hosts {
        let v4 = value.addresses.iter().filter(|address| address.is_ipv4()).count();
        let base = format!("{path}.hosts.{host}.addresses");
        if v4 > 1 || value.addresses.len() - v4 > 1 {
            let finding = Finding::error("host-addresses", "a host has one address of each family at most");
            check.at(&base, finding.help("keep one IPv4 and one IPv6 address"));
        }
        for (index, address) in value.addresses.iter().enumerate() {
            let at = format!("{base}[{index}]");
            if !site.address_space.iter().any(|net| net.contains(address)) {
                let finding = Finding::error(
                    "host-outside-site",
                    format!("{address} is not inside the address space of '{name}'"),
                );
                check.at(
                    &at,
                    finding.help("choose an address in the site's addressSpace, or add its range there"),
                );
            }
            if let Some(first) = taken.take(*address, || host.clone()) {
                let finding = Finding::error(
                    "address-in-use",
                    format!("{address} is the address of '{first}' already"),
                );
                check.at(&at, finding.help("give each host its own"));
            }
        }
    }
    if let Some(device) = &site.vpn_device {
        super::bgp::device(check, &format!("{path}.vpnDevice"), device);
    }
}
