//! A watch goes on after a break, from where it was.

use std::sync::Arc;

use futures_util::StreamExt;
use tonic::{Code, Status};

use super::{
    super::{ClientError, WatchItem},
    client,
    fake::{Fake, Step},
    job, spec,
};
use crate::proto::v1::{
    self, ClosingReason, JobState, SubmitOutcome, submit_and_watch_response::Event as SubmitAndWatchEvent,
    watch_event::Event,
};

fn message(token: &str, events: impl IntoIterator<Item = Event>) -> v1::WatchStatusResponse {
    v1::WatchStatusResponse {
        events: events.into_iter().map(|event| v1::WatchEvent { event: Some(event) }).collect(),
        resume_token: token.into(),
    }
}

fn updated(state: JobState) -> Event {
    Event::Updated(v1::JobUpdated { job: Some(job("1", state).into()), merged: Some(0) })
}

fn closing() -> Event {
    Event::Closing(v1::Closing { reason: ClosingReason::Shutdown.into() })
}

fn playing(streams: impl IntoIterator<Item = Vec<Step<v1::WatchStatusResponse>>>) -> Arc<Fake> {
    let fake = Fake::default();
    fake.watches.lock().extend(streams);
    Arc::new(fake)
}

fn request() -> v1::WatchStatusRequest {
    v1::WatchStatusRequest { ids: vec!["1".into()], ..Default::default() }
}

/// Runs a watch to its end, and returns a word for each item.
async fn told(mut watch: super::super::Watch) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(item) = watch.next().await {
        told.push(word(item));
    }
    assert!(watch.next().await.is_none(), "it stays ended");
    told
}

fn word(item: Result<WatchItem, ClientError>) -> String {
    match item {
        Ok(WatchItem::Event { event, resume_token }) => {
            let token = resume_token.unwrap_or_else(|| "-".into());
            let what = if let Event::Updated(updated) = event {
                updated.job.unwrap().state().as_str_name().to_owned()
            } else if let Event::Synced(_) = event {
                "synced".to_owned()
            } else {
                format!("{event:?}")
            };
            format!("{what}@{token}")
        }
        Ok(WatchItem::Interrupted { .. }) => "interrupted".to_owned(),
        Err(ClientError::Refused(refusal)) => format!("refused {:?}", refusal.code),
        Err(ClientError::Unreachable { .. }) => "unreachable".to_owned(),
        Err(error) => format!("failed {error}"),
    }
}

fn tokens(fake: &Fake) -> Vec<String> {
    let watched = fake.watched.lock();
    watched.iter().map(|request| request.resume_token.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_the_server_ends_it_and_tokens_go_with_the_last_event_of_a_message() {
    let fake = playing([vec![
        Step::Send(message("a", [updated(JobState::Queued), Event::Synced(v1::Synced {})])),
        Step::Send(message("b", [updated(JobState::Succeeded)])),
    ]]);
    let told = told(client(&fake).watch(request())).await;
    assert_eq!(told, ["JOB_STATE_QUEUED@-", "synced@a", "JOB_STATE_SUCCEEDED@b"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_goes_on_from_the_last_token() {
    let fake = playing([
        vec![Step::Send(message("a", [updated(JobState::Running)])), Step::Cut],
        vec![Step::End(Status::unavailable("still away"))],
        vec![Step::Send(message("b", [updated(JobState::Succeeded)]))],
    ]);
    let told = told(client(&fake).watch(request())).await;
    assert_eq!(told, ["JOB_STATE_RUNNING@a", "interrupted", "JOB_STATE_SUCCEEDED@b"]);
    assert_eq!(tokens(&fake), ["", "a", "a"]);
    assert!(fake.watched.lock().iter().all(|watched| watched.ids == ["1"]));
}

#[tokio::test(start_paused = true)]
async fn closing_means_to_resume_however_the_stream_ends() {
    for end in [Some(Status::unavailable("stops")), None] {
        let mut first = vec![Step::Send(message("b", [updated(JobState::Running), closing()]))];
        first.extend(end.map(Step::End));
        let fake = playing([first, vec![Step::Send(message("c", [updated(JobState::Succeeded)]))]]);
        let told = told(client(&fake).watch(request())).await;
        assert_eq!(told, ["JOB_STATE_RUNNING@b", "interrupted", "JOB_STATE_SUCCEEDED@c"]);
        assert_eq!(tokens(&fake), ["", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_ends_the_watch_with_an_error() {
    let away = || vec![Step::End(Status::unavailable("away"))];
    let fake = playing((0..9).map(|_| away()));
    let told = told(client(&fake).watch(request())).await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0], "interrupted");
    assert!(told[1].contains("away"), "{told:?}");
    // At 0, 1, 3 and 7 s, and once more when the 10 s are over.
    assert_eq!(fake.watched.lock().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn each_break_has_its_own_time() {
    let broken = |token: &str| {
        vec![Step::Send(message(token, [updated(JobState::Running)])), Step::End(Status::unavailable("away"))]
    };
    let fake = playing((0..20).map(|n| broken(&n.to_string())));
    fake.watches.lock().push_back(vec![Step::Send(message("end", [updated(JobState::Succeeded)]))]);
    let told = told(client(&fake).watch(request())).await;
    assert_eq!(told.len(), 41);
    assert_eq!(told[40], "JOB_STATE_SUCCEEDED@end");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_too_old_is_told() {
    let details = tonic_types::ErrorDetails::with_error_info("RESUME_TOKEN_TOO_OLD", "jobmill", []);
    let status = <Status as tonic_types::StatusExt>::with_error_details(Code::OutOfRange, "too old", details);
    let fake = playing([vec![Step::End(status)]]);
    assert_eq!(told(client(&fake).watch(request())).await, ["refused OutOfRange"]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_of_next_loses_nothing() {
    let fake = playing([
        vec![Step::Send(message("a", [updated(JobState::Running)])), Step::Cut],
        vec![Step::Send(message("b", [updated(JobState::Succeeded)])), Step::Hang],
    ]);
    let mut watch = client(&fake).watch(request());
    let mut told = Vec::new();
    while told.len() < 3 {
        // Far shorter than the delay before the reconnect.
        let wait_limit = std::time::Duration::from_millis(10);
        if let Ok(item) = tokio::time::timeout(wait_limit, watch.next()).await {
            told.push(word(item.unwrap()));
        }
    }
    assert_eq!(told, ["JOB_STATE_RUNNING@a", "interrupted", "JOB_STATE_SUCCEEDED@b"]);
    assert_eq!(watch.resume_token(), "b");
}

fn submitted(outcome: SubmitOutcome, resume_token: &str) -> Step<v1::SubmitAndWatchResponse> {
    let answer = v1::SubmitResponse {
        submitted: Some(v1::Submitted { id: "1".into(), outcome: outcome.into() }),
        resume_token: resume_token.into(),
        ..Default::default()
    };
    Step::Send(v1::SubmitAndWatchResponse { event: Some(SubmitAndWatchEvent::Submitted(answer)) })
}

fn status(status: v1::WatchStatusResponse) -> Step<v1::SubmitAndWatchResponse> {
    Step::Send(v1::SubmitAndWatchResponse { event: Some(SubmitAndWatchEvent::Status(status)) })
}

#[tokio::test(start_paused = true)]
async fn submit_and_watch_submits_once_and_then_only_watches() {
    let fake = playing([vec![Step::Send(message("b", [updated(JobState::Succeeded)]))]]);
    fake.submit_watches.lock().extend([
        vec![Step::Cut],
        vec![
            submitted(SubmitOutcome::Repeated, ""),
            status(message("a", [updated(JobState::Running)])),
            Step::Cut,
        ],
    ]);

    let (answer, watch) = client(&fake).submit_and_watch(spec()).await.unwrap();
    assert_eq!((answer.id(), answer.outcome()), ("1", SubmitOutcome::Repeated));
    let told: Vec<_> = watch.into_stream().map(word).collect().await;
    assert_eq!(told, ["JOB_STATE_RUNNING@a", "interrupted", "JOB_STATE_SUCCEEDED@b"]);

    let submissions = fake.submit_watched.lock();
    assert_eq!(submissions.len(), 2);
    assert_eq!(submissions[0], submissions[1]);
    assert!(!submissions[0].request_id.is_empty());
    assert_eq!(tokens(&fake), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_before_its_first_event_goes_on_from_the_submission() {
    for (outcome, token) in [(SubmitOutcome::Created, "s"), (SubmitOutcome::Repeated, "")] {
        let fake = playing([vec![Step::Send(message("a", [updated(JobState::Succeeded)]))]]);
        fake.submit_watches.lock().push_back(vec![submitted(outcome, token), Step::Cut]);
        let (_, watch) = client(&fake).submit_and_watch(spec()).await.unwrap();
        assert_eq!(told(watch).await, ["interrupted", "JOB_STATE_SUCCEEDED@a"]);
        assert_eq!(tokens(&fake), [token]);
        assert_eq!(fake.watched.lock()[0].ids, ["1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_watch_of_a_job_that_is_gone() {
    let fake = playing([]);
    fake.submit_watches.lock().push_back(vec![submitted(SubmitOutcome::Gone, ""), Step::Cut]);
    let (answer, watch) = client(&fake).submit_and_watch(spec()).await.unwrap();
    assert_eq!(answer.outcome(), SubmitOutcome::Gone);
    assert!(told(watch).await.is_empty());
    assert!(fake.watched.lock().is_empty());
}
