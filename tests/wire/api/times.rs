//! Start times and expiry of jobs.

use std::time::Duration;

use jobmill::{
    clock::{Clock, ManualClock},
    proto::v1::{
        self, JobState, SubmitOutcome,
        job_spec::{Expiry, Start},
    },
};
use prost::Message;
use tonic::Code;

use super::{duration, faults, list, shelf, submit};
use crate::{
    bad_messages::{SUBMIT, call, framed},
    support::{
        QUEUE, Rig, describe, expire_time, job, manual_clock, memory, named, queue, refusal, run_time,
        simple, soon, spec, submission, with_queue,
    },
};

/// The start of [`manual_clock`], in seconds since 1970.
const START_S: i64 = 1_800_000_000;
/// Longer than ten years, whatever leap years they have.
const OVER_TEN_YEARS_S: i64 = 10 * 366 * 86_400 + 1;
/// Shorter than ten years, whatever leap years they have.
const TEN_YEARS_S: i64 = 10 * 365 * 86_400;

fn delay(seconds: i64) -> Option<Start> {
    Some(Start::Delay(duration(seconds)))
}

fn expire_after(seconds: i64) -> Option<Expiry> {
    Some(Expiry::ExpireAfter(duration(seconds)))
}

fn times(start: Option<Start>, expiry: Option<Expiry>) -> v1::JobSpec {
    v1::JobSpec { start, expiry, ..job("echo") }
}

async fn at(clock: &ManualClock, consumers: u32) -> Rig {
    let settings = with_queue(memory(), QUEUE, queue(consumers));
    Rig::start(simple(settings).clock(Clock::Manual(clock.clone()))).await
}

fn seconds(time: Option<prost_types::Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds)
}

#[tokio::test]
async fn a_delay_counts_from_when_the_job_was_accepted() {
    let clock = manual_clock();
    let rig = at(&clock, 4).await;
    clock.advance(Duration::from_secs(5));
    let scheduled = rig.submit(times(delay(60), None)).await;
    assert_eq!(scheduled.state(), JobState::Scheduled);
    assert_eq!(seconds(scheduled.next_run_time), Some(START_S + 65));
    assert_eq!(spec(&scheduled).start, delay(60));
    clock.advance(Duration::from_secs(59));
    // A call that commits: the committer has looked at the clock when it is answered.
    rig.pause(QUEUE).await;
    rig.resume(QUEUE).await;
    assert_eq!(rig.get(&scheduled.id).await.state(), JobState::Scheduled);
    clock.advance(Duration::from_secs(1));
    let ended = rig.ends(&scheduled.id).await;
    assert_eq!(seconds(ended.start_time), Some(START_S + 65));
    assert_eq!((ended.next_run_time, spec(&ended).start), (None, delay(60)));
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_may_run_at_once_has_no_time_to_come() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    for start in [delay(0), run_time(START_S - 60), run_time(START_S)] {
        let queued = rig.submit(times(start, None)).await;
        assert_eq!((queued.state(), queued.next_run_time), (JobState::Queued, None), "{start:?}");
        assert_eq!(spec(&queued).start, start);
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_expiry_counts_from_when_the_job_was_accepted() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    clock.advance(Duration::from_secs(5));
    let queued = rig.submit(times(None, expire_after(60))).await;
    assert_eq!(seconds(queued.expire_time), Some(START_S + 65));
    assert_eq!(spec(&queued).expiry, expire_after(60));
    let mut watcher = rig.watch_ids(&[&queued.id]).await;
    clock.advance(Duration::from_secs(59));
    rig.pause(QUEUE).await;
    rig.resume(QUEUE).await;
    assert_eq!(rig.get(&queued.id).await.state(), JobState::Queued);
    clock.advance(Duration::from_secs(1));
    let expired = watcher.until(JobState::Expired).await;
    assert_eq!((expired.attempt, spec(&expired).expiry), (0, expire_after(60)));
    rig.stop().await;
}

#[tokio::test]
async fn a_delay_may_come_with_an_instant_of_expiry_and_an_instant_with_a_relative_one() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    for said in [times(delay(60), expire_time(START_S + 61)), times(run_time(START_S + 60), expire_after(61))]
    {
        let scheduled = rig.submit(said.clone()).await;
        assert_eq!(scheduled.spec, Some(said));
        assert_eq!(seconds(scheduled.next_run_time), Some(START_S + 60));
        assert_eq!(seconds(scheduled.expire_time), Some(START_S + 61));
    }
    rig.stop().await;
}

#[tokio::test]
async fn invalid_times_are_refused_by_their_field_names() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    let nanos = |nanos| Some(Start::Delay(prost_types::Duration { seconds: 0, nanos }));
    let short = Some(Expiry::ExpireAfter(prost_types::Duration { seconds: 0, nanos: 999_999 }));
    for (what, start, expiry, field) in [
        ("a negative delay", delay(-1), None, "job.delay"),
        ("a delay a little below zero", nanos(-1), None, "job.delay"),
        ("a delay that is no duration", nanos(1_000_000_000), None, "job.delay"),
        ("a delay over ten years", delay(OVER_TEN_YEARS_S), None, "job.delay"),
        ("the longest delay", delay(i64::MAX), None, "job.delay"),
        ("an instant in more than ten years", run_time(START_S + OVER_TEN_YEARS_S), None, "job.run_time"),
        ("expired at once", None, expire_after(0), "job.expire_after"),
        ("expired before", None, expire_after(-1), "job.expire_after"),
        ("expired in less than 1 ms", None, short, "job.expire_after"),
        ("an expiry over ten years", None, expire_after(OVER_TEN_YEARS_S), "job.expire_after"),
        ("an expiry before the delay", delay(60), expire_after(59), "job.expire_after"),
        ("an expiry with the delay", delay(60), expire_after(60), "job.expire_after"),
        ("an expiry before the instant", run_time(START_S + 60), expire_after(59), "job.expire_after"),
        ("an instant before", run_time(START_S + 60), expire_time(START_S + 59), "job.expire_time"),
        ("both instants", run_time(START_S + 60), expire_time(START_S + 60), "job.expire_time"),
    ] {
        assert_eq!(faults(&rig, times(start, expiry)).await, [field], "{what}");
    }
    assert_eq!(rig.total().await, 0);
    for (start, expiry) in [(delay(TEN_YEARS_S), None), (None, expire_after(TEN_YEARS_S))] {
        rig.submit(times(start, expiry)).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn of_two_starts_or_expiries_in_one_message_the_last_one_holds() {
    let rig = shelf().await;
    let (early, late) = (run_time(1_900_000_000), delay(86_400));
    let (end, after) = (expire_time(2_000_000_000), expire_after(864_000));
    for (first, last) in [
        (times(early, None), times(late, None)),
        (times(late, None), times(early, None)),
        (times(None, end), times(None, after)),
        (times(None, after), times(None, end)),
    ] {
        // A message in two parts is one message with the fields of both.
        let job = [job("echo"), first, last.clone()].map(|part| part.encode_to_vec()).concat();
        let mut request = Vec::new();
        prost::encoding::bytes::encode(1, &job, &mut request);
        let status = call(&rig, SUBMIT, None, framed(false, &request)).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        let newest = list(&rig, v1::JobFilter::default(), v1::JobView::Basic).await.remove(0);
        assert_eq!((spec(&newest).start, spec(&newest).expiry), (last.start, last.expiry));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_relative_time_makes_the_same_request_however_late_it_is_repeated() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    for (request_id, said) in [
        ("delay", times(delay(60), None)),
        ("expiry", times(None, expire_after(60))),
        ("both", times(delay(60), expire_after(61))),
    ] {
        let first = submit(&rig, named(request_id, said.clone())).await.unwrap();
        let before = rig.get(first.id()).await;
        clock.advance(Duration::from_secs(30));
        let again = submit(&rig, named(request_id, said.clone())).await.unwrap();
        assert_eq!((again.id(), again.outcome()), (first.id(), SubmitOutcome::Repeated), "{request_id}");
        let now = rig.get(first.id()).await;
        assert_eq!((now.next_run_time, now.expire_time), (before.next_run_time, before.expire_time));
    }
    let known = submit(&rig, named("delay", times(delay(60), None))).await.unwrap();
    let created = rig.get(known.id()).await.create_time.unwrap().seconds;
    for other in [
        times(delay(61), None),
        times(None, None),
        // The same instant in the other, relative form.
        times(run_time(created + 60), None),
        times(delay(60), expire_after(61)),
    ] {
        let refused = refusal(&submit(&rig, named("delay", other)).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_instant_of_expiry_is_not_held_against_a_delay_since_a_repeat_may_come_late() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    let said = || named("late", times(delay(60), expire_time(START_S + 61)));
    let first = submit(&rig, said()).await.unwrap();
    clock.advance(Duration::from_secs(30));
    let again = submit(&rig, said()).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), SubmitOutcome::Repeated));
    // A job that expires before its start time expires on time.
    let id = rig.submit(times(delay(60), expire_time(START_S + 40))).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
    clock.advance(Duration::from_secs(10));
    let expired = watcher.until(JobState::Expired).await;
    assert_eq!((expired.attempt, seconds(expired.end_time)), (0, Some(START_S + 40)));
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_finds_a_job_that_has_expired_meanwhile() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    let said = || named("late", times(delay(60), expire_after(61)));
    let first = submit(&rig, said()).await.unwrap();
    let mut watcher = rig.watch_ids(&[first.id()]).await;
    clock.advance(Duration::from_secs(3_600));
    watcher.until(JobState::Expired).await;
    let again = submit(&rig, said()).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), SubmitOutcome::Repeated));
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_had_expired_when_it_came_has_no_token_and_a_watch_of_it_tells_its_end() {
    let clock = manual_clock();
    let rig = at(&clock, 0).await;
    let late = || times(None, expire_time(START_S - 1));
    let alone = submit(&rig, submission(late())).await.unwrap();
    assert_eq!((alone.outcome(), alone.resume_token.as_str()), (SubmitOutcome::Created, ""));
    let jobs = vec![job("echo"), late()];
    let request = v1::SubmitBatchRequest { jobs, ..Default::default() };
    let batch = soon(rig.jobs.clone().submit_batch(request)).await.unwrap().into_inner();
    assert_eq!(batch.resume_token, "");
    for id in [alone.id(), &batch.jobs[1].id] {
        let request = v1::WatchStatusRequest { ids: vec![id.to_owned()], ..Default::default() };
        assert_eq!(rig.watch(request).await.lines(2).await, ["snapshot 1 EXPIRED", "synced"]);
    }
    let request = v1::SubmitAndWatchRequest { job: Some(late()), ..Default::default() };
    let mut stream = soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(message) = soon(stream.message()).await.unwrap() {
        if let Some(v1::submit_and_watch_response::Event::Status(status)) = message.event {
            told.extend(status.events.iter().filter_map(|event| event.event.as_ref()).map(describe));
        }
    }
    assert_eq!(told, ["snapshot 1 EXPIRED", "synced"]);
    rig.stop().await;
}
