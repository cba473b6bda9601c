//! Where jobs are kept, and what is done about a disk that fills up.

use std::path::PathBuf;

/// Where jobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In memory: gone when the server stops.
    Memory,
    /// In a folder, which is made where it does not exist.
    Folder(PathBuf),
}

/// What is done about a disk that fills up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Space in bytes that a file keeps for the ends of attempts, cancels and deletes.
    pub ballast_bytes: u64,
    /// No new jobs are taken while the file system has less space than this, in bytes.
    pub min_free_bytes: u64,
    /// Whether a start goes on with a database that lacks what was acknowledged. For one start, at an operator's word: no
    /// configuration file can say it.
    pub accept_loss: bool,
    /// The name of a SQLite VFS that this process has registered; absent: the system's own. For tests of faults: no
    /// configuration file can say it.
    pub vfs: Option<String>,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings { ballast_bytes: 16 << 20, min_free_bytes: 64 << 20, accept_loss: false, vfs: None }
    }
}
