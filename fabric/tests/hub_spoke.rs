//! The hub-and-spoke example: what its `expect` list says is what the fabric predicts.

use vnet_config::model::{Expectation, Verdict};
use vnet_fabric::path::{PathReport, PathVerdict};
use vnet_fabric::trace::is_called;
use vnet_fabric::{converge, path};

fn check(expectation: &Expectation, report: &PathReport) -> Result<(), String> {
    let allowed = report.verdict == PathVerdict::Allow;
    let wanted = expectation.verdict == Verdict::Allow;
    let reason = expectation.reason.is_none() || expectation.reason == report.reason;
    let via = expectation.via.as_ref().is_none_or(|via| *via == report.via);
    let back = expectation.via_reverse.as_ref().is_none_or(|via| *via == report.via_reverse);
    let rule = expectation.rule.as_ref().is_none_or(|rule| {
        let decided = report.rule.as_ref().map(|decided| &decided.name);
        report.rules.iter().chain(decided).any(|name| is_called(name, rule))
    });
    if allowed == wanted && reason && via && back && rule {
        return Ok(());
    }
    Err(format!(
        "{} -> {} {:?}/{:?}: {report:#?}",
        report.from, report.to, expectation.protocol, expectation.port
    ))
}

fn check_example(name: &str) {
    let file = format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let loaded = vnet_config::load_file(file.as_ref()).expect("the example is valid");
    let (_, snapshot) = converge(&loaded.topology);
    let mut failures = Vec::new();
    let mut checked = 0;
    for expectation in &loaded.topology.expect {
        for from in &expectation.from {
            for to in &expectation.to {
                let report = path(&snapshot, from, to, expectation.protocol, expectation.port)
                    .expect("the ends exist");
                checked += 1;
                failures.extend(check(expectation, &report).err());
            }
        }
    }
    assert!(checked > 0, "{name} expects nothing");
    assert!(failures.is_empty(), "{} of {checked} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn hub_spoke_is_as_expected() {
    check_example("hub-spoke.yaml");
}

#[test]
fn two_peered_is_as_expected() {
    check_example("two-peered.yaml");
}

#[test]
fn nva_is_as_expected() {
    check_example("nva.yaml");
}

#[test]
fn dual_stack_is_as_expected() {
    check_example("dual-stack.yaml");
}

#[test]
fn subnet_peering_is_as_expected() {
    check_example("subnet-peering.yaml");
}
