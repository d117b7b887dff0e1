//! A sketch as a topology that validation accepts by construction, as far as that is possible.

use serde_json::{Map, Value, json};

use super::Features;
use super::sketch::{MachineSketch, NETWORKS_MAX, PeeringSketch, Sketch, SubnetSketch};

/// A sketch as the features show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rendering<'a> {
    sketch: &'a Sketch,
    pub(super) features: Features,
}

impl<'a> std::ops::Deref for Rendering<'a> {
    type Target = Sketch;

    fn deref(&self) -> &Sketch {
        self.sketch
    }
}

impl Sketch {
    /// The topology, as a file would hold it.
    pub fn topology(&self, features: Features) -> Value {
        Rendering { sketch: self, features }.topology()
    }
}

impl Rendering<'_> {
    pub(super) fn pick(&self, index: u8) -> usize {
        usize::from(index) % self.networks.len()
    }

    fn base(&self, network: usize) -> String {
        match self.networks[network].range {
            3 if !self.features.firewall_snat => format!("10.{}", network + 1),
            0 => format!("10.{}", network + 1),
            1 => format!("172.{}", network + 17),
            2 => format!("192.168.{}", network * 16),
            _ => format!("20.{}", network + 1),
        }
    }

    pub(super) fn range(&self, network: usize) -> String {
        let base = self.base(network);
        if self.networks[network].range == 2 { format!("{base}.0/20") } else { format!("{base}.0.0/16") }
    }

    /// A /24 of the network.
    pub(super) fn part(&self, network: usize, part: u8) -> String {
        if self.networks[network].range == 2 {
            return format!("192.168.{}", network * 16 + usize::from(part));
        }
        format!("{}.{part}", self.base(network))
    }

    pub(super) fn six(&self, network: usize, part: u8) -> String {
        format!("fd00:{}:0:{part}::", network + 1)
    }

    pub(super) fn machine(&self, network: usize, second: bool) -> String {
        format!("{}.4", self.part(network, u8::from(second && self.networks[network].second)))
    }

    pub(super) fn has_firewall(&self, network: usize) -> bool {
        self.networks[network].firewall.is_some()
    }

    /// The network whose gateway this one uses: it has none itself, and both halves of a peering exist.
    fn uses(&self, network: usize) -> Option<usize> {
        let hub = self.pick(self.networks[network].uses?);
        let peered = self.half(network, hub) && self.half(hub, network);
        (hub != network && !self.networks[network].gateway && self.networks[hub].gateway && peered)
            .then_some(hub)
    }

    fn peering(&self, a: usize, b: usize) -> &PeeringSketch {
        let (low, high) = (a.min(b), a.max(b));
        &self.peerings[low * (2 * NETWORKS_MAX - low - 1) / 2 + high - low - 1]
    }

    fn half(&self, local: usize, remote: usize) -> bool {
        if local == remote {
            return false;
        }
        let peering = self.peering(local, remote);
        peering.halves != 0 && peering.halves != if local < remote { 2 } else { 1 }
    }

    /// The subnets that take part, if only some do.
    fn list(&self, local: usize, remote: usize) -> Option<(&super::sketch::ListSketch, bool)> {
        let list = self.peering(local, remote).list.as_ref().filter(|_| self.features.subnet_peering)?;
        Some((list, list.only_v6 && self.networks[local].dual && self.networks[remote].dual))
    }

    fn listed(&self, network: usize, bits: u8) -> Vec<&'static str> {
        let mut names = Vec::new();
        if bits & 2 != 0 {
            names.push("b");
        }
        if bits & 4 != 0 && self.has_firewall(network) {
            names.push("AzureFirewallSubnet");
        }
        if bits & 1 != 0 || names.is_empty() {
            names.insert(0, "a");
        }
        names
    }

    fn peerings_of(&self, local: usize) -> Value {
        let mut halves = Map::new();
        for remote in (0..self.networks.len()).filter(|remote| self.half(local, *remote)) {
            let peering = self.peering(local, remote);
            let side = usize::from(local > remote);
            let mut half = json!({
                "allowVirtualNetworkAccess": peering.access[side],
                "allowForwardedTraffic": peering.forwarded[side],
                "allowGatewayTransit": self.uses(remote) == Some(local),
                "useRemoteGateways": self.uses(local) == Some(remote),
            });
            if let Some((list, only_v6)) = self.list(local, remote) {
                half["peerCompleteVnets"] = json!(false);
                half["localSubnetNames"] = json!(self.listed(local, list.subnets[side]));
                half["remoteSubnetNames"] = json!(self.listed(remote, list.subnets[1 - side]));
                half["enableOnlyIPv6Peering"] = json!(only_v6);
            }
            halves.insert(format!("v{remote}"), half);
        }
        Value::Object(halves)
    }

    /// Networks that have the shared range: no peering of whole networks joins two of them, nor a third with both.
    fn has_extra(&self, network: usize) -> bool {
        let mut holders: Vec<usize> = Vec::new();
        for candidate in 0..=network {
            let whole = |a: usize, b: usize| {
                a != b && (self.half(a, b) || self.half(b, a)) && self.list(a, b).is_none()
            };
            let clashes = |holder: &usize| {
                let third = |other: usize| whole(other, candidate) && whole(other, *holder);
                whole(candidate, *holder) || (0..self.networks.len()).any(third)
            };
            let wanted = self.features.subnet_peering && self.networks[candidate].extra;
            if wanted && !holders.iter().any(clashes) {
                holders.push(candidate);
            }
        }
        holders.contains(&network)
    }

    fn subnet(&self, network: usize, part: u8) -> Value {
        let sketch = &self.networks[network];
        let SubnetSketch { table, group, nat, outbound, services } = &sketch.subnets[usize::from(part)];
        let mut prefixes = vec![format!("{}.0/24", self.part(network, part))];
        if sketch.dual {
            prefixes.push(format!("{}/64", self.six(network, part)));
        }
        let mut subnet = json!({"addressPrefixes": prefixes});
        if let Some(table) = table {
            subnet["routeTable"] = json!(format!("t{}", usize::from(*table) % self.tables.len()));
        }
        if let Some(group) = group {
            subnet["networkSecurityGroup"] = json!(format!("g{}", usize::from(*group) % self.groups.len()));
        }
        if self.features.egress {
            if let Some(newer) = nat {
                subnet["natGateway"] = json!(format!("nat{network}{}", if *newer { "v2" } else { "" }));
            }
            if let Some(outbound) = outbound {
                subnet["defaultOutboundAccess"] = json!(outbound);
            }
        }
        if self.features.services && !services.is_empty() {
            let named: Vec<_> =
                services.iter().map(|service| super::SERVICES[usize::from(*service) % 2]).collect();
            subnet["serviceEndpoints"] = json!(named);
        }
        if part == 1 && sketch.endpoint == Some(true) && self.features.private_endpoints {
            subnet["privateEndpointNetworkPolicies"] = json!("NetworkSecurityGroupEnabled");
        }
        subnet
    }

    fn network(&self, network: usize) -> Value {
        let sketch = &self.networks[network];
        let mut ranges = vec![self.range(network)];
        if sketch.dual {
            ranges.push(format!("fd00:{}::/48", network + 1));
        }
        let mut subnets = json!({"a": self.subnet(network, 0), "b": self.subnet(network, 1)});
        if self.has_extra(network) {
            ranges.push("10.100.0.0/16".to_owned());
            subnets["o"] = json!("10.100.0.0/24");
        }
        if sketch.firewall.is_some() {
            subnets["AzureFirewallSubnet"] = json!({"addressPrefix": format!("{}.0/26", self.part(network, 2)), "routeTable": format!("fw{network}")});
        }
        if sketch.gateway {
            subnets["GatewaySubnet"] = json!({"addressPrefix": format!("{}.0/27", self.part(network, 3)), "routeTable": format!("gw{network}")});
        }
        let mut value = json!({
            "location": self.location(network),
            "addressSpace": ranges,
            "subnets": subnets,
            "peerings": self.peerings_of(network),
        });
        if let Some(drops) = sketch.encryption.filter(|_| self.features.encryption) {
            let enforcement = if drops { "DropUnencrypted" } else { "AllowUnencrypted" };
            value["encryption"] = json!({"enabled": true, "enforcement": enforcement});
        }
        value
    }

    fn location(&self, network: usize) -> &'static str {
        if self.networks[network].far { "westeurope" } else { "eastus" }
    }

    fn machines_of(&self, network: usize, topology: &mut Value) {
        let sketch = &self.networks[network];
        for second in [false, true] {
            if second && !sketch.second {
                continue;
            }
            let part = u8::from(second);
            let mut addresses = vec![self.machine(network, second)];
            if sketch.dual {
                addresses.push(format!("{}4", self.six(network, part)));
            }
            let MachineSketch { forwarding, accelerated, untracked, labelled, public } =
                &sketch.machines[usize::from(part)];
            let mut nic = json!({
                "subnet": format!("v{network}/{}", if second { "b" } else { "a" }),
                "privateIPAddresses": addresses,
                "enableIPForwarding": forwarding,
            });
            if let Some(group) = sketch.nic_group.filter(|_| !second) {
                nic["networkSecurityGroup"] = json!(format!("g{}", usize::from(group) % self.groups.len()));
            }
            if self.features.encryption && !accelerated {
                nic["enableAcceleratedNetworking"] = json!(false);
            }
            if self.features.untracked && *untracked {
                nic["disableTcpStateTracking"] = json!(true);
            }
            if self.features.labels && *labelled {
                nic["applicationSecurityGroups"] = json!([format!("l{network}")]);
            }
            if self.features.egress && *public {
                nic["publicIPAddress"] = json!(format!("203.0.113.{}", 40 + 2 * network + usize::from(part)));
            }
            let name = format!("m{network}{}", if second { "b" } else { "a" });
            topology["virtualMachines"][name] = json!({"networkInterfaces": [nic]});
        }
        if self.has_extra(network) {
            topology["virtualMachines"][format!("m{network}o")] =
                json!({"subnet": format!("v{network}/o"), "privateIPAddress": "10.100.0.4"});
        }
        if sketch.endpoint.is_some() && self.features.private_endpoints {
            topology["privateEndpoints"][format!("pe{network}")] = json!({
                "subnet": format!("v{network}/b"), "privateIPAddress": format!("{}.9", self.part(network, 1)),
            });
        }
    }

    fn ways_out(&self, topology: &mut Value) {
        if !self.features.egress {
            return;
        }
        for network in 0..self.networks.len() {
            for (newer, sku) in [(false, "Standard"), (true, "StandardV2")] {
                if !self.networks[network].subnets.iter().any(|subnet| subnet.nat == Some(newer)) {
                    continue;
                }
                let suffix = if newer { "v2" } else { "" };
                let address = format!("203.0.113.{}", 60 + 2 * network + usize::from(newer));
                let public = format!("pip{network}{suffix}");
                topology["natGateways"][format!("nat{network}{suffix}")] =
                    json!({"location": self.location(network), "sku": sku, "publicIPAddresses": [public]});
                topology["publicIPAddresses"][public] =
                    json!({"location": self.location(network), "ipAddress": address, "sku": sku});
            }
        }
        topology["internet"] =
            json!({"hosts": {"out": "203.0.113.80", "store": "20.200.1.9", "cloud": "20.201.0.9"}});
    }

    /// What stands once for all networks.
    fn common(&self, topology: &mut Value) {
        if self.features.route_tags || self.features.rule_tags || self.features.services {
            for number in 0..super::TAGS {
                let (name, prefixes) = super::tag(number);
                topology["serviceTags"][name] = json!(prefixes);
            }
        }
        for network in 0..self.networks.len() {
            if self.features.labels {
                topology["applicationSecurityGroups"][format!("l{network}")] = json!({});
            }
        }
        if self.features.readings {
            let names = [
                ("peeringFlags", "tagOnly"),
                ("virtualNetworkTagDefaultRoute", "exclude"),
                ("defaultOutbound", "disabled"),
            ];
            for ((name, reading), other) in names.into_iter().zip(self.readings) {
                if other {
                    topology["semantics"][name] = json!(reading);
                }
            }
        }
    }

    fn topology(&self) -> Value {
        let mut topology = json!({
            "name": "random", "location": "eastus", "virtualNetworks": {}, "virtualMachines": {}, "networkSecurityGroups": {},
            "routeTables": {}, "azureFirewalls": {}, "firewallPolicies": {}, "virtualNetworkGateways": {},
            "localNetworkGateways": {}, "connections": {}, "onPremisesSites": {},
        });
        for network in 0..self.networks.len() {
            let sketch = &self.networks[network];
            topology["virtualNetworks"][format!("v{network}")] = self.network(network);
            self.machines_of(network, &mut topology);
            if let Some(policy) = sketch.firewall {
                topology["azureFirewalls"][format!("fw{network}")] = json!({
                    "virtualNetwork": format!("v{network}"), "sku": "Standard",
                    "firewallPolicy": format!("policy{}", usize::from(policy) % self.policies.len()),
                    "publicIPAddresses": [format!("203.0.113.{}", 20 + network)],
                });
                topology["routeTables"][format!("fw{network}")] =
                    self.reserved_table(network, &sketch.firewall_routes, true);
            }
            if sketch.gateway {
                topology["virtualNetworkGateways"][format!("gw{network}")] = json!({
                    "virtualNetwork": format!("v{network}"), "gatewayType": "Vpn", "sku": "VpnGw1AZ",
                    "publicIPAddresses": [format!("198.51.100.{}", 10 + network)],
                });
                if sketch.express && self.features.express {
                    topology["virtualNetworkGateways"][format!("er{network}")] = json!({
                        "virtualNetwork": format!("v{network}"), "gatewayType": "ExpressRoute", "sku": "ErGw1AZ",
                    });
                }
                topology["routeTables"][format!("gw{network}")] =
                    self.reserved_table(network, &sketch.gateway_routes, false);
            }
        }
        self.common(&mut topology);
        self.ways_out(&mut topology);
        for (index, table) in self.tables.iter().enumerate() {
            topology["routeTables"][format!("t{index}")] = self.route_table(table);
        }
        for (index, rules) in self.groups.iter().enumerate() {
            topology["networkSecurityGroups"][format!("g{index}")] = self.group(rules);
        }
        for (index, policy) in self.policies.iter().enumerate() {
            topology["firewallPolicies"][format!("policy{index}")] = self.policy(index, policy);
        }
        self.connections(&mut topology);
        topology
    }
}
