//! The limit of workers, and the names that no worker has any more.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jobmill::{clock::Clock, proto::v1};
use tonic::{Code, Status};

use crate::{
    rig::{KIND, RawWorker, client, completed, hello, lease, no_faults, remote_job, server},
    support::{Rig, manual_clock, refusal, soon},
};

const WORKERS_MAX: usize = 10_000;
/// Number of calls under way at a time.
const CALLS: usize = 256;

async fn lease_jobs(rig: &Rig, instance: String) -> Result<(), Status> {
    let request = v1::LeaseJobsRequest {
        instance,
        process: "p".into(),
        kinds: vec!["none".into()],
        ..Default::default()
    };
    soon(client(&rig.channel).lease_jobs(request)).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ten_thousand_and_first_worker_is_refused_until_names_that_were_used_once_are_forgotten() {
    let clock = manual_clock();
    let rig = Rig::start(server().clock(Clock::Manual(clock.clone()))).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let mut names = stream::iter(1..WORKERS_MAX)
        .map(|number| lease_jobs(&rig, format!("made-up-{number}")))
        .buffer_unordered(CALLS);
    while let Some(answer) = names.next().await {
        answer.unwrap();
    }
    let refused = lease_jobs(&rig, "one-more".into()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refusal(&refused).reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_WORKERS")
    );
    let mut one_more = RawWorker::silent(&rig.channel).await;
    one_more.say(v1::worker_frame::Frame::Hello(hello("one-more", "p")));
    assert_eq!(refusal(&one_more.ends().await).reason, "TOO_MANY_WORKERS");

    // Those that are there go on, and so does a name that is known.
    rig.submit(remote_job()).await;
    let held = worker.start().await;
    lease_jobs(&rig, "made-up-1".into()).await.unwrap();

    // The worker with a stream and a lease stays, though it has not said hello for as long.
    clock.advance(Duration::from_secs(20));
    worker.report(lease(&held), crate::rig::heartbeat());
    worker.sync().await;
    clock.advance(Duration::from_secs(20));
    worker.report(lease(&held), crate::rig::heartbeat());
    worker.sync().await;
    clock.advance(Duration::from_secs(20));
    let (mut newcomer, _) = RawWorker::greet(&rig.channel, hello("one-more", "p")).await;
    worker.report(lease(&held), completed("done"));
    while !matches!(worker.notice(lease(&held)).await, v1::lease_notice::Notice::Ended(_)) {}
    newcomer.credit(1);
    rig.submit(v1::JobSpec { kind: KIND.into(), ..remote_job() }).await;
    rig.submit(remote_job()).await;
    newcomer.start().await;
    no_faults(&rig).await;
}
