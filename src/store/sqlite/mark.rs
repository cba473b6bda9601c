//! The mark: a small file beside the database that names the store and its last committed change. A start must find at
//! least that change in the database.
//!
//! The mark is written after each batch and never flushed: after a crash of the process it is exact, after a crash of
//! the system it may be older. It is therefore never ahead of a database on a disk that keeps flushed data. A database
//! that is behind its mark has lost something: its log was deleted, it was emptied, or an old copy was put in its
//! place.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::{DATABASE, log_of};
use crate::{
    job::Position,
    store::{Missing, StoreError},
};

/// Name of the file in the data folder.
pub(super) const MARK: &str = "jobmill.mark";

/// Identity of a store, and its last committed change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The store's permanent id.
    pub store: [u8; 16],
    /// Position of the last committed change.
    pub position: Position,
}

impl Mark {
    /// Formats the mark. The length is always the same, so that a mark is overwritten in place.
    fn text(self) -> String {
        format!("jobmill store {:032x} change {:020}\n", u128::from_be_bytes(self.store), self.position.0)
    }

    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_suffix('\n')?.strip_prefix("jobmill store ")?;
        let (store, position) = rest.split_once(" change ")?;
        let store = u128::from_str_radix(store, 16).ok()?.to_be_bytes();
        Some(Mark { store, position: Position(position.parse().ok()?) })
    }

    /// Reads the mark of a folder. Returns `None` if there is none, or if it can't be parsed: after a crash of the
    /// system the file may be empty.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(MARK);
        match fs::read(&path) {
            Ok(bytes) => {
                let mark = std::str::from_utf8(&bytes).ok().and_then(Mark::parse);
                if mark.is_none() {
                    tracing::warn!(path = %path.display(), "the mark can't be parsed; it will be written anew");
                }
                Ok(mark)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::File { what: "can't read", path, source }),
        }
    }

    /// Returns what a store lacks compared with the mark.
    pub(super) fn missing_in(self, found: Mark) -> Option<Missing> {
        if found.store != self.store {
            return Some(Missing::AnotherStore);
        }
        let (found, kept) = (found.position, self.position);
        (found < kept).then_some(Missing::Changes { found, kept })
    }
}

/// Returns whether a folder has lost its database: there is a mark or a log, but no database.
pub(super) fn database_is_missing(folder: &Path, mark: Option<Mark>) -> bool {
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let database = folder.join(DATABASE);
    length(&database) == 0 && (mark.is_some() || length(&log_of(&database)) > 0)
}

/// The mark file of an open store.
#[derive(Debug)]
pub struct MarkFile {
    file: File,
    written: Mark,
    failed: bool,
}

impl MarkFile {
    /// Writes the mark of a store into its folder, over an existing one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn create(folder: &Path, mark: Mark) -> io::Result<Self> {
        let text = mark.text();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(MARK))?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        // Flushed once, so that the file and its length survive a crash of the system.
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(MarkFile { file, written: mark, failed: false })
    }

    /// Records that everything up to `position` is committed, without a flush. A failure is logged once and leaves an
    /// older mark; the store is not affected.
    pub fn advance(&mut self, position: Position) {
        if position == self.written.position {
            return;
        }
        self.written.position = position;
        if let Err(error) = self.file.write_all_at(self.written.text().as_bytes(), 0) {
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!(%error, "{MARK} can't be written: the next start may not notice a database that is behind");
            }
        } else {
            self.failed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(store: u8, position: i64) -> Mark {
        Mark { store: [store; 16], position: Position(position) }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(folder.path()).unwrap(), None);
        let mut file = MarkFile::create(folder.path(), mark(7, i64::MAX)).unwrap();
        assert_eq!(Mark::read(folder.path()).unwrap(), Some(mark(7, i64::MAX)));
        file.advance(Position(3));
        assert_eq!(Mark::read(folder.path()).unwrap(), Some(mark(7, 3)));
        fs::write(folder.path().join(MARK), "").unwrap();
        assert_eq!(Mark::read(folder.path()).unwrap(), None, "as a crash of the system may leave it");
    }

    #[test]
    fn a_database_that_is_behind_or_another_one_is_told_apart_from_one_that_went_on() {
        let kept = mark(1, 10);
        assert_eq!(kept.missing_in(mark(1, 10)), None);
        assert_eq!(kept.missing_in(mark(1, 11)), None);
        assert_eq!(kept.missing_in(mark(2, 11)), Some(Missing::AnotherStore));
        let behind = Missing::Changes { found: Position(9), kept: Position(10) };
        assert_eq!(kept.missing_in(mark(1, 9)), Some(behind));
    }
}
