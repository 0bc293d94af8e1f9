//! Configuration: one strict YAML file per process into one typed struct, overlaid by `HANSA_*`
//! variables, overlaid by flags. Unknown keys are refused with the name probably meant, and each
//! error names the file, the line, the key and the cause.
//!
//! Called by each server's `main` and by `config check|schema`. It reads one file and the
//! variables it is handed, and holds no setting of its own.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::files::{self, FileError};

mod overlay;
mod shape;
mod tree;

use shape::Shape;
use tree::Tree;

/// Larger files are refused before they are parsed. A real one has a few kilobytes.
pub const MOST_BYTES: u64 = 1 << 20;

/// The prefix of variables that overlay the file.
pub const ENV_PREFIX: &str = "HANSA_";

/// Where a configuration comes from. Later sources win: file, variables, flags.
///
/// A variable names a key by its path: `HANSA_`, then the keys in capitals with `_` between the
/// words, joined by `__`. `tunnel.maxStreams` is `HANSA_TUNNEL__MAX_STREAMS`. Values are YAML:
/// `5m`, `[a, b]`, `{x: 1}`. An empty value counts as not set. A variable that names no key is
/// not refused, because Kubernetes puts variables of every service into a pod; it is listed in
/// [`Loaded::ignored`].
///
/// ```
/// # use hansa_runtime::config::{self, Sources};
/// #[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
/// #[serde(rename_all = "camelCase", deny_unknown_fields)]
/// struct Config { max_streams: u32, name: String }
///
/// let sources = Sources::default()
///     .text("gateway.yaml", "maxStreams: 10\nname: a\n")
///     .env([("HANSA_MAX_STREAMS", "20")])
///     .flag("name", "b");
/// let loaded = config::load::<Config>(&sources).unwrap();
/// assert_eq!((loaded.config.max_streams, loaded.config.name.as_str()), (20, "b"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<Origin>,
    env: Vec<(String, String)>,
    reserved: Vec<String>,
    flags: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Text(String, String),
}

/// A configuration that was accepted.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The typed configuration.
    pub config: T,
    /// Variables with our prefix that name no key, for one warning at start.
    pub ignored: Vec<String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read, or is larger than [`MOST_BYTES`].
    #[error("configuration: {0}")]
    File(#[from] FileError),
    /// The file is no acceptable YAML: syntax, duplicate keys, alias bombs, not UTF-8.
    #[error("{file}:{line}: not valid YAML: {cause}")]
    Syntax {
        /// The file as given.
        file: String,
        /// Line, from 1; 0 where the parser does not know.
        line: u64,
        /// What the parser says.
        cause: String,
    },
    /// A key that no setting has.
    #[error("{file}:{line}: unknown key {key}{hint}")]
    UnknownKey {
        /// The file as given.
        file: String,
        /// Line, from 1.
        line: u64,
        /// The key's path, as in `tunnel.lisen`.
        key: String,
        /// Empty, or `; did you mean listen?`, or the keys there are.
        hint: String,
    },
    /// A value that its setting does not accept, or a setting that is missing.
    #[error("{file}:{line}: {key}: {cause}")]
    Value {
        /// The file as given.
        file: String,
        /// Line, from 1.
        line: u64,
        /// The key's path; `configuration` where the parser does not tell.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// A variable or flag that cannot be applied.
    #[error("{source_name}: {cause}")]
    Overlay {
        /// `HANSA_X` or `--set x`.
        source_name: String,
        /// What is wrong.
        cause: String,
    },
    /// File, variables and flags are fine one by one, and together they are not.
    #[error("configuration from {sources}: {cause}")]
    Whole {
        /// What was put together.
        sources: String,
        /// What is wrong.
        cause: String,
    },
}

impl ConfigError {
    /// The object the error is about: a file, a variable or a flag.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::File(FileError::Io { path, .. } | FileError::TooLarge { path, .. })
            | Self::File(FileError::Exposed { path, .. }) => path.display().to_string(),
            Self::Syntax { file, line, .. }
            | Self::UnknownKey { file, line, .. }
            | Self::Value { file, line, .. } => format!("{file}:{line}"),
            Self::Overlay { source_name, .. } => source_name.clone(),
            Self::Whole { sources, .. } => sources.clone(),
        }
    }
}

impl Sources {
    /// Reads this file. Without a file the struct's defaults are the base.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(Origin::File(path.into()));
        self
    }

    /// Takes `text` as the file's content; `name` stands in errors.
    #[must_use]
    pub fn text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.file = Some(Origin::Text(name.into(), text.into()));
        self
    }

    /// Overlays these variables; names without [`ENV_PREFIX`] are skipped.
    #[must_use]
    pub fn env<K: Into<String>, V: Into<String>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env.extend(vars.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// Overlays the variables of this process; those that are not UTF-8 are skipped.
    #[must_use]
    pub fn process_env(self) -> Self {
        self.env(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// Variables with our prefix that belong to something else (`HANSA_CONFIG`), so that they
    /// are neither applied nor listed as ignored.
    #[must_use]
    pub fn reserve(mut self, names: &[&str]) -> Self {
        self.reserved.extend(names.iter().map(|n| (*n).to_owned()));
        self
    }

    /// Overlays one key, by its dotted path, with a YAML value: `("tunnel.listen", "[::]:1")`.
    #[must_use]
    pub fn flag(mut self, path: impl Into<String>, value: impl Into<String>) -> Self {
        self.flags.push((path.into(), value.into()));
        self
    }

    fn read(&self) -> Result<(String, String), ConfigError> {
        match &self.file {
            None => Ok(("defaults".to_owned(), String::new())),
            Some(Origin::Text(name, text)) => {
                if text.len() as u64 > MOST_BYTES {
                    let path = PathBuf::from(name);
                    return Err(FileError::TooLarge { path, limit: MOST_BYTES }.into());
                }
                Ok((name.clone(), text.clone()))
            }
            Some(Origin::File(path)) => {
                let bytes = files::read_limited(path, MOST_BYTES)?;
                Ok((path.display().to_string(), utf8(path, bytes)?))
            }
        }
    }
}

/// Loads a configuration.
///
/// # Errors
/// [`ConfigError`], for the first thing that is wrong.
pub fn load<T: DeserializeOwned + JsonSchema>(sources: &Sources) -> Result<Loaded<T>, ConfigError> {
    let (file, text) = sources.read()?;
    let shape = Shape::of(schema::<T>());
    let tree = Tree::parse(&text).map_err(|(line, cause)| ConfigError::Syntax {
        file: file.clone(),
        line,
        cause,
    })?;
    if let Some(unknown) = shape.unknown_key(&tree) {
        let tree::Unknown { key, line, hint } = unknown;
        return Err(ConfigError::UnknownKey { file, line, key, hint });
    }
    let mut value = tree.to_value();
    let applied = overlay::apply(&mut value, &shape, sources)?;
    match typed::<T>(&text, &tree) {
        Ok(config) if applied.names.is_empty() => {
            return Ok(Loaded { config, ignored: applied.ignored });
        }
        // With overlays, what the file lacks may come from elsewhere; the whole decides.
        Err(e) if applied.names.is_empty() || !e.missing => {
            return Err(ConfigError::Value { file, line: e.line, key: e.key, cause: e.cause });
        }
        _ => {}
    }
    let whole = |cause: String| {
        let sources = format!("{file}, {}", applied.names.join(", "));
        ConfigError::Whole { sources, cause }
    };
    // Through YAML again, so that one set of rules reads values wherever they come from.
    let text = serde_saphyr::to_string(&value).map_err(|e| whole(e.to_string()))?;
    let config = typed::<T>(&text, &Tree::Null).map_err(|e| whole(e.cause))?;
    Ok(Loaded { config, ignored: applied.ignored })
}

/// The JSON Schema of a configuration, as `config schema` prints it.
#[must_use]
pub fn schema<T: JsonSchema>() -> Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

/// An error of the typed parse.
struct Refused {
    line: u64,
    key: String,
    cause: String,
    missing: bool,
}

fn typed<T: DeserializeOwned>(text: &str, tree: &Tree) -> Result<T, Refused> {
    // An empty file means "all defaults", which is the empty map.
    let text = if matches!(tree, Tree::Null) && text.trim().is_empty() { "{}" } else { text };
    let text = if tree.is_empty_document(text) { "{}" } else { text };
    serde_saphyr::from_str_with_options(text, tree::options()).map_err(|e| {
        let line = e.location().map_or(0, |l| l.line());
        let cause = tree::plain(&e);
        let missing = cause.contains("missing field");
        let key = tree.key_at(line).unwrap_or_else(|| "configuration".to_owned());
        Refused { line, key, cause, missing }
    })
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count() as u64;
        let cause = "a byte that is not UTF-8".to_owned();
        ConfigError::Syntax { file: path.display().to_string(), line, cause }
    })
}

#[cfg(test)]
mod tests;
