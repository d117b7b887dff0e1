//! Series of probes and measurements.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use vnet_api::{
    PingEvent, PingRequest, PingSummary, ProbeRequest, Protocol, RttSummary, TrafficEvent, TrafficRequest,
};

use super::App;
use super::backend::{Answer, Backend};
use super::error::ApiError;
use super::extract::Json;
use super::stream::ndjson;

/// Most probes of one ping.
const PROBES_MAX: u32 = 10_000;
/// Longest wait for one answer, in milliseconds.
pub(crate) const TIMEOUT_MS_MAX: u64 = 60_000;
/// Longest measurement, in milliseconds.
const DURATION_MS_MAX: u64 = 3_600_000;
/// Most streams of one measurement.
const STREAMS_MAX: u16 = 64;

type Events<T> = mpsc::Sender<Result<T, ApiError>>;

pub(crate) async fn ping<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Json(request): Json<PingRequest>,
) -> Response {
    if request.count == 0 || request.count > PROBES_MAX || request.timeout_ms > TIMEOUT_MS_MAX {
        let message =
            format!("Ask for 1 to {PROBES_MAX} probes and a timeout of at most {TIMEOUT_MS_MAX} ms.");
        return ApiError::bad_request(message).into_response();
    }
    let (events, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(error) = ping_series(&app, &lab, &request, &events).await {
            let _ = events.send(Err(error)).await;
        }
    });
    ndjson(stream).await
}

/// Ends early, and quietly, when the reader is gone.
async fn ping_series<B: Backend>(
    app: &App<B>,
    lab: &str,
    request: &PingRequest,
    events: &Events<PingEvent>,
) -> Answer<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(request.interval_ms.max(1)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round_trips_us = Vec::new();
    for sequence in 1..=request.count {
        beat.tick().await;
        let probe = ProbeRequest {
            from: request.from.clone(),
            to: request.to.clone(),
            service: request.service,
            timeout_ms: request.timeout_ms,
            payload_bytes: request.payload_bytes,
        };
        let result = app.backend.probe(lab, probe).await?;
        round_trips_us.extend(result.rtt_us);
        if events.send(Ok(PingEvent::Reply { sequence, result })).await.is_err() {
            return Ok(());
        }
    }
    let answered = round_trips_us.len() as u32;
    let rtt = RttSummary::of(&mut round_trips_us);
    let summary = PingSummary { sent: request.count, answered, rtt };
    let _ = events.send(Ok(PingEvent::Summary(summary))).await;
    Ok(())
}

fn check_traffic(request: &TrafficRequest) -> Answer<()> {
    let refuse = |message: String| Err(ApiError::bad_request(message));
    if request.duration_ms == 0 || request.duration_ms > DURATION_MS_MAX {
        return refuse(format!("Measure for 1 to {DURATION_MS_MAX} ms."));
    }
    if request.streams == 0 || request.streams > STREAMS_MAX {
        return refuse(format!("Use 1 to {STREAMS_MAX} streams."));
    }
    match (request.service.protocol, request.rate_mbps) {
        (Protocol::Icmp, _) => refuse("Traffic is TCP or UDP; ICMP is for ping.".to_owned()),
        (Protocol::Udp, None) => refuse("UDP needs a rate: it would not slow down by itself.".to_owned()),
        _ => Ok(()),
    }
}

pub(crate) async fn traffic<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
    Json(request): Json<TrafficRequest>,
) -> Response {
    if let Err(error) = check_traffic(&request) {
        return error.into_response();
    }
    let (events, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        let (seconds, mut intervals) = mpsc::channel(16);
        let mut work = std::pin::pin!(app.backend.traffic(&lab, request, seconds));
        // Dropping `work` stops the measurement when the reader is gone.
        let end = loop {
            tokio::select! {
                biased;
                Some(interval) = intervals.recv() => {
                    let _ = events.send(Ok(TrafficEvent::Interval(interval))).await;
                }
                () = events.closed() => return,
                end = &mut work => break end,
            }
        };
        while let Ok(interval) = intervals.try_recv() {
            let _ = events.send(Ok(TrafficEvent::Interval(interval))).await;
        }
        let _ = events.send(end.map(TrafficEvent::Report)).await;
    });
    ndjson(stream).await
}
