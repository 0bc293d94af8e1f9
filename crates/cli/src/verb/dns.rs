//! `hansa dns query NAME [TYPE]`: one question to a mesh DNS server, over the network as any client.
//! Without `query`, `hansa dns` is the server (see `server`).

use std::net::SocketAddr;
use std::time::Instant;

use clap::{Args, Subcommand};
use hansa_api::{control, view};
use hansa_core::code::cli;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};
use schemars::JsonSchema;
use serde::Serialize;

use super::server::ServerArgs;
use crate::args::Context;
use crate::dial::{self, DialError};
use crate::exit::{Exit, Failure};
use crate::table::{Table, Tone};
use crate::target::Wanted;

const QUERY: &str = "\
Exits with 1 when the name does not exist or the server refuses.

Examples:
  hansa dns query checkout.shop
  hansa dns query checkout.shop.svc.clusterset.local AAAA
  hansa dns query _http._tcp.checkout.shop.svc.clusterset.local SRV --server 10.0.0.53:53";

/// Arguments of `hansa dns`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct DnsArgs {
    /// The server's.
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Or a question.
    #[command(subcommand)]
    pub(crate) query: Option<DnsVerb>,
}

/// Verbs below `dns`.
#[derive(Debug, Subcommand)]
pub(crate) enum DnsVerb {
    /// Ask a DNS server of this cluster
    #[command(after_help = QUERY)]
    Query(QueryArgs),
}

/// Arguments of `hansa dns query`.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// checkout.shop, shop/checkout, or any DNS name
    name: String,
    /// The record type
    #[arg(default_value = "A", value_name = "TYPE")]
    kind: String,
    /// The server [default: the first of this cluster, by its controller]
    #[arg(long, value_name = "ADDRESS:PORT")]
    server: Option<SocketAddr>,
}

/// What a DNS server answered.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DnsAnswer {
    /// Who was asked.
    pub(crate) server: String,
    /// The name asked for.
    pub(crate) name: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `NOERROR`, `NXDOMAIN`, …
    pub(crate) rcode: String,
    /// Why there is no answer, if the server says so (RFC 8914).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// It answers for the zone itself.
    pub(crate) authoritative: bool,
    /// The answer was too large for UDP and came over TCP.
    pub(crate) over_tcp: bool,
    /// Records of the answer.
    pub(crate) answers: Vec<DnsRecord>,
    /// Records that say who is responsible.
    pub(crate) authority: Vec<DnsRecord>,
    /// Time it took.
    pub(crate) seconds: f64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DnsRecord {
    /// Its name.
    pub(crate) name: String,
    /// Seconds for which it may be kept.
    pub(crate) ttl: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its content, as in a zone file.
    pub(crate) data: String,
}

pub(crate) async fn query(args: QueryArgs, context: &Context) -> Result<Exit, Failure> {
    let kind = args.kind.to_ascii_uppercase();
    let wrong = |_| Failure::usage(args.kind.clone(), "no DNS record type; try A, AAAA, SRV, TXT or PTR");
    let record_type: RecordType = kind.parse().map_err(wrong)?;
    // A short name means a service; whatever else has dots is asked for as it is.
    let name = match args.name.parse::<Wanted>() {
        Ok(wanted) => wanted.service.fqdn(),
        Err(_) => args.name.clone(),
    };
    let server = match args.server {
        Some(server) => server,
        None => servers(context).await?.first().copied().ok_or_else(none)?,
    };
    let began = Instant::now();
    let answer = dial::dns(server, &name, record_type, context.client.timeout).await;
    let answer = answer.map_err(|e| silent(server, &e))?;
    let message = &answer.message;
    let value = DnsAnswer {
        server: server.to_string(),
        name,
        kind,
        rcode: rcode(message.metadata.response_code),
        why: answer.why(),
        authoritative: message.metadata.authoritative,
        over_tcp: answer.over_tcp,
        answers: message.answers.iter().map(record).collect(),
        authority: message.authorities.iter().map(record).collect(),
        seconds: began.elapsed().as_secs_f64(),
    };
    context.output.value(&value, || render(&value, context.output.color))?;
    let good = message.metadata.response_code == ResponseCode::NoError;
    Ok(if good { Exit::Ok } else { Exit::Findings })
}

/// The addresses of this cluster's DNS servers.
pub(super) async fn servers(context: &Context) -> Result<Vec<SocketAddr>, Failure> {
    let endpoints: view::Endpoints = context.client.get(control::ENDPOINTS, &[]).await?;
    let parsed = endpoints.dns.iter().filter_map(|text| text.parse().ok());
    Ok(parsed.map(dial::reachable).collect())
}

pub(super) fn none() -> Failure {
    let cause = "no DNS server of this cluster is connected; name one with --server";
    Failure::new(Exit::Unreachable, cli::DNS_SILENT, "DNS", cause)
}

fn silent(server: SocketAddr, error: &DialError) -> Failure {
    let object = format!("DNS server {server}");
    match error {
        DialError::Name(_) => Failure::usage(object, error.to_string()),
        DialError::Silent(_) => Failure::new(Exit::TimedOut, cli::DNS_SILENT, object, error.to_string()),
        DialError::Network(_) | DialError::Garbled(_) => {
            Failure::new(Exit::Unreachable, cli::DNS_SILENT, object, error.to_string())
        }
    }
}

/// The mnemonic that `dig` shows.
pub(super) fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

fn record(record: &Record) -> DnsRecord {
    DnsRecord {
        name: record.name.to_string(),
        ttl: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
    }
}

fn render(answer: &DnsAnswer, color: bool) -> String {
    let tone = Tone::of(answer.rcode == "NOERROR");
    let why = answer.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    let mut text = format!(
        "{} {} {}{why} from {} in {:.1} ms{}\n",
        answer.name,
        answer.kind,
        tone.paint(&answer.rcode, color),
        answer.server,
        answer.seconds * 1_000.0,
        if answer.over_tcp { ", over TCP" } else { "" },
    );
    let mut table = Table::new(&["NAME", "TTL", "TYPE", "DATA"]);
    for record in answer.answers.iter().chain(&answer.authority) {
        table.row([
            (&record.name).into(),
            record.ttl.to_string().into(),
            (&record.kind).into(),
            (&record.data).into(),
        ]);
    }
    if !table.is_empty() {
        text.push_str(&table.render(color));
    }
    text
}
