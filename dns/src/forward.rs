//! Names outside the zone: asked of other resolvers, for clients that may.
//!
//! Called by the responder. Bounded in questions per client, in questions under way and in time;
//! an upstream that leads back here is found out and no longer asked.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hansa_core::code::dns::{FORWARD_FAILED, FORWARD_REFUSED};
use hansa_runtime::source;
use hickory_proto::op::{Message, OpCode, Query as ProtoQuery, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::guard::Guard;
use crate::config::Forward as Config;
use crate::message::{Query, Rcode, Why, reply};
use crate::metrics::DnsMetrics;

mod guard;

/// Questions under way at once.
const UNDER_WAY: usize = 1_024;
/// Clients whose rate is remembered before the idle ones are forgotten.
const CLIENTS: usize = 16_384;
/// Between two probes for a loop.
const PROBE: Duration = Duration::from_secs(30);
/// Answers are kept at most so long, negative ones less.
const KEEP: (Duration, Duration) = (Duration::from_secs(86_400), Duration::from_secs(300));

/// The right to ask once.
#[derive(Debug)]
pub(crate) struct Ticket {
    _place: OwnedSemaphorePermit,
}

/// Asks other resolvers, with a cache.
pub struct Forwarder {
    resolver: TokioResolver,
    allow: Vec<IpNet>,
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    places: Arc<Semaphore>,
    guard: Guard,
    limit: Duration,
    metrics: DnsMetrics,
}

impl Forwarder {
    /// A forwarder, if there is anybody to ask.
    ///
    /// # Errors
    /// The resolver cannot be made.
    pub fn new(config: &Config, metrics: DnsMetrics) -> Result<Option<Self>, NetError> {
        if config.upstreams.is_empty() {
            return Ok(None);
        }
        let servers = config.upstreams.iter().map(server).collect();
        let resolver = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(resolver, TokioRuntimeProvider::default());
        *builder.options_mut() = options(config);
        let rate = NonZeroU32::new(config.rate_limit).unwrap_or(NonZeroU32::MIN);
        Ok(Some(Self {
            resolver: builder.build()?,
            allow: config.allow_from.clone(),
            limiter: RateLimiter::keyed(Quota::per_second(rate)),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
            guard: Guard::new(),
            // Every upstream may be asked twice.
            limit: config.timeout.0.saturating_mul(2) + Duration::from_millis(500),
            metrics,
        }))
    }

    /// Whether this client may ask for this name now.
    pub(crate) fn admit(&self, name: &str, client: IpAddr) -> Result<Ticket, Why> {
        if self.guard.is_mine(name) {
            return Err(Why::ForwardLoop);
        }
        let client = client.to_canonical();
        if !self.allow.iter().any(|net| net.contains(&client)) {
            // One line per packet would be the client's to choose: not above debug.
            tracing::debug!(code = %FORWARD_REFUSED, %client, name, "forwarding refused");
            return Err(Why::ForwardRefused);
        }
        if self.guard.looping() {
            return Err(Why::ForwardLoop);
        }
        if self.limiter.len() > CLIENTS {
            self.limiter.retain_recent();
        }
        if self.limiter.check_key(&source::of(client)).is_err() {
            return Err(Why::TooOften);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Why::Full)?;
        Ok(Ticket { _place: place })
    }

    /// Asks, and writes the answer: always one, at most after the limit.
    pub(crate) async fn answer(
        &self,
        query: &Query<'_>,
        limit: usize,
        _ticket: Ticket,
        out: &mut Vec<u8>,
    ) -> Rcode {
        let started = Instant::now();
        let found = self.lookup(query).await;
        self.metrics.upstream(started.elapsed().as_secs_f64());
        let written = found.and_then(|message| encode(query, message, limit, out));
        written.unwrap_or_else(|| reply::why(query, Why::ForwardFailed, true, out))
    }

    /// The upstreams' answer, if one gave any in time.
    async fn lookup(&self, query: &Query<'_>) -> Option<Message> {
        let name = Name::read(&mut BinDecoder::new(query.name())).ok()?;
        let kind = RecordType::from(query.qtype);
        let looked_up = timeout(self.limit, self.resolver.lookup(name.clone(), kind)).await;
        let mut message = Message::response(0, OpCode::Query);
        let mut question = ProtoQuery::query(name, kind);
        question.set_query_class(DNSClass::IN);
        message.add_query(question);
        match looked_up.ok()? {
            Ok(found) => {
                message.answers = found.answers().to_vec();
                message.authorities = found.authorities().to_vec();
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                message.metadata.response_code = match none.response_code {
                    code @ (ResponseCode::NoError | ResponseCode::NXDomain) => code,
                    _ => return None,
                };
                let soa = none.soa.map(|soa| soa.into_record_of_rdata());
                message.authorities = soa.into_iter().collect::<Vec<Record>>();
            }
            Err(error) => {
                tracing::debug!(code = %FORWARD_FAILED, %error, "no upstream answers");
                return None;
            }
        }
        Some(message)
    }

    /// Asks the upstreams for a name nobody else knows, again and again: should that question come
    /// in here, an upstream leads back. Runs until dropped.
    pub(crate) async fn watch_for_loops(self: Arc<Self>) {
        loop {
            let name = self.guard.next_probe();
            if let Ok(name) = Name::from_ascii(&name) {
                // The answer is of no interest, only whether the question comes back.
                let _ = timeout(self.limit, self.resolver.lookup(name, RecordType::TXT)).await;
            }
            self.guard.judge();
            tokio::time::sleep(PROBE).await;
        }
    }
}

fn server(upstream: &SocketAddr) -> NameServerConfig {
    let port = |mut connection: ConnectionConfig| {
        connection.port = upstream.port();
        connection
    };
    let connections = vec![port(ConnectionConfig::udp()), port(ConnectionConfig::tcp())];
    NameServerConfig::new(upstream.ip(), true, connections)
}

fn options(config: &Config) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = config.timeout.0;
    options.attempts = 1;
    options.cache_size = u64::from(config.cache_size);
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(KEEP.0);
    options.negative_max_ttl = Some(KEEP.1);
    options.preserve_intermediates = true;
    options.ndots = 0;
    options
}

/// For [`crate::fuzzing`]: the answer that `said` of an upstream becomes, where it becomes one.
pub(crate) fn rewritten(query: &Query<'_>, said: &Message, limit: usize, out: &mut Vec<u8>) -> Option<Rcode> {
    let name = Name::read(&mut BinDecoder::new(query.name())).ok()?;
    let mut message = Message::response(0, OpCode::Query);
    message.add_query(ProtoQuery::query(name, RecordType::from(query.qtype)));
    message.metadata.response_code = said.metadata.response_code;
    message.answers.clone_from(&said.answers);
    message.authorities.clone_from(&said.authorities);
    encode(query, message, limit, out)
}

/// Encodes a forwarded answer, cut to the header and the TC bit if it does not fit.
fn encode(query: &Query<'_>, message: Message, limit: usize, out: &mut Vec<u8>) -> Option<Rcode> {
    let code = match message.metadata.response_code {
        ResponseCode::NXDomain => Rcode::NxDomain,
        _ => Rcode::NoError,
    };
    let bytes = message.to_vec().ok()?;
    reply::begin(query, code, (false, true), out);
    let start = out.len();
    let reserved = if query.edns.is_some() { 11 } else { 0 };
    let (counts, records) = (bytes.get(6..12), bytes.get(start..));
    let (Some(counts), Some(records)) = (counts, records) else { return None };
    if bytes.len() + reserved > limit {
        reply::truncated(out);
    } else {
        // The question has the same length on both sides, so pointers into the message stay right.
        out[6..12].copy_from_slice(counts);
        out.extend_from_slice(records);
    }
    reply::end(query, code, out);
    Some(code)
}
