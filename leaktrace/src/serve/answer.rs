//! Answers: JSON for everything that is not a report in a format of its own.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

use crate::report::json::harmless;

/// JSON.
pub(super) const JSON: &str = "application/json";

#[derive(Serialize)]
struct Mistake<'a> {
    error: &'a str,
}

/// A body of some type.
pub(super) fn body(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A value as JSON, in one line.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut bytes = Vec::new();
    match harmless::write_compact(value, &mut bytes) {
        Ok(()) => {
            bytes.push(b'\n');
            body(status, JSON, bytes)
        }
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            body(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{\"error\":\"this cannot be written as JSON\"}\n")
        }
    }
}

/// What went wrong, in a sentence.
pub(super) fn error(status: StatusCode, sentence: &str) -> Response {
    json(status, &Mistake { error: sentence })
}
