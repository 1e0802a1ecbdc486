//! Folders of a run: where things are in the checkout, one folder a run, and sweeping what a killed run left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Used for Postgres only, where the checkout is not reachable for the user `nobody`.
const FALLBACK_BASE: &str = "/tmp/tidemark-runs";
/// Marks a run whose logs are kept, and for how long.
const KEPT: &str = "kept";
const KEPT_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// The top of the checkout.
pub fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder).to_path_buf()
}

/// A program of this workspace, built with the same profile as the running one.
pub fn program(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("failed to find the running program's own path")?;
    let mut folder = running.parent().map(Path::to_path_buf).unwrap_or_default();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    if !path.is_file() {
        bail!("expected the program {}; run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

/// A file inside `node_modules`.
pub fn node_module(path: &str) -> Result<PathBuf> {
    let path = repository().join("node_modules").join(path);
    if !path.exists() {
        bail!("expected {}; run `scripts/setup` first", path.display());
    }
    Ok(path)
}

/// One run's folder: logs, content store, pid file. Removed at the end, a day later where [`RunFolder::keep`] was called.
///
/// Its name, `run-<pid>-<start time>-<n>`, says which process owns it, so that any later run can tell whether it is stale.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    fallback: PathBuf,
    keep: AtomicBool,
}

impl RunFolder {
    /// Makes a fresh one, having swept what dead runs left.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = repository().join(".tidemark");
        sweep(&base);
        sweep(Path::new(FALLBACK_BASE));
        let pid = std::process::id();
        let started = process::start_time(pid).unwrap_or_default();
        let name = format!("run-{pid}-{started}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let path = base.join(&name);
        fs::create_dir_all(path.join("logs")).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self { path, fallback: Path::new(FALLBACK_BASE).join(name), keep: AtomicBool::new(false) })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a process writes what it says.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    /// Lists this run's processes, for the sweep of a later run.
    pub fn pid_file(&self) -> PathBuf {
        self.path.join("processes")
    }

    /// A folder outside the checkout with the same owner and the same end.
    pub fn fallback(&self) -> &Path {
        &self.fallback
    }

    /// Leaves the logs in place at the end, for somebody to read.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.fallback);
        if self.keep.load(Ordering::Relaxed) {
            let _gone = fs::remove_dir_all(self.path.join("postgres"));
            let _marked = fs::write(self.path.join(KEPT), "");
        } else {
            let _gone = fs::remove_dir_all(&self.path);
        }
    }
}

/// Takes away what is mounted over a folder, if anything is; whoever has files open there keeps them.
pub fn unmount(folder: &Path) {
    let mut unmount = Command::new("umount");
    let _gone = unmount.arg("-l").arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Ends the processes of runs whose launcher is dead, and removes their folders.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((pid, started)) = name.to_str().and_then(owner) else { continue };
        if process::start_time(pid) != Some(started) && !is_kept(&entry.path()) {
            process::end_leftovers(&entry.path().join("processes"));
            unmount(&entry.path().join("store"));
            let _gone = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether somebody may still want to read the folder's logs.
fn is_kept(run: &Path) -> bool {
    let marked = fs::metadata(run.join(KEPT)).and_then(|marker| marker.modified());
    marked.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < KEPT_TIME_MAX))
}

/// Pid and start time out of a folder's name.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix("run-")?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_name_says_who_owns_it() {
        assert_eq!(owner("run-12-3456-0"), Some((12, 3456)));
        assert_eq!(owner("notes"), None);
    }
}
