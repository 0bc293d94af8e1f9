//! What a follower's owner says to its link: applied, refused, reports, answers.
//!
//! Held by gateways, DNS servers and controllers beside the event receiver of [`super::follow`].

use std::collections::BTreeMap;

use bytes::Bytes;
use hansa_core::policy::Refusal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Position;
use super::follow::{Applied, LinkError};
use crate::convert::report::{self, GatewayReport, NodeInfo, ServiceConflict};
use crate::wire::feed::v1 as pb;

/// What acknowledgements say.
#[derive(Debug, Clone, Default)]
pub(super) struct Mine {
    pub(super) applied: Option<Position>,
    refusals: BTreeMap<String, String>,
    pub(super) report: Option<GatewayReport>,
    pub(super) node: Option<NodeInfo>,
    conflicts: Vec<ServiceConflict>,
}

impl Mine {
    pub(super) fn ack(&self, want_snapshot: bool) -> pb::Ack {
        let refusals = self.refusals.iter().take(report::MAX_REFUSALS);
        pb::Ack {
            applied: self.applied.map(Into::into),
            want_snapshot,
            refusals: refusals.map(|(k, r)| pb::Refusal { key: k.clone(), reason: r.clone() }).collect(),
            report: self.report.as_ref().map(report::report_to),
            conflicts: report::conflicts_to(&self.conflicts),
            node: self.node.as_ref().map(report::node_to),
        }
    }
}

/// How a link stands. Status is derived from this, never from an open socket.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The link is up (which says nothing of the age of what is held).
    pub connected: bool,
    /// What is in use.
    pub applied: Option<Position>,
    /// What the publisher last said it has.
    pub published: Option<Position>,
    /// When the publisher was last heard.
    pub heard: Option<Instant>,
    /// When what is in use was last known to be what the publisher has.
    pub current: Option<Instant>,
    /// Why the link was last lost; `None` while it is up.
    pub error: Option<LinkError>,
    /// Rows refused now, by key.
    pub refusals: BTreeMap<String, String>,
}

/// The owner's side of a link. Clones share it. The link ends when all clones are dropped.
#[derive(Debug, Clone)]
pub struct Handle {
    mine: watch::Sender<Mine>,
    replies: mpsc::Sender<pb::Reply>,
    status: watch::Sender<Status>,
}

/// The link's side of a [`Handle`].
pub(super) struct Ends {
    pub(super) mine: watch::Receiver<Mine>,
    pub(super) replies: mpsc::Receiver<pb::Reply>,
    pub(super) status: watch::Sender<Status>,
}

impl Ends {
    /// Waits until the owner dropped the handle and all its clones.
    pub(super) async fn dropped(&mut self) {
        while self.mine.changed().await.is_ok() {}
    }
}

impl Handle {
    pub(super) fn new(applied: Option<Position>) -> (Self, Ends) {
        let (mine, mine_out) = watch::channel(Mine { applied, ..Mine::default() });
        let (replies, replies_out) = mpsc::channel(16);
        let status = watch::Sender::new(Status { applied, ..Status::default() });
        let ends = Ends { mine: mine_out, replies: replies_out, status: status.clone() };
        (Self { mine, replies, status }, ends)
    }

    /// Says that a change is in use now, and what of it was refused. Until this is said, the
    /// publisher sends no further change.
    pub fn applied(&self, change: &Applied, refused: Vec<Refusal>) {
        let mut all = BTreeMap::new();
        self.mine.send_modify(|mine| {
            mine.applied = Some(change.position);
            if change.snapshot {
                mine.refusals.clear();
            }
            let keys = change.changed.iter().map(|row| &row.0).chain(&change.removed);
            for key in keys {
                mine.refusals.remove(key);
            }
            let refused = change.refused.iter().cloned().chain(refused);
            mine.refusals.extend(refused.map(|r| (r.key, r.reason)));
            all.clone_from(&mine.refusals);
        });
        self.status.send_modify(|status| {
            status.applied = Some(change.position);
            status.refusals = all;
            if status.published == status.applied {
                status.current = status.heard;
            }
        });
    }

    /// Reports at once, and again every second.
    pub fn report(&self, report: GatewayReport) {
        self.mine.send_modify(|mine| mine.report = Some(report));
    }

    /// Tells about this server, if anything changed.
    pub fn node(&self, node: NodeInfo) {
        self.mine.send_if_modified(|mine| {
            let changed = mine.node.as_ref() != Some(&node);
            mine.node = Some(node);
            changed
        });
    }

    /// Tells an exporter of conflicts, if anything changed.
    pub fn conflicts(&self, conflicts: Vec<ServiceConflict>) {
        self.mine.send_if_modified(|mine| {
            let changed = mine.conflicts != conflicts;
            mine.conflicts = conflicts;
            changed
        });
    }

    /// Answers a question. Dropped if too many answers wait: who asked has a deadline.
    pub fn reply(&self, id: u64, answer: Result<Bytes, String>) {
        let reply = match answer {
            Ok(json) => pb::Reply { id, json, error: String::new() },
            Err(error) => pb::Reply { id, json: Bytes::new(), error },
        };
        let _ = self.replies.try_send(reply);
    }

    /// How the link stands, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }
}
