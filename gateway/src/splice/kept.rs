//! The client's first bytes, kept until one candidate has accepted the connection.
//!
//! Called by outbound: each attempt reads through [`Kept`], which first repeats what earlier
//! attempts were given. It never lets more than the limit out before the release.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Broken, Source};

/// Most bytes kept.
pub(crate) const MOST_KEPT: usize = 64 << 10;

/// The bytes kept, and whether they still have to be.
#[derive(Debug, Default)]
pub(crate) struct Release {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    size: usize,
    /// Chunks of `chunks` that the present attempt was given.
    given: usize,
    ended: bool,
    released: bool,
    /// Nothing may be given before the release: the attempt is itself the probe.
    held: bool,
}

impl Release {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new attempt begins; with `held` it is given nothing before the release.
    pub(crate) fn attempt(&self, held: bool) {
        let mut state = self.lock();
        state.given = 0;
        state.held = held;
    }

    /// A candidate accepted: nothing needs to be kept any more.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        state.released = true;
        let given = state.given;
        state.chunks.drain(..given);
        state.given = 0;
        drop(state);
        self.changed.notify_one();
    }

    /// All that is kept, in one piece, as given to the present attempt; empty while it is held.
    pub(crate) fn take_first(&self) -> Bytes {
        let mut state = self.lock();
        if state.held || state.given > 0 {
            return Bytes::new();
        }
        state.given = state.chunks.len();
        match state.chunks.len() {
            0 => Bytes::new(),
            1 => state.chunks[0].clone(),
            _ => state.chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect(),
        }
    }

    /// True if nothing is kept yet and more may come.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.chunks.is_empty() && !state.ended && !state.held
    }

    /// True if the present attempt was given anything, the end included.
    pub(crate) fn gave(&self) -> bool {
        let state = self.lock();
        state.given > 0 || (state.ended && !state.held)
    }
}

enum Step {
    Give(Bytes),
    End,
    Wait,
    Read,
}

/// A source that repeats kept bytes and keeps new ones.
#[derive(Debug)]
pub(crate) struct Kept<'a, S> {
    /// The client.
    pub(crate) client: S,
    /// What is kept.
    pub(crate) release: &'a Release,
}

impl<S: Source> Kept<'_, S> {
    /// Waits for the client's first bytes, so that they can leave together with the request.
    pub(crate) async fn prime(&mut self) -> Result<(), Broken> {
        if self.release.is_empty() {
            let read = self.client.next().await?;
            self.keep(read.as_ref());
            self.release.lock().given = 0;
        }
        Ok(())
    }
}

impl<S> Kept<'_, S> {
    fn step(&self) -> Step {
        let mut state = self.release.lock();
        if state.released {
            return match state.chunks.pop_front() {
                Some(chunk) => Step::Give(chunk),
                None if state.ended => Step::End,
                None => Step::Read,
            };
        }
        if state.held {
            return Step::Wait;
        }
        if let Some(chunk) = state.chunks.get(state.given).cloned() {
            state.given += 1;
            return Step::Give(chunk);
        }
        match state.ended {
            true => Step::End,
            false if state.size >= MOST_KEPT => Step::Wait,
            false => Step::Read,
        }
    }

    fn keep(&self, read: Option<&Bytes>) {
        let mut state = self.release.lock();
        match read {
            None => state.ended = true,
            Some(_) if state.released => {}
            Some(chunk) => {
                state.size += chunk.len();
                state.given += 1;
                state.chunks.push_back(chunk.clone());
            }
        }
    }
}

impl<S: Source> Source for Kept<'_, S> {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.step() {
                Step::Give(chunk) => return Ok(Some(chunk)),
                Step::End => return Ok(None),
                // A permit is stored when the release comes first, so none is missed. A client
                // that resets meanwhile is noticed too.
                Step::Wait => tokio::select! {
                    () = self.release.changed.notified() => {}
                    broken = self.client.broken() => return Err(broken),
                },
                Step::Read => {
                    let read = self.client.next().await?;
                    self.keep(read.as_ref());
                    return Ok(read);
                }
            }
        }
    }

    async fn broken(&mut self) -> Broken {
        self.client.broken().await
    }

    async fn evicted(&mut self) -> Broken {
        self.client.evicted().await
    }

    fn stop(&mut self) {
        self.client.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(VecDeque<Option<&'static [u8]>>);

    impl Source for Script {
        async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
            match self.0.pop_front() {
                Some(step) => Ok(step.map(Bytes::from_static)),
                None => std::future::pending().await,
            }
        }
        fn stop(&mut self) {}
    }

    #[tokio::test]
    async fn a_second_attempt_gets_the_same_bytes_and_then_new_ones() {
        let release = Release::default();
        let script = Script([Some(&b"ab"[..]), Some(&b"cd"[..]), None].into());
        let mut kept = Kept { client: script, release: &release };
        release.attempt(false);
        assert_eq!(kept.next().await.unwrap().unwrap(), "ab");
        assert!(release.gave());
        release.attempt(false);
        assert!(!release.gave());
        assert_eq!(kept.next().await.unwrap().unwrap(), "ab");
        assert_eq!(kept.next().await.unwrap().unwrap(), "cd");
        release.release();
        assert_eq!(kept.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_was_kept_but_not_given_survives_the_release() {
        let release = Release::default();
        let script = Script([Some(&b"ab"[..]), Some(&b"cd"[..]), None].into());
        let mut kept = Kept { client: script, release: &release };
        release.attempt(false);
        kept.next().await.unwrap();
        kept.next().await.unwrap();
        release.attempt(true);
        assert!(!release.gave());
        release.release();
        assert_eq!(kept.next().await.unwrap().unwrap(), "ab");
        assert_eq!(kept.next().await.unwrap().unwrap(), "cd");
        assert_eq!(kept.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_read_before_the_release() {
        static CHUNK: [u8; 40 << 10] = [7; 40 << 10];
        let release = Release::default();
        let script = Script([Some(&CHUNK[..]), Some(&CHUNK[..]), Some(&CHUNK[..])].into());
        let mut kept = Kept { client: script, release: &release };
        release.attempt(false);
        kept.next().await.unwrap();
        kept.next().await.unwrap();
        assert!(futures::poll!(std::pin::pin!(kept.next())).is_pending());
        release.release();
        assert_eq!(kept.next().await.unwrap().unwrap().len(), 40 << 10);
    }
}
