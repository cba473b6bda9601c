//! The folder for the bench's stores, which is deleted afterwards, and its file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// A folder that is deleted when dropped.
#[derive(Debug)]
pub(super) struct BenchFolder {
    folder: PathBuf,
    numbered: std::cell::Cell<u32>,
}

impl BenchFolder {
    /// Creates a folder in `parent`.
    pub(super) fn new(parent: &Path) -> anyhow::Result<Self> {
        let folder = parent.join(format!("jobmill-bench-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
        Ok(BenchFolder { folder, numbered: std::cell::Cell::new(0) })
    }

    /// Returns the path of the folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns a path in the folder that was not used before.
    pub(super) fn fresh(&self) -> PathBuf {
        self.numbered.set(self.numbered.get() + 1);
        self.folder.join(format!("store-{}", self.numbered.get()))
    }

    /// Returns the type of the file system that holds the folder, or `unknown` where the system does not report it.
    pub(super) fn file_system(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                Some((fields.next()?, fields.next()?))
            })
            .filter(|(point, _)| folder.starts_with(point))
            // The later of two mounts on one point covers the earlier.
            .max_by_key(|(point, _)| point.len())
            .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
    }
}

impl Drop for BenchFolder {
    fn drop(&mut self) {
        // A folder that can't be deleted stays; there is nothing else to do.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
