//! Connections that are reset in the middle of a Submit. Whichever byte was the last, there is one job or none, and a
//! repeat with the same `request_id` leads to exactly one.

use std::collections::HashSet;

use jobmill::proto::v1::{self, SubmitOutcome};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, call_headers, frame},
    support::{QUEUE, Rig, job, memory, named, queue, simple, soon, with_queue},
};

/// Number of cuts in each direction, evenly spread, with the last bytes in addition.
const CUTS: usize = 60;

fn request(request_id: &str) -> v1::SubmitRequest {
    named(request_id, job("echo"))
}

/// Returns all bytes that a client sends for a Submit.
fn call(request_id: &str) -> Vec<u8> {
    let message = request(request_id).encode_to_vec();
    let data = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let headers = frame(HEADERS, END_HEADERS, 1, &call_headers());
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &headers, &frame(DATA, END_STREAM, 1, &data)].concat()
}

/// Connects, and returns once the server has accepted the connection.
async fn connect(rig: &Rig) -> TcpStream {
    let accepted = rig.connections().accepted_total();
    let stream = soon(TcpStream::connect(rig.address())).await.unwrap();
    stream.set_nodelay(true).unwrap();
    soon(async {
        while rig.connections().accepted_total() == accepted {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stream
}

/// Resets the connection; returns once the server has noticed and only the test's own connection is open.
async fn reset(rig: &Rig, stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
    soon(async {
        while rig.connections().open() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Reads a whole answer up to the trailers; returns its number of bytes.
async fn answer_len(stream: &mut TcpStream) -> usize {
    let mut len = 0;
    loop {
        let mut head = [0; 9];
        soon(stream.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        soon(stream.read_exact(&mut vec![0; length])).await.unwrap();
        len += head.len() + length;
        if head[3] == HEADERS && head[4] & END_STREAM != 0 {
            return len;
        }
    }
}

/// Repeats a request until its outcome is known; returns whether only the repeat created the job.
async fn repeated(rig: &Rig, request_id: &str, before: i64) -> bool {
    let cut = rig.total().await;
    assert!((before..=before + 1).contains(&cut), "{request_id}: {} jobs", cut - before);
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(soon(rig.jobs.clone().submit(request(request_id))).await.unwrap().into_inner());
    }
    let ids: HashSet<_> = answers.iter().map(v1::SubmitResponse::id).collect();
    assert_eq!((ids.len(), answers[1].outcome()), (1, SubmitOutcome::Repeated), "{request_id}");
    assert_eq!(rig.total().await, before + 1, "{request_id}");
    answers[0].outcome() == SubmitOutcome::Created
}

/// Returns evenly spread positions, with the first and the last ones.
fn places(len: usize) -> Vec<usize> {
    let mut places: Vec<_> = (0..=CUTS).map(|n| n * len / CUTS).chain(len.saturating_sub(10)..=len).collect();
    places.sort_unstable();
    places.dedup();
    places
}

async fn rig() -> Rig {
    Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await
}

#[tokio::test]
async fn a_request_that_is_cut_off_makes_one_job_or_none() {
    let rig = rig().await;
    let len = call("request 000").len();
    for (n, at) in places(len).into_iter().enumerate() {
        let request_id = format!("request {at:03}");
        let mut stream = connect(&rig).await;
        stream.write_all(&call(&request_id)[..at]).await.unwrap();
        reset(&rig, stream).await;
        let only_then = repeated(&rig, &request_id, n as i64).await;
        assert!(at == len || only_then, "{at} of {len} bytes are not a request");
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_of_one_job() {
    let rig = rig().await;
    let mut stream = connect(&rig).await;
    stream.write_all(&call("first")).await.unwrap();
    let len = answer_len(&mut stream).await;
    reset(&rig, stream).await;
    let mut made = 0;
    let places = places(len);
    for (n, at) in places.iter().enumerate() {
        let request_id = format!("answer {at:03}");
        let mut stream = connect(&rig).await;
        stream.write_all(&call(&request_id)).await.unwrap();
        soon(stream.read_exact(&mut vec![0; *at])).await.unwrap();
        reset(&rig, stream).await;
        made += usize::from(!repeated(&rig, &request_id, 1 + n as i64).await);
    }
    // A client that has seen all or nearly all of the answer has been told of a stored job.
    assert!(made >= 10, "{made} of {} were kept before they were cut off", places.len());
    rig.stop().await;
}
