//! Messages that no honest worker sends.

use jobmill::{
    proto::v1::{
        self, FailureReason, JobState, lease_notice::Notice, report::Report as Content,
        worker_frame::Frame as Said,
    },
    serve::Server,
};
use tonic::Code;

use crate::{
    rig::{
        KIND, RawWorker, client, completed, heartbeat, hello, lease, no_faults, refusal_of, released,
        remote_job, remote_only, server,
    },
    support::{Rig, folder, refusal, result, soon},
};

/// A job id that no server has given.
const UNKNOWN: &str = "06g3k5m0v4000";

#[tokio::test]
async fn a_hello_with_ten_thousand_made_up_leases_is_answered_and_changes_nothing() {
    let rig = Rig::start(server()).await;
    let mut owner = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let held = owner.start().await;
    let mut leases: Vec<_> = (1..10_000).map(|token| v1::Lease { job_id: UNKNOWN.into(), token }).collect();
    // That of another worker.
    leases.push(lease(&held).clone());
    let (mut forger, welcome) =
        RawWorker::greet(&rig.channel, v1::Hello { leases: leases.clone(), ..hello("forger", "p") }).await;
    assert_eq!(welcome.leases.len(), 10_000);
    for notice in welcome.leases {
        assert_eq!(refusal_of(notice.notice.unwrap()), "LEASE_LOST");
    }
    forger.sync().await;
    leases.push(v1::Lease { job_id: UNKNOWN.into(), token: 1 });
    let mut greedy = RawWorker::silent(&rig.channel).await;
    greedy.say(Said::Hello(v1::Hello { leases, ..hello("greedy", "p") }));
    assert_eq!(refusal(&greedy.ends().await).fields, ["hello.leases"]);
    owner.report(lease(&held), completed("done"));
    assert!(matches!(owner.notice(lease(&held)).await, Notice::Ended(_)));
    assert_eq!(result(&rig.get(&id).await), b"done");
    no_faults(&rig).await;
}

#[tokio::test]
async fn final_reports_of_any_kind_by_others_are_refused_on_both_ways() {
    let rig = Rig::start(server()).await;
    let mut owner = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let held = owner.start().await;
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    let forged = || {
        [
            heartbeat(),
            completed("forged"),
            crate::rig::failed("forged", false),
            released(true),
            released(false),
        ]
    };
    for content in forged() {
        other.report(lease(&held), content.clone());
        assert_eq!(refusal_of(other.notice(lease(&held)).await), "LEASE_LOST", "{content:?}");
    }
    let reports = forged().map(|content| v1::Report { lease: held.lease.clone(), report: Some(content) });
    let request = v1::ReportJobsRequest {
        instance: "w".into(),
        // The owner's instance, but another process: it takes the instance over only where it says hello.
        process: "forged".into(),
        reports: reports.into(),
        ..Default::default()
    };
    let stranger = v1::ReportJobsRequest { instance: "stranger".into(), ..request };
    let notices = soon(client(&rig.channel).report_jobs(stranger)).await.unwrap().into_inner().notices;
    assert_eq!(notices.len(), 5);
    for notice in notices {
        assert_eq!(refusal_of(notice.notice.unwrap()), "LEASE_LOST");
    }
    owner.sync().await;
    assert_eq!(rig.get(&id).await.state(), JobState::Running);
    owner.report(lease(&held), completed("mine"));
    assert!(matches!(owner.notice(lease(&held)).await, Notice::Ended(_)));
    assert_eq!(result(&rig.get(&id).await), b"mine");
    no_faults(&rig).await;
}

#[tokio::test]
async fn an_attempts_old_lease_gives_no_rights_on_its_next_attempt() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(Server::builder(remote_only(folder(home.path())))).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let retry = v1::RetryPolicy { initial_delay: Some(Default::default()), ..Default::default() };
    let id = rig.submit(v1::JobSpec { retry_policy: Some(retry.into()), ..remote_job() }).await.id;
    let old = worker.start().await;
    worker.report(lease(&old), crate::rig::failed("once more", true));
    assert!(matches!(worker.notice(lease(&old)).await, Notice::Ended(_)));
    let new = worker.start().await;
    assert!(lease(&new).token > lease(&old).token);
    worker.report(lease(&old), heartbeat());
    assert_eq!(refusal_of(worker.notice(lease(&old)).await), "LEASE_LOST");
    // A late final report of the first attempt is a repeat, whatever it says, and changes nothing.
    worker.report(lease(&old), completed("late"));
    assert!(matches!(worker.notice(lease(&old)).await, Notice::Ended(_) | Notice::Refused(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::Running);
    worker.report(lease(&new), completed("new"));
    assert!(matches!(worker.notice(lease(&new)).await, Notice::Ended(_)));
    assert_eq!(result(&rig.get(&id).await), b"new");
    no_faults(&rig).await;
}

#[tokio::test]
async fn faults_of_frames_end_the_stream_and_name_their_fields() {
    let rig = Rig::start(server()).await;
    let credit = |pool: &str, count| Said::Credit(v1::Credit { pool: pool.into(), count });
    let cases = [
        (vec![credit("other", 1)], "frames[0].credit.pool"),
        (vec![credit("", 0)], "frames[0].credit.count"),
        (vec![credit("", 1), credit("", -1)], "frames[1].credit.count"),
        (vec![credit("", i32::MAX)], "frames[0].credit.count"),
        (vec![Said::Ping(v1::Ping { number: 1 }), Said::Hello(hello("w", "p"))], "frames[1].hello"),
        (vec![Said::Ping(v1::Ping { number: 1 }); 4_097], "frames"),
    ];
    for (frames, field) in cases {
        let mut worker = RawWorker::ready(&rig, 1).await;
        worker.say_all(frames);
        let status = worker.ends().await;
        assert_eq!((status.code(), refusal(&status).fields), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn faults_of_reports_name_their_fields_and_leave_the_stream_open() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let held = worker.start().await;
    let lease = lease(&held);
    let checkpoint = |number| {
        let checkpoint = Some(v1::Checkpoint { number, ..Default::default() });
        Some(Content::Heartbeat(v1::Heartbeat { checkpoint, ..Default::default() }))
    };
    let delay = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let cases = [
        (lease.clone(), None, "report"),
        (lease.clone(), checkpoint(0), "report.heartbeat.checkpoint.number"),
        (lease.clone(), checkpoint(-1), "report.heartbeat.checkpoint.number"),
        (
            lease.clone(),
            Some(Content::Failed(v1::Failed { retry_delay: delay, ..Default::default() })),
            "report.failed.retry_delay",
        ),
        (
            lease.clone(),
            Some(Content::Failed(v1::Failed { reason: FailureReason::Lost.into(), ..Default::default() })),
            "report.failed.reason",
        ),
        (v1::Lease { job_id: "no id".into(), ..lease.clone() }, Some(heartbeat()), "report.lease.job_id"),
        (v1::Lease { token: -1, ..lease.clone() }, Some(heartbeat()), "report.lease.token"),
    ];
    for (lease, content, field) in cases {
        worker.say(Said::Report(v1::Report { lease: Some(lease.clone()), report: content }));
        let Notice::Refused(error) = worker.notice(&lease).await else { panic!("accepted") };
        let fields: Vec<_> =
            error.field_violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!((error.reason.as_str(), &fields[..]), ("INVALID_REQUEST", &[field][..]));
    }
    worker.report(lease, completed("done"));
    assert!(matches!(worker.notice(lease).await, Notice::Ended(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::Succeeded);
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_and_not_the_lease() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let held = worker.start().await;
    let result = Some(v1::Payload::of(vec![7; 5 << 20]));
    worker.report(lease(&held), Content::Completed(v1::Completed { result }));
    let status = worker.ends().await;
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange), "{status:?}");
    let listed = v1::Hello { leases: vec![lease(&held).clone()], ..hello("w", "p") };
    let (mut worker, welcome) = RawWorker::greet(&rig.channel, listed).await;
    assert!(matches!(welcome.leases[0].notice, Some(Notice::Held(_))));
    worker.report(lease(&held), completed("less"));
    assert!(matches!(worker.notice(lease(&held)).await, Notice::Ended(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::Succeeded);
    no_faults(&rig).await;
}

#[tokio::test]
async fn names_of_workers_have_few_characters_and_a_limit() {
    let rig = Rig::start(server()).await;
    for instance in ["a b", "a/b", "é", "a\n", "\u{202e}a", "", &"a".repeat(129)] {
        let mut worker = RawWorker::silent(&rig.channel).await;
        worker.say(Said::Hello(hello(instance, "p")));
        assert_eq!(refusal(&worker.ends().await).fields, ["hello.instance"], "{instance:?}");
    }
    for instance in ["A.b-c_d:9", &"a".repeat(128)] {
        RawWorker::greet(&rig.channel, hello(instance, "p")).await;
    }
    for process in ["a b", "é", "", &"p".repeat(65)] {
        let mut worker = RawWorker::silent(&rig.channel).await;
        worker.say(Said::Hello(hello("w", process)));
        assert_eq!(refusal(&worker.ends().await).fields, ["hello.process"], "{process:?}");
    }
    let pools = vec![v1::WorkerPool { kinds: vec![KIND.into()], ..Default::default() }; 65];
    let mut worker = RawWorker::silent(&rig.channel).await;
    worker.say(Said::Hello(v1::Hello { pools, ..hello("w", "p") }));
    assert!(refusal(&worker.ends().await).fields.contains(&"hello.pools".to_owned()));
    no_faults(&rig).await;
}
