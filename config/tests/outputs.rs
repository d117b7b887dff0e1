//! What the crate gives out: differences, the JSON Schema, the reference of the file.

use std::{fs, path::Path};

use serde_json::Value;
use vnet_config::{ChangeKind, Topology, diff};

const BASE: &str = "
name: lab
virtualNetworks:
  hub: {addressSpace: [10.0.0.0/16], subnets: {a: 10.0.0.0/24, GatewaySubnet: 10.0.1.0/27}, peerings: {spoke: {}}}
  spoke: {addressSpace: [10.1.0.0/16], subnets: {a: 10.1.0.0/24}, peerings: {hub: {}}}
virtualMachines: {web: {subnet: hub/a}, db: {subnet: spoke/a}}
routeTables: {t: {routes: [{name: r, addressPrefix: 10.9.0.0/16, nextHopType: None}]}}
virtualNetworkGateways: {gw: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddress: 198.51.100.10}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: first-secret}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16], vpnDevice: {publicIPAddress: 198.51.100.200}}}
";

fn topology(text: &str) -> Topology {
    match vnet_config::load(text, "test.yaml", None) {
        Ok(loaded) => loaded.topology,
        Err(found) => panic!("{found}"),
    }
}

fn changes(from: &str, to: &str) -> Vec<String> {
    diff(&topology(from), &topology(to)).iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_changes_between_equals() {
    assert_eq!(changes(BASE, BASE), Vec::<String>::new());
    let same = BASE.replace("publicIPAddress: 198.51.100.10", "publicIPAddresses: [198.51.100.10]");
    assert_eq!(changes(BASE, &same), Vec::<String>::new());
}

#[test]
fn each_change_names_its_property() {
    let flag = BASE.replace("peerings: {spoke: {}}", "peerings: {spoke: {allowForwardedTraffic: true}}");
    assert_eq!(
        changes(BASE, &flag),
        ["~ virtualNetworks.hub.peerings.spoke.allowForwardedTraffic: false -> true"]
    );
    let route = BASE.replace("nextHopType: None", "nextHopType: Internet");
    assert_eq!(changes(BASE, &route), ["~ routeTables.t.routes.r.nextHopType: None -> Internet"]);
    let more = BASE.replace("db: {subnet: spoke/a}}", "db: {subnet: spoke/a}, new: {subnet: hub/a}}");
    assert_eq!(changes(BASE, &more), ["+ virtualMachines.new"]);
    assert_eq!(changes(&more, BASE), ["- virtualMachines.new"]);
    let location = BASE.replace("name: lab\n", "name: lab\nlocation: westus\n");
    assert_eq!(changes(BASE, &location), ["~ location: eastus -> westus"]);
    let kinds: Vec<_> = diff(&topology(BASE), &topology(&more)).iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Add]);
}

#[test]
fn a_secret_changes_unseen() {
    let other = BASE.replace("first-secret", "second-secret");
    let said = changes(BASE, &other);
    assert_eq!(said, ["~ connections.c.sharedKey: (secret) -> (secret)"]);
    let json = serde_json::to_string(&diff(&topology(BASE), &topology(&other))).expect("JSON");
    assert!(!json.contains("first-secret") && !json.contains("second-secret"), "{json}");
}

#[test]
fn attachments_take_the_place_of_this_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let text = fs::read_to_string(folder.join("nva.yaml")).expect("the example");
    let here = vnet_config::load(&text, "nva.yaml", Some(&folder)).expect("it loads").topology;
    assert!(!here.virtual_machines["nva"].files["/etc/nva.nft"].content().is_empty());
    let attachments = here.attachments();
    let there = vnet_config::load_with(&text, "nva.yaml", &attachments).expect("it loads").topology;
    assert_eq!(here, there);
    let none = vnet_config::load_with(&text, "nva.yaml", &vnet_config::Attachments::default());
    assert!(none.expect_err("the file is missing").to_string().contains("did not come with the topology"));
}

fn extensions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.keys().filter(|key| key.starts_with("x-")).cloned());
            map.values().for_each(|inner| extensions(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| extensions(inner, found)),
        _ => {}
    }
}

#[test]
fn the_schema_has_the_short_forms_written_out() {
    let schema = vnet_config::schema();
    let mut found = Vec::new();
    extensions(&schema, &mut found);
    assert_eq!(found, Vec::<String>::new());
    let subnet = &schema["$defs"]["Subnet"]["anyOf"];
    assert!(subnet[1]["properties"].get("addressPrefix").is_some(), "{subnet}");
    let machine = &schema["$defs"]["VirtualMachine"];
    assert!(machine["properties"].get("privateIPAddress").is_some(), "{machine}");
    assert_eq!(machine["required"], serde_json::json!([]));
    let space = &schema["$defs"]["VirtualNetwork"]["properties"]["addressSpace"];
    assert!(space.to_string().contains("addressPrefixes"), "{space}");
    let sku = &schema["$defs"]["VirtualNetworkGateway"]["properties"]["sku"];
    assert!(sku["anyOf"][1]["properties"].get("tier").is_some(), "{sku}");
    let address = &schema["$defs"]["PublicIpAddress"]["anyOf"][1]["properties"]["sku"]["anyOf"][1];
    assert_eq!(address["properties"]["tier"], serde_json::json!({"type": "string"}), "{address}");
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/TOPOLOGY.md");
    let text = vnet_config::topology_markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of documents");
        fs::write(&path, &text).expect("the reference");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/TOPOLOGY.md is not current: UPDATE_GOLDEN=1 cargo test -p vnet-config");
}

#[test]
fn json_is_accepted() {
    let json = r#"{"name": "lab", "virtualNetworks": {"hub": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": {"a": {"addressPrefix": "10.0.0.0/24"}}}}, "virtualMachines": {"web": {"subnet": "hub/a", "zone": 1}}}"#;
    assert_eq!(topology(json).virtual_machines["web"].zone, Some(1));
}

#[test]
fn what_is_pending_is_in_the_schema_and_says_so() {
    let schema = vnet_config::schema();
    for row in vnet_config::PENDING {
        let holder = if row.holder.is_empty() { String::new() } else { format!("/$defs/{}", row.holder) };
        let property = schema.pointer(&format!("{holder}/properties/{}", row.property));
        let description = property.and_then(|property| property["description"].as_str());
        let description = description.unwrap_or_else(|| panic!("{row:?} names no property"));
        assert!(description.ends_with("ot supported yet."), "{row:?}: {description}");
    }
}

#[test]
fn figures_of_tunnels_and_circuits_are_azures() {
    use vnet_config::{
        model::{GatewayGeneration::*, GatewaySku::*},
        sku::{SKUS, TunnelAlgorithms::*},
    };
    let row = |sku: vnet_config::model::GatewaySku, generation| sku.figures(generation).expect("a SKU");
    let slow = row(VpnGw2AZ, Some(Generation1));
    assert_eq!(slow.tunnel(GcmAes256), Some((1_200, 110_000)));
    assert_eq!(slow.tunnel(Aes256Sha256), Some((650, 61_000)));
    assert_eq!(slow.tunnel(Des3Sha256), Some((140, 13_000)));
    assert_eq!(row(VpnGw2, Some(Generation2)).tunnel(Aes256Sha256), Some((550, 52_000)));
    assert_eq!(row(VpnGw1, None).tunnel(Des3Sha256), Some((130, 12_000)));
    assert_eq!(row(VpnGw5AZ, None).tunnel(Aes256Sha256), Some((700, 66_000)));
    assert_eq!(row(Basic, None).tunnel(GcmAes256), None);
    assert_eq!(row(ErGw1AZ, None).tunnel(GcmAes256), None);
    let machines: Vec<u32> =
        [VpnGw1, VpnGw5, VpnGw3AZ, VpnGw5AZ, ErGw2AZ].into_iter().map(|sku| row(sku, None).vms_max).collect();
    assert_eq!(machines, [450, 6_700, 5_000, 9_000, 4_500]);
    let large = row(ErGw3AZ, None);
    assert_eq!((large.flows_max, large.routes_max, large.fast_path), (Some(1_000_000), Some(9_500), true));
    assert_eq!(SKUS.iter().filter(|row| row.fast_path).count(), 2);
}

#[test]
fn azure_figures_go_with_the_generation() {
    use vnet_config::model::{GatewayGeneration::*, GatewaySku::*};
    let mbps = |sku: vnet_config::model::GatewaySku, generation| {
        sku.figures(generation).map(|row| row.throughput_mbps)
    };
    assert_eq!(mbps(VpnGw2AZ, Some(Generation1)), Some(1_000));
    assert_eq!(mbps(VpnGw2AZ, Some(Generation2)), Some(1_250));
    assert_eq!(mbps(VpnGw1AZ, None), Some(650));
    assert_eq!(mbps(VpnGw1AZ, Some(Generation2)), None);
    assert_eq!(mbps(Basic, None), Some(100));
}
