//! Connections that break at any byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{assert_each_once, client, start, submit_many};

/// The direction of a connection whose bytes are counted up to the cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Requests,
    Responses,
}

/// A proxy to a server that cuts its first connections after a number of bytes in one direction.
struct Proxy {
    address: SocketAddr,
    breaks: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(server: SocketAddr, cut: Cut, bytes: usize, times: usize) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let breaks = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let broken = Arc::clone(&breaks);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut left = times;
            while let Ok((client, _)) = listener.accept().await {
                let (requests_max, responses_max) = match cut {
                    _ if left == 0 => (usize::MAX, usize::MAX),
                    Cut::Requests => (bytes, usize::MAX),
                    Cut::Responses => (usize::MAX, bytes),
                };
                left = left.saturating_sub(1);
                let broken = Arc::clone(&broken);
                connections.spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, requests_max) => {}
                        () = pass(from_server, to_client, responses_max) => {}
                    }
                    broken.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Proxy { address, breaks, _tasks: tasks }
    }
}

/// Copies up to `max` bytes.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, max: usize) {
    let (mut buffer, mut left) = (vec![0; 4 << 10], max);
    while left > 0 {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let passed = read.min(left);
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        left -= passed;
    }
}

async fn cut_and_count(cut: Cut, bytes: usize) {
    const ITEMS: usize = 400;
    const TIMES: usize = 3;
    let (server, direct) = start(&[("default", 100_000)]).await;
    let proxy = Proxy::start(server.local_addr().unwrap(), cut, bytes, TIMES).await;
    let through = client(proxy.address).await;
    let (given, results) = submit_many(&through, ITEMS).await;
    assert_each_once(&direct, &given, &results).await;
    assert!(proxy.breaks.load(Ordering::Relaxed) >= 1, "{cut:?} after {bytes} bytes broke nothing");
}

#[tokio::test]
async fn nothing_is_doubled_or_lost_when_requests_break_off() {
    for bytes in [0, 1, 24, 150, 400, 1_000, 4_000, 9_999, 20_000] {
        cut_and_count(Cut::Requests, bytes).await;
    }
}

#[tokio::test]
async fn nothing_is_doubled_or_lost_when_responses_break_off() {
    for bytes in [0, 1, 9, 60, 130, 200, 500, 2_000, 6_000] {
        cut_and_count(Cut::Responses, bytes).await;
    }
}
