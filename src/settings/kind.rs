//! How the jobs of a kind run.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

#[cfg(feature = "http")]
use super::http::HttpSettings;
use crate::job::RetryPolicy;

/// How long a command has between `SIGTERM` and `SIGKILL` unless its kind says otherwise.
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(10);

/// How jobs of a kind run, and what they get where a submission does not say.
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// What runs them.
    pub handler: HandlerSettings,
    /// What submissions of the kind get unless they say otherwise.
    pub defaults: KindDefaults,
}

/// What runs the jobs of a kind.
#[derive(Clone, Debug)]
pub enum HandlerSettings {
    /// A command.
    Command(CommandSettings),
    /// An endpoint that is called over HTTP.
    #[cfg(feature = "http")]
    Http(Box<HttpSettings>),
}

/// What submissions of a kind get unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindDefaults {
    /// How many attempts may start.
    pub max_attempts: u32,
    /// How long to wait between them.
    pub retry: RetryPolicy,
    /// How long one may take.
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

/// A command that runs jobs. No shell is involved.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program and its arguments, each one element as it is. [`crate::config::load()`] makes the program's path absolute.
    pub argv: Vec<String>,
    /// Variables that the command gets beside `PATH`, `HOME`, `LANG` and `TZ` and Jobmill's own.
    pub env: BTreeMap<String, String>,
    /// Names of the server's own variables that the command gets too.
    pub env_allow: Vec<String>,
    /// Where it runs; the server's own working folder if absent.
    pub working_dir: Option<PathBuf>,
    /// How long it has between `SIGTERM` and `SIGKILL`.
    pub kill_grace: Duration,
    /// Exit codes that no other attempt would mend.
    pub permanent_exit_codes: Vec<i32>,
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
