//! A YAML document as a tree that remembers lines, so that errors found after parsing can still
//! say where. Used by `config` alone; it decides nothing about settings.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

/// Deeper documents are refused; ours have about five levels.
const MOST_DEPTH: usize = 32;
/// Nodes a document may have after aliases are expanded.
const MOST_NODES: usize = 100_000;

/// One node. Maps keep their order and the line of each key.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Null,
    Scalar(Value),
    Seq(Vec<Tree>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Tree,
}

/// A key that the schema does not have.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) hint: String,
}

/// The one set of parser options: duplicates refused, aliases and depth limited.
pub(super) fn options() -> Options {
    let mut options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MOST_DEPTH,
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_documents: 1,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = MOST_NODES;
    options.alias_limits.max_replay_stack_depth = 16;
    options.alias_limits.max_alias_expansions_per_anchor = 1_000;
    options
}

/// The parser's message on one line, without the excerpt of the document.
pub(super) fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Tree {
    /// Parses a document; an error is a line and a cause.
    pub(super) fn parse(text: &str) -> Result<Self, (u64, String)> {
        if text.trim().is_empty() {
            return Ok(Self::Null);
        }
        serde_saphyr::from_str_with_options(text, options())
            .map_err(|e| (e.location().map_or(0, |l| l.line()), plain(&e)))
    }

    /// Parses the value of a variable or flag.
    pub(super) fn parse_value(text: &str) -> Result<Value, String> {
        Self::parse(text).map(|tree| tree.to_value()).map_err(|(_, cause)| cause)
    }

    /// Whether the document holds nothing but comments.
    pub(super) fn is_empty_document(&self, text: &str) -> bool {
        let blank = |l: &str| l.trim().is_empty() || l.trim_start().starts_with('#');
        matches!(self, Self::Null) && text.lines().all(blank)
    }

    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Scalar(value) => value.clone(),
            Self::Seq(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Map(entries) => {
                let pairs = entries.iter().map(|e| (e.key.clone(), e.value.to_value()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// The path of the last key that begins at or before `line`.
    pub(super) fn key_at(&self, line: u64) -> Option<String> {
        let mut found = None;
        self.visit("", &mut |path, at| {
            if at <= line && found.as_ref().is_none_or(|(_, best)| at >= *best) {
                found = Some((path.to_owned(), at));
            }
        });
        found.map(|(path, _)| path)
    }

    fn visit(&self, path: &str, see: &mut impl FnMut(&str, u64)) {
        match self {
            Self::Null | Self::Scalar(_) => {}
            Self::Seq(items) => {
                for (n, item) in items.iter().enumerate() {
                    item.visit(&format!("{path}[{n}]"), see);
                }
            }
            Self::Map(entries) => {
                for e in entries {
                    let path = join(path, &e.key);
                    see(&path, e.line);
                    e.value.visit(&path, see);
                }
            }
        }
    }
}

/// `a` and `b` as `a.b`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::from(v)))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::from(v)))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
        // Infinity and NaN have no JSON form; their names let the typed parse refuse them.
        let value = Number::from_f64(v).map_or_else(|| Value::from(v.to_string()), Value::Number);
        Ok(Tree::Scalar(value))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::from(v)))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        Tree::deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            entries.push(Entry { key: key.value, line, value: map.next_value()? });
        }
        Ok(Tree::Map(entries))
    }
}
