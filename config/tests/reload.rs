//! A text that is read as a change of an accepted one comes out as if it were read by itself.

use std::fs;
use std::path::Path;

use vnet_config::{Diagnostics, Disk, Finding, Loaded, diff, diff_entry, load, load_after};

/// Topologies with every section that is read apart.
fn texts() -> Vec<String> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut texts: Vec<String> = fs::read_dir(examples)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| fs::read_to_string(path).unwrap())
        .filter(|text| load(text, "t", None).is_ok())
        .collect();
    texts.sort();
    texts.push(DESIGN.to_owned());
    texts
}

const DESIGN: &str = "\
name: reload
regions: {latency: none}
# Two networks, peered: zwei Netze, verknüpft.
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets:
      AzureFirewallSubnet: 10.0.0.0/26
      shared: {addressPrefix: 10.0.1.0/24, routeTable: out}
    peerings:
      spoke:
        allowForwardedTraffic: true
  spoke:
    addressSpace: [10.1.0.0/16]

    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via-fw, networkSecurityGroup: web}}
    peerings: {hub: {allowForwardedTraffic: true}}
routeTables:
  out: {}
  via-fw:   # everything by the firewall
    routes:
      - {name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.4}
      - name: none
        addressPrefix: 192.0.2.0/24
        nextHopType: None
  short:
    routes: []
networkSecurityGroups:
  web:
    securityRules:
      - {name: web, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: \"*\", sourcePortRange: \"*\", destinationAddressPrefix: \"*\", destinationPortRange: 443}
azureFirewalls:
  fw: {virtualNetwork: hub, firewallPolicy: base, publicIPAddresses: [203.0.113.1]}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: group
        priority: 200
        ruleCollections:
          - {name: private, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: any, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: [10.0.0.0/8], destinationAddresses: [10.0.0.0/8], destinationPorts: [\"*\"]}]}
virtualMachines:
  a: {subnet: spoke/app}
";

/// Everything that the two readings say, places of all values among it.
fn shown(outcome: &Result<Loaded, Diagnostics>, paths: &[String]) -> String {
    match outcome {
        Err(refused) => format!("refused: {refused}"),
        Ok(loaded) => {
            let value = |path: &String| format!("{path} {:?}", loaded.source.place(path));
            // Of names, whose places cost more to ask for, a part.
            let name = |path: &String| {
                format!("{path} {}", loaded.source.finding_at_name(path, Finding::warning("w", "w")))
            };
            let places: Vec<String> =
                paths.iter().map(value).chain(paths.iter().skip(2).step_by(19).map(name)).collect();
            let topology = serde_json::to_string(&loaded.topology).unwrap();
            format!("{topology}\n{:?}\n{}", loaded.warnings, places.join("\n"))
        }
    }
}

/// Paths of all values of a topology.
fn paths(value: &serde_json::Value, path: &str, out: &mut Vec<String>) {
    out.push(path.to_owned());
    match value {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                paths(value, &inner, out);
            }
        }
        serde_json::Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                paths(value, &format!("{path}[{index}]"), out);
            }
        }
        _ => {}
    }
}

/// Reads `text` both ways, as a change of `former`. What came out, if it was accepted.
fn both(former: &Loaded, text: &str) -> Option<Loaded> {
    let alone = load(text, "t", None);
    let after = load_after(&former.topology, &former.source, text, "t", &Disk::new(None));
    let mut all = Vec::new();
    paths(&serde_json::to_value(&former.topology).unwrap(), "", &mut all);
    if let Ok(alone) = &alone {
        paths(&serde_json::to_value(&alone.topology).unwrap(), "", &mut all);
    }
    assert_eq!(shown(&after, &all), shown(&alone, &all), "of this text:\n{text}");
    let after = after.ok()?;
    assert_eq!(after.topology, alone.unwrap().topology);
    if let Some(entry) = &after.changed {
        let of_entry = diff_entry(&former.topology, &after.topology, entry);
        assert_eq!(of_entry, diff(&former.topology, &after.topology), "of this text:\n{text}");
    }
    Some(after)
}

/// Changes of one line: each a way to break or bend what stands there.
fn edits(line: &str) -> Vec<String> {
    let swap = |from: &str, to: &str| line.replacen(from, to, 1);
    vec![
        String::new(),
        format!("{line}\n{line}"),
        format!("  {line}"),
        line.strip_prefix("  ").unwrap_or(line).to_owned(),
        format!("{line} # a remark"),
        format!("{line}\n\n# below"),
        swap("Internet", "None"),
        swap("None", "Internet"),
        swap("0", "1"),
        swap("true", "false"),
        swap(": ", ": &x "),
        swap(": ", ": |\n        "),
        swap("{", "{,"),
        swap("[", "[\n"),
        swap("}", ""),
        swap("- ", ""),
        format!("  - {}", line.trim_start()),
        format!("{line}\n  - x"),
        format!("{line}\n    x"),
        format!("{line}\n  x:"),
        format!("{line}\n---"),
        format!("\t{line}"),
        format!("{line}\r"),
        swap("a", "é"),
        swap("10.", "*x 10."),
    ]
}

#[test]
fn any_change_of_a_line_reads_as_the_text_alone() {
    let (mut apart, mut all) = (0, 0);
    for text in texts() {
        let former = load(&text, "t", None).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        // Of the longer ones a part of the changes, another one on each line.
        let step = if text == DESIGN { 1 } else { 29 };
        for (index, line) in lines.iter().enumerate() {
            for edit in edits(line).into_iter().skip(index % step).step_by(step) {
                let mut changed: Vec<&str> = lines.clone();
                changed[index] = &edit;
                let after = both(&former, &changed.join("\n"));
                all += 1;
                apart += usize::from(after.is_some_and(|after| after.changed.is_some()));
            }
        }
    }
    assert!(apart > 100, "{apart} of {all} changes were read by themselves");
}

#[test]
fn changes_add_up() {
    let replace = |text: &str, from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    };
    let steps = [
        ("nextHopType: None\n", "nextHopType: Internet\n"),
        (
            "  short:\n    routes: []\n",
            "  short:\n    routes:\n      - {name: s, addressPrefix: 198.51.100.0/24, nextHopType: None}\n",
        ),
        ("      - name: none\n", "      # a line more\n      - name: none\n"),
        ("priority: 100, direction", "priority: 110, direction"),
        ("  out: {}\n", "  out:\n    routes: []\n"),
        ("        addressPrefix: 192.0.2.0/24\n", "        addressPrefix: 192.0.3.0/24\n"),
        ("allowForwardedTraffic: true}}\n", "allowForwardedTraffic: false}}\n"),
    ];
    let mut text = DESIGN.to_owned();
    let mut former = load(&text, "t", None).unwrap();
    for (from, to) in steps {
        text = replace(&text, from, to);
        let next = both(&former, &text).expect("the change is accepted");
        assert!(next.changed.is_some(), "{to} is read by itself");
        former = next;
    }
}

#[test]
fn many_changes_are_as_one() {
    let mut former = load(DESIGN, "t", None).unwrap();
    let mut apart = 0;
    for number in 0..100 {
        let text = DESIGN.replace("192.0.2.0/24", &format!("192.0.{number}.0/24"));
        let Some(next) = both(&former, &text) else { panic!("192.0.{number}.0/24 is refused") };
        apart += usize::from(next.changed.is_some());
        former = next;
    }
    assert!((64..100).contains(&apart), "{apart} changes were read by themselves");
}

#[test]
fn what_lies_outside_the_text_is_read_again() {
    let with = |route: &str| {
        format!(
            "{}    files: {{/etc/motd: Cargo.toml}}\n",
            DESIGN
                .replace("a: {subnet: spoke/app}", "a:\n    subnet: spoke/app")
                .replace("Type: None", route)
        )
    };
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let former = load(&with("Type: None"), "t", Some(base)).unwrap();
    let after =
        load_after(&former.topology, &former.source, &with("Type: Internet"), "t", &Disk::new(Some(base)));
    assert!(after.unwrap().changed.is_none());
}
