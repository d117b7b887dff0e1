//! What is happening in a lab, and how the host stands.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use vnet_api::{
    CaptureRequest, ConfigFormat, DoctorReport, DropReport, FailRequest, Failover, FlowReport, GatewayReport,
    LogReport, PCAPNG, PeerConfig,
};

use super::App;
use super::backend::{Answer, Backend};
use super::error::ApiError;
use super::extract::{Json, Params};

/// Media type of Prometheus' text format.
pub(crate) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Deserialize, JsonSchema)]
pub(crate) struct FlowQuery {
    /// At most so many; 1,000 if nothing is said.
    limit: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ConfigQuery {
    /// For `wg setconf`, for `wg-quick`, or as data.
    #[serde(default)]
    format: ConfigFormat,
}

pub(crate) async fn flows<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<FlowQuery>,
) -> Answer<Json<FlowReport>> {
    Ok(Json(app.backend.flows(&lab, query.limit.unwrap_or(1000)).await?))
}

pub(crate) async fn drops<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
) -> Answer<Json<DropReport>> {
    Ok(Json(app.backend.drops(&lab).await?))
}

pub(crate) async fn capture<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(request): Params<CaptureRequest>,
) -> Answer<Response> {
    let pieces = app.backend.capture(&lab, request).await?;
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    Ok(([(CONTENT_TYPE, PCAPNG)], Body::from_stream(pieces)).into_response())
}

pub(crate) async fn gateways<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
) -> Answer<Json<GatewayReport>> {
    Ok(Json(app.backend.gateway_status(&lab).await?))
}

pub(crate) async fn fail<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, gateway)): Path<(String, String)>,
    Json(request): Json<FailRequest>,
) -> Answer<Json<Failover>> {
    Ok(Json(app.backend.gateway_fail(&lab, &gateway, request).await?))
}

pub(crate) async fn peer_config<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, connection)): Path<(String, String)>,
    Params(query): Params<ConfigQuery>,
) -> Answer<Json<PeerConfig>> {
    Ok(Json(app.backend.gateway_config(&lab, &connection, query.format).await?))
}

pub(crate) async fn logs<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, vm)): Path<(String, String)>,
) -> Answer<Json<LogReport>> {
    Ok(Json(app.backend.logs(&lab, &vm).await?))
}

pub(crate) async fn doctor<B: Backend>(State(app): State<Arc<App<B>>>) -> Json<DoctorReport> {
    Json(app.backend.doctor().await)
}

pub(crate) async fn metrics<B: Backend>(State(app): State<Arc<App<B>>>) -> Response {
    let counters = app.backend.counters().await;
    match app.metrics.render(&counters) {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => {
            ApiError::internal(format!("The counters contradict each other: {error}.")).into_response()
        }
    }
}
