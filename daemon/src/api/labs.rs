//! A lab's life: list, apply, plan, down, validate, show.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use vnet_analysis::impact::ImpactReport;
use vnet_api::{
    ApplyEvent, ApplyRequest, Health, LabSummary, Progress, RESOURCE_KINDS, Resource, ValidateReport,
};

use super::App;
use super::backend::{Answer, Backend};
use super::error::ApiError;
use super::extract::{Json, Params};
use super::stream::ndjson;

/// Events that wait for a slow reader before the work does.
const EVENTS_MAX: usize = 256;

/// A list, in Azure's envelope.
#[derive(Serialize, JsonSchema)]
pub(crate) struct List<T> {
    pub(super) value: Vec<T>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ApplyQuery {
    /// Answer with what an apply would do, and do nothing.
    #[serde(default)]
    plan: bool,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ResourceQuery {
    /// Only this section of the file, as `virtualNetworks`.
    kind: Option<String>,
    /// Only this resource.
    name: Option<String>,
}

pub(crate) async fn health<B: Backend>(State(app): State<Arc<App<B>>>) -> Answer<Json<Health>> {
    let labs = app.backend.labs().await?.len();
    Ok(Json(Health { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), labs }))
}

pub(crate) async fn list<B: Backend>(State(app): State<Arc<App<B>>>) -> Answer<Json<List<LabSummary>>> {
    Ok(Json(List { value: app.backend.labs().await? }))
}

pub(crate) async fn get<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
) -> Answer<Json<LabSummary>> {
    Ok(Json(app.backend.lab(&lab).await?))
}

pub(crate) async fn put<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<ApplyQuery>,
    Json(request): Json<ApplyRequest>,
) -> Response {
    if query.plan {
        return match app.backend.plan(&lab, request).await {
            Ok(report) => Json(report).into_response(),
            Err(error) => error.into_response(),
        };
    }
    long_work(move |progress| async move {
        Ok(ApplyEvent::Applied(app.backend.apply(&lab, request, progress).await?))
    })
    .await
}

pub(crate) async fn impact<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Json(request): Json<ApplyRequest>,
) -> Answer<Json<ImpactReport>> {
    Ok(Json(app.backend.impact(&lab, request).await?))
}

pub(crate) async fn delete<B: Backend>(State(app): State<Arc<App<B>>>, Path(lab): Path<String>) -> Response {
    long_work(move |progress| async move { Ok(ApplyEvent::Removed(app.backend.down(&lab, progress).await?)) })
        .await
}

pub(crate) async fn delete_all<B: Backend>(State(app): State<Arc<App<B>>>) -> Response {
    long_work(move |progress| async move { Ok(ApplyEvent::Removed(app.backend.down_all(progress).await?)) })
        .await
}

pub(crate) async fn validate<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Json(request): Json<ApplyRequest>,
) -> Answer<Json<ValidateReport>> {
    Ok(Json(app.backend.validate(request).await?))
}

pub(crate) async fn resources<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Params(query): Params<ResourceQuery>,
) -> Answer<Json<List<Resource>>> {
    if let Some(kind) = &query.kind
        && !RESOURCE_KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind))
    {
        let message = format!("'{kind}' is no kind of resource: there are {}.", RESOURCE_KINDS.join(", "));
        return Err(ApiError::bad_request(message));
    }
    let mut value = app.backend.resources(&lab).await?;
    let matches = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(found))
    };
    value.retain(|resource| matches(&query.kind, &resource.kind));
    if let Some(name) = &query.name
        && !value.iter().any(|resource| resource.name.eq_ignore_ascii_case(name))
    {
        let kind = query.kind.as_deref().unwrap_or("resource");
        return Err(ApiError::not_among(kind, name, value.iter().map(|resource| &resource.name)));
    }
    value.retain(|resource| matches(&query.name, &resource.name));
    Ok(Json(List { value }))
}

/// Does the work in a task of its own, so that it comes to its end when the client goes away, and streams its
/// progress.
async fn long_work<W, F>(work: W) -> Response
where
    W: FnOnce(mpsc::Sender<Progress>) -> F + Send + 'static,
    F: Future<Output = Answer<ApplyEvent>> + Send + 'static,
{
    let (progress, mut steps) = mpsc::channel(EVENTS_MAX);
    let (events, stream) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        let work = tokio::spawn(work(progress));
        // A reader that is gone closes `events`; the steps are still drained, so that the work never waits for it.
        while let Some(step) = steps.recv().await {
            let _ = events.send(Ok(ApplyEvent::Progress(step))).await;
        }
        let end = work.await.unwrap_or_else(|_| Err(ApiError::internal("The daemon failed at this work.")));
        let _ = events.send(end).await;
    });
    ndjson(stream).await
}
