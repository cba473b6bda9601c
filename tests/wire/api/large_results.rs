//! Bytes transferred to a client that waits for results.

use std::env;

use jobmill::proto::v1::{self, JobState, JobView, watch_event::Event};
use prost::Message;

use crate::support::{QUEUE, Rig, job, result, soon};

const MIB: usize = 1 << 20;

/// Returns the number of jobs. Set the variable to run more, such as 1,000 in a release build.
fn count() -> usize {
    env::var("JOBMILL_TEST_RESULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(24)
}

#[tokio::test]
async fn a_watcher_for_results_of_1_mib_gets_at_most_a_tenth_more_than_these() {
    let rig = Rig::simple().await;
    let request = v1::WatchStatusRequest {
        filter: Some(v1::JobFilter { queues: vec![QUEUE.to_owned()], ..Default::default() }),
        start: v1::WatchStart::Now as i32,
        view: JobView::Result as i32,
        ..Default::default()
    };
    let mut watch = rig.watch(request).await;
    let jobs = count();
    let submitting = async {
        for _ in 0..jobs {
            let payload = Some(v1::Payload::of(vec![7; MIB]));
            rig.submit(v1::JobSpec { payload, ..job("echo") }).await;
        }
    };
    let watching = async {
        let (mut moved, mut results) = (0, 0);
        while results < jobs {
            let message = soon(watch.message()).await.unwrap().expect("more");
            moved += message.encoded_len();
            results += message.events.iter().filter(|event| has_result(event)).count();
        }
        moved
    };
    let ((), moved) = tokio::join!(submitting, watching);
    let ratio = moved as f64 / (jobs * MIB) as f64;
    println!("{jobs} results of 1 MiB: {ratio:.4} of their bytes moved");
    assert!((1.0..=1.1).contains(&ratio), "{ratio}");
    rig.stop().await;
}

/// Returns whether an event is a job's end with its result; asserts that no event has a payload.
fn has_result(event: &v1::WatchEvent) -> bool {
    let Some(Event::Updated(v1::JobUpdated { job: Some(job), .. }) | Event::Snapshot(job)) = &event.event
    else {
        return false;
    };
    let payload = job.spec.as_ref().and_then(|spec| spec.payload.as_ref()).expect("what it is");
    assert_eq!((payload.bytes().len(), payload.size_bytes), (0, MIB as i32));
    let is_end = job.state() == JobState::Succeeded;
    assert_eq!(result(job).len(), if is_end { MIB } else { 0 });
    is_end
}
