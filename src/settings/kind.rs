//! Settings of a kind of jobs.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

#[cfg(feature = "http")]
use super::http::HttpSettings;
use crate::job::RetryPolicy;

/// Default time between `SIGTERM` and `SIGKILL` for a command.
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(10);

/// Settings of a kind: its handler, and the defaults of its jobs.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// The handler of the kind's jobs.
    pub handler: HandlerSettings,
    /// Values for submissions that leave them out.
    pub defaults: KindDefaults,
}

/// The handler of a kind's jobs.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug)]
pub enum HandlerSettings {
    /// A command.
    Command(CommandSettings),
    /// An endpoint that is called over HTTP.
    #[cfg(feature = "http")]
    Http(Box<HttpSettings>),
    /// No handler here: remote workers run the jobs.
    Workers,
}

/// Values for submissions of a kind that leave them out.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindDefaults {
    /// Maximum number of attempts.
    pub max_attempts: u32,
    /// Backoff between attempts.
    pub retry: RetryPolicy,
    /// Timeout of an attempt.
    pub attempt_timeout: Duration,
}

impl Default for KindDefaults {
    fn default() -> Self {
        KindDefaults {
            max_attempts: 5,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(15 * 60),
        }
    }
}

impl KindDefaults {
    /// Sets the limit of attempts.
    #[must_use]
    pub fn max_attempts(self, max_attempts: u32) -> Self {
        KindDefaults { max_attempts, ..self }
    }

    /// Sets the delays between attempts.
    #[must_use]
    pub fn retry(self, retry: RetryPolicy) -> Self {
        KindDefaults { retry, ..self }
    }

    /// Sets the time limit of an attempt.
    #[must_use]
    pub fn attempt_timeout(self, attempt_timeout: Duration) -> Self {
        KindDefaults { attempt_timeout, ..self }
    }
}

/// A command that runs jobs. No shell is involved.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program and its arguments, one element each. [`crate::config::load()`] makes the program's path absolute.
    pub argv: Vec<String>,
    /// Environment variables of the command, in addition to `PATH`, `HOME`, `LANG`, `TZ` and Jobmill's own.
    pub env: BTreeMap<String, String>,
    /// Names of the server's own variables that are passed on to the command.
    pub env_allow: Vec<String>,
    /// Working folder of the command; absent: the server's own.
    pub working_dir: Option<PathBuf>,
    /// Time between `SIGTERM` and `SIGKILL`.
    pub kill_grace: Duration,
    /// Exit codes of failures that another attempt would not mend.
    pub permanent_exit_codes: Vec<i32>,
}

impl KindSettings {
    /// Creates the settings of a kind with the default limits.
    #[must_use]
    pub fn new(handler: HandlerSettings) -> Self {
        KindSettings { handler, defaults: KindDefaults::default() }
    }
}

impl CommandSettings {
    /// Creates the settings of a program with its arguments: no further variables, the server's own working folder, 10 s
    /// between `SIGTERM` and `SIGKILL`, and no permanent exit codes.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        CommandSettings {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            env_allow: Vec::new(),
            working_dir: None,
            kill_grace: DEFAULT_KILL_GRACE,
            permanent_exit_codes: Vec::new(),
        }
    }
}

impl fmt::Debug for CommandSettings {
    /// Shows the names of variables only: their values may be secret, and settings end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CommandSettings { argv, env, env_allow, working_dir, kill_grace, permanent_exit_codes } = self;
        f.debug_struct("CommandSettings")
            .field("argv", argv)
            .field("env", &env.keys())
            .field("env_allow", env_allow)
            .field("working_dir", working_dir)
            .field("kill_grace", kill_grace)
            .field("permanent_exit_codes", permanent_exit_codes)
            .finish()
    }
}
