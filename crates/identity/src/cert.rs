//! What is read out of a certificate: id, life, serial, fingerprint, and the X.509-SVID leaf rules.
//!
//! Called by `verify`, `store`, `bundle` and by servers after a handshake. Never decides whether a
//! chain is trusted; that is `verify`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use hansa_core::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Greatest size of one certificate in bytes. A P-256 SVID has about 600.
pub const MAX_CERT: usize = 8 * 1024;

/// SHA-256 over the DER of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate's DER.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = NotHex;
    fn from_str(text: &str) -> Result<Self, NotHex> {
        unhex(text)?.try_into().map(Self).map_err(|_| NotHex)
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not hexadecimal, or of the wrong length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a hexadecimal value of the right length")]
pub struct NotHex;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, NotHex> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 1024 {
        return Err(NotHex);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    digits.chunks_exact(2).map(|two| pair(two).ok_or(NotHex)).collect()
}

/// Why a certificate is not an X.509-SVID leaf (SPIFFE X509-SVID 4 and 5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The peer sent no certificate at all.
    #[error("no certificate was presented")]
    Missing,
    /// The DER or one of its extensions cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(&'static str),
    /// Not exactly one URI in the subject alternative names.
    #[error("the certificate has {0} URI names, a SPIFFE certificate has exactly one")]
    UriNames(usize),
    /// The URI is no SPIFFE id.
    #[error(transparent)]
    Id(#[from] SpiffeError),
    /// A certificate authority, or one that may sign, was presented as a leaf.
    #[error("a certificate authority was presented as a leaf")]
    IsCa,
    /// Key usage is missing, not critical, or does not allow signatures.
    #[error("key usage must be critical and allow digital signatures")]
    KeyUsage,
}

/// What hansa reads from a leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The one SPIFFE id.
    pub id: SpiffeId,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// Serial number, big endian, without leading zeros.
    pub serial: Vec<u8>,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
}

impl Leaf {
    /// Reads a leaf and checks the SVID rules that need no trust anchor.
    pub fn parse(der: &[u8]) -> Result<Self, LeafError> {
        let x509 = read(der)?;
        check_leaf_extensions(&x509)?;
        let names = x509.subject_alternative_name().map_err(|_| malformed("subject alternative name"))?;
        let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
        let id = one_uri(names)?.parse()?;
        Ok(Self {
            id,
            not_before: time_of(x509.validity().not_before.timestamp()),
            not_after: time_of(x509.validity().not_after.timestamp()),
            serial: serial_of(&x509),
            fingerprint: Fingerprint::of(der),
        })
    }

    /// The trust domain of the id.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }
}

/// The id in the first certificate of a chain, as after a handshake.
pub fn peer_id(certs: &[CertificateDer<'_>]) -> Result<SpiffeId, LeafError> {
    peer_leaf(certs).map(|leaf| leaf.id)
}

/// The first certificate of a chain, as after a handshake.
pub fn peer_leaf(certs: &[CertificateDer<'_>]) -> Result<Leaf, LeafError> {
    Leaf::parse(certs.first().ok_or(LeafError::Missing)?)
}

fn malformed(what: &'static str) -> LeafError {
    LeafError::Malformed(what)
}

pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    if der.len() > MAX_CERT {
        return Err(malformed("larger than 8 KiB"));
    }
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], x509)) => Ok(x509),
        Ok(_) => Err(malformed("bytes after the end")),
        Err(_) => Err(malformed("not a DER certificate")),
    }
}

fn check_leaf_extensions(x509: &X509Certificate<'_>) -> Result<(), LeafError> {
    x509.extensions_map().map_err(|_| malformed("duplicate extension"))?;
    // `basic_constraints` answers "none" for an extension that cannot be read, so that is asked first.
    if x509.iter_extensions().any(|ext| ext.parsed_extension().error().is_some()) {
        return Err(malformed("extension"));
    }
    if x509.is_ca() {
        return Err(LeafError::IsCa);
    }
    let usage = x509.key_usage().map_err(|_| malformed("key usage"))?.ok_or(LeafError::KeyUsage)?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(LeafError::IsCa);
    }
    if !usage.critical || !usage.value.digital_signature() {
        return Err(LeafError::KeyUsage);
    }
    Ok(())
}

/// The only URI among the names; a name that cannot be read refuses the certificate.
pub(crate) fn one_uri<'a>(names: &[GeneralName<'a>]) -> Result<&'a str, LeafError> {
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(malformed("subject alternative name")),
            _ => {}
        }
    }
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(LeafError::UriNames(uris.len())),
    }
}

pub(crate) fn serial_of(x509: &X509Certificate<'_>) -> Vec<u8> {
    let raw = x509.raw_serial();
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].to_vec()
}

pub(crate) fn time_of(unix: i64) -> SystemTime {
    let distance = Duration::from_secs(unix.unsigned_abs());
    let time = if unix < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// Seconds since the Unix epoch; times before it count as 0.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
