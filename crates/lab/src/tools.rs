//! The hidden verbs `hansa lab serve-http|serve-udp|load|link`: the processes a lab starts beside hansa's own.
//! The command line crate parses and calls; each runs until it is stopped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::link::{self, LinkArgs};
use crate::load::{self, LoadArgs, Protocol};
use crate::serve::{self, ServeArgs};

/// One hidden verb with its arguments.
#[derive(Debug, Clone)]
pub enum Tool {
    /// `serve-http`.
    ServeHttp(ServeArgs),
    /// `serve-udp`.
    ServeUdp(ServeArgs),
    /// `load`.
    Load(Box<LoadArgs>),
    /// `link`.
    Link(LinkArgs),
}

/// Runs a tool to its end.
#[must_use]
pub fn run(tool: Tool) -> ExitCode {
    match work(tool) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hansa lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(tool: Tool) -> Result<()> {
    more_files();
    let runtime = match tool {
        Tool::Link(_) => tokio::runtime::Runtime::new(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.context("runtime")?;
    runtime.block_on(async {
        match tool {
            Tool::ServeHttp(args) => serve::http(args).await,
            Tool::ServeUdp(args) => serve::udp(args).await,
            Tool::Load(args) => load::run(*args).await,
            Tool::Link(args) => link::run(args).await,
        }
    })
}

/// As many open files as this user may have: a load whose answers are late holds one for each.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Refused: then it is as many as there were.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Reads `serve-http --listen … --member … --pod … --log …`, `serve-udp …`, `load …`, or `link --dir …`: a verb and pairs of
/// `--option value`.
///
/// # Errors
/// What is missing, unknown or cannot be read.
pub fn parse(args: &[String]) -> Result<Tool> {
    let (verb, rest) = args.split_first().context("lab: serve-http, serve-udp, load or link")?;
    let mut options = Options::read(rest)?;
    let tool = match verb.as_str() {
        "serve-http" => Tool::ServeHttp(serve_args(&mut options)?),
        "serve-udp" => Tool::ServeUdp(serve_args(&mut options)?),
        "load" => Tool::Load(Box::new(load_args(&mut options)?)),
        "link" => Tool::Link(LinkArgs { dir: options.must("dir")? }),
        other => bail!("lab: unknown verb {other:?}: serve-http, serve-udp, load or link"),
    };
    match options.0.keys().next() {
        Some(unknown) => bail!("lab {verb}: unknown option --{unknown}"),
        None => Ok(tool),
    }
}

struct Options(HashMap<String, String>);

impl Options {
    fn read(args: &[String]) -> Result<Self> {
        let mut map = HashMap::new();
        for pair in args.chunks(2) {
            let [name, value] = pair else { bail!("lab: {} has no value", pair.concat()) };
            let name = name.strip_prefix("--").with_context(|| format!("lab: {name:?} is no option"))?;
            map.insert(name.to_owned(), value.clone());
        }
        Ok(Self(map))
    }

    fn may<T: FromStr>(&mut self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|e| anyhow!("lab: --{name} {text}: {e}"))
    }

    fn must<T: FromStr>(&mut self, name: &str) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        self.may(name)?.with_context(|| format!("lab: --{name} is missing"))
    }
}

fn serve_args(options: &mut Options) -> Result<ServeArgs> {
    Ok(ServeArgs {
        listen: options.must("listen")?,
        member: options.must("member")?,
        pod: options.must("pod")?,
        log: options.must("log")?,
    })
}

fn load_args(options: &mut Options) -> Result<LoadArgs> {
    let members: String = options.may("members")?.unwrap_or_default();
    let fixed: Option<IpAddr> = options.may("fixed")?;
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
    Ok(LoadArgs {
        dns: if fixed.is_some() { options.may("dns")?.unwrap_or(nobody) } else { options.must("dns")? },
        name: options.must("name")?,
        port: options.must("port")?,
        protocol: options.may("protocol")?.unwrap_or(Protocol::Http),
        rate: options.may("rate")?.unwrap_or(500),
        duration: Duration::from_secs(options.may("duration")?.unwrap_or(0)),
        keep: Duration::from_secs(options.may("keep")?.unwrap_or(5)),
        connect_limit: Duration::from_secs(3),
        answer_limit: Duration::from_secs(options.may("answer-limit")?.unwrap_or(10)),
        members: members.split(',').filter(|m| !m.is_empty()).map(String::from).collect(),
        out: options.must("out")?,
        prefix: options.may("prefix")?.unwrap_or_else(|| "load".into()),
        seed: options.may("seed")?.unwrap_or(1),
        fixed,
    })
}
