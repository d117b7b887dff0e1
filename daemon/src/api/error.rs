//! Errors as the API answers them: a status and a body.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use vnet_api::{Diagnostic, ErrorBody};

/// A request that was refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{body}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What the client reads.
    pub body: ErrorBody,
}

impl ApiError {
    fn of(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        ApiError { status, body: ErrorBody::new(code, message) }
    }

    /// 404: no lab of this name runs.
    pub fn lab_not_found(lab: &str) -> ApiError {
        ApiError::lab_not_among(lab, std::iter::empty::<&str>())
    }

    /// 404: no lab of this name runs, but those that do.
    pub fn lab_not_among<T: AsRef<str>>(lab: &str, labs: impl Iterator<Item = T>) -> ApiError {
        let hint = among("those that run are", labs);
        ApiError::of(StatusCode::NOT_FOUND, "LabNotFound", format!("No lab named '{lab}' runs here{hint}."))
    }

    /// 404: the lab runs, and has no such thing.
    pub fn not_found(kind: &str, name: &str) -> ApiError {
        ApiError::not_among(kind, name, std::iter::empty::<&str>())
    }

    /// 404: the lab runs, and has no such thing, but those that it has.
    pub fn not_among<T: AsRef<str>>(kind: &str, name: &str, known: impl Iterator<Item = T>) -> ApiError {
        let hint = among("it has", known);
        ApiError::of(
            StatusCode::NOT_FOUND,
            "ResourceNotFound",
            format!("The lab has no {kind} '{name}'{hint}."),
        )
    }

    /// 404 with the finder's own words.
    pub fn unresolved(message: impl Into<String>) -> ApiError {
        ApiError::of(StatusCode::NOT_FOUND, "ResourceNotFound", message)
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::of(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 409: the lab is being changed by somebody else, or is in the wrong state for this.
    pub fn conflict(message: impl Into<String>) -> ApiError {
        ApiError::of(StatusCode::CONFLICT, "Conflict", message)
    }

    /// 422: the topology file is refused.
    pub fn refused(diagnostics: Vec<Diagnostic>) -> ApiError {
        let code = diagnostics.first().map_or("InvalidTopology", |first| first.code.as_str()).to_owned();
        let message = match diagnostics.len() {
            1 => "The topology file has an error.".to_owned(),
            count => format!("The topology file has {count} errors."),
        };
        ApiError { status: StatusCode::UNPROCESSABLE_ENTITY, body: ErrorBody { code, message, diagnostics } }
    }

    /// 409: Azure would refuse the change in the lab's present state. The code is the first refusal's.
    pub fn refused_by_azure(diagnostics: Vec<Diagnostic>) -> ApiError {
        let code = diagnostics.first().map_or("Conflict", |first| first.code.as_str()).to_owned();
        let message =
            "Azure would refuse this change in the lab's present state; nothing was touched.".to_owned();
        ApiError { status: StatusCode::CONFLICT, body: ErrorBody { code, message, diagnostics } }
    }

    /// 503: the host lacks what this needs.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::of(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", message)
    }

    /// 500: the daemon failed.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::of(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }
}

/// Names that may have been meant, as the end of a sentence; a few of many.
fn among<T: AsRef<str>>(words: &str, names: impl Iterator<Item = T>) -> String {
    const SHOWN_MAX: usize = 20;
    let mut names: Vec<String> = names.take(SHOWN_MAX + 1).map(|name| name.as_ref().to_owned()).collect();
    match names.len() {
        0 => return String::new(),
        count if count > SHOWN_MAX => names[SHOWN_MAX] = "...".to_owned(),
        _ => {}
    }
    format!("; {words} {}", names.join(", "))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let text = serde_json::to_vec(&self.body).expect("strings and numbers always make JSON");
        (self.status, [(CONTENT_TYPE, "application/json")], text).into_response()
    }
}
