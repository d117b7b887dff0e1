//! Virtual machines: their NICs, private and public addresses.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    APPLIANCE_SUBNETS, Check, Owners,
    network::{is_reserved, usable},
};
use crate::{
    diagnostic::Finding,
    limit::ADDRESSES_PER_NIC,
    model::{NetworkInterface, Subnet, SubnetRef, VirtualMachine},
};

/// Longest name of a Linux network interface.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// Who has which private address, and how many are in each subnet.
pub(super) struct Seats<'t> {
    private: Owners<(&'t str, IpAddr)>,
    taken_in: HashMap<&'t SubnetRef, Vec<String>>,
}

impl<'t> Seats<'t> {
    /// Counts what stands at `path` as one more in the subnet.
    pub(super) fn sit(&mut self, subnet: &'t SubnetRef, path: String) {
        self.taken_in.entry(subnet).or_default().push(path);
    }
}

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut seats = Seats { private: Owners::new(), taken_in: HashMap::new() };
    for (name, machine) in &topology.virtual_machines {
        let mut names = Owners::new();
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let path = format!("virtualMachines.{name}.networkInterfaces[{index}]");
            interface_name(check, &path, nic, &mut names);
            references(check, &path, machine, nic);
            if let Some(subnet) = subnet_of(check, &path, &nic.subnet, "virtual machine") {
                for (position, own) in nic.private_ip_addresses.iter().enumerate() {
                    let at = format!("{path}.privateIPAddresses[{position}]");
                    address(check, &at, &path, *own, (&nic.subnet, subnet), &mut seats);
                }
                seats.sit(&nic.subnet, path.clone());
            }
            let addresses = format!("{path}.privateIPAddresses");
            check.limit(&addresses, name, nic.private_ip_addresses.len(), &ADDRESSES_PER_NIC);
        }
        files(check, name, machine);
    }
    super::endpoint::check(check, &mut seats);
    full_subnets(check, &seats.taken_in);
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
            let place = (groups[group].location.as_deref(), groups[group].subscription.as_deref());
            if let Some(network) = topology.virtual_networks.get(&nic.subnet.virtual_network) {
                super::network::same_place(check, &at, network, place, "network security group");
            }
        }
    }
}

/// The subnet that `reference` names, where something of the `kind` may be in it.
pub(super) fn subnet_of<'a>(
    check: &mut Check<'a, '_>,
    path: &str,
    reference: &SubnetRef,
    kind: &str,
) -> Option<&'a Subnet> {
    let topology = check.topology;
    let at = format!("{path}.subnet");
    let SubnetRef { virtual_network, subnet } = reference;
    if !check.refers(&at, "virtualNetworks", &topology.virtual_networks, virtual_network, "virtual network") {
        return None;
    }
    if APPLIANCE_SUBNETS.contains(&subnet.as_str()) {
        let finding = Finding::error("machine-in-appliance-subnet", format!("no {kind} can be in {subnet}"));
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

/// Checks a private address that the file gives to what stands at `owner`.
pub(super) fn address<'t>(
    check: &mut Check<'t, '_>,
    at: &str,
    owner: &str,
    address: IpAddr,
    (reference, subnet): (&'t SubnetRef, &Subnet),
    seats: &mut Seats<'t>,
) {
    let Some(net) = subnet.address_prefixes.iter().find(|net| net.contains(&address)) else {
        let prefixes: Vec<String> = subnet.address_prefixes.iter().map(ToString::to_string).collect();
        let message = format!("{address} is not inside the subnet {reference}");
        let finding = Finding::error("address-outside-subnet", message).code("PrivateIPAddressNotInSubnet");
        check.at(at, finding.help(format!("choose an address in {}", prefixes.join(", "))));
        return;
    };
    if is_reserved(net, address) {
        let message = format!("{address} is one of the addresses of {net} that Azure keeps");
        let help = match net {
            IpNet::V4(_) => "the first four and the last address of a subnet are Azure's: begin at .4",
            IpNet::V6(_) => "the first four addresses of a subnet are Azure's: begin at ::4",
        };
        let finding = Finding::error("reserved-address", message).code("PrivateIPAddressInReservedRange");
        check.at(at, finding.help(help));
    }
    let key = (reference.virtual_network.as_str(), address);
    if let Some(first) = seats.private.take(key, || owner.to_owned()) {
        let message = format!("{address} is taken by {}", shown_owner(&first));
        let finding = Finding::error("address-in-use", message).code("PrivateIPAddressInUse");
        check.at(at, finding.help("choose a free address, or leave it out to get one"));
    }
}

/// `virtualMachines.web.networkInterfaces[0]` in a person's words.
fn shown_owner(path: &str) -> String {
    if let Some(endpoint) = path.strip_prefix("privateEndpoints.") {
        return format!("the private endpoint '{endpoint}'");
    }
    match path.strip_prefix("virtualMachines.").and_then(|rest| rest.split_once(".networkInterfaces")) {
        Some((machine, _)) => format!("the virtual machine '{machine}'"),
        None => path.to_owned(),
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

fn full_subnets(check: &mut Check<'_, '_>, taken_in: &HashMap<&SubnetRef, Vec<String>>) {
    let topology = check.topology;
    for (reference, nics) in taken_in {
        let Some(network) = topology.virtual_networks.get(&reference.virtual_network) else { continue };
        let Some(subnet) = network.subnets.get(&reference.subnet) else { continue };
        let v4: Vec<&IpNet> =
            subnet.address_prefixes.iter().filter(|net| matches!(net, IpNet::V4(_))).collect();
        let room = v4.iter().map(|net| usable(net)).fold(0u64, u64::saturating_add);
        let Some(over) = usize::try_from(room).ok().and_then(|room| nics.get(room)) else { continue };
        if !v4.is_empty() {
            let message = format!(
                "{reference} has room for {room} NICs and private endpoints, and {} are in it",
                nics.len()
            );
            let finding = Finding::error("subnet-full", message).code("SubnetIsFull");
            check.at(&format!("{over}.subnet"), finding.help("make the subnet larger, or use another one"));
        }
    }
}
