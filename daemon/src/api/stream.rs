//! Answers that come piece by piece: one JSON object a line.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use vnet_api::{ErrorBody, NDJSON};

use super::error::ApiError;

fn line<T: Serialize>(event: &T) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap_or_else(|error| {
        let body = ErrorBody::new("InternalError", format!("An event cannot be written: {error}."));
        serde_json::to_vec(&body).expect("strings always make JSON")
    });
    text.push(b'\n');
    text.into()
}

/// The events as they come. A failure before the first event is an ordinary refusal with its status; the sender
/// sends a later one as an event of its own.
pub(crate) async fn ndjson<T>(mut events: mpsc::Receiver<Result<T, ApiError>>) -> Response
where
    T: Serialize + Send + 'static,
{
    let first = match events.recv().await {
        Some(Ok(event)) => event,
        Some(Err(error)) => return error.into_response(),
        None => return ApiError::internal("The work ended without a result.").into_response(),
    };
    let lines = stream::unfold((Some(first), events), |(first, mut events)| async move {
        let bytes = match first {
            Some(event) => line(&event),
            None => match events.recv().await? {
                Ok(event) => line(&event),
                Err(error) => line(&Failure { event: "error", body: error.body }),
            },
        };
        Some((Ok::<_, Infallible>(bytes), (None, events)))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

/// The `error` event that every stream's type has.
#[derive(Serialize)]
struct Failure {
    event: &'static str,
    #[serde(flatten)]
    body: ErrorBody,
}
