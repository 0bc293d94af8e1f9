//! What the DNS server counts.
//!
//! Counters of answers are made once, so that a query costs one atomic addition.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hansa_runtime::metrics::Families;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::answer::Via;
use crate::message::Rcode;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
    /// `mesh` or `forward`.
    kind: &'static str,
    transport: &'static str,
    rcode: &'static str,
}

const KINDS: [&str; 2] = ["mesh", "forward"];
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];

/// All counters. Clones share them.
#[derive(Clone)]
pub struct DnsMetrics(Arc<Inner>);

struct Inner {
    answers: Family<AnswerLabels, Counter>,
    made: Vec<Counter>,
    ignored: Counter,
    unsent: Counter,
    upstream: Histogram,
    connections: Gauge,
    connections_refused: Counter,
    services: Gauge,
    age: Gauge<f64, AtomicU64>,
    connected: Gauge,
    refusals: Gauge,
    expires: Gauge,
}

impl Default for DnsMetrics {
    fn default() -> Self {
        let answers: Family<AnswerLabels, Counter> = Family::default();
        let mut made = Vec::new();
        for kind in KINDS {
            for transport in TRANSPORTS {
                for rcode in Rcode::ALL {
                    let labels = AnswerLabels { kind, transport, rcode: rcode.as_str() };
                    made.push(answers.get_or_create(&labels).clone());
                }
            }
        }
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        Self(Arc::new(Inner {
            answers,
            made,
            ignored: Counter::default(),
            unsent: Counter::default(),
            upstream: Histogram::new(buckets),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            services: Gauge::default(),
            age: Gauge::default(),
            connected: Gauge::default(),
            refusals: Gauge::default(),
            expires: Gauge::default(),
        }))
    }
}

impl DnsMetrics {
    /// Registers every family.
    pub fn register(&self, families: &mut Families) {
        let Inner { answers, ignored, unsent, upstream, .. } = &*self.0;
        families.add(
            "hansa_dns_answers_total",
            "Answers by kind, transport and response code",
            answers.clone(),
        );
        families.add(
            "hansa_dns_ignored_total",
            "Packets that are no question and got no answer",
            ignored.clone(),
        );
        families.add("hansa_dns_unsent_total", "Answers the kernel would not take", unsent.clone());
        let help = "Time an upstream resolver or the cache took";
        families.add("hansa_dns_forward_seconds", help, upstream.clone());
        let Inner { connections, connections_refused, services, age, .. } = &*self.0;
        families.add("hansa_dns_tcp_connections", "Open TCP connections of clients", connections.clone());
        let help = "TCP connections closed because too many were open";
        families.add("hansa_dns_tcp_refused_total", help, connections_refused.clone());
        families.add("hansa_dns_zone_services", "Services of the zone in use", services.clone());
        let help = "Seconds since the zone in use was last known to be the controller's";
        families.add("hansa_dns_zone_age_seconds", help, age.clone());
        let Inner { connected, refusals, expires, .. } = &*self.0;
        families.add(
            "hansa_dns_controller_connected",
            "1 while the controller is followed",
            connected.clone(),
        );
        families.add("hansa_dns_zone_refused_rows", "Rows of the zone that were refused", refusals.clone());
        let help = "Unix time at which the own certificate expires";
        families.add("hansa_dns_certificate_expiry_timestamp_seconds", help, expires.clone());
    }

    fn answer(&self, kind: usize, via: Via, code: Rcode) {
        let transport = usize::from(via == Via::Tcp);
        let at = Rcode::ALL.iter().position(|known| *known == code).unwrap_or(0);
        if let Some(counter) = self.0.made.get((kind * 2 + transport) * Rcode::ALL.len() + at) {
            counter.inc();
        }
    }

    pub(crate) fn mesh(&self, via: Via, code: Rcode) {
        self.answer(0, via, code);
    }

    pub(crate) fn forwarded(&self, via: Via, code: Rcode) {
        self.answer(1, via, code);
    }

    pub(crate) fn ignored(&self) {
        self.0.ignored.inc();
    }

    pub(crate) fn unsent(&self) {
        self.0.unsent.inc();
    }

    pub(crate) fn upstream(&self, seconds: f64) {
        self.0.upstream.observe(seconds);
    }

    pub(crate) fn opened(&self) {
        self.0.connections.inc();
    }

    pub(crate) fn closed(&self) {
        self.0.connections.dec();
    }

    pub(crate) fn refused_connection(&self) {
        self.0.connections_refused.inc();
    }

    pub(crate) fn zone(&self, services: usize, refusals: usize) {
        self.0.services.set(services as i64);
        self.0.refusals.set(refusals as i64);
    }

    pub(crate) fn link(&self, connected: bool, age: f64, expires: i64) {
        self.0.connected.set(i64::from(connected));
        self.0.age.set(age);
        self.0.expires.set(expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_own_counter() {
        let metrics = DnsMetrics::default();
        let mut families = Families::new();
        metrics.register(&mut families);
        metrics.mesh(Via::Tcp, Rcode::NxDomain);
        metrics.forwarded(Via::Udp, Rcode::BadVers);
        let text = families.finish().text();
        let line = |labels: &str| format!("hansa_dns_answers_total{{{labels}}} 1");
        assert!(text.contains(&line(r#"kind="mesh",transport="tcp",rcode="NXDOMAIN""#)), "{text}");
        assert!(text.contains(&line(r#"kind="forward",transport="udp",rcode="BADVERS""#)), "{text}");
        assert_eq!(text.matches("} 1\n").count(), 2);
    }
}
