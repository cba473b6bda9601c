//! The requests that are sent to an endpoint.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use sha2::Sha256;

use super::metadata_headers;
use crate::{
    clock::Clock,
    execute::{Attempt, HandlerError, OpenCallback},
    job::FailureReason,
    settings::{HttpUrl, SigningSecret},
};

const JOB_ID: HeaderName = HeaderName::from_static("jobmill-job-id");
const QUEUE: HeaderName = HeaderName::from_static("jobmill-queue");
const KIND: HeaderName = HeaderName::from_static("jobmill-kind");
const ATTEMPT: HeaderName = HeaderName::from_static("jobmill-attempt");
const MAX_ATTEMPTS: HeaderName = HeaderName::from_static("jobmill-max-attempts");
const LEASE: HeaderName = HeaderName::from_static("jobmill-lease");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CHECKPOINT_URL: HeaderName = HeaderName::from_static("jobmill-checkpoint-url");
const CHECKPOINT_SECRET: HeaderName = HeaderName::from_static("jobmill-checkpoint-secret");
const EARLIER_CHECKPOINT: HeaderName = HeaderName::from_static("jobmill-earlier-checkpoint");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Builder of the requests of a kind.
pub(super) struct Requests {
    uri: Uri,
    /// Headers of all requests of the kind.
    headers: HeaderMap,
    secrets: Vec<SigningSecret>,
    clock: Clock,
}

/// The request of one attempt.
pub(super) struct Request {
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Requests {
    pub(super) fn new(
        url: &HttpUrl,
        mut headers: HeaderMap,
        secrets: Vec<SigningSecret>,
        clock: Clock,
    ) -> Self {
        let agent = concat!("jobmill/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        // A result is stored as received, so it must not be compressed.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Requests { uri: url.uri().clone(), headers, secrets, clock }
    }

    /// Builds the request of an attempt, with the URL and the secret by which the endpoint may call back.
    pub(super) fn of_attempt(
        &self,
        attempt: &Attempt,
        callback: Option<&(&str, OpenCallback)>,
    ) -> Result<Request, HandlerError> {
        let job = attempt.job();
        let id = job.id.to_string();
        let payload = attempt.payload_info();
        let payload_type = match payload.media_type.as_str() {
            "" => "application/octet-stream",
            given => given,
        };
        let mut headers = self.headers.clone();
        let mut set = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
            Ok(value) => {
                headers.insert(name, value);
                Ok(())
            }
            Err(_) => {
                let message =
                    format!("the job's value for the header {name} has characters that no header can have");
                Err(HandlerError::new(FailureReason::StartFailed, message, false))
            }
        };
        // An empty body also gets a length: some servers require it.
        set(CONTENT_LENGTH, &attempt.payload().len().to_string())?;
        set(CONTENT_TYPE, payload_type)?;
        set(JOB_ID, &id)?;
        set(QUEUE, job.spec.queue.as_str())?;
        set(KIND, job.spec.kind.as_str())?;
        set(ATTEMPT, &attempt.number().to_string())?;
        set(MAX_ATTEMPTS, &job.max_attempts.to_string())?;
        set(LEASE, &attempt.lease().as_i64().to_string())?;
        set(IDEMPOTENCY_KEY, &id)?;
        if let Some((url, open)) = callback {
            set(CHECKPOINT_URL, url)?;
            set(CHECKPOINT_SECRET, open.secret())?;
            if let Some(earlier) = attempt.earlier_checkpoint() {
                set(EARLIER_CHECKPOINT, &earlier.bytes.len().to_string())?;
            }
        }
        if let Some(traceparent) = attempt.traceparent() {
            set(TRACEPARENT, traceparent)?;
        }
        if let Some(tracestate) = attempt.tracestate() {
            set(TRACESTATE, tracestate)?;
        }
        if !self.secrets.is_empty() {
            let timestamp = (self.clock.now().as_micros() / 1_000_000).to_string();
            let signatures: Vec<_> =
                self.secrets.iter().map(|secret| sign(secret, &id, &timestamp, attempt.payload())).collect();
            set(WEBHOOK_ID, &id)?;
            set(WEBHOOK_TIMESTAMP, &timestamp)?;
            set(WEBHOOK_SIGNATURE, &signatures.join(" "))?;
        }
        metadata_headers::add(&mut headers, attempt)?;
        Ok(Request { uri: self.uri.clone(), headers, body: attempt.payload().clone() })
    }
}

/// Computes a Standard Webhooks signature, version 1: HMAC-SHA256 of `id.timestamp.body`.
fn sign(secret: &SigningSecret, id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new(secret.key().into());
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

impl Request {
    /// Builds the HTTP/1.1 request: the path in its first line, and the host in a header.
    pub(super) fn to_http1(&self) -> http::Request<Full<Bytes>> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = Full::new(self.body.clone());
        let mut request = self.to_http(path.parse().unwrap_or_default(), Version::HTTP_11, body);
        if let Some(host) = self.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    /// Builds the HTTP/2 request: a head with the whole URL, and the body apart.
    pub(super) fn to_http2(&self) -> (http::Request<()>, Bytes) {
        (self.to_http(self.uri.clone(), Version::HTTP_2, ()), self.body.clone())
    }

    fn to_http<B>(&self, uri: Uri, version: Version, body: B) -> http::Request<B> {
        let mut request = http::Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn a_signature_is_that_of_the_standard() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
