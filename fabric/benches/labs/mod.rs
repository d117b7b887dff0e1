//! Designs that decisions are measured in: `ma` at 10.1.0.4 and `mb` at 10.2.0.4, in networks of their own.

use serde_json::{Value, json};
use vnet_config::Topology;

/// Rules of the firewall; the last one lets the machines talk.
const FIREWALL_RULES: usize = 10_000;
/// Rules of the security group, in each direction; the last one lets the machines talk.
const GROUP_RULES: usize = 500;

/// What lies between the machines.
#[derive(Clone, Copy)]
pub(crate) enum Lab {
    /// A peering.
    Peering,
    /// A firewall with many rules.
    Firewall,
    /// A peering, and a security group with many rules on both subnets.
    Secured,
}

impl Lab {
    pub(crate) fn topology(self) -> Topology {
        let text = match self {
            Lab::Peering => pair(json!({})),
            Lab::Firewall => hub(),
            Lab::Secured => pair(json!({"networkSecurityGroups": {"n": {"securityRules": group_rules()}}})),
        };
        match vnet_config::load(&text.to_string(), "bench", None) {
            Ok(loaded) => loaded.topology,
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }
}

fn machines() -> Value {
    json!({
        "ma": {"subnet": "a/s", "privateIPAddress": "10.1.0.4"},
        "mb": {"subnet": "b/s", "privateIPAddress": "10.2.0.4"},
    })
}

fn pair(more: Value) -> Value {
    let secured = more.get("networkSecurityGroups").is_some();
    let subnet = |prefix: &str| {
        let mut subnet = json!({"addressPrefix": prefix});
        if secured {
            subnet["networkSecurityGroup"] = "n".into();
        }
        subnet
    };
    let mut topology = json!({
        "name": "pair",
        "regions": {"latency": "none"},
        "virtualNetworks": {
            "a": {"addressSpace": ["10.1.0.0/16"], "subnets": {"s": subnet("10.1.0.0/24")}, "peerings": {"b": {}}},
            "b": {"addressSpace": ["10.2.0.0/16"], "subnets": {"s": subnet("10.2.0.0/24")}, "peerings": {"a": {}}},
        },
        "virtualMachines": machines(),
    });
    if secured {
        topology["networkSecurityGroups"] = more["networkSecurityGroups"].clone();
    }
    topology
}

fn group_rules() -> Vec<Value> {
    let rule = |direction: &str, number: usize| {
        let last = number + 1 == GROUP_RULES;
        let (source, port) = if last {
            ("10.1.0.0/24".to_owned(), "443".to_owned())
        } else {
            (format!("10.1.{}.{}/32", 1 + number / 250, number % 250), format!("{}", 1_000 + number))
        };
        json!({"name": format!("{direction}-{number}"), "priority": 100 + number, "direction": direction,
            "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": source, "sourcePortRange": "*",
            "destinationAddressPrefix": "10.2.0.0/24", "destinationPortRange": port})
    };
    ["Inbound", "Outbound"]
        .iter()
        .flat_map(|way| (0..GROUP_RULES).map(move |number| rule(way, number)))
        .collect()
}

fn hub() -> Value {
    let rule = |number: usize| {
        let last = number + 1 == FIREWALL_RULES;
        let source = if last {
            "10.1.0.4".to_owned()
        } else {
            format!("10.1.{}.{}", 1 + number / 250, 1 + number % 250)
        };
        let protocols = if last { json!(["TCP", "UDP"]) } else { json!(["TCP"]) };
        json!({"name": format!("r{number}"), "ruleType": "NetworkRule", "ipProtocols": protocols,
            "sourceAddresses": [source], "destinationAddresses": ["10.2.0.0/24"], "destinationPorts": ["443"]})
    };
    let rules: Vec<Value> = (0..FIREWALL_RULES).map(rule).collect();
    let spoke = |prefix: &str, subnet: &str| {
        json!({"addressSpace": [prefix], "subnets": {"s": {"addressPrefix": subnet, "routeTable": "t"}},
            "peerings": {"h": {"allowForwardedTraffic": true}}})
    };
    json!({
        "name": "hub",
        "regions": {"latency": "none"},
        "virtualNetworks": {
            "h": {"addressSpace": ["10.0.0.0/16"], "subnets": {"AzureFirewallSubnet": "10.0.1.0/26"},
                "peerings": {"a": {}, "b": {}}},
            "a": spoke("10.1.0.0/16", "10.1.0.0/24"),
            "b": spoke("10.2.0.0/16", "10.2.0.0/24"),
        },
        "virtualMachines": machines(),
        "routeTables": {"t": {"routes": [{"name": "r", "addressPrefix": "0.0.0.0/0",
            "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.1.4"}]}},
        "azureFirewalls": {"fw": {"virtualNetwork": "h", "sku": "Premium", "firewallPolicy": "p",
            "publicIPAddresses": ["203.0.113.20"]}},
        "firewallPolicies": {"p": {"sku": "Premium", "ruleCollectionGroups": [{"name": "g", "priority": 200,
            "ruleCollections": [{"name": "c", "priority": 100,
                "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "action": "Allow", "rules": rules}]}]}},
    })
}
