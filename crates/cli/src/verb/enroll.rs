//! `hansa enroll`: a token with which a gateway or DNS server gets its first certificate; and
//! `hansa forget`, its opposite.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hansa_api::{control, view};
use hansa_core::name::NodeId;
use hansa_runtime::files;
use hansa_runtime::units::HumanDuration;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::Context;
use crate::exit::{Exit, Failure};

const AFTER: &str = "\
The token works once and for this role and id alone. Put it on the server's host as the file that
`enrollToken` of its configuration names; the server reads it at its first start.

Examples:
  hansa enroll --role gateway --id gateway-1 --out /etc/hansa/gateway.token
  hansa enroll --role dns --id dns-1 --ttl 1h | ssh dns-1 'umask 077; cat > /etc/hansa/dns.token'";

/// Arguments of `hansa enroll`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct EnrollArgs {
    /// What the server is
    #[arg(long, value_enum)]
    role: Role,
    /// Its id, unique in the cluster
    #[arg(long, value_name = "ID")]
    id: NodeId,
    /// Write the token to this file, with mode 0600, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long it may be used [default: the controller's, 15m]
    #[arg(long, value_name = "TIME")]
    ttl: Option<HumanDuration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Gateway,
    Dns,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Dns => "dns",
        }
    }
}

const FORGET: &str = "\
The server must be stopped: one that is connected is refused. Its block of virtual addresses is free
for another gateway afterwards, and `hansa status` shows it no longer. Its certificate stays good until
it expires; `hansa trust deny ID` first, if somebody else may hold its key.

Example:
  hansa forget --role gateway --id gateway-2";

/// Arguments of `hansa forget`.
#[derive(Debug, Args)]
#[command(after_help = FORGET)]
pub(crate) struct ForgetArgs {
    /// What the server was
    #[arg(long, value_enum)]
    role: Role,
    /// Its id
    #[arg(long, value_name = "ID")]
    id: NodeId,
}

/// What `hansa forget` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Forgotten {
    /// `gateway` or `dns`.
    pub(crate) role: String,
    /// The id.
    pub(crate) id: String,
}

pub(crate) async fn forget(args: &ForgetArgs, context: &Context) -> Result<Exit, Failure> {
    let (role, id) = (args.role.as_str().to_owned(), args.id.to_string());
    context.client.delete(&format!("{}/{role}/{id}", control::NODES)).await?;
    let gone = Forgotten { role, id };
    context.output.value(&gone, || format!("forgot {} {}", gone.role, gone.id))?;
    Ok(Exit::Ok)
}

/// What is printed when the token went to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenFile {
    /// The file with the token.
    pub(crate) file: PathBuf,
    /// RFC 3339.
    pub(crate) expires: String,
}

pub(crate) async fn run(args: &EnrollArgs, context: &Context) -> Result<Exit, Failure> {
    let request = view::EnrollRequest {
        role: args.role.as_str().to_owned(),
        id: args.id.to_string(),
        ttl_seconds: args.ttl.map(|ttl| ttl.0.as_secs()),
    };
    let token: view::Token = context.client.post(control::ENROLL, &request).await?;
    hand_over(&token, args.out.as_deref(), context)?;
    Ok(Exit::Ok)
}

/// Prints a token, or writes it to a file that only its owner can read.
pub(super) fn hand_over(token: &view::Token, out: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let Some(path) = out else {
        context.output.say(&format!("works once, until {}; whoever holds it can use it", token.expires));
        return context.output.value(token, || token.token.clone());
    };
    files::write_atomic(path, format!("{}\n", token.token).as_bytes(), 0o600)
        .map_err(|e| Failure::file(path, e))?;
    let file = TokenFile { file: path.to_owned(), expires: token.expires.clone() };
    context.output.value(&file, || format!("{}  works once, until {}", path.display(), token.expires))
}
