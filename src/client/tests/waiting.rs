//! Waiting goes on from call to call, and through breaks, until the time is over.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    super::{ClientError, from_wire_duration},
    client, client_with,
    fake::{Act, Fake},
    job,
};
use crate::proto::v1::{self, JobState, JobView};

fn answer(state: JobState) -> v1::GetJobResponse {
    let done = state == JobState::Succeeded;
    v1::GetJobResponse { job: Some(v1::Job { done, ..job("1", state) }) }
}

fn acting(acts: impl IntoIterator<Item = Act<v1::GetJobResponse>>) -> Arc<Fake> {
    let fake = Fake::default();
    fake.gets.lock().extend(acts);
    Arc::new(fake)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Returns the waits that were requested, in whole seconds.
fn waits(fake: &Fake) -> Vec<u64> {
    let got = fake.got.lock();
    got.iter()
        .map(|request| from_wire_duration(&request.wait.unwrap()).as_secs_f64().round() as u64)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_several_calls() {
    let running = || Act::Late(seconds(30), answer(JobState::Running));
    let fake = acting([running(), running(), Act::Late(seconds(5), answer(JobState::Succeeded))]);
    let job = client(&fake).wait_for_job("1", seconds(100)).await.unwrap();
    assert!(job.done);
    assert_eq!(waits(&fake), [30, 30, 30]);
    assert!(fake.got.lock().iter().all(|request| request.id == "1" && request.view() == JobView::Result));
}

#[tokio::test(start_paused = true)]
async fn once_the_time_is_over_the_job_is_told_as_it_is() {
    let fake = acting([30, 10].map(|after| Act::Late(seconds(after), answer(JobState::Running))));
    let job = client(&fake).wait_for_job("1", seconds(40)).await.unwrap();
    assert_eq!((job.state(), job.done), (JobState::Running, false));
    assert_eq!(waits(&fake), [30, 10]);

    let fake = acting([Act::Answer(answer(JobState::Queued))]);
    let own = v1::GetJobRequest { view: JobView::Full.into(), ..From::from("1") };
    assert!(!client(&fake).wait_for_job(own, Duration::ZERO).await.unwrap().done);
    assert_eq!(waits(&fake), [0]);
    assert_eq!(fake.got.lock()[0].view(), JobView::Full);
}

#[tokio::test(start_paused = true)]
async fn a_break_is_outlived_with_a_time_of_its_own() {
    // Of the 10 s of retries, none are used up by the waits before the breaks.
    let away = || Act::Refuse(Status::unavailable("away"));
    let fake = acting([
        Act::Late(seconds(30), answer(JobState::Running)),
        away(),
        away(),
        Act::Late(seconds(30), answer(JobState::Running)),
        Act::Cut,
        Act::Answer(answer(JobState::Succeeded)),
    ]);
    assert!(client(&fake).wait_for_job("1", seconds(600)).await.unwrap().done);
    assert_eq!(waits(&fake).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_ends_the_wait_with_an_error() {
    let away = || Act::Refuse(Status::unavailable("away"));
    let fake = acting((0..9).map(|_| away()));
    let error = client(&fake).wait_for_job("1", seconds(600)).await.unwrap_err();
    assert!(matches!(error, ClientError::Failed { code: Code::Unavailable, .. }), "{error:?}");
    // At 0, 1, 3 and 7 s, and once more when the 10 s are over.
    assert_eq!(waits(&fake).len(), 5);

    let fake = acting((0..9).map(|_| away()));
    client(&fake).wait_for_job("1", seconds(2)).await.unwrap_err();
    // At 0 and 1 s, and once more when the time is over.
    assert_eq!(waits(&fake), [2, 1, 0]);

    let fake = acting([away()]);
    let once = client_with(&fake, |builder| builder.retry_for(Duration::ZERO));
    once.wait_for_job("1", seconds(600)).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_wait_is_not_asked_without_a_pause() {
    let fake = acting((0..100).map(|_| Act::Answer(answer(JobState::Running))));
    let wait_limit = async {
        sleep(seconds(20)).await;
        waits(&fake).len()
    };
    let client = client(&fake);
    let (job, calls) = tokio::join!(client.wait_for_job("1", seconds(30)), wait_limit);
    assert!(!job.unwrap().done);
    // After 1, 2, 4 and 8 s.
    assert_eq!(calls, 5);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_wait_at_once() {
    let details = ErrorDetails::with_error_info("JOB_NOT_FOUND", "jobmill", []);
    let fake = acting([Act::Refuse(Status::with_error_details(Code::NotFound, "no", details))]);
    let error = client(&fake).wait_for_job("1", seconds(600)).await.unwrap_err();
    assert_eq!(error.reason(), v1::ErrorReason::JobNotFound);
}
