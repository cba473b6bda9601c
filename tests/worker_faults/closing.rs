//! Streams that end in order, and streams that never begin.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{lease_notice::Notice, server_frame::Frame},
};
use tonic::Code;

use crate::{
    rig::{RawWorker, completed, hello, lease, no_faults, remote_job, server},
    support::{Rig, refusal, soon},
};

/// Number of streams, each of which would last 1.5 s if the server waited for more than the answer.
const STREAMS: usize = 20;

#[tokio::test]
async fn a_stream_that_its_worker_has_closed_ends_when_the_last_report_is_answered() {
    let rig = Rig::start(server()).await;
    let began = Clock::System.uptime();
    for _ in 0..STREAMS {
        let mut worker = RawWorker::ready(&rig, 1).await;
        rig.submit(remote_job()).await;
        let assignment = worker.start().await;
        worker.report(lease(&assignment), completed("done"));
        let RawWorker { said, mut heard, .. } = worker;
        drop(said);
        let mut is_answered = false;
        while let Some(message) = soon(heard.message()).await.unwrap() {
            for frame in message.frames {
                let Some(Frame::Notice(notice)) = frame.frame else { panic!("a notice") };
                is_answered |= matches!(notice.notice, Some(Notice::Ended(_)));
            }
        }
        assert!(is_answered);
    }
    let took = Clock::System.uptime().since(began);
    assert!(took < Duration::from_secs(STREAMS as u64), "{took:?}");
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_stream_without_a_hello_ends_and_says_what_is_missing() {
    let rig = Rig::start(server()).await;
    let mut nobody = RawWorker::silent(&rig.channel).await;
    let status = nobody.ends().await;
    assert_eq!((status.code(), refusal(&status).reason.as_str()), (Code::DeadlineExceeded, "WORKER_SILENT"));
    assert!(status.message().contains("hello within 10 s"), "{status:?}");
    // Nothing is left of it.
    RawWorker::greet(&rig.channel, hello("w", "p")).await;
    no_faults(&rig).await;
}
