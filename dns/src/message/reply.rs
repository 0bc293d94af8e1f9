//! Writing an answer.
//!
//! Called for every mesh answer and every refusal. Owner names point at the question, so that its
//! case comes back as it was asked; what does not fit is left out and said by the TC bit.

use hansa_core::name::CLUSTERSET_ZONE;
use hansa_core::zone::{Answer, Rdata, Record, TTL};

use super::query::Query;
use super::{Rcode, UDP_LIMIT, Why};

const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
/// Bytes of an OPT record without options.
const OPT: usize = 11;
/// The option of an extended error (RFC 8914 2).
const EDE: u16 = 15;
/// A pointer to the question's name.
const QUESTION: [u8; 2] = [0xC0, 12];
/// `clusterset.local` on the wire.
const ZONE_WIRE: usize = CLUSTERSET_ZONE.len() + 2;

/// What an answer needs besides records.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Most bytes.
    pub limit: usize,
    /// Names outside the zone are forwarded for this client.
    pub recursion: bool,
    /// Serial of the zone.
    pub serial: u32,
    /// Turns the order of records.
    pub draw: u32,
}

/// Answers without a question that could be read: header only.
pub fn refuse(packet: &[u8], code: Rcode, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(packet.get(..2).unwrap_or(&[0, 0]));
    let flags = packet.get(2).copied().unwrap_or(0);
    out.push(0x80 | (flags & (0x78 | RD)));
    out.push(code.number() as u8 & 15);
    out.extend_from_slice(&[0; 8]);
}

/// Starts an answer to a question: header and question, without records.
pub fn begin(query: &Query<'_>, code: Rcode, (authoritative, recursion): (bool, bool), out: &mut Vec<u8>) {
    let [id, id2, flags, flags2] = query.header();
    out.clear();
    let aa = if authoritative { AA } else { 0 };
    let ra = if recursion { RA } else { 0 };
    out.extend_from_slice(&[
        id,
        id2,
        0x80 | aa | (flags & RD),
        ra | (flags2 & CD) | (code.number() as u8 & 15),
    ]);
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(query.question());
}

/// Ends an answer: the OPT record, if the client speaks EDNS.
pub fn end(query: &Query<'_>, code: Rcode, out: &mut Vec<u8>) {
    end_with(query, code, &[], out);
}

fn end_with(query: &Query<'_>, code: Rcode, options: &[u8], out: &mut Vec<u8>) {
    let Some(edns) = query.edns else { return };
    let [high, low] = (UDP_LIMIT as u16).to_be_bytes();
    let extended = (code.number() >> 4) as u8;
    let dnssec = if edns.dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, 41, high, low, extended, 0, dnssec, 0]);
    out.extend_from_slice(&(options.len() as u16).to_be_bytes());
    out.extend_from_slice(options);
    add(out, 10, 1);
}

/// Says that records are missing.
pub fn truncated(out: &mut [u8]) {
    out[2] |= TC;
}

fn add(out: &mut [u8], at: usize, more: u16) {
    let count = u16::from_be_bytes([out[at], out[at + 1]]).saturating_add(more);
    out[at..at + 2].copy_from_slice(&count.to_be_bytes());
}

/// A whole answer with a code and no records.
pub fn code(query: &Query<'_>, code: Rcode, recursion: bool, out: &mut Vec<u8>) {
    begin(query, code, (false, recursion), out);
    end(query, code, out);
}

/// A whole answer that says why there is none (RFC 8914), and its code. Fits every limit: the question has at
/// most 271 bytes with the header, a title a few dozen.
pub fn why(query: &Query<'_>, why: Why, recursion: bool, out: &mut Vec<u8>) -> Rcode {
    let text = why.text();
    let mut option = Vec::with_capacity(6 + text.len());
    for number in [EDE, 2 + text.len() as u16, why.info()] {
        option.extend_from_slice(&number.to_be_bytes());
    }
    option.extend_from_slice(text.as_bytes());
    begin(query, why.rcode(), (false, recursion), out);
    end_with(query, why.rcode(), &option, out);
    why.rcode()
}

/// Writes what the zone says. [`Answer::NotOurs`] is not for here and is refused.
pub fn write(query: &Query<'_>, answer: &Answer, head: &Head, out: &mut Vec<u8>) -> Rcode {
    let rcode = match answer {
        Answer::NotOurs => Rcode::Refused,
        Answer::NxDomain => Rcode::NxDomain,
        Answer::NoData | Answer::Records { .. } => Rcode::NoError,
    };
    begin(query, rcode, (true, head.recursion), out);
    let reserved = if query.edns.is_some() { OPT } else { 0 };
    let mut writer = Writer { out, limit: head.limit.saturating_sub(reserved), query, serial: head.serial };
    match answer {
        Answer::NotOurs => {}
        Answer::NxDomain | Answer::NoData => writer.negative(),
        Answer::Records { answers, additionals } => writer.records(answers, additionals, head.draw),
    }
    end(query, rcode, out);
    rcode
}

struct Writer<'a, 'q> {
    out: &'a mut Vec<u8>,
    limit: usize,
    query: &'a Query<'q>,
    serial: u32,
}

impl Writer<'_, '_> {
    fn records(&mut self, answers: &[Record], additionals: &[Record], draw: u32) {
        let mut targets: Vec<(&str, u16)> = Vec::new();
        let minimal = self.query.qtype == 255;
        // ANY gets one record set, not everything there is (RFC 8482 4.1).
        let kind = |record: &Record| std::mem::discriminant(&record.data);
        let first = answers.first().map(kind);
        let wanted = |record: &&Record| !minimal || Some(kind(record)) == first;
        let start = if answers.is_empty() { 0 } else { draw as usize % answers.len() };
        let (before, after) = answers.split_at(start);
        for record in after.iter().chain(before).filter(wanted) {
            if !self.one(record, 6, &mut targets) {
                self.out[2] |= TC;
                return;
            }
        }
        for record in additionals.iter().filter(|_| !minimal) {
            // What is only added may be left out without a word (RFC 2181 9).
            if !self.one(record, 10, &mut targets) {
                return;
            }
        }
    }

    /// Writes one record if it fits, and counts it at `count`.
    fn one<'r>(&mut self, record: &'r Record, count: usize, targets: &mut Vec<(&'r str, u16)>) -> bool {
        let before = self.out.len();
        match &record.name {
            None => self.out.extend_from_slice(&QUESTION),
            Some(name) => match targets.iter().find(|target| target.0 == name) {
                Some((_, at)) => self.out.extend_from_slice(&(0xC000 | at).to_be_bytes()),
                None => put_name(self.out, name),
            },
        }
        let target = self.data(record);
        if self.out.len() > self.limit {
            self.out.truncate(before);
            return false;
        }
        if let Some((name, at)) = target
            && let Ok(at) = u16::try_from(at)
            && at < 0x4000
            && targets.iter().all(|known| known.0 != name)
        {
            targets.push((name, at));
        }
        add(self.out, count, 1);
        true
    }

    /// Type, class, time to live and data. Returns the target of an SRV record and where it is.
    fn data<'r>(&mut self, record: &'r Record) -> Option<(&'r str, usize)> {
        let kind: u16 = match &record.data {
            Rdata::A(_) => 1,
            Rdata::Ns => 2,
            Rdata::Soa => 6,
            Rdata::Txt(_) => 16,
            Rdata::Aaaa(_) => 28,
            Rdata::Srv { .. } => 33,
        };
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&[0, 1]);
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        let length = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        let mut target = None;
        match &record.data {
            Rdata::A(ip) => self.out.extend_from_slice(&ip.octets()),
            Rdata::Aaaa(ip) => self.out.extend_from_slice(&ip.octets()),
            Rdata::Srv { port, target: name } => {
                self.out.extend_from_slice(&[0, 0, 0, 0]);
                self.out.extend_from_slice(&port.to_be_bytes());
                target = Some((name.as_str(), self.out.len()));
                // Never compressed (RFC 2782).
                put_name(self.out, name);
            }
            Rdata::Txt(text) => {
                for part in text.as_bytes().chunks(255) {
                    self.out.push(part.len() as u8);
                    self.out.extend_from_slice(part);
                }
            }
            Rdata::Ns => put_name(self.out, "ns.dns.clusterset.local"),
            Rdata::Soa => put_soa(self.out, self.serial),
        }
        let size = (self.out.len() - length - 2) as u16;
        self.out[length..length + 2].copy_from_slice(&size.to_be_bytes());
        target
    }

    /// The SOA in the authority section tells how long the negative answer may be kept (RFC 2308).
    fn negative(&mut self) {
        let before = self.out.len();
        // The question ends with the zone: the owner points into it.
        let owner = 12 + self.query.name().len() - ZONE_WIRE;
        self.out.extend_from_slice(&(0xC000 | owner as u16).to_be_bytes());
        self.data(&Record { name: None, ttl: TTL, data: Rdata::Soa });
        if self.out.len() > self.limit {
            self.out.truncate(before);
        } else {
            add(self.out, 8, 1);
        }
    }
}

fn put_soa(out: &mut Vec<u8>, serial: u32) {
    put_name(out, "ns.dns.clusterset.local");
    put_name(out, "hostmaster.clusterset.local");
    // Refresh, retry and expire are for secondaries, of which there are none.
    for number in [serial, 7_200, 1_800, 86_400, TTL] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// Writes a name of valid labels.
fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        // The vocabulary has no label over 63 bytes.
        out.push(label.len().min(63) as u8);
        out.extend_from_slice(&label.as_bytes()[..label.len().min(63)]);
    }
    out.push(0);
}
