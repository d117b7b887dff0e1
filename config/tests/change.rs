//! What Azure refuses of a change: the rows of a table, each from one valid topology to another.

use vnet_config::{Topology, load, refused_changes};

const BEFORE: &str = "
name: lab
location: eastus
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16], subscription: s1, subnets: {a: 10.0.0.0/24, b: 10.0.1.0/24, e: 10.0.2.0/24, AzureFirewallSubnet: 10.0.3.0/26, GatewaySubnet: 10.0.4.0/26}, peerings: {w: {}}}
  w: {addressSpace: [10.1.0.0/16], subscription: s1, peerings: {v: {}}}
virtualMachines: {web: {subnet: v/a}}
privateEndpoints: {store: {subnet: v/e}}
azureFirewalls: {fw: {virtualNetwork: v}}
virtualNetworkGateways: {gw: {virtualNetwork: v, sku: VpnGw1AZ, publicIPAddress: 198.51.100.10}}
routeTables: {t: {location: eastus}}
";

fn topology(text: &str) -> Topology {
    load(text, "test.yaml", None).unwrap_or_else(|found| panic!("{found}")).topology
}

/// The changed text, and the paths, codes and rules of what is refused.
fn refused(edits: &[(&str, &str)]) -> Vec<String> {
    let mut text = BEFORE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let loaded = load(&text, "test.yaml", None).unwrap_or_else(|found| panic!("{found}"));
    let found = refused_changes(&topology(BEFORE), &loaded.topology);
    let placed = loaded.source.findings(found.clone());
    assert_eq!(placed.list.len(), found.len());
    placed
        .list
        .iter()
        .map(|found| format!("{} {} {}", found.code.as_deref().unwrap_or("-"), found.rule, found.path))
        .collect()
}

#[test]
fn a_subnet_in_use_keeps_its_range() {
    let in_use = |subnet: &str| {
        vec![format!(
            "InUseSubnetCannotBeUpdated subnet-in-use virtualNetworks.v.subnets.{subnet}.addressPrefixes"
        )]
    };
    assert_eq!(refused(&[("a: 10.0.0.0/24", "a: 10.0.0.0/25")]), in_use("a"));
    assert_eq!(refused(&[("e: 10.0.2.0/24", "e: 10.0.9.0/24")]), in_use("e"));
    assert_eq!(refused(&[("10.0.3.0/26", "10.0.3.64/26")]), in_use("AzureFirewallSubnet"));
    assert_eq!(refused(&[("10.0.4.0/26", "10.0.4.0/27")]), in_use("GatewaySubnet"));
}

#[test]
fn a_subnet_that_nothing_stays_in_may_change() {
    let none = Vec::<String>::new();
    assert_eq!(refused(&[]), none);
    assert_eq!(refused(&[("b: 10.0.1.0/24", "b: 10.0.1.0/25")]), none);
    assert_eq!(refused(&[("a: 10.0.0.0/24", "a: {addressPrefixes: [10.0.0.0/24, 10.0.8.0/24]}")]), none);
    // The machine goes, or moves to another subnet.
    assert_eq!(
        refused(&[("a: 10.0.0.0/24", "a: 10.0.0.0/25"), ("web: {subnet: v/a}", "db: {subnet: v/a}")]),
        none
    );
    assert_eq!(refused(&[("a: 10.0.0.0/24", "a: 10.0.0.0/25"), ("subnet: v/a", "subnet: v/b")]), none);
}

#[test]
fn what_is_in_a_region_stays_there() {
    let fixed =
        |path: &str| vec![format!("InvalidResourceLocation other-region-than-before {path}.location")];
    assert_eq!(
        refused(&[("w: {addressSpace", "w: {location: westus, addressSpace")]),
        fixed("virtualNetworks.w")
    );
    assert_eq!(refused(&[("t: {location: eastus}", "t: {location: westus}")]), fixed("routeTables.t"));
    let none = Vec::<String>::new();
    assert_eq!(refused(&[("w: {addressSpace", "w: {location: East US, addressSpace")]), none);
    assert_eq!(refused(&[("t: {location: eastus}", "t: {}")]), none);
}

#[test]
fn a_peered_network_stays_in_its_subscription() {
    let to = ("[10.1.0.0/16], subscription: s1", "[10.1.0.0/16], subscription: s2");
    assert_eq!(refused(&[to]), ["- network-move-peered virtualNetworks.w.subscription"]);
    let unpeered = [to, (", peerings: {w: {}}", ""), (", peerings: {v: {}}", "")];
    assert_eq!(refused(&unpeered), Vec::<String>::new());
}

#[test]
fn a_peering_may_outlive_its_remote_network() {
    let text = BEFORE
        .lines()
        .filter(|line| !line.starts_with("  w: "))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let Err(of_its_own) = load(&text, "test.yaml", None) else { panic!("there is no such network") };
    assert_eq!(of_its_own.list[0].code.as_deref(), Some("InvalidResourceReference"));
    let loaded = vnet_config::load_in_place(&text, "test.yaml", &vnet_config::Disk::new(None));
    let warnings = loaded.unwrap_or_else(|found| panic!("{found}")).warnings;
    let told = warnings.iter().find(|one| one.rule == "peering-orphaned").expect("the reader is told");
    assert_eq!(told.path, "virtualNetworks.v.peerings.w");
}
