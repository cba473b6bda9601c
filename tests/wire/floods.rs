//! Clients that violate HTTP/2, or abuse it within its rules: each is cut off or costs next to nothing, while others
//! are served.

use std::time::Duration;

use jobmill::settings::LimitSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, call_headers,
        frame, header,
    },
    support::{Rig, job, soon},
};

/// Returns the stream ids of a client.
fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|n| 2 * n + 1)
}

/// The server's reaction to a flood.
struct FloodResult {
    /// Whether the connection was closed before the flood's end.
    cut_off: bool,
    /// Whether a GOAWAY gave the reason.
    goaway: bool,
}

/// Sends frames while another client is served.
async fn flood(rig: &Rig, frames: impl Iterator<Item = Vec<u8>>) -> FloodResult {
    let stream = soon(TcpStream::connect(rig.address())).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = async move {
        let mut cut_off = write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.is_err();
        for frame in frames {
            cut_off = cut_off || write.write_all(&frame).await.is_err();
            if cut_off {
                break;
            }
        }
        // The reading half continues until the server has received everything.
        let _ = write.shutdown().await;
        cut_off
    };
    let reading = async move {
        let mut goaway = false;
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return goaway;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            if read.read_exact(&mut vec![0; length as usize]).await.is_err() {
                return goaway;
            }
            goaway |= head[3] == GOAWAY;
        }
    };
    let others = async {
        for _ in 0..20 {
            rig.submit(job("echo")).await;
        }
    };
    let (cut_off, goaway, ()) = soon(async { tokio::join!(sending, reading, others) }).await;
    FloodResult { cut_off, goaway }
}

#[tokio::test]
async fn calls_that_are_reset_at_once_end_the_connection() {
    let rig = Rig::simple().await;
    let frames = streams().take(100_000).map(|stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &call_headers()),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    });
    let met = flood(&rig, frames).await;
    assert!(met.cut_off || met.goaway);
    assert_eq!(rig.total().await, 20);
    rig.stop().await;
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let rig = Rig::simple().await;
    for (what, more) in [
        ("long", header("x", &"v".repeat(100)).repeat(100)),
        ("short", header("x", "v")),
        ("empty", Vec::new()),
    ] {
        let first = std::iter::once(frame(HEADERS, 0, 1, &call_headers()));
        let frames = first.chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &more)));
        let met = flood(&rig, frames).await;
        assert!(met.cut_off || met.goaway, "{what}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn twenty_five_thousand_headers_are_refused() {
    let rig = Rig::simple().await;
    let before = rig.total().await;
    let many = header("x", "v").repeat(25_000);
    let mut chunks = many.chunks(16_000).peekable();
    let mut frames = vec![frame(HEADERS, 0, 1, &call_headers())];
    while let Some(chunk) = chunks.next() {
        frames.push(frame(CONTINUATION, if chunks.peek().is_none() { END_HEADERS } else { 0 }, 1, chunk));
    }
    flood(&rig, frames.into_iter()).await;
    assert_eq!(rig.total().await, before + 20, "only the others' jobs are there");
    rig.stop().await;
}

#[tokio::test]
async fn a_message_byte_by_byte_takes_nothing_from_others() {
    let rig = Rig::simple().await;
    let first = frame(HEADERS, END_HEADERS, 1, &call_headers());
    // A message of 4 MB that never ends.
    let head = frame(DATA, 0, 1, &[0, 0, 0x3d, 0x09, 0]);
    for (payload, count) in [(&b"x"[..], 60_000), (&b""[..], 100_000)] {
        let frames = [first.clone(), head.clone()].into_iter();
        flood(&rig, frames.chain((0..count).map(|_| frame(DATA, 0, 1, payload)))).await;
    }
    assert_eq!(rig.total().await, 40);
    rig.stop().await;
}

#[tokio::test]
async fn pings_and_settings_without_end_take_nothing_from_others() {
    let rig = Rig::simple().await;
    for flooded in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        flood(&rig, (0..50_000).map(|_| flooded.clone())).await;
    }
    assert_eq!(rig.total().await, 40);
    rig.stop().await;
}

#[tokio::test]
async fn a_peer_that_stops_to_answer_is_cut() {
    let mut settings = crate::support::memory();
    settings.limits = LimitSettings {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..LimitSettings::default()
    };
    let rig = Rig::start(crate::support::simple(settings)).await;
    let mut peer = soon(TcpStream::connect(rig.address())).await.unwrap();
    // The same with a call under way.
    let call = frame(HEADERS, END_HEADERS, 1, &call_headers());
    peer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &call].concat()).await.unwrap();
    let _ = soon(peer.read_to_end(&mut Vec::new())).await;
    rig.submit(job("echo")).await;
    rig.stop().await;
}
