//! The API over a real Unix socket, with an engine in memory behind it.

mod exec;
mod fake;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use vnetd::api::Api;
use vnetd::api::server::{Socket, serve_metrics};
use vnetd::metrics::Metrics;

use fake::Fake;

struct Daemon {
    socket: PathBuf,
    fake: Arc<Fake>,
    api: Api,
    stop: Option<oneshot::Sender<()>>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("run/vnetd.sock");
        let fake = Arc::new(Fake::default());
        let metrics = Arc::new(Metrics::new().expect("no two metrics share a name"));
        let api = Api::new(Arc::clone(&fake), metrics);
        let socket = Socket::open(&path).expect("the socket opens");
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(socket.serve(api.router(), async {
            let _ = stopped.await;
        }));
        Daemon { socket: path, fake, api, stop: Some(stop), _directory: directory }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, String) {
        let stream = UnixStream::connect(&self.socket).await.expect("the daemon listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("host", "vnetd");
        let request = request.body(Full::<Bytes>::from(body)).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a whole answer").to_bytes();
        (status, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let (status, text) = self.ask(method, path, body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
    }

    async fn lines(&self, method: Method, path: &str, body: Option<Value>) -> Vec<Value> {
        let (status, text) = self.ask(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
    }
}

fn file(text: &str) -> Option<Value> {
    Some(json!({ "topology": { "origin": "lab.yaml", "text": text } }))
}

#[tokio::test]
async fn a_lab_comes_and_goes() {
    let daemon = Daemon::start();
    let (status, error) = daemon.json(Method::GET, "/v1/labs/hub", None).await;
    assert_eq!((status, &error["code"]), (StatusCode::NOT_FOUND, &json!("LabNotFound")));

    let events = daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    assert_eq!(events[0]["event"], "progress");
    assert_eq!(events[0]["object"], "virtualMachine web");
    assert_eq!((&events[1]["event"], &events[1]["lab"]), (&json!("applied"), &json!("hub")));
    assert_eq!(events.len(), 2);

    let (_, labs) = daemon.json(Method::GET, "/v1/labs", None).await;
    assert_eq!(labs["value"][0]["name"], "hub");
    let (_, health) = daemon.json(Method::GET, "/healthz", None).await;
    assert_eq!(health["labs"], 1);
    let (_, text) = daemon.ask(Method::GET, "/metrics", None).await;
    assert!(text.contains("vnet_worker_batches_total{lab=\"hub\",worker=\"0\"} 3"), "{text}");

    let events = daemon.lines(Method::DELETE, "/v1/labs/hub", None).await;
    assert_eq!((&events[0]["event"], &events[0]["labs"]), (&json!("removed"), &json!(["hub"])));
    let events = daemon.lines(Method::DELETE, "/v1/labs", None).await;
    assert_eq!(events[0]["leftovers"], json!(["vnet.old.web"]));
}

#[tokio::test]
async fn searches_and_impacts_are_answered() {
    let daemon = Daemon::start();
    let example = include_str!("../../../examples/hub-spoke.yaml");
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let (status, found) = daemon.json(Method::GET, "/v1/labs/hub/search?to=db&port=443&from=web", None).await;
    assert_eq!(
        (status, &found["allowed"][0]["rule"]),
        (StatusCode::OK, &json!("east-west/web/https")),
        "{found}"
    );
    let (status, error) = daemon.json(Method::GET, "/v1/labs/hub/search?to=nobody", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{error}");
    let (status, same) = daemon.json(Method::POST, "/v1/labs/hub/impact", file(example)).await;
    assert_eq!((status, &same["pairs"]), (StatusCode::OK, &json!([])), "{same}");
    let other = example.replace("destinationPorts: [443]", "destinationPorts: [8443]");
    let (status, changed) = daemon.json(Method::POST, "/v1/labs/hub/impact", file(&other)).await;
    assert_eq!((status, &changed["pairs"][0]["effect"]), (StatusCode::OK, &json!("drop")), "{changed}");
    let (status, _) = daemon.json(Method::POST, "/v1/labs/other/impact", file(example)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_instance_of_a_gateway_fails() {
    let daemon = Daemon::start();
    let path = "/v1/labs/hub/gateways/hub-vpn/fail";
    let (status, _) = daemon.json(Method::POST, path, Some(json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "there is no such lab");
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let (status, failover) =
        daemon.json(Method::POST, path, Some(json!({"planned": true, "instance": 1}))).await;
    let expected = json!({"gateway": "hub-vpn", "instance": 1, "planned": true, "interruptionMs": 0});
    assert_eq!((status, failover), (StatusCode::OK, expected));
    let (status, error) = daemon.json(Method::POST, path, Some(json!({"plannd": true}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
}

#[tokio::test]
async fn a_refused_file_has_a_status_and_its_diagnostics() {
    let daemon = Daemon::start();
    for (method, path) in [(Method::PUT, "/v1/labs/hub"), (Method::POST, "/v1/validate")] {
        let (status, error) = daemon.json(method, path, file("refused")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(error["code"], "VnetAddressSpacesOverlap");
        assert_eq!(error["diagnostics"][0]["line"], 7);
        assert_eq!(error["diagnostics"][0]["remedy"], "Give one of them another range.");
    }
    let events = daemon.lines(Method::PUT, "/v1/labs/hub", file("fails late")).await;
    assert_eq!(events[1]["state"], "rolledBack");
    assert_eq!((&events[2]["event"], &events[2]["code"]), (&json!("error"), &json!("Unavailable")));
    let (status, plan) = daemon.json(Method::PUT, "/v1/labs/hub?plan=true", file("name: hub")).await;
    assert_eq!((status, &plan["creates"]), (StatusCode::OK, &json!(true)));
    assert!(daemon.fake.labs.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn an_apply_outlives_its_client() {
    let daemon = Daemon::start();
    let ask = daemon.ask(Method::PUT, "/v1/labs/hub", file("slow"));
    let cut = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(cut, ask).await.is_err(), "the work takes 200 ms");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while daemon.fake.labs.lock().expect("not poisoned").is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the apply was cut off with its client");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn broken_requests_are_refused_in_json() {
    let daemon = Daemon::start();
    let cases = [
        (Method::GET, "/v1/nothing", None, StatusCode::NOT_FOUND, "ResourceNotFound"),
        (Method::POST, "/v1/labs", None, StatusCode::METHOD_NOT_ALLOWED, "BadRequest"),
        (Method::POST, "/v1/validate", Some(json!({})), StatusCode::BAD_REQUEST, "BadRequest"),
        (Method::PUT, "/v1/labs/hub?plan=perhaps", file(""), StatusCode::BAD_REQUEST, "BadRequest"),
        (Method::POST, "/v1/labs/hub/machines/web/exec", None, StatusCode::BAD_REQUEST, "BadRequest"),
        (Method::GET, "/v1/labs/none/drops", None, StatusCode::NOT_FOUND, "LabNotFound"),
    ];
    for (method, path, body, status, code) in cases {
        let (found, error) = daemon.json(method, path, body).await;
        assert_eq!((found, &error["code"]), (status, &json!(code)), "{path}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test]
async fn resources_are_filtered() {
    let daemon = Daemon::start();
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let (_, all) = daemon.json(Method::GET, "/v1/labs/hub/resources", None).await;
    assert_eq!(all["value"].as_array().map(Vec::len), Some(2));
    let path = "/v1/labs/hub/resources?kind=virtualmachines&name=db";
    let (_, one) = daemon.json(Method::GET, path, None).await;
    assert_eq!((&one["value"][0]["name"], one["value"].as_array().map(Vec::len)), (&json!("db"), Some(1)));
    let path = "/v1/labs/hub/resources?kind=virtualMachines&name=nobody";
    assert_eq!(daemon.json(Method::GET, path, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn probes_and_traffic_stream() {
    let daemon = Daemon::start();
    let ping = |to: &str, count: u32| {
        let service = "tcp/443";
        Some(
            json!({ "from": "web", "to": to, "service": service, "count": count, "intervalMs": 1, "timeoutMs": 10 }),
        )
    };
    let events = daemon.lines(Method::POST, "/v1/labs/hub/ping", ping("db", 3)).await;
    assert_eq!(events[2]["sequence"], 3);
    assert_eq!((&events[3]["answered"], &events[3]["rtt"]["p99Us"]), (&json!(3), &json!(250)));
    let events = daemon.lines(Method::POST, "/v1/labs/hub/ping", ping("batch", 1)).await;
    assert_eq!(events[0]["result"]["reason"], "FirewallDeny");
    assert_eq!(events[1]["answered"], 0);
    assert_eq!(
        daemon.json(Method::POST, "/v1/labs/hub/ping", ping("db", 0)).await.0,
        StatusCode::BAD_REQUEST
    );

    let traffic = |service: &str| {
        Some(json!({ "from": "web", "to": "db", "service": service, "durationMs": 2000, "streams": 1 }))
    };
    let events = daemon.lines(Method::POST, "/v1/labs/hub/traffic", traffic("tcp/5001")).await;
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["interval", "interval", "report"]);
    let (status, error) = daemon.json(Method::POST, "/v1/labs/hub/traffic", traffic("udp/5001")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
}

#[tokio::test]
async fn predictions_come_from_the_snapshot() {
    let daemon = Daemon::start();
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let get = async |path: &str| daemon.json(Method::GET, &format!("/v1/labs/hub/{path}"), None).await;

    let (_, routes) = get("effective-routes?target=web").await;
    let user = routes["value"].as_array().and_then(|all| all.iter().find(|route| route["source"] == "User"));
    assert_eq!(user.map(|route| &route["nextHopIpAddress"]), Some(&json!(["10.0.1.4"])), "{routes}");
    let (_, hop) = get("next-hop?vm=web&destIp=10.2.0.4").await;
    assert_eq!(hop["nextHopType"], "VirtualAppliance", "{hop}");
    let query = "vm=web&direction=Inbound&protocol=tcp&local=10.1.0.4:443&remote=10.2.0.4:50000";
    let (_, flow) = get(&format!("ip-flow-verify?{query}")).await;
    assert_eq!(
        (&flow["access"], &flow["ruleName"]),
        (&json!("Allow"), &json!("securityRules/allow-https")),
        "{flow}"
    );
    let query = "target=web&direction=Inbound&protocol=Tcp&source=10.2.0.4&destination=10.1.0.4&port=443";
    let (_, diagnosis) = get(&format!("nsg-diagnostics?{query}")).await;
    let result = &diagnosis["results"][0]["networkSecurityGroupResult"];
    assert_eq!(result["securityRuleAccessResult"], "Allow", "{diagnosis}");
    assert_eq!(
        result["evaluatedNetworkSecurityGroups"][0]["matchedRule"]["ruleName"], "UserRule_allow-https",
        "{diagnosis}"
    );
    let (_, groups) = get("effective-nsg?target=web").await;
    assert_eq!(groups["value"][0]["association"]["subnet"]["id"], "spoke1/app", "{groups}");

    let (_, path) = get("path?from=web&to=db&service=tcp/443&probe=true").await;
    assert_eq!((&path["verdict"], &path["via"]), (&json!("allow"), &json!(["fw"])), "{path}");
    assert_eq!(path["probe"]["agrees"], true, "{path}");
    let (_, path) = get("path?from=batch&to=web&service=icmp&probe=true").await;
    assert_eq!(path["reason"], "RouteNone", "{path}");
    assert_eq!(path["probe"]["agrees"], false, "the fake drops with another reason: {path}");
    let (_, matrix) = get("matrix?service=icmp").await;
    assert_eq!(matrix["value"].as_array().map(Vec::len), Some(30), "six machines: {matrix}");

    for path in ["effective-routes?target=nobody", "path?from=web&to=nobody&service=icmp"] {
        assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["effective-routes", "path?from=web&to=db&service=tcp", "next-hop?vm=web&destIp=nowhere"] {
        assert_eq!(get(path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn peerings_are_listed_and_synced() {
    let daemon = Daemon::start();
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let (_, all) = daemon.json(Method::GET, "/v1/labs/hub/peerings", None).await;
    let first = &all["value"][0];
    assert_eq!(
        (&first["name"], &first["peeringState"]),
        (&json!("hub/spoke1"), &json!("Connected")),
        "{all}"
    );
    assert_eq!(first["remoteAddressSpace"], json!({ "addressPrefixes": ["10.1.0.0/16"] }), "{all}");
    let (status, half) = daemon.json(Method::POST, "/v1/labs/hub/peerings/spoke1/hub/sync", None).await;
    assert_eq!((status, &half["peeringSyncLevel"]), (StatusCode::OK, &json!("FullyInSync")), "{half}");
    let (status, error) = daemon.json(Method::POST, "/v1/labs/hub/peerings/spoke1/spoke2/sync", None).await;
    assert_eq!((status, &error["code"]), (StatusCode::NOT_FOUND, &json!("ResourceNotFound")));
}

#[tokio::test]
async fn expectations_are_proved_one_by_one() {
    let daemon = Daemon::start();
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    let events = daemon.lines(Method::POST, "/v1/labs/hub/test", Some(json!({}))).await;
    let of = |title: &str| {
        events.iter().find(|event| event["title"] == title).unwrap_or_else(|| panic!("{title}"))
    };
    // The fake answers tcp/443 to db alone, through fw, and names no rule.
    let found = of("web -> db tcp/443 allow via fw");
    let message = "rule: expected east-west/web/https, got none";
    assert_eq!((&found["outcome"], &found["messages"]), (&json!("fail"), &json!([message])));
    let found = of("web -> db tcp/22 deny FirewallDeny");
    assert_eq!(found["outcome"], "pass", "{found}");
    let summary = events.last().expect("a summary ends the stream");
    let total = events.len() as u64 - 1;
    let sum = |names: &[&str]| names.iter().filter_map(|name| summary[*name].as_u64()).sum::<u64>();
    assert_eq!(sum(&["passed", "failed", "errors"]), total, "{summary}");

    let other = json!({ "topology": { "origin": "x.yaml", "text": "name: other" } });
    let (status, error) = daemon.json(Method::POST, "/v1/labs/hub/test", Some(other)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
    let broken = json!({ "topology": { "origin": "x.yaml", "text": "name: [" } });
    let (status, error) = daemon.json(Method::POST, "/v1/labs/hub/test", Some(broken)).await;
    assert_eq!(
        (status, &error["diagnostics"][0]["file"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("x.yaml"))
    );
}

#[tokio::test]
async fn one_daemon_holds_the_socket_and_the_next_takes_over() {
    let mut daemon = Daemon::start();
    let mode = std::fs::metadata(&daemon.socket).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = Socket::open(&daemon.socket).expect_err("two daemons on one socket");
    assert!(error.to_string().contains("another vnetd"), "{error}");
    drop(daemon.stop.take());
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while Socket::open(&daemon.socket).is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the lock outlives its daemon");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn metrics_forgo_a_port_that_is_taken() {
    let daemon = Daemon::start();
    let any = "127.0.0.1:0".parse().expect("an address");
    let bound =
        serve_metrics(any, daemon.api.metrics_router(), std::future::pending()).await.expect("a free port");
    assert_eq!(serve_metrics(bound, daemon.api.metrics_router(), std::future::pending()).await, None);
    let stream = tokio::net::TcpStream::connect(bound).await.expect("metrics are served");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    for (path, status) in [("/metrics", StatusCode::OK), ("/v1/labs", StatusCode::NOT_FOUND)] {
        let request =
            Request::get(path).header("host", "vnetd").body(Full::<Bytes>::default()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{path}");
        response.into_body().collect().await.expect("a whole answer");
    }
}

/// `UPDATE_DOCS=1 cargo test -p vnetd --test api` writes the file anew.
#[tokio::test]
async fn the_committed_openapi_document_is_current() {
    let daemon = Daemon::start();
    let (_, served) = daemon.json(Method::GET, "/openapi.json", None).await;
    assert_eq!(&served, daemon.api.document());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let mut text = serde_json::to_string_pretty(&served).expect("a document is JSON");
    text.push('\n');
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).expect("docs/ can be written");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is out of date: UPDATE_DOCS=1 cargo test -p vnetd --test api"
    );
    let references: Vec<&str> = text.split("\"#/components/schemas/").skip(1).collect();
    assert!(!references.is_empty());
    for reference in references {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(served["components"]["schemas"].get(name).is_some(), "{name} is referred to and missing");
    }
}
