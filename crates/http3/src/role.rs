//! Who asks and who answers on a connection. Independent of who dialled: a
//! reverse tunnel's QUIC server makes the requests.

/// Our part in the HTTP conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We open request streams; the peer must not.
    Requester,
    /// The peer opens request streams; we answer.
    Responder,
}
