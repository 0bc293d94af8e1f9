//! The generated references under `docs`: command line, codes, configuration, metrics, and the JSON
//! Schemas of all answers.
//!
//! Called by the test that compares them with the committed files; it never runs in the product.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Command, CommandFactory};
use hansa_api::view;
use hansa_core::code;
use hansa_runtime::config::schema;
use serde_json::Value;

use crate::args::Cli;
use crate::exit::EXITS;
use crate::verb;

mod keys;
mod metrics;

const GENERATED: &str =
    "<!-- Generated from the code; `HANSA_BLESS=1 cargo test -p hansa-cli` writes it anew. -->\n";

/// Flags of every verb, shown with `hansa` alone.
const GLOBAL: [&str; 5] = ["socket", "timeout", "output", "no_color", "quiet"];

/// Columns of help texts in the reference.
const WIDTH: usize = 100;

/// Every generated file, by its path below `docs`.
#[must_use]
pub fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::from([
        ("cli.md".to_owned(), command_line()),
        ("codes.md".to_owned(), codes()),
        ("configuration.md".to_owned(), keys::configuration()),
        ("metrics.md".to_owned(), metrics::metrics()),
    ]);
    for (name, schema) in schemas() {
        files.insert(format!("schema/{name}.json"), format!("{schema:#}\n"));
    }
    files
}

/// The schema of what each verb prints with `-o json`, by file name.
fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("error", schema::<view::Error>()),
        ("status", schema::<view::Status>()),
        ("services", schema::<Vec<view::Service>>()),
        ("explain", schema::<view::Explain>()),
        ("check", schema::<view::Check>()),
        ("peer-list", schema::<Vec<view::Peer>>()),
        ("peer-describe", schema::<view::Peer>()),
        ("peer-join", schema::<view::Joined>()),
        ("peer-remove", schema::<verb::peer::Removed>()),
        ("peer-invite", schema::<view::Token>()),
        ("enroll", schema::<view::Token>()),
        ("token-file", schema::<verb::enroll::TokenFile>()),
        ("trust-list", schema::<Vec<view::Trust>>()),
        ("trust-show", schema::<view::Trust>()),
        ("trust-rotate", schema::<view::Trust>()),
        ("trust-deny", schema::<view::Trust>()),
        ("forget", schema::<verb::enroll::Forgotten>()),
        ("dns-query", schema::<verb::dns::DnsAnswer>()),
        ("config-check", schema::<verb::config::ConfigCheck>()),
        ("version", schema::<verb::version::Version>()),
    ]
}

fn command_line() -> String {
    let mut text = format!("# Command line\n\n{GENERATED}\n");
    text.push_str(
        "Answers go to stdout alone, everything else to stderr. `-o json` follows the schemas in\n",
    );
    text.push_str(
        "[`schema/`](schema); an error is then one JSON object on stderr: `code`, `object`, `cause`,\n",
    );
    text.push_str("`next`. Every network call ends by `--timeout`.\n\n| exit code | meaning |\n|--:|---|\n");
    for (code, meaning) in EXITS {
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    let mut root = Cli::command().term_width(WIDTH);
    root.build();
    section(&mut text, &root, "hansa");
    text
}

fn section(text: &mut String, command: &Command, path: &str) {
    // Nothing of where this ran may stand in the file.
    let mut shown = command.clone().term_width(WIDTH);
    if path.contains(' ') {
        // Said once, above.
        shown = shown.mut_args(|arg| {
            let everywhere = arg.is_global_set() && GLOBAL.contains(&arg.get_id().as_str());
            let hide = everywhere || arg.get_id() == "help" || arg.is_hide_set();
            arg.hide(hide)
        });
    }
    let help = shown.render_long_help().to_string();
    let help: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {path}\n\n```text\n{}\n```\n", help.join("\n"));
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        section(text, below, &format!("{path} {}", below.get_name()));
    }
}

fn codes() -> String {
    let mut text = format!("# Message codes\n\n{GENERATED}\n");
    text.push_str(
        "Every error and warning that a person may act on carries one. Codes are never used twice.\n",
    );
    let parts = [
        (1000, "Configuration and start"),
        (2000, "Manifests"),
        (3000, "Identity and trust"),
        (4000, "Controller and feed"),
        (5000, "Gateway and tunnel"),
        (6000, "DNS"),
        (7000, "Command line"),
    ];
    for (first, title) in parts {
        let _ = write!(text, "\n## {title}\n\n| code | what | usual cause | next |\n|---|---|---|---|\n");
        for code in code::all().into_iter().filter(|c| (first..first + 1_000).contains(&c.number)) {
            let _ = writeln!(text, "| `{code}` | {} | {} | {} |", code.title, code.cause, code.next);
        }
    }
    text
}
