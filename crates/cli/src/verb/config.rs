//! `hansa config schema KIND` and `hansa config check FILE`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use hansa_api::view;
use hansa_core::code::config::{CONFIG_INVALID, CONFIG_UNREADABLE};
use hansa_runtime::config::{self, ConfigError, Loaded, Sources};
use hansa_runtime::files;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Context;
use crate::exit::{Exit, Failure};

const SCHEMA: &str = "\
Editors with a YAML language server check against it as you type.

Example:
  hansa config schema gateway > gateway.schema.json";

const CHECK: &str = "\
Says whether a server would start with the file, with HANSA_* variables laid over it as the server
would. Exits with 1 if not.

Examples:
  hansa config check gateway.yaml
  hansa config check --kind dns /etc/hansa/config.yaml";

/// The verbs on configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print the JSON Schema of a server's configuration
    #[command(after_help = SCHEMA)]
    Schema {
        /// Whose
        #[arg(value_enum)]
        kind: Kind,
    },
    /// Check a configuration file
    #[command(after_help = CHECK)]
    Check {
        /// The file
        file: PathBuf,
        /// Whose configuration it is [default: told by its keys]
        #[arg(long, value_enum)]
        kind: Option<Kind>,
    },
}

/// The servers that have a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The gateway.
    Gateway,
    /// The controller.
    Controller,
    /// The DNS server.
    Dns,
}

impl Kind {
    /// All of them, in the order of the reference.
    pub(crate) const ALL: [Self; 3] = [Self::Controller, Self::Gateway, Self::Dns];

    /// Its name on the command line.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Controller => "controller",
            Self::Dns => "dns",
        }
    }

    /// The JSON Schema of its configuration.
    #[must_use]
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Gateway => config::schema::<hansa_gateway::config::Config>(),
            Self::Controller => config::schema::<hansa_controller::config::Config>(),
            Self::Dns => config::schema::<hansa_dns::config::Config>(),
        }
    }
}

/// What a check of a file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigCheck {
    /// The file.
    pub(crate) file: PathBuf,
    /// `gateway`, `controller` or `dns`.
    pub(crate) kind: String,
    /// A server would start with it.
    pub(crate) ok: bool,
    /// What is wrong.
    pub(crate) error: Option<view::Error>,
    /// `HANSA_*` variables that name no key.
    pub(crate) ignored: Vec<String>,
}

pub(crate) fn run(verb: &ConfigVerb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        ConfigVerb::Schema { kind } => {
            let schema = kind.schema();
            context.output.value(&schema, || format!("{schema:#}"))?;
            Ok(Exit::Ok)
        }
        ConfigVerb::Check { file, kind } => {
            let kind = kind.map_or_else(|| guess(file), Ok)?;
            let check = check(file, kind)?;
            context.output.value(&check, || render(&check))?;
            Ok(if check.ok { Exit::Ok } else { Exit::Findings })
        }
    }
}

/// Which server a file is for, by a key that only that server has.
fn guess(file: &Path) -> Result<Kind, Failure> {
    let bytes = files::read_limited(file, config::MOST_BYTES).map_err(|e| unreadable(file, &e))?;
    let text = String::from_utf8_lossy(&bytes);
    let tops = |key: &str| text.lines().any(|l| l.strip_prefix(key).is_some_and(|r| r.starts_with(':')));
    let any = |keys: &[&str]| keys.iter().any(|key| tops(key));
    if any(&["source", "ca", "failover"]) {
        Ok(Kind::Controller)
    } else if any(&["tunnel", "relay", "limits"]) {
        Ok(Kind::Gateway)
    } else if any(&["forward", "listen", "tcp"]) {
        Ok(Kind::Dns)
    } else {
        let cause = "its keys do not tell which server it is for; say --kind gateway, controller or dns";
        Err(Failure::usage(file.display().to_string(), cause))
    }
}

fn check(file: &Path, kind: Kind) -> Result<ConfigCheck, Failure> {
    let sources = sources(file, kind);
    let (error, ignored) = match kind {
        Kind::Gateway => tried::<hansa_gateway::config::Config>(load(&sources)),
        Kind::Controller => tried(load_controller(&sources)),
        Kind::Dns => tried(load_dns(&sources)),
    };
    let kind = kind.as_str().to_owned();
    Ok(ConfigCheck { file: file.to_owned(), kind, ok: error.is_none(), error, ignored })
}

fn tried<T>(loaded: Result<Loaded<T>, Failure>) -> (Option<view::Error>, Vec<String>) {
    match loaded {
        Ok(loaded) => (None, loaded.ignored),
        Err(failure) => (Some(*failure.error), Vec::new()),
    }
}

fn render(check: &ConfigCheck) -> String {
    let (file, kind) = (check.file.display(), &check.kind);
    let mut text = match &check.error {
        None => format!("{file}: a {kind} would start with it"),
        Some(error) => format!("{file}: refused for a {kind}\n{} {}", error.code, error.cause),
    };
    for name in &check.ignored {
        text.push_str(&format!("\n{name} names no key and is ignored"));
    }
    text
}

/// Where a server's configuration comes from: the file, then `HANSA_*`.
pub(super) fn sources(file: &Path, kind: Kind) -> Sources {
    let reserved: &[&str] = match kind {
        // For the controller HANSA_SOCKET is its own key `socket`: where verbs find it too.
        Kind::Controller => &["HANSA_CONFIG"],
        Kind::Gateway | Kind::Dns => &["HANSA_CONFIG", "HANSA_SOCKET"],
    };
    Sources::default().file(file).process_env().reserve(reserved)
}

/// Loads a configuration; a refusal is wrong usage.
pub(super) fn load<T: DeserializeOwned + JsonSchema>(sources: &Sources) -> Result<Loaded<T>, Failure> {
    config::load(sources).map_err(|e| {
        let code = if matches!(e, ConfigError::File(_)) { CONFIG_UNREADABLE } else { CONFIG_INVALID };
        Failure::new(Exit::Usage, code, e.object(), e.to_string())
    })
}

/// The controller's, checked as a whole.
pub(super) fn load_controller(
    sources: &Sources,
) -> Result<Loaded<hansa_controller::config::Config>, Failure> {
    let loaded = load::<hansa_controller::config::Config>(sources)?;
    let whole = loaded.config.check();
    whole.map_err(|e| Failure::new(Exit::Usage, CONFIG_INVALID, e.key, e.to_string()))?;
    Ok(loaded)
}

/// The DNS server's, checked as a whole.
pub(super) fn load_dns(sources: &Sources) -> Result<Loaded<hansa_dns::config::Config>, Failure> {
    let loaded = load::<hansa_dns::config::Config>(sources)?;
    let whole = loaded.config.check();
    whole.map_err(|e| Failure::new(Exit::Usage, CONFIG_INVALID, e.key, e.to_string()))?;
    Ok(loaded)
}

fn unreadable(file: &Path, error: &files::FileError) -> Failure {
    Failure::new(Exit::Usage, CONFIG_UNREADABLE, file.display().to_string(), error.to_string())
}
