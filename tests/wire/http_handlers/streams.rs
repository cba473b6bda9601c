//! An endpoint that speaks HTTP/2 frame by frame.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tls::Secure;
use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame},
    support::soon,
};

pub(super) const NO_ERROR: u32 = 0;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

const ACK: u8 = 1;
const WINDOW_UPDATE: u8 = 8;

/// An accepted connection.
pub(super) struct Frames {
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    /// Whether pings are answered when they arrive.
    pub(super) answers_pings: bool,
    /// Number of sent SETTINGS frames that the client has not acknowledged.
    unsettled: usize,
}

/// A received frame.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frames {
    /// Accepts the next connection.
    pub(super) async fn accept(secure: &Secure) -> Self {
        Frames::accept_with(secure, None).await
    }

    /// Accepts the next connection, with a limit of concurrent streams.
    pub(super) async fn accept_with(secure: &Secure, streams_max: Option<u32>) -> Self {
        let stream = secure.accept().await.unwrap();
        let mut frames = Frames { stream, answers_pings: true, unsettled: 0 };
        let mut preface = [0; PREFACE.len()];
        soon(frames.stream.read_exact(&mut preface)).await.unwrap();
        assert_eq!(preface, PREFACE);
        frames.settings(streams_max).await;
        frames
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        soon(self.stream.write_all(&frame(kind, flags, stream, payload))).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// Sends the limit of concurrent streams.
    pub(super) async fn settings(&mut self, streams_max: Option<u32>) {
        let streams_max = streams_max.map(|max| [&[0, 3], &max.to_be_bytes()[..]].concat());
        self.send(SETTINGS, 0, 0, &streams_max.unwrap_or_default()).await;
        self.unsettled += 1;
    }

    /// Returns once the client has processed everything that was sent, settings included. The client must send nothing
    /// else meanwhile.
    pub(super) async fn settled(&mut self) {
        self.send(PING, 0, 0, b"settled?").await;
        loop {
            let frame = self.next().await.expect("the answer to a ping");
            assert_eq!((frame.kind, frame.flags), (PING, ACK), "{frame:?}");
            if self.unsettled == 0 {
                return;
            }
            self.send(PING, 0, 0, b"settled?").await;
        }
    }

    /// Returns the next frame that matters to tests; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = soon(self.read()).await?;
            if !self.take(&frame).await {
                return Some(frame);
            }
        }
    }

    /// Handles a protocol frame; returns false if it is one that matters to tests.
    async fn take(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            SETTINGS if frame.flags == ACK => self.unsettled -= 1,
            SETTINGS => self.send(SETTINGS, ACK, 0, &[]).await,
            PING if frame.flags != ACK && self.answers_pings => self.pong(&frame.payload).await,
            WINDOW_UPDATE => {}
            _ => return false,
        }
        true
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the stream of the next request once it has arrived whole.
    pub(super) async fn request(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("a request");
            assert!(matches!(frame.kind, HEADERS | DATA), "{frame:?}");
            if frame.flags & END_STREAM != 0 {
                return frame.stream;
            }
        }
    }

    /// Returns once a ping has arrived, and leaves it unanswered.
    pub(super) async fn ping(&mut self) -> Vec<u8> {
        self.answers_pings = false;
        let frame = self.next().await.expect("a ping");
        assert_eq!(frame.kind, PING, "{frame:?}");
        frame.payload
    }

    pub(super) async fn pong(&mut self, payload: &[u8]) {
        self.send(PING, ACK, 0, payload).await;
    }

    /// Sends an answer with 200 and a body.
    pub(super) async fn answer(&mut self, stream: u32, body: &str) {
        self.status(stream, 200, 0).await;
        self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
    }

    /// Sends the status of an answer in HPACK.
    pub(super) async fn status(&mut self, stream: u32, status: u16, flags: u8) {
        let status = status.to_string();
        let head = [&[0x08, 3], status.as_bytes()].concat();
        self.send(HEADERS, END_HEADERS | flags, stream, &head).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(super) async fn go_away(&mut self, last_stream: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Returns once the client has closed the connection, whatever it sends before.
    pub(super) async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}
