//! The demo's input: the files of a folder, up to some limits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::cli::text;

const FILES_MAX: usize = 200;
const FILE_MAX_BYTES: u64 = 64 << 20;
/// Folders that are usually large and generated.
const SKIPPED_FOLDERS: [&str; 2] = ["target", "node_modules"];

/// The input files, and counts of the files that were left out.
#[derive(Debug, Default)]
pub(super) struct InputFiles {
    pub(super) files: Vec<Input>,
    hidden: u64,
    folders: u64,
    large: u64,
    unreadable: u64,
    /// Whether there are more files than the limit.
    more: bool,
}

/// A file, and its stamp when it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    stamp: Stamp,
}

/// The size and modification time of a file, which change when it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

/// The result of this process's own check of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FileCheck {
    /// The checksum of a file that has not changed since it was found.
    Sum(String),
    /// The file has changed since, so that no checksum can be expected of it.
    Changed,
    /// The file can't be read, or was deleted.
    Unreadable,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Stamp { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Input {
    pub(super) fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Computes the checksum in another way than the jobs do: the whole file at once.
    pub(super) fn check(&self) -> FileCheck {
        let Ok(content) = fs::read(&self.path) else { return FileCheck::Unreadable };
        match fs::metadata(&self.path) {
            Ok(metadata) if Stamp::of(&metadata) == self.stamp => {
                FileCheck::Sum(Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect())
            }
            Ok(_) => FileCheck::Changed,
            Err(_) => FileCheck::Unreadable,
        }
    }
}

impl InputFiles {
    /// Finds the files under a folder, in the order of their names. Links are not followed.
    pub(super) fn under(folder: &Path) -> io::Result<InputFiles> {
        let mut found = InputFiles::default();
        // Only `folder` itself must be readable; unreadable folders below it are left out.
        found.enter(fs::read_dir(folder)?);
        Ok(found)
    }

    fn enter(&mut self, folder: fs::ReadDir) {
        let mut entries: Vec<_> = folder.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.more {
                return;
            }
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            if name.as_encoded_bytes().starts_with(b".") {
                self.hidden += 1;
            } else if kind.is_dir() && SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) {
                self.folders += 1;
            } else if kind.is_dir() {
                match fs::read_dir(entry.path()) {
                    Ok(inner) => self.enter(inner),
                    Err(_) => self.unreadable += 1,
                }
            } else if kind.is_file() {
                self.add(&entry);
            }
        }
    }

    fn add(&mut self, entry: &fs::DirEntry) {
        let Ok(metadata) = entry.metadata() else {
            self.unreadable += 1;
            return;
        };
        if metadata.len() > FILE_MAX_BYTES {
            self.large += 1;
        } else if self.files.len() == FILES_MAX {
            self.more = true;
        } else {
            self.files.push(Input { path: entry.path(), stamp: Stamp::of(&metadata) });
        }
    }

    /// Describes the files that were left out.
    pub(super) fn left_out(&self) -> Vec<String> {
        let mut said = Vec::new();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                said.push(format!("{count} {what}"));
            }
        };
        say(self.hidden, "hidden");
        say(self.folders, "folders named target or node_modules");
        say(self.large, &format!("larger than {}", text::bytes(FILE_MAX_BYTES)));
        say(self.unreadable, "not readable");
        if self.more {
            said.push(format!("all after the first {FILES_MAX}"));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    #[test]
    fn files_are_found_within_reason() {
        let folder = folder(&["b", "a/2", "a/1", ".git/x", ".env", "target/y", "a/node_modules/z", "c"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        fs::File::create(folder.path().join("large")).unwrap().set_len(FILE_MAX_BYTES + 1).unwrap();
        let found = InputFiles::under(folder.path()).unwrap();
        let names: Vec<_> = found
            .files
            .iter()
            .map(|file| file.path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a/1", "a/2", "b", "c"]);
        assert_eq!(
            found.left_out(),
            ["2 hidden", "2 folders named target or node_modules", "1 larger than 64 MiB"]
        );
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let names: Vec<_> = (0..FILES_MAX + 5).map(|n| format!("{n:03}")).collect();
        let folder = folder(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let found = InputFiles::under(folder.path()).unwrap();
        assert_eq!(found.files.len(), FILES_MAX);
        assert_eq!(found.left_out(), ["all after the first 200"]);
    }

    #[test]
    fn a_file_that_changes_or_goes_is_noticed() {
        let folder = folder(&["abc"]);
        let found = InputFiles::under(folder.path()).unwrap();
        let file = &found.files[0];
        assert_eq!(
            file.check(),
            FileCheck::Sum("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into())
        );
        fs::write(&file.path, "longer").unwrap();
        assert_eq!(file.check(), FileCheck::Changed);
        fs::remove_file(&file.path).unwrap();
        assert_eq!(file.check(), FileCheck::Unreadable);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(InputFiles::under(Path::new("/no/such/folder")).is_err());
    }
}
