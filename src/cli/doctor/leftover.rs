//! Check for jobs whose queue is no longer declared in the configuration, or whose kind has no handler any more.

use std::path::Path;

use jobmill::{
    job::names,
    settings::Settings,
    store::{Leftover, sqlite},
};

use super::{Finding, text, warning};

const JOBS: &str = "jobs";
/// Limit of the queues, and of the kinds, that have a line of their own.
const SHOWN_MAX: usize = 10;

/// Checks the database of `folder` for such jobs. If it can't be read, the check of the database reports the reason.
pub(super) fn check(folder: &Path, settings: &Settings) -> Vec<Finding> {
    let Ok(Some(found)) = sqlite::inventory(folder) else { return Vec::new() };
    let Leftover { queues, kinds } = Leftover::find(
        &found.queues,
        &found.tallies,
        |queue| settings.queues.contains_key(queue),
        |kind| {
            settings.kinds.contains_key(kind)
                || names::is_reserved_kind(kind)
                || found.worker_kinds.contains(kind)
        },
    );
    let mut findings = findings(&queues, |queue, jobs| {
        (
            format!("{jobs} in the queue `{queue}`, which the configuration does not declare any more"),
            "they go on as the queue was set up; declare it again, or change or purge it with `jobmill queue`",
        )
    });
    findings.extend(self::findings(&kinds, |kind, jobs| {
        (
            format!("{jobs} of the kind `{kind}`, which has no handler"),
            "they wait until one has it: map the kind to a handler again, or cancel them",
        )
    }));
    findings
}

fn findings(all: &[(String, u64)], tell: impl Fn(&str, &str) -> (String, &'static str)) -> Vec<Finding> {
    let shown = all.iter().take(SHOWN_MAX).map(|(name, jobs)| {
        let (message, way_out) = tell(name, &text::counted(*jobs, "job"));
        warning(JOBS, message, way_out)
    });
    let mut findings: Vec<_> = shown.collect();
    if let Some(last) = findings.last_mut()
        && all.len() > SHOWN_MAX
    {
        last.message.push_str(&format!("; and {} more like this", all.len() - SHOWN_MAX));
    }
    findings
}
