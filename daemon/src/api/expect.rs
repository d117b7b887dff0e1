//! The `expect` list, proved with real packets.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::response::Response;
use indexmap::IndexMap;
use tokio::sync::mpsc;
use vnet_api::{
    ApplyRequest, ExpectOutcome, ExpectResult, FlowVerdict, ProbeOutcome, ProbeRequest, ProbeResult,
    Protocol, Service, TestEvent, TestRequest, TestSummary, TrafficRequest,
};
use vnet_config::Topology;
use vnet_config::model::{Expectation, Verdict};
use vnet_fabric::trace::is_called;

use super::App;
use super::backend::{Answer, Backend};
use super::compare::way;
use super::error::ApiError;
use super::extract::Json;
use super::stream::ndjson;
use super::topology;

/// How long a probe waits for its answer, in milliseconds: longer than `maxRttMs` of any real design.
const TIMEOUT_MS: u64 = 2000;
/// A probe whose packets met a tunnel that was not up yet, or a lab that was still settling, is tried again.
const TRIES: u32 = 3;
/// How long `minMbps` is measured, in milliseconds.
const MEASURE_MS: u64 = 3000;
/// Where the receiver of a measurement listens if the expectation names no port.
const MEASURE_PORT: u16 = 5201;
/// An expectation without a port for TCP and UDP asks for this one, as `path` does.
const DEFAULT_PORT: u16 = 80;

/// One pair of one expectation.
struct Case<'a> {
    index: usize,
    expectation: &'a Expectation,
    from: String,
    to: String,
}

impl Case<'_> {
    fn service(&self) -> Service {
        let protocol = Protocol::from(self.expectation.protocol);
        let port = if protocol == Protocol::Icmp { 0 } else { self.expectation.port.unwrap_or(DEFAULT_PORT) };
        Service { protocol, port }
    }

    fn title(&self) -> String {
        let Expectation { verdict, reason, via, .. } = self.expectation;
        let verdict = match verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        let mut title = format!("{} -> {} {} {verdict}", self.from, self.to, self.service());
        match via.as_deref() {
            Some([]) => title.push_str(" directly"),
            Some(via) => title.push_str(&format!(" via {}", via.join(", "))),
            None => {}
        }
        if let Some(reason) = reason {
            title.push_str(&format!(" {reason}"));
        }
        title
    }
}

/// The names that an entry of `from` or `to` stands for; `tag:NAME` for all that have a tag with this key or value.
fn expand(topology: &Topology, entry: &str) -> Vec<String> {
    let Some(wanted) = entry.strip_prefix("tag:") else { return vec![entry.to_owned()] };
    let machines = topology.virtual_machines.iter().map(|(name, machine)| (name, &machine.tags));
    let sites = topology.on_premises_sites.values().flat_map(|site| &site.hosts);
    let hosts = sites.map(|(name, host)| (name, &host.tags));
    let outside = topology.internet.hosts.iter().map(|(name, host)| (name, &host.tags));
    let holds =
        |tags: &IndexMap<String, String>| tags.iter().any(|(key, value)| key == wanted || value == wanted);
    let endpoints = topology.private_endpoints.iter().map(|(name, endpoint)| (name, &endpoint.tags));
    let all = machines.chain(hosts).chain(endpoints).chain(outside);
    all.filter(|(_, tags)| holds(tags)).map(|(name, _)| name.clone()).collect()
}

fn cases(topology: &Topology) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for (index, expectation) in topology.expect.iter().enumerate() {
        let ends = |entries: &[String]| -> Vec<String> {
            entries.iter().flat_map(|entry| expand(topology, entry)).collect()
        };
        let to = ends(&expectation.to);
        for from in ends(&expectation.from) {
            for to in to.iter().filter(|to| **to != from) {
                cases.push(Case { index: index + 1, expectation, from: from.clone(), to: to.clone() });
            }
        }
    }
    cases
}

/// Every point in which a probe differs from what is expected of it.
fn judge(expectation: &Expectation, result: &ProbeResult) -> Vec<String> {
    let mut messages = Vec::new();
    let met = result.verdict();
    let expected = match expectation.verdict {
        Verdict::Allow => FlowVerdict::Allow,
        Verdict::Deny => FlowVerdict::Deny,
    };
    if met != expected {
        messages.push(match (met, result.reason.as_deref()) {
            (FlowVerdict::Allow, _) => format!("expected deny, got an answer (way: {})", way(&result.via)),
            (FlowVerdict::Deny, Some(reason)) => {
                let by = result.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
                format!("expected allow, got deny with {reason}{by}")
            }
            (FlowVerdict::Deny, None) => "expected allow, got no answer and no drop in the lab".to_owned(),
        });
        return messages;
    }
    if let (FlowVerdict::Allow, Some(other)) = (met, &result.delivered_to) {
        messages.push(format!("expected allow, but {other} got it, which has the same address"));
    }
    let mut differ = |what: &str, expected: &str, got: &str| {
        if expected != got {
            messages.push(format!("{what}: expected {expected}, got {got}"));
        }
    };
    if let Some(reason) = &expectation.reason {
        differ("reason", reason, result.reason.as_deref().unwrap_or("none"));
    }
    if let Some(via) = &expectation.via {
        differ("via", &way(via), &way(&result.via));
    }
    if let Some(via) = &expectation.via_reverse {
        differ("viaReverse", &way(via), &way(&result.via_reverse));
    }
    if let Some(rule) = &expectation.rule {
        // Of several rules on the way, as a firewall's and a security group's, the expectation names one.
        let met = result.rules.iter().chain(&result.rule).any(|name| is_called(name, rule));
        let got = if met { rule } else { result.rule.as_deref().unwrap_or("none") };
        differ("rule", rule, got);
    }
    if let Some(source) = expectation.source_seen_as {
        let seen = result.source_seen_as.map_or_else(|| "nothing".to_owned(), |seen| seen.to_string());
        differ("sourceSeenAs", &source.to_string(), &seen);
    }
    for appliance in &expectation.not_via {
        if result.via.contains(appliance) || result.via_reverse.contains(appliance) {
            messages.push(format!("notVia: {appliance} is on the way"));
        }
    }
    if let (Some(longest), Some(rtt_us)) = (expectation.max_rtt_ms, result.rtt_us) {
        let rtt_ms = rtt_us as f64 / 1000.0;
        if rtt_ms > longest {
            messages.push(format!("maxRttMs: expected at most {longest}, got {rtt_ms:.3}"));
        }
    }
    messages
}

/// Only what a handshake or a queue may explain is worth another try: a wrong verdict, way or rule stays wrong.
fn may_settle(result: &ProbeResult, messages: &[String]) -> bool {
    match result.outcome {
        ProbeOutcome::Answered => messages.iter().all(|message| message.starts_with("maxRttMs")),
        ProbeOutcome::NoAnswer => true,
        ProbeOutcome::Dropped | ProbeOutcome::AnswerLost => {
            matches!(result.reason.as_deref(), Some("TunnelDown" | "ReceiverQueueFull" | "ShaperQueueFull"))
        }
    }
}

async fn probe<B: Backend>(app: &App<B>, lab: &str, case: &Case<'_>) -> Answer<(ProbeResult, Vec<String>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let request = ProbeRequest {
            from: case.from.clone(),
            to: case.to.clone(),
            service: case.service(),
            timeout_ms: TIMEOUT_MS,
            payload_bytes: 0,
        };
        let result = app.backend.probe(lab, request).await?;
        let messages = judge(case.expectation, &result);
        if messages.is_empty() || tries == TRIES || !may_settle(&result, &messages) {
            return Ok((result, messages));
        }
    }
}

async fn try_case<B: Backend>(app: &App<B>, lab: &str, case: &Case<'_>) -> ExpectResult {
    let begun = Instant::now();
    let mut outcome = ExpectResult {
        index: case.index,
        title: case.title(),
        outcome: ExpectOutcome::Pass,
        messages: Vec::new(),
        probe: None,
        mbps: None,
        ms: 0,
    };
    match measure(app, lab, case, &mut outcome).await {
        Ok(()) if outcome.messages.is_empty() => {}
        Ok(()) => outcome.outcome = ExpectOutcome::Fail,
        Err(error) => {
            outcome.outcome = ExpectOutcome::Error;
            outcome.messages.push(error.to_string());
        }
    }
    outcome.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

async fn measure<B: Backend>(
    app: &App<B>,
    lab: &str,
    case: &Case<'_>,
    outcome: &mut ExpectResult,
) -> Answer<()> {
    let (result, messages) = probe(app, lab, case).await?;
    outcome.probe = Some(result);
    outcome.messages = messages;
    let Some(least) = case.expectation.min_mbps.filter(|_| outcome.messages.is_empty()) else {
        return Ok(());
    };
    let service = case.service();
    let port = if service.protocol == Protocol::Tcp { service.port } else { MEASURE_PORT };
    let request = TrafficRequest {
        from: case.from.clone(),
        to: case.to.clone(),
        service: Service { protocol: Protocol::Tcp, port },
        duration_ms: MEASURE_MS,
        streams: 1,
        rate_mbps: None,
    };
    let (intervals, mut unread) = mpsc::channel(8);
    let drain = async move { while unread.recv().await.is_some() {} };
    let (report, ()) = tokio::join!(app.backend.traffic(lab, request, intervals), drain);
    let mbps = report?.mbps;
    outcome.mbps = Some(mbps);
    if mbps < least {
        outcome.messages.push(format!("minMbps: expected at least {least}, got {mbps:.1}"));
    }
    Ok(())
}

pub(crate) async fn test<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Json(request): Json<TestRequest>,
) -> Answer<Response> {
    let topology = match request.topology {
        Some(topology) => Arc::new(topology::load(&ApplyRequest { topology, as_azure: false })?.topology),
        None => app.backend.topology(&lab).await?,
    };
    if topology.name != lab {
        let message = format!("The file describes the lab '{}', not '{lab}'.", topology.name);
        return Err(ApiError::bad_request(message));
    }
    app.backend.lab(&lab).await?;
    let (events, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        let begun = Instant::now();
        let mut summary = TestSummary::default();
        for case in cases(&topology) {
            let result = try_case(&app, &lab, &case).await;
            match result.outcome {
                ExpectOutcome::Pass => summary.passed += 1,
                ExpectOutcome::Fail => summary.failed += 1,
                ExpectOutcome::Error => summary.errors += 1,
            }
            if events.send(Ok(TestEvent::Result(Box::new(result)))).await.is_err() {
                return;
            }
        }
        summary.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let _ = events.send(Ok(TestEvent::Summary(summary))).await;
    });
    Ok(ndjson(stream).await)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn topology(expect: &str) -> Topology {
        let text = format!(
            "name: t\nvirtualNetworks:\n  a:\n    addressSpace: [10.0.0.0/16]\n    subnets: {{s: 10.0.0.0/24}}\n\
             virtualMachines:\n  one: {{subnet: a/s, tags: {{role: web}}}}\n  two: {{subnet: a/s, tags: {{role: db}}}}\n  \
             three: {{subnet: a/s}}\nexpect:\n  - {expect}\n"
        );
        vnet_config::load(&text, "t.yaml", None).expect("the file is valid").topology
    }

    fn expectation(mut rest: serde_json::Value) -> Expectation {
        rest["from"] = json!(["one"]);
        rest["to"] = json!(["two"]);
        serde_json::from_value(rest).expect("an expectation")
    }

    fn result() -> ProbeResult {
        ProbeResult {
            outcome: ProbeOutcome::Answered,
            source: "10.0.0.4".parse().expect("an address"),
            destination: "10.0.0.5".parse().expect("an address"),
            rtt_us: Some(5000),
            reason: None,
            rule: Some("g/c/r".into()),
            rules: vec!["g/c/r".into(), "nsg/rule".into()],
            via: vec!["fw".into()],
            via_reverse: Vec::new(),
            source_seen_as: None,
            delivered_to: None,
        }
    }

    #[test]
    fn lists_and_tags_become_pairs() {
        let file = topology(
            "{from: 'tag:role', to: [one, three], protocol: tcp, port: 443, verdict: allow, via: []}",
        );
        let titles: Vec<String> = cases(&file).iter().map(Case::title).collect();
        let expected = [
            "one -> three tcp/443 allow directly",
            "two -> one tcp/443 allow directly",
            "two -> three tcp/443 allow directly",
        ];
        assert_eq!(titles, expected);
        let file = topology("{from: 'tag:db', to: one, verdict: deny, reason: NsgDeny}");
        let titles: Vec<String> = cases(&file).iter().map(Case::title).collect();
        assert_eq!(titles, ["two -> one icmp deny NsgDeny"]);
    }

    #[test]
    fn every_point_is_judged() {
        let judged = |expect: serde_json::Value| judge(&expectation(expect), &result());
        assert_eq!(judged(json!({ "verdict": "allow", "rule": "g/c/r" })), Vec::<String>::new());
        assert_eq!(judged(json!({ "verdict": "allow", "rule": "nsg/rule" })), Vec::<String>::new());
        assert_eq!(judged(json!({ "verdict": "deny" })), ["expected deny, got an answer (way: fw)"]);
        let found = judged(json!({
            "verdict": "allow", "via": [], "viaReverse": ["fw"], "notVia": ["fw"], "rule": "other", "maxRttMs": 1,
            "sourceSeenAs": "10.0.0.9"
        }));
        assert_eq!(
            found,
            [
                "via: expected direct, got fw",
                "viaReverse: expected fw, got direct",
                "rule: expected other, got g/c/r",
                "sourceSeenAs: expected 10.0.0.9, got nothing",
                "notVia: fw is on the way",
                "maxRttMs: expected at most 1, got 5.000",
            ]
        );
        let denied =
            ProbeResult { outcome: ProbeOutcome::Dropped, reason: Some("NsgDeny".into()), ..result() };
        let allow = expectation(json!({ "verdict": "allow" }));
        assert_eq!(judge(&allow, &denied), ["expected allow, got deny with NsgDeny by g/c/r"]);
        let nobody = ProbeResult { rule: None, ..denied.clone() };
        assert_eq!(judge(&allow, &nobody), ["expected allow, got deny with NsgDeny"]);
        assert!(!may_settle(&denied, &[]) && !may_settle(&result(), &["expected deny".into()]));
        assert!(may_settle(&ProbeResult { reason: Some("TunnelDown".into()), ..denied.clone() }, &[]));
        assert!(may_settle(&result(), &["maxRttMs: late".into()]));
        assert_eq!(
            judge(&expectation(json!({ "verdict": "deny", "reason": "FirewallDeny" })), &denied),
            ["reason: expected FirewallDeny, got NsgDeny"]
        );
    }
}
