//! Bad input: every refusal has the right code, reason and details, is small, and changes nothing.

use std::collections::BTreeMap;

use jobmill::{
    job::Output,
    proto::v1::{
        self,
        job_spec::{Deadline, Start},
        keep::Keep,
    },
    serve::Server,
    settings::{QueueSettings, WhenFull},
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Response, Status};

use crate::support::{
    Refusal, Rig, Stage, defaults, echo, expire_time, job, memory, payload, refusal, result, run_time, soon,
    spec, submission, update_of, with_queue,
};

/// A call of any RPC.
#[derive(Clone, Debug)]
enum Call {
    Submit(v1::SubmitRequest),
    Batch(v1::SubmitBatchRequest),
    SubmitAndWatch(v1::SubmitAndWatchRequest),
    Watch(v1::WatchStatusRequest),
    Get(v1::GetJobRequest),
    List(v1::ListJobsRequest),
    Count(v1::CountJobsRequest),
    Cancel(v1::CancelJobRequest),
    Retry(v1::RetryJobRequest),
    Delete(v1::DeleteJobRequest),
    CreateQueue(v1::CreateQueueRequest),
    UpdateQueue(v1::UpdateQueueRequest),
    GetQueue(String),
    DeleteQueue(String),
    PauseQueue(String),
    ResumeQueue(String),
    PurgeQueue(String),
}

impl Call {
    /// Makes the call; returns the status with which it is refused.
    async fn status(self, rig: &Rig) -> Status {
        fn status<T>(what: &str, result: Result<Response<T>, Status>) -> Status {
            result.err().unwrap_or_else(|| panic!("{what} was accepted"))
        }
        let what = format!("{self:.300?}");
        let (mut jobs, mut queues) = (rig.jobs.clone(), rig.queues.clone());
        let called = async {
            match self {
                Call::Submit(request) => status(&what, jobs.submit(request).await),
                Call::Batch(request) => status(&what, jobs.submit_batch(request).await),
                Call::SubmitAndWatch(request) => status(&what, jobs.submit_and_watch(request).await),
                Call::Watch(request) => status(&what, jobs.watch_status(request).await),
                Call::Get(request) => status(&what, jobs.get_job(request).await),
                Call::List(request) => status(&what, jobs.list_jobs(request).await),
                Call::Count(request) => status(&what, jobs.count_jobs(request).await),
                Call::Cancel(request) => status(&what, jobs.cancel_job(request).await),
                Call::Retry(request) => status(&what, jobs.retry_job(request).await),
                Call::Delete(request) => status(&what, jobs.delete_job(request).await),
                Call::CreateQueue(request) => status(&what, queues.create_queue(request).await),
                Call::UpdateQueue(request) => status(&what, queues.update_queue(request).await),
                Call::GetQueue(name) => {
                    status(&what, queues.get_queue(v1::GetQueueRequest { name, ..Default::default() }).await)
                }
                Call::DeleteQueue(name) => status(
                    &what,
                    queues.delete_queue(v1::DeleteQueueRequest { name, ..Default::default() }).await,
                ),
                Call::PauseQueue(name) => status(
                    &what,
                    queues.pause_queue(v1::PauseQueueRequest { name, ..Default::default() }).await,
                ),
                Call::ResumeQueue(name) => status(
                    &what,
                    queues.resume_queue(v1::ResumeQueueRequest { name, ..Default::default() }).await,
                ),
                Call::PurgeQueue(name) => status(
                    &what,
                    queues.purge_queue(v1::PurgeQueueRequest { name, ..Default::default() }).await,
                ),
            }
        };
        soon(called).await
    }

    /// Makes the call; checks the refusal, and that nothing has changed.
    async fn refused(self, rig: &Rig) -> Refusal {
        let before = (rig.total().await, queue_count(rig).await);
        let refusal = refusal(&self.status(rig).await);
        assert_eq!((rig.total().await, queue_count(rig).await), before, "{refusal:?}");
        refusal
    }
}

async fn queue_count(rig: &Rig) -> usize {
    let request = v1::ListQueuesRequest { page_size: 1_000, ..Default::default() };
    soon(rig.queues.clone().list_queues(request)).await.unwrap().into_inner().queues.len()
}

/// Asserts that each call is INVALID_ARGUMENT and names exactly these fields.
async fn invalid(rows: Vec<(&str, Call, &[&str])>) {
    let rig = Rig::simple().await;
    for (what, call, fields) in rows {
        let refusal = call.refused(&rig).await;
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{what}"
        );
        assert_eq!(refusal.fields, fields, "{what}: {refusal:?}");
    }
    rig.stop().await;
}

/// Returns a submission of an `echo` job with a fault.
fn submit(change: impl FnOnce(&mut v1::JobSpec)) -> Call {
    let mut spec = job("echo");
    change(&mut spec);
    Call::Submit(submission(spec))
}

fn duration(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

fn retry(change: impl FnOnce(&mut v1::RetryPolicy)) -> Call {
    submit(|spec| {
        let mut policy = v1::RetryPolicy::default();
        change(&mut policy);
        spec.retry_policy = Some(policy.into());
    })
}

/// Returns a submission of an `echo` job whose payload has this media type.
fn typed(media_type: String) -> Call {
    submit(|spec| spec.payload = Some(v1::Payload::of("").with_type(media_type)))
}

fn labels(count: usize, key: usize, value: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{n:0key$}"), "v".repeat(value))).collect()
}

fn create_queue(name: &str, change: impl FnOnce(&mut v1::QueueSettings)) -> Call {
    let mut settings = v1::QueueSettings::default();
    change(&mut settings);
    Call::CreateQueue(v1::CreateQueueRequest {
        name: name.to_owned(),
        settings: Some(settings),
        ..Default::default()
    })
}

fn keep(keep: Keep) -> Option<v1::Keep> {
    Some(v1::Keep { keep: Some(keep) })
}

fn watch(change: impl FnOnce(&mut v1::WatchStatusRequest)) -> Call {
    let mut request = v1::WatchStatusRequest::default();
    change(&mut request);
    Call::Watch(request)
}

fn list(change: impl FnOnce(&mut v1::ListJobsRequest)) -> Call {
    let mut request = v1::ListJobsRequest::default();
    change(&mut request);
    Call::List(request)
}

fn count(change: impl FnOnce(&mut v1::JobFilter)) -> Call {
    let mut filter = v1::JobFilter::default();
    change(&mut filter);
    Call::Count(v1::CountJobsRequest { filter: Some(filter), ..Default::default() })
}

#[tokio::test]
async fn names_that_are_missing_or_break_the_rules() {
    const BAD: [&str; 7] = ["", "../etc", "a\0b", "a\u{7}b", "a\u{202e}b", "-a", " "];
    let long = "q".repeat(300);
    let mut rows = vec![("no job at all", Call::Submit(v1::SubmitRequest::default()), &["job"][..])];
    for name in BAD.into_iter().chain([long.as_str()]) {
        rows.push((name, submit(|spec| spec.queue = name.to_owned()), &["job.queue"]));
        rows.push((name, submit(|spec| spec.kind = name.to_owned()), &["job.kind"]));
        rows.push((name, create_queue(name, |_| {}), &["name"]));
        for call in [
            Call::GetQueue(name.to_owned()),
            Call::DeleteQueue(name.to_owned()),
            Call::PauseQueue(name.to_owned()),
            Call::ResumeQueue(name.to_owned()),
            Call::PurgeQueue(name.to_owned()),
        ] {
            rows.push((name, call, &["name"]));
        }
        if !name.is_empty() {
            rows.push((
                name,
                Call::Get(v1::GetJobRequest { id: name.to_owned(), ..Default::default() }),
                &["id"],
            ));
        }
        rows.push((name, count(|filter| filter.queues = vec![name.to_owned()]), &["filter.queues[0]"]));
        rows.push((name, count(|filter| filter.kinds = vec![name.to_owned()]), &["filter.kinds[0]"]));
        rows.push((name, watch(|request| request.ids = vec![name.to_owned()]), &["ids[0]"]));
    }
    rows.push(("no id", Call::Get(v1::GetJobRequest::default()), &["id"]));
    rows.push(("no id", Call::Cancel(v1::CancelJobRequest::default()), &["id"]));
    rows.push(("no id", Call::Retry(v1::RetryJobRequest::default()), &["id"]));
    rows.push(("no id", Call::Delete(v1::DeleteJobRequest::default()), &["id"]));
    invalid(rows).await;
}

#[tokio::test]
async fn values_over_their_limits() {
    invalid(vec![
        (
            "payload",
            submit(|spec| spec.payload = Some(v1::Payload::of(vec![0; (1 << 20) + 1]))),
            &["job.payload"],
        ),
        ("payload type", typed("t".repeat(129)), &["job.payload.media_type"]),
        ("payload type with a line end", typed("a\r\nb".to_owned()), &["job.payload.media_type"]),
        ("33 labels", submit(|spec| spec.labels = labels(33, 2, 1)), &["job.labels"]),
        ("a label's key", submit(|spec| spec.labels = labels(1, 64, 1)), &["job.labels"]),
        ("a label's value", submit(|spec| spec.labels = labels(1, 1, 257)), &["job.labels"]),
        (
            "a label's empty key",
            submit(|spec| spec.labels = [(String::new(), String::new())].into()),
            &["job.labels"],
        ),
        (
            "a label's key with a control character",
            submit(|spec| spec.labels = [("a\nb".to_owned(), String::new())].into()),
            &["job.labels"],
        ),
        (
            "a request id of 129 bytes",
            Call::Submit(v1::SubmitRequest { request_id: "r".repeat(129), ..submission(job("echo")) }),
            &["request_id"],
        ),
        (
            "a request id with a control character",
            Call::Submit(v1::SubmitRequest { request_id: "r\u{1b}".to_owned(), ..submission(job("echo")) }),
            &["request_id"],
        ),
        ("an empty batch", Call::Batch(v1::SubmitBatchRequest::default()), &["jobs"]),
        (
            "a batch of 1,001",
            Call::Batch(v1::SubmitBatchRequest { jobs: vec![job("echo"); 1_001], ..Default::default() }),
            &["jobs"],
        ),
        ("1,001 ids", watch(|request| request.ids = vec!["0000000000001".to_owned(); 1_001]), &["ids"]),
        ("33 kinds", count(|filter| filter.kinds = vec!["a".to_owned(); 33]), &["filter.kinds"]),
        ("17 states", count(|filter| filter.states = vec![1; 17]), &["filter.states"]),
        ("33 labels", count(|filter| filter.labels = labels(33, 2, 1)), &["filter.labels"]),
    ])
    .await;
}

#[tokio::test]
async fn invalid_enums_and_numbers() {
    invalid(vec![
        ("priority", submit(|spec| spec.priority = Some(101)), &["job.priority"]),
        ("priority", submit(|spec| spec.priority = Some(-101)), &["job.priority"]),
        ("priority", submit(|spec| spec.priority = Some(i32::MIN)), &["job.priority"]),
        ("attempts", submit(|spec| spec.max_attempts = -1), &["job.max_attempts"]),
        ("attempts", submit(|spec| spec.max_attempts = 1_001), &["job.max_attempts"]),
        ("multiplier", retry(|policy| policy.multiplier = Some(f64::NAN)), &["job.retry_policy.multiplier"]),
        ("multiplier", retry(|policy| policy.multiplier = Some(0.5)), &["job.retry_policy.multiplier"]),
        (
            "multiplier",
            retry(|policy| policy.multiplier = Some(f64::INFINITY)),
            &["job.retry_policy.multiplier"],
        ),
        ("multiplier", retry(|policy| policy.multiplier = Some(0.0)), &["job.retry_policy.multiplier"]),
        ("jitter", retry(|policy| policy.jitter = Some(1.1)), &["job.retry_policy.jitter"]),
        ("jitter", retry(|policy| policy.jitter = Some(f64::NAN)), &["job.retry_policy.jitter"]),
        (
            "when full",
            Call::Submit(v1::SubmitRequest { when_full: 3, ..submission(job("echo")) }),
            &["when_full"],
        ),
        (
            "view",
            Call::Get(v1::GetJobRequest { id: "0000000000001".to_owned(), view: 4, ..Default::default() }),
            &["view"],
        ),
        ("view", list(|request| request.view = -1), &["view"]),
        ("state", count(|filter| filter.states = vec![4, 0, 99]), &["filter.states[1]", "filter.states[2]"]),
        (
            "a watch's enums",
            watch(|request| {
                request.filter = Some(v1::JobFilter::default());
                (request.start, request.detail, request.view, request.resync) = (3, 3, 4, 3);
            }),
            &["view", "detail", "start", "resync"],
        ),
        ("page size", list(|request| request.page_size = -1), &["page_size"]),
        (
            "a queue's settings",
            create_queue("q", |settings| {
                settings.max_jobs = Some(0);
                settings.max_bytes = Some(1);
                settings.consumers = Some(-1);
                settings.max_waiters = Some(10_001);
                settings.max_wait = duration(601, 0);
                settings.fair_by = "the tenant".to_owned();
                settings.when_full = 9;
                let time = |seconds, nanos| keep(Keep::Time(Duration { seconds, nanos }));
                let (failed, expired) = (time(-1, 0), time(315_576_000, 1));
                let (cancelled, succeeded) = (keep(Keep::Forever(false)), Some(v1::Keep::default()));
                settings.retention = Some(v1::Retention { succeeded, failed, cancelled, expired });
            }),
            &[
                "settings.max_jobs",
                "settings.max_bytes",
                "settings.consumers",
                "settings.max_waiters",
                "settings.max_wait",
                "settings.when_full",
                "settings.fair_by",
                "settings.retention.succeeded",
                "settings.retention.failed.time",
                "settings.retention.cancelled.forever",
                "settings.retention.expired.time",
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn invalid_durations_and_instants() {
    const DAYS_30: i64 = 30 * 24 * 3600;
    const TIMEOUT: &[&str] = &["job.attempt_timeout"];
    let timeout = |seconds, nanos| submit(move |spec| spec.attempt_timeout = duration(seconds, nanos));
    let expires = |seconds| submit(move |spec| spec.expiry = expire_time(seconds));
    let over_first = submit(|spec| {
        spec.start = run_time(2_000_000_000);
        spec.expiry = expire_time(2_000_000_000);
    });
    let starts =
        |seconds, nanos| submit(move |spec| spec.start = Some(Start::RunTime(Timestamp { seconds, nanos })));
    let delays = |initial, max| {
        retry(move |policy| {
            (policy.initial_delay, policy.max_delay) = (duration(initial, 0), duration(max, 0))
        })
    };
    let deadline = |seconds, nanos| {
        submit(move |spec| spec.deadline = duration(seconds, nanos).map(Deadline::DeadlineAfter))
    };
    let deadline_first = submit(|spec| {
        spec.start = run_time(2_000_000_000);
        spec.deadline = Some(Deadline::DeadlineTime(Timestamp { seconds: 2_000_000_000, nanos: 0 }));
    });
    let listed = |seconds, multiplier| {
        retry(move |policy| {
            policy.delays = vec![duration(seconds, 0).unwrap()];
            policy.multiplier = multiplier;
        })
    };
    invalid(vec![
        ("no time", deadline(0, 0), &["job.deadline_after"]),
        ("negative", deadline(-1, 0), &["job.deadline_after"]),
        ("too long", deadline(i64::MAX, 0), &["job.deadline_after"]),
        ("over before it may run", deadline_first, &["job.deadline_time"]),
        ("a negative entry", listed(-1, None), &["job.retry_policy.delays[0]"]),
        ("two policies at once", listed(1, Some(2.0)), &["job.retry_policy.delays"]),
        ("negative", submit(|spec| spec.max_snoozes = Some(-1)), &["job.max_snoozes"]),
        ("too many", submit(|spec| spec.max_snoozes = Some(i32::MAX)), &["job.max_snoozes"]),
        ("negative", submit(|spec| spec.max_process_losses = -1), &["job.max_process_losses"]),
        ("too many", submit(|spec| spec.max_process_losses = 101), &["job.max_process_losses"]),
        ("negative", timeout(-1, 0), TIMEOUT),
        ("negative", timeout(0, -1), TIMEOUT),
        ("zero", timeout(0, 0), TIMEOUT),
        ("too long", timeout(DAYS_30, 1), TIMEOUT),
        ("overflowing", timeout(i64::MAX, 999_999_999), TIMEOUT),
        ("overflowing", timeout(i64::MIN, -999_999_999), TIMEOUT),
        ("signs that disagree", timeout(1, -1), TIMEOUT),
        ("signs that disagree", timeout(-1, 1), TIMEOUT),
        ("nanos over a second", timeout(0, 1_000_000_000), TIMEOUT),
        ("nanos over a second", timeout(0, i32::MIN), TIMEOUT),
        ("negative", delays(-1, 1), &["job.retry_policy.initial_delay"]),
        ("too long", delays(1, DAYS_30 + 1), &["job.retry_policy.max_delay"]),
        ("the first longer than the longest", delays(2, 1), &["job.retry_policy.max_delay"]),
        ("the year 0", starts(-62_135_596_801, 0), &["job.run_time"]),
        ("the year 10000", starts(253_402_300_800, 0), &["job.run_time"]),
        ("overflowing", starts(i64::MAX, 0), &["job.run_time"]),
        ("overflowing", starts(i64::MIN, 0), &["job.run_time"]),
        ("negative nanos", starts(0, -1), &["job.run_time"]),
        ("nanos over a second", starts(0, 1_000_000_000), &["job.run_time"]),
        ("the year 9999", starts(253_402_300_799, 0), &["job.run_time"]),
        ("an expiry in the year 10000", expires(253_402_300_800), &["job.expire_time"]),
        ("an expiry in the year 9999", expires(253_402_300_799), &["job.expire_time"]),
        ("over before it may run", over_first, &["job.expire_time"]),
        (
            "a filter's times",
            count(|filter| {
                filter.created_after = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
                filter.created_before = Some(Timestamp { seconds: 0, nanos: -1 });
            }),
            &["filter.created_after", "filter.created_before"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn every_fault_of_a_request_is_told_at_once() {
    let faulty = || v1::JobSpec { queue: "Q".into(), priority: Some(1_000), ..job("-") };
    let all = ["job.queue", "job.kind", "job.priority"];
    invalid(vec![
        (
            "Submit",
            Call::Submit(v1::SubmitRequest { request_id: "\0".into(), when_full: 7, ..submission(faulty()) }),
            &["job.queue", "job.kind", "job.priority", "request_id", "when_full"],
        ),
        (
            "SubmitAndWatch",
            Call::SubmitAndWatch(v1::SubmitAndWatchRequest {
                job: Some(faulty()),
                request_id: "\0".into(),
                when_full: 7,
                detail: 7,
                view: 7,
                output: true,
                ..Default::default()
            }),
            &["detail", "view", "job.queue", "job.kind", "job.priority", "request_id", "when_full"],
        ),
        ("one without others", Call::Submit(submission(faulty())), &all),
        ("neither ids nor filter", watch(|_| {}), &["ids"]),
        (
            "both ids and filter",
            watch(|request| {
                request.ids = vec!["0000000000001".to_owned()];
                request.filter = Some(v1::JobFilter::default());
            }),
            &["filter"],
        ),
        (
            "output lines of a filter",
            watch(|request| {
                request.filter = Some(v1::JobFilter::default());
                request.output = true;
            }),
            &["output"],
        ),
        (
            "ids from now on",
            watch(|request| {
                request.ids = vec!["0000000000001".to_owned()];
                request.start = 2;
            }),
            &["start"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn many_faults_are_cut_short_but_counted() {
    let rig = Rig::simple().await;
    let hostile = v1::JobSpec {
        queue: "\u{202e}".repeat(20),
        kind: "\u{202e}".repeat(40),
        labels: (0..32).map(|n| (format!("{n}{}", "\u{7}".repeat(500)), "v".repeat(300))).collect(),
        ..v1::JobSpec::default()
    };
    let request = v1::SubmitBatchRequest { jobs: vec![hostile; 100], ..Default::default() };
    let refusal = Call::Batch(request).refused(&rig).await;
    assert_eq!(refusal.fields[..3], ["jobs[0].queue", "jobs[0].kind", "jobs[0].labels"]);
    let more = 100 * (2 + 2 * 32) - refusal.fields.len();
    assert!(refusal.message.ends_with(&format!("; and {more} more")), "{}", refusal.message);
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_with_one_bad_item_creates_nothing_and_says_which() {
    let rig = Rig::simple().await;
    let batch = |change: fn(&mut v1::JobSpec)| {
        let mut jobs = vec![job("echo"); 5];
        change(&mut jobs[3]);
        Call::Batch(v1::SubmitBatchRequest { jobs, ..Default::default() })
    };
    let refused = batch(|spec| spec.priority = Some(101)).refused(&rig).await;
    assert_eq!(
        (refused.code, &refused.fields[..]),
        (Code::InvalidArgument, &["jobs[3].priority".to_owned()][..])
    );
    for (call, reason) in [
        (batch(|spec| spec.queue = "nowhere".into()), "QUEUE_NOT_FOUND"),
        (batch(|spec| spec.kind = "nothing".into()), "UNKNOWN_KIND"),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, reason));
        assert!(refused.message.starts_with("jobs[3]: "), "{}", refused.message);
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let rig = Rig::simple().await;
    const ID: &str = "0000000000001";
    let id = || ID.to_owned();
    let (nowhere, queue) = (|| "nowhere".to_owned(), ("queue", "nowhere", "QUEUE_NOT_FOUND"));
    for (call, (kind, name, reason)) in [
        (submit(|spec| spec.queue = "nowhere".into()), queue),
        (Call::GetQueue(nowhere()), queue),
        (Call::DeleteQueue(nowhere()), queue),
        (Call::PauseQueue(nowhere()), queue),
        (Call::ResumeQueue(nowhere()), queue),
        (Call::PurgeQueue(nowhere()), queue),
        (Call::UpdateQueue(update_of("nowhere", v1::QueueSettings::default())), queue),
        (submit(|spec| spec.kind = "nothing".into()), ("kind", "nothing", "UNKNOWN_KIND")),
        (Call::Get(v1::GetJobRequest { id: id(), ..Default::default() }), ("job", ID, "JOB_NOT_FOUND")),
        (Call::Cancel(v1::CancelJobRequest { id: id(), ..Default::default() }), ("job", ID, "JOB_NOT_FOUND")),
        (Call::Retry(v1::RetryJobRequest { id: id(), ..Default::default() }), ("job", ID, "JOB_NOT_FOUND")),
        (Call::Delete(v1::DeleteJobRequest { id: id(), ..Default::default() }), ("job", ID, "JOB_NOT_FOUND")),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, reason), "{refused:?}");
        let resource = refused.details.resource_info().expect("a ResourceInfo");
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), (kind, name));
    }
    let refused = submit(|spec| spec.kind = "nothing".into()).refused(&rig).await;
    for part in ["`echo`, `fail`", "configuration file", "accept_unknown_kinds"] {
        assert!(refused.message.contains(part), "no {part} in {}", refused.message);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_request_id_with_another_body_is_refused() {
    let rig = Rig::simple().await;
    let first = v1::SubmitRequest { request_id: "once".into(), ..submission(job("echo")) };
    let accepted = rig.jobs.clone().submit(first.clone()).await.unwrap().into_inner();
    let repeated = rig.jobs.clone().submit(first).await.unwrap().into_inner();
    assert_eq!(repeated.id(), accepted.id());
    let outcomes = (accepted.outcome(), repeated.outcome());
    assert_eq!(outcomes, (v1::SubmitOutcome::Created, v1::SubmitOutcome::Repeated));
    let request_id = || "once".to_owned();
    let id = accepted.id().to_owned();
    rig.ends(&id).await;
    for call in [
        Call::Submit(v1::SubmitRequest {
            request_id: request_id(),
            ..submission(v1::JobSpec { priority: Some(1), ..job("echo") })
        }),
        Call::Submit(v1::SubmitRequest {
            request_id: request_id(),
            ..submission(v1::JobSpec { max_attempts: 5, ..job("echo") })
        }),
        Call::Batch(v1::SubmitBatchRequest {
            request_id: request_id(),
            jobs: vec![job("echo")],
            ..Default::default()
        }),
        Call::Retry(v1::RetryJobRequest { id, request_id: request_id(), ..Default::default() }),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_full_queue_that_rejects_says_when_to_come_back() {
    let tiny =
        QueueSettings { max_jobs: 1, consumers: 0, when_full: WhenFull::Reject, ..QueueSettings::default() };
    let rig =
        Rig::start(Server::builder(with_queue(memory(), "tiny", tiny)).handler("echo", defaults(), echo))
            .await;
    let spec = || v1::JobSpec { queue: "tiny".into(), ..job("echo") };
    rig.submit(spec()).await;
    for call in [
        Call::Submit(submission(spec())),
        Call::Batch(v1::SubmitBatchRequest { jobs: vec![spec()], ..Default::default() }),
        Call::SubmitAndWatch(v1::SubmitAndWatchRequest { job: Some(spec()), ..Default::default() }),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
        assert!(refused.details.retry_info().is_some_and(|info| info.retry_delay.is_some()));
        let quota = &refused.details.quota_failure().expect("a QuotaFailure").violations[0];
        assert_eq!(quota.subject, "queue:tiny");
        assert!(quota.description.contains("max_jobs 1"), "{quota:?}");
    }
    let two = v1::SubmitBatchRequest { jobs: vec![spec(), spec()], ..Default::default() };
    let refused = Call::Batch(two).refused(&rig).await;
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "LARGER_THAN_QUEUE"));
    rig.stop().await;
}

#[tokio::test]
async fn garbage_and_foreign_tokens() {
    let rig = Rig::simple().await;
    for _ in 0..3 {
        rig.submit(job("echo")).await;
    }
    let page = |token: &str, queues: &[&str]| {
        list(|request| {
            request.page_size = 1;
            request.page_token = token.to_owned();
            let queues = queues.iter().map(|&queue| queue.to_owned()).collect();
            request.filter = Some(v1::JobFilter { queues, ..Default::default() });
        })
    };
    let Call::List(first) = page("", &[]) else { unreachable!() };
    let token = rig.jobs.clone().list_jobs(first.clone()).await.unwrap().into_inner().next_page_token;
    assert!(!token.is_empty());
    let other = Rig::simple().await;
    for _ in 0..3 {
        other.submit(job("echo")).await;
    }
    let others = other.jobs.clone().list_jobs(first).await.unwrap().into_inner().next_page_token;
    for (what, call) in [
        ("garbage", page("garbage", &[])),
        ("cut short", page(&token[..token.len() - 1], &[])),
        ("very long", page(&"A".repeat(1 << 20), &[])),
        ("of another filter", page(&token, &["default"])),
        ("of another store", page(&others, &[])),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!(refused.fields, ["page_token"], "{what}");
    }

    let everything = || Some(v1::JobFilter::default());
    let token_of = async |rig: &Rig| {
        let mut watcher =
            rig.watch(v1::WatchStatusRequest { filter: everything(), ..Default::default() }).await;
        watcher.synced().await;
        watcher.token
    };
    let (token, others) = (token_of(&rig).await, token_of(&other).await);
    let mut changed = token.clone();
    changed.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
    let resume = |token: &str, filter: Option<v1::JobFilter>| {
        let resume_token = token.to_owned();
        Call::Watch(v1::WatchStatusRequest { resume_token, filter, ..Default::default() })
    };
    let of_queue = Some(v1::JobFilter { queues: vec!["default".into()], ..Default::default() });
    for (what, call) in [
        ("garbage", resume("garbage", everything())),
        ("nothing that a token is made of", resume("!\u{202e}", everything())),
        ("with another character", resume(&changed, everything())),
        ("cut short", resume(&token[..token.len() - 1], everything())),
        ("very long", resume(&"A".repeat(1 << 20), everything())),
        ("of another filter", resume(&token, of_queue)),
        ("of another store", resume(&others, everything())),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!(refused.fields, ["resume_token"], "{what}");
    }
    rig.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_page_size_over_the_limit_is_clamped() {
    let rig = Rig::simple().await;
    let ids = rig.submit_batch(vec![job("echo"); 1_000]).await;
    rig.submit(job("echo")).await;
    let request = v1::ListJobsRequest { page_size: 1_000_000_000, ..Default::default() };
    let page = rig.jobs.clone().list_jobs(request).await.unwrap().into_inner();
    assert_eq!(page.jobs.len(), 1_000);
    let request =
        v1::ListJobsRequest { page_size: i32::MAX, page_token: page.next_page_token, ..Default::default() };
    let page = rig.jobs.clone().list_jobs(request).await.unwrap().into_inner();
    assert_eq!(page.jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), [&ids[0]]);
    assert_eq!(page.next_page_token, "");
    rig.stop().await;
}

#[tokio::test]
async fn what_has_ended_cannot_be_cancelled_and_what_runs_cannot_be_deleted() {
    let (handler, mut stage) = Stage::new();
    let builder = Server::builder(memory())
        .handler("echo", defaults(), echo)
        .handler("stage", defaults(), handler)
        .handler("bad", defaults(), async |_| -> Result<Output, _> {
            Err(jobmill::execute::HandlerError::permanent("no such address"))
        });
    let rig = Rig::start(builder).await;
    let succeeded = rig.submit(job("echo")).await.id;
    let failed = rig.submit(job("bad")).await.id;
    for id in [&succeeded, &failed] {
        rig.ends(id).await;
    }
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let cancel = |id: &str| Call::Cancel(v1::CancelJobRequest { id: id.to_owned(), ..Default::default() });
    let retry = |id: &str| Call::Retry(v1::RetryJobRequest { id: id.to_owned(), ..Default::default() });
    for (call, state) in [
        (cancel(&succeeded), "SUCCEEDED"),
        (cancel(&failed), "FAILED"),
        (retry(&succeeded), "SUCCEEDED"),
        (retry(&running), "RUNNING"),
        (Call::Delete(v1::DeleteJobRequest { id: running.clone(), ..Default::default() }), "RUNNING"),
    ] {
        let refused = call.refused(&rig).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "WRONG_STATE"));
        assert!(refused.message.contains(state), "{}", refused.message);
        let violation = &refused.details.precondition_failure().expect("a PreconditionFailure").violations[0];
        assert_eq!(violation.r#type, state);
    }
    cue.succeeds();
    rig.ends(&running).await;
    rig.stop().await;
}

#[tokio::test]
async fn hostile_text_is_kept_literally() {
    const TEXTS: [&str; 6] = [
        "'; DROP TABLE job; --",
        "<script>alert(1)</script>",
        "a\r\nb\u{1b}[31mred",
        "nul\0inside",
        "\u{202e}right to left",
        "%s%n{}$(reboot)`id`",
    ];
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::support::folder(folder.path());
    let rig = Rig::start(crate::support::simple(settings)).await;
    for text in TEXTS {
        let hostile = v1::JobSpec {
            payload: Some(v1::Payload::of(text)),
            labels: [("note".to_owned(), text.to_owned())].into(),
            ..job("echo")
        };
        let id = rig.submit(hostile).await.id;
        let ended = rig.ends(&id).await;
        assert_eq!((payload(&ended), result(&ended)), (text.as_bytes(), text.as_bytes()));
        let labels = spec(&ended).labels.clone();
        assert_eq!(labels["note"], text);
        let filter = v1::JobFilter { labels, ..Default::default() };
        let request = v1::ListJobsRequest { filter: Some(filter), ..Default::default() };
        let found = rig.jobs.clone().list_jobs(request).await.unwrap().into_inner().jobs;
        assert_eq!(found.iter().map(|job| &job.id).collect::<Vec<_>>(), [&id]);
    }
    assert_eq!(rig.total().await, TEXTS.len() as i64);
    rig.stop().await;
}
