//! Request bodies and query strings, refused in the API's own form.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Longest request body in bytes. A topology file is refused at a smaller size, with a message of its own.
pub(crate) const BODY_BYTES_MAX: usize = 128 << 20;

/// A JSON body, of a request or an answer.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Json<T>, ApiError> {
        let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
            let message =
                format!("The request's body is broken or longer than {} MiB.", BODY_BYTES_MAX >> 20);
            let mut error = ApiError::bad_request(message);
            error.status = StatusCode::PAYLOAD_TOO_LARGE;
            error
        })?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("The request's body cannot be read: {error}.")))?;
        Ok(Json(value))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => {
                ApiError::internal(format!("An answer cannot be written: {error}.")).into_response()
            }
        }
    }
}

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params<T>, ApiError> {
        let Query(value) = Query::try_from_uri(&parts.uri).map_err(|error| {
            ApiError::bad_request(format!("The query cannot be read: {}.", error.body_text()))
        })?;
        Ok(Params(value))
    }
}
