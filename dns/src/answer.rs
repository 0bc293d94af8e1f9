//! One packet in, one answer out: the decision of every query.
//!
//! Called by the UDP and TCP sides. Loads the zone once per query and takes no lock; what a name
//! means is [`hansa_core::zone::answer`]'s to say.

use std::net::IpAddr;
use std::sync::Arc;

use hansa_core::name::CLUSTERSET_ZONE;
use hansa_core::zone::{self, Answer, Qtype};

use crate::forward::{Forwarder, Ticket};
use crate::message::{self, Head, PLAIN_LIMIT, Query, Rcode, Refused, TCP_LIMIT, UDP_LIMIT, Why, reply};
use crate::metrics::DnsMetrics;
use crate::zone::Shelf;

const CLASS_IN: u16 = 1;
const TYPE_OPT: u16 = 41;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// What became of a packet.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing is sent.
    Silence,
    /// The answer is in the buffer.
    Answered,
    /// Another server must be asked: [`Responder::forward`].
    Forward(Forward),
}

/// A question to be forwarded.
#[derive(Debug)]
pub struct Forward {
    packet: Vec<u8>,
    limit: usize,
    via: Via,
    ticket: Ticket,
}

/// Answers packets. Clones share everything.
#[derive(Clone)]
pub struct Responder {
    zone: Shelf,
    forwarder: Option<Arc<Forwarder>>,
    metrics: DnsMetrics,
}

impl Responder {
    /// Answers from this shelf; without a forwarder, names outside the zone are refused.
    pub fn new(zone: Shelf, forwarder: Option<Arc<Forwarder>>, metrics: DnsMetrics) -> Self {
        Self { zone, forwarder, metrics }
    }

    pub(crate) fn metrics(&self) -> &DnsMetrics {
        &self.metrics
    }

    /// Answers one packet into `out`. `draw` turns the order of addresses.
    pub fn respond(
        &self,
        packet: &[u8],
        client: IpAddr,
        (via, draw): (Via, u32),
        out: &mut Vec<u8>,
    ) -> Outcome {
        let query = match message::parse(packet) {
            Ok(query) => query,
            Err(Refused::Silence) => {
                self.metrics.ignored();
                return Outcome::Silence;
            }
            Err(Refused::Code(code)) => {
                message::refuse(packet, code, out);
                self.metrics.mesh(via, code);
                return Outcome::Answered;
            }
        };
        let recursion = self.forwarder.is_some();
        if let Some(code) = unsupported(&query) {
            reply::code(&query, code, recursion, out);
            self.metrics.mesh(via, code);
            return Outcome::Answered;
        }
        let limit = limit(&query, via);
        if is_ours(query.text()) {
            let code = self.mesh(&query, (limit, draw), out);
            self.metrics.mesh(via, code);
            return Outcome::Answered;
        }
        let why = match &self.forwarder {
            None => Why::ForwardOff,
            Some(forwarder) => match forwarder.admit(query.text(), client) {
                Ok(ticket) => {
                    return Outcome::Forward(Forward { packet: packet.to_vec(), limit, via, ticket });
                }
                Err(why) => why,
            },
        };
        let refused = reply::why(&query, why, recursion, out);
        self.metrics.forwarded(via, refused);
        Outcome::Answered
    }

    fn mesh(&self, query: &Query<'_>, (limit, draw): (usize, u32), out: &mut Vec<u8>) -> Rcode {
        let recursion = self.forwarder.is_some();
        let served = self.zone.load();
        let Some(served) = served.as_ref() else {
            // Nobody knows yet what exists: this must never look like "no such name".
            return reply::why(query, Why::NoZone, recursion, out);
        };
        let answer = zone::answer(&served.zone, query.text(), qtype(query.qtype));
        debug_assert_ne!(answer, Answer::NotOurs, "is_ours and answer must agree");
        let head = Head { limit, recursion, serial: served.serial, draw };
        message::write(query, &answer, &head, out)
    }

    /// Asks another server. Always gives an answer, in bounded time.
    pub async fn forward(&self, forward: Forward, out: &mut Vec<u8>) {
        let Forward { packet, limit, via, ticket } = forward;
        let Ok(query) = message::parse(&packet) else { return };
        let code = match &self.forwarder {
            Some(forwarder) => forwarder.answer(&query, limit, ticket, out).await,
            None => reply::why(&query, Why::ForwardOff, false, out),
        };
        self.metrics.forwarded(via, code);
    }
}

/// True for the zone itself and every name in it.
fn is_ours(name: &str) -> bool {
    name.strip_suffix(CLUSTERSET_ZONE).is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

/// What is refused whatever the name.
fn unsupported(query: &Query<'_>) -> Option<Rcode> {
    match query.edns {
        Some(edns) if edns.version != 0 => return Some(Rcode::BadVers),
        _ => {}
    }
    match query.qtype {
        TYPE_OPT => Some(Rcode::FormErr),
        // Zone transfers, transaction signatures and the obsolete mail types (RFC 6895 3.1).
        249..=254 => Some(Rcode::Refused),
        _ if query.qclass != CLASS_IN => Some(Rcode::Refused),
        _ => None,
    }
}

fn limit(query: &Query<'_>, via: Via) -> usize {
    match (via, query.edns) {
        (Via::Tcp, _) => TCP_LIMIT,
        (Via::Udp, None) => PLAIN_LIMIT,
        (Via::Udp, Some(edns)) => usize::from(edns.payload).clamp(PLAIN_LIMIT, UDP_LIMIT),
    }
}

fn qtype(number: u16) -> Qtype {
    match number {
        1 => Qtype::A,
        2 => Qtype::Ns,
        6 => Qtype::Soa,
        16 => Qtype::Txt,
        28 => Qtype::Aaaa,
        33 => Qtype::Srv,
        255 => Qtype::Any,
        _ => Qtype::Other,
    }
}
