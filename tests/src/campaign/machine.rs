//! What a machine does to a service on it: its wall clock jumps, and its disk is full.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::folder::{RunFolder, repository, unmount};

/// The wall clock of the services that are started with its environment.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    shift: PathBuf,
}

impl Clock {
    /// Right at first. Needs a C compiler, which building the services needs as well.
    pub fn new(folder: &RunFolder) -> Result<Self> {
        let (library, shift) = (folder.path().join("clock.so"), folder.path().join("clock"));
        let source = repository().join("tests/src/campaign/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        let output = compiler.output().context("failed to run cc")?;
        ensure!(output.status.success(), "cc failed: {}", String::from_utf8_lossy(&output.stderr));
        let clock = Self { library, shift };
        clock.set(0)?;
        Ok(clock)
    }

    /// For a service that shall live by it.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("TIDEMARK_TEST_CLOCK", self.shift.display().to_string())]
    }

    /// So many seconds beside the truth, from now on.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // in place: the services have the file mapped
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(false).open(&self.shift).context("open the clock")?;
        file.write_all(&seconds.to_ne_bytes()).context("failed to set the clock")
    }
}

/// Free for contents at first, and for as much as a campaign keeps.
const DISK_BYTES: u64 = 512 << 20;

/// A file system of its own for one folder, in memory, that can be filled up to the last byte.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Over a folder, whose files are out of sight until it is dropped; `None` where this user may not mount.
    pub fn over(folder: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tidemark-test"]).arg(folder);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self { folder: folder.into() })
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Not a byte is free any more.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.filler()).context("failed to make the filler")?;
        let mut piece = vec![0x5a_u8; 1 << 20];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(written) if written == piece.len() => {}
                _ => piece.truncate(piece.len() / 2),
            }
        }
        Ok(())
    }

    /// There is room again.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove the filler"),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.folder);
    }
}
