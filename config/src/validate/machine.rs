//! Virtual machines: their NICs, private and public addresses.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    APPLIANCE_SUBNETS, Check, Owners,
    network::{is_reserved, usable},
};
use crate::{
    diagnostic::Finding,
    model::{NetworkInterface, Subnet, SubnetRef, VirtualMachine},
};

/// Longest name of a Linux network interface.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut private = Owners::new();
    let mut nics_in: HashMap<&SubnetRef, Vec<String>> = HashMap::new();
    let mut members: HashMap<&str, (&str, String)> = HashMap::new();
    for (name, machine) in &topology.virtual_machines {
        let mut names = Owners::new();
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let path = format!("virtualMachines.{name}.networkInterfaces[{index}]");
            interface_name(check, &path, nic, &mut names);
            references(check, &path, machine, nic);
            if let Some(subnet) = subnet_of(check, &path, &nic.subnet) {
                addresses(check, &path, nic, subnet, &mut private);
                nics_in.entry(&nic.subnet).or_default().push(path.clone());
            }
            for (position, group) in nic.application_security_groups.iter().enumerate() {
                let at = format!("{path}.applicationSecurityGroups[{position}]");
                group_member(check, &at, group, &nic.subnet.virtual_network, &mut members);
            }
        }
        files(check, name, machine);
    }
    full_subnets(check, &nics_in);
    public_addresses(check);
}

fn interface_name(check: &mut Check<'_, '_>, path: &str, nic: &NetworkInterface, names: &mut Owners<String>) {
    let is_word = nic.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !is_word || nic.name.len() > INTERFACE_NAME_BYTES_MAX || matches!(nic.name.as_str(), "lo" | "." | "..")
    {
        let finding = Finding::error(
            "nic-name",
            format!("'{}' cannot name a network interface", super::names::shown(&nic.name)),
        );
        check.at(
            &format!("{path}.name"),
            finding.help("use 1 to 15 letters, digits, '-', '_' and '.', or leave the name out"),
        );
    }
    if names.take(nic.name.clone(), || path.to_owned()).is_some() {
        let finding = Finding::error("nic-name", format!("the machine has another interface '{}'", nic.name));
        check.at(&format!("{path}.name"), finding.help("leave the names out: they are eth0, eth1, ... then"));
    }
}

fn references(check: &mut Check<'_, '_>, path: &str, machine: &VirtualMachine, nic: &NetworkInterface) {
    let topology = check.topology;
    let first = &machine.network_interfaces[0].subnet.virtual_network;
    if &nic.subnet.virtual_network != first {
        let message =
            format!("this NIC is in '{}', the machine's first one in '{first}'", nic.subnet.virtual_network);
        let finding = Finding::error("nics-in-two-networks", message);
        check.at(&format!("{path}.subnet"), finding.help("all NICs of a machine are in one virtual network"));
    }
    if let Some(group) = &nic.network_security_group {
        let at = format!("{path}.networkSecurityGroup");
        let groups = &topology.network_security_groups;
        if check.refers(&at, "networkSecurityGroups", groups, group, "network security group") {
            let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
            let region = check.region(network.and_then(|network| network.location.as_deref())).to_owned();
            if groups[group].location.as_ref().is_some_and(|location| *location != region) {
                let finding = Finding::error(
                    "other-region",
                    format!("the network security group is not in {region}, where the NIC is"),
                );
                check.at(&at, finding.code("InvalidResourceReference").help("remove the group's location"));
            }
        }
    }
}

/// The subnet that `reference` names, where a machine may be in it.
fn subnet_of<'a>(check: &mut Check<'a, '_>, path: &str, reference: &SubnetRef) -> Option<&'a Subnet> {
    let topology = check.topology;
    let at = format!("{path}.subnet");
    let SubnetRef { virtual_network, subnet } = reference;
    if !check.refers(&at, "virtualNetworks", &topology.virtual_networks, virtual_network, "virtual network") {
        return None;
    }
    if APPLIANCE_SUBNETS.contains(&subnet.as_str()) {
        let finding =
            Finding::error("machine-in-appliance-subnet", format!("no virtual machine can be in {subnet}"));
        check.at(
            &at,
            finding.help(format!(
                "{subnet} is for Azure's own appliances: use another subnet of '{virtual_network}'"
            )),
        );
        return None;
    }
    let network = &topology.virtual_networks[virtual_network];
    let section = format!("virtualNetworks.{virtual_network}.subnets");
    check.refers(&at, &section, &network.subnets, subnet, "subnet").then(|| &network.subnets[subnet])
}

fn addresses(
    check: &mut Check<'_, '_>,
    path: &str,
    nic: &NetworkInterface,
    subnet: &Subnet,
    private: &mut Owners<(String, IpAddr)>,
) {
    for (index, address) in nic.private_ip_addresses.iter().enumerate() {
        let at = format!("{path}.privateIPAddresses[{index}]");
        let Some(net) = subnet.address_prefixes.iter().find(|net| net.contains(address)) else {
            let prefixes: Vec<String> = subnet.address_prefixes.iter().map(ToString::to_string).collect();
            let finding = Finding::error(
                "address-outside-subnet",
                format!("{address} is not inside the subnet {}", nic.subnet),
            );
            let help = format!("choose an address in {}", prefixes.join(", "));
            check.at(&at, finding.code("PrivateIPAddressNotInSubnet").help(help));
            continue;
        };
        if is_reserved(net, *address) {
            let finding = Finding::error(
                "reserved-address",
                format!("{address} is one of the addresses of {net} that Azure keeps"),
            );
            let help = match net {
                IpNet::V4(_) => "the first four and the last address of a subnet are Azure's: begin at .4",
                IpNet::V6(_) => "the first four addresses of a subnet are Azure's: begin at ::4",
            };
            check.at(&at, finding.code("PrivateIPAddressInReservedRange").help(help));
        }
        let key = (nic.subnet.virtual_network.clone(), *address);
        if let Some(first) = private.take(key, || path.to_owned()) {
            let finding =
                Finding::error("address-in-use", format!("{address} is taken by {}", owner(&first)));
            check.at(
                &at,
                finding
                    .code("PrivateIPAddressInUse")
                    .help("choose a free address, or leave it out to get one"),
            );
        }
    }
}

/// `virtualMachines.web.networkInterfaces[0]` in a person's words.
fn owner(path: &str) -> String {
    match path.strip_prefix("virtualMachines.").and_then(|rest| rest.split_once(".networkInterfaces")) {
        Some((machine, _)) => format!("the virtual machine '{machine}'"),
        None => path.to_owned(),
    }
}

fn group_member<'t>(
    check: &mut Check<'t, '_>,
    at: &str,
    group: &'t str,
    network: &'t str,
    members: &mut HashMap<&'t str, (&'t str, String)>,
) {
    let groups = &check.topology.application_security_groups;
    if !check.refers(at, "applicationSecurityGroups", groups, group, "application security group") {
        return;
    }
    let (first, by) = members.entry(group).or_insert_with(|| (network, at.to_owned()));
    if *first != network {
        let message = format!(
            "the members of '{group}' are in '{first}' since {}; this NIC is in '{network}'",
            owner(by)
        );
        let finding = Finding::error("group-in-two-networks", message);
        check.at(at, finding.help("use one application security group for each virtual network"));
    }
}

fn files(check: &mut Check<'_, '_>, name: &str, machine: &VirtualMachine) {
    for inside in machine.files.keys() {
        let is_plain =
            inside.starts_with('/') && !inside.ends_with('/') && !inside.split('/').any(|part| part == "..");
        if !is_plain || inside.contains('\0') {
            let finding = Finding::error(
                "file-path",
                format!("'{}' is no absolute path of a file", super::names::shown(inside)),
            );
            let path = format!("virtualMachines.{name}.files.{inside}");
            check.at_name(&path, finding.help("write a path such as /etc/nva.nft, without '..'"));
        }
    }
}

fn full_subnets(check: &mut Check<'_, '_>, nics_in: &HashMap<&SubnetRef, Vec<String>>) {
    let topology = check.topology;
    for (reference, nics) in nics_in {
        let Some(network) = topology.virtual_networks.get(&reference.virtual_network) else { continue };
        let Some(subnet) = network.subnets.get(&reference.subnet) else { continue };
        let v4: Vec<&IpNet> =
            subnet.address_prefixes.iter().filter(|net| matches!(net, IpNet::V4(_))).collect();
        let room = v4.iter().map(|net| usable(net)).fold(0u64, u64::saturating_add);
        let Some(over) = usize::try_from(room).ok().and_then(|room| nics.get(room)) else { continue };
        if !v4.is_empty() {
            let message = format!("{reference} has room for {room} NICs, and {} are in it", nics.len());
            let finding = Finding::error("subnet-full", message).code("SubnetIsFull");
            check.at(&format!("{over}.subnet"), finding.help("make the subnet larger, or use another one"));
        }
    }
}

/// Public addresses of everything that can have one: unique in the lab, and not private.
fn public_addresses(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut all: Vec<(String, IpAddr)> = Vec::new();
    let mut add = |path: String, addresses: &[IpAddr]| {
        all.extend(
            addresses.iter().enumerate().map(|(index, address)| (format!("{path}[{index}]"), *address)),
        );
    };
    for (name, machine) in &topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            add(
                format!("virtualMachines.{name}.networkInterfaces[{index}].publicIPAddresses"),
                &nic.public_ip_addresses,
            );
        }
    }
    for (name, firewall) in &topology.azure_firewalls {
        add(format!("azureFirewalls.{name}.publicIPAddresses"), &firewall.public_ip_addresses);
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        add(format!("virtualNetworkGateways.{name}.publicIPAddresses"), &gateway.public_ip_addresses);
    }
    for (name, host) in &topology.internet.hosts {
        add(format!("internet.hosts.{name}.addresses"), &host.addresses);
    }
    for (name, site) in &topology.on_premises_sites {
        if let Some(device) = &site.vpn_device {
            all.push((format!("onPremisesSites.{name}.vpnDevice.publicIPAddress"), device.public_ip_address));
        }
    }
    let mut taken = Owners::new();
    for (path, address) in all {
        if let Some(first) = taken.take(address, || path.clone()) {
            let finding = Finding::error(
                "public-address-in-use",
                format!("{address} is the public address of {first} already"),
            );
            check.at(
                &path,
                finding.help("give each its own, such as one of 203.0.113.0/24 or 198.51.100.0/24"),
            );
        }
        if !is_public(address) {
            let finding = Finding::error("not-public", format!("{address} is no public address"));
            check.at(
                &path,
                finding.help(
                    "use one of 203.0.113.0/24, 198.51.100.0/24 or 2001:db8::/32, which are for examples",
                ),
            );
        }
    }
    families(check);
}

fn families(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, machine) in &topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let v4 = nic.public_ip_addresses.iter().filter(|address| address.is_ipv4()).count();
            if v4 > 1 || nic.public_ip_addresses.len() - v4 > 1 {
                let path = format!("virtualMachines.{name}.networkInterfaces[{index}].publicIPAddresses");
                let finding = Finding::error(
                    "public-addresses-of-nic",
                    "a NIC has one public address of each family at most",
                );
                check.at(&path, finding.help("keep one IPv4 and one IPv6 address"));
            }
        }
    }
}

pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let shared = u32::from(address) >> 22 == u32::from_be_bytes([100, 64, 0, 0]) >> 22;
            !(address.is_private()
                || shared
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.octets() == [168, 63, 129, 16])
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            !(first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || address.is_multicast()
                || address.is_loopback()
                || address.is_unspecified())
        }
    }
}
