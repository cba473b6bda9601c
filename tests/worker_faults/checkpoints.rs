//! Checkpoints of commands and endpoints under `jobmill work`.

use jobmill::proto::v1::{self, JobState};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    programs::{ServerProcess, WorkerProcess, connected, line_of},
    support::{job, result, soon},
};

/// Starts a server whose kind `count` remote workers run.
async fn server() -> ServerProcess {
    let text = "[workers]\nlease = '500ms'\nping_every = '200ms'\n[kinds.count]\nworker = true\n";
    ServerProcess::start(text).await
}

async fn submit(server: &ServerProcess) -> String {
    let retry = v1::RetryPolicy { initial_delay: Some(Default::default()), ..Default::default() };
    server.rig.submit(v1::JobSpec { retry_policy: Some(retry.into()), ..job("count") }).await.id
}

#[tokio::test]
async fn a_command_goes_on_elsewhere_from_what_it_committed_before_its_worker_was_killed() {
    let server = server().await;
    let folder = server.home.path();
    let script = r#"
        row=none
        [ -z "${JOBMILL_EARLIER_CHECKPOINT_FD:-}" ] || row=$(cat <&$JOBMILL_EARLIER_CHECKPOINT_FD)
        if [ "$row" = none ]; then
            echo commit row 3 >&$JOBMILL_CHECKPOINT_FD
            read -r answer <&$JOBMILL_CHECKPOINT_ANSWER_FD
            echo "$answer" > "$0/told"
            sleep 1000
        fi
        echo "from $row"
    "#;
    let configuration = folder.join("work.toml");
    let text =
        format!("[kinds.count]\ncommand = ['/bin/sh', '-c', '''{script}''', '{}']\n", folder.display());
    std::fs::write(&configuration, text).unwrap();
    let worker = |name: &str| WorkerProcess::start(&server.address(), &configuration, &["--instance", name]);
    let first = worker("first");
    connected(&server.rig, "first").await;
    let id = submit(&server).await;
    assert_eq!(line_of(folder.join("told")).await, "committed 1");
    first.signal(Signal::KILL);
    let _second = worker("second");
    let done = server.rig.reaches(&id, JobState::Succeeded).await;
    assert_eq!(String::from_utf8_lossy(result(&done)), "from row 3\n");
    let kept = done.checkpoint.unwrap();
    assert_eq!((kept.number, kept.size_bytes), (1, 5));
    server.no_faults().await;
}

/// Reads a request's head, and returns the values of these headers.
async fn headers(stream: &mut TcpStream, names: [&str; 2]) -> [String; 2] {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    names.map(|name| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {head}"))[name.len() + 2..].to_owned()
    })
}

/// Calls an attempt back, and returns the whole answer.
async fn call_back(method: &str, url: &str, secret: &str, state: &str) -> String {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    let length = state.len();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\n\
         content-length: {length}\r\n\r\n{state}"
    );
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn an_endpoint_calls_back_to_its_worker() {
    let server = server().await;
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The port is free again when the worker takes it.
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configuration = server.home.path().join("work.toml");
    let text = format!(
        "[kinds.count]\nurl = 'http://{}/'\nallow_private = true\ncallback_url = 'http://{metrics}'\n",
        endpoint.local_addr().unwrap()
    );
    std::fs::write(&configuration, text).unwrap();
    let arguments = ["--instance", "one", "--metrics-listen", &metrics.to_string()];
    let _worker = WorkerProcess::start(&server.address(), &configuration, &arguments);
    connected(&server.rig, "one").await;
    let id = submit(&server).await;
    let names = ["jobmill-checkpoint-url", "jobmill-checkpoint-secret"];

    let (mut stream, _) = soon(endpoint.accept()).await.unwrap();
    let [url, secret] = headers(&mut stream, names).await;
    let committed = call_back("PUT", &format!("{url}?commit=now"), &secret, "half").await;
    assert!(committed.starts_with("HTTP/1.1 200 ") && committed.ends_with("committed 1\n"), "{committed}");
    assert_eq!(server.rig.get(&id).await.checkpoint.unwrap().size_bytes, 4);
    let broken = "HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    soon(stream.write_all(broken.as_bytes())).await.unwrap();
    drop(stream);

    let (mut stream, _) = soon(endpoint.accept()).await.unwrap();
    let [url, again] = headers(&mut stream, names).await;
    assert!(call_back("GET", &url, &again, "").await.ends_with("\r\n\r\nhalf"));
    assert!(call_back("PUT", &url, &secret, "stale").await.starts_with("HTTP/1.1 401 "));
    let done = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    soon(stream.write_all(done.as_bytes())).await.unwrap();
    server.rig.reaches(&id, JobState::Succeeded).await;
    server.no_faults().await;
}

#[tokio::test]
async fn a_worker_whose_endpoints_can_not_call_back_does_not_start() {
    let server = server().await;
    let configuration = server.home.path().join("work.toml");
    let text = "[kinds.count]\nurl = 'https://example.org'\ncallback_url = 'http://127.0.0.1:9'\n";
    std::fs::write(&configuration, text).unwrap();
    let (code, said) = WorkerProcess::start(&server.address(), &configuration, &[]).ends().await;
    assert_eq!(code, Some(2), "{said}");
    for part in ["kind `count`", "`callback_url`", "--metrics-listen"] {
        assert!(said.contains(part), "{said}");
    }
}
