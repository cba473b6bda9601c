//! Payloads and results: bytes, text, types, metadata and sizes.

use jobmill::proto::v1::{self, JobState, JobView, payload::Body, watch_event::Event};

use prost::Message;

use super::{entries, faults, list, shelf, submit};
use crate::{
    bad_messages::{SUBMIT, call, framed},
    support::{QUEUE, Rig, job, named, payload, result, result_type, spec, submission},
};

const TEXT_TYPE: &str = "text/plain; charset=utf-8";

fn with(payload: v1::Payload) -> v1::JobSpec {
    v1::JobSpec { payload: Some(payload), ..job("echo") }
}

fn with_metadata(metadata: std::collections::BTreeMap<String, String>) -> v1::JobSpec {
    with(v1::Payload { metadata, ..v1::Payload::of("bytes") })
}

/// Submits a job with this payload; returns the payload that is stored.
async fn kept(rig: &Rig, payload: v1::Payload) -> Option<v1::Payload> {
    let id = rig.submit(with(payload)).await.id;
    spec(&rig.get(&id).await).payload.clone()
}

#[tokio::test]
async fn text_comes_back_as_its_bytes_with_the_type_of_text() {
    let rig = Rig::simple().await;
    let id = rig.submit(with(v1::Payload::of_text("grün"))).await.id;
    let ended = rig.ends(&id).await;
    let expected = v1::Payload {
        body: Some(Body::Data("grün".into())),
        media_type: TEXT_TYPE.to_owned(),
        metadata: Default::default(),
        size_bytes: 5,
    };
    assert_eq!(spec(&ended).payload, Some(expected));
    assert_eq!(result(&ended), "grün".as_bytes(), "the handler had the bytes");
    rig.stop().await;
}

#[tokio::test]
async fn text_keeps_a_type_of_its_own() {
    let rig = shelf().await;
    let given = v1::Payload::of_text("{}").with_type("application/json");
    let expected = v1::Payload { size_bytes: 2, ..v1::Payload::of("{}").with_type("application/json") };
    assert_eq!(kept(&rig, given).await, Some(expected));
    rig.stop().await;
}

#[tokio::test]
async fn a_payload_without_bytes_and_type_is_absent() {
    let rig = shelf().await;
    for given in [v1::Payload::default(), v1::Payload::of("")] {
        assert_eq!(kept(&rig, given.clone()).await, None, "{given:?}");
    }
    let id = rig.submit(job("echo")).await.id;
    assert_eq!(spec(&rig.get(&id).await).payload, None);
    let typed = kept(&rig, v1::Payload::of("").with_type("image/png")).await.expect("a payload");
    assert_eq!((typed.bytes().len(), typed.media_type.as_str(), typed.size_bytes), (0, "image/png", 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_result_is_absent_until_there_is_one() {
    let rig = Rig::simple().await;
    rig.pause(QUEUE).await;
    let id = rig.submit(with(v1::Payload::of("x"))).await.id;
    assert_eq!(rig.get(&id).await.result, None);
    rig.resume(QUEUE).await;
    let ended = rig.ends(&id).await;
    let expected = v1::Payload { size_bytes: 1, ..v1::Payload::of("x").with_type("text/plain") };
    assert_eq!(ended.result, Some(expected));
    let failed = rig.submit(v1::JobSpec { max_attempts: 1, ..job("fail") }).await.id;
    assert_eq!(rig.ends(&failed).await.result, None);
    rig.stop().await;
}

/// Asserts that a view shows a job's payload and result with or without their bytes, and everything else in any case.
fn assert_shown(job: &v1::Job, what: &str, with_payload: bool, with_result: bool) {
    let shown = spec(job).payload.as_ref().expect("a payload");
    assert_eq!((shown.size_bytes, shown.media_type.as_str()), (5, "image/png"), "{what}");
    assert_eq!(shown.metadata, entries([("Key.id/1", "a\r\nb"), ("encoding", "")]), "{what}");
    assert_eq!(payload(job), if with_payload { &b"bytes"[..] } else { b"" }, "{what}");
    assert_eq!(shown.body.is_some(), with_payload, "{what}");
    if job.state() == JobState::Succeeded {
        let shown = job.result.as_ref().expect("a result");
        assert_eq!((shown.size_bytes, result_type(job)), (5, "text/plain"), "{what}");
        assert_eq!(result(job), if with_result { &b"bytes"[..] } else { b"" }, "{what}");
        assert_eq!(shown.body.is_some(), with_result, "{what}");
    }
}

#[tokio::test]
async fn every_view_has_sizes_types_and_metadata_and_some_have_bytes() {
    let rig = Rig::simple().await;
    let metadata = entries([("Key.id/1", "a\r\nb"), ("encoding", "")]);
    let given = v1::Payload { metadata, ..v1::Payload::of("bytes").with_type("image/png") };
    let of = async |request: v1::WatchStatusRequest, view: JobView| {
        rig.watch(v1::WatchStatusRequest { view: view as i32, ..request }).await
    };
    let everything =
        || v1::WatchStatusRequest { filter: Some(v1::JobFilter::default()), ..Default::default() };
    for (view, with_payload, with_result) in [
        (JobView::Unspecified, false, false),
        (JobView::Basic, false, false),
        (JobView::Result, false, true),
        (JobView::Full, true, true),
    ] {
        let what = view.as_str_name();
        let mut by_filter = of(everything(), view).await;
        by_filter.synced().await;
        let id = rig.submit(with(given.clone())).await.id;
        let mut told = by_filter.until(JobState::Succeeded).await;
        assert_eq!(told.id, id);
        assert_shown(&told, &format!("{what} of an update"), with_payload, with_result);
        let by_ids = v1::WatchStatusRequest { ids: vec![id.clone()], ..Default::default() };
        for request in [by_ids, everything()] {
            told = of(request, view).await.synced().await.pop().expect("a snapshot");
            assert_shown(&told, &format!("{what} of a snapshot"), with_payload, with_result);
        }
        let listed = list(&rig, v1::JobFilter::default(), view).await;
        assert_shown(&listed[0], &format!("{what} of a list"), with_payload, with_result);
        let found = rig.look(&id, view).await.unwrap();
        let full = view == JobView::Unspecified;
        assert_shown(&found, &format!("{what} of a job"), with_payload || full, with_result || full);
    }
    rig.stop().await;
}

#[tokio::test]
async fn answers_of_cancel_and_retry_have_sizes_and_no_bytes() {
    let rig = shelf().await;
    let id = rig.submit(with(v1::Payload::of("bytes"))).await.id;
    for answer in [rig.cancel(&id).await.unwrap(), rig.retry(&id).await.unwrap()] {
        assert_eq!(spec(&answer).payload, Some(v1::Payload { size_bytes: 5, ..v1::Payload::default() }));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_size_in_a_request_is_ignored() {
    let rig = shelf().await;
    let of_size = |size_bytes| with(v1::Payload { size_bytes, ..v1::Payload::of("bytes") });
    let first = submit(&rig, named("sized", of_size(99))).await.unwrap();
    assert_eq!(spec(&rig.get(first.id()).await).payload.as_ref().unwrap().size_bytes, 5);
    let again = submit(&rig, named("sized", of_size(-1))).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
    rig.stop().await;
}

#[tokio::test]
async fn bytes_that_are_sent_as_text_of_the_same_type_are_the_same_job() {
    let rig = shelf().await;
    let typed = v1::Payload::of("text").with_type(TEXT_TYPE);
    let first = submit(&rig, named("text", with(typed))).await.unwrap();
    let again = submit(&rig, named("text", with(v1::Payload::of_text("text")))).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
    let metadata = entries([("key", "1")]);
    for other in [
        v1::Payload::of("text"),
        v1::Payload::of_text("text").with_type("text/html"),
        v1::Payload { metadata, ..v1::Payload::of_text("text") },
    ] {
        let refused = submit(&rig, named("text", with(other.clone()))).await.expect_err("another job");
        assert_eq!(crate::support::refusal(&refused).reason, "REQUEST_ID_REUSED", "{other:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn of_bytes_and_text_in_one_message_the_last_one_holds() {
    let rig = shelf().await;
    let (bytes, text) = (v1::Payload::of("bytes"), v1::Payload::of_text("some text"));
    for (first, last, size, media_type) in [(&bytes, &text, 9, TEXT_TYPE), (&text, &bytes, 5, "")] {
        // A message in two parts is one message with the fields of both.
        let payload = [first.encode_to_vec(), last.encode_to_vec()].concat();
        let both = v1::Payload::decode(&payload[..]).unwrap();
        assert_eq!(both.body, last.body, "the encoding that this relies on");
        let mut spec_with = job("echo").encode_to_vec();
        prost::encoding::bytes::encode(3, &payload, &mut spec_with);
        let mut request = Vec::new();
        prost::encoding::bytes::encode(1, &spec_with, &mut request);
        let status = call(&rig, SUBMIT, None, framed(false, &request)).await;
        assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
        let newest = list(&rig, v1::JobFilter::default(), JobView::Full).await.remove(0);
        let kept = spec(&newest).payload.as_ref().unwrap();
        assert_eq!((kept.size_bytes, kept.media_type.as_str()), (size, media_type));
    }
    rig.stop().await;
}

#[tokio::test]
async fn payloads_have_caps() {
    let rig = shelf().await;
    const MIB: usize = 1 << 20;
    for (what, given, field) in [
        ("text over 1 MiB", v1::Payload::of_text("é".repeat(MIB / 2 + 1)), "job.payload"),
        ("a type of 129", v1::Payload::of_text("").with_type("t".repeat(129)), "job.payload.media_type"),
        ("a type with a line end", v1::Payload::of("").with_type("a\r\nb"), "job.payload.media_type"),
        ("a type that is not ASCII", v1::Payload::of("").with_type("é"), "job.payload.media_type"),
    ] {
        assert_eq!(faults(&rig, with(given)).await, [field], "{what}");
    }
    assert_eq!(rig.total().await, 0);
    let large = v1::Payload::of_text("é".repeat(MIB / 2)).with_type("t".repeat(128));
    assert_eq!(kept(&rig, large).await.unwrap().size_bytes, MIB as i32);
    rig.stop().await;
}

#[tokio::test]
async fn metadata_has_caps() {
    let rig = shelf().await;
    let many = |count: usize, value: usize| -> std::collections::BTreeMap<_, _> {
        (0..count).map(|n| (format!("{n:02}"), "v".repeat(value))).collect()
    };
    let long = "k".repeat(64);
    for (what, metadata) in [
        ("17 entries", many(17, 1)),
        ("more than 4 KiB together", many(16, 255)),
        ("a value of 4 KiB", many(1, 4 << 10)),
        ("no key", entries([("", "v")])),
        ("a long key", entries([(long.as_str(), "v")])),
        ("a key with a space", entries([("a b", "v")])),
        ("a key with a colon", entries([("a:b", "v")])),
        ("a key with a line end", entries([("a\r\nb", "v")])),
        ("a key that is not ASCII", entries([("é", "v")])),
    ] {
        let fields = faults(&rig, with_metadata(metadata)).await;
        assert_eq!(fields, ["job.payload.metadata"], "{what}");
    }
    assert_eq!(rig.total().await, 0);
    let longest = "k".repeat(63);
    for (what, metadata) in [
        ("16 entries of 4 KiB together", many(16, 254)),
        ("the longest key", entries([(longest.as_str(), "")])),
        ("all that keys are made of", entries([("aZ09-_./", "any text: é\r\n\u{1b}")])),
    ] {
        let id = rig.submit(with_metadata(metadata.clone())).await.id;
        assert_eq!(spec(&rig.get(&id).await).payload.as_ref().unwrap().metadata, metadata, "{what}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn items_of_batches_and_streams_tell_the_same_paths() {
    let rig = shelf().await;
    let bad = || with_metadata(entries([("", "")]));
    let batch = v1::SubmitBatchRequest { jobs: vec![job("echo"), bad()], ..Default::default() };
    let refused = crate::support::soon(rig.jobs.clone().submit_batch(batch)).await.unwrap_err();
    assert_eq!(crate::support::refusal(&refused).fields, ["jobs[1].payload.metadata"]);
    let request = v1::SubmitAndWatchRequest { job: Some(bad()), ..Default::default() };
    let refused = crate::support::soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap_err();
    assert_eq!(crate::support::refusal(&refused).fields, ["job.payload.metadata"]);
    assert_eq!(faults(&rig, bad()).await, ["job.payload.metadata"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_of_a_job_without_a_view_has_no_bytes_before_its_end_either() {
    let rig = Rig::simple().await;
    rig.pause(QUEUE).await;
    let id = submit(&rig, submission(with(v1::Payload::of("bytes")))).await.unwrap().id().to_owned();
    let mut watcher = rig.watch_ids(&[&id]).await;
    assert_eq!(payload(&watcher.synced().await[0]), b"");
    rig.resume(QUEUE).await;
    for event in watcher.rest().await.unwrap() {
        let Event::Updated(v1::JobUpdated { job: Some(job), .. }) = event else { panic!("no update") };
        assert_eq!((payload(&job), result(&job)), (&b""[..], &b""[..]));
        assert_eq!(spec(&job).payload.as_ref().unwrap().size_bytes, 5);
    }
    rig.stop().await;
}
