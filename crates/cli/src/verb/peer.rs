//! `hansa peer …`: who belongs to the fabric.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hansa_api::kinds::peer::ClusterPeer;
use hansa_api::{control, view};
use hansa_core::name::ClusterId;
use hansa_runtime::files;
use hansa_runtime::units::HumanDuration;
use schemars::JsonSchema;
use serde::Serialize;

use super::status;
use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Table, Tone, clean};

/// A token has a few kilobytes: addresses and a bundle.
const MOST_TOKEN_BYTES: u64 = 256 << 10;

const INVITE: &str = "\
The token holds this cluster's gateway addresses, its trust bundle and a secret. It works once.

Example:
  hansa peer invite --name gcp-eu --out gcp-eu.token     then `hansa peer join gcp-eu.token` over there";

const JOIN: &str = "\
Examples:
  hansa peer join aws-eu.token
  ssh aws-eu hansa peer invite --quiet | hansa peer join -";

const EXPORT: &str = "\
Put the object into the other cluster's folder, and theirs into yours: both sides are then peers
by declaration, without a token.

Example:
  hansa peer export-yaml > clusterpeer-aws-eu.yaml";

/// The verbs on peers.
#[derive(Debug, Subcommand)]
pub(crate) enum PeerVerb {
    /// Make a token with which another cluster joins
    #[command(after_help = INVITE)]
    Invite {
        /// The cluster id that may use it [default: any]
        #[arg(long, value_name = "CLUSTER")]
        name: Option<ClusterId>,
        /// How long it may be used [default: the controller's, 15m]
        #[arg(long, value_name = "TIME")]
        ttl: Option<HumanDuration>,
        /// Write the token to this file, with mode 0600, instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Join with a token of another cluster
    #[command(after_help = JOIN)]
    Join {
        /// The file with the token, or - for stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List peers
    List,
    /// Show everything known of a peer
    Describe {
        /// Its cluster id
        peer: ClusterId,
    },
    /// Remove a peer: its tunnels are cut within a second
    Remove {
        /// Its cluster id
        peer: ClusterId,
    },
    /// Print this cluster as a ClusterPeer object for others
    #[command(after_help = EXPORT)]
    ExportYaml,
}

/// What `peer remove` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Removed {
    /// The cluster id.
    pub(crate) id: String,
}

pub(crate) async fn run(verb: PeerVerb, context: &Context) -> Result<Exit, Failure> {
    let (client, output) = (&context.client, &context.output);
    match verb {
        PeerVerb::Invite { name, ttl, out } => {
            let request = view::InviteRequest {
                name: name.map(String::from),
                ttl_seconds: ttl.map(|ttl| ttl.0.as_secs()),
            };
            let token: view::Token = client.post(control::INVITE, &request).await?;
            super::enroll::hand_over(&token, out.as_deref(), context)?;
        }
        PeerVerb::Join { file } => {
            let request = view::JoinRequest { token: token(&file)? };
            let joined: view::Joined = client.post(control::JOIN, &request).await?;
            let view::Joined { id, trust_domain, gateways } = &joined;
            let text = format!("joined {id} (trust domain {trust_domain}, {gateways} gateways)");
            output.value(&joined, || clean(&text))?;
        }
        PeerVerb::List => {
            let peers: Vec<view::Peer> = client.get(control::PEERS, &[]).await?;
            output.value(&peers, || list(&peers, output.color))?;
        }
        PeerVerb::Describe { peer } => {
            let peer: view::Peer = client.get(&format!("{}/{peer}", control::PEERS), &[]).await?;
            output.value(&peer, || describe(&peer, output.color))?;
        }
        PeerVerb::Remove { peer } => {
            client.delete(&format!("{}/{peer}", control::PEERS)).await?;
            let removed = Removed { id: peer.to_string() };
            output.value(&removed, || format!("removed {peer}"))?;
        }
        PeerVerb::ExportYaml => {
            let object: ClusterPeer = client.get(control::CLUSTER_PEER, &[]).await?;
            let yaml = serde_saphyr::to_string(&object).unwrap_or_default();
            output.value(&object, || yaml)?;
        }
    }
    Ok(Exit::Ok)
}

/// Reads a token from a file or stdin.
fn token(path: &Path) -> Result<String, Failure> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MOST_TOKEN_BYTES).read_to_end(&mut bytes);
        read.map_err(|e| Failure::file(Path::new("stdin"), e))?;
        bytes
    } else {
        files::read_limited(path, MOST_TOKEN_BYTES).map_err(|e| Failure::file(path, e))?
    };
    match String::from_utf8(bytes) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err(Failure::usage(path.display().to_string(), "no token in it")),
    }
}

fn list(peers: &[view::Peer], color: bool) -> String {
    if peers.is_empty() {
        return "no peers; invite one with `hansa peer invite`\n".to_owned();
    }
    let mut table =
        Table::new(&["ID", "REACH", "AGE", "TRANSPORT", "CATALOG", "ORIGIN", "LOCALITY", "TRUST DOMAIN"]);
    for peer in peers {
        let [reach, age, transport, catalog] = status::peer_cells(&peer.status);
        let (id, origin) = (Cell::from(&peer.id), Cell::from(&peer.origin));
        let rest = [Cell::from(&peer.locality), Cell::from(&peer.trust_domain)];
        let [locality, domain] = rest;
        table.row([id, reach, age, transport, catalog, origin, locality, domain]);
    }
    table.render(color)
}

fn describe(peer: &view::Peer, color: bool) -> String {
    let mut text = list(std::slice::from_ref(peer), color);
    let mut gateways = Table::new(&["GATEWAY", "ADDRESSES", "TUNNELS", "STREAMS"]);
    for (id, addresses) in &peer.gateways {
        let seen = peer.status.gateways.iter().find(|g| g.id == *id);
        let (tunnels, streams) = seen.map_or((0, 0), |g| (g.tunnels, g.streams));
        gateways.row([
            id.into(),
            addresses.join(" ").into(),
            Cell::new(tunnels.to_string(), Tone::of(tunnels > 0)),
            streams.to_string().into(),
        ]);
    }
    if !gateways.is_empty() {
        text.push('\n');
        text.push_str(&gateways.render(color));
    }
    let expires = peer.status.bundle_expires.as_deref().unwrap_or("unknown");
    text.push_str(&format!(
        "\nbundle: sequence {}, last root expires {}\n",
        peer.bundle_sequence,
        clean(expires)
    ));
    for refused in &peer.status.refused_rows {
        text.push_str(&format!("refused: {}\n", clean(refused)));
    }
    text
}
