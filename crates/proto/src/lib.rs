//! What crosses a connection between hansa's own servers: messages, their meaning, and the feed.
//!
//! Called by the controller (publishes, follows peers), gateways and DNS servers (follow), and the
//! enrolment link. Never opens a socket and never decides what a row means for traffic.

pub mod convert;

pub mod feed;

pub mod context;

pub mod transport;

pub mod fuzzing;

/// The generated messages and services.
pub mod wire {
    pub use self::generated::hansa::*;

    mod generated {
        #![allow(
            clippy::all,
            clippy::too_many_lines,
            clippy::allow_attributes_without_reason,
            reason = "generated code"
        )]
        #![allow(missing_docs, unreachable_pub, unused_qualifications, reason = "generated code")]
        include!(concat!(env!("OUT_DIR"), "/hansa.rs"));
    }

    impl std::fmt::Debug for trust::v1::EnrollRequest {
        /// The credential stays out of every log.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("EnrollRequest")
                .field("role", &self.role)
                .field("id", &self.id)
                .finish_non_exhaustive()
        }
    }
}
