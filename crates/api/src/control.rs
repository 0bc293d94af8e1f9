//! The controller's control socket: HTTP/1.1 with JSON bodies over a Unix socket of mode 0600.
//!
//! Served by the controller, called by the command line; the bodies are types of [`crate::view`].
//! An error answers with a status of 400 or above and a [`crate::view::Error`].

/// `GET`: [`crate::view::Status`].
pub const STATUS: &str = "/v1/status";
/// `GET`: a list of [`crate::view::Service`].
pub const SERVICES: &str = "/v1/services";
/// `GET ?service=namespace/name[&port=N]`: [`crate::view::Explain`].
pub const EXPLAIN: &str = "/v1/explain";
/// `GET [?service=namespace/name][&port=N][&peer=CLUSTER]`: [`crate::view::Check`].
///
/// The controller leaves the hops `name`, `address` and `gateway` at `ok: null`, with the virtual
/// address of that gateway as the `detail` of `address`; the command line walks them itself. An own
/// gateway that did not answer has a path for every import, with the hop `gateway` broken.
pub const CHECK: &str = "/v1/check";
/// `GET`: [`crate::view::Endpoints`].
pub const ENDPOINTS: &str = "/v1/endpoints";
/// `GET`: a list of [`crate::view::Peer`]. `GET` and `DELETE` of `/v1/peers/CLUSTER`: one of them.
pub const PEERS: &str = "/v1/peers";
/// `GET`: this cluster as a `ClusterPeer` object, for others to declare.
pub const CLUSTER_PEER: &str = "/v1/clusterpeer";
/// `GET`: a list of `ServiceImport` objects.
pub const SERVICE_IMPORTS: &str = "/v1/serviceimports";
/// `GET`: a list of `ServiceExport` objects.
pub const SERVICE_EXPORTS: &str = "/v1/serviceexports";
/// `GET`: a list of [`crate::view::Trust`], the own domain first.
pub const TRUST: &str = "/v1/trust";
/// `POST` [`crate::view::RotateRequest`]: the own [`crate::view::Trust`] afterwards.
pub const ROTATE: &str = "/v1/trust/rotate";
/// `POST` [`crate::view::DenyRequest`]: the own [`crate::view::Trust`] afterwards.
pub const DENY: &str = "/v1/trust/deny";
/// `POST` [`crate::view::DenyRequest`]: takes entries of the deny list back; answers as [`DENY`].
pub const ALLOW: &str = "/v1/trust/allow";
/// `DELETE` of `/v1/nodes/ROLE/ID` (`gateway` or `dns`): forgets a server that is gone for good.
pub const NODES: &str = "/v1/nodes";
/// `POST` [`crate::view::EnrollRequest`]: [`crate::view::Token`].
pub const ENROLL: &str = "/v1/enroll";
/// `POST` [`crate::view::InviteRequest`]: [`crate::view::Token`].
pub const INVITE: &str = "/v1/invite";
/// `POST` [`crate::view::JoinRequest`]: [`crate::view::Joined`].
pub const JOIN: &str = "/v1/join";
