//! What a JSON Schema says about keys: which exist where, and which one a wrong key probably
//! means. Used by `config` alone; values are judged by the typed parse, not here.

use serde_json::{Map, Value};

use super::tree::{Tree, Unknown, join};

/// Nesting of `$ref`, `anyOf` and the like that is followed; a schema of ours has two or three.
const MOST_HOPS: usize = 16;

/// A root schema.
#[derive(Debug)]
pub(super) struct Shape {
    root: Value,
}

/// What may stand below a path.
#[derive(Debug, Default)]
struct Keys<'a> {
    named: Vec<(&'a str, &'a Value)>,
    /// Schema of keys that are not named, as in a map from name to address.
    rest: Option<&'a Value>,
    /// Whether some alternative takes keys that are not described at all.
    open: bool,
}

impl Shape {
    pub(super) fn of(root: Value) -> Self {
        Self { root }
    }

    /// The first key of the document that no setting has.
    pub(super) fn unknown_key(&self, tree: &Tree) -> Option<Unknown> {
        self.check(tree, &[&self.root], "")
    }

    /// Finds the path of a variable: segments in any case, underscores ignored. `None` when no
    /// setting has that name.
    pub(super) fn path_of(&self, segments: &[&str]) -> Option<Vec<String>> {
        let mut at: Vec<&Value> = vec![&self.root];
        let mut path = Vec::new();
        for segment in segments {
            let keys = self.keys(&at);
            let plain = |s: &str| s.replace(['_', '-'], "").to_lowercase();
            let wanted = plain(segment);
            let (key, next) = match keys.named.iter().find(|(name, _)| plain(name) == wanted) {
                Some((name, _)) => ((*name).to_owned(), keys.below(name)),
                None => (segment.to_lowercase(), vec![keys.rest?]),
            };
            path.push(key);
            at = next;
        }
        Some(path)
    }

    /// Checks a dotted path of a flag; an error is the hint.
    pub(super) fn check_path(&self, path: &[&str]) -> Result<(), String> {
        let mut at: Vec<&Value> = vec![&self.root];
        for key in path {
            let keys = self.keys(&at);
            if keys.accepts(key) {
                at = keys.below(key);
            } else {
                return Err(keys.hint(key));
            }
        }
        Ok(())
    }

    fn check(&self, tree: &Tree, at: &[&Value], path: &str) -> Option<Unknown> {
        match tree {
            Tree::Null | Tree::Scalar(_) => None,
            Tree::Seq(items) => {
                let at = self.items(at);
                let check = |(n, item)| self.check(item, &at, &format!("{path}[{n}]"));
                items.iter().enumerate().find_map(check)
            }
            Tree::Map(entries) => {
                let keys = self.keys(at);
                entries.iter().find_map(|e| {
                    let path = join(path, &e.key);
                    if !keys.accepts(&e.key) {
                        let hint = keys.hint(&e.key);
                        return Some(Unknown { key: path, line: e.line, hint });
                    }
                    self.check(&e.value, &keys.below(&e.key), &path)
                })
            }
        }
    }

    /// All plain schemas behind references and alternatives.
    fn plain<'a>(&'a self, at: &[&'a Value]) -> Vec<&'a Map<String, Value>> {
        let mut found = Vec::new();
        let mut open: Vec<(&Value, usize)> = at.iter().map(|s| (*s, 0)).collect();
        while let Some((schema, hops)) = open.pop() {
            let Some(object) = schema.as_object() else { continue };
            if hops > MOST_HOPS {
                continue;
            }
            if let Some(to) = object.get("$ref").and_then(Value::as_str) {
                open.extend(self.root.pointer(to.trim_start_matches('#')).map(|s| (s, hops + 1)));
            }
            for alternatives in ["anyOf", "oneOf", "allOf"] {
                let inner = object.get(alternatives).and_then(Value::as_array);
                open.extend(inner.into_iter().flatten().map(|s| (s, hops + 1)));
            }
            found.push(object);
        }
        found
    }

    fn keys<'a>(&'a self, at: &[&'a Value]) -> Keys<'a> {
        let mut keys = Keys::default();
        let mut described = false;
        for object in self.plain(at) {
            let properties = object.get("properties").and_then(Value::as_object);
            keys.named.extend(properties.into_iter().flatten().map(|(k, v)| (k.as_str(), v)));
            described |= properties.is_some();
            match object.get("additionalProperties") {
                Some(Value::Bool(false)) => described = true,
                Some(rest @ Value::Object(_)) => keys.rest = Some(rest),
                Some(_) => keys.open = true,
                None => {}
            }
        }
        keys.open |= !described && keys.rest.is_none();
        keys
    }

    fn items<'a>(&'a self, at: &[&'a Value]) -> Vec<&'a Value> {
        self.plain(at).into_iter().filter_map(|object| object.get("items")).collect()
    }
}

impl<'a> Keys<'a> {
    fn accepts(&self, key: &str) -> bool {
        self.open || self.rest.is_some() || self.named.iter().any(|(name, _)| *name == key)
    }

    fn below(&self, key: &str) -> Vec<&'a Value> {
        let named = self.named.iter().filter(|(name, _)| *name == key).map(|(_, schema)| *schema);
        let found: Vec<_> = named.collect();
        if found.is_empty() { self.rest.into_iter().collect() } else { found }
    }

    /// `; did you mean x?`, or the keys there are when they are few.
    fn hint(&self, key: &str) -> String {
        let distance = |name: &str| strsim::damerau_levenshtein(&key.to_lowercase(), &name.to_lowercase());
        let nearest = self.named.iter().map(|(name, _)| (distance(name), *name)).min();
        match nearest {
            // A third of the letters may be wrong: `lisen` is listen, `port` is not path.
            Some((wrong, name)) if wrong * 3 <= name.len().max(3) => format!("; did you mean {name}?"),
            Some(_) if self.named.len() <= 12 => {
                let mut names: Vec<_> = self.named.iter().map(|(name, _)| *name).collect();
                names.sort_unstable();
                names.dedup();
                format!("; known here: {}", names.join(", "))
            }
            _ => String::new(),
        }
    }
}
