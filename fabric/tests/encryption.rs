//! Virtual network encryption: what is encrypted, and what is dropped for not being so.

mod common;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_fabric::path;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::trace::StepKind;

const ALLOW: &str = "{enabled: true, enforcement: AllowUnencrypted}";
const DROP: &str = "{enabled: true, enforcement: DropUnencrypted}";
const OFF: &str = "{enabled: false, enforcement: DropUnencrypted}";

/// Two peered networks; the arguments are their encryption and whether the machines' NICs can.
fn two(a: &str, b: &str, a_can: bool, b_can: bool) -> Snapshot {
    lab(&format!(
        "
name: encryption
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16], encryption: {a}, subnets: {{s: 10.0.0.0/24}}, peerings: {{b: {{}}}}}}
  b: {{addressSpace: [10.1.0.0/16], encryption: {b}, subnets: {{s: 10.1.0.0/24}}, peerings: {{a: {{}}}}}}
virtualMachines:
  a1: {{subnet: a/s, networkInterfaces: [{{subnet: a/s, enableAcceleratedNetworking: {a_can}}}]}}
  b1: {{subnet: b/s, networkInterfaces: [{{subnet: b/s, enableAcceleratedNetworking: {b_can}}}]}}
"
    )
    .replace("subnet: a/s, networkInterfaces", "networkInterfaces")
    .replace("subnet: b/s, networkInterfaces", "networkInterfaces"))
}

/// The status of the way out, as flow logs name it; empty where encryption says nothing.
fn status(snapshot: &Snapshot, from: &str, to: &str) -> String {
    let report = path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap();
    if report.forward.reason.as_deref() == Some("EncryptionRequired") {
        return "dropped".to_owned();
    }
    assert_eq!(report.forward.reason, None);
    let step = report.forward.steps.into_iter().find(|step| step.kind == StepKind::Encryption);
    let text = step.map(|step| step.text).unwrap_or_default();
    text.rsplit_once('(').map(|(_, code)| code.trim_end_matches(')').to_owned()).unwrap_or_default()
}

#[test]
fn what_both_ends_can_is_encrypted() {
    let table = [
        (ALLOW, ALLOW, true, true, "X"),
        (DROP, DROP, true, true, "X"),
        (ALLOW, DROP, true, true, "X"),
        (ALLOW, ALLOW, false, true, "NX_HW_NOT_SUPPORTED"),
        (ALLOW, ALLOW, true, false, "NX_NOT_SUPPORTED"),
        (ALLOW, OFF, true, true, "NX_NOT_SUPPORTED"),
        (OFF, ALLOW, true, true, "NX"),
        (OFF, OFF, false, true, ""),
    ];
    for (a, b, a_can, b_can, expected) in table {
        let snapshot = two(a, b, a_can, b_can);
        assert_eq!(status(&snapshot, "a1", "b1"), expected, "{a} {b} {a_can} {b_can}");
    }
}

#[test]
fn what_cannot_be_encrypted_is_dropped_where_either_network_says_so() {
    let table = [
        (DROP, DROP, false, true),
        (DROP, DROP, true, false),
        (DROP, ALLOW, true, false),
        (ALLOW, DROP, true, false),
        (DROP, OFF, true, true),
        (OFF, DROP, true, true),
    ];
    for (a, b, a_can, b_can) in table {
        let snapshot = two(a, b, a_can, b_can);
        for (from, to) in [("a1", "b1"), ("b1", "a1")] {
            assert_eq!(status(&snapshot, from, to), "dropped", "{from}: {a} {b} {a_can} {b_can}");
        }
    }
    let report = path(&two(DROP, OFF, true, true), "a1", "b1", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!(report.rule.unwrap().azure_rule, "ENCRYPTION-DROP");
}

#[test]
fn a_drop_names_what_cannot_encrypt() {
    let table = [
        (
            DROP,
            DROP,
            false,
            true,
            "a1/eth0 has no accelerated networking, and a drops",
            "NX_HW_NOT_SUPPORTED",
        ),
        (
            ALLOW,
            DROP,
            true,
            false,
            "b1/eth0 has no accelerated networking, and b drops",
            "NX_HW_NOT_SUPPORTED",
        ),
        (DROP, ALLOW, false, false, "a1/eth0 and b1/eth0 have no accelerated", "NX_HW_NOT_SUPPORTED"),
        (DROP, OFF, true, true, "encryption is off in b, and a drops", "NX_NOT_ACCEPTED"),
        (OFF, DROP, false, true, "encryption is off in a, and b drops", "NX_NOT_ACCEPTED"),
    ];
    for (a, b, a_can, b_can, cause, code) in table {
        let report = path(&two(a, b, a_can, b_can), "a1", "b1", ProbeProtocol::Icmp, None).unwrap();
        let last = &report.forward.steps.last().unwrap().text;
        assert!(last.contains(cause) && last.ends_with(&format!("({code})")), "{last}");
    }
}

#[test]
fn only_traffic_between_virtual_machines_is_concerned() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hub-spoke.yaml"));
    let encrypted = |name: &str| format!("  {name}:\n    encryption: {DROP}\n    addressSpace");
    let mut text = text.unwrap();
    for name in ["spoke1", "spoke2"] {
        text = text.replace(&format!("  {name}:\n    addressSpace"), &encrypted(name));
    }
    let snapshot = lab(&text);
    // Through the firewall and the gateway nothing is encrypted, nor asked for.
    assert_eq!(status(&snapshot, "pc", "web"), "");
    let report = path(&snapshot, "web", "db", ProbeProtocol::Tcp, Some(443)).unwrap();
    assert_eq!((report.reason, report.via), (None, vec!["fw".to_owned()]));
    assert!(report.forward.steps.iter().all(|step| step.kind != StepKind::Encryption));
}

#[test]
fn each_leg_by_way_of_an_appliance_is_judged() {
    let text = |can: bool| {
        format!(
            "
name: chain
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    encryption: {DROP}
    subnets: {{n: 10.0.9.0/24, s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}, d: 10.0.1.0/24}}
virtualMachines:
  m: {{subnet: v/s}}
  d: {{subnet: v/d}}
  nva: {{networkInterfaces: [{{subnet: v/n, enableIPForwarding: true, enableAcceleratedNetworking: {can}}}]}}
routeTables:
  t: {{routes: [{{name: r, addressPrefix: 10.0.1.0/24, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}}]}}
"
        )
    };
    assert_eq!(status(&lab(&text(true)), "m", "d"), "X");
    assert_eq!(status(&lab(&text(false)), "m", "d"), "dropped");
    assert_eq!(status(&lab(&text(false)), "d", "m"), "X");
}
