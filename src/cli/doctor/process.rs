//! Checks of the process's environment: the clock and the limit of open files.

use jobmill::{
    clock::Timestamp,
    settings::{HandlerSettings, Settings},
};
use rustix::process::{Resource, getrlimit};

use super::{Finding, ok, problem, warning};

pub(super) const CLOCK: &str = "clock";
const FILES: &str = "open files";

/// 2026-01-01: the program did not exist before.
const EARLIEST: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// File descriptors for the store, the port, watchers and callers.
const FILES_BASE: u64 = 512;
/// File descriptors for each command: its guard, its control socket, and the pipes used while it starts.
const FILES_BY_COMMAND: u64 = 6;

pub(super) fn clock(now: Timestamp) -> Finding {
    if now < EARLIEST {
        return problem(
            CLOCK,
            format!("says {now}"),
            "set it: schedules, expiry and the jobs' times go by it",
        );
    }
    ok(CLOCK, format!("says {now}"))
}

/// Checks that the limit of open files lets all consumers work at once.
pub(super) fn open_files(settings: &Settings) -> Finding {
    let consumers: u64 = settings.queues.values().map(|queue| u64::from(queue.consumers)).sum();
    let has_commands =
        settings.kinds.values().any(|kind| matches!(kind.handler, HandlerSettings::Command(_)));
    let by_consumer = if has_commands { FILES_BY_COMMAND } else { 1 };
    let needed = FILES_BASE + consumers * by_consumer;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => warning(
            FILES,
            format!("at most {limit}, but {consumers} consumers may need {needed}"),
            format!(
                "raise it (`ulimit -n {needed}`, or LimitNOFILE={needed} in the unit), or have fewer consumers"
            ),
        ),
        Some(limit) => ok(FILES, format!("at most {limit}, of which {needed} may be needed")),
        None => ok(FILES, "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use jobmill::settings::{QueueSettings, StoreSettings};

    use super::*;
    use crate::cli::doctor::Severity;

    #[test]
    fn a_clock_that_was_never_set_is_a_problem() {
        assert_eq!(clock(Timestamp::from_micros(0)).verdict, Severity::Problem);
        assert_eq!(clock(EARLIEST).verdict, Severity::Ok);
    }

    #[test]
    fn consumers_are_weighed_against_the_limit_of_open_files() {
        let mut settings = Settings::new(StoreSettings::Memory);
        assert_eq!(open_files(&settings).verdict, Severity::Ok);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let consumers = u32::try_from(limit).unwrap_or(u32::MAX);
        settings.queues.insert("a".to_owned(), QueueSettings { consumers, ..QueueSettings::default() });
        let found = open_files(&settings);
        assert!(limit == u64::MAX || found.way_out.contains("ulimit -n "), "{found:?}");
    }
}
