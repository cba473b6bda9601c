//! Who a worker is, and what a hello proves.

use jobmill::proto::v1::{self, JobState, PendingReason, lease_notice::Notice, worker_frame::Frame as Said};
use tonic::Code;

use super::rig::{
    KIND, RawWorker, assigned_id, completed, heartbeat, hello, lease, no_faults, refusal_of, remote_job,
    server,
};
use crate::support::{Rig, pending, refusal, soon, submission};

#[tokio::test]
async fn a_kind_is_known_from_a_workers_first_hello_on() {
    let rig = Rig::start(server()).await;
    let status = soon(rig.jobs.clone().submit(submission(remote_job()))).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "UNKNOWN_KIND");
    let (worker, welcome) = RawWorker::greet(&rig.channel, hello("w", "p")).await;
    assert_eq!(welcome.heartbeat_every.unwrap().seconds, 10);
    assert_eq!(welcome.lease_time.unwrap().seconds, 30);
    let id = rig.submit(remote_job()).await.id;
    assert_eq!(pending(&rig.get(&id).await), [PendingReason::NoFreeSlot], "the worker grants no credits");
    drop(worker);
    let gone = async { while pending(&rig.get(&id).await) != [PendingReason::NoWorkerForKind] {} };
    soon(gone).await;
    rig.submit(remote_job()).await;
}

#[tokio::test]
async fn the_first_frame_is_a_hello_and_there_is_no_other() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::silent(&rig.channel).await;
    worker.credit(1);
    let status = worker.ends().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(refusal(&status).fields, ["frames[0].hello"]);
    let mut worker = RawWorker::ready(&rig, 1).await;
    worker.say(Said::Hello(hello("w", "p")));
    assert_eq!(refusal(&worker.ends().await).fields, ["frames[0].hello"]);
}

#[tokio::test]
async fn the_same_process_takes_up_its_leases_and_what_it_does_not_list_goes_back_uncounted() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let once = v1::JobSpec { max_attempts: 1, ..remote_job() };
    for _ in 0..2 {
        rig.submit(once.clone()).await;
    }
    let (kept, unlisted) = (worker.start().await, worker.start().await);
    drop(worker);
    let listed = v1::Hello { leases: vec![lease(&kept).clone()], ..hello("w", "p") };
    let (mut worker, welcome) = RawWorker::greet(&rig.channel, listed).await;
    assert!(matches!(welcome.leases[0].notice, Some(Notice::Held(_))), "{welcome:?}");
    assert_eq!(rig.get(assigned_id(&unlisted)).await.state(), JobState::Queued);
    worker.credit(1);
    let again = worker.start().await;
    assert_eq!(assigned_id(&again), assigned_id(&unlisted));
    assert_eq!(
        again.job.as_ref().unwrap().counted_attempts,
        1,
        "the attempt that never arrived does not count"
    );
    for assignment in [&kept, &again] {
        worker.report(lease(assignment), completed("done"));
        assert!(matches!(worker.notice(lease(assignment)).await, Notice::Ended(_)));
        assert_eq!(rig.get(assigned_id(assignment)).await.state(), JobState::Succeeded);
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_new_process_ends_its_predecessors_leases_and_the_predecessor_stays_away() {
    let rig = Rig::start(server()).await;
    let mut old = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let held = old.start().await;
    let (_new, welcome) = RawWorker::greet(&rig.channel, hello("w", "q")).await;
    assert!(welcome.leases.is_empty());
    let status = old.ends().await;
    assert_eq!(refusal(&status).reason, "WORKER_SUPERSEDED");
    let lost = rig.ends(&id).await;
    assert_eq!(lost.state(), JobState::Failed);
    assert_eq!(lost.last_failure.unwrap().reason(), v1::FailureReason::Lost);
    let listed = v1::Hello { leases: vec![lease(&held).clone()], ..hello("w", "p") };
    let mut back = RawWorker::silent(&rig.channel).await;
    back.say(Said::Hello(listed));
    assert_eq!(refusal(&back.ends().await).reason, "WORKER_SUPERSEDED");
    assert_eq!(rig.metric("jobmill_worker_leases_lost_total{cause=\"superseded\"}").await, 1.0);
    no_faults(&rig).await;
}

#[tokio::test]
async fn another_stream_of_the_same_process_replaces_the_first() {
    let rig = Rig::start(server()).await;
    let mut first = RawWorker::ready(&rig, 5).await;
    let mut second = RawWorker::ready(&rig, 1).await;
    assert_eq!(refusal(&first.ends().await).reason, "WORKER_REPLACED");
    rig.submit(remote_job()).await;
    second.start().await;
    no_faults(&rig).await;
}

#[tokio::test]
async fn reports_of_another_process_instance_or_lease_are_refused_and_change_nothing() {
    let rig = Rig::start(server()).await;
    let mut owner = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let held = owner.start().await;
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    for report in [heartbeat(), completed("forged")] {
        other.report(lease(&held), report);
        assert_eq!(refusal_of(other.notice(lease(&held)).await), "LEASE_LOST");
    }
    let forged = v1::Lease { token: lease(&held).token + 1, ..lease(&held).clone() };
    let old = v1::Lease { token: 1, ..lease(&held).clone() };
    for lease in [&forged, &old] {
        for report in [heartbeat(), completed("forged")] {
            owner.report(lease, report);
            assert_eq!(refusal_of(owner.notice(lease).await), "LEASE_LOST");
        }
    }
    assert_eq!(rig.get(&id).await.state(), JobState::Running);
    owner.report(lease(&held), completed("done"));
    assert!(matches!(owner.notice(lease(&held)).await, Notice::Ended(_)));
    assert_eq!(crate::support::result(&rig.get(&id).await), b"done");
}

#[tokio::test]
async fn faults_of_a_hello_are_all_named_with_their_limits() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::silent(&rig.channel).await;
    let pools = vec![
        v1::WorkerPool { name: "a b".into(), kinds: vec![], queues: vec!["BAD".into()] },
        v1::WorkerPool { name: "a b".into(), kinds: vec![KIND.into()], queues: vec![] },
    ];
    let leases = vec![v1::Lease { job_id: "x".into(), token: 0 }];
    worker.say(Said::Hello(v1::Hello { instance: "no space".into(), pools, leases, ..Default::default() }));
    let status = worker.ends().await;
    let fields = refusal(&status).fields;
    for field in [
        "hello.instance",
        "hello.process",
        "hello.pools[0].name",
        "hello.pools[0].kinds",
        "hello.pools[0].queues[0]",
        "hello.pools[1]",
        "hello.leases[0].job_id",
        "hello.leases[0].token",
    ] {
        assert!(fields.iter().any(|found| found == field), "{field} in {fields:?}");
    }
}
