//! Calls to a third-party API: retried when the API asks for it, after the delay that it asks for, and under one
//! idempotency key, by which the API recognises a repeat.

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http1, header::RETRY_AFTER};
use hyper_util::rt::TokioIo;
use jobmill::{Attempt, HandlerError, JobRequest, KindDefaults, Output, Server, Settings, job::RetryPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn charge(api: SocketAddr, attempt: Attempt) -> Result<Output, HandlerError> {
    let stream = TcpStream::connect(api).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post("/charges")
        .header("host", api.to_string())
        .header("idempotency-key", attempt.id().to_string())
        .body(Full::new(attempt.payload().clone()))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    let (head, body) = answer?;
    let status = head.status;
    if status.is_success() {
        return Ok(Output::new(body).media_type("application/json"));
    }
    let error = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => HandlerError::retryable(status),
        refused if refused.is_client_error() => HandlerError::permanent(refused),
        _ => HandlerError::retryable(status),
    };
    let error = error.with_code(status.as_str());
    let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Err(match seconds {
        Some(seconds) => error.with_delay(Duration::from_secs(seconds)),
        None => error,
    })
}

/// Plays the API: answers 503 twice, then 200. Returns the requests that it received.
async fn stand_in(listener: TcpListener) -> std::io::Result<Vec<String>> {
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n";
    const PAID: &str = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n";
    let mut asked = Vec::new();
    for (head, body) in [(BUSY, ""), (BUSY, ""), (PAID, r#"{"paid":true}"#)] {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        while !request.ends_with(b"amount=42") && stream.read_buf(&mut request).await? > 0 {}
        asked.push(String::from_utf8_lossy(&request).into_owned());
        stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await?;
    }
    Ok(asked)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let api = listener.local_addr()?;
    let asked = tokio::spawn(stand_in(listener));
    // The policy's own delay is an hour. The API's `Retry-After` overrides it.
    let hour = Duration::from_secs(3600);
    let retry = RetryPolicy::DEFAULT.initial_delay(hour).max_delay(hour);
    let server = Server::builder(Settings::in_memory())
        .handler("payments.charge", KindDefaults::default().retry(retry), move |attempt| charge(api, attempt))
        .without_listener()
        .start()
        .await?;
    let submitted = server.handle().submit(JobRequest::new("payments.charge").payload("amount=42")).await?;
    let output = submitted.outcome().await?.into_result()?;
    assert_eq!(output.bytes, Bytes::from_static(br#"{"paid":true}"#));

    let attempts = server.handle().get(submitted.id()).await?.ok_or("the job is gone")?.attempts;
    for pair in attempts.windows(2) {
        let waited = pair[1].started.since(pair[0].ended.unwrap_or_default());
        println!("attempt {} failed; the next one came after {waited:?}", pair[0].number);
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(30));
    }
    let key = format!("idempotency-key: {}", submitted.id());
    assert!(attempts.len() == 3 && asked.await??.iter().all(|request| request.contains(&key)));
    println!("the third attempt was paid");
    server.stopper().drain();
    server.finished().await?;
    Ok(())
}
