//! The environment that a configuration depends on, beside its file and flags.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use crate::clock::{Clock, Timestamp};

/// The environment of the process that reads a configuration. Injected, so that tests need no process of their own.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    superuser: bool,
    current_dir: PathBuf,
    now: Timestamp,
}

impl Environment {
    /// Reads the environment of the running process.
    #[must_use]
    pub fn of_process() -> Self {
        Environment {
            variables: env::vars_os().collect(),
            superuser: rustix::process::geteuid().is_root(),
            // A working folder that has been deleted leaves relative paths as they are; opening them then fails.
            current_dir: env::current_dir().unwrap_or_default(),
            now: Clock::System.now(),
        }
    }

    /// Creates an environment for tests: an ordinary user without variables, in `current_dir`, in 2027.
    #[must_use]
    pub fn bare(current_dir: impl Into<PathBuf>) -> Self {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        Environment { variables: BTreeMap::new(), superuser: false, current_dir: current_dir.into(), now }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Makes the user root.
    #[must_use]
    pub fn with_superuser(mut self) -> Self {
        self.superuser = true;
        self
    }

    /// Returns the value of a variable. An empty one counts as absent, because compose files and units often pass unset
    /// variables on as empty.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Returns the base of relative paths in flags and variables.
    pub(super) fn current_dir(&self) -> &Path {
        &self.current_dir
    }

    /// Returns the present time, from which declared schedules must have instants to come.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns the configuration file's default path.
    pub(super) fn default_config_file(&self) -> Option<PathBuf> {
        Some(self.user_dir("XDG_CONFIG_HOME", ".config")?.join("jobmill/jobmill.toml"))
    }

    /// Returns the default data folder.
    pub(super) fn default_data_dir(&self) -> Option<PathBuf> {
        if self.superuser {
            return Some(PathBuf::from("/var/lib/jobmill"));
        }
        Some(self.user_dir("XDG_DATA_HOME", ".local/share")?.join("jobmill"))
    }

    /// Returns a folder by the XDG rules, which ignore a relative path in the variable.
    fn user_dir(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |name| self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
    }
}

impl fmt::Debug for Environment {
    /// Leaves out the values of variables, since some are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("superuser", &self.superuser)
            .field("current_dir", &self.current_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Environment {
        Environment::bare("/work").with_variable("HOME", "/home/ada")
    }

    #[test]
    fn folders_follow_the_xdg_rules() {
        for (environment, config, data) in [
            (ada(), "/home/ada/.config/jobmill/jobmill.toml", "/home/ada/.local/share/jobmill"),
            (
                ada().with_variable("XDG_CONFIG_HOME", "/c").with_variable("XDG_DATA_HOME", "/d"),
                "/c/jobmill/jobmill.toml",
                "/d/jobmill",
            ),
            (
                ada().with_variable("XDG_CONFIG_HOME", "c").with_variable("XDG_DATA_HOME", ""),
                "/home/ada/.config/jobmill/jobmill.toml",
                "/home/ada/.local/share/jobmill",
            ),
            (ada().with_superuser(), "/home/ada/.config/jobmill/jobmill.toml", "/var/lib/jobmill"),
        ] {
            assert_eq!(environment.default_config_file().as_deref(), Some(Path::new(config)));
            assert_eq!(environment.default_data_dir().as_deref(), Some(Path::new(data)));
        }
    }

    #[test]
    fn without_a_home_there_are_no_default_folders() {
        let environment = Environment::bare("/work");
        assert_eq!(environment.default_config_file(), None);
        assert_eq!(environment.default_data_dir(), None);
    }
}
