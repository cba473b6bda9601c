//! The jobs of the demo, and the outcome expected of each.

use std::{os::unix::ffi::OsStrExt, path::Path, time::Duration};

use jobmill::{
    client::to_wire_duration,
    proto::v1::{JobSpec, JobState, Payload, RetryPolicy, job_spec::Start},
    settings::{
        CommandSettings, HandlerSettings, KindDefaults, KindSettings, QueueSettings, Settings, StoreSettings,
        TracesSettings, WhenFull,
    },
};

use super::files::Input;
use crate::cli::steps;

/// Delay of the delayed job.
pub(super) const DELAY: Duration = Duration::from_secs(2);
/// Number of failures of the flaky job before it succeeds.
pub(super) const FAILURES: u32 = 2;

const FILES_QUEUE: &str = "files";
/// The special jobs have a queue of their own: the one that waits to be cancelled must not take a slot of the files.
const SPECIAL_QUEUE: &str = "special";
const CHECKSUM_KIND: &str = "checksum";
const FLAKY_KIND: &str = "flaky";
const SLEEP_KIND: &str = "sleep";

/// The part that a job plays in the demo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    /// The checksum of the file with this index.
    File(usize),
    /// It fails twice and then succeeds.
    Flaky,
    /// It is cancelled while it runs.
    Cancelled,
    /// It does not start before its time.
    Delayed,
}

impl Role {
    pub(super) const SPECIAL: [Role; 3] = [Role::Flaky, Role::Cancelled, Role::Delayed];

    /// Returns the title of the job, a few words.
    pub(super) fn title(self) -> &'static str {
        match self {
            Role::File(_) => "a checksum",
            Role::Flaky => "fails twice, then succeeds",
            Role::Cancelled => "cancelled while it runs",
            Role::Delayed => "starts 2 s later",
        }
    }

    /// Returns the state in which the job should end.
    pub(super) fn expected(self) -> JobState {
        match self {
            Role::File(_) | Role::Flaky | Role::Delayed => JobState::Succeeded,
            Role::Cancelled => JobState::Cancelled,
        }
    }

    /// Returns the number of attempts that the job should take.
    pub(super) fn expected_attempts(self) -> i32 {
        match self {
            Role::Flaky => FAILURES as i32 + 1,
            Role::File(_) | Role::Cancelled | Role::Delayed => 1,
        }
    }

    /// Returns the spec of the job.
    pub(super) fn spec(self, files: &[Input]) -> JobSpec {
        let (queue, kind, payload) = match self {
            Role::File(index) => {
                (FILES_QUEUE, CHECKSUM_KIND, files[index].path.as_os_str().as_bytes().to_vec())
            }
            Role::Flaky => (SPECIAL_QUEUE, FLAKY_KIND, FAILURES.to_string().into_bytes()),
            Role::Cancelled => (SPECIAL_QUEUE, SLEEP_KIND, Vec::new()),
            Role::Delayed => (SPECIAL_QUEUE, FLAKY_KIND, b"0".to_vec()),
        };
        let retry_policy = RetryPolicy {
            initial_delay: Some(to_wire_duration(Duration::from_millis(300))),
            max_delay: Some(to_wire_duration(Duration::from_secs(1))),
            multiplier: Some(2.0),
            jitter: Some(0.0),
            ..RetryPolicy::default()
        };
        JobSpec {
            queue: queue.to_owned(),
            kind: kind.to_owned(),
            payload: Some(Payload::of(payload)),
            retry_policy: Some(retry_policy.into()),
            start: (self == Role::Delayed).then(|| Start::Delay(to_wire_duration(DELAY))),
            ..Default::default()
        }
    }
}

/// Returns settings of a server on a free port, with its jobs in `folder`, whose kinds run this program's hidden verbs.
pub(super) fn settings(folder: &Path, program: &str) -> Settings {
    let command = |verb: &str| KindSettings {
        handler: HandlerSettings::Command(CommandSettings {
            kill_grace: Duration::from_secs(5),
            permanent_exit_codes: vec![i32::from(steps::EXIT_NO_INPUT)],
            ..CommandSettings::new([program, verb])
        }),
        defaults: KindDefaults { attempt_timeout: Duration::from_secs(60), ..KindDefaults::default() },
    };
    let queue = |consumers: Option<u32>| {
        let defaults = QueueSettings::default();
        QueueSettings {
            when_full: WhenFull::Wait,
            consumers: consumers.unwrap_or(defaults.consumers),
            ..defaults
        }
    };
    Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        drain_timeout: Duration::from_secs(10),
        metrics_listen: None,
        traces: TracesSettings::default(),
        queues: [
            (FILES_QUEUE.to_owned(), queue(None)),
            (SPECIAL_QUEUE.to_owned(), queue(Some(Role::SPECIAL.len() as u32))),
        ]
        .into(),
        kinds: [
            (CHECKSUM_KIND.to_owned(), command(steps::CHECKSUM)),
            (FLAKY_KIND.to_owned(), command(steps::FLAKY)),
            (SLEEP_KIND.to_owned(), command(steps::SLEEP)),
        ]
        .into(),
        ..Settings::new(StoreSettings::Folder(folder.to_owned()))
    }
}
