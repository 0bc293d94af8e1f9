//! Parts of a change put together, within limits.
//!
//! Called by [`super::follow`] for every delta message. Never holds more than the limits say.

use bytes::Bytes;
use hansa_core::policy::Refusal;
use hansa_core::table::{Delta, Held, Misfit};

use super::follow::{Applied, Limits, LinkError};
use super::{Position, Saved};
use crate::convert::short;
use crate::wire::feed::v1 as pb;

/// What a follower holds, and the change that is coming in.
#[derive(Debug, Default)]
pub(super) struct Copy {
    held: Held,
    epoch: u64,
    coming: Option<Coming>,
}

#[derive(Debug)]
struct Coming {
    from: Option<Position>,
    to: Position,
    next_part: u32,
    bytes: usize,
    changed: Vec<(String, Bytes)>,
    removed: Vec<String>,
}

/// What became of one delta message.
#[derive(Debug)]
pub(super) enum Taken {
    /// More parts follow, or it was left over from something given up.
    Partly,
    /// A change is complete and held now.
    Whole(Box<Applied>),
    /// It does not fit what is held: a snapshot is needed.
    Misfit,
}

impl Copy {
    /// Starts with what was saved; nothing of it if it contradicts itself.
    pub(super) fn resume(saved: &Saved) -> Self {
        let rows = saved.rows.iter().map(|(key, body)| (key.as_str(), body.as_ref()));
        let held = Held::of(saved.position.version, rows);
        if held.digest != saved.position.digest {
            return Self::default();
        }
        Self { held, epoch: saved.position.epoch, coming: None }
    }

    /// Where it is.
    pub(super) fn position(&self) -> Option<Position> {
        let version = self.held.version?;
        Some(Position { epoch: self.epoch, version, digest: self.held.digest })
    }

    /// Forgets what has come in of an unfinished change.
    pub(super) fn interrupt(&mut self) {
        self.coming = None;
    }

    /// True if a heartbeat shows that the copy differs from the publisher's rows.
    pub(super) fn differs(&self, published: &Position) -> Result<bool, LinkError> {
        let Some(held) = self.position() else { return Ok(false) };
        if published.is_before(&held) {
            return Err(LinkError::Behind { held, published: *published });
        }
        let same = (held.epoch, held.version) == (published.epoch, published.version);
        Ok(same && held.digest != published.digest)
    }

    /// Takes one message.
    pub(super) fn take(&mut self, wire: pb::Delta, limits: &Limits) -> Result<Taken, LinkError> {
        let position = |wire: pb::Position| {
            Position::try_from(wire).map_err(|error| LinkError::Protocol(error.to_string()))
        };
        let from = wire.from.map(position).transpose()?;
        let to = wire.to.map(position).transpose()?;
        let to = to.ok_or_else(|| LinkError::Protocol("a delta leads nowhere".into()))?;
        if let Some(held) = self.position()
            && to.is_before(&held)
        {
            return Err(LinkError::Behind { held, published: to });
        }
        if wire.part == 0 {
            let (changed, removed) = (Vec::new(), Vec::new());
            self.coming = Some(Coming { from, to, next_part: 0, bytes: 0, changed, removed });
        }
        let Some(coming) = &mut self.coming else { return Ok(Taken::Partly) };
        if (coming.next_part, coming.from, coming.to) != (wire.part, from, to) {
            return Err(LinkError::Protocol("parts of a delta do not follow each other".into()));
        }
        coming.next_part = coming.next_part.saturating_add(1);
        coming.add(wire.rows, wire.removed, limits)?;
        if !wire.last {
            return Ok(Taken::Partly);
        }
        let coming = self.coming.take();
        coming.map_or(Ok(Taken::Partly), |coming| self.finish(coming, limits))
    }

    fn finish(&mut self, coming: Coming, limits: &Limits) -> Result<Taken, LinkError> {
        let Coming { from, to, changed, removed, .. } = coming;
        let held = self.position();
        if from.is_some() && from != held {
            return Ok(Taken::Misfit);
        }
        let delta =
            Delta { from: from.map(|p| p.version), to: to.version, digest: to.digest, changed, removed };
        let (rows, bytes) = self.held.after(&delta);
        if rows > limits.rows {
            return Err(LinkError::TooManyRows { limit: limits.rows });
        }
        if bytes > limits.total_bytes {
            return Err(LinkError::TooLarge { limit: limits.total_bytes });
        }
        let adopted = from.is_some_and(|from| from.epoch != to.epoch);
        if adopted {
            // Versions of two epochs do not compare: only equal content may be taken over.
            if !delta.changed.is_empty() || !delta.removed.is_empty() || to.digest != self.held.digest {
                return Ok(Taken::Misfit);
            }
            self.held.version = Some(to.version);
        } else {
            match self.held.apply(&delta) {
                Ok(()) => {}
                Err(Misfit::Digest { .. }) if from.is_none() => return Err(LinkError::Digest { at: to }),
                Err(_) => return Ok(Taken::Misfit),
            }
        }
        self.epoch = to.epoch;
        let (mut changed, mut refused) = (delta.changed, Vec::new());
        changed.retain(|(key, body)| {
            let reason = limits.refuse(key, body.len());
            let taken = reason.is_none();
            refused.extend(reason.map(|reason| Refusal { key: short(key), reason }));
            taken
        });
        Ok(Taken::Whole(Box::new(Applied {
            position: to,
            snapshot: from.is_none(),
            changed,
            removed: delta.removed,
            refused,
        })))
    }
}

impl Coming {
    fn add(&mut self, rows: Vec<pb::Row>, removed: Vec<String>, limits: &Limits) -> Result<(), LinkError> {
        let new: usize = rows.iter().map(|row| row.key.len() + row.body.len()).sum();
        self.bytes += new + removed.iter().map(String::len).sum::<usize>();
        // Every row replaced and every row removed at once is the most an honest change can hold.
        let count = self.changed.len() + rows.len();
        if count > limits.rows || self.removed.len() + removed.len() > limits.rows.saturating_mul(2) {
            return Err(LinkError::TooManyRows { limit: limits.rows });
        }
        if self.bytes > limits.bytes {
            return Err(LinkError::TooManyBytes { limit: limits.bytes });
        }
        self.changed.extend(rows.into_iter().map(|row| (row.key, row.body)));
        self.removed.extend(removed);
        Ok(())
    }
}

/// For [`crate::fuzzing`]: length-prefixed delta messages, in turn, with small limits. What is held
/// stays within them.
pub(crate) fn assemble_law(mut data: &[u8]) {
    use prost::Message as _;
    let limits = Limits {
        rows: 8,
        bytes: 4_096,
        total_bytes: 2_048,
        key_bytes: 32,
        row_bytes: 64,
        service_row_bytes: 128,
    };
    let mut copy = Copy::default();
    while !data.is_empty() {
        let Ok(delta) = pb::Delta::decode_length_delimited(&mut data) else { return };
        let before = copy.position();
        match copy.take(delta, &limits) {
            Ok(Taken::Whole(applied)) => assert_eq!(copy.position(), Some(applied.position)),
            Ok(_) | Err(_) => assert_eq!(copy.position().is_some(), before.is_some(), "lost what was held"),
        }
        assert!(copy.held.len() <= limits.rows, "more rows than are taken");
        assert!(copy.held.bytes() <= limits.total_bytes, "more bytes than are taken");
    }
}
