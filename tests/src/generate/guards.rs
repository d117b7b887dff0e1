//! Groups and firewall policies of a sketch.

use serde_json::{Value, json};

use super::render::Rendering;
use super::sketch::{PolicySketch, RuleSketch, SideSketch};

/// One side of a security rule.
enum Side {
    Prefix(String),
    List(Vec<String>),
    Label(String),
}

impl Rendering<'_> {
    fn side(&self, side: &SideSketch) -> Side {
        Side::Prefix(match side {
            SideSketch::Any => "*".to_owned(),
            SideSketch::VirtualNetwork => "VirtualNetwork".to_owned(),
            SideSketch::Internet => "Internet".to_owned(),
            SideSketch::Network(network) => self.range(self.pick(*network)),
            SideSketch::Machine(network) => self.machine(self.pick(*network), false),
            SideSketch::Site(site) => format!("10.{}.0.0/16", 200 + usize::from(*site) % 3),
            SideSketch::Tag(tag) if self.features.rule_tags => super::tag(*tag).0.to_owned(),
            SideSketch::Label(network) if self.features.labels => {
                return Side::Label(format!("l{}", self.pick(*network)));
            }
            SideSketch::Tag(_) | SideSketch::Label(_) => "*".to_owned(),
            SideSketch::Several(network, machine) => {
                let (network, machine) = (self.pick(*network), self.pick(*machine));
                let mut list = vec![self.range(network)];
                if machine != network {
                    list.push(self.machine(machine, false));
                }
                return Side::List(list);
            }
        })
    }

    pub(super) fn group(&self, rules: &[RuleSketch]) -> Value {
        let rules: Vec<Value> =
            rules.iter().enumerate().map(|(index, rule)| self.rule(index, rule)).collect();
        json!({"securityRules": rules})
    }

    fn rule(&self, index: usize, rule: &RuleSketch) -> Value {
        let protocol = ["*", "Tcp", "Udp", "Icmp"][usize::from(rule.protocol)];
        let mut value = json!({
            "name": format!("n{index}"),
            "priority": 100 + index,
            "direction": if rule.inbound { "Inbound" } else { "Outbound" },
            "access": if rule.allow { "Allow" } else { "Deny" },
            "protocol": protocol,
            "sourcePortRange": "*",
        });
        match rule.port {
            _ if rule.protocol == 3 => value["destinationPortRange"] = json!("*"),
            4 => value["destinationPortRanges"] = json!(["22", "400-500"]),
            5 => value["destinationPortRanges"] = json!(["1-79", "443", "8000-9000"]),
            number => value["destinationPortRange"] = json!(port(number)),
        }
        let (source, destination) = (self.side(&rule.source), self.side(&rule.destination));
        // Both groups of a rule are of one network.
        let destination = match (&source, destination) {
            (Side::Label(one), Side::Label(other)) if *one != other => Side::Prefix("*".to_owned()),
            (_, destination) => destination,
        };
        for (side, name) in [(source, "source"), (destination, "destination")] {
            match side {
                Side::Prefix(prefix) => value[format!("{name}AddressPrefix")] = json!(prefix),
                Side::List(list) => value[format!("{name}AddressPrefixes")] = json!(list),
                Side::Label(label) => value[format!("{name}ApplicationSecurityGroups")] = json!([label]),
            }
        }
        value
    }

    pub(super) fn policy(&self, index: usize, policy: &PolicySketch) -> Value {
        let side = |side: &SideSketch| match self.side(side) {
            Side::Prefix(prefix) if prefix.starts_with(|first: char| first.is_ascii_digit()) => prefix,
            Side::List(list) => list[0].clone(),
            _ => "*".to_owned(),
        };
        let mut groups = Vec::new();
        for group in 0..2u8 {
            let mut collections = Vec::new();
            for collection in 0..2u8 {
                let here = policy.rules.iter().filter(|rule| rule.place == (group, collection));
                let rules: Vec<Value> = here
                    .enumerate()
                    .map(|(number, rule)| {
                        let protocol = ["Any", "TCP", "UDP", "ICMP"][usize::from(rule.protocol)];
                        json!({
                            "name": format!("f{number}"),
                            "ruleType": "NetworkRule",
                            "ipProtocols": [protocol],
                            "sourceAddresses": [side(&rule.source)],
                            "destinationAddresses": [side(&rule.destination)],
                            "destinationPorts": [if rule.protocol == 3 { "*" } else { port(rule.port) }],
                        })
                    })
                    .collect();
                if !rules.is_empty() {
                    collections.push(json!({
                        "name": format!("c{collection}"),
                        "priority": 300 - 100 * u32::from(collection),
                        "ruleCollectionType": "FirewallPolicyFilterRuleCollection",
                        "action": if policy.allow[usize::from(2 * group + collection)] { "Allow" } else { "Deny" },
                        "rules": rules,
                    }));
                }
            }
            if !collections.is_empty() {
                groups.push(json!({"name": format!("p{index}g{group}"), "priority": 500 - 100 * u32::from(group), "ruleCollections": collections}));
            }
        }
        let mut value = json!({"ruleCollectionGroups": groups});
        let kept = match policy.snat {
            1 => vec!["0.0.0.0/0"],
            2 => vec!["255.255.255.255/32"],
            3 => vec!["10.0.0.0/8", "20.0.0.0/12"],
            _ => Vec::new(),
        };
        if self.features.firewall_snat && !kept.is_empty() {
            value["snat"] = json!({"privateRanges": kept});
        }
        if policy.child && index > 0 {
            value["basePolicy"] = json!("policy0");
        }
        value
    }
}

fn port(number: u8) -> &'static str {
    ["*", "22", "443", "50-500"][usize::from(number) % 4]
}
