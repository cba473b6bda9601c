//! One request and its answer, over either version of HTTP.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{http1::Http1, http2::Stream, request::Request};

/// A connection, or a stream of one, that carries one request at a time. To drop it before it is done drops the
/// request, too.
pub(super) enum Exchange {
    Http1(Http1),
    Http2(Stream),
}

/// What broke an exchange.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(
        "the connection has died: for {} nothing came, not even the answer to a ping",
        humantime::format_duration(*silence)
    )]
    Died { silence: Duration },
}

/// Why a request has no answer.
pub(super) struct Unanswered {
    pub(super) error: Broken,
    pub(super) fate: Fate,
}

/// What a request without an answer may have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It may have been processed, in part or whole.
    Unknown,
    /// It was certainly not processed: its connection took no more requests.
    Unsent,
    /// It was certainly not processed: the endpoint has refused it.
    Refused,
}

impl Exchange {
    pub(super) async fn send(&mut self, request: &Request) -> Result<Response<Body>, Unanswered> {
        match self {
            Exchange::Http1(connection) => Ok(connection.send(request).await?.map(Body::Http1)),
            Exchange::Http2(stream) => Ok(stream.send(request).await?.map(Body::Http2)),
        }
    }
}

/// The body of an answer.
pub(super) enum Body {
    Http1(Incoming),
    Http2(RecvStream),
}

impl Body {
    /// The next piece; `None` at the end. Trailers are left out.
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, Broken>> {
        match self {
            Body::Http1(body) => loop {
                match body.frame().await?.map(http_body::Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_)) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            },
            Body::Http2(body) => {
                let data = body.data().await?;
                if let Ok(data) = &data {
                    // It is copied at once, and the endpoint may send as much again.
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Some(data.map_err(Broken::from))
            }
        }
    }
}
