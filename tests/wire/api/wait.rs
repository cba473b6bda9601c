//! GetJob with `wait`: a unary call in place of a watch.

use std::time::Duration;

use jobmill::{
    clock::{Clock, ManualClock},
    execute::HandlerError,
    job::{Output, PayloadInfo},
    proto::v1::{self, JobState, JobView},
    settings::{Settings, TokenHash},
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use super::duration;
use crate::support::{Rig, Stage, defaults, job, manual_clock, memory, refusal, result, simple, soon};

const OPEN: &str = r#"jobmill_grpc_calls_open{method="jobmill.v1.JobQueue/GetJob"}"#;

fn waiting(id: &str, seconds: i64) -> v1::GetJobRequest {
    v1::GetJobRequest { id: id.to_owned(), wait: Some(duration(seconds)), ..Default::default() }
}

/// Starts a server whose clock stands still, so that no wait ends by itself.
async fn still() -> (Rig, Stage, ManualClock) {
    let (handler, stage) = Stage::new();
    let clock = manual_clock();
    let builder = simple(memory()).handler("stage", defaults(), handler).clock(Clock::Manual(clock.clone()));
    (Rig::start(builder).await, stage, clock)
}

type Answer = Result<v1::Job, Status>;

/// Starts a GetJob call in a task of its own.
fn call(rig: &Rig, request: impl tonic::IntoRequest<v1::GetJobRequest>) -> JoinHandle<Answer> {
    let (mut jobs, request) = (rig.jobs.clone(), request.into_request());
    tokio::spawn(
        async move { jobs.get_job(request).await.map(|found| found.into_inner().job.expect("a job")) },
    )
}

async fn answer(call: JoinHandle<Answer>) -> Answer {
    soon(call).await.unwrap()
}

/// Returns once this many calls wait for the end of a job.
async fn wait_for(rig: &Rig, count: f64) {
    soon(async { while rig.metric(r#"jobmill_watchers{by="ids"}"#).await != count {} }).await;
}

#[tokio::test]
async fn the_answer_comes_when_the_job_ends_and_has_its_result() {
    let (rig, mut stage, _clock) = still().await;
    for (view, has_payload, has_result) in [
        (JobView::Unspecified, true, true),
        (JobView::Basic, false, false),
        (JobView::Result, false, true),
        (JobView::Full, true, true),
    ] {
        let payload = Some(v1::Payload::of("payload"));
        let id = rig.submit(v1::JobSpec { payload, ..job("stage") }).await.id;
        let cue = stage.next().await;
        let call = call(&rig, v1::GetJobRequest { view: view as i32, ..waiting(&id, 600) });
        wait_for(&rig, 1.0).await;
        assert!(!call.is_finished());
        cue.ends(Ok(Output { bytes: "result".into(), info: PayloadInfo::typed("text/plain") }));
        let job = answer(call).await.unwrap();
        assert_eq!((&job.id, job.state(), job.done), (&id, JobState::Succeeded, true), "{view:?}");
        assert_eq!(!result(&job).is_empty(), has_result, "{view:?}");
        assert_eq!(!crate::support::payload(&job).is_empty(), has_payload, "{view:?}");
        wait_for(&rig, 0.0).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_terminal_state_ends_a_wait_and_no_other_state_does() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(v1::JobSpec { max_attempts: 2, ..job("stage") }).await.id;
    let call_of = || call(&rig, waiting(&id, 600));
    let first = stage.next().await;
    let call = call_of();
    wait_for(&rig, 1.0).await;
    first.fails();
    rig.reaches(&id, JobState::BackingOff).await;
    rig.retry(&id).await.unwrap();
    stage.next().await.ends(Err(HandlerError::permanent("no")));
    assert_eq!(answer(call).await.unwrap().state(), JobState::Failed);

    rig.retry(&id).await.unwrap();
    let cue = stage.next().await;
    let call = call_of();
    wait_for(&rig, 1.0).await;
    assert_eq!(rig.cancel(&id).await.unwrap().state(), JobState::Cancelling);
    cue.fails();
    assert_eq!(answer(call).await.unwrap().state(), JobState::Cancelled);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_expires_has_ended() {
    let (rig, _stage, clock) = still().await;
    rig.pause(crate::support::QUEUE).await;
    let expiry = Some(v1::job_spec::Expiry::ExpireAfter(duration(60)));
    let id = rig.submit(v1::JobSpec { expiry, ..job("stage") }).await.id;
    let call = call(&rig, waiting(&id, 600));
    wait_for(&rig, 1.0).await;
    clock.advance(Duration::from_secs(60));
    assert_eq!(answer(call).await.unwrap().state(), JobState::Expired);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_has_ended_and_one_that_is_not_there_are_answered_at_once() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    stage.next().await.succeeds();
    rig.ends(&id).await;
    assert_eq!(answer(call(&rig, waiting(&id, 600))).await.unwrap().state(), JobState::Succeeded);
    let refused = refusal(&answer(call(&rig, waiting("0000000000001", 600))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    rig.stop().await;
}

#[tokio::test]
async fn without_a_time_to_wait_the_answer_comes_at_once() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    let _cue = stage.next().await;
    for request in [waiting(&id, 0), v1::GetJobRequest { id: id.clone(), ..Default::default() }] {
        assert_eq!(answer(call(&rig, request)).await.unwrap().state(), JobState::Running);
    }
    rig.force().await;
}

#[tokio::test]
async fn once_the_time_is_over_the_job_comes_as_it_is() {
    let (rig, mut stage, clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    for seconds in [1, 600] {
        let call = call(&rig, waiting(&id, seconds));
        wait_for(&rig, 1.0).await;
        clock.advance(Duration::from_secs(seconds as u64) - Duration::from_millis(1));
        // The call has looked at the clock once a wait that began later is over.
        let tick = v1::GetJobRequest {
            wait: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
            ..waiting(&id, 0)
        };
        let other = self::call(&rig, tick);
        wait_for(&rig, 2.0).await;
        assert!(!call.is_finished() && !other.is_finished());
        clock.advance(Duration::from_millis(1));
        for call in [call, other] {
            let job = answer(call).await.unwrap();
            assert_eq!((job.state(), job.done, job.revision), (JobState::Running, false, 1));
        }
        wait_for(&rig, 0.0).await;
    }
    cue.succeeds();
    rig.ends(&id).await;
    rig.stop().await;
}

#[tokio::test]
async fn the_answer_comes_before_the_calls_own_deadline() {
    let (rig, mut stage, clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let mut request = Request::new(waiting(&id, 600));
    request.set_timeout(Duration::from_secs(60));
    let call = call(&rig, request);
    wait_for(&rig, 1.0).await;
    // The call answers just before its deadline, and not at the deadline.
    clock.advance(Duration::from_secs(60) - Duration::from_millis(1));
    assert_eq!(answer(call).await.unwrap().state(), JobState::Running);
    cue.succeeds();
    rig.ends(&id).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_answers_with_the_job_as_it_is() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let calls = [1, 2, 3].map(|_| call(&rig, waiting(&id, 600)));
    wait_for(&rig, 3.0).await;
    rig.stopper().drain();
    for call in calls {
        let job = answer(call).await.unwrap();
        assert_eq!((job.state(), job.done), (JobState::Running, false));
    }
    cue.succeeds();
    rig.stopped().await;
}

#[tokio::test]
async fn times_over_the_cap_and_below_zero_are_refused() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    stage.next().await.succeeds();
    rig.ends(&id).await;
    let of = |seconds, nanos| v1::GetJobRequest {
        wait: Some(prost_types::Duration { seconds, nanos }),
        ..waiting(&id, 0)
    };
    let wrong =
        [(601, 0), (600, 1), (i64::MAX, 0), (-1, 0), (0, -1), (i64::MIN, 0), (1, -1), (0, 1_000_000_000)];
    for (seconds, nanos) in wrong {
        let refused = refusal(&answer(call(&rig, of(seconds, nanos))).await.unwrap_err());
        assert_eq!(
            (refused.code, refused.fields),
            (Code::InvalidArgument, vec!["wait".to_owned()]),
            "{seconds} {nanos}"
        );
    }
    for (seconds, nanos) in [(600, 0), (599, 999_999_999), (0, 1)] {
        answer(call(&rig, of(seconds, nanos))).await.unwrap();
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_holds_nothing() {
    let (rig, mut stage, _clock) = still().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let calls: Vec<_> = (0..20).map(|_| call(&rig, waiting(&id, 600))).collect();
    wait_for(&rig, 20.0).await;
    assert_eq!(rig.metric(OPEN).await, 20.0);
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    wait_for(&rig, 0.0).await;
    soon(async { while rig.metric(OPEN).await > 0.0 {} }).await;
    cue.succeeds();
    rig.ends(&id).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_is_deleted_meanwhile_is_not_found() {
    let (rig, _stage, _clock) = still().await;
    rig.pause(crate::support::QUEUE).await;
    let id = rig.submit(job("stage")).await.id;
    let call = call(&rig, waiting(&id, 600));
    wait_for(&rig, 1.0).await;
    rig.delete(&id).await.unwrap();
    let refused = refusal(&answer(call).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_whose_token_is_taken_away_is_told_nothing_at_the_end() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens.toml");
    let entry = |name: &str| {
        let hash = TokenHash::of(name);
        format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = ['admin']\nqueues = ['*']\n")
    };
    std::fs::write(&file, entry("boss") + &entry("leaver")).unwrap();
    let (handler, mut stage) = Stage::new();
    let clock = manual_clock();
    let settings = Settings { tokens: Some(file.clone()), ..memory() };
    let builder = simple(settings).handler("stage", defaults(), handler).clock(Clock::Manual(clock));
    let rig = Rig::start(builder).await;
    fn shown<T>(request: T, name: &str) -> Request<T> {
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {name}").parse().unwrap());
        request
    }
    let submit = shown(crate::support::submission(job("stage")), "boss");
    let id = soon(rig.jobs.clone().submit(submit)).await.unwrap().into_inner().id().to_owned();
    let cue = stage.next().await;
    let call = call(&rig, shown(waiting(&id, 600), "leaver"));
    wait_for(&rig, 1.0).await;
    std::fs::write(&file, entry("boss")).unwrap();
    rig.reload();
    soon(async {
        let count = || shown(v1::CountJobsRequest::default(), "leaver");
        while rig.jobs.clone().count_jobs(count()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    cue.succeeds();
    assert_eq!(refusal(&answer(call).await.unwrap_err()).reason, "TOKEN_INVALID");
    rig.stop().await;
}
