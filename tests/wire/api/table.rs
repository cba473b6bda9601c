//! Tables for tests that walk all RPCs: each RPC's role and valid requests; of each call that changes something its
//! command, the repeated part of its answer, and its undoing. A new RPC without a row fails the tests.

use jobmill::{
    proto::v1::{self, JobState},
    settings::Role,
};
use prost::Message;

use super::raw::{Fixtures, KIND, Rpc, greeting, hello, no_consumers};
use crate::{
    queues::in_queue,
    support::{Rig, soon, update_of},
};

/// A call that changes something, submissions excluded.
pub(super) struct Verb {
    pub(super) rpc: &'static str,
    pub(super) role: Role,
    /// The arguments of `jobmill` for the same call.
    pub(super) command: &'static [&'static str],
    pub(super) target: Target,
}

/// What a verb changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Job,
    Queue,
    /// A unique key.
    Key,
}

impl Target {
    /// Returns the reason of the refusal of a caller that may not know of the target.
    pub(super) fn hidden(self) -> &'static str {
        match self {
            Target::Job => "JOB_NOT_FOUND",
            Target::Queue => "ROLE_MISSING",
            Target::Key => "KEY_NOT_FOUND",
        }
    }
}

const fn verb(rpc: &'static str, role: Role, command: &'static [&'static str], target: Target) -> Verb {
    Verb { rpc, role, command, target }
}

pub(super) const VERBS: [Verb; 11] = [
    verb("CancelJob", Role::Cancel, &["cancel"], Target::Job),
    verb("RetryJob", Role::Admin, &["retry"], Target::Job),
    verb("UpdateJob", Role::Admin, &["update"], Target::Job),
    verb("DeleteJob", Role::Admin, &["delete"], Target::Job),
    verb("ReleaseUniqueKey", Role::Admin, &["key", "release"], Target::Key),
    verb("CreateQueue", Role::Admin, &["queue", "create"], Target::Queue),
    verb("UpdateQueue", Role::Admin, &["queue", "update"], Target::Queue),
    verb("DeleteQueue", Role::Admin, &["queue", "delete"], Target::Queue),
    verb("PauseQueue", Role::Admin, &["queue", "pause"], Target::Queue),
    verb("ResumeQueue", Role::Admin, &["queue", "resume"], Target::Queue),
    verb("PurgeQueue", Role::Admin, &["queue", "purge"], Target::Queue),
];

/// The roles of all other calls; `None` where any token is accepted.
const OTHERS: [(&str, Option<Role>); 17] = [
    ("Submit", Some(Role::Submit)),
    ("SubmitBatch", Some(Role::Submit)),
    ("SubmitStream", Some(Role::Submit)),
    ("SubmitAndWatch", Some(Role::Submit)),
    ("WatchStatus", Some(Role::Read)),
    ("GetJob", Some(Role::Read)),
    ("ListJobs", Some(Role::Read)),
    ("CountJobs", Some(Role::Read)),
    ("ListUniqueKeys", Some(Role::Read)),
    ("GetQueue", Some(Role::Read)),
    ("ListQueues", Some(Role::Read)),
    ("GetServerInfo", None),
    ("Work", Some(Role::Work)),
    ("LeaseJobs", Some(Role::Work)),
    ("ReportJobs", Some(Role::Work)),
    ("ListWorkers", Some(Role::Read)),
    ("DrainWorkers", Some(Role::Admin)),
];

/// Returns the role that a call needs.
pub(super) fn role(rpc: &Rpc) -> Option<Role> {
    let verbs = VERBS.iter().map(|verb| (verb.rpc, Some(verb.role)));
    let found = verbs.chain(OTHERS).find(|(name, _)| *name == rpc.short());
    found.unwrap_or_else(|| panic!("{} has no row here: say which role it needs", rpc.name)).1
}

impl Fixtures {
    /// Returns a valid request of an RPC.
    pub(super) fn request(&self, rpc: &Rpc, request_id: &str) -> Vec<u8> {
        self.request_for(rpc, request_id, false)
    }

    /// Returns another valid request of an RPC.
    pub(super) fn other_request(&self, rpc: &Rpc, request_id: &str) -> Vec<u8> {
        self.request_for(rpc, request_id, true)
    }

    fn request_for(&self, rpc: &Rpc, request_id: &str, other: bool) -> Vec<u8> {
        let Fixtures { queue, empty, new, waiting, cancelled, keys } = self;
        macro_rules! said {
            ($request:ident { $($field:ident: $value:expr),* $(,)? }) => {
                v1::$request { $($field: $value,)* ..Default::default() }.encode_to_vec()
            };
        }
        let request_id = request_id.to_owned();
        let spec = v1::JobSpec { max_attempts: i32::from(other), ..in_queue(queue, "echo") };
        let job = Some(spec.clone());
        let expected_revision = other.then_some(1_000_000);
        let settings = v1::QueueSettings { max_jobs: Some(if other { 8 } else { 9 }), ..no_consumers() };
        let name = if other { "default" } else { queue };
        let named = || name.to_owned();
        match rpc.short() {
            "Submit" => said!(SubmitRequest { job: job, request_id: request_id }),
            "SubmitBatch" => said!(SubmitBatchRequest { jobs: vec![spec; 2], request_id: request_id }),
            "SubmitStream" => {
                said!(SubmitStreamRequest { items: vec![v1::SubmitItem { job, request_id }] })
            }
            "SubmitAndWatch" => said!(SubmitAndWatchRequest { job: job, request_id: request_id }),
            "WatchStatus" => said!(WatchStatusRequest { ids: vec![waiting.clone()] }),
            "GetJob" => said!(GetJobRequest { id: waiting.clone() }),
            "ListJobs" => said!(ListJobsRequest {}),
            "CountJobs" => said!(CountJobsRequest {}),
            "CancelJob" => said!(CancelJobRequest {
                id: waiting.clone(),
                request_id: request_id,
                expected_revision: expected_revision
            }),
            "RetryJob" => said!(RetryJobRequest {
                id: cancelled.clone(),
                request_id: request_id,
                expected_revision: expected_revision
            }),
            "UpdateJob" => said!(UpdateJobRequest {
                id: waiting.clone(),
                spec: Some(v1::JobSpec { priority: Some(if other { 8 } else { 9 }), ..Default::default() }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["priority".to_owned()] }),
                request_id: request_id,
                expected_revision: expected_revision
            }),
            "DeleteJob" => said!(DeleteJobRequest {
                id: if other { waiting } else { cancelled }.clone(),
                request_id: request_id,
                expected_revision: expected_revision
            }),
            "ListUniqueKeys" => said!(ListUniqueKeysRequest {}),
            "ReleaseUniqueKey" => said!(ReleaseUniqueKeyRequest {
                key: keys[usize::from(other)].clone(),
                of: "echo".to_owned(),
                request_id: request_id
            }),
            "CreateQueue" => {
                said!(CreateQueueRequest {
                    name: new.clone(),
                    settings: Some(settings),
                    request_id: request_id
                })
            }
            "GetQueue" => said!(GetQueueRequest { name: queue.clone() }),
            "ListQueues" => said!(ListQueuesRequest {}),
            "UpdateQueue" => {
                v1::UpdateQueueRequest { request_id, ..update_of(queue, settings) }.encode_to_vec()
            }
            "DeleteQueue" => {
                let name = if other { queue } else { empty };
                said!(DeleteQueueRequest { name: name.clone(), request_id: request_id })
            }
            "PauseQueue" => said!(PauseQueueRequest { name: named(), request_id: request_id }),
            "ResumeQueue" => said!(ResumeQueueRequest { name: named(), request_id: request_id }),
            "PurgeQueue" => said!(PurgeQueueRequest { name: named(), request_id: request_id }),
            "GetServerInfo" => said!(GetServerInfoRequest {}),
            "Work" => greeting(hello(queue)),
            "LeaseJobs" => said!(LeaseJobsRequest {
                instance: queue.clone(),
                process: "process".to_owned(),
                kinds: vec![KIND.to_owned()],
                request_id: request_id
            }),
            "ReportJobs" => {
                let lease = Some(v1::Lease { job_id: waiting.clone(), token: 1 });
                let report = Some(v1::report::Report::Received(v1::Received {}));
                said!(ReportJobsRequest {
                    instance: queue.clone(),
                    process: "process".to_owned(),
                    reports: vec![v1::Report { lease, report }]
                })
            }
            "ListWorkers" => said!(ListWorkersRequest {}),
            "DrainWorkers" => said!(DrainWorkersRequest { instance: queue.clone() }),
            other => panic!("{other} has no row here: say what a valid request is like"),
        }
    }
}

/// Returns the part of an answer that a repeat shares with the first one, and `repeated` where the answer has it.
pub(super) fn answer(rpc: &Rpc, message: Option<bytes::Bytes>) -> (String, Option<bool>) {
    let bytes = message.unwrap_or_else(|| panic!("{} has no answer", rpc.name));
    macro_rules! read {
        ($response:ident) => {
            v1::$response::decode(bytes).expect("an answer")
        };
    }
    let change = |change: Option<v1::JobChange>| {
        let change = change.expect("what became of it");
        let as_first = v1::JobChange { repeated: false, ..change.clone() };
        (format!("{as_first:?}"), Some(change.repeated))
    };
    // A queue and the age of its oldest job are shown as they are now.
    macro_rules! shown {
        ($response:ident) => {{
            let v1::$response { queue, repeated } = read!($response);
            let queue = queue.map(|queue| v1::Queue { stats: None, ..queue });
            (format!("{queue:?}"), Some(repeated))
        }};
    }
    let submitted = |submitted: Vec<v1::Submitted>| {
        let repeated = submitted.iter().all(|one| one.outcome() == v1::SubmitOutcome::Repeated);
        (format!("{:?}", crate::support::ids(submitted)), Some(repeated))
    };
    match rpc.short() {
        "Submit" => submitted(read!(SubmitResponse).submitted.into_iter().collect()),
        "SubmitBatch" => submitted(read!(SubmitBatchResponse).jobs),
        "SubmitAndWatch" => match read!(SubmitAndWatchResponse).event {
            Some(v1::submit_and_watch_response::Event::Submitted(response)) => {
                submitted(response.submitted.into_iter().collect())
            }
            event => panic!("{event:?}"),
        },
        "CancelJob" => change(read!(CancelJobResponse).change),
        "RetryJob" => change(read!(RetryJobResponse).change),
        "UpdateJob" => change(read!(UpdateJobResponse).change),
        "DeleteJob" => (format!("{:?}", read!(DeleteJobResponse)), None),
        "ReleaseUniqueKey" => (String::new(), Some(read!(ReleaseUniqueKeyResponse).repeated)),
        "CreateQueue" => shown!(CreateQueueResponse),
        "UpdateQueue" => shown!(UpdateQueueResponse),
        "DeleteQueue" => (format!("{:?}", read!(DeleteQueueResponse)), None),
        "PauseQueue" => shown!(PauseQueueResponse),
        "ResumeQueue" => shown!(ResumeQueueResponse),
        "PurgeQueue" => (format!("{:?}", read!(PurgeQueueResponse)), None),
        other => panic!("{other} has no row here: say what of its answer is repeated"),
    }
}

/// Creates a queue.
pub(super) async fn create(rig: &Rig, name: &str) {
    let settings = Some(no_consumers());
    let request = v1::CreateQueueRequest { name: name.to_owned(), settings, ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.unwrap();
}

/// Deletes a queue.
pub(super) async fn delete_queue(rig: &Rig, name: &str) {
    let request = v1::DeleteQueueRequest { name: name.to_owned(), ..Default::default() };
    soon(rig.queues.clone().delete_queue(request)).await.unwrap();
}

/// Undoes a call as far as possible, so that a repeat that is wrongly executed would show.
pub(super) async fn undo(rig: &Rig, rpc: &Rpc, fixtures: &Fixtures) {
    match rpc.short() {
        "Submit" | "SubmitBatch" | "SubmitAndWatch" | "DeleteJob" | "ReleaseUniqueKey" => {}
        "UpdateJob" => drop(rig.cancel(&fixtures.waiting).await.unwrap()),
        "CancelJob" => assert_eq!(rig.retry(&fixtures.waiting).await.unwrap().state(), JobState::Queued),
        "RetryJob" => assert_eq!(rig.cancel(&fixtures.cancelled).await.unwrap().state(), JobState::Cancelled),
        "CreateQueue" => delete_queue(rig, &fixtures.new).await,
        "UpdateQueue" => {
            let settings = v1::QueueSettings { max_jobs: Some(77), ..no_consumers() };
            soon(rig.queues.clone().update_queue(update_of(&fixtures.queue, settings))).await.unwrap();
        }
        "DeleteQueue" => create(rig, &fixtures.empty).await,
        "PauseQueue" => rig.resume(&fixtures.queue).await,
        "ResumeQueue" => rig.pause(&fixtures.queue).await,
        "PurgeQueue" => drop(rig.submit_batch(vec![in_queue(&fixtures.queue, "echo"); 2]).await),
        other => panic!("{other} has no row here: say how it is undone"),
    }
}
