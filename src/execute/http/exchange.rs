//! One request and its response, over HTTP/1.1 or HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{http1::Http1, http2::Stream, request::Request};

/// A connection, or a stream of one, that carries one request at a time. Dropping it before the response is complete
/// aborts the request.
pub(super) enum Exchange {
    Http1(Http1),
    Http2(Stream),
}

/// The error that ended an exchange.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(
        "the connection has died: nothing was received for {}, not even the answer to a ping",
        humantime::format_duration(*silence)
    )]
    Died { silence: Duration },
}

/// The failure of a request that got no response.
pub(super) struct Unanswered {
    pub(super) error: ExchangeError,
    pub(super) fate: Fate,
}

/// Whether a request without a response may have been processed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The request may have been processed, in part or whole.
    Unknown,
    /// The request was certainly not processed: its connection accepted no more requests.
    Unsent,
    /// The request was certainly not processed: the endpoint refused it.
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

/// The body of a response.
pub(super) enum Body {
    Http1(Incoming),
    Http2(RecvStream),
}

impl Body {
    /// Returns the next chunk; `None` at the end. Trailers are skipped.
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, ExchangeError>> {
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
                    // The caller copies the chunk at once, so the endpoint may send as many bytes again.
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Some(data.map_err(ExchangeError::from))
            }
        }
    }
}
