//! What every request has to pass. A page in somebody's browser may make the browser ask us, under a name of its own that leads to
//! loopback: only names that are ours are answered.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use tokio::time::timeout;

use super::answer;

/// For one request.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Names that requests may be addressed to.
#[derive(Clone)]
pub(super) enum Names {
    /// No browser comes this way.
    Any,
    /// Loopback's, and these.
    Loopback(Arc<[String]>),
}

impl Names {
    pub(super) fn loopback(others: &[String]) -> Self {
        Self::Loopback(others.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn allow(&self, host: Option<&str>) -> bool {
        let Self::Loopback(others) = self else { return true };
        let Some(host) = host else { return false };
        let name = without_port(host).to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        name == "localhost"
            || address.is_ok_and(|address| address.to_canonical().is_loopback())
            || others.contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    if port.bytes().all(|byte| byte.is_ascii_digit()) && !(name.contains(':') && !name.ends_with(']')) {
        return name;
    }
    host
}

/// The middleware.
pub(super) async fn pass(State(names): State<Names>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&names, &request) {
        Some(refusal) => refusal,
        None => timeout(REQUEST_TIME, next.run(request)).await.unwrap_or_else(|_| {
            answer::error(StatusCode::SERVICE_UNAVAILABLE, "this took too long: ask again when less is asked")
        }),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(names: &Names, request: &Request) -> Option<Response> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().host().or(host);
    if !names.allow(host) {
        let told = "requests must be addressed to localhost or to a loopback address (see serve.hosts)";
        return Some(answer::error(StatusCode::FORBIDDEN, told));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = answer::error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refusal);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let names = Names::loopback(&["Leaktrace.example".to_owned()]);
        for ours in [
            "localhost",
            "LOCALHOST:9780",
            "127.0.0.1:9780",
            "127.1.2.3",
            "[::1]:9780",
            "[::1]",
            "leaktrace.example:80",
        ] {
            assert!(names.allow(Some(ours)), "{ours}");
        }
        for theirs in
            ["evil.example", "localhost.evil.example:9780", "10.0.0.1:9780", "127.0.0.1.evil.example", ""]
        {
            assert!(!names.allow(Some(theirs)), "{theirs}");
        }
        assert!(!names.allow(None) && Names::Any.allow(None));
    }
}
