//! A matrix says of every pair what a path says.

use vnet_config::model::ProbeProtocol;
use vnet_fabric::path::PathVerdict;
use vnet_fabric::trace::Hop;
use vnet_fabric::{converge, matrix, path};

#[test]
fn a_matrix_agrees_with_the_path_of_every_pair() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut pairs = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let Ok(loaded) = vnet_config::load_file(&file) else { continue };
        let (_, snapshot) = converge(&loaded.topology);
        for (protocol, port) in
            [(ProbeProtocol::Icmp, None), (ProbeProtocol::Tcp, Some(443)), (ProbeProtocol::Udp, Some(53))]
        {
            for pair in matrix(&snapshot, protocol, port) {
                let report = path(&snapshot, &pair.from, &pair.to, protocol, port).unwrap();
                let judged = pair.outcome;
                let verdict = if judged.reason.is_some() { PathVerdict::Deny } else { PathVerdict::Allow };
                let names = |hops: &[Hop]| -> Vec<String> {
                    hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect()
                };
                let rule = judged.rule.and_then(|rule| snapshot.rule(rule)).map(|rule| &rule.reference);
                assert_eq!(verdict, report.verdict, "{} -> {}", pair.from, pair.to);
                assert_eq!(judged.reason.map(|reason| reason.name().to_owned()), report.reason);
                assert_eq!(rule, report.rule.as_ref());
                assert_eq!(
                    (names(&judged.via), names(&judged.via_reverse)),
                    (report.via, report.via_reverse)
                );
                assert_eq!(judged.asymmetric, report.asymmetric, "{} -> {}", pair.from, pair.to);
                pairs += 1;
            }
        }
    }
    assert!(pairs > 50);
}
