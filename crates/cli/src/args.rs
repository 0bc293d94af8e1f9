//! The command line's shape: global flags and the tree of verbs, with help that teaches.
//!
//! Parsed once by `run`; each verb's own arguments stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hansa_runtime::units::HumanDuration;

use crate::client::Client;
use crate::output::{Format, Output};
use crate::verb;

/// Where the controller's socket is unless configured.
pub(crate) const DEFAULT_SOCKET: &str = "/var/lib/hansa/controller/controller.sock";

const ABOUT: &str = "Services of separate clusters reach each other by name";

const LONG_ABOUT: &str = "\
hansa joins clusters, clouds and machines into one service fabric. A service exported in one member \
answers in all others as NAME.NAMESPACE.svc.clusterset.local; gateways carry the connections over \
mutually authenticated QUIC. No member needs another one's network, addresses or credentials.";

const AFTER: &str = "\
Try it on this machine (three members, real processes, nothing else is touched):
  hansa demo up
  hansa demo exec rack-1 -- curl -s http://checkout.shop.svc.clusterset.local

Look at a running member, on its controller's host:
  hansa status                     who is connected, and how fresh everything is
  hansa services                   what is imported, from where, under which addresses
  hansa explain checkout.shop      where a connection would go now, and why
  hansa check checkout.shop        walk every path for real; names the first broken hop

Join two members:
  hansa peer invite --name gcp-eu --out gcp-eu.token     on the one
  hansa peer join gcp-eu.token                           on the other

Exit codes: 0 well, 1 findings, 3 unreachable, 4 timed out, 5 refused, 64 wrong usage, 70 internal.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "hansa", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The controller's control socket
    #[arg(long, global = true, value_name = "PATH", env = "HANSA_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// How long to wait for any answer, such as 10s or 1m
    #[arg(long, global = true, value_name = "TIME", default_value = "10s")]
    pub(crate) timeout: HumanDuration,
    /// How to print the answer; errors on stderr follow
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// No colours (also: NO_COLOR=1)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// No remarks on stderr, only answers and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// All verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run three members on this machine and judge every promise
    Demo(verb::demo::DemoVerb),
    /// Show the controller, gateways, DNS servers and peers
    Status(verb::status::StatusArgs),
    /// List imported services
    Services,
    /// Say where a connection to a service would go now, and why
    Explain(verb::explain::ExplainArgs),
    /// Walk every path to a service for real; name the first broken hop
    Check(verb::check::CheckArgs),
    /// Invite, join and remove peers
    #[command(subcommand)]
    Peer(verb::peer::PeerVerb),
    /// Show standard objects with their conditions
    Get(verb::get::GetArgs),
    /// Make a token with which a gateway or DNS server enrols
    Enroll(verb::enroll::EnrollArgs),
    /// Forget a gateway or DNS server that is gone for good
    Forget(verb::enroll::ForgetArgs),
    /// Show trust domains, roots and bundles; deny single servers; rotate the own root
    #[command(subcommand)]
    Trust(verb::trust::TrustVerb),
    /// Run a gateway
    Gateway(verb::server::ServerArgs),
    /// Run the controller
    Controller(verb::server::ServerArgs),
    /// Run a DNS server, or ask one
    Dns(verb::dns::DnsArgs),
    /// Print the schema of a configuration file, or check one
    #[command(subcommand)]
    Config(verb::config::ConfigVerb),
    /// Print a shell's completion script
    Completion(verb::completion::CompletionArgs),
    /// Print the version
    Version,
    /// Sample servers and load generator of the lab
    #[command(hide = true)]
    Lab(verb::lab::LabArgs),
}

/// What verbs work with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        let client = Client { socket: global.socket.clone(), timeout: global.timeout.0 };
        Self { client, output: Output::new(global.output, global.no_color, global.quiet) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
