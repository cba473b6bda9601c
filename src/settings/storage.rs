//! Storage of jobs, and handling of a disk that fills up.

use std::path::PathBuf;

/// Storage of jobs.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In memory; lost when the server stops.
    Memory,
    /// In a folder, which is created if it does not exist.
    Folder(PathBuf),
}

/// Handling of a disk that fills up.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Size of the ballast in bytes: a file that reserves space for the ends of attempts, cancels and deletes.
    pub ballast_bytes: u64,
    /// Free space in bytes below which new jobs are refused.
    pub min_free_bytes: u64,
    /// Whether a start accepts a database that lacks acknowledged changes. Set for one start at an operator's command:
    /// no configuration file can set it.
    pub accept_loss: bool,
    /// Name of a SQLite VFS that this process has registered; absent: the system's own. For tests of faults: no
    /// configuration file can set it.
    pub vfs: Option<String>,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings { ballast_bytes: 16 << 20, min_free_bytes: 64 << 20, accept_loss: false, vfs: None }
    }
}
