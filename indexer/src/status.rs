//! How far the indexer is, in memory, for /ready, /status and /metrics.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What the follower last saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The node's newest block.
    pub latest: Option<u64>,
    /// Its newest final block.
    pub finalized: Option<u64>,
    /// When mirror and tables were last level with the node.
    pub level_at: Option<Instant>,
    /// What failed last; none after a good step.
    pub last_error: Option<String>,
    /// What failed last about files, beside their not being there.
    pub files_error: Option<String>,
    /// Why following ended for good.
    pub halted: Option<String>,
}

/// Shared by the follower, which writes it, and requests, which read it.
#[derive(Debug)]
pub struct Status {
    seen: Mutex<Seen>,
    started_at: Instant,
    /// After so long without being level, the indexer is not ready.
    behind_max: Duration,
}

impl Status {
    /// Nothing seen yet.
    pub fn new(behind_max: Duration) -> Self {
        Self { seen: Mutex::default(), started_at: Instant::now(), behind_max }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
    }

    /// Seconds since it was last level with the node; since the start where it never was.
    pub fn behind(&self) -> Duration {
        self.seen().level_at.unwrap_or(self.started_at).elapsed()
    }

    /// Whether readers get fresh answers; else why not.
    pub fn ready(&self) -> Result<(), String> {
        let seen = self.seen();
        if let Some(halted) = seen.halted {
            return Err(halted);
        }
        let last = seen.last_error.map(|error| format!("; last error: {error}")).unwrap_or_default();
        let Some(level_at) = seen.level_at else {
            return Err(format!("not level with the chain yet{last}"));
        };
        let behind = level_at.elapsed();
        match behind > self.behind_max {
            true => Err(format!("not level with the chain for {} s{last}", behind.as_secs())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_once_level_and_never_again_once_halted() {
        let status = Status::new(Duration::from_secs(60));
        status.update(|seen| seen.last_error = Some("no route".into()));
        assert!(status.ready().unwrap_err().contains("no route"));
        status.update(|seen| seen.level_at = Some(Instant::now()));
        assert_eq!(status.ready(), Ok(()));
        status.update(|seen| seen.halted = Some("deep reorg".into()));
        assert_eq!(status.ready(), Err("deep reorg".into()));
    }

    #[test]
    fn it_is_not_ready_when_it_has_been_behind_for_too_long() {
        let status = Status::new(Duration::ZERO);
        status.update(|seen| seen.level_at = Some(Instant::now()));
        std::thread::sleep(Duration::from_millis(2));
        assert!(status.ready().is_err());
    }
}
