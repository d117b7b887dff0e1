//! Effective security rules.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;
use vnet_fabric::effective::EffectiveNsgList;

use super::azure::{resource_name, rows, text, texts};
use super::{Comparison, ReadError};

const COMMAND: &str = "az network nic list-effective-nsg -o json";

/// A rule in one spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    priority: String,
    access: String,
    protocol: String,
    sources: BTreeSet<String>,
    source_ports: BTreeSet<String>,
    destinations: BTreeSet<String>,
    destination_ports: BTreeSet<String>,
    /// What tags and groups stand for, joined to the fewest prefixes.
    expanded_sources: BTreeSet<String>,
    expanded_destinations: BTreeSet<String>,
}

/// Rules by group, place, direction and name.
type Table = BTreeMap<String, Rule>;

/// Compares the answer of `az network nic list-effective-nsg` with this program's: by group, by the place where it hangs
/// (NIC or subnet), by direction and name of each rule. What tags stand for is compared where both spell it out.
///
/// # Errors
/// The text is not what that command prints.
pub fn compare_nsg(azure: &str, here: &EffectiveNsgList) -> Result<Comparison, ReadError> {
    let azure = read(rows(azure, COMMAND)?)?;
    let shape = |error: serde_json::Error| ReadError::Json(error.to_string());
    let own = serde_json::to_value(&here.value).map_err(shape)?;
    let own = read(own.as_array().cloned().unwrap_or_default())?;
    let mut comparison = Comparison::default();
    let names: BTreeSet<&String> = azure.keys().chain(own.keys()).collect();
    for name in names {
        match (azure.get(name), own.get(name)) {
            (Some(azure), Some(here)) => comparison.both(name, properties(azure, here)),
            (Some(azure), None) => comparison.missing(name, shown(azure)),
            (None, Some(here)) => comparison.unexpected(name, shown(here)),
            (None, None) => {}
        }
    }
    Ok(comparison)
}

fn read(groups: Vec<Value>) -> Result<Table, ReadError> {
    let mut table = Table::new();
    for group in groups {
        let Some(Value::Array(rules)) = group.get("effectiveSecurityRules") else {
            let what = "a group without effectiveSecurityRules".to_owned();
            return Err(ReadError::Shape { command: COMMAND, what });
        };
        let id = group.pointer("/networkSecurityGroup/id").and_then(Value::as_str).unwrap_or_default();
        let on_subnet = group.pointer("/association/subnet").is_some_and(|subnet| !subnet.is_null());
        let place = if on_subnet { "subnet" } else { "NIC" };
        for rule in rules {
            let direction = text(rule, "direction");
            let key = format!("{} at {place} {direction} {}", resource_name(id), name(&text(rule, "name")));
            table.insert(key, read_rule(rule));
        }
    }
    Ok(table)
}

fn read_rule(rule: &Value) -> Rule {
    let addresses = |singular: &str, plural: &str| -> BTreeSet<String> {
        texts(rule, singular, plural).iter().map(|text| address(text)).collect()
    };
    let ports = |singular: &str, plural: &str| -> BTreeSet<String> {
        texts(rule, singular, plural).iter().map(|text| port(text)).collect()
    };
    Rule {
        priority: text(rule, "priority"),
        access: text(rule, "access").to_ascii_lowercase(),
        protocol: protocol(&text(rule, "protocol")),
        sources: addresses("sourceAddressPrefix", "sourceAddressPrefixes"),
        source_ports: ports("sourcePortRange", "sourcePortRanges"),
        destinations: addresses("destinationAddressPrefix", "destinationAddressPrefixes"),
        destination_ports: ports("destinationPortRange", "destinationPortRanges"),
        expanded_sources: expanded(rule, "expandedSourceAddressPrefix"),
        expanded_destinations: expanded(rule, "expandedDestinationAddressPrefix"),
    }
}

/// The rule's own name: tools write `securityRules/x`, `UserRule_x`, or the name alone.
fn name(text: &str) -> String {
    let own = text.rsplit('/').next().unwrap_or(text);
    own.strip_prefix("UserRule_").or_else(|| own.strip_prefix("DefaultRule_")).unwrap_or(own).to_owned()
}

fn protocol(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        "*" | "any" | "all" | "" => "all".to_owned(),
        other => other.to_owned(),
    }
}

fn address(text: &str) -> String {
    match text {
        "*" | "Any" | "any" | "0.0.0.0/0" => "*".to_owned(),
        other => match (other.parse::<IpNet>(), other.parse::<std::net::IpAddr>()) {
            (Ok(net), _) => net.trunc().to_string(),
            (_, Ok(ip)) => IpNet::from(ip).to_string(),
            _ => other.to_owned(),
        },
    }
}

fn port(text: &str) -> String {
    match text.split_once('-') {
        _ if text == "*" => "0-65535".to_owned(),
        Some((from, to)) if from == to => from.to_owned(),
        _ => text.to_owned(),
    }
}

fn expanded(rule: &Value, property: &str) -> BTreeSet<String> {
    let all = texts(rule, property, "");
    let nets: Vec<IpNet> = all.iter().filter_map(|text| address(text).parse().ok()).collect();
    if all.iter().any(|text| address(text) == "*") {
        return BTreeSet::from(["*".to_owned()]);
    }
    IpNet::aggregate(&nets).iter().map(ToString::to_string).collect()
}

fn properties(azure: &Rule, here: &Rule) -> Vec<(&'static str, String, String)> {
    let mut all = vec![
        ("priority", azure.priority.clone(), here.priority.clone()),
        ("access", azure.access.clone(), here.access.clone()),
        ("protocol", azure.protocol.clone(), here.protocol.clone()),
        ("sourceAddressPrefixes", joined(&azure.sources), joined(&here.sources)),
        ("sourcePortRanges", joined(&azure.source_ports), joined(&here.source_ports)),
        ("destinationAddressPrefixes", joined(&azure.destinations), joined(&here.destinations)),
        ("destinationPortRanges", joined(&azure.destination_ports), joined(&here.destination_ports)),
    ];
    let spelled_out = [
        ("expandedSourceAddressPrefix", &azure.expanded_sources, &here.expanded_sources),
        ("expandedDestinationAddressPrefix", &azure.expanded_destinations, &here.expanded_destinations),
    ];
    for (property, azure, here) in spelled_out {
        if !azure.is_empty() && !here.is_empty() {
            all.push((property, joined(azure), joined(here)));
        }
    }
    all
}

fn joined(set: &BTreeSet<String>) -> String {
    set.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn shown(rule: &Rule) -> String {
    format!(
        "{} {} {} {}:{} -> {}:{}",
        rule.priority,
        rule.access,
        rule.protocol,
        joined(&rule.sources),
        joined(&rule.source_ports),
        joined(&rule.destinations),
        joined(&rule.destination_ports)
    )
}

#[cfg(test)]
mod tests {
    use super::super::DifferenceKind;
    use super::*;

    fn lab() -> EffectiveNsgList {
        let text = "name: lab\nvirtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, networkSecurityGroup: g}}}}\nvirtualMachines: {vm: {subnet: v/s}}\nnetworkSecurityGroups: {g: {securityRules: [{name: ssh, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: 22}]}}\n";
        let loaded = vnet_config::load(text, "lab.yaml", None).unwrap();
        let (_, snapshot) = vnet_fabric::converge(&loaded.topology);
        vnet_fabric::effective::effective_nsg(&snapshot, "vm").unwrap()
    }

    fn azures() -> Value {
        serde_json::to_value(lab().value).unwrap()
    }

    #[test]
    fn azures_spelling_of_the_same_rules_agrees() {
        let mut azure = azures();
        azure[0]["networkSecurityGroup"]["id"] =
            "/subscriptions/0/resourceGroups/r/providers/Microsoft.Network/networkSecurityGroups/G".into();
        let rules = azure[0]["effectiveSecurityRules"].as_array_mut().unwrap();
        rules.reverse();
        let ssh = rules.iter_mut().find(|rule| rule["priority"] == 100).unwrap();
        ssh["destinationPortRanges"] = serde_json::json!(["22-22"]);
        ssh["sourceAddressPrefixes"] = serde_json::json!(["0.0.0.0/0"]);
        ssh["expandedSourceAddressPrefix"] = Value::Null;
        let text = serde_json::json!({ "value": azure }).to_string();
        let comparison = compare_nsg(&text, &lab()).unwrap();
        assert!(comparison.agrees(), "{:?}", comparison.differences);
        assert_eq!(comparison.equal, 7);
    }

    #[test]
    fn a_changed_rule_and_a_missing_one_are_named() {
        let mut azure = azures();
        let rules = azure[0]["effectiveSecurityRules"].as_array_mut().unwrap();
        let mut extra = rules[0].clone();
        extra["name"] = "securityRules/web".into();
        rules[0]["access"] = "Deny".into();
        rules.push(extra);
        let comparison = compare_nsg(&azure.to_string(), &lab()).unwrap();
        assert_eq!(comparison.differences.len(), 2);
        assert_eq!(comparison.differences[0].property.as_deref(), Some("access"));
        assert_eq!(comparison.differences[1].kind, DifferenceKind::Missing);
        assert!(comparison.differences[1].row.ends_with("web"));
    }

    #[test]
    fn what_is_no_list_of_groups_is_refused() {
        assert!(compare_nsg(r#"[{"addressPrefix": "10.0.0.0/8"}]"#, &lab()).is_err());
    }
}
