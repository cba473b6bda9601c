//! Free space on the disk, and the ballast: a file that reserves space for what must be written even to a full disk.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rand::Rng;

use crate::{
    settings::DiskSettings,
    store::{Space, StoreError},
};

const BALLAST: &str = "ballast";

/// Space that a database has to spare, and space that it will need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Growth {
    /// Bytes that the database can fill before its file grows.
    pub(super) spare: u64,
    /// Bytes by which the database's file grows once the log is copied into it.
    pub(super) due: u64,
}

/// State of the disk.
#[derive(Default)]
pub(super) struct Disk {
    folder: PathBuf,
    ballast: PathBuf,
    ballast_bytes: u64,
    min_free_bytes: u64,
    has_ballast: bool,
    /// Whether the latest batch did not fit.
    full: bool,
    low: bool,
}

impl Disk {
    pub(super) fn new(folder: &Path, settings: &DiskSettings) -> Self {
        Disk {
            folder: folder.to_owned(),
            ballast: folder.join(BALLAST),
            ballast_bytes: settings.ballast_bytes,
            min_free_bytes: settings.min_free_bytes,
            has_ballast: false,
            full: false,
            low: false,
        }
    }

    /// Removes the ballast, which frees its space. Returns whether there was one.
    pub(super) fn give_up_ballast(&mut self) -> bool {
        self.has_ballast = false;
        fs::remove_file(&self.ballast).is_ok()
    }

    /// Creates the ballast, if it is missing and there is room for it. Without it, nothing fails before the disk is
    /// full.
    pub(super) fn keep_ballast(&mut self) {
        let length = fs::metadata(&self.ballast).map_or(0, |file| file.len());
        if length == self.ballast_bytes {
            self.has_ballast = true;
            return;
        }
        let room = free_bytes(&self.folder).is_ok_and(|free| free >= self.ballast_bytes);
        self.has_ballast = room && write_ballast(&self.ballast, self.ballast_bytes).is_ok();
        if !self.has_ballast {
            self.give_up_ballast();
        }
    }

    /// Records whether a batch could be written. Returns whether to checkpoint now: the ballast was given up, or the
    /// disk has just become full.
    pub(super) fn wrote(&mut self, fitted: bool) -> bool {
        let was_full = std::mem::replace(&mut self.full, !fitted);
        if fitted {
            return false;
        }
        if !was_full {
            tracing::error!(
                folder = %self.folder.display(),
                "the disk is full: new jobs are refused, and the ends of attempts wait for space"
            );
        }
        self.low = true;
        self.give_up_ballast() || !was_full
    }

    /// Returns what there is room for. `database` returns what the database has to spare and will need.
    ///
    /// The space is checked anew for each batch. Within a tenth of a second, a fast client could fill the space that is
    /// kept free, and the space of a ballast that was given up would go to the first writer.
    pub(super) fn space(&mut self, database: impl FnOnce() -> Result<Growth, StoreError>) -> Space {
        if self.full {
            return Space::Full;
        }
        self.look(database);
        if self.low { Space::Low } else { Space::Enough }
    }

    fn look(&mut self, database: impl FnOnce() -> Result<Growth, StoreError>) {
        // If the file system can't tell, there may be none.
        let free = free_bytes(&self.folder).unwrap_or_else(|error| {
            if !self.low {
                tracing::warn!(folder = %self.folder.display(), %error, "free space can't be told");
            }
            0
        });
        let needed = if self.has_ballast { 0 } else { self.ballast_bytes };
        let wanted = needed.saturating_add(self.min_free_bytes);
        let low = if free < needed {
            true
        } else if free >= wanted.saturating_add(super::checkpoint::BOUND_BYTES) {
            false
        } else {
            let Growth { spare, due } = database().unwrap_or_default();
            free.saturating_add(spare) < wanted.saturating_add(due)
        };
        if !low && !self.has_ballast {
            self.keep_ballast();
        }
        if low != self.low {
            let folder = self.folder.display();
            if low {
                tracing::warn!(%folder, free, "the disk is nearly full: new jobs are refused");
            } else {
                tracing::info!(%folder, free, "there is space on the disk again: new jobs are taken");
            }
        }
        self.low = low;
    }
}

/// Returns the bytes that the file system of a folder has left for this user.
///
/// # Errors
/// When the file system can't tell.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Writes the ballast. It need not survive a power cut: a file that is too short is written anew.
fn write_ballast(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    if reserve(&file, bytes) {
        return Ok(());
    }
    // Random bytes, because a file system that compresses would keep no space for zeros.
    let mut chunk = vec![0; 1 << 20];
    rand::rng().fill_bytes(&mut chunk);
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        file.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Reserves space in the file system without writing it, where that is supported. Returns whether it was reserved.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> bool {
    false
}
