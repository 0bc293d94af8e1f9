//! One-use secrets behind enrolment tokens and invitations: made, found, spent once.
//!
//! Called by `control` (make) and `serve` (find, spend). A secret is spent by compare-and-swap in
//! memory and written down before the one who spent it hears of success. Never logged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_core::code::{Code, config, trust};
use hansa_core::name::ClusterId;
use hansa_core::spiffe::SpiffeId;
use hansa_identity::token::{Secret, new_secret_id};
use serde::{Deserialize, Serialize};

use crate::store::{Batch, Store};

const PREFIX: &str = "secret/";
/// Most secrets kept; the ones that expired first are forgotten.
const MOST: usize = 4_096;
/// How long an expired or spent secret is remembered, to say so.
const MEMORY: Duration = Duration::from_secs(86_400);

/// What a secret is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Purpose {
    /// Enrolling this one server.
    Enroll {
        /// The only id that will be signed.
        id: SpiffeId,
    },
    /// Joining, by anyone or by this cluster alone.
    Invite {
        /// The cluster that may use it.
        cluster: Option<ClusterId>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    secret: Secret,
    purpose: Purpose,
    /// Unix seconds.
    expires: u64,
    spent: bool,
}

/// Why a secret does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Never made here, or forgotten.
    #[error("the token is not known here")]
    Unknown,
    /// Too old.
    #[error("the token has expired")]
    Expired,
    /// Used before.
    #[error("the token was used before")]
    Spent,
    /// Spent now, which could not be written down: after a restart it might count again.
    #[error("the token is spent, and that could not be written to disk; nothing was granted for it")]
    NotKept,
}

impl Refused {
    /// The code for messages.
    pub fn code(self) -> Code {
        match self {
            Self::Unknown => trust::TOKEN_INVALID,
            Self::Expired => trust::TOKEN_EXPIRED,
            Self::Spent => trust::TOKEN_SPENT,
            Self::NotKept => config::STATE_UNWRITABLE,
        }
    }
}

/// A new secret, to be put into a token.
#[derive(Debug)]
pub struct Made {
    /// Its id, not secret.
    pub id: String,
    /// The secret.
    pub secret: Secret,
    /// Last moment, Unix seconds.
    pub expires: u64,
}

/// All secrets. Clones share them.
#[derive(Debug, Clone)]
pub struct Secrets {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    store: Store,
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Secrets {
    /// Reads what was made before.
    pub fn load(store: Store) -> Self {
        let entries = store.scan_json(PREFIX).into_iter().collect();
        Self { entries: Arc::new(Mutex::new(entries)), store }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a secret.
    ///
    /// # Errors
    /// The system has no randomness.
    pub async fn make(
        &self,
        purpose: Purpose,
        life: Duration,
        now: SystemTime,
    ) -> Result<Made, rustls::Error> {
        let made = Made { id: new_secret_id(), secret: Secret::generate()?, expires: unix(now + life) };
        let entry = Entry { secret: made.secret.clone(), purpose, expires: made.expires, spent: false };
        let mut batch = Batch::default();
        batch.put_json(format!("{PREFIX}{}", made.id), &entry);
        {
            let mut entries = self.entries();
            forget_old(&mut entries, unix(now), &mut batch);
            entries.insert(made.id.clone(), entry);
        }
        self.store.commit(batch).await;
        Ok(made)
    }

    /// The secret and its purpose, while it may be used.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn find(&self, id: &str, now: SystemTime) -> Result<(Secret, Purpose), Refused> {
        let entries = self.entries();
        let entry = entries.get(id).ok_or(Refused::Unknown)?;
        usable(entry, now)?;
        Ok((entry.secret.clone(), entry.purpose.clone()))
    }

    /// Spends a secret whose proof was right. Exactly one caller gets `Ok`, and only once that is on
    /// disk: what is not written stays spent in memory and grants nothing.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn spend(&self, id: &str, now: SystemTime) -> Result<(), Refused> {
        let mut batch = Batch::default();
        {
            let mut entries = self.entries();
            let entry = entries.get_mut(id).ok_or(Refused::Unknown)?;
            usable(entry, now)?;
            entry.spent = true;
            batch.put_json(format!("{PREFIX}{id}"), entry);
        }
        if self.store.commit(batch).await { Ok(()) } else { Err(Refused::NotKept) }
    }
}

fn usable(entry: &Entry, now: SystemTime) -> Result<(), Refused> {
    if entry.spent {
        return Err(Refused::Spent);
    }
    if unix(now) > entry.expires {
        return Err(Refused::Expired);
    }
    Ok(())
}

fn forget_old(entries: &mut BTreeMap<String, Entry>, now: u64, batch: &mut Batch) {
    let over = |entry: &Entry| now > entry.expires.saturating_add(MEMORY.as_secs());
    let mut old: Vec<String> = entries.iter().filter(|(_, e)| over(e)).map(|(id, _)| id.clone()).collect();
    if entries.len().saturating_sub(old.len()) >= MOST {
        let oldest = entries.iter().min_by_key(|(_, e)| e.expires).map(|(id, _)| id.clone());
        old.extend(oldest);
    }
    for id in old {
        entries.remove(&id);
        batch.delete(format!("{PREFIX}{id}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Purpose {
        Purpose::Invite { cluster: None }
    }

    #[tokio::test]
    async fn a_secret_is_spent_once_even_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let id = {
            let secrets = Secrets::load(Store::open(dir.path()).unwrap());
            let made = secrets.make(invite(), Duration::from_secs(900), now).await.unwrap();
            assert_eq!(secrets.find(&made.id, now).unwrap(), (made.secret, invite()));
            let both = tokio::join!(secrets.spend(&made.id, now), secrets.spend(&made.id, now));
            assert_eq!((both.0.is_ok() as u8) + (both.1.is_ok() as u8), 1);
            made.id
        };
        let secrets = Secrets::load(Store::open(dir.path()).unwrap());
        assert_eq!(secrets.spend(&id, now).await, Err(Refused::Spent));
        assert_eq!(secrets.find(&id, now), Err(Refused::Spent));
        assert_eq!(secrets.find("other", now), Err(Refused::Unknown));
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_written_down_as_spent_grants_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        // A store whose folder is not there runs from memory, as on a read-only disk.
        let secrets = Secrets::load(Store::open(&dir.path().join("missing")).unwrap());
        let made = secrets.make(invite(), Duration::from_secs(900), now).await.unwrap();
        let refused = secrets.spend(&made.id, now).await.unwrap_err();
        assert_eq!((refused, refused.code().to_string().as_str()), (Refused::NotKept, "HNS-1005"));
        assert_eq!(secrets.spend(&made.id, now).await, Err(Refused::Spent), "it stays spent");
    }

    #[tokio::test]
    async fn an_old_secret_is_refused_and_later_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::load(Store::open(dir.path()).unwrap());
        let now = SystemTime::now();
        let made = secrets.make(invite(), Duration::from_secs(900), now).await.unwrap();
        let late = now + Duration::from_secs(902);
        assert_eq!(secrets.find(&made.id, late), Err(Refused::Expired));
        secrets.make(invite(), Duration::from_secs(900), now + 2 * MEMORY).await.unwrap();
        assert_eq!(secrets.find(&made.id, late), Err(Refused::Unknown));
    }
}
