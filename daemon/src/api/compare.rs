//! What a packet met, held against what was predicted.

use std::net::IpAddr;

use vnet_api::{FlowVerdict, ProbeComparison, ProbeResult};
use vnet_dataplane::Reason;
use vnet_fabric::PathReport;
use vnet_fabric::path::PathVerdict;

fn word(verdict: FlowVerdict) -> &'static str {
    match verdict {
        FlowVerdict::Allow => "allow",
        FlowVerdict::Deny => "deny",
    }
}

/// `fw, hub-vpn`, or `direct`.
pub(crate) fn way(appliances: &[String]) -> String {
    if appliances.is_empty() { "direct".to_owned() } else { appliances.join(", ") }
}

/// Every point in which the two differ. Of a dropped packet the way is compared as far as it came.
pub(crate) fn compare(prediction: &PathReport, result: ProbeResult) -> ProbeComparison {
    let mut differences = Vec::new();
    let mut differ = |what: &str, predicted: &str, met: &str| {
        if predicted != met {
            differences.push(format!("{what}: predicted {predicted}, the packet met {met}"));
        }
    };
    let predicted = match prediction.verdict {
        PathVerdict::Allow => FlowVerdict::Allow,
        PathVerdict::Deny => FlowVerdict::Deny,
    };
    let met = result.verdict();
    differ("verdict", word(predicted), word(met));
    if met == FlowVerdict::Deny && predicted == FlowVerdict::Deny {
        let none = "no reason";
        let predicted = prediction.reason.as_deref().unwrap_or(none);
        let met = result.reason.as_deref();
        // What machines send round and round ends by its TTL, at a firewall or in a machine's own kernel.
        let by_ttl = met.is_none_or(|met| met == Reason::TtlExceeded.name());
        if !(predicted == Reason::RoutingLoop.name() && by_ttl) {
            differ("reason", predicted, met.unwrap_or(none));
        }
    }
    if met == FlowVerdict::Allow && predicted == FlowVerdict::Allow {
        differ("way out", &way(&prediction.via), &way(&result.via));
        differ("way back", &way(&prediction.via_reverse), &way(&result.via_reverse));
        let got = |other: &Option<String>| other.clone().unwrap_or_else(|| prediction.to.clone());
        differ("delivered to", &got(&prediction.delivered_to), &got(&result.delivered_to));
        let foreseen = |seen: &IpAddr| prediction.source_seen_as_one_of.contains(seen);
        let seen = result.source_seen_as.filter(|seen| !foreseen(seen));
        if let (Some(predicted), Some(seen)) = (prediction.source_seen_as, seen) {
            differ("source seen as", &predicted.to_string(), &seen.to_string());
        }
    }
    ProbeComparison { agrees: differences.is_empty(), result, differences }
}

#[cfg(test)]
mod tests {
    use vnet_api::ProbeOutcome;
    use vnet_config::model::ProbeProtocol;

    use super::*;

    fn prediction() -> PathReport {
        let text = include_str!("../../../examples/hub-spoke.yaml");
        let loaded = vnet_config::load(text, "hub-spoke.yaml", None).expect("the example is valid");
        let (_, snapshot) = vnet_fabric::converge(&loaded.topology);
        vnet_fabric::path(&snapshot, "web", "db", ProbeProtocol::Tcp, Some(443)).expect("both are there")
    }

    fn answered() -> ProbeResult {
        ProbeResult {
            outcome: ProbeOutcome::Answered,
            source: "10.1.0.4".parse().expect("an address"),
            destination: "10.2.0.4".parse().expect("an address"),
            rtt_us: Some(100),
            reason: None,
            rule: None,
            rules: Vec::new(),
            via: vec!["fw".into()],
            via_reverse: vec!["fw".into()],
            source_seen_as: None,
            delivered_to: None,
        }
    }

    #[test]
    fn agreement_and_each_kind_of_difference() {
        let prediction = prediction();
        assert_eq!(compare(&prediction, answered()).differences, Vec::<String>::new());
        let direct = ProbeResult { via: Vec::new(), ..answered() };
        assert_eq!(
            compare(&prediction, direct).differences,
            ["way out: predicted fw, the packet met direct"]
        );
        let seen_as = |address: &str| address.parse::<IpAddr>().expect("an address");
        let translated = PathReport {
            source_seen_as: Some(seen_as("20.2.2.5")),
            source_seen_as_one_of: vec![seen_as("20.2.2.5"), seen_as("20.2.2.6")],
            ..prediction.clone()
        };
        for (seen, differences) in [
            ("20.2.2.6", &[][..]),
            ("20.2.2.7", &["source seen as: predicted 20.2.2.5, the packet met 20.2.2.7"]),
        ] {
            let seen = ProbeResult { source_seen_as: Some(seen_as(seen)), ..answered() };
            assert_eq!(compare(&translated, seen).differences, differences);
        }
        let dropped =
            ProbeResult { outcome: ProbeOutcome::Dropped, reason: Some("NsgDeny".into()), ..answered() };
        let comparison = compare(&prediction, dropped.clone());
        assert!(!comparison.agrees);
        assert_eq!(comparison.differences, ["verdict: predicted allow, the packet met deny"]);
        let denied =
            PathReport { verdict: PathVerdict::Deny, reason: Some("FirewallDeny".into()), ..prediction };
        assert_eq!(
            compare(&denied, dropped).differences,
            ["reason: predicted FirewallDeny, the packet met NsgDeny"]
        );
        let looping =
            PathReport { verdict: PathVerdict::Deny, reason: Some("RoutingLoop".into()), ..denied.clone() };
        for (met, agrees) in [(None, true), (Some("TtlExceeded"), true), (Some("NsgDeny"), false)] {
            let lost =
                ProbeResult { outcome: ProbeOutcome::NoAnswer, reason: met.map(str::to_owned), ..answered() };
            assert_eq!(compare(&looping, lost).agrees, agrees, "{met:?}");
        }
    }
}
