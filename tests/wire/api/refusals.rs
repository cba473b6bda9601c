//! The machine-readable parts of errors: the reason, and metadata that a program would otherwise parse from messages.
//!
//! [`refusal`], which all tests use, checks that every reason is documented in the protocol with its code and keys.

use std::{collections::HashMap, time::Duration};

use jobmill::{
    clock::Clock,
    proto::v1::{
        self, ErrorReason, submit_result::Result as Item, worker_service_client::WorkerServiceClient,
    },
    settings::{QueueSettings, Settings, TokenHash, WhenFull},
};
use prost::Message;
use tonic::{Response, Status};

use super::submit;
use crate::{
    bad_messages::{SUBMIT, call_as, framed},
    queues::in_queue,
    support::{
        QUEUE, Refusal, Rig, Stage, defaults, folder, job, manual_clock, memory, named, queue, refusal,
        refused_item, simple, soon, submission, update_of, with_queue,
    },
};

/// Returns the refusal of a call that must fail.
fn error<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> Refusal {
    refusal(&result.expect_err("a refusal"))
}

fn told(refusal: &Refusal) -> (&str, Vec<(&str, &str)>) {
    let metadata = &refusal.metadata;
    let mut metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    metadata.sort_unstable();
    (&refusal.reason, metadata)
}

async fn create(rig: &Rig, name: &str, settings: v1::QueueSettings) -> Result<(), Status> {
    let request =
        v1::CreateQueueRequest { name: name.to_owned(), settings: Some(settings), ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.map(|_| ())
}

fn consumers(consumers: i32) -> v1::QueueSettings {
    v1::QueueSettings { consumers: Some(consumers), ..Default::default() }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let rig = Rig::simple().await;
    const ID: &str = "0000000000001";
    let job_not_found = ("JOB_NOT_FOUND", vec![("job_id", ID)]);
    for status in [
        rig.find(ID).await.unwrap_err(),
        rig.cancel(ID).await.unwrap_err(),
        rig.retry(ID).await.unwrap_err(),
        rig.delete(ID).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal(&status)), job_not_found);
    }
    let queue_not_found = ("QUEUE_NOT_FOUND", vec![("queue", "nowhere")]);
    let nowhere = || "nowhere".to_owned();
    let mut queues = rig.queues.clone();
    for refused in [
        refusal(&submit(&rig, submission(in_queue("nowhere", "echo"))).await.unwrap_err()),
        error(queues.get_queue(v1::GetQueueRequest { name: nowhere(), ..Default::default() }).await),
        error(queues.update_queue(update_of("nowhere", v1::QueueSettings::default())).await),
        error(queues.delete_queue(v1::DeleteQueueRequest { name: nowhere(), ..Default::default() }).await),
        error(queues.pause_queue(v1::PauseQueueRequest { name: nowhere(), ..Default::default() }).await),
        error(queues.resume_queue(v1::ResumeQueueRequest { name: nowhere(), ..Default::default() }).await),
        error(queues.purge_queue(v1::PurgeQueueRequest { name: nowhere(), ..Default::default() }).await),
    ] {
        assert_eq!(told(&refused), queue_not_found);
    }
    let refused = refusal(&submit(&rig, submission(job("nothing"))).await.unwrap_err());
    assert_eq!(told(&refused), ("UNKNOWN_KIND", vec![("kind", "nothing"), ("queue", QUEUE)]));
    rig.stop().await;
}

#[tokio::test]
async fn batches_and_streams_tell_the_same() {
    let rig = Rig::simple().await;
    let unknown = ("UNKNOWN_KIND", vec![("kind", "nothing"), ("queue", QUEUE)]);
    let batch = v1::SubmitBatchRequest { jobs: vec![job("echo"), job("nothing")], ..Default::default() };
    assert_eq!(told(&error(soon(rig.jobs.clone().submit_batch(batch)).await)), unknown);
    let watch = v1::SubmitAndWatchRequest { job: Some(job("nothing")), ..Default::default() };
    assert_eq!(told(&error(soon(rig.jobs.clone().submit_and_watch(watch)).await)), unknown);

    submit(&rig, named("once", job("echo"))).await.unwrap();
    let invalid = v1::JobSpec { priority: Some(101), ..job("echo") };
    let items = vec![
        item("", job("nothing")),
        item("", in_queue("nowhere", "echo")),
        item("once", job("fail")),
        item("", invalid),
    ];
    let errors = refused_items(&rig, v1::SubmitStreamRequest { items, ..Default::default() }).await;
    let told: Vec<_> = errors.iter().map(|error| (refused_item(error).1, pairs(&error.metadata))).collect();
    let expected = [
        unknown,
        ("QUEUE_NOT_FOUND", vec![("queue", "nowhere")]),
        ("REQUEST_ID_REUSED", vec![]),
        ("INVALID_REQUEST", vec![]),
    ];
    assert_eq!(told, expected);
    assert_eq!(errors[3].field_violations[0].field, "job.priority");
    rig.stop().await;
}

fn item(request_id: &str, job: v1::JobSpec) -> v1::SubmitItem {
    v1::SubmitItem { job: Some(job), request_id: request_id.to_owned() }
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Returns the errors of a stream's items, all of which must be refused.
async fn refused_items(rig: &Rig, request: v1::SubmitStreamRequest) -> Vec<v1::ItemError> {
    let mut jobs = rig.jobs.clone();
    let mut stream = soon(jobs.submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
    let mut errors = Vec::new();
    while let Some(response) = soon(stream.message()).await.unwrap() {
        errors.extend(response.results.into_iter().map(|result| match result.result {
            Some(Item::Error(error)) => error,
            result => panic!("{result:?} was not refused"),
        }));
    }
    errors
}

#[tokio::test]
async fn what_is_there_already_is_named() {
    let rig = Rig::simple().await;
    let refused = refusal(&create(&rig, QUEUE, consumers(0)).await.unwrap_err());
    assert_eq!(told(&refused), ("QUEUE_EXISTS", vec![("queue", QUEUE)]));
    let first = submit(&rig, named("once", job("echo"))).await.unwrap();
    rig.ends(first.id()).await;
    let reused = ("REQUEST_ID_REUSED", vec![]);
    let refused = submit(&rig, named("once", job("fail"))).await.unwrap_err();
    assert_eq!(told(&refusal(&refused)), reused);
    let retry = v1::RetryJobRequest {
        id: first.id().to_owned(),
        request_id: "once".to_owned(),
        ..Default::default()
    };
    assert_eq!(told(&error(soon(rig.jobs.clone().retry_job(retry)).await)), reused);
    rig.stop().await;
}

#[tokio::test]
async fn states_that_do_not_allow_it_are_told() {
    let (handler, mut stage) = Stage::new();
    let rig = Rig::start(simple(memory()).handler("stage", defaults(), handler)).await;
    let ended = rig.submit(job("echo")).await.id;
    rig.ends(&ended).await;
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    for (status, id, state) in [
        (rig.cancel(&ended).await.unwrap_err(), &ended, "SUCCEEDED"),
        (rig.retry(&ended).await.unwrap_err(), &ended, "SUCCEEDED"),
        (rig.retry(&running).await.unwrap_err(), &running, "RUNNING"),
        (rig.delete(&running).await.unwrap_err(), &running, "RUNNING"),
    ] {
        assert_eq!(told(&refusal(&status)), ("WRONG_STATE", vec![("job_id", id.as_str()), ("state", state)]));
    }
    cue.succeeds();
    rig.ends(&running).await;
    rig.stop().await;
}

#[tokio::test]
async fn queues_that_do_not_allow_it_are_named() {
    let rig = Rig::simple().await;
    create(&rig, "made", consumers(0)).await.unwrap();
    rig.submit(in_queue("made", "echo")).await;
    let mut queues = rig.queues.clone();
    let delete = |name: &str| v1::DeleteQueueRequest { name: name.to_owned(), ..Default::default() };
    let not_empty = error(soon(queues.delete_queue(delete("made"))).await);
    assert_eq!(told(&not_empty), ("QUEUE_NOT_EMPTY", vec![("queue", "made")]));
    for declared in [
        error(soon(queues.delete_queue(delete(QUEUE))).await),
        error(soon(queues.update_queue(update_of(QUEUE, v1::QueueSettings::default()))).await),
    ] {
        assert_eq!(told(&declared), ("QUEUE_DECLARED", vec![("queue", QUEUE)]));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_full_queue_tells_what_it_holds_and_what_it_may() {
    let full = QueueSettings { max_jobs: 2, max_bytes: 1 << 20, max_waiters: 0, ..queue(0) };
    let rejecting = QueueSettings { when_full: WhenFull::Reject, ..full.clone() };
    let waiting = QueueSettings { when_full: WhenFull::Wait, ..full };
    let settings = with_queue(with_queue(memory(), "rejecting", rejecting), "waiting", waiting);
    let rig = Rig::start(simple(settings)).await;
    for (name, reason) in [("rejecting", "QUEUE_FULL"), ("waiting", "TOO_MANY_WAITERS")] {
        rig.submit_batch(vec![in_queue(name, "echo"); 2]).await;
        let bytes = rig.queue(name).await.stats.unwrap().live_bytes.to_string();
        let refused = refusal(&submit(&rig, submission(in_queue(name, "echo"))).await.unwrap_err());
        let expected = vec![
            ("bytes", bytes.as_str()),
            ("jobs", "2"),
            ("max_bytes", "1048576"),
            ("max_jobs", "2"),
            ("queue", name),
        ];
        assert_eq!(told(&refused), (reason, expected));
        let batch = v1::SubmitBatchRequest { jobs: vec![in_queue(name, "echo"); 3], ..Default::default() };
        let refused = error(soon(rig.jobs.clone().submit_batch(batch)).await);
        let expected = vec![("max_bytes", "1048576"), ("max_jobs", "2"), ("queue", name)];
        assert_eq!(told(&refused), ("LARGER_THAN_QUEUE", expected));
    }
    let request = v1::SubmitStreamRequest {
        items: vec![item("", in_queue("rejecting", "echo"))],
        ..Default::default()
    };
    let errors = refused_items(&rig, request).await;
    assert_eq!(refused_item(&errors[0]).1, "QUEUE_FULL");
    assert!(errors[0].retry_delay.is_some());
    rig.stop().await;
}

#[tokio::test]
async fn limits_are_told_as_numbers() {
    let rig = Rig::simple().await;
    for n in 0..9 {
        create(&rig, &format!("wide-{n}"), consumers(10_000)).await.unwrap();
    }
    let refused = refusal(&create(&rig, "wide", consumers(10_000)).await.unwrap_err());
    assert_eq!(told(&refused), ("TOO_MANY_CONSUMERS", vec![("limit", "100000")]));
    let kept_for = |seconds: usize| {
        let time = v1::keep::Keep::Time(super::duration(seconds as i64));
        let retention =
            v1::Retention { failed: Some(v1::Keep { keep: Some(time) }), ..v1::Retention::default() };
        v1::QueueSettings { retention: Some(retention), ..consumers(0) }
    };
    let mut times = 0;
    let refused = loop {
        match create(&rig, &format!("kept-{times}"), kept_for(1_000 + times)).await {
            Ok(()) => times += 1,
            Err(status) => break refusal(&status),
        }
        assert!(times <= 32, "there is no limit");
    };
    assert_eq!(told(&refused), ("TOO_MANY_RETENTION_TIMES", vec![("limit", "32")]));
    for n in 1 + 9 + times..1_000 {
        create(&rig, &format!("narrow-{n}"), consumers(0)).await.unwrap();
    }
    let refused = refusal(&create(&rig, "one-more", consumers(0)).await.unwrap_err());
    assert_eq!(told(&refused), ("TOO_MANY_QUEUES", vec![("limit", "1000")]));
    rig.stop().await;
}

#[tokio::test]
async fn kinds_are_limited_too_where_any_are_accepted() {
    let open = QueueSettings { accept_unknown_kinds: true, ..queue(0) };
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, open))).await;
    let refused = async {
        for n in 0..=10 {
            let jobs = (0..1_000).map(|kind| job(&format!("kind-{n}-{kind}"))).collect();
            let batch = v1::SubmitBatchRequest { jobs, ..Default::default() };
            if let Err(status) = soon(rig.jobs.clone().submit_batch(batch)).await {
                return refusal(&status);
            }
        }
        panic!("there is no limit");
    };
    assert_eq!(told(&refused.await), ("TOO_MANY_KINDS", vec![("limit", "10000")]));
    rig.stop().await;
}

#[tokio::test]
async fn what_exceeds_its_credit_has_faults_or_comes_from_a_foreign_page_tells_no_more() {
    let rig = super::shelf().await;
    let request =
        v1::SubmitStreamRequest { items: vec![item("", job("echo")); 10_000], ..Default::default() };
    let mut stream =
        soon(rig.jobs.clone().submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
    let refused = loop {
        match soon(stream.message()).await {
            Ok(Some(response)) => assert!(response.results.is_empty()),
            Ok(None) => panic!("all of them were taken"),
            Err(status) => break refusal(&status),
        }
    };
    assert_eq!(told(&refused), ("CREDIT_EXCEEDED", vec![]));
    let refused = refusal(&submit(&rig, v1::SubmitRequest::default()).await.unwrap_err());
    assert_eq!(told(&refused), ("INVALID_REQUEST", vec![]));
    let mut page = tonic::Request::new(submission(job("echo")));
    page.metadata_mut().insert("origin", "https://app.example".parse().unwrap());
    assert_eq!(told(&error(soon(rig.jobs.clone().submit(page)).await)), ("ORIGIN_NOT_ALLOWED", vec![]));
    let message = framed(false, &submission(job("echo")).encode_to_vec());
    let status = call_as(&rig, "application/grpc-web+proto", SUBMIT, None, message).await;
    assert_eq!(told(&refusal(&status)), ("GRPC_WEB_OFF", vec![]));
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_says_so_to_those_who_wait() {
    let full = QueueSettings { max_jobs: 1, max_wait: Duration::from_secs(600), ..queue(0) };
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, full))).await;
    rig.submit(job("echo")).await;
    let mut jobs = rig.jobs.clone();
    let waiting = tokio::spawn(async move { jobs.submit(submission(job("echo"))).await });
    rig.waiters(QUEUE, 1).await;
    rig.stop().await;
    assert_eq!(told(&error(soon(waiting).await.unwrap())), ("STOPPING", vec![]));
}

#[tokio::test]
async fn tokens_of_watches_and_of_callers_tell_what_is_wrong_with_them() {
    let clock = manual_clock();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens.toml");
    let entry = |name: &str, roles: &str, more: &str| {
        format!(
            "[tokens.{name}]\nhash = 'sha256:{}'\nroles = {roles}\nqueues = ['*']\n{more}",
            TokenHash::of(name)
        )
    };
    let entries =
        entry("reader", "['read']", "") + &entry("old", "['admin']", "expires = 2020-01-01T00:00:00Z\n");
    std::fs::write(&file, entries).unwrap();
    let settings = Settings { tokens: Some(file), ..folder(&home.path().join("data")) };
    let rig = Rig::start(simple(settings).clock(Clock::Manual(clock))).await;
    let call = async |token: Option<&str>| {
        let mut request = tonic::Request::new(submission(job("echo")));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        error(soon(rig.jobs.clone().submit(request)).await)
    };
    assert_eq!(told(&call(None).await), ("TOKEN_MISSING", vec![]));
    assert_eq!(told(&call(Some("stranger")).await), ("TOKEN_INVALID", vec![]));
    assert_eq!(told(&call(Some("old")).await), ("TOKEN_EXPIRED", vec![]));
    let mut several = tonic::Request::new(v1::CountJobsRequest::default());
    for token in ["reader", "reader"] {
        several.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    }
    assert_eq!(told(&error(soon(rig.jobs.clone().count_jobs(several)).await)), ("TOKEN_INVALID", vec![]));
    let missing = call(Some("reader")).await;
    assert_eq!(told(&missing), ("ROLE_MISSING", vec![("queue", "*"), ("role", "submit")]));
    rig.stop().await;
}

#[test]
fn reasons_are_named_as_errors_carry_them() {
    let names: HashMap<i32, String> = (0..100)
        .filter_map(|number| Some((number, ErrorReason::try_from(number).ok()?.as_str_name().to_owned())))
        .collect();
    assert!(names.len() > 30, "{names:?}");
    for (number, name) in &names {
        let reason = name.strip_prefix("ERROR_REASON_").expect("the prefix of the enum");
        assert!(reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{number}: {name}");
    }
}

#[tokio::test]
async fn workers_are_told_what_they_have_lost_and_operators_whom_there_is_not() {
    let rig = Rig::simple().await;
    let mut workers = WorkerServiceClient::new(rig.channel.clone());
    let drain = v1::DrainWorkersRequest { instance: "nobody".to_owned(), ..Default::default() };
    let refused = error(soon(workers.drain_workers(drain)).await);
    assert_eq!(told(&refused), ("WORKER_NOT_FOUND", vec![("instance", "nobody")]));

    const ID: &str = "0000000000001";
    let lease = Some(v1::Lease { job_id: ID.to_owned(), token: 7 });
    let reports = [
        v1::report::Report::Received(v1::Received {}),
        v1::report::Report::Heartbeat(v1::Heartbeat::default()),
        v1::report::Report::Completed(v1::Completed::default()),
        v1::report::Report::Output(v1::OutputLines::default()),
    ];
    let reports = reports.map(|report| v1::Report { lease: lease.clone(), report: Some(report) }).to_vec();
    let (instance, process) = ("w".to_owned(), "p".to_owned());
    let request = v1::ReportJobsRequest { instance, process, reports, ..Default::default() };
    for notice in soon(workers.report_jobs(request)).await.unwrap().into_inner().notices {
        let Some(v1::lease_notice::Notice::Refused(error)) = notice.notice else { panic!("{notice:?}") };
        assert_eq!(refused_item(&error).1, "LEASE_LOST");
        let mut metadata = pairs(&error.metadata);
        metadata.sort_unstable();
        assert_eq!(metadata, [("job_id", ID), ("lease", "7")]);
    }
    rig.stop().await;
}
