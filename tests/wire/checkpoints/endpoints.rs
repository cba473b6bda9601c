//! Checkpoints of endpoints, by a call back with a secret of the attempt's own.

use std::{net::SocketAddr, time::Duration};

use jobmill::{
    proto::v1::{FailureReason, JobState},
    serve::{ServeError, Server},
    settings::{HandlerSettings, HttpSettings, KindDefaults, KindSettings, Settings, Targets},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{large, soon_again};
use crate::{
    http_handlers::{Endpoint, EndpointConnection, Received},
    support::{Rig, folder, job, memory, soon},
};

/// An answer to a call back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Sends bytes over a connection of their own, and returns the answer; absent if there is none.
async fn send(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    // The server may answer before it has read all, and close.
    let _ = soon(stream.write_all(request)).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: answer[end + 4..].to_vec() })
}

/// The way back of an attempt, as its endpoint knows it.
#[derive(Clone, Debug)]
struct Way {
    address: SocketAddr,
    path: String,
    secret: String,
}

impl Way {
    fn of(request: &Received, rig: &Rig) -> Self {
        let url = request.header("jobmill-checkpoint-url");
        assert_eq!(url, "http://127.0.0.1:7/base/checkpoint", "the URL of the settings");
        let secret = request.header("jobmill-checkpoint-secret").to_owned();
        Way { address: rig.metrics_address(), path: "/checkpoint".into(), secret }
    }

    async fn call(&self, method: &str, headers: &str, body: &[u8]) -> Answer {
        let Way { address, path, secret } = self;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        send(*address, &[head.as_bytes(), body].concat()).await.expect("an answer")
    }

    async fn put(&self, query: &str, state: &[u8]) -> (u16, String) {
        let way = Way { path: format!("{}{query}", self.path), ..self.clone() };
        let answer = way.call("PUT", "content-type: text/plain\r\n", state).await;
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    async fn get(&self) -> Answer {
        self.call("GET", "", b"").await
    }
}

fn settings(settings: Settings, endpoint: &Endpoint, defaults: KindDefaults) -> Settings {
    let targets = Targets { allow_private: true, ..Targets::default() };
    let callback_url = Some("http://127.0.0.1:7/base/".parse().unwrap());
    let http = HttpSettings { targets, callback_url, ..HttpSettings::new(endpoint.url().parse().unwrap()) };
    let mut settings = settings;
    let handler = HandlerSettings::Http(Box::new(http));
    settings.kinds.insert("call".to_owned(), KindSettings { handler, defaults });
    settings.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    settings
}

async fn rig(endpoint: &Endpoint, defaults: KindDefaults) -> Rig {
    Rig::start(Server::builder(settings(memory(), endpoint, defaults))).await
}

async fn called(endpoint: &Endpoint, rig: &Rig) -> (EndpointConnection<TcpStream>, Received, Way) {
    let mut line = endpoint.accept().await;
    let request = line.request().await;
    let way = Way::of(&request, rig);
    (line, request, way)
}

#[tokio::test]
async fn an_endpoint_keeps_states_and_the_next_attempt_reads_the_last_one() {
    let endpoint = Endpoint::start().await;
    let rig = rig(&endpoint, soon_again()).await;
    let id = rig.submit(job("call")).await.id;
    let (mut line, request, way) = called(&endpoint, &rig).await;
    assert_eq!(request.find("jobmill-earlier-checkpoint"), None);
    assert_eq!(way.get().await.status, 204, "a first attempt has none");
    assert_eq!(way.put("", b"page 1").await, (202, "kept 1\n".into()));
    assert_eq!(way.put("?commit=now", b"page \0\xff").await, (200, "committed 2\n".into()));
    assert_eq!(rig.checkpoint(&id).await, Some((2, b"page \0\xff".to_vec())));
    assert_eq!(way.put("", b"page 3").await, (202, "kept 3\n".into()));
    assert_eq!(way.get().await.status, 204, "what this attempt keeps is for the next one");
    line.answer_with("500 Oops", "connection: close\r\n", "").await;

    let (mut line, request, again) = called(&endpoint, &rig).await;
    assert_eq!(request.header("jobmill-earlier-checkpoint"), "6");
    assert_ne!(again.secret, way.secret);
    let read = again.get().await;
    assert_eq!((read.status, &*read.body), (200, &b"page 3"[..]));
    assert!(read.head.contains("content-type: text/plain"), "{}", read.head);
    line.answer_with("200 OK", "connection: close\r\n", "done").await;
    rig.reaches(&id, JobState::Succeeded).await;
}

#[tokio::test]
async fn only_the_running_attempts_own_secret_is_known() {
    let endpoint = Endpoint::start().await;
    let rig = rig(&endpoint, soon_again()).await;
    let id = rig.submit(job("call")).await.id;
    let (mut line, _, way) = called(&endpoint, &rig).await;
    let address = way.address;
    let put = |authorization: String| {
        format!(
            "PUT /checkpoint HTTP/1.1\r\nhost: {address}\r\n{authorization}content-length: 5\r\n\r\nforge"
        )
    };
    let secret = way.secret.clone();
    let guess: String = secret.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    for forged in [
        String::new(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Bearer {guess}\r\n"),
        format!("authorization: Bearer {}\r\n", &secret[..63]),
        format!("authorization: Bearer {secret}0\r\n"),
        format!("authorization: Basic {secret}\r\n"),
        format!("authorization: {secret}\r\n"),
        format!("jobmill-checkpoint-secret: {secret}\r\n"),
    ] {
        let answer = send(address, put(forged.clone()).as_bytes()).await.unwrap();
        assert_eq!(answer.status, 401, "{forged}");
        assert!(answer.head.contains("www-authenticate: bearer"));
    }
    assert_eq!(rig.checkpoint(&id).await, None);
    assert_eq!(way.put("?commit=now", b"mine").await.0, 200);
    // Another attempt's secret is that of another job.
    let other = rig.submit(job("call")).await.id;
    let (_other_line, _, other_way) = called(&endpoint, &rig).await;
    assert_eq!(other_way.put("?commit=now", b"other").await.0, 200);
    assert_eq!(rig.checkpoint(&id).await.unwrap().1, b"mine");
    assert_eq!(rig.checkpoint(&other).await.unwrap().1, b"other");
    // The end of the attempt is the end of its secret.
    line.answer_with("500 Oops", "connection: close\r\n", "").await;
    let (mut line, _, again) = called(&endpoint, &rig).await;
    assert_eq!(way.put("?commit=now", b"stale").await.0, 401);
    assert_eq!(way.get().await.status, 401);
    assert_eq!(again.get().await.body, b"mine");
    line.answer_with("200 OK", "connection: close\r\n", "").await;
    rig.reaches(&id, JobState::Succeeded).await;
    assert_eq!(again.put("", b"late").await.0, 401);
}

#[tokio::test]
async fn a_state_over_the_limit_is_refused_before_it_is_read() {
    let endpoint = Endpoint::start().await;
    let rig = rig(&endpoint, soon_again()).await;
    let id = rig.submit(job("call")).await.id;
    let (_line, _, way) = called(&endpoint, &rig).await;
    assert_eq!(way.put("?commit=now", &large(256 << 10)).await, (200, "committed 1\n".into()));
    let (address, secret) = (way.address, &way.secret);
    let head = |more: &str| {
        format!(
            "PUT /checkpoint HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\n{more}\r\n\r\n"
        )
    };
    for told in [(256_u64 << 10) + 1, 1 << 40] {
        let answer = send(address, head(&format!("content-length: {told}")).as_bytes()).await.unwrap();
        assert_eq!(answer.status, 413);
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.contains("262144") && body.contains("store it elsewhere"), "{body}");
    }
    // A length that is not told is counted.
    let chunks =
        [head("transfer-encoding: chunked").into_bytes(), b"50000\r\n".to_vec(), large(0x50000)].concat();
    assert!(send(address, &chunks).await.is_none_or(|answer| answer.status == 413));
    // A state that breaks off is none.
    let cut = [head("content-length: 100").into_bytes(), b"half".to_vec()].concat();
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    soon(stream.write_all(&cut)).await.unwrap();
    drop(stream);
    assert_eq!(way.put("?commit=now", b"small").await, (200, "committed 2\n".into()));
    assert_eq!(rig.checkpoint(&id).await, Some((2, b"small".to_vec())));
}

#[tokio::test]
async fn wrong_calls_say_what_is_right_and_change_nothing() {
    let endpoint = Endpoint::start().await;
    let rig = rig(&endpoint, soon_again()).await;
    let id = rig.submit(job("call")).await.id;
    let (_line, _, way) = called(&endpoint, &rig).await;
    assert_eq!(way.call("POST", "", b"x").await.status, 405);
    assert_eq!(way.call("DELETE", "", b"").await.status, 405);
    assert_eq!(way.put("?commit=later", b"x").await.0, 400);
    assert_eq!(way.put("/1", b"x").await.0, 405, "no other path takes anything");
    let elsewhere = format!(
        "PUT /checkpoint HTTP/1.1\r\nhost: example.org\r\nauthorization: Bearer {}\r\ncontent-length: 1\r\n\r\nx",
        way.secret
    );
    assert_eq!(send(way.address, elsewhere.as_bytes()).await.unwrap().status, 421);
    assert_eq!(rig.checkpoint(&id).await, None);
}

#[tokio::test]
async fn a_flood_is_bounded_and_its_last_state_counts() {
    let counts = std::sync::Arc::<crate::counted_store::Counts>::default();
    let endpoint = Endpoint::start().await;
    let server = Server::builder(settings(memory(), &endpoint, soon_again())).around_store(counts.around());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("call")).await.id;
    let (mut line, _, way) = called(&endpoint, &rig).await;
    counts.take();
    let began = jobmill::clock::Stopwatch::start();
    for _ in 0..300 {
        assert_eq!(way.put("", &large(1 << 10)).await.0, 202);
    }
    assert_eq!(way.put("", b"last").await, (202, "kept 301\n".into()));
    let half_seconds = began.elapsed().as_millis() as usize / 500;
    let written: usize = counts.take().iter().map(|batch| batch.checkpoints).sum();
    assert!(written <= half_seconds + 2, "{written} in {:?}", began.elapsed());
    line.answer_with("500 Oops", "connection: close\r\n", "").await;
    let (_line, _, again) = called(&endpoint, &rig).await;
    assert_eq!(again.get().await.body, b"last");
    assert_eq!(rig.checkpoint(&id).await.unwrap().0, 301);
}

#[tokio::test]
async fn it_is_kept_through_a_timeout() {
    let endpoint = Endpoint::start().await;
    let rig = rig(&endpoint, soon_again().attempt_timeout(Duration::from_millis(700))).await;
    let id = rig.submit(job("call")).await.id;
    let (_line, _, way) = called(&endpoint, &rig).await;
    assert_eq!(way.put("", b"half").await.0, 202);
    let (_again_line, _, again) = called(&endpoint, &rig).await;
    assert_eq!(again.get().await.body, b"half");
    assert_eq!(way.put("", b"of the attempt that timed out").await.0, 401);
    assert_eq!(rig.get(&id).await.last_failure.unwrap().reason(), FailureReason::Timeout);
}

#[tokio::test]
async fn it_is_kept_through_a_drain() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start().await;
    let start = || Rig::start(Server::builder(settings(folder(home.path()), &endpoint, soon_again())));
    let rig = start().await;
    let id = rig.submit(job("call")).await.id;
    let (_line, _, way) = called(&endpoint, &rig).await;
    assert_eq!(way.put("", b"at the drain").await.0, 202);
    rig.stop().await;
    let rig = start().await;
    let (mut line, _, again) = called(&endpoint, &rig).await;
    assert_eq!(again.get().await.body, b"at the drain");
    line.answer_with("200 OK", "connection: close\r\n", "").await;
    rig.reaches(&id, JobState::Succeeded).await;
    rig.stop().await;
}

#[tokio::test]
async fn without_a_callback_url_endpoints_get_no_secret() {
    let endpoint = Endpoint::start().await;
    let mut settings = settings(memory(), &endpoint, soon_again());
    let Some(HandlerSettings::Http(http)) = settings.kinds.get_mut("call").map(|kind| &mut kind.handler)
    else {
        panic!("an endpoint")
    };
    http.callback_url = None;
    let rig = Rig::start(Server::builder(settings)).await;
    rig.submit(job("call")).await;
    let request = endpoint.accept().await.request().await;
    assert!(!request.headers.iter().any(|(name, _)| name.starts_with("jobmill-checkpoint")));
}

#[tokio::test]
async fn a_callback_url_that_nothing_answers_is_refused_at_the_start() {
    let endpoint = Endpoint::start().await;
    let mut settings = settings(memory(), &endpoint, soon_again());
    settings.metrics_listen = None;
    let Err(refused) = soon(Server::builder(settings).start()).await else { panic!("it starts") };
    assert!(matches!(&refused, ServeError::NoCallbacks { kind } if kind == "call"));
    let text = refused.to_string();
    assert!(text.contains("`callback_url`") && text.contains("`listen` in [metrics]"), "{text}");
}
