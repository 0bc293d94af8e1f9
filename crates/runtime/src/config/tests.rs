//! Tests of configuration loading: precedence, refusals and their words.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::units::{ByteSize, HumanDuration};

#[derive(Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Config {
    id: String,
    tunnel: Tunnel,
    peers: Vec<Peer>,
    labels: BTreeMap<String, String>,
    backup: Option<Tunnel>,
    keep_for: HumanDuration,
    most: ByteSize,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tunnel {
    listen: Option<SocketAddr>,
    #[serde(default)]
    max_streams: u32,
    #[serde(default)]
    transport: Transport,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Transport {
    #[default]
    Auto,
    Quic,
}

#[derive(Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: "none".into(),
            tunnel: Tunnel::default(),
            peers: Vec::new(),
            labels: BTreeMap::new(),
            backup: None,
            keep_for: HumanDuration::from_secs(60),
            most: ByteSize(1),
        }
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    load(&Sources::default().text("c.yaml", text)).map(|l| l.config)
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_file_sets_what_it_names_and_an_empty_one_nothing() {
    let text = "id: a\ntunnel:\n  listen: 127.0.0.1:15443\n  maxStreams: 7\n  transport: quic\n\
                peers: [{name: x}]\nlabels: {any: thing}\nkeepFor: 1h30m\nmost: 64KiB\n";
    let config = parse(text).unwrap();
    assert_eq!(config.tunnel.max_streams, 7);
    assert_eq!(config.tunnel.transport, Transport::Quic);
    assert_eq!(config.labels["any"], "thing");
    assert_eq!((config.keep_for.to_string(), config.most.0), ("1h30m".into(), 65_536));
    for empty in ["", "# nothing\n", "{}", "\n\n"] {
        assert_eq!(parse(empty).unwrap(), Config::default(), "{empty:?}");
    }
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let sources = Sources::default()
        .text("c.yaml", "id: file\ntunnel: {maxStreams: 1}\n")
        .env([
            ("HANSA_ID", "variable"),
            ("HANSA_TUNNEL__MAX_STREAMS", "2"),
            ("HANSA_PEERS", "[{name: x}, {name: y}]"),
            ("HANSA_LABELS__ZONE", "b"),
            ("HANSA_BACKUP__LISTEN", "'[::1]:5'"),
            ("HANSA_KEEP_FOR", ""),
            ("HANSA_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("HANSA_CONFIG", "/etc/x"),
            ("PATH", "/bin"),
        ])
        .reserve(&["HANSA_CONFIG"])
        .flag("id", "flag");
    let loaded = load::<Config>(&sources).unwrap();
    let config = loaded.config;
    assert_eq!(config.id, "flag");
    assert_eq!(config.tunnel.max_streams, 2);
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.labels["zone"], "b");
    assert_eq!(config.backup.unwrap().listen, Some("[::1]:5".parse().unwrap()));
    assert_eq!(config.keep_for, HumanDuration::from_secs(60));
    assert_eq!(loaded.ignored, ["HANSA_GATEWAY_SERVICE_HOST"]);
}

#[test]
fn unknown_keys_are_refused_with_the_name_probably_meant() {
    for (text, wanted) in [
        ("id: a\ntunnel:\n  lisen: x\n", "c.yaml:3: unknown key tunnel.lisen; did you mean listen?"),
        ("Id: a\n", "c.yaml:1: unknown key Id; did you mean id?"),
        ("tunnel: {max_streams: 3}\n", "unknown key tunnel.max_streams; did you mean maxStreams?"),
        ("peers:\n- name: a\n- nam: b\n", "c.yaml:3: unknown key peers[1].nam; did you mean name?"),
        ("backup: {zzz: 1}\n", "backup.zzz; known here: listen, maxStreams, transport"),
    ] {
        let seen = refused(text);
        assert!(seen.contains(wanted), "{seen}");
    }
}

#[test]
fn bad_values_name_file_line_key_and_cause() {
    for (text, wanted) in [
        ("id: a\ntunnel:\n  maxStreams: many\n", "c.yaml:3: tunnel.maxStreams: "),
        ("keepFor: soon\n", "c.yaml:1: keepFor: \"soon\" is not a duration such as"),
        ("id: a\npeers:\n- {}\n", "missing field `name`"),
        ("tunnel:\n  transport: pigeon\n", "c.yaml:2: tunnel.transport: "),
    ] {
        let seen = refused(text);
        assert!(seen.contains(wanted), "{seen}");
        assert_eq!(seen.lines().count(), 1, "{seen}");
    }
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    for (text, wanted) in [
        ("id: a\n  b: [\n", "c.yaml:"),
        ("id: a\nid: b\n", "c.yaml:2: not valid YAML: "),
        ("id: a\n---\nid: b\n", "not valid YAML"),
        ("id: *nobody\n", "c.yaml:1: not valid YAML: "),
    ] {
        let seen = refused(text);
        assert!(seen.contains(wanted), "{seen}");
    }
}

#[test]
fn an_alias_bomb_a_deep_nest_and_a_huge_file_are_refused_fast() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let before = format!("*a{}", n - 1);
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(",")));
    }
    assert!(matches!(parse(&bomb), Err(ConfigError::Syntax { .. })));
    let deep = format!("id: {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(matches!(parse(&deep), Err(ConfigError::Syntax { .. })));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.yaml");
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let error = load::<Config>(&Sources::default().file(&path)).unwrap_err();
    assert!(error.to_string().ends_with("is larger than 1048576 bytes"), "{error}");
    assert_eq!(error.object(), path.display().to_string());
}

#[test]
fn a_missing_file_and_one_that_is_not_text_are_told() {
    let missing = load::<Config>(&Sources::default().file("/nowhere/c.yaml")).unwrap_err();
    assert!(missing.to_string().contains("cannot open /nowhere/c.yaml"), "{missing}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, b"id: a\nx: \xff\n").unwrap();
    let error = load::<Config>(&Sources::default().file(&path)).unwrap_err();
    assert!(error.to_string().contains("c.yaml:2: not valid YAML: a byte that is not"), "{error}");
}

#[test]
fn overlays_that_cannot_be_applied_name_themselves() {
    let base = || Sources::default().text("c.yaml", "id: a\n");
    let check = |sources: Sources, wanted: &str| {
        let seen = load::<Config>(&sources).unwrap_err().to_string();
        assert!(seen.contains(wanted), "{seen}");
    };
    check(base().flag("tunnel.lisen", "x"), "--set tunnel.lisen: unknown key tunnel.lisen; did you");
    check(base().env([("HANSA_ID", "[")]), "HANSA_ID: ");
    check(base().env([("HANSA_TUNNEL__MAX_STREAMS", "many")]), "c.yaml, HANSA_TUNNEL__MAX_STREAMS: ");
    // A file that is wrong by itself is told by its own line, overlay or not.
    let wrong = Sources::default().text("c.yaml", "keepFor: soon\n").flag("id", "b");
    check(wrong, "c.yaml:1: keepFor: ");
}

#[test]
fn what_the_file_lacks_may_come_from_a_variable() {
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        name: String,
        count: u32,
    }
    let file = Sources::default().text("c.yaml", "count: 2\n");
    let error = load::<Strict>(&file).unwrap_err().to_string();
    assert!(error.contains("missing field `name`"), "{error}");
    let loaded = load::<Strict>(&file.env([("HANSA_NAME", "x")])).unwrap();
    assert_eq!((loaded.config.name.as_str(), loaded.config.count), ("x", 2));
}

#[test]
fn the_schema_lists_keys_in_camel_case_and_closes_structs() {
    let schema = schema::<Config>();
    assert_eq!(schema["properties"]["keepFor"]["$ref"], "#/$defs/Duration");
    assert_eq!(schema["additionalProperties"], false);
}
