//! The binary's manners: help, usage errors, exit codes, completions, configuration files.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{command, hansa, ran};

#[test]
fn help_teaches_and_ends_well() {
    let top = hansa(&["--help"]);
    assert_eq!((top.code, top.err.as_str()), (0, ""));
    for text in ["hansa demo up", "hansa peer join", "Exit codes", "status", "explain"] {
        assert!(top.out.contains(text), "{text}");
    }
    assert!(!top.out.contains("lab "), "hidden verbs are not shown");
    for verb in ["demo", "check", "peer invite", "config check", "dns query", "trust rotate", "gateway"] {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = hansa(&words);
        assert_eq!(help.code, 0, "{verb}");
        assert!(help.out.contains("hansa "), "{verb} has no example");
    }
}

#[test]
fn wrong_usage_exits_with_64_and_says_nothing_on_stdout() {
    let cases: [&[&str]; 9] = [
        &[],
        &["nonsense"],
        &["status", "--nonsense"],
        &["explain"],
        &["explain", "no-namespace"],
        &["enroll", "--role", "king", "--id", "a"],
        &["peer", "remove", "NOT_A_CLUSTER"],
        &["gateway"],
        &["lab", "nonsense"],
    ];
    for case in cases {
        let ran = hansa(case);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{case:?}");
        assert!(!ran.err.is_empty(), "{case:?}");
    }
}

#[test]
fn an_unreachable_controller_is_one_clear_error() {
    let text = hansa(&["status", "--socket", "/nonexistent/s"]);
    assert_eq!((text.code, text.out.as_str()), (3, ""));
    assert!(text.err.contains("HNS-7001") && text.err.contains("/nonexistent/s"), "{}", text.err);
    assert!(text.err.contains("next: "), "{}", text.err);
    assert!(!text.err.contains('\x1b'), "colours only on a terminal");
    let json = hansa(&["services", "-o", "json", "--socket", "/nonexistent/s"]);
    assert_eq!((json.code, json.out.as_str()), (3, ""));
    let error = json.error();
    assert_eq!(error["code"], "HNS-7001");
    for key in ["object", "cause", "next"] {
        assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    let env = ran(command(&["status"]).env("HANSA_SOCKET", "/nonexistent/e").output().unwrap());
    assert!(env.err.contains("/nonexistent/e"), "{}", env.err);
}

#[test]
fn a_controller_that_never_answers_meets_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ran = ran(command(&["status", "--timeout", "100ms", "--socket"]).arg(&path).output().unwrap());
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("HNS-7002"), "{}", ran.err);
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = hansa(&["completion", shell]);
        assert_eq!(script.code, 0);
        assert!(script.out.contains("explain") && script.out.contains("hansa"), "{shell}");
    }
}

#[test]
fn version_in_all_formats() {
    let own = env!("CARGO_PKG_VERSION");
    assert!(hansa(&["version"]).out.starts_with(&format!("hansa {own} (")));
    assert_eq!(hansa(&["version", "-o", "json"]).json()["version"], own);
    assert!(hansa(&["version", "-o", "yaml"]).out.contains(own));
    assert!(hansa(&["--version"]).out.contains(own));
}

#[test]
fn an_unknown_key_is_refused_with_the_one_meant() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    std::fs::write(&file, "id: g\ncluster: a\nstateDir: /x\ncontroller: []\ntunnel:\n  lisen: []\n").unwrap();
    let file = file.to_str().unwrap();
    let checked = hansa(&["config", "check", file, "-o", "json"]);
    assert_eq!(checked.code, 1, "{}", checked.err);
    let check = checked.json();
    assert_eq!((check["kind"].as_str(), check["ok"].as_bool()), (Some("gateway"), Some(false)));
    assert_eq!(check["error"]["code"], "HNS-1002");
    let cause = check["error"]["cause"].as_str().unwrap();
    assert!(cause.contains("tunnel.lisen") && cause.contains("did you mean listen?"), "{cause}");
    let server = hansa(&["gateway", "--config", file]);
    assert_eq!(server.code, 64);
    assert!(server.err.contains("did you mean listen?"), "{}", server.err);
}

#[test]
fn a_good_file_passes_for_each_server() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, text) in [
        ("gateway", "id: g\ncluster: a\nstateDir: /x\ncontroller: ['c:1']\ntunnel: {}\n"),
        ("controller", "cluster: a\nstateDir: /x\nsource: {folder: /m}\n"),
        ("dns", "id: d\ncluster: a\nstateDir: /x\nlisten: ['127.0.0.1:53']\n"),
    ] {
        let file = dir.path().join(kind);
        std::fs::write(&file, text).unwrap();
        let checked = hansa(&["config", "check", file.to_str().unwrap(), "-o", "json"]);
        assert_eq!(checked.code, 0, "{kind}: {checked:?}");
        assert_eq!(checked.json()["kind"], kind);
        let schema = hansa(&["config", "schema", kind]).json();
        assert!(schema["properties"]["stateDir"].is_object(), "{kind}");
    }
    let missing = hansa(&["config", "check", "--kind", "dns", "/nonexistent/f", "-o", "json"]);
    assert_eq!((missing.code, missing.json()["error"]["code"].as_str()), (1, Some("HNS-1001")));
}

#[test]
fn a_variable_overlays_the_file_and_a_flag_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "cluster: a\nstateDir: /proc/nowhere\nsource: {folder: /m}\n").unwrap();
    let with = |value: &str| {
        let mut command = command(&["config", "check", file.to_str().unwrap(), "-o", "json"]);
        ran(command.env("HANSA_VIP__GATEWAY_BITS", value).env("HANSA_NONSENSE", "1").output().unwrap())
    };
    assert_eq!(with("3").json()["ignored"][0], "HANSA_NONSENSE");
    let wrong = with("77");
    assert_eq!(wrong.code, 1);
    assert!(wrong.json()["error"]["cause"].as_str().unwrap().contains("vip.gatewayBits"), "{}", wrong.out);
    let mut server =
        command(&["controller", "--config", file.to_str().unwrap(), "--set", "vip.gatewayBits=99"]);
    let server = ran(server.env("HANSA_VIP__GATEWAY_BITS", "3").output().unwrap());
    assert_eq!(server.code, 64);
    assert!(server.err.contains("99"), "{}", server.err);
}

#[test]
fn one_host_may_run_one_server_of_each_kind() {
    let mut taken = std::collections::BTreeSet::new();
    for kind in ["controller", "gateway", "dns"] {
        let schema = hansa(&["config", "schema", kind]).json();
        for key in ["admin", "health"] {
            let listen = schema["properties"][key]["default"]["listen"].as_str();
            let port = listen.and_then(|listen| listen.rsplit(':').next()).map(str::to_owned);
            assert!(port.is_none_or(|port| taken.insert(port)), "{kind} {key}: {listen:?} is another's");
        }
    }
    assert_eq!(taken.len(), 5, "only a DNS server has no health address of its own");
}

#[test]
fn a_demo_that_is_not_up_says_how_to_bring_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let ran = hansa(&["demo", "status", "--dir", none.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("HNS-7015") && ran.err.contains("hansa demo up --dir"), "{}", ran.err);
    assert!(!none.exists());
}
