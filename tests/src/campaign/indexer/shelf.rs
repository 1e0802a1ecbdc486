//! The content store as the indexer sees it: a link that can be turned to an empty folder, or to one with wrong bytes, at once.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::folder::RunFolder;

/// Blocks that are told wrongly: more than are asked for meanwhile.
const WRONG_MAX: usize = 500;

/// Where the indexer's store is.
#[derive(Debug)]
pub struct Shelf {
    right: PathBuf,
    wrong: PathBuf,
    empty: PathBuf,
    link: PathBuf,
}

impl Shelf {
    /// Over a store's folder; shows what is there.
    pub fn over(right: &Path, folder: &RunFolder) -> Result<Self> {
        let beside = |name: &str| folder.path().join(name);
        let shelf = Self {
            right: right.into(),
            wrong: beside("store-wrong"),
            empty: beside("store-empty"),
            link: beside("store-seen"),
        };
        fs::create_dir_all(&shelf.empty).context("failed to make an empty store")?;
        shelf.right()?;
        Ok(shelf)
    }

    /// For the indexer.
    pub fn address(&self) -> String {
        format!("folder:{}", self.link.display())
    }

    /// As it is.
    pub fn right(&self) -> Result<()> {
        self.show(&self.right)
    }

    /// Nothing is there.
    pub fn empty(&self) -> Result<()> {
        self.show(&self.empty)
    }

    /// Blocks do not hash to their names, and some are not there.
    pub fn wrong(&self) -> Result<()> {
        let _none_yet = fs::remove_dir_all(&self.wrong);
        let mut spoilt = 0;
        for shard in fs::read_dir(&self.right).context("failed to read the store")?.flatten() {
            let to = self.wrong.join(shard.file_name());
            fs::create_dir_all(&to).context("failed to make a wrong store")?;
            for block in fs::read_dir(shard.path()).context("failed to read the store")?.flatten() {
                // one that was deleted or renamed meanwhile is not there
                let Ok(mut bytes) = fs::read(block.path()) else { continue };
                bytes.reverse();
                fs::write(to.join(block.file_name()), bytes).context("failed to write a wrong block")?;
                spoilt += 1;
                if spoilt >= WRONG_MAX {
                    return self.show(&self.wrong);
                }
            }
        }
        self.show(&self.wrong)
    }

    fn show(&self, folder: &Path) -> Result<()> {
        let draft = self.link.with_extension("draft");
        let _none_yet = fs::remove_file(&draft);
        symlink(folder, &draft).context("failed to link to a store")?;
        fs::rename(&draft, &self.link).context("failed to turn the store's link")
    }
}
