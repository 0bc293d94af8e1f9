//! The configuration reference: every key of every server's schema with type, default and meaning.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::GENERATED;
use crate::verb::config::Kind;

/// Nesting that is followed; ours has three levels.
const MOST_DEPTH: usize = 8;

const INTRODUCTION: &str = "\
One strict YAML file per server; unknown keys are refused with the one probably meant. Variables
overlay the file: `HANSA_`, the key's words in capitals joined by `_`, levels joined by `__`
(`log.level` is `HANSA_LOG__LEVEL`). `--set log.level=debug` overlays both. Times are written
`250ms`, `5s`, `1h30m`; sizes `64KiB`, `25MiB`. `hansa config schema` prints the JSON Schema,
`hansa config check FILE` checks a file. Log level and access lines change at run time through the
admin endpoint.
";

pub(super) fn configuration() -> String {
    let mut text = format!("# Configuration\n\n{GENERATED}\n{INTRODUCTION}");
    for kind in Kind::ALL {
        let root = kind.schema();
        let head = "| key | type | default | meaning |\n|---|---|---|---|";
        // Writing into a String cannot fail.
        let _ = write!(text, "\n## hansa {}\n\n{head}\n", kind.as_str());
        let object = resolve(&root, &root);
        keys(&root, &object, &Place { path: "", above: &Value::Null, depth: 0, within: None }, &mut text);
    }
    text
}

/// Where in the tree of keys.
struct Place<'a> {
    path: &'a str,
    /// The default of the whole object, which holds those of its keys.
    above: &'a Value,
    depth: usize,
    /// The object around, if it may be left out.
    within: Option<&'a str>,
}

/// Writes a line for each key below an object.
fn keys(root: &Value, object: &Map<String, Value>, place: &Place<'_>, text: &mut String) {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else { return };
    let required = object.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|r| r == name));
    for (name, schema) in properties {
        let path = if place.path.is_empty() { name.clone() } else { format!("{}.{name}", place.path) };
        let found = resolve(root, schema);
        let default = place.above.get(name).or_else(|| schema.get("default")).unwrap_or(&Value::Null);
        if found.contains_key("properties") && place.depth < MOST_DEPTH {
            let within = (default.is_null() && !is_required(name)).then_some(path.as_str());
            let place = Place { path: &path, above: default, depth: place.depth + 1, within };
            keys(root, &found, &place, text);
            continue;
        }
        let shown = match default {
            _ if is_required(name) => match place.within {
                Some(object) => format!("required with `{object}`"),
                None => "**required**".to_owned(),
            },
            Value::Null => String::new(),
            value => format!("`{}`", plain(value)),
        };
        let meaning = schema.get("description").or_else(|| found.get("description")).map(plain);
        let line = [kind(root, schema), shown, meaning.unwrap_or_default()]
            .map(|cell| cell.replace('\n', " ").replace('|', "\\|"));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| `{path}` | {} |", line.join(" | "));
    }
}

/// What a schema refers to, without "or null".
fn behind<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    if let Some(to) = schema.get("$ref").and_then(Value::as_str) {
        return root.pointer(to.trim_start_matches('#'));
    }
    let alternatives = schema.get("anyOf")?.as_array()?;
    let null = |s: &&Value| s.get("type").is_some_and(|t| t == "null");
    let mut others = alternatives.iter().filter(|s| !null(s));
    others.next().filter(|_| others.next().is_none())
}

/// A schema behind all references.
fn resolve(root: &Value, schema: &Value) -> Map<String, Value> {
    let mut at = schema;
    for _ in 0..MOST_DEPTH {
        let Some(next) = behind(root, at) else { break };
        at = next;
    }
    at.as_object().cloned().unwrap_or_default()
}

/// A type in one or two words.
fn kind(root: &Value, schema: &Value) -> String {
    let text = schema.to_string();
    if text.contains("#/$defs/Duration\"") {
        return "time".to_owned();
    }
    if text.contains("#/$defs/ByteSize\"") {
        return "size".to_owned();
    }
    let found = resolve(root, schema);
    let consts = found.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let consts: Vec<&Value> = consts.filter_map(|one| one.get("const")).collect();
    let values = found.get("enum").and_then(Value::as_array).into_iter().flatten().chain(consts);
    let values: Vec<String> = values.map(|v| format!("`{}`", plain(v))).collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    let kind = match found.get("type") {
        Some(Value::Array(all)) => all.iter().map(plain).find(|t| t != "null").unwrap_or_default(),
        Some(one) => plain(one),
        None => String::new(),
    };
    match kind.as_str() {
        "array" => match found.get("items") {
            Some(items) => format!("list of {}", self::kind(root, items)),
            None => "list".to_owned(),
        },
        "" => "any".to_owned(),
        other => other.to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
