//! The HTTP API over a Unix socket.
//!
//! [`Api::new`] puts the routes over a [`Backend`]; [`server`] listens.

pub mod backend;
mod compare;
mod descriptors;
pub mod error;
mod exec;
mod expect;
mod extract;
mod gateways;
mod labs;
mod live;
mod openapi;
mod peerings;
mod probes;
mod reports;
pub mod server;
mod stream;
pub mod topology;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use schemars::JsonSchema;
use serde_json::Value;
use vnet_analysis::impact::ImpactReport;
use vnet_analysis::search::SearchReport;
use vnet_api::{
    ApplyEvent, ApplyRequest, BgpPeerReport, CaptureRequest, DoctorReport, DropReport, ExecRequest,
    FailRequest, Failover, FlowReport, GatewayReport, GatewayRouteReport, Health, LabSummary, LogReport,
    MatrixGroups, MatrixReport, NDJSON, PCAPNG, PathAnswer, PeerConfig, PingEvent, PingRequest, Resource,
    TestEvent, TestRequest, TrafficEvent, TrafficRequest, ValidateReport,
};
use vnet_fabric::effective::{
    EffectiveNsgList, EffectivePeering, EffectiveRoutes, FlowVerdict, NextHopAnswer, NsgDiagnostics,
};

pub use backend::{Answer, Backend, ExecFailure, Execution};
pub use error::ApiError;

use crate::metrics::Metrics;
use labs::List;
use openapi::{Operation, Routes};

const JSON: &str = "application/json";

/// What the handlers share.
pub(crate) struct App<B> {
    backend: Arc<B>,
    metrics: Arc<Metrics>,
}

type Shared<B> = Arc<App<B>>;

/// The API over a backend.
pub struct Api {
    router: Router,
    metrics: Router,
    document: Value,
}

impl Api {
    /// Declares all routes.
    pub fn new<B: Backend>(backend: Arc<B>, metrics: Arc<Metrics>) -> Api {
        let app = Arc::new(App { backend, metrics });
        let mut routes = Routes::new();
        daemon_routes::<B>(&mut routes);
        lab_routes::<B>(&mut routes);
        peering_routes::<B>(&mut routes);
        report_routes::<B>(&mut routes);
        live_routes::<B>(&mut routes);
        machine_routes::<B>(&mut routes);
        let (router, document) = routes.finish();
        let text = document.to_string();
        let router = router
            .route("/openapi.json", get(move || async move { ([("content-type", JSON)], text) }))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .with_state(Arc::clone(&app));
        let metrics =
            Router::new().route("/metrics", get(live::metrics::<B>)).fallback(no_route).with_state(app);
        Api { router, metrics, document }
    }

    /// Everything, for the Unix socket.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// `/metrics` alone, for a TCP port that anybody on the host can reach.
    pub fn metrics_router(&self) -> Router {
        self.metrics.clone()
    }

    /// The OpenAPI document, as served at `/openapi.json`.
    pub fn document(&self) -> &Value {
        &self.document
    }
}

async fn no_route() -> ApiError {
    ApiError::unresolved("There is nothing at this path; /openapi.json lists what there is.")
}

async fn no_method() -> ApiError {
    let mut error =
        ApiError::bad_request("This path does not take this method; /openapi.json lists what it takes.");
    error.status = StatusCode::METHOD_NOT_ALLOWED;
    error
}

fn described<S, T>(routes: &mut Routes<S>, id: &'static str, summary: &'static str) -> Operation
where
    S: Clone + Send + Sync + 'static,
    T: JsonSchema,
{
    let schema = routes.schema::<T>();
    routes.operation(id, summary).answers(JSON, schema)
}

fn streamed<S, T>(routes: &mut Routes<S>, id: &'static str, summary: &'static str) -> Operation
where
    S: Clone + Send + Sync + 'static,
    T: JsonSchema,
{
    let schema = routes.schema::<T>();
    routes.operation(id, summary).answers(NDJSON, schema)
}

fn daemon_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let operation = described::<_, Health>(routes, "getHealth", "Whether the daemon is up.");
    routes.add(Method::GET, "/healthz", operation, labs::health::<B>);
    let text = routes.schema::<String>();
    let operation = routes.operation("getMetrics", "Counters in Prometheus' text format.");
    routes.add(Method::GET, "/metrics", operation.answers(live::PROMETHEUS_TEXT, text), live::metrics::<B>);
    let operation =
        described::<_, DoctorReport>(routes, "getDoctor", "What the host lacks, and how to mend it.");
    routes.add(Method::GET, "/v1/doctor", operation, live::doctor::<B>);
    let request = routes.schema::<ApplyRequest>();
    let operation =
        described::<_, ValidateReport>(routes, "validate", "Checks a topology file.").request(request);
    routes.add(Method::POST, "/v1/validate", operation, labs::validate::<B>);
}

fn lab_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let operation = described::<_, List<LabSummary>>(routes, "listLabs", "All labs.");
    routes.add(Method::GET, "/v1/labs", operation, labs::list::<B>);
    let operation = streamed::<_, ApplyEvent>(
        routes,
        "deleteLabs",
        "Removes every lab, and what a crash left of others.",
    );
    routes.add(Method::DELETE, "/v1/labs", operation, labs::delete_all::<B>);
    let operation = described::<_, LabSummary>(routes, "getLab", "One lab.");
    routes.add(Method::GET, "/v1/labs/{lab}", operation, labs::get::<B>);
    let request = routes.schema::<ApplyRequest>();
    let query = routes.query::<labs::ApplyQuery>();
    let summary =
        "Brings the lab to what the file says; with plan=true answers a PlanReport and does nothing.";
    let operation = streamed::<_, ApplyEvent>(routes, "putLab", summary).request(request).query(query);
    routes.add(Method::PUT, "/v1/labs/{lab}", operation, labs::put::<B>);
    let operation = streamed::<_, ApplyEvent>(routes, "deleteLab", "Removes the lab, and nothing else.");
    routes.add(Method::DELETE, "/v1/labs/{lab}", operation, labs::delete::<B>);
    let request = routes.schema::<ApplyRequest>();
    let summary = "What an apply would do to those who talk: pairs of machines, and the flows that live.";
    let operation = described::<_, ImpactReport>(routes, "getImpact", summary).request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/impact", operation, labs::impact::<B>);
    let query = routes.query::<labs::ResourceQuery>();
    let summary = "The lab's resources and their state.";
    let operation = described::<_, List<Resource>>(routes, "listResources", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/resources", operation, labs::resources::<B>);
}

fn peering_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let summary = "The halves of peerings, with state and ranges in force.";
    let operation = described::<_, List<EffectivePeering>>(routes, "listPeerings", summary);
    routes.add(Method::GET, "/v1/labs/{lab}/peerings", operation, peerings::list::<B>);
    let summary = "Brings both halves of a connected peering to the ranges that their networks have now.";
    let operation = described::<_, EffectivePeering>(routes, "syncPeering", summary);
    let path = "/v1/labs/{lab}/peerings/{network}/{remote}/sync";
    routes.add(Method::POST, path, operation, peerings::sync::<B>);
}

fn report_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let query = routes.query::<reports::TargetQuery>();
    let summary = "The routes in force, in Azure's shape.";
    let operation =
        described::<_, EffectiveRoutes>(routes, "getEffectiveRoutes", summary).query(query.clone());
    routes.add(Method::GET, "/v1/labs/{lab}/effective-routes", operation, reports::effective_routes::<B>);
    let summary = "The security rules in force, in Azure's shape.";
    let operation = described::<_, EffectiveNsgList>(routes, "getEffectiveNsg", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/effective-nsg", operation, reports::effective_nsg::<B>);
    let query = routes.query::<reports::NextHopQuery>();
    let summary = "Where a VM sends packets for an address next.";
    let operation = described::<_, NextHopAnswer>(routes, "getNextHop", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/next-hop", operation, reports::next_hop::<B>);
    let query = routes.query::<reports::FlowVerifyQuery>();
    let summary = "Whether a VM's security rules allow a packet.";
    let operation = described::<_, FlowVerdict>(routes, "verifyIpFlow", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/ip-flow-verify", operation, reports::ip_flow_verify::<B>);
    let query = routes.query::<reports::NsgDiagnosticsQuery>();
    let summary = "Every security rule that is evaluated for a kind of packet, field by field.";
    let operation = described::<_, NsgDiagnostics>(routes, "diagnoseNsg", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/nsg-diagnostics", operation, reports::nsg_diagnostics::<B>);
    let query = routes.query::<reports::PathQuery>();
    let summary = "Each step of a packet and of its answer; with probe=true a packet is sent and compared.";
    let operation = described::<_, PathAnswer>(routes, "getPath", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/path", operation, reports::path::<B>);
    let query = routes.query::<reports::MatrixQuery>();
    let operation =
        described::<_, MatrixReport>(routes, "getMatrix", "All pairs, verdict and way.").query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/matrix", operation, reports::matrix::<B>);
    let query = routes.query::<reports::MatrixQuery>();
    let summary = "All pairs, with each verdict and way that differs once: for many machines.";
    let operation = described::<_, MatrixGroups>(routes, "getMatrixGroups", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/matrix/groups", operation, reports::matrix_groups::<B>);
    let query = routes.query::<reports::SearchQuery>();
    let summary = "Who can reach an end, by which packets, over every header.";
    let operation = described::<_, SearchReport>(routes, "search", summary).query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/search", operation, reports::search::<B>);
    let request = routes.schema::<TestRequest>();
    let summary = "Proves the expect list, or that of the file sent along, with real packets.";
    let operation = streamed::<_, TestEvent>(routes, "test", summary).request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/test", operation, expect::test::<B>);
}

fn live_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let query = routes.query::<live::FlowQuery>();
    let operation =
        described::<_, FlowReport>(routes, "listFlows", "Live flows, busiest first.").query(query);
    routes.add(Method::GET, "/v1/labs/{lab}/flows", operation, live::flows::<B>);
    let operation = described::<_, DropReport>(routes, "listDrops", "Drops by machine and reason.");
    routes.add(Method::GET, "/v1/labs/{lab}/drops", operation, live::drops::<B>);
    let query = routes.query::<CaptureRequest>();
    let schema = routes.schema::<String>();
    let summary = "The packets of a machine or link with their verdicts, as a pcapng file that grows.";
    let operation = routes.operation("capture", summary).query(query).answers(PCAPNG, schema);
    routes.add(Method::GET, "/v1/labs/{lab}/capture", operation, live::capture::<B>);
    let operation = described::<_, GatewayReport>(routes, "listTunnels", "Tunnels and how they stand.");
    routes.add(Method::GET, "/v1/labs/{lab}/gateways", operation, live::gateways::<B>);
    let request = routes.schema::<FailRequest>();
    let summary =
        "Lets an instance of a gateway fail for as long as Azure's do, times provisioning.timeScale.";
    let operation = described::<_, Failover>(routes, "failGateway", summary).request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/gateways/{gateway}/fail", operation, live::fail::<B>);
    let query = routes.query::<live::ConfigQuery>();
    let summary = "The configuration for the device at a connection's other end, with its key.";
    let operation = described::<_, PeerConfig>(routes, "getPeerConfig", summary).query(query);
    let path = "/v1/labs/{lab}/connections/{connection}/peer-config";
    routes.add(Method::GET, path, operation, live::peer_config::<B>);
    speaker_routes(routes);
    let request = routes.schema::<PingRequest>();
    let operation =
        streamed::<_, PingEvent>(routes, "ping", "Sends probes from inside a machine.").request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/ping", operation, probes::ping::<B>);
    let request = routes.schema::<TrafficRequest>();
    let summary = "Measures throughput and latency between two machines.";
    let operation = streamed::<_, TrafficEvent>(routes, "traffic", summary).request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/traffic", operation, probes::traffic::<B>);
}

fn speaker_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let summary = "The BGP peers of a gateway, and how the sessions with them stand.";
    let operation = described::<_, BgpPeerReport>(routes, "listBgpPeers", summary);
    let path = "/v1/labs/{lab}/gateways/{gateway}/bgp-peers";
    routes.add(Method::GET, path, operation, gateways::bgp_peers::<B>);
    let summary = "What a gateway has learned by BGP, and its own.";
    let operation = described::<_, GatewayRouteReport>(routes, "listLearnedRoutes", summary);
    let path = "/v1/labs/{lab}/gateways/{gateway}/learned-routes";
    routes.add(Method::GET, path, operation, gateways::learned::<B>);
    let query = routes.query::<gateways::PeerQuery>();
    let summary = "What a gateway tells its BGP peers.";
    let operation = described::<_, GatewayRouteReport>(routes, "listAdvertisedRoutes", summary).query(query);
    let path = "/v1/labs/{lab}/gateways/{gateway}/advertised-routes";
    routes.add(Method::GET, path, operation, gateways::advertised::<B>);
}

fn machine_routes<B: Backend>(routes: &mut Routes<Shared<B>>) {
    let operation = described::<_, LogReport>(routes, "getLogs", "What the VM's run: commands printed.");
    routes.add(Method::GET, "/v1/labs/{lab}/machines/{machine}/logs", operation, live::logs::<B>);
    let request = routes.schema::<ExecRequest>();
    let summary = "Runs a program inside a machine: answers 101 and goes on with the vnetd-exec protocol.";
    let operation = routes.operation("exec", summary).request(request);
    routes.add(Method::POST, "/v1/labs/{lab}/machines/{machine}/exec", operation, exec::exec::<B>);
}
