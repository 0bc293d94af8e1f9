//! The register of message codes, `HNS-nnnn`.
//!
//! Every error and warning a person may act on carries one. Each part of hansa owns a range and a
//! file. Codes are never reused; `docs/codes.md` is generated from [`all`].

use std::fmt;

pub mod cli;
pub mod config;
pub mod control;
pub mod dns;
pub mod gateway;
pub mod manifest;
pub mod trust;

/// One code with its explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The number behind `HNS-`.
    pub number: u16,
    /// What happened, in a few words.
    pub title: &'static str,
    /// The usual cause.
    pub cause: &'static str,
    /// What to do or run next.
    pub next: &'static str,
}

impl Code {
    /// A code of the register.
    pub const fn new(number: u16, title: &'static str, cause: &'static str, next: &'static str) -> Self {
        Self { number, title, cause, next }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HNS-{:04}", self.number)
    }
}

/// All codes in the order of their numbers.
pub fn all() -> Vec<Code> {
    let parts = [config::ALL, manifest::ALL, trust::ALL, control::ALL, gateway::ALL, dns::ALL, cli::ALL];
    let mut codes: Vec<Code> = parts.into_iter().flatten().copied().collect();
    codes.sort_by_key(|code| code.number);
    codes
}

/// The first code that a text names, if it is one of ours: how a code crosses a border inside words.
pub fn named_in(text: &str) -> Option<Code> {
    let digits = text.split_once("HNS-")?.1.get(..4)?;
    let number: u16 = digits.parse().ok()?;
    all().into_iter().find(|code| code.number == number)
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_found_in_words() {
        assert_eq!(super::named_in("refused: HNS-3002 the clock"), Some(super::trust::CERT_NOT_VALID_NOW));
        for text in ["", "HNS-", "HNS-30", "HNS-9999", "HNS-äöü"] {
            assert_eq!(super::named_in(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_unique_and_texts_present() {
        let codes = super::all();
        for pair in codes.windows(2) {
            assert_ne!(pair[0].number, pair[1].number, "{}", pair[0]);
        }
        for code in codes {
            assert!(!code.title.is_empty() && !code.cause.is_empty() && !code.next.is_empty(), "{code}");
        }
    }
}
