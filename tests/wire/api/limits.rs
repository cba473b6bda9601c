//! The limits that GetServerInfo reports, each of which the server enforces exactly.

use jobmill::{
    execute::Attempt,
    job::{Output, PayloadInfo},
    proto::v1,
    serve::Server,
};
use prost::Message;
use tonic::{Code, Request};

use super::{duration, raw, server_info::info, table};
use crate::support::{QUEUE, Rig, defaults, job, memory, refusal, result, soon, spec, submission};

/// A request with a variable amount in one field.
struct Probe {
    limit: &'static str,
    rpc: &'static str,
    /// The field that is refused when the amount exceeds the limit.
    field: &'static str,
    request: fn(usize, &str) -> Vec<u8>,
}

fn entry(n: usize) -> (String, String) {
    (format!("key-{n:05}"), String::new())
}

/// Returns a map whose entries take `bytes` bytes.
fn entries_of(bytes: usize) -> std::collections::BTreeMap<String, String> {
    [("a".to_owned(), "v".repeat(bytes - 1))].into()
}

fn with_job(change: impl FnOnce(&mut v1::JobSpec)) -> Vec<u8> {
    let mut spec = job("echo");
    change(&mut spec);
    submission(spec).encode_to_vec()
}

fn with_payload(payload: v1::Payload) -> Vec<u8> {
    with_job(|job| job.payload = Some(payload))
}

fn with_filter(change: impl FnOnce(&mut v1::JobFilter)) -> Vec<u8> {
    let mut filter = v1::JobFilter::default();
    change(&mut filter);
    v1::CountJobsRequest { filter: Some(filter), ..Default::default() }.encode_to_vec()
}

fn probe(
    limit: &'static str,
    rpc: &'static str,
    field: &'static str,
    request: fn(usize, &str) -> Vec<u8>,
) -> Probe {
    Probe { limit, rpc, field, request }
}

/// Returns a probe for each limit of a field. Requests about a job name one that has ended.
fn probes() -> Vec<Probe> {
    let mut probes = probes_of_submissions();
    probes.extend(probes_of_workers());
    probes.extend(probes_of_schedules());
    probes.extend(probes_of_limits());
    probes.extend([
        probe("batch_jobs", "JobQueue/SubmitBatch", "jobs", |n, _| {
            v1::SubmitBatchRequest { jobs: vec![job("echo"); n], ..Default::default() }.encode_to_vec()
        }),
        probe("graph_jobs", "JobQueue/GetJobGraph", "max_jobs", |n, ended| {
            v1::GetJobGraphRequest { id: ended.to_owned(), max_jobs: n as i32, ..Default::default() }
                .encode_to_vec()
        }),
        probe("filter_kinds", "JobQueue/CountJobs", "filter.kinds", |n, _| {
            with_filter(|filter| filter.kinds = vec!["echo".to_owned(); n])
        }),
        probe("filter_queues", "JobQueue/CountJobs", "filter.queues", |n, _| {
            with_filter(|filter| filter.queues = vec![QUEUE.to_owned(); n])
        }),
        probe("queue_max_wait_seconds", "QueueService/CreateQueue", "settings.max_wait", |n, _| {
            let settings = v1::QueueSettings { max_wait: Some(duration(n as i64)), ..raw::no_consumers() };
            let name = "patient".to_owned();
            v1::CreateQueueRequest { name, settings: Some(settings), ..Default::default() }.encode_to_vec()
        }),
        probe("wait_seconds", "JobQueue/GetJob", "wait", |n, ended| {
            let wait = Some(duration(n as i64));
            v1::GetJobRequest { id: ended.to_owned(), wait, ..Default::default() }.encode_to_vec()
        }),
        probe("watched_ids", "JobQueue/WatchStatus", "ids", |n, ended| {
            v1::WatchStatusRequest { ids: vec![ended.to_owned(); n], ..Default::default() }.encode_to_vec()
        }),
    ]);
    probes
}

fn probes_of_submissions() -> Vec<Probe> {
    const SUBMIT: &str = "JobQueue/Submit";
    vec![
        probe("attempt_timeout_seconds", SUBMIT, "job.attempt_timeout", |n, _| {
            with_job(|job| job.attempt_timeout = Some(duration(n as i64)))
        }),
        probe("deadline_seconds", SUBMIT, "job.deadline_after", |n, _| {
            with_job(|job| job.deadline = Some(v1::job_spec::Deadline::DeadlineAfter(duration(n as i64))))
        }),
        probe("delay_seconds", SUBMIT, "job.delay", |n, _| {
            with_job(|job| job.start = Some(v1::job_spec::Start::Delay(duration(n as i64))))
        }),
        probe("header_bytes", SUBMIT, "job.headers", |n, _| with_job(|job| job.headers = entries_of(n))),
        probe("headers", SUBMIT, "job.headers", |n, _| {
            with_job(|job| job.headers = (0..n).map(entry).collect())
        }),
        probe("label_value_bytes", SUBMIT, "job.labels", |n, _| {
            with_job(|job| job.labels = [("a".to_owned(), "v".repeat(n))].into())
        }),
        probe("labels", SUBMIT, "job.labels", |n, _| {
            with_job(|job| job.labels = (0..n).map(entry).collect())
        }),
        probe("max_attempts", SUBMIT, "job.max_attempts", |n, _| with_job(|job| job.max_attempts = n as i32)),
        probe("max_process_losses", SUBMIT, "job.max_process_losses", |n, _| {
            with_job(|job| job.max_process_losses = n as i32)
        }),
        probe("max_snoozes", SUBMIT, "job.max_snoozes", |n, _| {
            with_job(|job| job.max_snoozes = Some(n as i32))
        }),
        probe("media_type_bytes", SUBMIT, "job.payload.media_type", |n, _| {
            with_payload(v1::Payload::of("x").with_type("t".repeat(n)))
        }),
        probe("metadata_bytes", SUBMIT, "job.payload.metadata", |n, _| {
            with_payload(v1::Payload { metadata: entries_of(n), ..v1::Payload::of("x") })
        }),
        probe("metadata_entries", SUBMIT, "job.payload.metadata", |n, _| {
            with_payload(v1::Payload { metadata: (0..n).map(entry).collect(), ..v1::Payload::of("x") })
        }),
        probe("payload_bytes", SUBMIT, "job.payload", |n, _| with_payload(v1::Payload::of(vec![7; n]))),
        probe("request_id_bytes", SUBMIT, "request_id", |n, _| {
            v1::SubmitRequest { request_id: "r".repeat(n), ..submission(job("echo")) }.encode_to_vec()
        }),
        probe("retry_delay_seconds", SUBMIT, "job.retry_policy.max_delay", |n, _| {
            let policy = v1::RetryPolicy { max_delay: Some(duration(n as i64)), ..Default::default() };
            with_job(|job| job.retry_policy = Some(policy.into()))
        }),
        probe("retry_delays", SUBMIT, "job.retry_policy.delays", |n, _| {
            let policy = v1::RetryPolicy { delays: vec![duration(1); n], ..Default::default() };
            with_job(|job| job.retry_policy = Some(policy.into()))
        }),
        probe("unique_key_bytes", SUBMIT, "job.unique_key.key", |n, _| {
            let unique = v1::UniqueKey { key: "k".repeat(n), ..Default::default() };
            with_job(|job| job.unique_key = Some(unique.into()))
        }),
        probe("unique_key_seconds", SUBMIT, "job.unique_key.hold", |n, _| {
            let hold = Some(duration(n as i64));
            let unique = v1::UniqueKey { key: "k".to_owned(), hold, ..Default::default() };
            with_job(|job| job.unique_key = Some(unique.into()))
        }),
    ]
}

fn probes_of_schedules() -> Vec<Probe> {
    vec![
        probe("calendar_dates", "ScheduleService/CreateCalendar", "calendar.dates", |n, _| {
            let dates = vec!["2030-01-01".to_owned(); n];
            let calendar = v1::Calendar { name: "long".to_owned(), dates, ..Default::default() };
            v1::CreateCalendarRequest { calendar: Some(calendar), ..Default::default() }.encode_to_vec()
        }),
        probe("schedule_crons", "ScheduleService/PreviewSchedule", "spec.crons", |n, _| {
            let spec = v1::ScheduleSpec { crons: vec!["* * * * *".to_owned(); n], ..Default::default() };
            v1::PreviewScheduleRequest { spec: Some(spec), ..Default::default() }.encode_to_vec()
        }),
    ]
}

fn with_limit(name: &str, change: impl FnOnce(&mut v1::Limit)) -> Vec<u8> {
    let mut limit = table::nothing_limited(name, 1);
    change(&mut limit);
    v1::CreateLimitRequest { limit: Some(limit), ..Default::default() }.encode_to_vec()
}

fn with_rate(name: &str, change: impl FnOnce(&mut v1::Rate)) -> Vec<u8> {
    let mut rate = v1::Rate { count: 1_000, per: Some(duration(1)), burst: 1 };
    change(&mut rate);
    with_limit(name, |limit| limit.rule = Some(v1::limit::Rule::Rate(rate)))
}

fn probes_of_limits() -> Vec<Probe> {
    const CREATE: &str = "LimitService/CreateLimit";
    vec![
        probe("limit_names", CREATE, "limit.kinds", |n, _| {
            with_limit("names", |limit| limit.kinds = (0..n).map(|kind| format!("kind-{kind}")).collect())
        }),
        probe("limit_running", CREATE, "limit.max_running", |n, _| {
            with_limit("running", |limit| limit.rule = Some(v1::limit::Rule::MaxRunning(n as i32)))
        }),
        probe("limit_value_bytes", "LimitService/SetLimitOverride", "override.value", |n, _| {
            table::exception("heavy-0", &"v".repeat(n), 1).encode_to_vec()
        }),
        probe("rate_burst", CREATE, "limit.rate.burst", |n, _| {
            with_rate("burst", |rate| rate.burst = n as i32)
        }),
        probe("rate_count", CREATE, "limit.rate.count", |n, _| {
            with_rate("count", |rate| rate.count = n as i32)
        }),
        probe("rate_period_seconds", CREATE, "limit.rate.per", |n, _| {
            with_rate("period", |rate| rate.per = Some(duration(n as i64)))
        }),
        probe("weight", "JobQueue/Submit", "job.weights", |n, _| {
            with_job(|job| job.weights = [("heavy-0".to_owned(), n as i32)].into())
        }),
        probe("weights", "JobQueue/Submit", "job.weights", |n, _| {
            with_job(|job| job.weights = (0..n).map(|limit| (format!("heavy-{limit}"), 1)).collect())
        }),
    ]
}

fn with_hello(change: impl FnOnce(&mut v1::Hello)) -> Vec<u8> {
    let mut hello = raw::hello("w");
    change(&mut hello);
    raw::greeting(hello)
}

fn probes_of_workers() -> Vec<Probe> {
    const WORK: &str = "WorkerService/Work";
    vec![
        probe("hello_leases", WORK, "hello.leases", |n, ended| {
            let lease = v1::Lease { job_id: ended.to_owned(), token: 1 };
            with_hello(|hello| hello.leases = vec![lease; n])
        }),
        probe("leased_jobs", "WorkerService/LeaseJobs", "max_jobs", |n, _| {
            let v1::Hello { instance, process, .. } = raw::hello("w");
            let kinds = vec![raw::KIND.to_owned()];
            let request =
                v1::LeaseJobsRequest { instance, process, kinds, max_jobs: n as i32, ..Default::default() };
            request.encode_to_vec()
        }),
        probe("pool_kinds", WORK, "hello.pools[0].kinds", |n, _| {
            with_hello(|hello| hello.pools[0].kinds = vec![raw::KIND.to_owned(); n])
        }),
        probe("reports", "WorkerService/ReportJobs", "reports", |n, ended| {
            let v1::Hello { instance, process, .. } = raw::hello("w");
            let lease = Some(v1::Lease { job_id: ended.to_owned(), token: 1 });
            let report = Some(v1::report::Report::Received(v1::Received {}));
            let reports = vec![v1::Report { lease, report }; n];
            v1::ReportJobsRequest { instance, process, reports, ..Default::default() }.encode_to_vec()
        }),
        probe("worker_pools", WORK, "hello.pools", |n, _| {
            with_hello(|hello| {
                let pool = hello.pools[0].clone();
                hello.pools =
                    (0..n).map(|i| v1::WorkerPool { name: i.to_string(), ..pool.clone() }).collect();
            })
        }),
    ]
}

/// Limits that belong to no field. Each has a test of its own: below, or with those of workers, schedules, limits or dependencies.
const OTHERS: [&str; 16] = [
    "backfill_instants",
    "calendars",
    "call_dependencies",
    "checkpoint_bytes",
    "dependencies",
    "limit_overrides",
    "limits",
    "message_bytes",
    "page_size",
    "pool_credits",
    "preview_instants",
    "result_bytes",
    "schedule_calendars",
    "schedules",
    "stream_credits",
    "tracestate_bytes",
];

impl Rig {
    /// Returns a limit that the server tells.
    pub(crate) async fn limit(&self, name: &str) -> usize {
        let limits = info(self).await.limits;
        let limit = limits.iter().find(|limit| limit.name == name).unwrap_or_else(|| panic!("no {name}"));
        limit.value.try_into().unwrap()
    }
}

#[tokio::test]
async fn each_limit_of_a_field_is_what_the_server_holds_requests_to() {
    let rig = super::shelf().await;
    let ended = rig.submit(job("echo")).await.id;
    rig.cancel(&ended).await.unwrap();
    // Limits under which jobs may be as heavy as they like.
    for n in 0..rig.limit("weights").await {
        let request = with_limit(&format!("heavy-{n}"), |limit| {
            limit.rule = Some(v1::limit::Rule::MaxRunning(1_000_000));
        });
        raw::call(&rig, "jobmill.v1.LimitService/CreateLimit", &[], &request).await.unwrap();
    }
    for Probe { limit: name, rpc, field, request } in probes() {
        let (limit, rpc) = (rig.limit(name).await, format!("jobmill.v1.{rpc}"));
        let before = raw::state(&rig).await;
        let status = raw::call(&rig, &rpc, &[], &request(limit + 1, &ended)).await.expect_err(name);
        let refused = refusal(&status);
        assert_eq!(
            (refused.code, &refused.fields[..]),
            (Code::InvalidArgument, &[field.to_owned()][..]),
            "{name}"
        );
        assert_eq!(raw::state(&rig).await, before, "{name}");
        let allowed = raw::call(&rig, &rpc, &[], &request(limit, &ended)).await;
        allowed.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_limit_that_is_told_is_probed() {
    let rig = Rig::simple().await;
    let told: Vec<_> = info(&rig).await.limits.into_iter().map(|limit| limit.name).collect();
    let mut probed: Vec<_> = probes().iter().map(|probe| probe.limit).chain(OTHERS).collect();
    probed.sort_unstable();
    assert_eq!(told, probed);
    rig.stop().await;
}

#[tokio::test]
async fn a_message_may_have_as_many_bytes_as_are_told_and_no_more() {
    let rig = super::shelf().await;
    let limit = rig.limit("message_bytes").await;
    // A field unknown to the server pads the message to the wanted size.
    let message = |bytes: usize| {
        let mut message = submission(job("echo")).encode_to_vec();
        let rest = bytes - message.len();
        let heads = (1..12).find(|heads| {
            let mut field = Vec::new();
            prost::encoding::bytes::encode(1_000, &vec![0; rest - heads], &mut field);
            field.len() == rest
        });
        prost::encoding::bytes::encode(1_000, &vec![0; rest - heads.expect("a head")], &mut message);
        assert_eq!(message.len(), bytes);
        message
    };
    let call = async |bytes| raw::call(&rig, "jobmill.v1.JobQueue/Submit", &[], &message(bytes)).await;
    let status = call(limit + 1).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    assert_eq!(rig.total().await, 0);
    call(limit).await.unwrap();
    assert_eq!(rig.total().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_jobs_as_are_told_at_most() {
    let rig = super::shelf().await;
    let limit = rig.limit("page_size").await;
    rig.submit_batch(vec![job("echo"); limit]).await;
    rig.submit(job("echo")).await;
    let request = v1::ListJobsRequest { page_size: limit as i32 + 1, ..Default::default() };
    let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
    assert_eq!(page.jobs.len(), limit);
    assert_ne!(page.next_page_token, "");
    rig.stop().await;
}

#[tokio::test]
async fn a_result_may_have_as_many_bytes_as_are_told_and_no_more() {
    let large = async |attempt: Attempt| {
        let bytes: usize = std::str::from_utf8(attempt.payload()).unwrap().parse().unwrap();
        Ok(Output { bytes: vec![7; bytes].into(), info: PayloadInfo::default() })
    };
    let rig = Rig::start(Server::builder(memory()).handler("large", defaults(), large)).await;
    let limit = rig.limit("result_bytes").await;
    for (bytes, expected) in [(limit, v1::JobState::Succeeded), (limit + 1, v1::JobState::Failed)] {
        let payload = Some(v1::Payload::of(bytes.to_string()));
        let id = rig.submit(v1::JobSpec { payload, ..job("large") }).await.id;
        let ended = rig.ends(&id).await;
        assert_eq!(ended.state(), expected, "{bytes} bytes");
        assert_eq!(result(&ended).len(), if bytes == limit { limit } else { 0 });
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_begins_with_as_many_credits_as_are_told() {
    let rig = Rig::simple().await;
    let limit = rig.limit("stream_credits").await;
    let nothing = tokio_stream::pending();
    let mut stream = soon(rig.jobs.clone().submit_stream(nothing)).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().expect("credits");
    assert_eq!((first.credits as usize, first.results.len()), (limit, 0));
    drop(stream);
    rig.stop().await;
}

#[tokio::test]
async fn a_trace_state_is_kept_up_to_as_many_bytes_as_are_told() {
    let rig = super::shelf().await;
    let limit = rig.limit("tracestate_bytes").await;
    for (bytes, kept) in [(limit, limit), (limit + 1, 0)] {
        let request = v1::SubmitRequest { view: v1::JobView::Basic as i32, ..submission(job("echo")) };
        let mut request = Request::new(request);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        let state = format!("vendor={}", "x".repeat(bytes - "vendor=".len()));
        request.metadata_mut().insert("tracestate", state.parse().unwrap());
        let job = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner().job.unwrap();
        assert_eq!((spec(&job).kind.as_str(), job.tracestate.len()), ("echo", kept), "{bytes} bytes");
    }
    rig.stop().await;
}
