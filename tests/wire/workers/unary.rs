//! Workers without a stream: LeaseJobs and ReportJobs. And what operators see and ask of workers.

use jobmill::proto::v1::{
    self, JobState, WorkerState, lease_notice::Notice, report::Report as Content, server_frame::Frame,
};

use super::rig::{
    KIND, RawWorker, assigned_id, client, completed, count, heartbeat, hello, lease, no_faults, remote_job,
    server,
};
use crate::support::{Rig, refusal, soon};

fn leasing(max_jobs: i32, wait_seconds: i64) -> v1::LeaseJobsRequest {
    v1::LeaseJobsRequest {
        instance: "script".into(),
        process: "1".into(),
        kinds: vec![KIND.into()],
        max_jobs,
        wait: Some(prost_types::Duration { seconds: wait_seconds, nanos: 0 }),
        ..Default::default()
    }
}

async fn lease_jobs(rig: &Rig, request: v1::LeaseJobsRequest) -> Vec<v1::Assignment> {
    soon(client(&rig.channel).lease_jobs(request)).await.unwrap().into_inner().assignments
}

async fn report(rig: &Rig, reports: Vec<(&v1::Lease, Content)>) -> Vec<Notice> {
    let reports = reports
        .into_iter()
        .map(|(lease, content)| v1::Report { lease: Some(lease.clone()), report: Some(content) });
    let request = v1::ReportJobsRequest {
        instance: "script".into(),
        process: "1".into(),
        reports: reports.collect(),
        ..Default::default()
    };
    let notices = soon(client(&rig.channel).report_jobs(request)).await.unwrap().into_inner().notices;
    notices.into_iter().map(|notice| notice.notice.unwrap()).collect()
}

#[tokio::test]
async fn a_script_leases_runs_and_reports_a_job() {
    let rig = Rig::start(server()).await;
    assert!(lease_jobs(&rig, leasing(1, 0)).await.is_empty(), "there is no job yet");
    let ids = [rig.submit(remote_job()).await.id, rig.submit(remote_job()).await.id];
    let assignments = lease_jobs(&rig, leasing(5, 10)).await;
    assert_eq!(assignments.iter().map(assigned_id).collect::<Vec<_>>(), ids);
    let (first, second) = (lease(&assignments[0]), lease(&assignments[1]));
    let received = || Content::Received(v1::Received {});
    let notices = report(&rig, vec![(first, received()), (second, received())]).await;
    assert!(matches!(notices[..], [Notice::Held(_), Notice::Held(_)]), "{notices:?}");
    let stranger = v1::Lease { token: 1, ..first.clone() };
    let notices =
        report(&rig, vec![(first, completed("a")), (&stranger, completed("b")), (second, heartbeat())]).await;
    assert!(matches!(notices[..], [Notice::Ended(_), Notice::Refused(_), Notice::Held(_)]), "{notices:?}");
    assert_eq!(rig.get(&ids[0]).await.state(), JobState::Succeeded);
    assert_eq!(rig.get(&ids[1]).await.worker, "script");
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_call_that_does_not_wait_gets_the_jobs_that_are_there() {
    let rig = Rig::start(server()).await;
    assert!(lease_jobs(&rig, leasing(1, 0)).await.is_empty(), "the kind is known from now on");
    for _ in 0..10 {
        let id = rig.submit(remote_job()).await.id;
        let assignments = lease_jobs(&rig, leasing(1, 0)).await;
        assert_eq!(assignments.iter().map(assigned_id).collect::<Vec<_>>(), [id]);
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_waiting_call_gets_the_next_job_and_a_repeat_under_its_name_the_same_lease() {
    let rig = Rig::start(server()).await;
    let named = || v1::LeaseJobsRequest { request_id: "call-1".into(), ..leasing(1, 30) };
    lease_jobs(&rig, leasing(1, 0)).await;
    let waiting = tokio::spawn({
        let mut client = client(&rig.channel);
        async move { client.lease_jobs(named()).await.unwrap().into_inner().assignments }
    });
    let id = rig.submit(remote_job()).await.id;
    let assignments = soon(waiting).await.unwrap();
    assert_eq!(assigned_id(&assignments[0]), id);
    rig.submit(remote_job()).await;
    let again = lease_jobs(&rig, named()).await;
    assert_eq!(
        again.iter().map(lease).collect::<Vec<_>>(),
        [lease(&assignments[0])],
        "the response was lost"
    );
    no_faults(&rig).await;
}

#[tokio::test]
async fn operators_see_workers_and_ask_them_to_end() {
    let rig = Rig::start(server()).await;
    let hello = v1::Hello {
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        client_version: "test 1".into(),
        ..hello("w", "p")
    };
    let (mut worker, _) = RawWorker::greet(&rig.channel, hello).await;
    worker.credit(3);
    let id = rig.submit(remote_job()).await.id;
    let assignment = worker.start().await;
    let list = |request| async {
        soon(client(&rig.channel).list_workers(request)).await.unwrap().into_inner().workers
    };
    let workers = list(v1::ListWorkersRequest::default()).await;
    let shown = &workers[0];
    assert_eq!((shown.instance.as_str(), shown.state()), ("w", WorkerState::Connected));
    assert_eq!((shown.pools[0].credits, shown.lease_count, shown.client_version.as_str()), (2, 1, "test 1"));
    assert_eq!((&shown.leases[0].lease, shown.leases[0].received), (&assignment.lease, true));
    let other = v1::ListWorkersRequest { instance: "other".into(), ..Default::default() };
    assert!(list(other).await.is_empty());

    let drain = |request| async { soon(client(&rig.channel).drain_workers(request)).await };
    let nobody = v1::DrainWorkersRequest { instance: "other".into(), ..Default::default() };
    assert_eq!(refusal(&drain(nobody).await.unwrap_err()).reason, "WORKER_NOT_FOUND");
    assert_eq!(
        refusal(&drain(v1::DrainWorkersRequest::default()).await.unwrap_err()).fields,
        ["instance"],
        "all of them would be asked"
    );
    let zone = v1::DrainWorkersRequest {
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(drain(zone).await.unwrap().into_inner().instances, ["w"]);
    while !matches!(worker.frame().await, Frame::Drain(_)) {}
    rig.submit(remote_job()).await;
    worker.credit(1);
    worker.sync().await;
    assert_eq!(list(v1::ListWorkersRequest::default()).await[0].state(), WorkerState::Draining);
    assert_eq!(count(&rig, JobState::Queued).await, 1, "it gets no more jobs");
    let mine = v1::LeaseJobsRequest { instance: "w".into(), process: "p".into(), ..leasing(1, 30) };
    assert!(soon(client(&rig.channel).lease_jobs(mine)).await.unwrap().into_inner().draining);
    worker.report(lease(&assignment), completed("last"));
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    no_faults(&rig).await;
}
