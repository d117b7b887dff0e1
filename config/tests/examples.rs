//! Every example of the project loads without a finding.

use std::{fs, path::Path, time::Instant};

use vnet_config::model::{NextHopType, SubnetRef};

fn examples() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let entries = fs::read_dir(folder).expect("the folder of examples");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths
}

#[test]
fn every_example_loads_without_a_finding() {
    let paths = examples();
    assert!(paths.len() >= 4);
    for path in paths {
        match vnet_config::load_file(&path) {
            Ok(loaded) => {
                let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
                assert!(warnings.is_empty(), "{}", warnings.join("\n\n"));
                assert!(!loaded.topology.expect.is_empty(), "{} expects nothing", path.display());
            }
            Err(found) => panic!("{found}"),
        }
    }
}

#[test]
fn short_forms_become_one_shape() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hub-spoke.yaml");
    let topology = vnet_config::load_file(&path).expect("the example").topology;
    let web = &topology.virtual_machines["web"].network_interfaces;
    assert_eq!(web.len(), 1);
    assert_eq!(web[0].name, "eth0");
    assert_eq!(web[0].subnet, SubnetRef { virtual_network: "spoke1".to_owned(), subnet: "app".to_owned() });
    assert_eq!(
        topology.virtual_networks["hub"].subnets["shared"].address_prefixes[0].to_string(),
        "10.0.2.0/24"
    );
    assert_eq!(topology.route_tables["via-fw"].routes[0].next_hop_type, NextHopType::VirtualAppliance);
    assert_eq!(topology.expect[0].from, ["web"]);
    let key = topology.connections["hub-to-hq"].shared_key.as_ref().expect("a key");
    assert_eq!(key.expose(), "example-hq");
    assert!(!format!("{topology:?}").contains("example-hq"));
    assert!(!serde_json::to_string(&topology).expect("JSON").contains("example-hq"));
}

#[test]
fn an_example_loads_fast() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hub-spoke.yaml");
    let text = fs::read_to_string(path).expect("the example");
    vnet_config::load(&text, "hub-spoke.yaml", None).expect("it loads");
    let runs = 20;
    let start = Instant::now();
    for _ in 0..runs {
        vnet_config::load(&text, "hub-spoke.yaml", None).expect("it loads");
    }
    let each = start.elapsed() / runs;
    println!("{each:?} each");
    // The aim is 5 ms with optimisation; the bound leaves room for a busy machine and an unoptimised build.
    assert!(each.as_millis() < 100, "{each:?} each");
}
