//! How a connection ended: one label, one message code, one log level.
//!
//! Called by outbound and inbound at the end of every connection, once. It decides nothing.

use hansa_core::code::{Code, gateway as codes};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Both sides finished.
    Done,
    /// The client reset it.
    ClientReset,
    /// The service reset it.
    ServiceReset,
    /// Nothing was sent for the idle timeout.
    Idle,
    /// The service is not in the table, or not exported here.
    NoSuchService,
    /// The caller may not see it.
    Denied,
    /// Every candidate refused.
    NoEndpoint,
    /// An endpoint or a peer did not answer in time.
    Timeout,
    /// No tunnel to any candidate.
    Unreachable,
    /// The tunnel was lost under it.
    PathLost,
    /// The drain deadline passed.
    DrainDeadline,
    /// The peer was removed.
    PeerRemoved,
    /// A limit was reached.
    Limit,
    /// The request was malformed.
    BadRequest,
    /// It was a probe.
    Probe,
}

impl Outcome {
    /// The label in metrics and access lines.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::ClientReset => "client_reset",
            Outcome::ServiceReset => "service_reset",
            Outcome::Idle => "idle_timeout",
            Outcome::NoSuchService => "no_such_service",
            Outcome::Denied => "denied",
            Outcome::NoEndpoint => "no_endpoint",
            Outcome::Timeout => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::PathLost => "path_lost",
            Outcome::DrainDeadline => "drain_deadline",
            Outcome::PeerRemoved => "peer_removed",
            Outcome::Limit => "limit",
            Outcome::BadRequest => "bad_request",
            Outcome::Probe => "probe",
        }
    }

    /// The message code, where a person may act.
    pub(crate) fn code(self) -> Option<Code> {
        Some(match self {
            Outcome::NoSuchService => codes::NO_SUCH_SERVICE,
            Outcome::Denied => codes::DENIED,
            Outcome::NoEndpoint => codes::NO_ENDPOINT,
            Outcome::Timeout => codes::DIAL_TIMEOUT,
            Outcome::PathLost | Outcome::Unreachable => codes::PATH_LOST,
            Outcome::DrainDeadline => codes::DRAIN_DEADLINE,
            Outcome::PeerRemoved => codes::PEER_REMOVED,
            Outcome::Limit => codes::LIMIT_REACHED,
            Outcome::BadRequest => codes::PROTOCOL_VIOLATION,
            Outcome::Done | Outcome::ClientReset | Outcome::ServiceReset | Outcome::Idle | Outcome::Probe => {
                return None;
            }
        })
    }
}

/// The answer to a tunnel request that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// 400, 403, 404, 503 or 504.
    pub(crate) status: u16,
    /// RFC 9209 error type.
    pub(crate) error: &'static str,
    /// Which rule or cause, for people.
    pub(crate) details: String,
    /// What is recorded.
    pub(crate) outcome: Outcome,
}

impl Refusal {
    /// The authority cannot be read.
    pub(crate) fn bad_request(details: String) -> Self {
        Self { status: 400, error: "http_request_error", details, outcome: Outcome::BadRequest }
    }

    /// The exporter's list does not name the peer.
    pub(crate) fn denied(details: String) -> Self {
        Self { status: 403, error: "http_request_denied", details, outcome: Outcome::Denied }
    }

    /// Not exported here.
    pub(crate) fn not_exported(details: String) -> Self {
        Self { status: 404, error: "destination_not_found", details, outcome: Outcome::NoSuchService }
    }

    /// No healthy endpoint.
    pub(crate) fn no_endpoint(details: String) -> Self {
        Self { status: 503, error: "destination_unavailable", details, outcome: Outcome::NoEndpoint }
    }

    /// No endpoint answered the dial.
    pub(crate) fn dial_timeout(details: String) -> Self {
        Self { status: 504, error: "connection_timeout", details, outcome: Outcome::Timeout }
    }

    /// The value of the `Proxy-Status` header (RFC 9209), said by `proxy`.
    pub(crate) fn proxy_status(&self, proxy: &str) -> String {
        let text: String = self
            .details
            .chars()
            .filter(|c| (' '..='~').contains(c))
            .flat_map(|c| if c == '"' || c == '\\' { vec!['\\', c] } else { vec![c] })
            .take(300)
            .collect();
        format!("{proxy};error={};details=\"{text}\"", self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_status_is_a_structured_field() {
        let refusal = Refusal::denied("rule \"a\"\r\nx".into());
        let text = refusal.proxy_status("g-1");
        assert_eq!(text, "g-1;error=http_request_denied;details=\"rule \\\"a\\\"x\"");
        assert!(http::HeaderValue::from_str(&text).is_ok());
    }
}
