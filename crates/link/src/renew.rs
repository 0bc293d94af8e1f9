//! Renewal: a new key and leaf at half of the old one's life, swapped without dropping a connection.
//!
//! Run by a task of [`crate::Link::start`]. A failure is tried again, more often as the end nears.

use std::time::{Duration, SystemTime};

use hansa_core::code::config::STATE_UNWRITABLE;
use hansa_identity::store::KeyRequest;
use hansa_proto::transport;
use hansa_proto::wire::trust::v1::trust_client::TrustClient;
use hansa_proto::wire::trust::v1::{RenewRequest, Signed};
use tokio::time::{sleep, timeout};

use crate::{CALL, Link, enroll};

/// Longest sleep: the wall clock may jump, a suspended machine may wake.
const NAP: Duration = Duration::from_secs(60);
/// Between tries that fail, at most and at least.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

pub(crate) async fn run(link: Link) {
    loop {
        let at = link.keys().renew_at(rand::random());
        while let Ok(left) = at.duration_since(SystemTime::now()) {
            sleep(left.min(NAP)).await;
            if left <= NAP {
                break;
            }
        }
        while let Err(error) = once(&link).await {
            let left = link.keys().expires().duration_since(SystemTime::now()).unwrap_or_default();
            let wait = (left / 20).clamp(RETRY.0, RETRY.1).mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tracing::warn!(%error, expires_in = ?left, retry_in = ?wait, "certificate not renewed");
            sleep(wait).await;
        }
    }
}

async fn once(link: &Link) -> Result<(), String> {
    let key = KeyRequest::new(link.id()).map_err(|error| error.to_string())?;
    let signed = call(link, RenewRequest { csr: key.csr().to_vec().into() }).await?;
    // The bundle first: the new leaf may hang on a root that came with it.
    link.adopt_bundle(&signed.bundle);
    let identity = key.complete(enroll::chain(signed)).map_err(|error| error.to_string())?;
    let not_after = identity.leaf().not_after;
    if not_after <= SystemTime::now() {
        return Err("the controller signed a leaf that has already expired; compare clocks".to_owned());
    }
    let kept = link.0.store.save(&identity);
    link.keys().replace(identity).map_err(|error| error.to_string())?;
    match kept {
        Ok(()) => tracing::info!(id = %link.id(), "certificate renewed"),
        Err(error) => {
            tracing::warn!(code = %STATE_UNWRITABLE, %error, "certificate renewed, but not kept on disk");
        }
    }
    Ok(())
}

async fn call(link: &Link, request: RenewRequest) -> Result<Signed, String> {
    let stream = link.connect().await.map_err(|error| error.to_string())?;
    let late = |_| "no answer in time".to_owned();
    let channel = timeout(CALL, transport::client(stream)).await.map_err(late)?;
    let channel = channel.map_err(|error| error.to_string())?;
    let answer = timeout(CALL, TrustClient::new(channel).renew(request)).await.map_err(late)?;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| format!("{}: {}", status.code(), status.message()))
}
