//! `NAME[:port]` as people write it: `checkout.shop`, `shop/checkout`, or the full DNS name.
//!
//! Used by `explain`, `check` and `dns query`.

use std::str::FromStr;

use hansa_core::name::{NameError, ServiceName};

/// A service, and maybe one port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The service.
    pub(crate) service: ServiceName,
    /// The port; all of them without one.
    pub(crate) port: Option<u16>,
}

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WantedError {
    /// The port is no number from 1 to 65535.
    #[error("the port is a number from 1 to 65535")]
    Port,
    /// The form is unknown.
    #[error("use name.namespace, namespace/name, or name.namespace.svc.clusterset.local")]
    Form,
    /// A part of the name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => {
                let port = port.parse().ok().filter(|p| *p != 0).ok_or(WantedError::Port)?;
                (name, Some(port))
            }
            None => (text, None),
        };
        Ok(Self { service: service(name)?, port })
    }
}

/// Reads the name alone. DNS does not tell capitals from small letters.
fn service(name: &str) -> Result<ServiceName, WantedError> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if let Some((namespace, name)) = name.split_once('/') {
        return Ok(ServiceName::new(namespace, name)?);
    }
    if name.ends_with(hansa_core::name::CLUSTERSET_ZONE) {
        return Ok(ServiceName::from_fqdn(&name)?);
    }
    match name.split('.').collect::<Vec<_>>().as_slice() {
        [name, namespace] | [name, namespace, "svc"] => Ok(ServiceName::new(namespace, name)?),
        _ => Err(WantedError::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_mean_the_same() {
        for text in [
            "checkout.shop",
            "shop/checkout",
            "checkout.shop.svc",
            "checkout.shop.svc.clusterset.local",
            "Checkout.Shop.svc.clusterset.local.",
        ] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!((wanted.service.to_string().as_str(), wanted.port), ("shop/checkout", None), "{text}");
            let wanted: Wanted = format!("{text}:80").parse().unwrap();
            assert_eq!(wanted.port, Some(80), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "checkout", "a.b.c.d", "a/b/c", "checkout.shop:0", "checkout.shop:x", "-a.b"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
