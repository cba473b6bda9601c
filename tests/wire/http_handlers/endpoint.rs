//! An HTTP/1.1 endpoint that the test drives byte by byte.

use std::io;

use futures_util::FutureExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::soon;

/// A listener on loopback.
pub(crate) struct Endpoint {
    pub(crate) listener: TcpListener,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        Endpoint { listener: TcpListener::bind(("127.0.0.1", 0)).await.unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jobs?a=b", self.port())
    }

    pub(crate) async fn accept(&self) -> EndpointConnection<TcpStream> {
        EndpointConnection { stream: BufReader::new(soon(self.listener.accept()).await.unwrap().0) }
    }

    /// Returns whether a connection waits to be accepted.
    pub(crate) fn was_called(&self) -> bool {
        self.listener.accept().now_or_never().is_some()
    }
}

/// An accepted connection.
pub(crate) struct EndpointConnection<S> {
    stream: BufReader<S>,
}

/// A received request.
pub(crate) struct Received {
    pub(crate) first_line: String,
    /// The headers, their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice in {:?}", self.headers);
        first.map(|(_, value)| value.as_str())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> EndpointConnection<S> {
    pub(crate) fn new(stream: S) -> Self {
        EndpointConnection { stream: BufReader::new(stream) }
    }

    pub(crate) async fn request(&mut self) -> Received {
        let mut received = self.head().await;
        received.body.resize(received.header("content-length").parse().unwrap(), 0);
        soon(self.stream.read_exact(&mut received.body)).await.unwrap();
        received
    }

    /// Reads a request without its body.
    pub(crate) async fn head(&mut self) -> Received {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            soon(self.stream.read_line(&mut line)).await.unwrap();
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("{line:?} after {lines:?}"));
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let headers = lines[1..].iter().map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        });
        Received { first_line: lines[0].clone(), headers: headers.collect(), body: vec![] }
    }

    pub(crate) async fn answer(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// Sends an answer with a status, headers and a body of known length.
    pub(crate) async fn answer_with(&mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        self.answer(&format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")).await;
    }

    /// Sends a text again and again until the connection is closed.
    pub(crate) async fn chatter(&mut self, text: &str) {
        let chatter = async { while self.stream.write_all(text.as_bytes()).await.is_ok() {} };
        soon(chatter).await;
    }

    /// Closes the sending half.
    pub(crate) async fn end(&mut self) {
        soon(self.stream.shutdown()).await.unwrap();
    }

    /// Closes the connection, and returns once the client has noticed.
    pub(crate) async fn hang_up(&mut self) {
        self.end().await;
        self.closed().await;
    }

    /// Returns once the client has closed the connection.
    pub(crate) async fn closed(&mut self) {
        let read = soon(self.stream.read_u8()).await;
        let kind = read.expect_err("nothing more is said").kind();
        assert!(matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{kind}");
    }
}
