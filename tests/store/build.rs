//! Builders of jobs, offers and settings for the tests of the stores.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jobmill::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::NewJob,
    job::{Failure, FailureReason, OnConflict, RequestId, RetryPolicy, UniqueKey},
    settings::{QueueRetention, QueueSettings, WhenFull},
};

use super::batch::Offer;

/// Returns a job of the kind `kind` for `queue` with default properties.
pub(crate) fn job(queue: &str, kind: &str) -> NewJob {
    NewJob {
        queue: Arc::from(queue),
        kind: Arc::from(kind),
        priority: 0,
        max_attempts: 3,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: Duration::from_secs(900),
        run_time: None,
        expires: None,
        deadline: None,
        extras: None,
        depends_on: Vec::new(),
        payload: Bytes::new(),
    }
}

/// Returns a job with a unique key.
pub(crate) fn keyed(unique: UniqueKey, mut job: NewJob) -> NewJob {
    let extras = job.extras.get_or_insert_default();
    if unique.debounce.is_none() {
        extras.said.start = job.run_time;
    }
    extras.unique = Some(Box::new(unique));
    job
}

/// Returns a unique key with policies for a holder that waits and for one that has started.
pub(crate) fn key(text: &str, on_waiting: OnConflict, on_started: OnConflict) -> UniqueKey {
    let (on_waiting, on_started) = (Some(on_waiting), Some(on_started));
    UniqueKey { key: text.to_owned(), on_waiting, on_started, ..UniqueKey::default() }
}

/// Returns an offer under a request id. Equal `said` texts are equal requests.
pub(crate) fn requested(id: &str, said: &str, mut jobs: Vec<NewJob>) -> Offer {
    for job in &mut jobs {
        job.extras.get_or_insert_default().request_id = id.to_owned();
    }
    Offer { request: Some(request(id, said)), jobs, waits: false }
}

/// Returns a request id with the digest of `said`.
pub(crate) fn request(id: &str, said: &str) -> RequestId {
    RequestId { key: RequestId::key_of(id), digest: RequestId::hash(&[said.as_bytes()]) }
}

/// Returns settings of a queue with this many slots and this capacity.
pub(crate) fn settings(consumers: u32, max_jobs: u64) -> QueueSettings {
    QueueSettings {
        max_jobs,
        max_bytes: 1 << 30,
        consumers,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(30),
        max_waiters: 10,
        accept_unknown_kinds: true,
        fair_by: None,
        retention: QueueRetention::default(),
    }
}

/// Returns a failure of the handler.
pub(crate) fn failure(retryable: bool) -> Arc<Failure> {
    Arc::new(Failure {
        reason: FailureReason::HandlerError,
        message: "no".into(),
        code: String::new(),
        exit_code: None,
        retryable,
        parent: None,
    })
}

/// Returns the instant this many seconds after the tests begin.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

/// Returns the present this many seconds after the tests begin, on a machine that has been up since then and whose
/// clock is right.
pub(crate) fn present(seconds: i64) -> ClockReading {
    ClockReading { wall: at(seconds), uptime: Uptime::new(Duration::from_secs(seconds.unsigned_abs())) }
}
