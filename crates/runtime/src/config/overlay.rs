//! Lays variables and flags over the document's value. Used by `config` alone.

use serde_json::{Map, Value};

use super::shape::Shape;
use super::tree::Tree;
use super::{ConfigError, ENV_PREFIX, Sources};

/// What was laid over.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Variables and flags that set something.
    pub(super) names: Vec<String>,
    /// Variables that name no key.
    pub(super) ignored: Vec<String>,
}

/// Applies variables in the order of their names, shorter paths first, then flags in theirs.
pub(super) fn apply(value: &mut Value, shape: &Shape, sources: &Sources) -> Result<Applied, ConfigError> {
    let mut applied = Applied::default();
    let mut env: Vec<_> = sources.env.iter().collect();
    env.sort();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        if text.is_empty() || sources.reserved.contains(name) {
            continue;
        }
        let segments: Vec<_> = rest.split("__").collect();
        match shape.path_of(&segments) {
            None => applied.ignored.push(name.clone()),
            Some(path) => {
                put(value, &path, text).map_err(|cause| refuse(name, cause))?;
                applied.names.push(name.clone());
            }
        }
    }
    for (path, text) in &sources.flags {
        let name = format!("--set {path}");
        let keys: Vec<&str> = path.split('.').collect();
        let unknown = |hint| refuse(&name, format!("unknown key {path}{hint}"));
        shape.check_path(&keys).map_err(unknown)?;
        let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        put(value, &keys, text).map_err(|cause| refuse(&name, cause))?;
        applied.names.push(name);
    }
    Ok(applied)
}

fn refuse(name: &str, cause: String) -> ConfigError {
    ConfigError::Overlay { source_name: name.to_owned(), cause }
}

fn put(value: &mut Value, path: &[String], text: &str) -> Result<(), String> {
    let wanted = Tree::parse_value(text)?;
    let mut at = value;
    for key in path {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else {
            return Err(format!("{key} would stand below a value that has no keys"));
        };
        at = map.entry(key.clone()).or_insert(Value::Null);
    }
    *at = wanted;
    Ok(())
}
