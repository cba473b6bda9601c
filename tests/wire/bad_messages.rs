//! Bytes that are no valid request: malformed, too large, nested too deeply, or for an unknown RPC. Each ends in an
//! error status, creates nothing, and leaves the server alive.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use jobmill::proto::v1;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status, body::Body, client::GrpcService, codegen::http};

use crate::support::{Rig, job, soon, submission};

pub(crate) const SUBMIT: &str = "/jobmill.v1.JobQueue/Submit";

/// Frames a message as gRPC does, with its five-byte header.
pub(crate) fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(u8::from(compressed));
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// Sends a body unchanged; returns the server's status.
pub(crate) async fn call(rig: &Rig, path: &str, encoding: Option<&str>, body: Bytes) -> Status {
    call_as(rig, "application/grpc", path, encoding, body).await
}

/// Sends a body under another content type; returns the server's status.
pub(crate) async fn call_as(
    rig: &Rig,
    content_type: &str,
    path: &str,
    encoding: Option<&str>,
    body: Bytes,
) -> Status {
    let mut request = http::Request::builder()
        .method("POST")
        .uri(format!("http://{}{path}", rig.address()))
        .header("te", "trailers")
        .header("content-type", content_type);
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(Body::new(Full::new(body))).unwrap();
    let mut channel = rig.channel.clone();
    let answered = async {
        std::future::poll_fn(|context| GrpcService::<Body>::poll_ready(&mut channel, context)).await.unwrap();
        let response = GrpcService::<Body>::call(&mut channel, request).await.unwrap();
        let (head, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return status;
        }
        let body = body.collect().await.unwrap();
        Status::from_header_map(body.trailers().expect("trailers")).expect("a status")
    };
    soon(answered).await
}

/// Returns `depth` nested groups in an unknown field.
fn nested(depth: usize) -> Vec<u8> {
    const FIELD: u32 = 1_000;
    let mut bytes = Vec::new();
    for _ in 0..depth {
        prost::encoding::encode_key(FIELD, prost::encoding::WireType::StartGroup, &mut bytes);
    }
    for _ in 0..depth {
        prost::encoding::encode_key(FIELD, prost::encoding::WireType::EndGroup, &mut bytes);
    }
    bytes
}

#[tokio::test]
async fn broken_messages_are_refused_and_create_nothing() {
    let rig = Rig::simple().await;
    let good = submission(job("echo")).encode_to_vec();
    let cut = &good[..good.len() - 1];
    // A job whose queue name is not UTF-8.
    let not_text = [0x0a, 4, 0x0a, 2, 0xff, 0xfe];
    let huge = v1::SubmitRequest {
        job: Some(v1::JobSpec { payload: Some(v1::Payload::of(vec![0; 4 << 20])), ..job("echo") }),
        ..Default::default()
    };
    let mut short = framed(false, &good).to_vec();
    short[4] += 1;
    let anything = |_: Code| true;
    let unimplemented = |code| code == Code::Unimplemented;
    let too_large = |code| matches!(code, Code::ResourceExhausted | Code::OutOfRange);
    type Row<'a> = (&'a str, &'a str, Option<&'a str>, Bytes, &'a dyn Fn(Code) -> bool);
    let rows: Vec<Row<'_>> = vec![
        ("no protobuf", SUBMIT, None, framed(false, b"\xff\xff\xff\xff\xff"), &anything),
        ("cut short", SUBMIT, None, framed(false, cut), &anything),
        ("text that is not UTF-8", SUBMIT, None, framed(false, &not_text), &anything),
        ("too deep", SUBMIT, None, framed(false, &nested(100_000)), &anything),
        ("a frame that is longer than its body", SUBMIT, None, Bytes::from(short), &anything),
        ("no frame", SUBMIT, None, Bytes::new(), &anything),
        (
            "two messages in a unary call",
            SUBMIT,
            None,
            [framed(false, cut), framed(false, cut)].concat().into(),
            &anything,
        ),
        ("over the limit", SUBMIT, None, framed(false, &huge.encode_to_vec()), &too_large),
        (
            "a length of 4 GiB",
            SUBMIT,
            None,
            Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
            &too_large,
        ),
        ("gzip", SUBMIT, Some("gzip"), framed(true, &[0x1f, 0x8b, 8, 0]), &unimplemented),
        ("another compression", SUBMIT, Some("br"), framed(true, &good), &unimplemented),
        ("compressed without a name", SUBMIT, None, framed(true, &good), &anything),
        ("an unknown method", "/jobmill.v1.JobQueue/Explode", None, framed(false, &good), &unimplemented),
        ("an unknown service", "/other.v1.JobQueue/Submit", None, framed(false, &good), &unimplemented),
    ];
    for (what, path, encoding, body, fits) in rows {
        let status = call(&rig, path, encoding, body).await;
        assert!(status.code() != Code::Ok && fits(status.code()), "{what}: {status:?}");
        assert!(status.message().len() + status.details().len() < 4096, "{what}: {status:?}");
        assert_eq!(rig.total().await, 0, "{what}");
    }
    // A valid request is accepted the same way: the rows were refused for their own faults.
    assert_eq!(call(&rig, SUBMIT, None, framed(false, &good)).await.code(), Code::Ok);
    assert_eq!(rig.total().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn what_is_not_http2_or_breaks_its_rules_is_cut_off() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let data_on_stream_0 = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff];
    let frame_over_the_limit = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let rig = Rig::simple().await;
    for (what, sent) in [
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("TLS", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].repeat(10)),
        ("noise", vec![0xa5; 4096]),
        ("data on stream 0", [PREFACE, &settings, &data_on_stream_0].concat()),
        ("a frame over the limit", [PREFACE, &settings, &frame_over_the_limit].concat()),
    ] {
        let mut peer = soon(tokio::net::TcpStream::connect(rig.address())).await.unwrap();
        // The server may close the connection before it has read all.
        let _ = soon(peer.write_all(&sent)).await;
        let mut answer = Vec::new();
        // An end or a reset both mean that the connection is closed.
        let _ = soon(peer.read_to_end(&mut answer)).await;
        assert_eq!(rig.total().await, 0, "{what}");
    }
    rig.submit(job("echo")).await;
    rig.stop().await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_others_are_served() {
    let rig = Rig::simple().await;
    let mut request = tonic::Request::new(submission(job("echo")));
    for n in 0..500 {
        let key: tonic::metadata::MetadataKey<_> = format!("x-{n}").parse().unwrap();
        request.metadata_mut().insert(key, "v".repeat(100).parse().unwrap());
    }
    soon(rig.jobs.clone().submit(request)).await.expect_err("refused");
    assert_eq!(rig.total().await, 0);
    rig.submit(job("echo")).await;
    rig.stop().await;
}
