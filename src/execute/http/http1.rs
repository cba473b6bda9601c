//! An HTTP/1.1 connection: one request at a time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use tokio_util::sync::DropGuard;

use super::{
    exchange::{Fate, Unanswered},
    request::Request,
    socket::SocketStats,
};

/// Margin before the endpoint's keep-alive timeout in which an idle connection is not used: a request could cross with
/// the endpoint's close.
const CLOSING_MARGIN: Duration = Duration::from_secs(1);

/// An open connection. Dropping it closes the connection and aborts its request.
pub(super) struct Http1 {
    sender: SendRequest<Full<Bytes>>,
    stats: Arc<SocketStats>,
    /// The keep-alive timeout that the endpoint announced for idle connections.
    kept: Option<Duration>,
    _open: DropGuard,
}

impl Http1 {
    pub(super) fn new(sender: SendRequest<Full<Bytes>>, stats: Arc<SocketStats>, open: DropGuard) -> Self {
        Http1 { sender, stats, kept: None, _open: open }
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<Response<Incoming>, Unanswered> {
        let sent_before = self.stats.sent_bytes();
        match self.sender.try_send_request(request.to_http1()).await {
            Ok(answer) => {
                self.kept = kept(answer.headers());
                Ok(answer)
            }
            Err(error) => {
                // Once a single byte is sent, the endpoint may have started to process the request, and a POST is not
                // idempotent. If hyper hands the request back, it was never started, and any bytes sent are TLS's
                // closing ones.
                let is_unsent = error.message().is_some() || self.stats.sent_bytes() == sent_before;
                let fate = if is_unsent { Fate::Unsent } else { Fate::Unknown };
                Err(Unanswered { error: error.into_error().into(), fate })
            }
        }
    }

    /// Waits until the connection can take another request; returns false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Whether the connection may be reused; `idle_max` is the longest idle time.
    pub(super) fn is_usable(&self, idle_max: Duration) -> bool {
        let kept = self.kept.map_or(Duration::MAX, |kept| kept.saturating_sub(CLOSING_MARGIN));
        !self.sender.is_closed() && self.stats.silence() < idle_max.min(kept) && self.stats.is_quiet()
    }

    pub(super) fn age(&self) -> Duration {
        self.stats.age()
    }
}

/// Parses `Keep-Alive: timeout=…`.
fn kept(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = text.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())?
    })?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_endpoint_may_say_how_long_it_keeps_an_idle_connection() {
        for (text, seconds) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100,Timeout = 60", Some(60)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout=", None),
            ("timeout=soon", None),
            ("timeout=-1", None),
            ("", None),
        ] {
            let headers =
                HeaderMap::from_iter([("keep-alive".parse().unwrap(), HeaderValue::from_static(text))]);
            assert_eq!(kept(&headers), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(kept(&HeaderMap::new()), None);
    }
}
