//! Resolved settings.

use super::fault::SettingSource;

/// A setting as resolved from file, environment, flags and defaults.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedSetting {
    /// The key's full path.
    pub key: String,
    /// The value as the file would write it. Of `env`, only the names, since the values may be secrets.
    pub value: serde_json::Value,
    /// The source of the value.
    pub place: SettingSource,
}
