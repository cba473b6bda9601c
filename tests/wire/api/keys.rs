//! Unique keys over the wire: outcomes of each way to submit, what is shown, and who may see and do what.

use std::fs;

use jobmill::{
    proto::v1::{
        self, JobState, JobView, OnConflict, PendingReason, SubmitOutcome, UniqueKey, UniqueScope,
        submit_and_watch_response::Event, submit_result::Result as Item,
    },
    serve::Server,
    settings::{Settings, TokenHash},
};
use prost_types::Duration;
use tonic::{Code, Request, Response, Status};

use super::{shelf, submit};
use crate::{
    queues::in_queue,
    support::{
        QUEUE, Rig, Stage, defaults, job, memory, named, queue, refusal, refused_item, simple, soon,
        submission, with_queue,
    },
};

fn unique(on_waiting: OnConflict) -> UniqueKey {
    UniqueKey { key: "order 17".to_owned(), on_waiting: on_waiting.into(), ..Default::default() }
}

fn keyed(text: &str, unique: UniqueKey) -> v1::JobSpec {
    v1::JobSpec { payload: Some(v1::Payload::of_text(text)), unique_key: Some(unique.into()), ..job("echo") }
}

async fn list(rig: &Rig, request: v1::ListUniqueKeysRequest) -> v1::ListUniqueKeysResponse {
    soon(rig.jobs.clone().list_unique_keys(request)).await.unwrap().into_inner()
}

async fn release(rig: &Rig, of: &str, request_id: &str) -> Result<v1::ReleaseUniqueKeyResponse, Status> {
    let (key, of, request_id) = ("order 17".to_owned(), of.to_owned(), request_id.to_owned());
    let request = v1::ReleaseUniqueKeyRequest { key, of, request_id, ..Default::default() };
    soon(rig.jobs.clone().release_unique_key(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn every_way_to_submit_tells_what_became_of_the_job() {
    let rig = shelf().await;
    let first = submit(&rig, submission(keyed("first", unique(OnConflict::Reject)))).await.unwrap();
    assert_eq!(first.outcome(), SubmitOutcome::Created);
    let id = first.id().to_owned();
    let told = |outcome| v1::Submitted { id: id.clone(), outcome: i32::from(outcome) };
    for (policy, outcome) in [
        (OnConflict::ReturnExisting, SubmitOutcome::Existing),
        (OnConflict::Replace, SubmitOutcome::Replaced),
    ] {
        let spec = || keyed("later", unique(policy));
        let one = submit(&rig, v1::SubmitRequest { view: JobView::Basic.into(), ..submission(spec()) }).await;
        let one = one.unwrap();
        assert_eq!((one.submitted, one.resume_token.as_str()), (Some(told(outcome)), ""));
        assert_eq!(one.job.unwrap().id, id);
        let batch = v1::SubmitBatchRequest { jobs: vec![spec(), job("echo")], ..Default::default() };
        let batch = soon(rig.jobs.clone().submit_batch(batch)).await.unwrap().into_inner();
        assert_eq!((&batch.jobs[0], batch.jobs[1].outcome()), (&told(outcome), SubmitOutcome::Created));
        assert_eq!(batch.resume_token, "", "the job that was met may have changed before");
        let item = v1::SubmitItem { job: Some(spec()), request_id: String::new() };
        let request = v1::SubmitStreamRequest { items: vec![item], ..Default::default() };
        let mut stream =
            soon(rig.jobs.clone().submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
        let mut results = Vec::new();
        while let Some(response) = soon(stream.message()).await.unwrap() {
            results.extend(response.results.into_iter().filter_map(|result| result.result));
        }
        assert_eq!(results, [Item::Submitted(told(outcome))]);
        let watch = v1::SubmitAndWatchRequest { job: Some(spec()), ..Default::default() };
        let mut watch = soon(rig.jobs.clone().submit_and_watch(watch)).await.unwrap().into_inner();
        match soon(watch.message()).await.unwrap().unwrap().event {
            Some(Event::Submitted(answer)) => assert_eq!(answer.submitted, Some(told(outcome))),
            other => panic!("{other:?}"),
        }
        match soon(watch.message()).await.unwrap().unwrap().event {
            Some(Event::Status(_)) => {}
            other => panic!("it is watched: {other:?}"),
        }
    }
    let whole = rig.get(&id).await;
    assert_eq!((whole.replaced, whole.revision), (4, 5), "once by each way");
    assert_eq!(whole.spec.unwrap().payload.unwrap().bytes(), b"later");
    rig.stop().await;
}

#[tokio::test]
async fn a_spec_has_the_key_as_it_was_said() {
    let rig = shelf().await;
    let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
    let debounce = Some(v1::Debounce { quiet: seconds(60), max_wait: seconds(90) });
    let said = UniqueKey {
        scope: UniqueScope::Queue.into(),
        on_started: OnConflict::Cancel.into(),
        hold: seconds(5),
        debounce,
        ..unique(OnConflict::Replace)
    };
    for said in [said, UniqueKey { throttle: seconds(7), ..unique(OnConflict::Unspecified) }] {
        let job = rig.submit(keyed("", said.clone())).await;
        assert_eq!(job.spec.unwrap().unique_key, Some(said.into()));
    }
    rig.stop().await;
}

#[tokio::test]
async fn refusals_name_the_key_the_holder_and_what_differs() {
    let rig = shelf().await;
    let holder = rig.submit(keyed("", unique(OnConflict::Reject))).await.id;
    let held = refusal(&submit(&rig, submission(keyed("", unique(OnConflict::Reject)))).await.unwrap_err());
    assert_eq!((held.code, held.reason.as_str()), (Code::FailedPrecondition, "KEY_HELD"));
    let told = |key: &str| held.metadata[key].clone();
    assert_eq!(
        (told("key"), told("job_id"), told("state")),
        ("order 17".into(), holder.clone(), "QUEUED".into())
    );
    let labels = [("tenant".to_owned(), "x".to_owned())].into();
    let other = v1::JobSpec { labels, ..keyed("", unique(OnConflict::Replace)) };
    let status = submit(&rig, submission(other)).await.unwrap_err();
    assert!(status.message().contains("labels"), "{}", status.message());
    let conflict = refusal(&status);
    assert_eq!((conflict.code, conflict.reason.as_str()), (Code::FailedPrecondition, "KEY_CONFLICT"));
    let told = |key: &str| conflict.metadata[key].clone();
    assert_eq!((told("key"), told("job_id"), told("field")), ("order 17".into(), holder, "labels".into()));
    let jobs = vec![job("echo"), keyed("", unique(OnConflict::Reject))];
    let batch = v1::SubmitBatchRequest { jobs, ..Default::default() };
    let status = soon(rig.jobs.clone().submit_batch(batch)).await.unwrap_err();
    assert!(status.message().starts_with("jobs[1]: "), "{}", status.message());
    assert_eq!(refusal(&status).reason, "KEY_HELD");
    assert_eq!(rig.total().await, 1);
    let item = v1::SubmitItem { job: Some(keyed("", unique(OnConflict::Reject))), request_id: String::new() };
    let request = v1::SubmitStreamRequest { items: vec![item], ..Default::default() };
    let mut stream =
        soon(rig.jobs.clone().submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
    while let Some(response) = soon(stream.message()).await.unwrap() {
        for result in response.results {
            let Some(Item::Error(error)) = result.result else { panic!("{result:?}") };
            assert_eq!(refused_item(&error).1, "KEY_HELD");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn each_fault_of_a_key_names_its_field_and_the_way_out() {
    let rig = shelf().await;
    let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
    let key = |key: &str| UniqueKey { key: key.to_owned(), ..Default::default() };
    let good = || key("a");
    let debounce = |quiet, max_wait| v1::Debounce { quiet, max_wait };
    let replace = OnConflict::Replace.into();
    for (unique, field, way_out) in [
        (key(""), "key", "is required: 1 to 256 bytes"),
        (key(&"x".repeat(257)), "key", "use a hash of it"),
        (key("a\0"), "key", "U+0000 at byte 1: encode it"),
        (key("a\u{85}"), "key", "control character"),
        (UniqueKey { scope: 9, ..good() }, "scope", "9 is no value of this enum"),
        (UniqueKey { on_waiting: OnConflict::Cancel.into(), ..good() }, "on_waiting", "use REPLACE"),
        (UniqueKey { on_started: replace, ..good() }, "on_started", "use FOLLOW"),
        (UniqueKey { hold: seconds(-1), ..good() }, "hold", "is negative"),
        (UniqueKey { hold: seconds(0), ..good() }, "hold", "it must be from 1ms"),
        (UniqueKey { debounce: Some(debounce(None, seconds(5))), ..good() }, "debounce.quiet", "is required"),
        (
            UniqueKey { debounce: Some(debounce(seconds(5), seconds(4))), ..good() },
            "debounce.max_wait",
            "shorter than quiet",
        ),
        (
            UniqueKey { debounce: Some(debounce(seconds(5), None)), throttle: seconds(5), ..good() },
            "throttle",
            "leave one of them out",
        ),
        (
            UniqueKey { throttle: seconds(5), on_waiting: OnConflict::Follow.into(), ..good() },
            "on_waiting",
            "must be REPLACE",
        ),
    ] {
        let status = submit(&rig, submission(keyed("", unique))).await.unwrap_err();
        let refused = refusal(&status);
        assert_eq!(refused.code, Code::InvalidArgument);
        assert!(refused.fields.contains(&format!("job.unique_key.{field}")), "{field}: {refused:?}");
        assert!(status.message().contains(way_out), "{field}: {}", status.message());
    }
    let start = Some(v1::job_spec::Start::Delay(Duration { seconds: 1, nanos: 0 }));
    let debounced = UniqueKey { debounce: Some(debounce(seconds(5), None)), ..good() };
    let status = submit(&rig, submission(v1::JobSpec { start, ..keyed("", debounced) })).await.unwrap_err();
    assert_eq!(refusal(&status).fields, ["job.unique_key.debounce"]);
    assert_eq!(rig.total().await, 0);
    let of = |scope: UniqueScope, of: &str| v1::ReleaseUniqueKeyRequest {
        key: "a".to_owned(),
        scope: scope.into(),
        of: of.to_owned(),
        ..Default::default()
    };
    for request in [of(UniqueScope::Kind, ""), of(UniqueScope::Queue, "A"), of(UniqueScope::Namespace, "a")] {
        let status = soon(rig.jobs.clone().release_unique_key(request)).await.unwrap_err();
        assert_eq!(refusal(&status).fields, ["of"]);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_job_shows_its_key_its_holder_and_why_it_waits() {
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(1));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let follow = || v1::JobSpec { kind: "stage".to_owned(), ..keyed("", unique(OnConflict::Follow)) };
    let holder = rig.submit(follow()).await.id;
    let cue = stage.next().await;
    let follower = rig.submit(follow()).await;
    assert_eq!(follower.state(), JobState::Blocked);
    let waiting = rig.get(&follower.id).await;
    let [pending] = &waiting.pending[..] else { panic!("{waiting:?}") };
    assert_eq!((pending.reason(), pending.subject.as_str()), (PendingReason::UniqueKey, "order 17"));
    assert_eq!(pending.job_ids, std::slice::from_ref(&holder));
    let status = waiting.unique_key.unwrap();
    assert_eq!((&status.holder_id, &status.successor_id), (&holder, &follower.id));
    assert_eq!(
        (status.key.as_str(), status.scope(), status.queue.as_str()),
        ("order 17", UniqueScope::Kind, QUEUE)
    );
    let stats = rig.queue(QUEUE).await.stats.unwrap();
    assert_eq!((stats.live_jobs, stats.counts.len()), (2, 2));
    let states = vec![JobState::Blocked.into()];
    let filter = Some(v1::JobFilter { states, ..Default::default() });
    let found = soon(rig.jobs.clone().list_jobs(v1::ListJobsRequest { filter, ..Default::default() })).await;
    assert_eq!(found.unwrap().into_inner().jobs[0].id, follower.id);
    let mut watch = rig.watch_ids(&[&follower.id]).await;
    cue.succeeds();
    let cue = stage.next().await;
    assert_eq!(rig.reaches(&follower.id, JobState::Running).await.unique_key.unwrap().holder_id, follower.id);
    cue.succeeds();
    let ended = rig.ends(&follower.id).await;
    assert_eq!(ended.unique_key.unwrap().holder_id, "", "nothing holds it");
    let mut seen = Vec::new();
    for event in watch.rest().await.unwrap() {
        if let v1::watch_event::Event::Updated(updated) = event {
            seen.push(updated.job.unwrap().state());
        }
    }
    assert_eq!(seen.last(), Some(&JobState::Succeeded), "{seen:?}");
    rig.stop().await;
}

#[tokio::test]
async fn keys_are_listed_in_pages_and_released() {
    let rig = shelf().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let key = UniqueKey { key: format!("key {number}"), ..unique(OnConflict::Follow) };
        ids.push(rig.submit(keyed("", key)).await.id);
    }
    ids.sort();
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page =
            list(&rig, v1::ListUniqueKeysRequest { page_size: 2, page_token, ..Default::default() }).await;
        assert!(page.keys.len() <= 2);
        found.extend(page.keys.into_iter().map(|key| key.holder_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    found.sort();
    assert_eq!(found, ids);
    let one = list(&rig, v1::ListUniqueKeysRequest { key: "key 3".to_owned(), ..Default::default() }).await;
    assert_eq!(one.keys.len(), 1);
    let none =
        list(&rig, v1::ListUniqueKeysRequest { queue: "other".to_owned(), ..Default::default() }).await;
    assert!(none.keys.is_empty());
    for page_token in ["x", "AAAA"] {
        let request = v1::ListUniqueKeysRequest { page_token: page_token.to_owned(), ..Default::default() };
        let status = soon(rig.jobs.clone().list_unique_keys(request)).await.unwrap_err();
        assert_eq!(refusal(&status).fields, ["page_token"]);
    }

    let holder = rig.submit(keyed("", unique(OnConflict::Follow))).await.id;
    let follower = rig.submit(keyed("", unique(OnConflict::Follow))).await.id;
    let released = release(&rig, "echo", "r").await.unwrap();
    assert_eq!((&released.holder_id, &released.successor_id), (&holder, &follower));
    assert_eq!(
        (rig.get(&follower).await.state(), rig.get(&holder).await.state()),
        (JobState::Queued, JobState::Queued)
    );
    let again = release(&rig, "echo", "r").await.unwrap();
    assert!(again.repeated && again.holder_id.is_empty());
    assert_eq!(rig.get(&follower).await.unique_key.unwrap().holder_id, follower, "nothing changed");
    let status = release(&rig, "fail", "").await.unwrap_err();
    let missing = refusal(&status);
    assert_eq!((missing.code, missing.reason.as_str()), (Code::NotFound, "KEY_NOT_FOUND"));
    assert_eq!(missing.metadata["key"], "order 17");
    rig.stop().await;
}

#[tokio::test]
async fn a_failed_job_whose_key_another_holds_is_not_retried() {
    let rig = shelf().await;
    let old = rig.submit(keyed("", unique(OnConflict::Reject))).await.id;
    rig.cancel(&old).await.unwrap();
    let holder = rig.submit(keyed("", unique(OnConflict::Reject))).await.id;
    let refused = refusal(&rig.retry(&old).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "KEY_HELD"));
    assert_eq!((&refused.metadata["job_id"], refused.metadata["state"].as_str()), (&holder, "QUEUED"));
    rig.cancel(&holder).await.unwrap();
    assert_eq!(rig.retry(&old).await.unwrap().state(), JobState::Queued);
    rig.stop().await;
}

fn as_token<T>(token: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn the_job_of_another_is_shown_only_to_those_who_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.toml");
    let entry = |name: &str, roles: &str, queues: &str| {
        let hash = TokenHash::of(name);
        format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = [{roles}]\nqueues = ['{queues}']\n")
    };
    let tokens = [
        entry("boss", "'admin'", "*"),
        entry("producer", "'submit'", QUEUE),
        entry("reader", "'submit', 'read'", QUEUE),
        entry("stopper", "'submit', 'cancel'", QUEUE),
    ];
    fs::write(&file, tokens.concat()).unwrap();
    let settings = with_queue(with_queue(memory(), QUEUE, queue(0)), "secret", queue(0));
    let rig = Rig::start(simple(Settings { tokens: Some(file), ..settings })).await;
    let everywhere = |policy: OnConflict, started: OnConflict| UniqueKey {
        scope: UniqueScope::Namespace.into(),
        on_started: started.into(),
        ..unique(policy)
    };
    let existing = OnConflict::ReturnExisting;
    let of = |queue: &str, unique: UniqueKey| v1::JobSpec {
        payload: Some(v1::Payload::of_text("secret")),
        unique_key: Some(unique.into()),
        ..in_queue(queue, "echo")
    };
    let spec = of("secret", everywhere(existing, existing));
    let request = as_token("boss", named("boss", spec));
    let secret = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner().id().to_owned();
    let view = JobView::Full.into();
    for token in ["producer", "reader"] {
        for _ in 0..2 {
            let spec = of(QUEUE, everywhere(existing, existing));
            let request = v1::SubmitRequest { view, ..named(token, spec) };
            let answer = soon(rig.jobs.clone().submit(as_token(token, request))).await.unwrap().into_inner();
            assert_eq!(
                (answer.id(), &answer.job),
                (secret.as_str(), &None),
                "{token}: it is in another queue"
            );
        }
        let watch = v1::SubmitAndWatchRequest {
            job: Some(of(QUEUE, everywhere(existing, existing))),
            view,
            ..Default::default()
        };
        let mut watch =
            soon(rig.jobs.clone().submit_and_watch(as_token(token, watch))).await.unwrap().into_inner();
        assert!(matches!(soon(watch.message()).await.unwrap().unwrap().event, Some(Event::Submitted(_))));
        assert!(soon(watch.message()).await.unwrap().is_none(), "{token}: it is not watched");
    }
    let listed = v1::ListUniqueKeysRequest::default();
    let keys = soon(rig.jobs.clone().list_unique_keys(as_token("reader", listed.clone()))).await.unwrap();
    assert!(keys.into_inner().keys.is_empty());
    let keys = soon(rig.jobs.clone().list_unique_keys(as_token("boss", listed))).await.unwrap();
    assert_eq!(keys.into_inner().keys.len(), 1);
    // To cancel a holder needs the role for it, even if there is none.
    let cancelling = || {
        submission(of(
            QUEUE,
            UniqueKey { on_started: OnConflict::Cancel.into(), ..unique(OnConflict::Follow) },
        ))
    };
    let status = soon(rig.jobs.clone().submit(as_token("reader", cancelling()))).await.unwrap_err();
    let refused = refusal(&status);
    assert_eq!((refused.reason.as_str(), refused.metadata["role"].as_str()), ("ROLE_MISSING", "cancel"));
    soon(rig.jobs.clone().submit(as_token("stopper", cancelling()))).await.unwrap();
    rig.stop().await;
}
