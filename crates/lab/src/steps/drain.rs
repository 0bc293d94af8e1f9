//! `gateway-drain`: SIGTERM to a local gateway, then to a peer's, under load.

use std::time::Duration;

use anyhow::Result;

use super::Context;
use super::kills::once;
use crate::clock;
use crate::lab::Fault;
use crate::report::Verdict;
use crate::spec::MemberId;

/// The configured deadline, and some seconds for the end of the process.
const GONE: Duration = Duration::from_secs(36);

pub(super) async fn judge(context: &mut Context<'_>) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for (what, id) in [("local", MemberId::Rack1), ("peer's", MemberId::AwsEu)] {
        let tag = format!("gateway-drain-{}", if id == MemberId::Rack1 { "local" } else { "peer" });
        let lab = context.lab;
        let run = context.checkout(MemberId::Rack1, &tag).await?;
        verdict.show(run.file());
        let proc = lab.proc(id, "gateway-2")?;
        let at = lab.drain(id, "gateway-2")?;
        let ended = proc.gone(GONE).await.is_ok();
        let gone = clock::now();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let until = clock::now();
        let fault = Fault::Process(id, "gateway-2".into());
        if !ended {
            proc.kill().await?;
        }
        let ready = lab.heal(&fault).await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let records = run.stop().await?;
        let (new, kept) = (records.new_between(at, until), records.kept_between(at, until));
        verdict.check(ended, format!("{what} ({id}): ended {:.1} s after SIGTERM", clock::seconds(at, gone)));
        verdict.check(new.clean() && kept.clean(), format!("new {}, kept {}", new.text(), kept.text()));
        once(&mut verdict, &records, (at, until));
        let (new, kept) = (records.new_between(until, u64::MAX), records.kept_between(until, u64::MAX));
        let seen = format!(
            "ready after {:.2} s, new {}, kept {}",
            clock::seconds(until, ready),
            new.text(),
            kept.text()
        );
        context.came_back(format!("drained gateway {id}/gateway-2"), new.clean() && kept.clean(), seen);
    }
    Ok(verdict)
}
