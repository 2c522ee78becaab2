//! Which address answers what.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State as From},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::Response,
    routing::get,
};
use tokio::task::spawn_blocking;

use super::{
    ServeConfig, answer,
    guard::{self, Names},
    health::Health,
    metrics::{self, Exposition, Limits},
    render::Renderer,
    shape::{AlertsShape, IndexShape, StateShape, SubjectShape, SubjectsShape},
};
use crate::{
    process::host::unix_now,
    report::OutputFormat,
    watched::{Published, State, SubjectState},
};

/// What every handler needs.
pub(super) struct Api {
    published: Published,
    limits: Limits,
    renderer: Renderer,
    /// Names that requests may be addressed to besides loopback's.
    pub(super) hosts: Vec<String>,
}

impl Api {
    pub(super) fn new(config: &ServeConfig, published: Published) -> Self {
        let limits = Limits { subjects: config.max_subjects, suspects: config.max_suspects };
        Self { published, limits, renderer: Renderer::new(), hosts: config.hosts.clone() }
    }
}

/// Everything that is answered. Names of subjects stand in a path percent-encoded.
pub(super) fn router(api: Arc<Api>, names: Names) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/api/v1/state", get(state))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/subjects", get(subjects))
        .route("/api/v1/subjects/{subject}", get(subject))
        .route("/api/v1/subjects/{subject}/{report}", get(report))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(names, guard::pass))
        .with_state(api)
}

async fn index() -> Response {
    answer::json(StatusCode::OK, &IndexShape::default())
}

async fn unknown() -> Response {
    answer::error(StatusCode::NOT_FOUND, "there is nothing at this address: / lists what there is")
}

async fn metrics(From(api): From<Arc<Api>>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let exposition = Exposition::accepted(accepted.unwrap_or_default());
    let (state, limits) = (api.published.get(), api.limits);
    let made = spawn_blocking(move || metrics::text(state, limits, exposition)).await;
    match made {
        Ok(Ok(text)) => answer::body(StatusCode::OK, exposition.content_type(), text),
        _ => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
    }
}

async fn healthz(From(api): From<Arc<Api>>) -> Response {
    let health = Health::of(&api.published.get(), unix_now());
    let status = if health.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, &health)
}

async fn state(From(api): From<Arc<Api>>) -> Response {
    answer::json(StatusCode::OK, &StateShape::from(api.published.get().as_ref()))
}

async fn alerts(From(api): From<Arc<Api>>) -> Response {
    answer::json(StatusCode::OK, &AlertsShape::from(api.published.get().as_ref()))
}

async fn subjects(From(api): From<Arc<Api>>) -> Response {
    answer::json(StatusCode::OK, &SubjectsShape::from(api.published.get().as_ref()))
}

async fn subject(From(api): From<Arc<Api>>, Path(subject): Path<String>) -> Response {
    match find(&api.published.get(), &subject) {
        Some(found) => answer::json(StatusCode::OK, &SubjectShape::from(found)),
        None => no_subject(),
    }
}

async fn report(From(api): From<Arc<Api>>, Path((subject, name)): Path<(String, String)>) -> Response {
    let Some(format) = format(&name) else { return unknown().await };
    let report = match find(&api.published.get(), &subject) {
        Some(found) => found.report.clone(),
        None => return no_subject(),
    };
    match report {
        Some(report) => api.renderer.answer(report, format).await,
        None => answer::error(StatusCode::NOT_FOUND, "it has not been traced since the daemon started"),
    }
}

fn no_subject() -> Response {
    answer::error(StatusCode::NOT_FOUND, "no such subject is watched: /api/v1/subjects lists them")
}

fn format(name: &str) -> Option<OutputFormat> {
    Some(match name {
        "report" => OutputFormat::Json,
        "report.txt" => OutputFormat::Text,
        "profile.pb.gz" => OutputFormat::Pprof,
        "flamegraph.svg" => OutputFormat::Svg,
        "stacks.folded" => OutputFormat::Folded,
        _ => return None,
    })
}

/// By its key; else by its name, if no other has the same.
fn find<'a>(state: &'a State, wanted: &str) -> Option<&'a SubjectState> {
    let by_key = state.subjects.iter().find(|subject| subject.subject.key == wanted);
    let mut by_name = state.subjects.iter().filter(|subject| subject.subject.name == wanted);
    by_key.or_else(|| by_name.next().filter(|_| by_name.next().is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Subject;

    #[test]
    fn a_subject_is_found_by_its_key_or_by_a_name_that_only_it_has() {
        let named = |key: &str, name: &str| SubjectState {
            subject: Subject { key: key.into(), name: name.into(), ..Subject::default() },
            ..SubjectState::default()
        };
        let subjects = vec![named("a", "web"), named("b", "db"), named("c", "web"), named("db", "x")];
        let state = State { subjects, ..State::default() };
        let key = |wanted| find(&state, wanted).map(|found| found.subject.key.as_str());
        assert_eq!((key("a"), key("web"), key("db"), key("x")), (Some("a"), None, Some("db"), Some("db")));
    }
}
