//! Leases over many starts of the server.

use std::{path::Path, time::Duration};

use jobmill::{
    clock::{Clock, ManualClock},
    proto::v1::{self, FailureReason, JobState, lease_notice::Notice, report::Report as Content},
    serve::Server,
};

use crate::{
    rig::{KIND, RawWorker, client, completed, heartbeat, hello, lease, no_faults, remote_job, remote_only},
    support::{QUEUE, Rig, folder, manual_clock, soon},
};

/// The time of a start that counts: more than half of a lease, and less than the whole.
const RUN: Duration = Duration::from_secs(20);

async fn start(home: &Path, clock: &ManualClock) -> Rig {
    let builder = Server::builder(remote_only(folder(home))).clock(Clock::Manual(clock.clone()));
    Rig::start(builder).await
}

/// Lets time pass in steps that are shorter than those in which the server looks at leases.
async fn advance(rig: &Rig, clock: &ManualClock, duration: Duration) {
    let step = Duration::from_millis(500);
    for _ in 0..duration.as_millis() / step.as_millis() {
        clock.advance(step);
        // Calls that commit are answered.
        rig.pause(QUEUE).await;
        rig.resume(QUEUE).await;
    }
}

/// Starts a server, and an attempt of a worker that goes away.
async fn away(home: &Path, clock: &ManualClock) -> (Rig, v1::Lease) {
    let rig = start(home, clock).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await;
    let lease = lease(&worker.start().await).clone();
    (rig, lease)
}

#[tokio::test]
async fn many_starts_within_seconds_end_no_attempt() {
    let (home, clock) = (tempfile::tempdir().unwrap(), manual_clock());
    let (mut rig, lease) = away(home.path(), &clock).await;
    for _ in 0..8 {
        rig.force().await;
        rig = start(home.path(), &clock).await;
        advance(&rig, &clock, Duration::from_secs(2)).await;
    }
    let listed = v1::Hello { leases: vec![lease.clone()], ..hello("w", "p") };
    let (mut worker, welcome) = RawWorker::greet(&rig.channel, listed).await;
    assert!(matches!(welcome.leases[0].notice, Some(Notice::Held(_))), "{welcome:?}");
    worker.report(&lease, completed("done"));
    assert!(matches!(worker.notice(&lease).await, Notice::Ended(_)));
    assert_eq!(rig.get(&lease.job_id).await.state(), JobState::Succeeded);
    no_faults(&rig).await;
}

#[tokio::test]
async fn three_starts_that_gave_a_worker_time_end_the_attempt_of_one_that_stays_away() {
    let (home, clock) = (tempfile::tempdir().unwrap(), manual_clock());
    let (mut rig, lease) = away(home.path(), &clock).await;
    for _ in 0..3 {
        rig.force().await;
        rig = start(home.path(), &clock).await;
        advance(&rig, &clock, RUN).await;
        assert_eq!(rig.get(&lease.job_id).await.state(), JobState::Running);
    }
    rig.force().await;
    let rig = start(home.path(), &clock).await;
    let job = rig.get(&lease.job_id).await;
    assert_eq!((job.state(), job.last_failure.unwrap().reason()), (JobState::Failed, FailureReason::Lost));
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_worker_without_a_stream_keeps_its_lease_over_any_number_of_starts_by_its_heartbeats() {
    let (home, clock) = (tempfile::tempdir().unwrap(), manual_clock());
    let mut rig = start(home.path(), &clock).await;
    let leasing = v1::LeaseJobsRequest {
        instance: "script".into(),
        process: "p".into(),
        kinds: vec![KIND.into()],
        ..Default::default()
    };
    let lease_jobs = async |rig: &Rig| {
        soon(client(&rig.channel).lease_jobs(leasing.clone())).await.unwrap().into_inner().assignments
    };
    lease_jobs(&rig).await;
    rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await;
    let lease = lease(&lease_jobs(&rig).await[0]).clone();
    let report = async |rig: &Rig, content: Content| {
        let request = v1::ReportJobsRequest {
            instance: "script".into(),
            process: "p".into(),
            reports: vec![v1::Report { lease: Some(lease.clone()), report: Some(content) }],
            ..Default::default()
        };
        let notices = soon(client(&rig.channel).report_jobs(request)).await.unwrap().into_inner().notices;
        notices.into_iter().next().unwrap().notice.unwrap()
    };
    assert!(matches!(report(&rig, Content::Received(v1::Received {})).await, Notice::Held(_)));
    for _ in 0..5 {
        rig.force().await;
        rig = start(home.path(), &clock).await;
        assert!(matches!(report(&rig, heartbeat()).await, Notice::Held(_)));
        advance(&rig, &clock, RUN).await;
        assert!(matches!(report(&rig, heartbeat()).await, Notice::Held(_)));
    }
    assert!(matches!(report(&rig, completed("done")).await, Notice::Ended(_)));
    no_faults(&rig).await;
}
