//! Public addresses as `show` lists them: those with a name of their own, those that others hold without one, and those
//! that Azure lends to networks for default outbound access.

use std::net::IpAddr;

use serde_json::json;
use vnet_api::Resource;
use vnet_config::model::Topology;
use vnet_fabric::Snapshot;

/// Every public address of the lab with its holder.
pub(super) fn all(topology: &Topology, snapshot: &Snapshot) -> Vec<Resource> {
    let held = holders(topology);
    let mut all: Vec<Resource> = Vec::new();
    for (name, public) in &topology.public_ip_addresses {
        let holder = held.iter().find(|(address, _)| *address == public.ip_address).map(|(_, holder)| holder);
        let mut resource = resource(name, public.ip_address, &format!("{:?}", public.sku), holder);
        resource.location.clone_from(&public.location);
        all.push(resource);
    }
    let named =
        |address: &IpAddr| topology.public_ip_addresses.values().any(|public| public.ip_address == *address);
    for (address, holder) in held.iter().filter(|(address, _)| !named(address)) {
        let sku = format!("{:?}", topology.public_ip_sku(*address));
        all.push(resource(&address.to_string(), *address, &sku, Some(holder)));
    }
    for (network, address) in snapshot.default_outbound_addresses() {
        let holder = format!("default outbound access of {network}");
        all.push(resource(&address.to_string(), address, "Microsoft", Some(&holder)));
    }
    all
}

fn resource(name: &str, address: IpAddr, sku: &str, holder: Option<&String>) -> Resource {
    let associated = holder.map_or("not associated", String::as_str);
    Resource {
        kind: "publicIPAddresses".to_owned(),
        name: name.to_owned(),
        location: None,
        state: "Succeeded".to_owned(),
        summary: format!("{address} {sku}, {associated}"),
        properties: json!({"ipAddress": address, "sku": sku, "associatedWith": holder}),
    }
}

/// Addresses with the resource that holds each, in the file's order.
fn holders(topology: &Topology) -> Vec<(IpAddr, String)> {
    let mut all = Vec::new();
    let mut add = |addresses: &[IpAddr], holder: &dyn Fn() -> String| {
        all.extend(addresses.iter().map(|address| (*address, holder())));
    };
    for (vm, machine) in &topology.virtual_machines {
        for nic in &machine.network_interfaces {
            add(&nic.public_ip_addresses, &|| format!("{vm}/{}", nic.name));
        }
    }
    for (name, firewall) in &topology.azure_firewalls {
        add(&firewall.public_ip_addresses, &|| format!("firewall {name}"));
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        add(&gateway.public_ip_addresses, &|| format!("gateway {name}"));
    }
    for (name, gateway) in &topology.nat_gateways {
        add(&gateway.public_ip_addresses, &|| format!("NAT gateway {name}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_holder() {
        let text = "
name: addresses
publicIPAddresses: {spare: 203.0.113.9, web: 203.0.113.10}
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, natGateway: out}}}}
natGateways: {out: {publicIPAddresses: [203.0.113.1]}}
virtualMachines: {web: {subnet: v/s, publicIPAddress: web}}
";
        let loaded = vnet_config::load_with(text, "test.yaml", &vnet_config::Attachments::default())
            .expect("the file is accepted");
        let snapshot = vnet_fabric::converge(&loaded.topology).1;
        let all = all(&loaded.topology, &snapshot);
        let lines: Vec<String> = all.iter().map(|one| format!("{}: {}", one.name, one.summary)).collect();
        let lent = snapshot.default_outbound_addresses().next().expect("the subnet is not private").1;
        assert_eq!(
            lines,
            [
                "spare: 203.0.113.9 Standard, not associated".to_owned(),
                "web: 203.0.113.10 Standard, web/eth0".to_owned(),
                "203.0.113.1: 203.0.113.1 Standard, NAT gateway out".to_owned(),
                format!("{lent}: {lent} Microsoft, default outbound access of v"),
            ]
        );
    }
}
