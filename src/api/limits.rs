//! Limits of requests, and features that calls may require, as GetServerInfo reports them. `docs/api.md` has the same
//! tables.

use super::{
    graph,
    schedule_service::PREVIEW_MAX,
    sizes::MESSAGE_MAX_BYTES,
    submit_stream::CREDITS,
    validate::{BATCH_MAX, FILTER_KINDS_MAX, FILTER_QUEUES_MAX, PAGE_SIZE_MAX, WAIT, WATCHED_IDS_MAX},
    validate_worker::LEASED_MAX,
    worker_service::REPORTS_MAX,
};
use crate::{
    admission::{dependencies, rules, unique},
    engine::BACKFILL_MAX,
    execute::command::RESULT_MAX_BYTES,
    job::{
        checkpoint::CHECKPOINT_MAX_BYTES,
        worker_limits::{HELLO_LEASES_MAX, POOL_KINDS_MAX, POOLS_MAX},
    },
    proto::v1,
    settings::limits::{
        ATTEMPT_TIMEOUT, CALENDARS_MAX, CALENDARS_OF_SCHEDULE_MAX, DATES_MAX, DEADLINE, LIMIT_NAMES_MAX,
        LIMIT_OVERRIDES_MAX, LIMIT_RUNNING, LIMIT_VALUE_BYTES_MAX, LIMITS_MAX, MAX_ATTEMPTS,
        MAX_PROCESS_LOSSES, MAX_SNOOZES, QUEUE_MAX_WAIT, RATE_BURST, RATE_COUNT, RATE_PERIOD, RETRY_DELAY,
        RETRY_DELAYS_MAX, SCHEDULES_MAX, TEN_YEARS, WEIGHT, WEIGHTS_MAX,
    },
    timetable::CRONS_MAX,
    workers::CREDITS_MAX,
};

/// Features that `jobmill-require` may name: each is a field or behaviour that an older server would ignore.
pub(super) const FEATURES: [&str; 17] = [
    "deadlines",
    "dependencies",
    "drop-checkpoint",
    "expected-revision",
    "filter-done",
    "filter-queues",
    "headers",
    "limits",
    "payload-metadata",
    "relative-times",
    "request-ids",
    "reset-attempts",
    "retry-delays",
    "schedules",
    "snoozes",
    "unique-keys",
    "wait",
];

/// Returns all limits, sorted by name.
pub(super) fn all() -> Vec<v1::ServerLimit> {
    let seconds = |time: std::time::Duration| time.as_secs();
    let limits: [(&str, u64); 57] = [
        ("attempt_timeout_seconds", seconds(*ATTEMPT_TIMEOUT.end())),
        ("backfill_instants", u64::from(BACKFILL_MAX)),
        ("batch_jobs", BATCH_MAX as u64),
        ("calendar_dates", DATES_MAX as u64),
        ("calendars", CALENDARS_MAX as u64),
        ("call_dependencies", dependencies::CALL_DEPENDENCIES_MAX as u64),
        ("checkpoint_bytes", CHECKPOINT_MAX_BYTES as u64),
        ("deadline_seconds", seconds(*DEADLINE.end())),
        ("delay_seconds", seconds(TEN_YEARS)),
        ("dependencies", dependencies::DEPENDENCIES_MAX as u64),
        ("filter_kinds", FILTER_KINDS_MAX as u64),
        ("filter_queues", FILTER_QUEUES_MAX as u64),
        ("graph_jobs", u64::from(graph::JOBS_MAX)),
        ("header_bytes", rules::HEADERS_MAX_BYTES as u64),
        ("headers", rules::HEADERS_MAX as u64),
        ("hello_leases", HELLO_LEASES_MAX as u64),
        ("label_value_bytes", rules::LABEL_VALUE_MAX_BYTES as u64),
        ("labels", rules::LABELS_MAX as u64),
        ("leased_jobs", LEASED_MAX as u64),
        ("limit_names", LIMIT_NAMES_MAX as u64),
        ("limit_overrides", LIMIT_OVERRIDES_MAX as u64),
        ("limit_running", u64::from(*LIMIT_RUNNING.end())),
        ("limit_value_bytes", LIMIT_VALUE_BYTES_MAX as u64),
        ("limits", LIMITS_MAX as u64),
        ("max_attempts", u64::from(*MAX_ATTEMPTS.end())),
        ("max_process_losses", u64::from(*MAX_PROCESS_LOSSES.end())),
        ("max_snoozes", u64::from(*MAX_SNOOZES.end())),
        ("media_type_bytes", rules::MEDIA_TYPE_MAX_BYTES as u64),
        ("message_bytes", MESSAGE_MAX_BYTES as u64),
        ("metadata_bytes", rules::METADATA_MAX_BYTES as u64),
        ("metadata_entries", rules::METADATA_MAX as u64),
        ("page_size", PAGE_SIZE_MAX as u64),
        ("payload_bytes", rules::PAYLOAD_MAX_BYTES as u64),
        ("pool_credits", CREDITS_MAX as u64),
        ("pool_kinds", POOL_KINDS_MAX as u64),
        ("preview_instants", PREVIEW_MAX as u64),
        ("queue_max_wait_seconds", seconds(*QUEUE_MAX_WAIT.end())),
        ("rate_burst", u64::from(*RATE_BURST.end())),
        ("rate_count", u64::from(*RATE_COUNT.end())),
        ("rate_period_seconds", seconds(*RATE_PERIOD.end())),
        ("reports", REPORTS_MAX as u64),
        ("request_id_bytes", rules::REQUEST_ID_MAX_BYTES as u64),
        ("result_bytes", RESULT_MAX_BYTES as u64),
        ("retry_delay_seconds", seconds(*RETRY_DELAY.end())),
        ("retry_delays", RETRY_DELAYS_MAX as u64),
        ("schedule_calendars", CALENDARS_OF_SCHEDULE_MAX as u64),
        ("schedule_crons", CRONS_MAX as u64),
        ("schedules", SCHEDULES_MAX as u64),
        ("stream_credits", CREDITS as u64),
        ("tracestate_bytes", super::core::TRACESTATE_MAX_BYTES as u64),
        ("unique_key_bytes", unique::UNIQUE_KEY_MAX_BYTES as u64),
        ("unique_key_seconds", seconds(*unique::UNIQUE_TIMES.end())),
        ("wait_seconds", seconds(*WAIT.end())),
        ("watched_ids", WATCHED_IDS_MAX as u64),
        ("weight", u64::from(*WEIGHT.end())),
        ("weights", WEIGHTS_MAX as u64),
        ("worker_pools", POOLS_MAX as u64),
    ];
    let limits = limits.into_iter();
    limits.map(|(name, value)| v1::ServerLimit { name: name.to_owned(), value: value as i64 }).collect()
}

/// Returns the first required feature that this server does not have, cut to 64 bytes.
pub(super) fn unknown_feature(required: &str) -> Option<&str> {
    const NAME_MAX_BYTES: usize = 64;
    let names = required.split(',').map(str::trim);
    let unknown =
        names.filter(|name| !FEATURES.contains(name)).map(|name| crate::execute::cut(name, NAME_MAX_BYTES));
    unknown.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_that_is_required_must_be_known() {
        assert_eq!(unknown_feature("headers"), None);
        assert_eq!(unknown_feature("headers, wait,filter-done"), None);
        assert_eq!(unknown_feature("headers, teleport, more"), Some("teleport"));
        for empty in ["", " ", ",", "headers,"] {
            assert_eq!(unknown_feature(empty), Some(""), "{empty:?}");
        }
        assert_eq!(unknown_feature("HEADERS"), Some("HEADERS"));
        assert_eq!(unknown_feature(&"x".repeat(1_000)).unwrap().len(), 64);
    }

    #[test]
    fn names_are_in_order_and_in_the_documents() {
        let docs = include_str!("../../docs/api.md");
        assert!(FEATURES.is_sorted());
        let limits = all();
        assert!(limits.iter().map(|limit| &limit.name).is_sorted());
        for limit in limits {
            let row = format!("| `{}` | {} |", limit.name, limit.value);
            assert!(docs.contains(&row), "docs/api.md lacks {row}");
        }
        for feature in FEATURES {
            assert!(docs.contains(&format!("| `{feature}` |")), "docs/api.md lacks {feature}");
        }
    }
}
