//! TLS with the operator's own authorities, and HTTP/2 over TLS.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jobmill::{
    proto::v1::FailureReason,
    settings::{Authorities, HttpSettings},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{net::TcpStream, sync::Barrier};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
    server::TlsStream,
};

use super::{Endpoint, EndpointConnection, call, failure, handler, outcome, settings};
use crate::support::soon;

/// An authority, and an endpoint with its certificate for `localhost`.
pub(super) struct Secure {
    pub(super) endpoint: Endpoint,
    authority_pem: String,
    acceptor: TlsAcceptor,
}

impl Secure {
    pub(super) async fn start(protocols: &[&str]) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Secure { endpoint: Endpoint::start().await, authority_pem, acceptor }
    }

    /// Returns settings to call the endpoint under `host`.
    pub(super) fn settings(&self, host: &str) -> HttpSettings {
        let url = format!("https://{host}:{}/jobs", self.endpoint.port());
        let authorities = Some(Authorities::from_pem(self.authority_pem.as_bytes()).unwrap());
        HttpSettings { authorities, ..settings(&url) }
    }

    pub(super) async fn accept(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let (stream, _) = soon(self.endpoint.listener.accept()).await?;
        // With Nagle's algorithm the kernel would hold data back for longer than the stopped clock waits.
        stream.set_nodelay(true)?;
        soon(self.acceptor.accept(stream)).await
    }
}

#[tokio::test]
async fn an_authority_of_the_operators_own_is_trusted() {
    for protocols in [&["http/1.1"][..], &[]] {
        let secure = Secure::start(protocols).await;
        let handler = handler(secure.settings("localhost"));
        let call = call(&handler, "secret");
        let mut line = EndpointConnection::new(secure.accept().await.unwrap());
        let request = line.request().await;
        assert_eq!(request.body, b"secret");
        assert_eq!(request.header("host"), format!("localhost:{}", secure.endpoint.port()));
        line.answer_with("200 OK", "", "done").await;
        assert_eq!(outcome(call).await.unwrap().bytes, "done");
    }
}

#[tokio::test]
async fn an_endpoint_with_an_untrusted_certificate_receives_nothing() {
    let secure = Secure::start(&["http/1.1"]).await;
    let other = Secure::start(&[]).await;
    let public = HttpSettings { authorities: None, ..secure.settings("localhost") };
    let stranger = HttpSettings { authorities: other.settings("localhost").authorities, ..public.clone() };
    let other_name = secure.settings("127.0.0.1");
    for settings in [public, stranger, other_name] {
        let call = call(&handler(settings), "secret");
        assert!(secure.accept().await.is_err(), "the handshake ends before anything is sent");
        let failure = failure(outcome(call).await);
        assert_eq!((failure.reason(), failure.retryable), (FailureReason::StartFailed, true));
        assert!(failure.message.starts_with("the TLS handshake with the host "), "{failure:?}");
    }
}

#[tokio::test]
async fn http2_carries_many_attempts_over_one_connection() {
    const ATTEMPTS: usize = 5;
    let secure = Secure::start(&["h2", "http/1.1"]).await;
    let handler = handler(secure.settings("localhost"));
    let calls: Vec<_> = (0..ATTEMPTS).map(|_| call(&handler, "x")).collect();
    // Requests are answered only once all of them have arrived.
    let all_here = Arc::new(Barrier::new(ATTEMPTS));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let all_here = Arc::clone(&all_here);
        async move {
            assert_eq!(request.uri().path(), "/jobs");
            assert!(request.headers().contains_key("jobmill-job-id"));
            let body = request.into_body().collect().await.unwrap().to_bytes();
            all_here.wait().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::new(body)))
        }
    });
    let stream = TokioIo::new(secure.accept().await.unwrap());
    let serving =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service);
    let serving = tokio::spawn(serving);
    for call in calls {
        assert_eq!(outcome(call).await.unwrap().bytes, "x");
    }
    assert!(!secure.endpoint.was_called(), "a second connection");
    drop(handler);
    let _ = soon(serving).await.unwrap();
}

#[tokio::test]
async fn an_answer_without_a_length_is_no_result_where_tls_was_not_closed_properly() {
    for (answer, expected) in [
        // Complete, because its length was announced.
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwhat", Some("what")),
        // Possibly truncated by an attacker.
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf", None),
    ] {
        let secure = Secure::start(&["http/1.1"]).await;
        let handler = handler(secure.settings("localhost"));
        let first = call(&handler, "x");
        let mut line = EndpointConnection::new(secure.accept().await.unwrap());
        line.request().await;
        line.answer(answer).await;
        // Closed without TLS's `close_notify`.
        drop(line);
        match (outcome(first).await, expected) {
            (Ok(output), Some(expected)) => assert_eq!(output.bytes, expected),
            (outcome, None) => {
                let failure = failure(outcome);
                assert!(failure.message.starts_with("the answer broke off after 4 bytes"), "{failure:?}");
            }
            (Err(error), Some(_)) => panic!("{error:?}"),
        }
        let second = call(&handler, "x");
        let mut line = EndpointConnection::new(secure.accept().await.unwrap());
        line.request().await;
        line.answer_with("200 OK", "", "").await;
        outcome(second).await.unwrap();
    }
}
