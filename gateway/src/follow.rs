//! The gateway's end of the feed: takes changes in, keeps them on disk, answers questions.
//!
//! Run by the wiring for as long as the process lives. When every controller is gone it waits, and
//! the last table stays in force.

use std::sync::Arc;

use hansa_link::Link;
use hansa_proto::feed::{self, FollowEvent, Handle, Kind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::explain;
use crate::plane::Plane;
use crate::table::{self, Tables, WRITE_AGAIN, WRITE_EVERY};

/// Questions answered at once.
const QUESTIONS: usize = 8;

/// A feed that was begun.
pub(crate) struct Feed {
    /// Towards the controller.
    pub(crate) handle: Handle,
    events: mpsc::Receiver<FollowEvent>,
}

/// Begins to follow the controllers of `link`; the link's future runs on the plane's tasks.
pub(crate) fn begin(plane: &Plane, link: &Link, tables: &Tables) -> Feed {
    let config = feed::Config::new(plane.id.to_string(), Kind::Routes);
    let link = link.clone();
    let connect = move || {
        let link = link.clone();
        async move { link.connect().await }
    };
    let (handle, events, run) = feed::follow(config, connect, tables.resume());
    plane.tasks.spawn_until_shutdown("feed", run);
    Feed { handle, events }
}

/// Takes events until `stop`.
pub(crate) async fn run(
    plane: Arc<Plane>,
    link: Link,
    mut tables: Tables,
    feed: Feed,
    stop: CancellationToken,
) -> Result<(), &'static str> {
    let Feed { handle, mut events } = feed;
    let room = Arc::new(tokio::sync::Semaphore::new(QUESTIONS));
    let (mut dirty, mut failing, mut due) = (false, false, Instant::now());
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                // Everything ends together: the link's task may be the first.
                None if stop.is_cancelled() => break,
                None => return Err("the feed ended"),
            },
            () = tokio::time::sleep_until(due), if dirty => {
                let (file, saved) = tables.to_disk();
                dirty = !table::write(file, saved, failing).await;
                failing = dirty;
                due = Instant::now() + if failing { WRITE_AGAIN } else { WRITE_EVERY };
                continue;
            }
            () = stop.cancelled() => break,
        };
        match event {
            FollowEvent::Applied(change) => {
                let refused = tables.apply(&change);
                for row in &refused {
                    tracing::warn!(object = %row.key, reason = %row.reason, "row refused");
                }
                let table = plane.table();
                plane.tracks.adopt(&table);
                plane.metrics.imports.set(table.services.len() as i64);
                link.adopt_bundle(&table.bundle);
                handle.applied(&change, refused);
                dirty = true;
            }
            FollowEvent::Question(question) => {
                let (plane, handle) = (plane.clone(), handle.clone());
                let Ok(place) = room.clone().try_acquire_owned() else {
                    handle.reply(question.id, Err("too many questions at once".to_owned()));
                    continue;
                };
                let tasks = plane.tasks.clone();
                tasks.spawn_until_shutdown("question", async move {
                    let answer = explain::answer(&plane, &question.kind, &question.json).await;
                    handle.reply(question.id, answer.map(Into::into));
                    drop(place);
                });
            }
            FollowEvent::Connected { software, .. } => tracing::info!(%software, "controller connected"),
            FollowEvent::Heartbeat { .. } => {}
            FollowEvent::Lost { error, retry_in } => {
                tracing::warn!(%error, ?retry_in, "controller lost; the last table stays in force");
            }
        }
    }
    if dirty {
        let (file, saved) = tables.to_disk();
        table::write(file, saved, failing).await;
    }
    Ok(())
}
