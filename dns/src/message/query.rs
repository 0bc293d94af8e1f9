//! Reading a question.
//!
//! Called with every packet that comes in. The name is kept as it came (its case is echoed) and in
//! lower case (it is looked up).

use super::Rcode;

/// Bytes of a header (RFC 1035 4.1.1).
const HEADER: usize = 12;
/// Longest name on the wire (RFC 1035 2.3.4).
const MAX_NAME: usize = 255;
/// Most records after the question that are looked at.
const MAX_RECORDS: usize = 32;
const TYPE_OPT: u16 = 41;

/// What EDNS says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer the client takes.
    pub payload: u16,
    /// The version; only 0 is known.
    pub version: u8,
    /// The DO bit, echoed.
    pub dnssec_ok: bool,
}

/// A question.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// The packet from its start to the end of the question.
    head: &'a [u8],
    text: [u8; MAX_NAME],
    length: u8,
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for; 1 is IN.
    pub qclass: u16,
    /// EDNS, if the client speaks it.
    pub edns: Option<Edns>,
}

/// Why there is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not to be answered at all: an answer itself, or no header.
    Silence,
    /// Answered with this code.
    Code(Rcode),
}

impl<'a> Query<'a> {
    /// The question section as it came.
    pub fn question(&self) -> &'a [u8] {
        &self.head[HEADER..]
    }

    /// The name on the wire, root included.
    pub fn name(&self) -> &'a [u8] {
        &self.head[HEADER..self.head.len() - 4]
    }

    /// The name in lower case without the closing dot. A byte that no mesh name has is a `?`.
    pub fn text(&self) -> &str {
        // Only ASCII is ever written here.
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or("?")
    }

    /// Id and flag bytes.
    pub fn header(&self) -> [u8; 4] {
        [self.head[0], self.head[1], self.head[2], self.head[3]]
    }
}

/// Reads a packet.
pub fn parse(packet: &[u8]) -> Result<Query<'_>, Refused> {
    if packet.len() < HEADER || packet[2] & 0x80 != 0 {
        return Err(Refused::Silence);
    }
    if packet[2] & 0x78 != 0 {
        return Err(Refused::Code(Rcode::NotImp));
    }
    let count = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let bad = Refused::Code(Rcode::FormErr);
    if count(4) != 1 {
        return Err(bad);
    }
    let mut text = [0; MAX_NAME];
    let (end, length) = name(packet, &mut text).ok_or(bad)?;
    let tail = packet.get(end..end + 4).ok_or(bad)?;
    let records = count(6) + count(8) + count(10);
    let edns = edns(packet, end + 4, (records, count(10))).ok_or(bad)?;
    Ok(Query {
        head: &packet[..end + 4],
        text,
        length,
        qtype: u16::from_be_bytes([tail[0], tail[1]]),
        qclass: u16::from_be_bytes([tail[2], tail[3]]),
        edns,
    })
}

/// Reads the question's name into `text`; returns where it ends, and the text's length. A question
/// has nothing to point to, so pointers are refused.
fn name(packet: &[u8], text: &mut [u8; MAX_NAME]) -> Option<(usize, u8)> {
    let (mut at, mut length) = (HEADER, 0);
    loop {
        let label = usize::from(*packet.get(at)?);
        at += 1;
        if label == 0 {
            return Some((at, length as u8));
        }
        if label > 63 || at - HEADER + label >= MAX_NAME {
            return None;
        }
        if length > 0 {
            text[length] = b'.';
            length += 1;
        }
        for byte in packet.get(at..at + label)? {
            text[length] = match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *byte,
                b'A'..=b'Z' => byte.to_ascii_lowercase(),
                _ => b'?',
            };
            length += 1;
        }
        at += label;
    }
}

/// Finds the OPT record among those after the question. `None`: malformed.
fn edns(packet: &[u8], mut at: usize, (records, additional): (usize, usize)) -> Option<Option<Edns>> {
    if records > MAX_RECORDS {
        return None;
    }
    let mut found = None;
    for index in 0..records {
        let root = packet.get(at) == Some(&0);
        at = skip_name(packet, at)?;
        let fixed = packet.get(at..at + 10)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        packet.get(at + 10..at + 10 + length)?;
        if kind == TYPE_OPT {
            // One OPT at most, owned by the root, in the additional section (RFC 6891 6.1.1).
            if found.is_some() || !root || index + additional < records {
                return None;
            }
            let payload = u16::from_be_bytes([fixed[2], fixed[3]]);
            found = Some(Edns { payload, version: fixed[5], dnssec_ok: fixed[6] & 0x80 != 0 });
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends a name; where it leads is of no interest here.
            192.. => return packet.get(at + 1).map(|_| at + 2),
            64..192 => return None,
            label => at += 1 + usize::from(label),
        }
        if at - start > MAX_NAME {
            return None;
        }
    }
}
