//! The lab as a program of its own: `labtool lab …` are the hidden verbs, `labtool demo …` the demo against a
//! given binary. Used by `tests/parts.rs` and while working on the lab; the product's binary calls the same.

use std::process::ExitCode;

use hansa_lab::demo::{DemoArgs, DemoCommand};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((verb, rest)) if verb == "lab" => hansa_lab::tools::parse(rest).map(hansa_lab::tools::run),
        Some((verb, rest)) if verb == "demo" => demo(rest).and_then(|args| Ok(hansa_lab::demo::run(&args)?)),
        _ => Err(anyhow::anyhow!("labtool lab|demo …")),
    };
    result.unwrap_or_else(|e| {
        eprintln!("labtool: {e:#}");
        ExitCode::from(64)
    })
}

fn demo(words: &[String]) -> anyhow::Result<DemoArgs> {
    let mut args = DemoArgs::default();
    let mut words = words.iter();
    let wrong = |e: String| anyhow::anyhow!(e);
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(|| anyhow::anyhow!("{word} needs a value"));
        match word.as_str() {
            "--dir" => args.dir = Some(value()?.into()),
            "--hansa" => args.hansa = Some(value()?.into()),
            "--net" => args.net = Some(value()?.parse().map_err(wrong)?),
            "--only" => args.only = value()?.split(',').map(String::from).collect(),
            "--sabotage" => args.sabotage.push(value()?.parse().map_err(wrong)?),
            "--open-links" => args.links = hansa_lab::Links::OPEN,
            "--keep" => args.keep = true,
            "up" => args.command = DemoCommand::Up,
            "down" => args.command = DemoCommand::Down,
            "status" => args.command = DemoCommand::Status,
            "break" => args.command = DemoCommand::Break(value()?),
            "heal" => args.command = DemoCommand::Heal(value()?),
            "exec" => {
                let member = value()?;
                let command = words.by_ref().filter(|w| *w != "--").map(Into::into).collect();
                args.command = DemoCommand::Exec { member, command };
            }
            other => anyhow::bail!("unknown word {other:?}"),
        }
    }
    Ok(args)
}
