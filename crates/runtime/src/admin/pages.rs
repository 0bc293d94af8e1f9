//! The pages of the admin endpoint, as values: what each path answers. No sockets here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::logs::Logs;
use crate::metrics::{self, Metrics};
use crate::ready::Ready;

/// The largest body of `PUT /debug/loglevel`.
const MOST_BODY: usize = 1 << 10;
const JSON: &str = "application/json";

type Source = Arc<dyn Fn() -> String + Send + Sync>;

/// What the endpoint shows. Paths that were not given a source answer 404.
///
/// ```
/// # use hansa_runtime::{admin::Pages, ready::Ready};
/// let pages = Pages::new(Ready::new())
///     .snapshot(|| "{\"tunnels\":3}".to_owned())
///     .config(|| "{}".to_owned());
/// ```
pub struct Pages {
    ready: Ready,
    metrics: Option<Metrics>,
    logs: Option<Logs>,
    sources: BTreeMap<String, (&'static str, Source)>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: StatusCode,
    /// The media type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Pages {
    /// `/livez` and `/readyz` alone.
    #[must_use]
    pub fn new(ready: Ready) -> Self {
        Self { ready, metrics: None, logs: None, sources: BTreeMap::new() }
    }

    /// Serves `/metrics`.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Serves `/debug/loglevel`: `GET` shows, `PUT` with a level or directives as its body
    /// changes; `access=on` and `access=off` switch access lines.
    #[must_use]
    pub fn logs(mut self, logs: Logs) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Serves `/debug/snapshot` from `source`, which returns JSON.
    #[must_use]
    pub fn snapshot(self, source: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.page("/debug/snapshot", JSON, source)
    }

    /// Serves `/debug/config` from `source`, which returns the effective configuration as JSON
    /// without secrets.
    #[must_use]
    pub fn config(self, source: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.page("/debug/config", JSON, source)
    }

    /// Serves one more `GET` path.
    #[must_use]
    pub fn page(
        mut self,
        path: &str,
        content_type: &'static str,
        source: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.sources.insert(path.to_owned(), (content_type, Arc::new(source)));
        self
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/debug/loglevel"
            && let Some(logs) = &self.logs
        {
            return loglevel(logs, request).await.into_response();
        }
        let health = self.health(&request);
        if health.status != StatusCode::NOT_FOUND {
            return health.into_response();
        }
        match (request.uri().path(), &self.metrics) {
            ("/metrics", Some(metrics)) => Page::new(StatusCode::OK, metrics::CONTENT_TYPE, metrics.text()),
            (path, _) => match self.sources.get(path) {
                Some((kind, source)) => Page::new(StatusCode::OK, kind, source()),
                None => self.not_found(path),
            },
        }
        .into_response()
    }

    /// `/livez` and `/readyz`; anything else is 404.
    pub(super) fn health<B>(&self, request: &Request<B>) -> Page {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Page::json(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET"}));
        }
        match request.uri().path() {
            "/livez" => Page::json(StatusCode::OK, &json!({"live": true})),
            "/readyz" => {
                let report = self.ready.report();
                let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Page::json(status, &json!(report))
            }
            path => self.not_found(path),
        }
    }

    fn not_found(&self, path: &str) -> Page {
        let mut known = vec!["/livez", "/readyz"];
        known.extend(self.metrics.as_ref().map(|_| "/metrics"));
        known.extend(self.logs.as_ref().map(|_| "/debug/loglevel"));
        known.extend(self.sources.keys().map(String::as_str));
        let path: String = path.chars().take(128).collect();
        Page::json(StatusCode::NOT_FOUND, &json!({"error": "no such page", "path": path, "pages": known}))
    }
}

async fn loglevel(logs: &Logs, request: Request<Incoming>) -> Page {
    match *request.method() {
        Method::GET | Method::HEAD => shown(logs),
        Method::PUT | Method::POST => {
            let body = Limited::new(request.into_body(), MOST_BODY).collect().await;
            let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let changed = match text.trim() {
                "" => return refused("the body must be a level of at most 1 KiB".to_owned()),
                "access=on" => logs.set_access(true),
                "access=off" => logs.set_access(false),
                level => logs.set_level(level),
            };
            changed.map_or_else(|e| refused(e.to_string()), |()| shown(logs))
        }
        _ => Page::json(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET and PUT"})),
    }
}

fn shown(logs: &Logs) -> Page {
    let shown = json!({"level": logs.level(), "access": logs.access(), "dropped": logs.dropped()});
    Page::json(StatusCode::OK, &shown)
}

fn refused(cause: String) -> Page {
    Page::json(StatusCode::BAD_REQUEST, &json!({ "error": cause }))
}

impl Page {
    fn new(status: StatusCode, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, body }
    }

    fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self::new(status, JSON, format!("{value}\n"))
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let not_allowed = self.status == StatusCode::METHOD_NOT_ALLOWED;
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if not_allowed {
            headers.insert(ALLOW, HeaderValue::from_static("GET, PUT"));
        }
        response
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("paths", &self.sources.keys()).finish_non_exhaustive()
    }
}
