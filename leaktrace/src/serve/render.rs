//! Reports of many sites take seconds to write out: they are made off the thread that answers, a few at a time.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::answer;
use crate::report::{OutputFormat, model::Report};

/// Most at once; others wait.
const MOST_AT_ONCE: usize = 2;

/// See the module.
pub(super) struct Renderer(Arc<Semaphore>);

impl Renderer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_AT_ONCE)))
    }

    /// The report in a format, as an answer.
    pub(super) async fn answer(&self, report: Arc<Report>, format: OutputFormat) -> Response {
        let Ok(place) = Arc::clone(&self.0).acquire_owned().await else { return failed() };
        let made = spawn_blocking(move || {
            // It is held for as long as this takes, whether or not somebody still waits for it.
            let _place = place;
            let mut bytes = Vec::new();
            format.write(&report, &mut bytes).map(|()| bytes)
        });
        let Ok(Ok(bytes)) = made.await else { return failed() };
        let mut response = answer::body(StatusCode::OK, content_type(format), bytes);
        if format == OutputFormat::Svg {
            // It holds names that the target chose: nothing in it may reach beyond itself.
            let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'";
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        response
    }
}

fn failed() -> Response {
    answer::error(StatusCode::INTERNAL_SERVER_ERROR, "the report cannot be written in this format")
}

fn content_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Json => answer::JSON,
        OutputFormat::Svg => "image/svg+xml",
        OutputFormat::Pprof => "application/octet-stream",
        OutputFormat::Folded | OutputFormat::Text => "text/plain; charset=utf-8",
    }
}
