//! Paths of files and folders.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::rules::{Rule, quote};

/// The path of a folder, absolute or relative to `base`.
pub(super) struct Folder<'a> {
    /// The base of relative paths.
    pub(super) base: &'a Path,
    /// Whether the folder must exist already.
    pub(super) must_exist: bool,
}

impl Rule for Folder<'_> {
    type Value = PathBuf;

    fn wanted(&self) -> String {
        "the path of a folder".to_owned()
    }

    fn text(&self, text: &str) -> Result<PathBuf, String> {
        let path = path_from(self.base, text, &self.wanted())?;
        if self.must_exist && !path.is_dir() {
            let found = if path.exists() { "is not a folder" } else { "does not exist" };
            return Err(format!(
                "{} {found}; make the folder or correct the path",
                quote(&path.to_string_lossy())
            ));
        }
        Ok(path)
    }

    fn show(&self, value: &PathBuf) -> Json {
        value.to_string_lossy().into()
    }
}

/// Joins a path to `base`, unless it is absolute.
pub(super) fn path_from(base: &Path, text: &str, wanted: &str) -> Result<PathBuf, String> {
    let shown = quote(text);
    if text.is_empty() {
        return Err(format!("the path is empty; write {wanted}"));
    }
    if text.contains('\0') {
        return Err(format!("{shown} has a NUL character; write {wanted}"));
    }
    if text == "~" || text.starts_with("~/") {
        // Only shells expand `~`, and a folder of that name would be a surprise.
        return Err(format!("{shown} starts with `~`, which means nothing here; write the whole path"));
    }
    Ok(base.join(text))
}

/// The path of a file that is read or written later. It may be relative to the configuration file's own folder, `base`.
pub(super) struct FileIn<'a> {
    pub(super) base: &'a Path,
}

impl Rule for FileIn<'_> {
    type Value = PathBuf;

    fn wanted(&self) -> String {
        "the path of a file".to_owned()
    }

    fn text(&self, text: &str) -> Result<PathBuf, String> {
        path_from(self.base, text, &self.wanted())
    }

    fn show(&self, value: &PathBuf) -> serde_json::Value {
        value.to_string_lossy().into()
    }
}
