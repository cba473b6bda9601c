//! Settings of a kind of jobs.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

#[cfg(feature = "http")]
use super::http::HttpSettings;
use super::limits::DEFAULT_SNOOZE_DELAY;
use crate::job::{RetryPolicy, Spec};

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

impl HandlerSettings {
    /// Returns whether an endpoint is to call its running attempts back, for which metrics and health need an address.
    #[must_use]
    pub fn wants_callbacks(&self) -> bool {
        match self {
            #[cfg(feature = "http")]
            HandlerSettings::Http(settings) => settings.callback_url.is_some(),
            HandlerSettings::Command(_) | HandlerSettings::Workers => false,
        }
    }
}

/// Values for submissions of a kind that leave them out, and the most that others may ask for.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug, PartialEq)]
pub struct KindDefaults {
    /// Maximum number of attempts.
    pub max_attempts: u32,
    /// Backoff between attempts.
    pub retry: RetryPolicy,
    /// Timeout of an attempt.
    pub attempt_timeout: Duration,
    /// Time from acceptance by which a job must have ended; absent: it has no deadline.
    pub deadline: Option<Duration>,
    /// Limit of snoozes.
    pub max_snoozes: u32,
    /// Limit of process losses within 72 hours.
    pub max_process_losses: u32,
    /// The most that a submission may ask for.
    pub bounds: JobBounds,
}

/// The most that submissions of a kind may ask for. Where a value is absent, the server's own limit applies.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobBounds {
    /// Largest number of attempts.
    pub max_attempts: Option<u32>,
    /// Longest timeout of an attempt.
    pub attempt_timeout: Option<Duration>,
    /// Longest delay of a retry policy.
    pub max_delay: Option<Duration>,
    /// Largest limit of snoozes.
    pub max_snoozes: Option<u32>,
    /// Largest limit of process losses.
    pub max_process_losses: Option<u32>,
}

impl Default for KindDefaults {
    fn default() -> Self {
        KindDefaults {
            max_attempts: 5,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(15 * 60),
            deadline: None,
            max_snoozes: Spec::DEFAULT_MAX_SNOOZES,
            max_process_losses: Spec::DEFAULT_MAX_PROCESS_LOSSES,
            bounds: JobBounds::default(),
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

    /// Sets the time from acceptance by which a job must have ended.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        KindDefaults { deadline: Some(deadline), ..self }
    }

    /// Sets the limit of snoozes.
    #[must_use]
    pub fn max_snoozes(self, max_snoozes: u32) -> Self {
        KindDefaults { max_snoozes, ..self }
    }

    /// Sets the limit of process losses within 72 hours.
    #[must_use]
    pub fn max_process_losses(self, max_process_losses: u32) -> Self {
        KindDefaults { max_process_losses, ..self }
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
    /// Exit codes by which the command asks to be run again later.
    pub snooze_exit_codes: Vec<i32>,
    /// The delay after one of these exit codes, unless the command tells another one.
    pub snooze_delay: Duration,
    /// Name of a limit under which nothing starts until the end of such a delay: nothing of the job's own value.
    pub snooze_pauses: Option<String>,
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
            snooze_exit_codes: Vec::new(),
            snooze_delay: DEFAULT_SNOOZE_DELAY,
            snooze_pauses: None,
        }
    }
}

impl fmt::Debug for CommandSettings {
    /// Shows the names of variables only: their values may be secret, and settings end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CommandSettings {
            argv,
            env,
            env_allow,
            working_dir,
            kill_grace,
            permanent_exit_codes,
            snooze_exit_codes,
            snooze_delay,
            snooze_pauses,
        } = self;
        f.debug_struct("CommandSettings")
            .field("argv", argv)
            .field("env", &env.keys())
            .field("env_allow", env_allow)
            .field("working_dir", working_dir)
            .field("kill_grace", kill_grace)
            .field("permanent_exit_codes", permanent_exit_codes)
            .field("snooze_exit_codes", snooze_exit_codes)
            .field("snooze_delay", snooze_delay)
            .field("snooze_pauses", snooze_pauses)
            .finish()
    }
}
