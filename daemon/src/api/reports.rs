//! Predictions: what the fabric answers from the snapshot in force.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use vnet_analysis::search::{self, Query, SearchProtocol, SearchReport, Senders};
use vnet_api::{MatrixGroups, PathAnswer, ProbeRequest, Protocol, Service};
use vnet_config::model::{AddressSpec, PortRange, SecurityProtocol};
use vnet_fabric::effective::{
    self, DiagnosticQuery, EffectiveNsgList, EffectiveRoutes, FlowDirection, FlowQuery, FlowVerdict,
    NextHopAnswer, NsgDiagnostics, QuestionError,
};

use super::backend::{Answer, Backend};
use super::compare::compare;
use super::error::ApiError;
use super::extract::{Json, Params};
use super::{App, JSON};
use crate::host::memory;

impl From<QuestionError> for ApiError {
    fn from(error: QuestionError) -> ApiError {
        let message = format!("{error}.");
        match error {
            QuestionError::Unknown { .. } => ApiError::unresolved(message),
            QuestionError::NoNic(_)
            | QuestionError::NoCommonFamily(..)
            | QuestionError::NotLocal { .. }
            | QuestionError::EmptyTag(_) => ApiError::bad_request(message),
        }
    }
}

/// How long a probe of `path` waits for its answer, in milliseconds.
const PROBE_TIMEOUT_MS: u64 = 2000;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct TargetQuery {
    /// VM, VM/NIC, VNET/SUBNET, firewall or gateway.
    target: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NextHopQuery {
    /// The VM.
    vm: String,
    /// Its NIC; the primary one if none is named.
    nic: Option<String>,
    /// Where to.
    dest_ip: IpAddr,
    /// From which of its addresses.
    source_ip: Option<IpAddr>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct FlowVerifyQuery {
    /// The VM.
    vm: String,
    /// Its NIC; the one that holds the local address if none is named.
    nic: Option<String>,
    /// Which way.
    direction: FlowDirection,
    /// TCP, UDP or ICMP.
    protocol: Protocol,
    /// The VM's address and port.
    local: SocketAddr,
    /// The other side's address and port.
    remote: SocketAddr,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct NsgDiagnosticsQuery {
    /// VM or VM/NIC.
    target: String,
    /// Which way.
    direction: FlowDirection,
    /// A protocol of security rules, or * for all of them.
    protocol: SecurityProtocol,
    /// An address, a prefix, a service tag or *.
    source: AddressSpec,
    /// An address, a prefix, a service tag or *.
    destination: AddressSpec,
    /// A destination port, a range of them or *.
    port: PortRange,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct PathQuery {
    /// A machine, appliance or address.
    from: String,
    /// A machine, appliance or address.
    to: String,
    /// tcp/PORT, udp/PORT or icmp.
    service: Service,
    /// Send a packet too, and hold it against the prediction.
    #[serde(default)]
    probe: bool,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct MatrixQuery {
    /// tcp/PORT, udp/PORT or icmp.
    service: Service,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct SearchQuery {
    /// A machine, host, firewall, gateway or address, also one of the Internet; or internet.
    to: String,
    /// any (if left out), internet, or the name of one machine, host or site.
    from: Option<String>,
    /// The destination port; every port if none is given.
    port: Option<u16>,
    /// The protocol; if none is given TCP with a port, else every one.
    protocol: Option<SearchProtocol>,
}

fn with_nic(vm: &str, nic: Option<&str>) -> String {
    nic.map_or_else(|| vm.to_owned(), |nic| format!("{vm}/{nic}"))
}

pub(crate) async fn effective_routes<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<TargetQuery>,
) -> Answer<Json<EffectiveRoutes>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    Ok(Json(effective::effective_routes(&snapshot, &query.target)?))
}

pub(crate) async fn effective_nsg<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<TargetQuery>,
) -> Answer<Json<EffectiveNsgList>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    Ok(Json(effective::effective_nsg(&snapshot, &query.target)?))
}

pub(crate) async fn next_hop<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<NextHopQuery>,
) -> Answer<Json<NextHopAnswer>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    let target = with_nic(&query.vm, query.nic.as_deref());
    Ok(Json(effective::next_hop(&snapshot, &target, query.dest_ip, query.source_ip)?))
}

pub(crate) async fn ip_flow_verify<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<FlowVerifyQuery>,
) -> Answer<Json<FlowVerdict>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    let question = FlowQuery::new(query.direction, query.protocol.into(), query.local, query.remote)?;
    let target = with_nic(&query.vm, query.nic.as_deref());
    Ok(Json(effective::ip_flow_verify(&snapshot, &target, &question)?))
}

pub(crate) async fn nsg_diagnostics<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<NsgDiagnosticsQuery>,
) -> Answer<Json<NsgDiagnostics>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    let question = DiagnosticQuery {
        direction: query.direction,
        protocol: query.protocol,
        source: query.source,
        destination: query.destination,
        destination_port: query.port,
    };
    Ok(Json(effective::nsg_diagnostics(&snapshot, &query.target, &question)?))
}

pub(crate) async fn path<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<PathQuery>,
) -> Answer<Json<PathAnswer>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    let (protocol, port) = query.service.asked();
    let prediction = vnet_fabric::path(&snapshot, &query.from, &query.to, protocol, port)?;
    let probe = if query.probe {
        let request = ProbeRequest {
            from: query.from,
            to: query.to,
            service: query.service,
            timeout_ms: PROBE_TIMEOUT_MS,
            payload_bytes: 0,
        };
        Some(compare(&prediction, app.backend.probe(&lab, request).await?))
    } else {
        None
    };
    Ok(Json(PathAnswer { prediction, probe }))
}

pub(crate) async fn search<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<SearchQuery>,
) -> Answer<Json<SearchReport>> {
    let snapshot = app.backend.snapshot(&lab).await?;
    let question = Query {
        to: query.to,
        from: match query.from.as_deref() {
            None | Some("any") => Senders::Any,
            Some("internet") => Senders::Internet,
            Some(name) => Senders::Name(name.to_owned()),
        },
        protocols: query.protocol.into_iter().collect(),
        port: query.port,
    };
    let found = tokio::task::spawn_blocking(move || search::search(&snapshot, &question)).await;
    let report = found.map_err(|_| ApiError::internal("The search could not be made."))?;
    Ok(Json(report?))
}

pub(crate) async fn matrix<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<MatrixQuery>,
) -> Answer<Response> {
    let groups = Arc::new(judged(&app, &lab, query).await?);
    let service = serde_json::to_string(&groups.service).unwrap_or_default();
    let head = Ok(format!("{{\"service\":{service},\"value\":["));
    let mut first = true;
    let senders = (0..groups.machines.len()).map(move |sender| {
        let mut text = String::new();
        for pair in groups.pairs_of(sender) {
            text.push_str(if std::mem::take(&mut first) { "" } else { "," });
            text.push_str(&serde_json::to_string(&pair).unwrap_or_default());
        }
        Ok::<_, Infallible>(text)
    });
    // A thousand machines make a hundred megabytes: what is sent is not held.
    let body = std::iter::once(head).chain(senders).chain(std::iter::once(Ok("]}".to_owned())));
    Ok(([(CONTENT_TYPE, JSON)], Body::from_stream(futures_util::stream::iter(body))).into_response())
}

pub(crate) async fn matrix_groups<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<MatrixQuery>,
) -> Answer<Json<MatrixGroups>> {
    Ok(Json(judged(&app, &lab, query).await?))
}

async fn judged<B: Backend>(app: &App<B>, lab: &str, query: MatrixQuery) -> Answer<MatrixGroups> {
    let snapshot = app.backend.snapshot(lab).await?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Two hundred machines are forty thousand pairs: not on a thread that others wait for.
    let made = tokio::task::spawn_blocking(move || {
        let groups = MatrixGroups::of(&snapshot, query.service, threads);
        memory::give_back();
        groups
    });
    let made = made.await;
    made.map_err(|_| ApiError::internal("The matrix could not be made."))
}
