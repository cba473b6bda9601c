//! Headers, which reach the handler beside the payload.

use std::collections::BTreeMap;

use jobmill::{
    execute::Attempt,
    job::Output,
    proto::v1::{self, JobState, JobView, watch_event::Event},
    serve::Server,
};

use super::{entries, faults, list, shelf, submit};
use crate::support::{QUEUE, Rig, defaults, job, memory, named, refusal, spec};

fn with(headers: BTreeMap<String, String>) -> v1::JobSpec {
    v1::JobSpec { headers, ..job("echo") }
}

/// Returns `count` headers that take the same number of bytes each.
fn many(count: usize, bytes: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{n:02}"), "v".repeat(bytes - 2))).collect()
}

#[tokio::test]
async fn headers_come_back_in_every_view() {
    let rig = Rig::simple().await;
    let headers = entries([("tenant", "a"), ("locale", "fr-CH, en;q=0.5"), ("note", "a\tb ~!")]);
    let mut everything = rig
        .watch(v1::WatchStatusRequest { filter: Some(v1::JobFilter::default()), ..Default::default() })
        .await;
    everything.synced().await;
    let id = rig.submit(with(headers.clone())).await.id;
    assert_eq!(spec(&everything.until(JobState::Succeeded).await).headers, headers);
    for view in [JobView::Unspecified, JobView::Basic, JobView::Result, JobView::Full] {
        assert_eq!(spec(&rig.look(&id, view).await.unwrap()).headers, headers, "{view:?}");
        let listed = list(&rig, v1::JobFilter::default(), view).await;
        assert_eq!(spec(&listed[0]).headers, headers, "{view:?}");
    }
    let Event::Snapshot(job) = rig.watch_ids(&[&id]).await.next().await else { panic!("no snapshot") };
    assert_eq!(spec(&job).headers, headers);
    rig.stop().await;
}

#[tokio::test]
async fn what_is_not_allowed_in_headers_is_refused() {
    let rig = shelf().await;
    let long = "k".repeat(64);
    let rows = [
        ("33 entries", many(33, 3)),
        ("more than 8 KiB together", many(32, 257)),
        ("a value of 8 KiB", many(1, (8 << 10) + 1)),
        ("no key", entries([("", "v")])),
        ("a long key", entries([(long.as_str(), "v")])),
        ("gRPC's own", entries([("grpc-x", "v")])),
        ("Jobmill's own", entries([("jobmill-x", "v")])),
        ("upper case", entries([("Tenant", "v")])),
        ("a slash", entries([("a/b", "v")])),
        ("a space", entries([("a b", "v")])),
        ("a colon", entries([(":path", "v")])),
        ("a key with a line end", entries([("a\r\nb", "v")])),
        ("a key that is not ASCII", entries([("é", "v")])),
        ("CR", entries([("a", "b\rc")])),
        ("LF", entries([("a", "b\nc")])),
        ("CR and LF", entries([("a", "b\r\nevil: c")])),
        ("NUL", entries([("a", "b\0c")])),
        ("an escape", entries([("a", "\u{1b}[31m")])),
        ("DEL", entries([("a", "\u{7f}")])),
        ("a value that is not ASCII", entries([("a", "é")])),
        ("a blank at the beginning", entries([("a", " b")])),
        ("a tab at the end", entries([("a", "b\t")])),
        ("nothing but a blank", entries([("a", " ")])),
    ];
    for (what, headers) in rows {
        assert_eq!(faults(&rig, with(headers)).await, ["job.headers"], "{what}");
    }
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn headers_may_take_all_that_they_are_allowed() {
    let rig = shelf().await;
    let longest = "k".repeat(63);
    for headers in [
        many(32, 256),
        many(1, 8 << 10),
        entries([(longest.as_str(), "")]),
        entries([("a-z_0.9", "a \tb"), ("grpc", "v"), ("jobmill", "v"), ("-", "~")]),
    ] {
        let id = rig.submit(with(headers.clone())).await.id;
        assert_eq!(spec(&rig.get(&id).await).headers, headers);
    }
    rig.stop().await;
}

#[tokio::test]
async fn other_headers_make_another_request() {
    let rig = shelf().await;
    let said = |value| named("once", with(entries([("tenant", value)])));
    let first = submit(&rig, said("a")).await.unwrap();
    assert_eq!(submit(&rig, said("a")).await.unwrap().id(), first.id());
    for other in [said("b"), named("once", job("echo"))] {
        assert_eq!(refusal(&submit(&rig, other).await.unwrap_err()).reason, "REQUEST_ID_REUSED");
    }
    // A header differs from a label, even with the same name and value.
    let labelled = v1::JobSpec { labels: entries([("tenant", "a")]), ..job("echo") };
    let refused = submit(&rig, named("once", labelled)).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "REQUEST_ID_REUSED");
    rig.stop().await;
}

#[tokio::test]
async fn the_handler_is_told_the_headers() {
    let handler = async |attempt: Attempt| {
        let told: Vec<_> = attempt.headers().iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok::<_, jobmill::execute::HandlerError>(Output { bytes: told.join(",").into(), ..Output::default() })
    };
    let rig = Rig::start(Server::builder(memory()).handler("echo", defaults(), handler)).await;
    let id = rig.submit(with(entries([("locale", "fr"), ("tenant", "a b")]))).await.id;
    assert_eq!(crate::support::result(&rig.ends(&id).await), b"locale=fr,tenant=a b");
    let without = rig.submit(job("echo")).await.id;
    assert_eq!(rig.ends(&without).await.result, None);
    assert_eq!(rig.queue(QUEUE).await.stats.unwrap().live_jobs, 0);
    rig.stop().await;
}
