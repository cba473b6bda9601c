//! A job: what never changes of it, and what does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    attempt::{Failure, Progress},
    ids::{JobId, Name, Position},
    payload::{PayloadInfo, ResultInfo, bytes_of},
    retry::RetryPolicy,
    said::Said,
    state::State,
};
use crate::clock::Timestamp;

/// What a job is from its submission to its end: all that never changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// The queue that holds it.
    pub queue: Arc<Name>,
    /// What to do.
    pub kind: Arc<Name>,
    /// −100 to 100; the larger runs first.
    pub priority: i8,
    /// How long to wait between attempts.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// What it counts against its queue's bytes.
    pub bytes: u64,
    /// When it was accepted.
    pub created: Timestamp,
    /// If no attempt has started by then, the job is over.
    pub expires: Option<Timestamp>,
    /// What few jobs have; absent where a job has none of it.
    pub extras: Option<Box<Extras>>,
}

/// What few jobs have.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// The client's own names and values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the handler is told beside the payload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// What the handler is told of the payload.
    #[serde(skip_serializing_if = "PayloadInfo::is_empty")]
    pub payload: PayloadInfo,
    /// The id that the client gave the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The W3C trace context of the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// The W3C trace state of the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tracestate: String,
    /// What the client said, where the job itself does not tell.
    #[serde(skip_serializing_if = "Said::is_empty")]
    pub said: Said,
    /// Names the closure that runs the job, in the memory of the process that accepted it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub closure: String,
}

impl Extras {
    /// What they count against a queue's bytes: what a client can make large.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (bytes_of(&self.labels) + bytes_of(&self.headers) + bytes_of(&self.payload.metadata)) as u64
    }
}

impl Spec {
    /// What is kept of the spec of a deleted job: watchers look at its labels, and its closure is let go of by its name.
    /// All else of its extras goes with it.
    #[must_use]
    pub fn of_deleted(spec: &Arc<Spec>) -> Arc<Spec> {
        let Some(extras) = &spec.extras else { return Arc::clone(spec) };
        let Extras { labels, closure, .. } = &**extras;
        let kept = Extras { labels: labels.clone(), closure: closure.clone(), ..Extras::default() };
        let extras = (!kept.labels.is_empty() || !kept.closure.is_empty()).then(|| Box::new(kept));
        Arc::new(Spec { extras, ..Spec::clone(spec) })
    }

    /// The job's labels.
    #[must_use]
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.extras.as_ref().map(|extras| &extras.labels)
    }

    /// How many bytes the payload has.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        let beside = Job::FIXED_BYTES + self.extras.as_ref().map_or(0, |extras| extras.bytes());
        self.bytes.saturating_sub(beside)
    }
}

/// A job as it stands after one of its changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Identifies it.
    pub id: JobId,
    /// What never changes.
    pub spec: Arc<Spec>,
    /// Where it stands.
    pub state: State,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Where in the feed its latest change is.
    pub position: Position,
    /// How many attempts have started.
    pub attempt: u32,
    /// How many attempts may start.
    pub max_attempts: u32,
    /// When it last changed.
    pub updated: Timestamp,
    /// When its latest attempt started; absent where that went back without having started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How far its running attempt says it is.
    pub progress: Option<Arc<Progress>>,
    /// Why its latest attempt that ended did not succeed.
    pub failure: Option<Arc<Failure>>,
    /// What is known of its result; absent where it has none.
    pub result: Option<Arc<ResultInfo>>,
}

impl Job {
    /// What every job counts against its queue's bytes, beside payload, labels, headers and metadata.
    pub const FIXED_BYTES: u64 = 256;
}
