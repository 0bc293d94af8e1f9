//! The control socket: HTTP/1.1 with JSON over a Unix socket that only its owner may open.
//!
//! Served for the command line; routes and types are `hansa_api::{control, view}`. Every question has
//! a deadline, every body a limit. What changes trust or peers leaves an audit line.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hansa_api::control as route;
use hansa_api::view::{self, Error};
use hansa_core::code::{Code, cli, config, control};
use hansa_runtime::tasks::Tasks;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::authority::Authority;
use crate::feeds::Feeds;
use crate::fuse::{Facts, View, now_millis};
use crate::join::Joiner;
use crate::nodes::Nodes;
use crate::plan::{self, Elsewhere, Transitions};
use crate::roster::Roster;
use crate::secrets::Secrets;
use crate::status;
use crate::store::Store;

mod ask;
mod trust;

const MOST_CONNECTIONS: usize = 64;
const MOST_BODY: usize = 256 * 1024;
/// The longest life of one connection; joining takes the longest.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);

/// Everything the questions are about. Clones share it.
#[derive(Clone)]
pub struct State {
    /// The own cluster.
    pub facts: Facts,
    /// Identity.
    pub authority: Authority,
    /// One-use secrets.
    pub secrets: Secrets,
    /// Peers.
    pub roster: Roster,
    /// Own servers.
    pub nodes: Nodes,
    /// What is published.
    pub feeds: Feeds,
    /// The state file.
    pub store: Store,
    /// What fuse made last.
    pub view: watch::Receiver<Option<Arc<View>>>,
    /// Invites and joins.
    pub joiner: Joiner,
    /// `host:port` of this controller for enrolment tokens.
    pub addresses: Vec<String>,
    /// Counts manifest objects that were refused.
    pub rejected: Counter,
    /// When the controller started.
    pub started: Instant,
    /// When conditions last changed.
    pub transitions: Arc<Mutex<Transitions>>,
}

/// An answer with its status, or an error with its.
type Answer = Result<Response<Full<Bytes>>, Error>;

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub struct Control {
    /// `None`: the disk takes no new file now; it is tried again.
    listener: Option<UnixListener>,
    path: PathBuf,
}

/// Between two tries to make the socket on a disk that takes nothing.
const AGAIN: Duration = Duration::from_secs(2);

fn disk_takes_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded)
}

impl Control {
    /// Binds the socket with mode 0600. One left behind by a dead process is replaced; one that is
    /// served is not. On a disk that takes nothing the controller serves without it for now.
    ///
    /// # Errors
    /// The path cannot be had.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let listener = match Self::listen(path).await {
            Ok(listener) => Some(listener),
            Err(error) if disk_takes_nothing(&error) => {
                error!(code = %config::STATE_UNWRITABLE, object = %path.display(), %error,
                    "no control socket until the disk takes it; everything else is served");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { listener, path: path.to_owned() })
    }

    async fn listen(path: &Path) -> io::Result<UnixListener> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another controller serves this socket"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Its folder is closed to others, so there is no moment at which one of them could connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// The listener, as soon as the disk takes it.
    async fn listener(&mut self) -> UnixListener {
        loop {
            if let Some(listener) = self.listener.take() {
                return listener;
            }
            tokio::time::sleep(AGAIN).await;
            self.listener = Self::listen(&self.path).await.ok();
        }
    }

    /// Serves until the end of `tasks`, then removes the socket.
    ///
    /// # Errors
    /// Never; the type fits critical tasks.
    pub async fn run(mut self, state: State, tasks: Tasks) -> Result<(), Infallible> {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let stop = tasks.token();
        let Some(listener) = stop.run_until_cancelled(self.listener()).await else { return Ok(()) };
        loop {
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let Some((permit, accepted)) = stop.run_until_cancelled(next).await else { break };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (state, stop) = (state.clone(), stop.clone());
            tasks.spawn("control-connection", async move {
                let limited = tokio::time::timeout(CONNECTION_LIMIT, converse(stream, state));
                stop.run_until_cancelled(limited).await;
                drop(permit);
            });
        }
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }
}

async fn converse(stream: UnixStream, state: State) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "control connection ended");
    }
}

fn json<T: Serialize>(value: &T) -> Answer {
    let body =
        serde_json::to_vec(value).map_err(|e| Error::new(cli::ANSWER_UNREADABLE, "answer", e.to_string()))?;
    Ok(response(StatusCode::OK, body))
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn refused(error: &Error) -> Response<Full<Bytes>> {
    let is = |code: Code| error.code == code.to_string();
    let status = if is(cli::NOT_FOUND) {
        StatusCode::NOT_FOUND
    } else if is(cli::USAGE) {
        StatusCode::BAD_REQUEST
    } else if is(control::PEER_UNREACHABLE) || is(control::NO_GATEWAY) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::CONFLICT
    };
    response(status, serde_json::to_vec(error).unwrap_or_default())
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Error> {
    let bad = |cause: String| Error::new(cli::USAGE, "request body", cause);
    let read = Limited::new(request.into_body(), MOST_BODY).collect();
    let read = tokio::time::timeout(Duration::from_secs(5), read).await;
    let bytes = read.map_err(|_| bad("it did not come in time".to_owned()))?;
    let bytes = bytes.map_err(|e| bad(e.to_string()))?.to_bytes();
    // The words of a JSON error may quote a token.
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("{:?} error in its JSON", e.classify())))
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = match *request.method() {
            Method::GET => self.get(&request).await,
            Method::POST => self.post(request).await,
            Method::DELETE => self.delete(&request).await,
            _ => Err(Error::new(cli::USAGE, "request", "only GET, POST and DELETE are known")),
        };
        answer.unwrap_or_else(|error| refused(&error))
    }

    fn view(&self) -> Result<Arc<View>, Error> {
        let view = self.view.borrow().clone();
        view.ok_or_else(|| Error::new(control::NO_GATEWAY, "controller", "it has just started; ask again"))
    }

    async fn get(&self, request: &Request<Incoming>) -> Answer {
        let now = Instant::now();
        match request.uri().path() {
            route::STATUS => json(&status::status(self, now)),
            route::SERVICES => json(&status::services(&*self.view()?)),
            route::EXPLAIN => json(&self.explain(request.uri().query()).await?),
            route::CHECK => json(&self.check(request.uri().query()).await?),
            route::ENDPOINTS => json(&status::endpoints(self)),
            route::PEERS => json(&status::peers(self, now)),
            route::CLUSTER_PEER => json(&self.cluster_peer()?),
            route::SERVICE_IMPORTS | "/v1/objects/serviceimports" => {
                let mut transitions = self.transitions.lock().unwrap_or_else(PoisonError::into_inner);
                json(&plan::imports(&*self.view()?, &mut transitions, now_millis()))
            }
            route::SERVICE_EXPORTS | "/v1/objects/serviceexports" => {
                let elsewhere = self.elsewhere();
                let mut transitions = self.transitions.lock().unwrap_or_else(PoisonError::into_inner);
                json(&plan::exports(&*self.view()?, &elsewhere, &mut transitions, now_millis()))
            }
            route::TRUST => json(&self.trusted()),
            path => match peer_of(path) {
                Some(id) => {
                    let found = status::peers(self, now).into_iter().find(|peer| peer.id == id);
                    let missing = || Error::new(cli::NOT_FOUND, format!("peer {id}"), "no such peer");
                    json(&found.ok_or_else(missing)?)
                }
                None => Err(Error::new(cli::NOT_FOUND, path, "no such question")),
            },
        }
    }

    async fn post(&self, request: Request<Incoming>) -> Answer {
        match request.uri().path() {
            route::ENROLL => json(&self.enroll(body(request).await?).await?),
            route::INVITE => json(&self.joiner.invite(body(request).await?).await?),
            route::JOIN => {
                let request: view::JoinRequest = body(request).await?;
                json(&self.joiner.join(&request.token).await?)
            }
            route::ROTATE => json(&self.rotate(&body(request).await?)?),
            route::DENY => json(&self.deny(body(request).await?).await?),
            route::ALLOW => json(&self.allow(body(request).await?).await?),
            path => Err(Error::new(cli::NOT_FOUND, path, "no such request")),
        }
    }

    async fn delete(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if let Some(server) = path.strip_prefix(route::NODES).and_then(|rest| rest.strip_prefix('/')) {
            self.forget(server).await?;
            return Ok(response(StatusCode::NO_CONTENT, Vec::new()));
        }
        let id = peer_of(path).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Error::new(cli::NOT_FOUND, path, "no such object"))?;
        self.roster.remove(&id).await?;
        Ok(response(StatusCode::NO_CONTENT, Vec::new()))
    }

    /// The conflicts that other members found in our exports.
    fn elsewhere(&self) -> Elsewhere {
        let mut found = Elsewhere::new();
        for (id, entry) in self.roster.all() {
            for (service, conflict) in entry.following.conflicts {
                found.entry(service).or_default().entry(id.clone()).or_default().push(conflict);
            }
        }
        found
    }
}

fn peer_of(path: &str) -> Option<&str> {
    path.strip_prefix(route::PEERS)?.strip_prefix('/').filter(|id| !id.is_empty())
}
