//! Entry points for fuzzers and the replay test: what strangers, peers and the disk give to a gateway. Each
//! takes any bytes, must not panic, and states the law of its parser. Never called in production.

use hansa_core::name::Target;
use http::Method;

use crate::{reach, relay, tunnel, vip};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[
    ("connect", connect),
    ("datagram", tunnel::fuzzing::datagram),
    ("join_bundle", relay::fuzz_bundle),
    ("neighbour", vip::fuzz_question),
    ("paths", reach::saved::fuzz),
];

/// The head of a request, a line for each pseudo-header. What is asked for prints as it was read.
fn connect(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n').map(|line| Some(line).filter(|line| !line.is_empty()));
    let (protocol, authority, path) = (lines.next(), lines.next(), lines.next());
    let asked =
        tunnel::fuzzing::target(&Method::CONNECT, protocol.flatten(), authority.flatten(), path.flatten());
    if let Some(target) = asked.and_then(|asked| asked.parse::<Target>().ok()) {
        assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(&target));
    }
}
