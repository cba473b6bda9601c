//! Warnings at start-up about queues and kinds that the configuration no longer has.

use crate::store::Leftover;

/// Maximum number of queues, and of kinds, that get their own log line.
const TOLD_MAX: usize = 10;

/// Logs the warnings.
pub(super) fn tell(leftover: &Leftover) {
    let Leftover { queues, kinds } = leftover;
    for (queue, jobs) in queues.iter().take(TOLD_MAX) {
        tracing::warn!(
            queue,
            jobs,
            "the configuration does not declare this queue any more: its jobs go on with its last settings; \
             declare it again, or change or purge it over the API"
        );
    }
    for (kind, jobs) in kinds.iter().take(TOLD_MAX) {
        tracing::warn!(
            kind,
            jobs,
            "nothing runs this kind: its jobs wait until it has a handler; map it to one again, or cancel them"
        );
    }
    let untold = queues.len().saturating_sub(TOLD_MAX) + kinds.len().saturating_sub(TOLD_MAX);
    if untold > 0 {
        tracing::warn!(untold, "there are more such queues and kinds: `jobmill doctor` counts them");
    }
}
