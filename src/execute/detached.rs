//! Attempts without a server, for tests of handlers.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Committed, ReportSink, WrittenNumbers, checked_state};
use crate::{
    clock::Timestamp,
    job::{
        Extras, Job, JobId, LeaseToken, Name, Output, PayloadInfo, Position, Progress, Remote, RetryPolicy,
        Spec, State,
    },
};

/// A report of a detached attempt's handler.
#[doc(hidden)]
#[derive(Clone, PartialEq, Debug)]
pub enum DetachedReport {
    /// Progress of the attempt.
    Progress(Progress),
    /// A line of output, unchanged.
    OutputLine(Vec<u8>),
    /// A checkpoint, which counts as written.
    Checkpoint {
        /// Its number.
        number: i64,
        /// The state.
        state: Output,
        /// Whether it was to be written at once.
        commit_now: bool,
    },
}

struct Detached<F> {
    on_report: F,
    earlier: Option<Output>,
    last: AtomicI64,
    written: WrittenNumbers,
}

impl<F: Fn(DetachedReport) + Send + Sync + 'static> ReportSink for Detached<F> {
    fn progress(&self, progress: Progress) {
        (self.on_report)(DetachedReport::Progress(progress));
    }

    fn output_line(&self, line: &[u8]) {
        (self.on_report)(DetachedReport::OutputLine(line.to_vec()));
    }

    fn waits_to_start(&self, _: bool) -> bool {
        true
    }

    fn checkpoint(&self, state: Output, commit_now: bool) -> Committed {
        match checked_state(state) {
            Ok(state) => {
                let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
                (self.on_report)(DetachedReport::Checkpoint { number, state, commit_now });
                self.written.up_to(number);
                self.written.when(number)
            }
            Err(error) => Committed::refused(error),
        }
    }

    fn earlier_checkpoint(&self) -> Option<&Output> {
        self.earlier.as_ref()
    }
}

impl Attempt {
    /// Creates an attempt without a server, the second of five of its job: queue `test`, kind `test`, lease 7, request
    /// `r-1`, the label `tier`, the header `tenant`, and `encoding` in the payload's metadata.
    ///
    /// Handlers that start processes can only be tested from outside this crate, where the guard program has been
    /// built; hence a constructor that needs no server. It is not covered by the crate's stability guarantees.
    #[doc(hidden)]
    pub fn detached(
        payload: impl Into<Bytes>,
        payload_type: &str,
        on_report: impl Fn(DetachedReport) + Send + Sync + 'static,
    ) -> Attempt {
        Self::detached_after(None, payload, payload_type, on_report)
    }

    /// As [`Attempt::detached`], with the checkpoint of an earlier attempt.
    #[doc(hidden)]
    pub fn detached_after(
        earlier: Option<Output>,
        payload: impl Into<Bytes>,
        payload_type: &str,
        on_report: impl Fn(DetachedReport) + Send + Sync + 'static,
    ) -> Attempt {
        let lease = LeaseToken::from_raw(7);
        let started = Timestamp::from_micros(0);
        let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let extras = Extras {
            labels: one("tier", "gold"),
            headers: one("tenant", "x"),
            payload: PayloadInfo { metadata: one("encoding", "none"), ..PayloadInfo::typed(payload_type) },
            request_id: "r-1".to_owned(),
            ..Extras::default()
        };
        let spec = Spec {
            queue: Name::new(1, "test"),
            kind: Name::new(2, "test"),
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: std::time::Duration::from_secs(900),
            bytes: 0,
            created: started,
            expires: None,
            extras: Some(Box::new(extras)),
        };
        let job = Job {
            id: JobId::from_raw(1),
            spec: Arc::new(spec),
            state: State::Running { lease },
            revision: 2,
            position: Position::default(),
            attempt: 2,
            max_attempts: 5,
            updated: started,
            started: Some(started),
            ended: None,
            progress: None,
            failure: None,
            result: None,
            remote: Remote::NONE,
            rare: None,
        };
        Attempt {
            job: Arc::new(job),
            lease,
            payload: payload.into(),
            cancelled: CancellationToken::new(),
            traceparent: String::new(),
            reports: Arc::new(Detached {
                on_report,
                earlier,
                last: AtomicI64::new(0),
                written: WrittenNumbers::default(),
            }),
        }
    }
}
