//! Wall clocks that are set while remote attempts run.

use std::time::Duration;

use jobmill::{
    clock::{Clock, ManualClock, Timestamp},
    proto::v1::{self, CancelCause, JobState, lease_notice::Notice},
};

use crate::{
    rig::{RawWorker, completed, heartbeat, lease, no_faults, remote_job, server},
    support::{Rig, manual_clock},
};

const HOUR_US: i64 = 3_600_000_000;
/// A third of a lease.
const STEP: Duration = Duration::from_secs(10);

fn set_by(clock: &ManualClock, micros: i64) {
    clock.set(Timestamp::from_micros(Clock::Manual(clock.clone()).now().as_micros() + micros));
}

/// Lets the time of a heartbeat pass, in steps that are shorter than those in which the server looks at leases.
async fn advance(clock: &ManualClock, worker: &mut RawWorker) {
    for _ in 0..STEP.as_secs() * 2 {
        clock.advance(Duration::from_millis(500));
        worker.sync().await;
    }
}

#[tokio::test]
async fn no_lease_and_no_timeout_ends_early_though_the_servers_clock_is_set_by_an_hour() {
    for step in [HOUR_US, -HOUR_US] {
        let clock = manual_clock();
        let rig = Rig::start(server().clock(Clock::Manual(clock.clone()))).await;
        let mut worker = RawWorker::ready(&rig, 2).await;
        let timeout = Some(prost_types::Duration { seconds: 100, nanos: 0 });
        let limited = rig.submit(v1::JobSpec { attempt_timeout: timeout, ..remote_job() }).await.id;
        let free = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
        let (first, second) = (worker.start().await, worker.start().await);
        let limited_lease = if lease(&first).job_id == limited { lease(&first) } else { lease(&second) };
        for round in 0..9 {
            if round % 3 == 0 {
                set_by(&clock, step);
            }
            advance(&clock, &mut worker).await;
            for assignment in [&first, &second] {
                worker.report(lease(assignment), heartbeat());
                let notice = worker.notice(lease(assignment)).await;
                assert!(matches!(notice, Notice::Held(_)), "{notice:?} in round {round}");
            }
        }
        assert_eq!(rig.get(&free).await.state(), JobState::Running);
        advance(&clock, &mut worker).await;
        advance(&clock, &mut worker).await;
        // The timeout comes neither early nor late.
        let Notice::Cancel(cancel) = worker.notice(limited_lease).await else { panic!("a timeout") };
        assert_eq!(cancel.cause(), CancelCause::Timeout);
        for assignment in [&first, &second] {
            worker.report(lease(assignment), completed("done"));
            while !matches!(worker.notice(lease(assignment)).await, Notice::Ended(_)) {}
        }
        let job = rig.get(&free).await;
        assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
        no_faults(&rig).await;
    }
}

#[tokio::test]
async fn a_silent_workers_lease_is_no_longer_for_a_clock_that_is_set_back() {
    for step in [HOUR_US, -HOUR_US] {
        let clock = manual_clock();
        let rig = Rig::start(server().clock(Clock::Manual(clock.clone()))).await;
        let mut worker = RawWorker::ready(&rig, 1).await;
        let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
        let held = worker.start().await;
        set_by(&clock, step);
        for _ in 0..2 {
            advance(&clock, &mut worker).await;
        }
        assert_eq!(rig.get(&id).await.state(), JobState::Running);
        for _ in 0..2 {
            advance(&clock, &mut worker).await;
        }
        let lost = rig.ends(&id).await;
        assert_eq!(lost.last_failure.unwrap().reason(), v1::FailureReason::Lost);
        worker.report(lease(&held), completed("late"));
        assert!(matches!(worker.notice(lease(&held)).await, Notice::Refused(_)));
        no_faults(&rig).await;
    }
}
