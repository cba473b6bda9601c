//! The commands of the program that change jobs and queues, wait, and query the server, and those for remote workers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
    sync::Arc,
};

use jobmill::{
    execute::{Attempt, HandlerError},
    job::Output as JobOutput,
    proto::v1::{LeaseJobsRequest, worker_service_client::WorkerServiceClient},
    serve::Server,
    settings::{KindDefaults, QueueSettings, Settings, StoreSettings},
};
use serde_json::Value;
use tokio::{process::Command, sync::Notify};

/// Starts a server with the kinds `echo`, `fail` and `gate`; jobs of `gate` wait for a notification.
async fn server() -> (Server, Arc<Notify>) {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let queue = QueueSettings { accept_unknown_kinds: true, ..QueueSettings::default() };
    settings.queues = [("default".to_owned(), queue)].into();
    let gate = Arc::new(Notify::new());
    let (opened, kind) = (Arc::clone(&gate), KindDefaults::default);
    let echo = async |attempt: Attempt| -> Result<JobOutput, HandlerError> {
        Ok(JobOutput { bytes: attempt.payload().clone(), ..JobOutput::default() })
    };
    let server = Server::builder(settings)
        .handler("echo", kind(), echo)
        .handler("fail", kind(), async |_: Attempt| Err(HandlerError::permanent("no")))
        .handler("gate", kind(), move |_: Attempt| {
            let opened = Arc::clone(&opened);
            async move {
                opened.notified().await;
                Ok(JobOutput::default())
            }
        })
        .start()
        .await
        .unwrap();
    (server, gate)
}

fn jobmill(server: &Server, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
    command
        .args(["--server", &server.local_addr().unwrap().to_string()])
        .args(line.split_whitespace())
        .env_remove("JOBMILL_OUTPUT")
        .stdin(Stdio::null());
    command
}

/// Runs a command line; returns its stdout, its stderr and its exit code.
async fn told(server: &Server, line: &str) -> (String, String, i32) {
    let Output { status, stdout, stderr } = jobmill(server, line).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (text(stdout), text(stderr), status.code().unwrap())
}

/// Runs a command line that must succeed; returns its stdout.
async fn done(server: &Server, line: &str) -> String {
    let (stdout, stderr, code) = told(server, line).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
    stdout
}

async fn json(server: &Server, line: &str) -> Value {
    serde_json::from_str(&done(server, &format!("--output json {line}")).await).unwrap()
}

/// Runs a command line that must be refused; returns its message.
async fn refused(server: &Server, line: &str) -> String {
    let (stdout, stderr, code) = told(server, line).await;
    assert_eq!((code, stdout.as_str()), (5, ""), "{line}: {stderr}");
    stderr
}

#[tokio::test]
async fn a_job_is_changed_at_the_expected_revision_only() {
    let (server, _) = server().await;
    let id = done(&server, "submit waits").await;
    for verb in ["cancel", "retry", "delete"] {
        let said = refused(&server, &format!("{verb} {id} --expected-revision 7")).await;
        let way_out = format!(
            "is at revision 1, and not at 7. Look at it with `jobmill get {id}`, then repeat the command with \
             --expected-revision 1"
        );
        assert!(said.contains(&way_out), "{said}");
    }
    assert_eq!(done(&server, &format!("cancel {id} --expected-revision 1")).await, format!("{id} CANCELLED"));
    assert_eq!(done(&server, &format!("retry {id} --expected-revision 2")).await, format!("{id} QUEUED"));
    assert_eq!(done(&server, &format!("delete {id} --expected-revision 3")).await, format!("{id} deleted"));
    for verb in ["cancel", "retry", "delete"] {
        let (_, said, code) = told(&server, &format!("{verb} {id}")).await;
        assert_eq!(code, 4, "{said}");
    }
    let (_, said, code) = told(&server, "cancel a b --expected-revision 1").await;
    assert_eq!((code, said.as_str()), (2, "error: --expected-revision goes with one job, not with several"));
}

#[tokio::test]
async fn a_unique_key_is_met_listed_and_released() {
    let (server, gate) = server().await;
    let keyed = "--unique-key order-17 --output json";
    let submitted = async |rest: &str| {
        let answer = json(&server, &format!("submit gate {rest} {keyed}")).await["submitted"].take();
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        (text("id"), text("outcome").trim_start_matches("SUBMIT_OUTCOME_").to_owned())
    };
    let (first, outcome) = submitted("one --delay 1h").await;
    assert_eq!(outcome, "CREATED");
    assert_eq!(submitted("two").await, (first.clone(), "EXISTING".to_owned()));
    let (id, note, code) = told(&server, "submit gate two --unique-key order-17").await;
    let expected = format!("no job was submitted: the job {first} holds the unique key");
    assert_eq!((id, note, code), (first.clone(), expected, 0));
    let said = refused(&server, "submit gate two --unique-key order-17 --on-waiting reject").await;
    assert!(said.contains(&first) && said.contains("SCHEDULED"), "{said}");
    let said =
        refused(&server, "submit gate two --unique-key order-17 --on-waiting replace --label a=b").await;
    assert!(said.contains(&first) && said.contains("labels"), "{said}");
    assert_eq!(submitted("three --on-waiting replace").await, (first.clone(), "REPLACED".to_owned()));
    while json(&server, &format!("get {first}")).await["state"] != "JOB_STATE_RUNNING" {}

    let (next, outcome) = submitted("four --on-started follow").await;
    assert_eq!(outcome, "CREATED");
    let followed = json(&server, &format!("get {next}")).await;
    assert_eq!(followed["state"], "JOB_STATE_BLOCKED");
    let key = serde_json::json!({
        "key": "order-17", "scope": "UNIQUE_SCOPE_KIND", "holderId": first, "successorId": next,
        "queue": "default", "kind": "gate"
    });
    assert_eq!(followed["uniqueKey"], key);
    assert_eq!(json(&server, "key list").await, key);
    let shown = done(&server, &format!("get {first}")).await;
    for line in ["unique key", "order-17 (kind gate)", "this job", &next, "1 time"] {
        assert!(shown.contains(line), "{shown}");
    }

    let wrong_scope = told(&server, "key release order-17 --of default --scope queue").await;
    assert_eq!(wrong_scope.2, 4, "{wrong_scope:?}");
    for repeated in [false, true] {
        let answer = json(&server, "key release order-17 --of gate --request-id r").await;
        let held = match repeated {
            false => serde_json::json!({"holderId": first, "successorId": next, "repeated": false}),
            true => serde_json::json!({"repeated": true}),
        };
        assert_eq!(answer, serde_json::json!({ "released": held }));
    }
    for id in [&first, &next] {
        while json(&server, &format!("get {id}")).await["done"] != true {
            gate.notify_one();
        }
    }
    assert_eq!(told(&server, "key list").await.1, "no keys are held");
    let said = told(&server, "submit gate x --unique-key k --debounce 5s --throttle 5s").await;
    assert!(said.2 == 2 && said.1.contains("cannot be used with"), "{said:?}");
    let (_, said, code) = told(&server, "submit gate x --unique-key k --on-started replace").await;
    assert!(code == 2 && said.contains("use FOLLOW"), "{said}");
}

#[tokio::test]
async fn a_change_under_a_request_id_is_made_once() {
    let (server, _) = server().await;
    let id = done(&server, "submit waits").await;
    let cancelled = json(&server, &format!("cancel {id} --request-id c")).await;
    let change = |state: &str, done, revision, repeated| {
        serde_json::json!({"change": {
            "id": id, "state": state, "done": done, "revision": revision, "repeated": repeated
        }})
    };
    assert_eq!(cancelled, change("JOB_STATE_CANCELLED", true, 2, false));
    assert_eq!(
        json(&server, &format!("retry {id} --request-id r")).await,
        change("JOB_STATE_QUEUED", false, 3, false)
    );
    // The answer is that of the first call, though the job has changed since.
    assert_eq!(
        json(&server, &format!("cancel {id} --request-id c")).await,
        change("JOB_STATE_CANCELLED", true, 2, true)
    );
    let (stdout, stderr, code) = told(&server, &format!("cancel {id} --request-id c")).await;
    assert_eq!((stdout, code), (format!("{id} CANCELLED"), 0));
    assert!(stderr.starts_with("this request id was used before"), "{stderr}");
    assert_eq!(json(&server, &format!("get {id}")).await["state"], "JOB_STATE_QUEUED");
    let said = refused(&server, &format!("cancel {id} --request-id c --expected-revision 3")).await;
    assert!(said.ends_with("Use another --request-id for another request."), "{said}");
    for _ in 0..2 {
        done(&server, &format!("delete {id} --request-id d")).await;
    }
}

#[tokio::test]
async fn an_update_changes_what_it_names_unless_the_queue_has_changed_meanwhile() {
    let (server, _) = server().await;
    let created = json(&server, "queue create slow --consumers 2 --keep-failed 1h --request-id q").await;
    assert_eq!(
        json(&server, "queue create slow --consumers 2 --keep-failed 1h --request-id q").await,
        created
    );
    let old = created["etag"].as_str().unwrap();
    assert!(done(&server, "queue get slow").await.contains(&format!("etag          {old}\n")));

    let updated = json(&server, "queue update slow --max-jobs 5 --keep-failed default").await;
    let settings = &updated["settings"];
    assert_eq!((&settings["maxJobs"], &settings["consumers"]), (&5.into(), &2.into()));
    assert!(settings["retention"]["failed"].is_null(), "{updated}");
    let new = updated["etag"].as_str().unwrap();
    assert_ne!(new, old);

    let said = refused(&server, &format!("queue update slow --consumers 3 --etag {old}")).await;
    assert!(
        said.contains(&format!("`jobmill queue get slow`, and repeat the command, with --etag {new}")),
        "{said}"
    );
    assert!(said.contains("--force"), "{said}");
    let line = format!("queue update slow --consumers 3 --etag {new} --request-id u");
    let third = json(&server, &line).await;
    assert_eq!((&third["settings"]["consumers"], &third["settings"]["maxJobs"]), (&3.into(), &5.into()));
    done(&server, "queue update slow --consumers 4 --force").await;
    // A repeat changes nothing and shows the queue as it is now.
    assert_eq!(json(&server, &line).await["settings"]["consumers"], 4);

    let (_, said, code) = told(&server, "queue update slow --consumers 5 --request-id v").await;
    assert_eq!(code, 2, "{said}");
    let (_, said, code) = told(&server, "queue update slow").await;
    assert_eq!(code, 2, "{said}");
}

#[tokio::test]
async fn a_purge_under_a_request_id_deletes_nothing_more() {
    let (server, _) = server().await;
    done(&server, "submit waits").await;
    done(&server, "submit waits").await;
    assert_eq!(done(&server, "queue purge default --yes --request-id p").await, "2 jobs deleted");
    let kept = done(&server, "submit waits").await;
    assert_eq!(done(&server, "queue purge default --yes --request-id p").await, "2 jobs deleted");
    assert_eq!(json(&server, &format!("get {kept}")).await["state"], "JOB_STATE_QUEUED");
    assert_eq!(done(&server, "queue pause default --request-id x").await, "queue default paused");
    assert_eq!(done(&server, "queue resume default --request-id y").await, "queue default starts jobs again");
    // The repeat changes nothing and shows the queue as it is now.
    assert_eq!(done(&server, "queue pause default --request-id x").await, "queue default starts jobs again");
}

#[tokio::test]
async fn get_waits_and_exits_by_the_fate_of_the_jobs() {
    let (server, gate) = server().await;
    let echo = done(&server, "submit echo hello").await;
    let job = json(&server, &format!("get {echo} --wait 1h")).await;
    assert_eq!((&job["state"], &job["result"]["text"]), (&"JOB_STATE_SUCCEEDED".into(), &"hello".into()));
    let fail = done(&server, "submit fail").await;
    let (stdout, stderr, code) = told(&server, &format!("get {echo} {fail} --wait 1h")).await;
    assert_eq!((code, stderr.as_str()), (1, ""));
    assert!(stdout.contains("SUCCEEDED") && stdout.contains("FAILED"), "{stdout}");

    let gated = done(&server, "submit gate").await;
    let (stdout, stderr, code) = told(&server, &format!("get {gated} --wait 10ms")).await;
    assert_eq!((code, stderr), (7, format!("{gated} has not ended within 10ms")));
    assert!(stdout.contains(&gated), "{stdout}");
    // Without `--wait`, a job that still runs is no failure.
    done(&server, &format!("get {gated}")).await;
    let waiting = jobmill(&server, &format!("get {gated} --wait 1h")).stdout(Stdio::piped()).spawn().unwrap();
    gate.notify_one();
    assert_eq!(waiting.wait_with_output().await.unwrap().status.code(), Some(0));

    let waits = done(&server, "submit waits").await;
    done(&server, &format!("cancel {waits}")).await;
    assert_eq!(told(&server, &format!("get {waits} --wait 0s")).await.2, 3);
    done(&server, &format!("delete {waits}")).await;
    assert_eq!(told(&server, &format!("get {waits} --wait 1h")).await.2, 4);
}

#[tokio::test]
async fn a_server_tells_what_it_knows_and_refuses_what_it_does_not() {
    let (server, _) = server().await;
    let page = done(&server, "info").await;
    assert!(page.contains(&format!("version       {}", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(page.contains("you may       do everything") && page.contains("payload_bytes"), "{page}");
    let info = json(&server, "info").await;
    assert!(info["storeId"].is_string() && info["time"].is_string(), "{info}");
    let difference = info["clockDifference"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!(difference.parse::<f64>().unwrap().abs() < 60.0, "{info}");

    let features: Vec<_> = info["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert!(features.contains(&"wait"), "{features:?}");
    let all: String = features.iter().map(|feature| format!(" --require {feature}")).collect();
    done(&server, &format!("submit waits{all}")).await;
    let said = refused(&server, "submit waits --require wait --require teleport").await;
    assert!(said.contains("\"teleport\", which this server does not know. `jobmill info` lists"), "{said}");
    assert_eq!(json(&server, "count").await["total"], 1);
    assert_eq!(told(&server, "count --require a,b").await.2, 2);
}

#[tokio::test]
async fn a_remote_worker_is_shown_with_its_leases_and_drained() {
    let (server, _) = server().await;
    assert_eq!(told(&server, "workers").await, (String::new(), "no workers".to_owned(), 0));
    let (_, said, code) = told(&server, "workers --instance w").await;
    assert_eq!((said.contains("no worker is named w"), code), (true, 4), "{said}");
    let (_, said, code) = told(&server, "workers drain w --yes").await;
    assert_eq!((said.contains("List workers: jobmill workers"), code), (true, 4), "{said}");

    let id = done(&server, "submit remote").await;
    let mut workers =
        WorkerServiceClient::connect(format!("http://{}", server.local_addr().unwrap())).await.unwrap();
    let request = LeaseJobsRequest {
        instance: "w".into(),
        process: "p".into(),
        kinds: vec!["remote".into()],
        wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    };
    let leased = workers.lease_jobs(request).await.unwrap().into_inner().assignments;
    let token = leased[0].lease.clone().unwrap().token;

    let table = done(&server, "workers").await;
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], ["w", "connected"], "{table}");
    let page = done(&server, "workers --instance w").await;
    assert!(page.contains(&id) && page.contains("not received"), "{page}");
    let found = json(&server, "workers --instance w").await;
    assert_eq!(found["leases"][0]["lease"]["token"], token, "{found}");
    let page = done(&server, &format!("get {id}")).await;
    assert!(
        page.contains("worker        w\n") && page.contains(&format!("lease token   {token}\n")),
        "{page}"
    );
    let job = json(&server, &format!("get {id}")).await;
    assert_eq!((&job["worker"], &job["leaseToken"]), (&"w".into(), &token.into()), "{job}");

    let (_, said, code) = told(&server, "workers drain w").await;
    assert_eq!((said.contains("no worker was asked to end"), code), (true, 2), "{said}");
    let (names, said, code) = told(&server, "workers drain w --within 5m --yes").await;
    assert_eq!((names.as_str(), code), ("w", 0), "{said}");
    assert!(said.starts_with("1 worker asked to finish what it runs within 5m"), "{said}");
    assert_eq!(json(&server, "workers").await["state"], "WORKER_STATE_DRAINING");
}
