//! The outcome of a submission by every RPC: CREATED, REPEATED or GONE.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{
        self, JobView, SubmitOutcome, submit_and_watch_response::Event as SubmitEvent,
        submit_result::Result as Item,
    },
    serve::Server,
};
use tonic::{Code, Status};

use super::submit;
use crate::support::{
    QUEUE, Rig, folder, ids, job, manual_clock, memory, named, outcomes, queue, refusal, refused_item,
    simple, soon, with_queue,
};

const CREATED: SubmitOutcome = SubmitOutcome::Created;
const REPEATED: SubmitOutcome = SubmitOutcome::Repeated;
const GONE: SubmitOutcome = SubmitOutcome::Gone;

/// A way to submit one job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SubmitCall {
    Submit,
    Batch,
    Stream,
    Watch,
}

const SUBMIT_CALLS: [SubmitCall; 4] =
    [SubmitCall::Submit, SubmitCall::Batch, SubmitCall::Stream, SubmitCall::Watch];

/// A job's id, its outcome, and the resume token, which results of a stream do not have.
type Answer = (String, SubmitOutcome, Option<String>);

fn answer(response: v1::SubmitResponse) -> Answer {
    assert_eq!(response.job, None);
    (response.id().to_owned(), response.outcome(), Some(response.resume_token))
}

impl SubmitCall {
    fn request_id(self) -> String {
        format!("by {self:?}")
    }

    /// Submits a job to a queue under this way's request id.
    async fn submit(self, rig: &Rig, queue: &str) -> Result<Answer, Status> {
        let job = v1::JobSpec { queue: queue.to_owned(), ..job("echo") };
        self.submit_as(rig, &self.request_id(), job).await
    }

    async fn submit_as(self, rig: &Rig, request_id: &str, job: v1::JobSpec) -> Result<Answer, Status> {
        let (mut jobs, request_id) = (rig.jobs.clone(), request_id.to_owned());
        match self {
            SubmitCall::Submit => submit(rig, named(&request_id, job)).await.map(answer),
            SubmitCall::Batch => {
                let request = v1::SubmitBatchRequest { jobs: vec![job], request_id, ..Default::default() };
                let response = soon(jobs.submit_batch(request)).await?.into_inner();
                let [submitted] = &response.jobs[..] else { panic!("{response:?}") };
                Ok((submitted.id.clone(), submitted.outcome(), Some(response.resume_token)))
            }
            SubmitCall::Stream => match by_stream(rig, &request_id, job).await {
                Item::Submitted(submitted) => Ok((submitted.id.clone(), submitted.outcome(), None)),
                Item::Error(error) => {
                    let (code, reason) = refused_item(&error);
                    Err(Status::new(code, reason))
                }
            },
            SubmitCall::Watch => {
                let request = v1::SubmitAndWatchRequest { job: Some(job), request_id, ..Default::default() };
                let mut stream = soon(jobs.submit_and_watch(request)).await?.into_inner();
                let first = soon(stream.message()).await?.expect("an answer");
                let Some(SubmitEvent::Submitted(response)) = first.event else { panic!("{first:?}") };
                if response.outcome() == GONE {
                    assert_eq!(soon(stream.message()).await?, None, "there is nothing to watch");
                }
                Ok(answer(response))
            }
        }
    }
}

/// Returns the only result of a stream of one item.
async fn by_stream(rig: &Rig, request_id: &str, job: v1::JobSpec) -> Item {
    let item = v1::SubmitItem { job: Some(job), request_id: request_id.to_owned() };
    let request = v1::SubmitStreamRequest { items: vec![item], ..Default::default() };
    let mut jobs = rig.jobs.clone();
    let mut stream = soon(jobs.submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(response) = soon(stream.message()).await.unwrap() {
        results.extend(response.results);
    }
    assert_eq!(results.len(), 1);
    results.remove(0).result.expect("a result")
}

/// Starts a server with a queue `shelf`, which was created over the API, and another queue. Jobs wait for ever in both.
async fn shelves() -> Rig {
    let rig = super::shelf().await;
    create(&rig, "shelf").await;
    rig
}

async fn create(rig: &Rig, name: &str) {
    let settings = Some(v1::QueueSettings { consumers: Some(0), ..Default::default() });
    let request = v1::CreateQueueRequest { name: name.to_owned(), settings, ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.unwrap();
}

async fn delete_queue(rig: &Rig, name: &str) {
    let request = v1::DeleteQueueRequest { name: name.to_owned(), ..Default::default() };
    soon(rig.queues.clone().delete_queue(request)).await.unwrap();
}

#[tokio::test]
async fn a_job_is_created_repeated_and_gone_by_every_way() {
    let rig = super::shelf().await;
    for way in SUBMIT_CALLS {
        let (id, outcome, token) = way.submit(&rig, QUEUE).await.unwrap();
        assert_eq!(outcome, CREATED, "{way:?}");
        assert!(token.is_none_or(|token| !token.is_empty()), "{way:?}");
        let none = (way != SubmitCall::Stream).then(String::new);
        assert_eq!(way.submit(&rig, QUEUE).await.unwrap(), (id.clone(), REPEATED, none.clone()));
        rig.cancel(&id).await.unwrap();
        assert_eq!(way.submit(&rig, QUEUE).await.unwrap(), (id.clone(), REPEATED, none.clone()));
        rig.delete(&id).await.unwrap();
        for _ in 0..2 {
            assert_eq!(way.submit(&rig, QUEUE).await.unwrap(), (id.clone(), GONE, none.clone()));
        }
        assert_eq!(rig.total().await, 0, "{way:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_request_id_is_one_for_all_ways_to_submit_one_job() {
    let rig = super::shelf().await;
    let (id, _, _) = SubmitCall::Submit.submit_as(&rig, "same", job("echo")).await.unwrap();
    for way in [SubmitCall::Stream, SubmitCall::Watch, SubmitCall::Submit] {
        let (again, outcome, _) = way.submit_as(&rig, "same", job("echo")).await.unwrap();
        assert_eq!((again, outcome), (id.clone(), REPEATED), "{way:?}");
    }
    let refused = SubmitCall::Batch.submit_as(&rig, "same", job("echo")).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "REQUEST_ID_REUSED", "a batch is another request");
    assert_eq!(rig.total().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_finds_its_job_though_its_queue_was_deleted() {
    let rig = shelves().await;
    for way in SUBMIT_CALLS {
        let (id, ..) = way.submit(&rig, "shelf").await.unwrap();
        rig.cancel(&id).await.unwrap();
        delete_queue(&rig, "shelf").await;
        let (again, outcome, _) = way.submit(&rig, "shelf").await.unwrap();
        assert_eq!((again, outcome), (id.clone(), REPEATED), "{way:?}");
        rig.delete(&id).await.unwrap();
        let (again, outcome, _) = way.submit(&rig, "shelf").await.unwrap();
        assert_eq!((again, outcome), (id, GONE), "{way:?}");
        // Another request is refused, because its queue is gone.
        let shelved = v1::JobSpec { queue: "shelf".to_owned(), ..job("echo") };
        let refused = way.submit_as(&rig, "another", shelved).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{way:?}: {refused:?}");
        create(&rig, "shelf").await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_finds_its_job_though_nothing_runs_its_kind_any_more() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let rig = Rig::start(simple(settings())).await;
    let mut known = Vec::new();
    for way in SUBMIT_CALLS {
        known.push(way.submit(&rig, QUEUE).await.unwrap().0);
    }
    rig.stop().await;
    let rig = Rig::start(Server::builder(settings())).await;
    for (way, id) in SUBMIT_CALLS.into_iter().zip(known) {
        let (again, outcome, _) = way.submit(&rig, QUEUE).await.unwrap();
        assert_eq!((again, outcome), (id.clone(), REPEATED), "{way:?}");
        rig.delete(&id).await.unwrap();
        let (again, outcome, _) = way.submit(&rig, QUEUE).await.unwrap();
        assert_eq!((again, outcome), (id, GONE), "{way:?}");
    }
    let refused = submit(&rig, named("new", job("echo"))).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "UNKNOWN_KIND");
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn another_job_with_a_known_request_id_is_refused_though_its_queue_or_kind_is_not_there() {
    let rig = super::shelf().await;
    submit(&rig, named("once", job("echo"))).await.unwrap();
    let elsewhere = v1::JobSpec { queue: "nowhere".to_owned(), ..job("echo") };
    for other in [elsewhere, job("nothing")] {
        let refused = refusal(&submit(&rig, named("once", other)).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn jobs_of_a_batch_are_gone_one_by_one() {
    let rig = super::shelf().await;
    for deleted in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
        let request = || v1::SubmitBatchRequest {
            jobs: vec![job("echo"); 3],
            request_id: format!("{deleted:?}"),
            ..Default::default()
        };
        let first = soon(rig.jobs.clone().submit_batch(request())).await.unwrap().into_inner();
        assert_eq!(outcomes(&first.jobs), [CREATED; 3]);
        assert_ne!(first.resume_token, "");
        let known = ids(first.jobs);
        for n in deleted {
            rig.delete(&known[*n]).await.unwrap();
        }
        let again = soon(rig.jobs.clone().submit_batch(request())).await.unwrap().into_inner();
        let expected: Vec<_> = (0..3).map(|n| if deleted.contains(&n) { GONE } else { REPEATED }).collect();
        assert_eq!(outcomes(&again.jobs), expected, "{deleted:?}");
        assert_eq!((ids(again.jobs), again.resume_token.as_str()), (known, ""));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_is_known_as_long_as_one_of_its_jobs_is_there_and_for_a_day_after() {
    let clock = manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(0))).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    let submit = async || {
        let jobs = vec![job("echo"); 3];
        let request = v1::SubmitBatchRequest { jobs, request_id: "b".to_owned(), ..Default::default() };
        soon(rig.jobs.clone().submit_batch(request)).await.unwrap().into_inner().jobs
    };
    // Other deletions make the server forget old request ids.
    let a_day_passes = async || {
        clock.advance(Duration::from_secs(25 * 3_600));
        let other = rig.submit(job("echo")).await.id;
        rig.delete(&other).await.unwrap();
    };
    let known = ids(submit().await);
    for id in &known[..2] {
        rig.delete(id).await.unwrap();
    }
    a_day_passes().await;
    assert_eq!(outcomes(&submit().await), [GONE, GONE, REPEATED]);
    rig.delete(&known[2]).await.unwrap();
    assert_eq!(outcomes(&submit().await), [GONE; 3]);
    a_day_passes().await;
    assert_eq!(outcomes(&submit().await), [CREATED; 3]);
    rig.stop().await;
}

#[tokio::test]
async fn without_a_request_id_every_submission_is_new() {
    let rig = super::shelf().await;
    for way in SUBMIT_CALLS {
        let (first, outcome, _) = way.submit_as(&rig, "", job("echo")).await.unwrap();
        let (second, again, _) = way.submit_as(&rig, "", job("echo")).await.unwrap();
        assert_eq!((outcome, again), (CREATED, CREATED), "{way:?}");
        assert_ne!(first, second, "{way:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_without_the_token_of_a_repeat_begins_with_the_job_as_it_is() {
    let rig = super::shelf().await;
    let first = submit(&rig, named("once", job("echo"))).await.unwrap();
    rig.cancel(first.id()).await.unwrap();
    let again = submit(&rig, named("once", job("echo"))).await.unwrap();
    let request = v1::WatchStatusRequest {
        ids: vec![again.id().to_owned()],
        resume_token: again.resume_token,
        ..Default::default()
    };
    let mut watcher = rig.watch(request).await;
    assert_eq!(watcher.lines(2).await, ["snapshot 2 CANCELLED", "synced"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_gone_outcome_comes_without_a_job_whatever_the_view() {
    let rig = super::shelf().await;
    let first = submit(&rig, named("once", job("echo"))).await.unwrap();
    rig.delete(first.id()).await.unwrap();
    for view in [JobView::Basic, JobView::Result, JobView::Full] {
        let request = v1::SubmitRequest { view: view as i32, ..named("once", job("echo")) };
        let gone = submit(&rig, request).await.unwrap();
        assert_eq!((gone.outcome(), gone.job), (GONE, None), "{view:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_is_gone_stays_gone_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let rig = Rig::start(simple(settings())).await;
    let (id, ..) = SubmitCall::Submit.submit(&rig, QUEUE).await.unwrap();
    rig.delete(&id).await.unwrap();
    rig.stop().await;
    let rig = Rig::start(simple(settings())).await;
    let (again, outcome, _) = SubmitCall::Submit.submit(&rig, QUEUE).await.unwrap();
    assert_eq!((again, outcome), (id, GONE));
    rig.stop().await;
}
