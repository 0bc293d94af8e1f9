//! Wire to core and back: the only validation of what other servers send.
//!
//! Called by followers (decode) and publishers (encode) of a feed. A row that breaks a rule becomes
//! a [`Refusal`] that names key and reason; nothing else is lost, and nothing here panics.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use hansa_core::policy::Refusal;
use prost::Message;

pub mod catalog;
mod parts;
pub mod report;
pub mod routes;
pub mod zone;

/// Rows of a feed by key, encoded.
pub type Rows = BTreeMap<String, Bytes>;

/// Why a row was refused, for people. Never longer than a few hundred characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

impl Reason {
    pub(crate) fn new(text: impl Display) -> Self {
        Self(tame(&text.to_string(), 300))
    }
}

/// Rows of one type, taken one by one.
pub trait Apply {
    /// Sets one row. The former row of that key stays in force after an error.
    fn set(&mut self, key: &str, body: &[u8]) -> Result<(), Reason>;

    /// Forgets one row; a key that is not held is ignored.
    fn unset(&mut self, key: &str);

    /// The keys held.
    fn keys(&self) -> Vec<String>;

    /// Applies one change. In a snapshot, what is not named is removed. What is refused keeps its
    /// last good row and is told by key and reason.
    fn apply(&mut self, changed: &[(String, Bytes)], removed: &[String], snapshot: bool) -> Vec<Refusal> {
        if snapshot {
            let named: std::collections::BTreeSet<&str> = changed.iter().map(|row| row.0.as_str()).collect();
            for key in self.keys() {
                if !named.contains(key.as_str()) {
                    self.unset(&key);
                }
            }
        }
        for key in removed {
            self.unset(key);
        }
        let refused = changed.iter().filter_map(|(key, body)| {
            let error = self.set(key, body).err()?;
            Some(Refusal { key: short(key), reason: error.to_string() })
        });
        refused.collect()
    }
}

/// A key fit for messages.
pub(crate) fn short(key: &str) -> String {
    tame(key, 200)
}

/// The start of a foreign text without what could disturb a terminal or a log.
fn tame(text: &str, limit: usize) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(limit).map(shown).collect()
}

pub(crate) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Reason> {
    M::decode(body).map_err(Reason::new)
}

pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

pub(crate) fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, Reason> {
    text.parse().map_err(Reason::new)
}

pub(crate) fn optional<T: FromStr<Err: Display>>(text: &str) -> Result<Option<T>, Reason> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// The row must stand under the key that its content names.
pub(crate) fn same_key(key: &str, content: &str) -> Result<(), Reason> {
    if key == content {
        return Ok(());
    }
    Err(Reason::new(format!("the row is for {}", short(content))))
}

pub(crate) fn bounded<T>(what: &str, items: &[T], limit: usize) -> Result<(), Reason> {
    if items.len() <= limit {
        return Ok(());
    }
    Err(Reason::new(format!("{} {what}, at most {limit} are taken", items.len())))
}
