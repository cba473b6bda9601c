//! Pages in a browser: permitted host names, origins and protocols.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jobmill::settings::Settings;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::codegen::http::{HeaderMap, Request, StatusCode};

use crate::frames;
use crate::support::{Rig, job, memory, simple, soon, submission};

const PAGE: &str = "https://app.example";

/// The answer as a browser sees it.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// Returns the call's status, which gRPC-Web puts into the body where there is one.
    fn grpc_status(&self) -> String {
        if let Some(status) = self.headers.get("grpc-status") {
            return status.to_str().unwrap().to_owned();
        }
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let (_, rest) = text.split_once("grpc-status:").unwrap_or_else(|| panic!("{text:?}"));
        rest.lines().next().unwrap().trim().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends an HTTP/1 request as a page does.
async fn ask(address: SocketAddr, method: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    let stream = soon(TcpStream::connect(address)).await.unwrap();
    let (mut sender, connection) =
        soon(hyper::client::conn::http1::handshake(TokioIo::new(stream))).await.unwrap();
    let connection = tokio::spawn(connection);
    let message = submission(job("echo")).encode_to_vec();
    let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let mut request = Request::builder().method(method).uri("/jobmill.v1.JobQueue/Submit");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = soon(sender.send_request(request)).await.ok()?;
    let (head, body) = response.into_parts();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    connection.abort();
    Some(Answer { status: head.status, headers: head.headers, body })
}

/// Returns the first frame on a stream: its type and its payload.
async fn first_on(connection: &mut TcpStream, stream: u32) -> (u8, Vec<u8>) {
    let next = async {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, _, on @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            connection.read_exact(&mut payload).await.unwrap();
            if u32::from_be_bytes(on) == stream {
                return (kind, payload);
            }
        }
    };
    soon(next).await
}

#[tokio::test]
async fn a_list_of_addresses_in_place_of_a_name_is_reset_and_calls_beside_it_are_served() {
    let rig = Rig::start(simple(memory())).await;
    let mut connection = soon(TcpStream::connect(rig.address())).await.unwrap();
    connection
        .write_all(&[frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    // The authority that clients on gRPC's C core send for `ipv4:127.0.0.1:1,127.0.0.1:2`.
    for (stream, authority, answer) in [
        (1, "127.0.0.1:1,127.0.0.1:2", (frames::RST_STREAM, Some(PROTOCOL_ERROR))),
        (3, "localhost", (frames::HEADERS, None)),
    ] {
        let headers = [
            frames::header(":method", "POST"),
            frames::header(":scheme", "http"),
            frames::header(":path", "/jobmill.v1.QueueService/ListQueues"),
            frames::header(":authority", authority),
            frames::header("content-type", "application/grpc"),
            frames::header("te", "trailers"),
        ];
        let flags = frames::END_HEADERS | frames::END_STREAM;
        let call = frames::frame(frames::HEADERS, flags, stream, &headers.concat());
        connection.write_all(&call).await.unwrap();
        let (kind, payload) = first_on(&mut connection, stream).await;
        assert_eq!(kind, answer.0, "{authority}");
        assert!(answer.1.is_none_or(|code: u32| payload == code.to_be_bytes()), "{payload:?}");
    }
    rig.stop().await;
}

const PROTOCOL_ERROR: u32 = 1;

const WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");
const ORIGIN: (&str, &str) = ("origin", PAGE);
const HOST: (&str, &str) = ("host", "localhost");

fn with_page(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = memory();
    settings.web_origins = vec![PAGE.to_owned()];
    change(&mut settings);
    settings
}

#[tokio::test]
async fn pages_may_not_call_until_they_are_named() {
    let rig = Rig::simple().await;
    let answer = ask(rig.address(), "POST", &[WEB, ORIGIN, HOST]).await;
    assert!(answer.is_none_or(|answer| answer.status != StatusCode::OK), "HTTP/1 is not even spoken");
    // The same over HTTP/2.
    let mut request = tonic::Request::new(submission(job("echo")));
    request.metadata_mut().insert("origin", PAGE.parse().unwrap());
    let status = soon(rig.jobs.clone().submit(request)).await.unwrap_err();
    assert_eq!(crate::support::refusal(&status).reason, "ORIGIN_NOT_ALLOWED");
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn named_pages_may_call_and_others_may_not() {
    let rig = Rig::start(simple(with_page(|_| {}))).await;
    let asked = ("access-control-request-method", "POST");
    let wanted = ("access-control-request-headers", "x-grpc-web");
    let before = ask(rig.address(), "OPTIONS", &[ORIGIN, HOST, asked, wanted]).await.unwrap();
    assert_eq!((before.status, before.header("access-control-allow-origin")), (StatusCode::OK, PAGE));
    let answer = ask(rig.address(), "POST", &[WEB, ORIGIN, HOST]).await.unwrap();
    assert_eq!((answer.status, answer.grpc_status().as_str()), (StatusCode::OK, "0"));
    assert_eq!(answer.header("access-control-allow-origin"), PAGE);
    assert!(answer.header("access-control-expose-headers").contains("grpc-status"));
    assert_eq!(rig.total().await, 1);

    let foreign = ("origin", "https://evil.example");
    let before = ask(rig.address(), "OPTIONS", &[foreign, HOST, asked]).await.unwrap();
    assert_eq!(before.header("access-control-allow-origin"), "");
    let answer = ask(rig.address(), "POST", &[WEB, foreign, HOST]).await.unwrap();
    assert_eq!((answer.grpc_status().as_str(), answer.header("access-control-allow-origin")), ("7", ""));
    // Other clients can still use gRPC.
    rig.submit(job("echo")).await;
    assert_eq!(rig.total().await, 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_server_on_this_machine_is_called_by_its_own_names_only() {
    let rig =
        Rig::start(simple(with_page(|settings| settings.hosts = vec!["jobs.internal".to_owned()]))).await;
    for (host, allowed) in [
        ("localhost", true),
        ("LOCALHOST:7733", true),
        ("127.0.0.1:7733", true),
        ("127.9.9.9", true),
        ("[::1]:7733", true),
        ("jobs.internal:7733", true),
        ("Jobs.Internal", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("192.0.2.1", false),
        ("", false),
    ] {
        let answer = ask(rig.address(), "POST", &[WEB, ORIGIN, ("host", host)]).await.unwrap();
        assert_eq!(answer.grpc_status(), if allowed { "0" } else { "7" }, "{host:?}");
    }
    assert_eq!(rig.total().await, 7);
    // In HTTP/2 the name is in `:authority`.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", rig.address())).unwrap();
    let channel = endpoint.origin("http://evil.example".parse().unwrap()).connect_lazy();
    let mut jobs = jobmill::proto::v1::job_queue_client::JobQueueClient::new(channel);
    let status = soon(jobs.submit(submission(job("echo")))).await.unwrap_err();
    assert_eq!(crate::support::refusal(&status).reason, "HOST_NOT_ALLOWED");
    assert_eq!(rig.total().await, 7);
    rig.stop().await;
}
