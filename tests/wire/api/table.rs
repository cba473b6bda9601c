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
    /// What it concerns.
    pub(super) of: Object,
}

/// The object of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Object {
    Job,
    Queue,
    /// A unique key.
    Key,
    Schedule,
    Calendar,
    Limit,
}

const fn verb(rpc: &'static str, role: Role, command: &'static [&'static str], of: Object) -> Verb {
    Verb { rpc, role, command, of }
}

pub(super) const VERBS: [Verb; 27] = [
    verb("CancelJob", Role::Cancel, &["cancel"], Object::Job),
    verb("RetryJob", Role::Admin, &["retry"], Object::Job),
    verb("UpdateJob", Role::Admin, &["update"], Object::Job),
    verb("DeleteJob", Role::Admin, &["delete"], Object::Job),
    verb("ReleaseUniqueKey", Role::Admin, &["key", "release"], Object::Key),
    verb("CreateQueue", Role::Admin, &["queue", "create"], Object::Queue),
    verb("UpdateQueue", Role::Admin, &["queue", "update"], Object::Queue),
    verb("DeleteQueue", Role::Admin, &["queue", "delete"], Object::Queue),
    verb("PauseQueue", Role::Admin, &["queue", "pause"], Object::Queue),
    verb("ResumeQueue", Role::Admin, &["queue", "resume"], Object::Queue),
    verb("PurgeQueue", Role::Admin, &["queue", "purge"], Object::Queue),
    verb("CreateSchedule", Role::Admin, &["schedule", "create"], Object::Schedule),
    verb("UpdateSchedule", Role::Admin, &["schedule", "update"], Object::Schedule),
    verb("DeleteSchedule", Role::Admin, &["schedule", "delete"], Object::Schedule),
    verb("PauseSchedule", Role::Admin, &["schedule", "pause"], Object::Schedule),
    verb("ResumeSchedule", Role::Admin, &["schedule", "resume"], Object::Schedule),
    verb("TriggerSchedule", Role::Admin, &["schedule", "trigger"], Object::Schedule),
    verb("BackfillSchedule", Role::Admin, &["schedule", "backfill"], Object::Schedule),
    verb("CancelBackfill", Role::Admin, &["schedule", "cancel-backfill"], Object::Schedule),
    verb("CreateCalendar", Role::Admin, &["calendar", "create"], Object::Calendar),
    verb("UpdateCalendar", Role::Admin, &["calendar", "update"], Object::Calendar),
    verb("DeleteCalendar", Role::Admin, &["calendar", "delete"], Object::Calendar),
    verb("CreateLimit", Role::Admin, &["limit", "create"], Object::Limit),
    verb("UpdateLimit", Role::Admin, &["limit", "update"], Object::Limit),
    verb("DeleteLimit", Role::Admin, &["limit", "delete"], Object::Limit),
    verb("SetLimitOverride", Role::Admin, &["limit", "set"], Object::Limit),
    verb("DeleteLimitOverride", Role::Admin, &["limit", "unset"], Object::Limit),
];

/// The roles of all other calls; `None` where any token is accepted.
const OTHERS: [(&str, Option<Role>); 27] = [
    ("Submit", Some(Role::Submit)),
    ("SubmitBatch", Some(Role::Submit)),
    ("SubmitStream", Some(Role::Submit)),
    ("SubmitAndWatch", Some(Role::Submit)),
    ("WatchStatus", Some(Role::Read)),
    ("GetJob", Some(Role::Read)),
    ("ListJobs", Some(Role::Read)),
    ("CountJobs", Some(Role::Read)),
    ("GetJobGraph", Some(Role::Read)),
    ("ListUniqueKeys", Some(Role::Read)),
    ("GetQueue", Some(Role::Read)),
    ("ListQueues", Some(Role::Read)),
    ("GetSchedule", Some(Role::Read)),
    ("ListSchedules", Some(Role::Read)),
    ("PreviewSchedule", Some(Role::Read)),
    ("WatchSchedules", Some(Role::Read)),
    ("GetCalendar", Some(Role::Read)),
    ("ListCalendars", Some(Role::Read)),
    ("GetLimit", Some(Role::Read)),
    ("ListLimits", Some(Role::Read)),
    ("ListLimitValues", Some(Role::Read)),
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
        let schedule = || if other { second(queue) } else { queue.clone() };
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
            "GetJobGraph" => said!(GetJobGraphRequest { id: waiting.clone() }),
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
            "CreateSchedule" => {
                let schedule = hourly(new, queue, if other { 2 } else { 1 });
                said!(CreateScheduleRequest { schedule: Some(schedule), request_id: request_id })
            }
            "UpdateSchedule" => {
                update_of_schedule(queue, if other { 4 } else { 3 }, request_id).encode_to_vec()
            }
            "GetSchedule" => said!(GetScheduleRequest { name: queue.clone() }),
            "ListSchedules" => said!(ListSchedulesRequest {}),
            "PreviewSchedule" => said!(PreviewScheduleRequest { name: queue.clone() }),
            "WatchSchedules" => said!(WatchSchedulesRequest {}),
            "DeleteSchedule" => said!(DeleteScheduleRequest { name: schedule(), request_id: request_id }),
            "PauseSchedule" => {
                let reason = "because".to_owned();
                said!(PauseScheduleRequest { name: schedule(), reason: reason, request_id: request_id })
            }
            "ResumeSchedule" => said!(ResumeScheduleRequest { name: schedule(), request_id: request_id }),
            "TriggerSchedule" => said!(TriggerScheduleRequest { name: schedule(), request_id: request_id }),
            "BackfillSchedule" => {
                v1::BackfillScheduleRequest { again: other, request_id, ..backfill(queue) }.encode_to_vec()
            }
            "CancelBackfill" => {
                let name = if other { queue.clone() } else { second(queue) };
                said!(CancelBackfillRequest { name: name, request_id: request_id })
            }
            "CreateCalendar" => {
                let calendar = Some(days(new, if other { 2 } else { 1 }));
                said!(CreateCalendarRequest { calendar: calendar, request_id: request_id })
            }
            "UpdateCalendar" => {
                let calendar =
                    v1::Calendar { etag: "*".to_owned(), ..days(queue, if other { 4 } else { 3 }) };
                said!(UpdateCalendarRequest { calendar: Some(calendar), request_id: request_id })
            }
            "GetCalendar" => said!(GetCalendarRequest { name: queue.clone() }),
            "ListCalendars" => said!(ListCalendarsRequest {}),
            "DeleteCalendar" => said!(DeleteCalendarRequest { name: schedule(), request_id: request_id }),
            name if name.contains("Limit") => self.request_of_limits(name, request_id, other),
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

impl Fixtures {
    /// Returns a valid request of an RPC of the LimitService, or another one.
    fn request_of_limits(&self, rpc: &str, request_id: String, other: bool) -> Vec<u8> {
        let Fixtures { queue, new, .. } = self;
        let namespace = String::new();
        let name = if other { second(queue) } else { queue.clone() };
        match rpc {
            "CreateLimit" => {
                let limit = Some(nothing_limited(new, if other { 2 } else { 1 }));
                v1::CreateLimitRequest { limit, request_id, namespace }.encode_to_vec()
            }
            "UpdateLimit" => {
                let limit = nothing_limited(queue, if other { 4 } else { 3 });
                let limit = Some(v1::Limit { etag: "*".to_owned(), ..limit });
                v1::UpdateLimitRequest { limit, request_id, namespace }.encode_to_vec()
            }
            "GetLimit" => v1::GetLimitRequest::from(queue).encode_to_vec(),
            "ListLimits" => v1::ListLimitsRequest::default().encode_to_vec(),
            "DeleteLimit" => v1::DeleteLimitRequest { name, request_id, namespace }.encode_to_vec(),
            "SetLimitOverride" => {
                let request = exception(queue, "new", if other { 6 } else { 5 });
                v1::SetLimitOverrideRequest { request_id, ..request }.encode_to_vec()
            }
            "DeleteLimitOverride" => {
                let value = "old".to_owned();
                let request = v1::DeleteLimitOverrideRequest { limit: name, value, request_id, namespace };
                request.encode_to_vec()
            }
            "ListLimitValues" => {
                v1::ListLimitValuesRequest { limit: queue.clone(), ..Default::default() }.encode_to_vec()
            }
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
    // A schedule and its progress are shown as they are now.
    macro_rules! scheduled {
        ($response:ident) => {{
            let v1::$response { schedule, repeated, .. } = read!($response);
            let schedule = schedule.map(|schedule| v1::Schedule { status: None, ..schedule });
            (format!("{schedule:?}"), Some(repeated))
        }};
    }
    macro_rules! calendar {
        ($response:ident) => {{
            let v1::$response { calendar, repeated } = read!($response);
            (format!("{calendar:?}"), Some(repeated))
        }};
    }
    // A limit is shown as it is now.
    macro_rules! limit {
        ($response:ident) => {{
            let v1::$response { limit, repeated } = read!($response);
            let limit = limit.map(|limit| v1::Limit { state: 0, ..limit });
            (format!("{limit:?}"), Some(repeated))
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
        "CreateSchedule" => scheduled!(CreateScheduleResponse),
        "UpdateSchedule" => scheduled!(UpdateScheduleResponse),
        "DeleteSchedule" => (format!("{:?}", read!(DeleteScheduleResponse)), None),
        "PauseSchedule" => scheduled!(PauseScheduleResponse),
        "ResumeSchedule" => scheduled!(ResumeScheduleResponse),
        "TriggerSchedule" => submitted(read!(TriggerScheduleResponse).submitted.into_iter().collect()),
        "BackfillSchedule" => scheduled!(BackfillScheduleResponse),
        "CancelBackfill" => scheduled!(CancelBackfillResponse),
        "CreateCalendar" => calendar!(CreateCalendarResponse),
        "UpdateCalendar" => calendar!(UpdateCalendarResponse),
        "DeleteCalendar" => (format!("{:?}", read!(DeleteCalendarResponse)), None),
        "CreateLimit" => limit!(CreateLimitResponse),
        "UpdateLimit" => limit!(UpdateLimitResponse),
        "DeleteLimit" => (format!("{:?}", read!(DeleteLimitResponse)), None),
        "SetLimitOverride" => (String::new(), Some(read!(SetLimitOverrideResponse).repeated)),
        "DeleteLimitOverride" => (format!("{:?}", read!(DeleteLimitOverrideResponse)), None),
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
        "Submit" | "SubmitBatch" | "SubmitAndWatch" | "DeleteJob" | "TriggerSchedule"
        | "ReleaseUniqueKey" => {}
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
        "CreateSchedule" => {
            let request = v1::DeleteScheduleRequest::from(&fixtures.new);
            soon(rig.schedules().delete_schedule(request)).await.unwrap();
        }
        "UpdateSchedule" => {
            let request = update_of_schedule(&fixtures.queue, 9, String::new());
            soon(rig.schedules().update_schedule(request)).await.unwrap();
        }
        "DeleteSchedule" => {
            let schedule = Some(hourly(&fixtures.queue, &fixtures.queue, 1));
            let request = v1::CreateScheduleRequest { schedule, ..Default::default() };
            soon(rig.schedules().create_schedule(request)).await.unwrap();
        }
        "PauseSchedule" => {
            let request = v1::ResumeScheduleRequest::from(&fixtures.queue);
            soon(rig.schedules().resume_schedule(request)).await.unwrap();
        }
        "ResumeSchedule" => {
            let request = v1::PauseScheduleRequest::from(&fixtures.queue);
            soon(rig.schedules().pause_schedule(request)).await.unwrap();
        }
        "BackfillSchedule" => {
            let request = v1::CancelBackfillRequest::from(&fixtures.queue);
            soon(rig.schedules().cancel_backfill(request)).await.unwrap();
        }
        "CancelBackfill" => {
            soon(rig.schedules().backfill_schedule(backfill(&second(&fixtures.queue)))).await.unwrap();
        }
        "CreateCalendar" => {
            let request = v1::DeleteCalendarRequest::from(&fixtures.new);
            soon(rig.schedules().delete_calendar(request)).await.unwrap();
        }
        "UpdateCalendar" => {
            let calendar = Some(v1::Calendar { etag: "*".to_owned(), ..days(&fixtures.queue, 9) });
            let request = v1::UpdateCalendarRequest { calendar, ..Default::default() };
            soon(rig.schedules().update_calendar(request)).await.unwrap();
        }
        "DeleteCalendar" => {
            let request =
                v1::CreateCalendarRequest { calendar: Some(days(&fixtures.queue, 1)), ..Default::default() };
            soon(rig.schedules().create_calendar(request)).await.unwrap();
        }
        name if name.contains("Limit") => undo_limits(rig, name, fixtures).await,
        other => panic!("{other} has no row here: say how it is undone"),
    }
}

/// Undoes a call of the LimitService.
async fn undo_limits(rig: &Rig, rpc: &str, fixtures: &Fixtures) {
    let Fixtures { queue, new, .. } = fixtures;
    let mut limits = rig.job_limits();
    match rpc {
        "CreateLimit" => drop(soon(limits.delete_limit(v1::DeleteLimitRequest::from(new))).await.unwrap()),
        "UpdateLimit" => {
            let limit = Some(v1::Limit { etag: "*".to_owned(), ..nothing_limited(queue, 9) });
            let request = v1::UpdateLimitRequest { limit, ..Default::default() };
            soon(limits.update_limit(request)).await.unwrap();
        }
        "DeleteLimit" => {
            let request =
                v1::CreateLimitRequest { limit: Some(nothing_limited(queue, 1)), ..Default::default() };
            soon(limits.create_limit(request)).await.unwrap();
        }
        "SetLimitOverride" => {
            let (limit, value) = (queue.clone(), "new".to_owned());
            let request = v1::DeleteLimitOverrideRequest { limit, value, ..Default::default() };
            soon(limits.delete_limit_override(request)).await.unwrap();
        }
        "DeleteLimitOverride" => {
            soon(limits.set_limit_override(exception(queue, "old", 1))).await.unwrap();
        }
        other => panic!("{other} has no row here: say how it is undone"),
    }
}

/// Returns a limit of a kind of which there are no jobs, by a label.
pub(super) fn nothing_limited(name: &str, max_running: i32) -> v1::Limit {
    v1::Limit {
        name: name.to_owned(),
        rule: Some(v1::limit::Rule::MaxRunning(max_running)),
        key: Some(v1::limit::Key::ByLabel("tenant".to_owned())),
        kinds: vec!["nothing".to_owned()],
        ..Default::default()
    }
}

/// Returns a request for an override.
pub(super) fn exception(limit: &str, value: &str, max_running: i32) -> v1::SetLimitOverrideRequest {
    let rule = Some(v1::limit_override::Rule::MaxRunning(max_running));
    let exception = v1::LimitOverride { limit: limit.to_owned(), value: value.to_owned(), rule };
    v1::SetLimitOverrideRequest { r#override: Some(exception), ..Default::default() }
}

/// Returns the name of the second schedule, calendar and limit of a queue's fixtures.
pub(super) fn second(queue: &str) -> String {
    format!("{queue}-2")
}

/// Returns a schedule with an interval of some hours.
pub(super) fn hourly(name: &str, queue: &str, hours: i64) -> v1::Schedule {
    let every = Some(prost_types::Duration { seconds: hours * 3_600, nanos: 0 });
    v1::Schedule {
        name: name.to_owned(),
        spec: Some(v1::ScheduleSpec { every, ..Default::default() }),
        job: Some(in_queue(queue, "echo")),
        ..Default::default()
    }
}

/// Returns a change of a schedule's interval.
fn update_of_schedule(name: &str, hours: i64, request_id: String) -> v1::UpdateScheduleRequest {
    v1::UpdateScheduleRequest {
        schedule: Some(v1::Schedule { etag: "*".to_owned(), ..hourly(name, name, hours) }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec.every".to_owned()] }),
        request_id,
        ..Default::default()
    }
}

/// Returns a backfill of some hours of the past.
pub(super) fn backfill(name: &str) -> v1::BackfillScheduleRequest {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    v1::BackfillScheduleRequest {
        name: name.to_owned(),
        start_time: at(1_700_000_000),
        end_time: at(1_700_020_000),
        ..Default::default()
    }
}

/// Returns a calendar with a day of January.
pub(super) fn days(name: &str, day: u32) -> v1::Calendar {
    v1::Calendar { name: name.to_owned(), dates: vec![format!("2030-01-0{day}")], ..Default::default() }
}
