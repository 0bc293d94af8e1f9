//! From a failed handshake back to the reason a person can act on.
//!
//! Called by whoever logs a failed connection. QUIC hands out the text alone, which holds the same
//! code and words; TLS over TCP hands out the error itself.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::VerifyError;

/// The verifier's own reason within an error or its sources, if it was the verifier that refused.
pub fn reason<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a VerifyError> {
    let mut next = Some(error);
    // Errors nest a handful deep; the bound keeps a circular source from holding us here.
    for _ in 0..16 {
        let error = next?;
        if let Some(found) = error.downcast_ref::<VerifyError>() {
            return Some(found);
        }
        if let Some(Error::InvalidCertificate(CertificateError::Other(other))) = error.downcast_ref() {
            return other.0.downcast_ref::<VerifyError>();
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// One line for the log: the verifier's reason, or what an alert of the other side means.
pub fn describe(error: &Error) -> String {
    if let Some(found) = reason(error) {
        return found.to_string();
    }
    match error {
        Error::AlertReceived(alert) => describe_alert(*alert).to_owned(),
        Error::NoApplicationProtocol => "the other side speaks none of our protocols".to_owned(),
        other => other.to_string(),
    }
}

/// As [`describe`], for the text of a QUIC connection error: the message from its code on.
pub fn describe_text(text: &str) -> &str {
    match text.find("HNS-") {
        // rustls wraps the message as `Other(OtherError(..))`.
        Some(start) => text[start..].strip_suffix("))").unwrap_or(&text[start..]),
        None => text,
    }
}

fn describe_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateUnknown => {
            "the other side refused our certificate; its log says why (removed peer, role, clock)"
        }
        AlertDescription::CertificateExpired => {
            "the other side holds our certificate for expired; check the clock of both machines"
        }
        AlertDescription::CertificateRequired => "the other side asks for a certificate",
        AlertDescription::UnknownCA => "the other side does not trust our root",
        AlertDescription::NoApplicationProtocol => "the other side speaks none of our protocols",
        AlertDescription::ProtocolVersion => "the other side does not speak TLS 1.3",
        _ => "the other side ended the handshake with an alert",
    }
}
