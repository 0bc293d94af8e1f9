//! The first certificate: by one-use token, or by a Kubernetes service account token.
//!
//! Called by [`crate::Link::start`] when there is no usable identity on disk. The controller is
//! verified by what the token pins; the secret itself never travels.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hansa_core::backoff::Backoff;
use hansa_core::code::config::STATE_UNWRITABLE;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::bundle::Bundle;
use hansa_identity::store::{Identity, KeyRequest, Store};
use hansa_identity::tls::{ALPN_ENROLL, Pin, pinned_client};
use hansa_identity::token::{EnrollToken, channel_binding, prove};
use hansa_identity::verify::RoleKind;
use hansa_proto::wire::trust::v1::enroll_request::Credential as WireCredential;
use hansa_proto::wire::trust::v1::trust_client::TrustClient;
use hansa_proto::wire::trust::v1::{EnrollRequest, SecretProof, Signed};
use hansa_proto::{context, transport};
use hansa_runtime::files::{read_limited, write_atomic};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::dial::Dialer;
use crate::{CALL, CONTROLLERS, Config, Credential, StartError, never};

/// Between tries: the controller may not be there yet.
const RETRY: Backoff = Backoff { floor: 250, ceiling: 5_000, jitter: 0.25 };
const MAX_TOKEN: u64 = 64 * 1024;
const MAX_BUNDLE: u64 = 256 * 1024;

enum Failure {
    Final(StartError),
    Again(String),
}

impl<E: Into<StartError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// What a credential says about the controller and about us.
struct Plan {
    id: SpiffeId,
    pin: Pin,
    controllers: Vec<String>,
    proof: Proof,
}

enum Proof {
    Token(Box<EnrollToken>),
    ServiceAccount(String),
}

pub(crate) async fn until_done(
    config: &Config,
    store: &Store,
    token: &CancellationToken,
) -> Result<(Identity, Bundle, Dialer), StartError> {
    let mut attempt = 0;
    loop {
        let tried = token.run_until_cancelled(once(config, store)).await;
        match tried.ok_or_else(|| never(token))? {
            Ok(enrolled) => return Ok(enrolled),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(error)) => {
                let wait = Duration::from_millis(RETRY.wait(attempt, rand::random()));
                attempt += 1;
                tracing::warn!(%error, retry_in = ?wait, "not enrolled yet");
                token.run_until_cancelled(sleep(wait)).await.ok_or_else(|| never(token))?;
            }
        }
    }
}

async fn once(config: &Config, store: &Store) -> Result<(Identity, Bundle, Dialer), Failure> {
    let plan = plan(config)?;
    let named = plan.controllers.join("\n");
    let dialer = Dialer::new(plan.controllers)?;
    let tls = Arc::new(pinned_client(plan.pin.clone(), &[RoleKind::Controller], &[ALPN_ENROLL]));
    let stream = dialer.connect(&TlsConnector::from(tls)).await;
    let stream = stream.map_err(|error| Failure::Again(error.to_string()))?;
    let key = KeyRequest::new(plan.id.clone()).map_err(StartError::Store)?;
    let request = request(&config.role, &plan.id, &key, (&plan.proof, &stream))?;
    let signed = call(stream, request).await?;
    let (identity, bundle) = check(&plan.id, &plan.pin, key, signed)?;
    // The bundle first: an identity without it would be of no use after a crash in between.
    // The token is spent: a disk that takes nothing must not cost the identity as well.
    if let Err(error) = keep(config, store, (&identity, &bundle), &named) {
        tracing::error!(code = %STATE_UNWRITABLE, id = %plan.id, %error,
            "enrolled, but not kept on disk: running from memory, and a restart needs a new token");
    }
    tracing::info!(id = %plan.id, "enrolled");
    Ok((identity, bundle, dialer))
}

fn keep(
    config: &Config,
    store: &Store,
    (identity, bundle): (&Identity, &Bundle),
    controllers: &str,
) -> Result<(), StartError> {
    store.save_bundle(bundle).map_err(StartError::Store)?;
    write_atomic(&config.state_dir.join(CONTROLLERS), controllers.as_bytes(), 0o600)?;
    store.save(identity).map_err(StartError::Store)
}

fn plan(config: &Config) -> Result<Plan, StartError> {
    match config.credential.as_ref().ok_or(StartError::NoCredential)? {
        Credential::Token(text) => {
            let token = read_token(text)?;
            let own = SpiffeId::of(token.trust_domain(), &config.role);
            if token.id != own {
                return Err(StartError::OtherToken { token: token.id, own });
            }
            if token.cluster != config.cluster {
                return Err(StartError::OtherCluster { token: token.cluster, own: config.cluster.clone() });
            }
            let named = config.controllers.is_empty();
            let controllers = if named { token.controllers.clone() } else { config.controllers.clone() };
            let pin = Pin::Root(token.trust_domain().clone(), token.root_sha256);
            Ok(Plan { id: own, pin, controllers, proof: Proof::Token(Box::new(token)) })
        }
        Credential::ServiceAccount { token, bundle, trust_domain } => {
            let text = read_limited(token, MAX_TOKEN)?;
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            let bundle = Bundle::from_json(trust_domain, &read_limited(bundle, MAX_BUNDLE)?)
                .map_err(|error| StartError::Answer(format!("bundle file: {error}")))?;
            let id = SpiffeId::of(trust_domain, &config.role);
            let (pin, controllers) = (Pin::Bundle(bundle), config.controllers.clone());
            Ok(Plan { id, pin, controllers, proof: Proof::ServiceAccount(text) })
        }
    }
}

/// The text itself, or the file it names.
fn read_token(text: &str) -> Result<EnrollToken, StartError> {
    let now = SystemTime::now();
    if text.starts_with("hansa1.") {
        return Ok(EnrollToken::parse(text.trim(), now)?);
    }
    let file = read_limited(Path::new(text), MAX_TOKEN)?;
    Ok(EnrollToken::parse(String::from_utf8_lossy(&file).trim(), now)?)
}

fn request(
    role: &Role,
    id: &SpiffeId,
    key: &KeyRequest,
    (proof, stream): (&Proof, &TlsStream<TcpStream>),
) -> Result<EnrollRequest, Failure> {
    let credential = match proof {
        Proof::ServiceAccount(token) => WireCredential::ServiceAccountToken(token.clone()),
        Proof::Token(token) => {
            let binding = channel_binding(stream.get_ref().1);
            let binding = binding.map_err(|error| Failure::Again(error.to_string()))?;
            let id = id.to_string();
            let proof = prove(&token.secret, &binding, &context::enroll(&token.secret_id, &id, key.csr()));
            let proof = proof.to_vec().into();
            WireCredential::Proof(SecretProof { id: token.secret_id.clone(), proof })
        }
    };
    let (role, node) = match role {
        Role::Gateway(node) => ("gateway", node),
        Role::Dns(node) => ("dns", node),
        Role::Controller => return Err(StartError::Refused("a controller does not enrol".into()).into()),
    };
    Ok(EnrollRequest {
        role: role.to_owned(),
        id: node.to_string(),
        csr: key.csr().to_vec().into(),
        credential: Some(credential),
    })
}

async fn call(stream: TlsStream<TcpStream>, request: EnrollRequest) -> Result<Signed, Failure> {
    let again = |error: String| Failure::Again(error);
    let channel = timeout(CALL, transport::client(stream)).await;
    let channel = channel.map_err(|_| again("no answer in time".into()))?;
    let channel = channel.map_err(|error| again(error.to_string()))?;
    let answer = timeout(CALL, TrustClient::new(channel).enroll(request)).await;
    match answer.map_err(|_| again("no answer in time".into()))? {
        Ok(signed) => Ok(signed.into_inner()),
        Err(status) if is_final(&status) => Err(StartError::Refused(status.message().to_owned()).into()),
        Err(status) => Err(again(format!("{}: {}", status.code(), status.message()))),
    }
}

fn is_final(status: &Status) -> bool {
    let code = status.code();
    matches!(
        code,
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition
    )
}

/// Checks what was signed against what was asked, and the bundle against what was pinned.
fn check(
    id: &SpiffeId,
    pin: &Pin,
    key: KeyRequest,
    signed: Signed,
) -> Result<(Identity, Bundle), StartError> {
    let answer = |error: String| StartError::Answer(error);
    let domain = id.trust_domain();
    let bundle = Bundle::from_json(domain, signed.bundle.as_bytes()).map_err(|e| answer(e.to_string()))?;
    let pinned = match pin {
        Pin::Root(_, root) => bundle.roots.iter().any(|known| known.fingerprint() == *root),
        Pin::Bundle(held) => bundle.roots.iter().any(|root| held.roots.contains(root)),
    };
    if !pinned {
        return Err(answer("its bundle does not hold the pinned root".into()));
    }
    let identity = key.complete(chain(signed)).map_err(|e| answer(e.to_string()))?;
    Ok((identity, bundle))
}

pub(crate) fn chain(signed: Signed) -> Vec<CertificateDer<'static>> {
    signed.chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}
