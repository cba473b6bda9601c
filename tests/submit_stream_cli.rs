//! `jobmill submit --stream` as a program.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    net::SocketAddr,
    process::{Output, Stdio},
};

use jobmill::{
    serve::Server,
    settings::{QueueSettings, Settings, StoreSettings},
};
use tokio::{io::AsyncWriteExt, process::Command};

async fn server() -> Server {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let queue = QueueSettings { accept_unknown_kinds: true, ..QueueSettings::default() };
    settings.queues = [("default".to_owned(), queue)].into();
    Server::builder(settings).start().await.unwrap()
}

fn submit(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
    command
        .args(["submit", "--server", &server.local_addr().unwrap().to_string(), "--stream"])
        .args(arguments)
        .env_remove("JOBMILL_OUTPUT")
        .stdin(Stdio::null());
    command
}

async fn submit_file(server: &Server, lines: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.jsonl");
    fs::write(&path, lines).unwrap();
    submit(server, &[&[path.to_str().unwrap()], arguments].concat()).output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const MIXED: &str = r#"{"kind": "k", "requestId": "a"}
{"kind": "k",}

{"kind": "k", "priority": 101}
{"kind": "k", "payloadText": "last"}"#;

#[tokio::test]
async fn each_line_is_a_job_and_its_id_comes_out_in_its_place() {
    let server = server().await;
    let lines: String =
        (0..3_000).map(|n| format!("{{\"kind\": \"k\", \"requestId\": \"{n}\"}}\n")).collect();
    let output = submit_file(&server, &lines, &[]).await;
    assert_eq!(text(&output.stderr), "3000 accepted\n");
    assert_eq!(output.status.code(), Some(0));
    let ids: Vec<_> = text(&output.stdout).lines().collect();
    assert!(ids.len() == 3_000 && ids.is_sorted());
    // A second run of the same file gives the same jobs.
    assert_eq!(submit_file(&server, &lines, &[]).await.stdout, output.stdout);
}

#[tokio::test]
async fn lines_that_are_not_accepted_are_told_and_the_rest_goes_on() {
    let server = server().await;
    let output = submit_file(&server, MIXED, &[]).await;
    insta::assert_snapshot!(text(&output.stderr), @r"
    line 2, column 14: trailing comma
    line 4: job.priority: is 101; it must be from -100 to 100
    2 accepted, 2 refused
    ");
    assert_eq!(text(&output.stdout).lines().count(), 2);
    assert_eq!(output.status.code(), Some(5));
}

#[tokio::test]
async fn programs_get_an_object_for_each_line() {
    let server = server().await;
    let output = submit_file(&server, MIXED, &["--output", "json"]).await;
    let mut objects: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // An invalid line is reported when it is read, a valid one when it is answered.
    objects.sort_by_key(|object| object["line"].as_u64());
    let lines: Vec<_> = objects.iter().map(|object| object["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 4, 5]);
    let told = (&objects[0]["outcome"], &objects[0]["requestId"]);
    assert_eq!(told, (&"SUBMIT_OUTCOME_CREATED".into(), &"a".into()));
    assert_eq!(objects[1]["refused"]["reason"], "INVALID_LINE");
    assert_eq!(objects[1]["refused"]["column"], 14);
    assert_eq!(objects[2]["refused"]["code"], "INVALID_ARGUMENT");
    assert_eq!(objects[2]["refused"]["fieldViolations"][0]["field"], "job.priority");
    assert!(objects[3]["id"].is_string());
}

#[tokio::test]
async fn with_fail_fast_the_first_refusal_ends_it_even_if_more_input_could_come() {
    let server = server().await;
    for bad in ["{}", "no job"] {
        let mut child = submit(&server, &["-", "--fail-fast"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Stdin stays open: only the refusal can end the program.
        let mut input = child.stdin.take().unwrap();
        input.write_all(format!("{{\"kind\": \"k\"}}\n{bad}\n").as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(5), "{bad}");
        assert_eq!(text(&output.stdout).lines().count(), 1, "{bad}");
        assert!(text(&output.stderr).starts_with("line 2"), "{bad}");
    }
}

#[tokio::test]
async fn a_reader_of_ids_that_leaves_does_not_end_the_submission() {
    let server = server().await;
    let lines = "{\"kind\": \"k\"}\n".repeat(5_000);
    let mut child = submit(&server, &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(text(&output.stderr), "5000 accepted\n");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn what_can_not_be_read_is_told_before_anything_is_sent() {
    let server = server().await;
    let output = submit(&server, &["no/such/file"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: `no/such/file` can't be read: No such file or directory (os error 2)\n"
    );
}
