//! The limits of a worker's stream that GetServerInfo reports; those of single requests are with the tests of the API.

use jobmill::proto::v1::{self, lease_notice::Notice, report::Report as Content};

use super::rig::{RawWorker, hello, lease, remote_job, server};
use crate::support::{Rig, refusal, soon};

async fn limit(rig: &Rig, name: &str) -> usize {
    let info = soon(rig.about.clone().get_server_info(v1::GetServerInfoRequest::default())).await.unwrap();
    let limits = info.into_inner().limits;
    let limit = limits.iter().find(|limit| limit.name == name).unwrap_or_else(|| panic!("no {name}"));
    limit.value.try_into().unwrap()
}

#[tokio::test]
async fn a_pool_has_as_many_credits_as_are_told_and_no_more() {
    let rig = Rig::start(server()).await;
    let limit = limit(&rig, "pool_credits").await.try_into().unwrap();
    let (mut worker, _) = RawWorker::greet(&rig.channel, hello("w", "p")).await;
    worker.credit(limit);
    worker.sync().await;
    worker.credit(1);
    assert_eq!(refusal(&worker.ends().await).fields, ["frames[0].credit.count"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_checkpoint_may_have_as_many_bytes_as_are_told_and_no_more() {
    let rig = Rig::start(server()).await;
    let limit = limit(&rig, "checkpoint_bytes").await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    rig.submit(remote_job()).await;
    let assignment = worker.start().await;
    let mut report = async |number, bytes| {
        let state = Some(v1::Payload::of(vec![7; bytes]));
        let checkpoint = Some(v1::Checkpoint { number, state, commit_now: false });
        worker.report(lease(&assignment), Content::Heartbeat(v1::Heartbeat { progress: None, checkpoint }));
        worker.notice(lease(&assignment)).await
    };
    let Notice::Refused(error) = report(1, limit + 1).await else { panic!("accepted") };
    assert_eq!(error.field_violations[0].field, "report.heartbeat.checkpoint.state");
    assert!(matches!(report(1, limit).await, Notice::Held(_)));
    rig.stop().await;
}
