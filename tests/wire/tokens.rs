//! Tokens and roles: permissions, refusals, and the audit of both.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use jobmill::{
    client::{Client, ClientBuilder, ClientError, Code, Refusal},
    clock::{Clock, Timestamp},
    proto::v1::{self, job_queue_client::JobQueueClient},
    serve::Server,
    settings::{QueueSettings, Settings, TokenHash},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    support::{
        Process, QUEUE, Watcher, connect, ids, job, manual_clock, memory, queue, refusal, simple, soon,
        with_queue,
    },
    tls::{Home, start, stop},
};

const MAIL: &str = "mail";

/// A server with tokens; each token is its holder's name.
struct TokenServer {
    dir: TempDir,
    server: Server,
}

fn entry(name: &str, roles: &str, queues: &str) -> String {
    let hash = TokenHash::of(name);
    format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = {roles}\nqueues = {queues}\n")
}

fn entries() -> String {
    [
        entry("boss", "['admin']", "['*']"),
        entry("submitter", "['submit']", "['mail*']"),
        entry("reader", "['read']", "['mail*']"),
        entry("auditor", "['read']", "['*']"),
        entry("clerk", "['admin']", "['mail*']"),
        entry("worker", "['work']", "['*']"),
        entry("nobody", "[]", "['*']"),
    ]
    .concat()
}

fn settings(dir: &TempDir, settings: Settings) -> Settings {
    fs::write(dir.path().join("tokens.toml"), entries()).unwrap();
    let mut settings = with_queue(settings, MAIL, queue(4));
    settings.tokens = Some(dir.path().join("tokens.toml"));
    settings.audit_file = Some(dir.path().join("audit"));
    settings
}

impl TokenServer {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = start(settings(&dir, memory())).await;
        TokenServer { dir, server }
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder(&self.server.local_addr().unwrap().to_string()).retry_for(Duration::ZERO)
    }

    fn client(&self, token: &str) -> Client {
        self.builder().token(token).connect_lazy().unwrap()
    }

    fn tokens(&self) -> PathBuf {
        self.dir.path().join("tokens.toml")
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("audit")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn all() -> v1::JobFilter {
    v1::JobFilter::default()
}

fn batch(jobs: Vec<v1::JobSpec>) -> v1::SubmitBatchRequest {
    v1::SubmitBatchRequest { jobs, ..Default::default() }
}

fn mail(kind: &str) -> v1::JobSpec {
    v1::JobSpec { queue: MAIL.to_owned(), ..job(kind) }
}

async fn accepted(client: &Client, job: v1::JobSpec) -> String {
    soon(client.submit(job)).await.unwrap().id().to_owned()
}

async fn refused<T>(call: impl Future<Output = Result<T, ClientError>>) -> Refusal {
    match soon(call).await {
        Err(ClientError::Refused(refusal)) => *refusal,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

async fn denied<T>(call: impl Future<Output = Result<T, ClientError>>, role: &str, queue: &str) {
    let refusal = refused(call).await;
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::PermissionDenied, "ROLE_MISSING"),
        "{refusal:?}"
    );
    let names = (refusal.metadata["role"].as_str(), refusal.metadata["queue"].as_str());
    assert_eq!(names, (role, queue), "{refusal:?}");
    assert!(refusal.is_definite());
}

#[tokio::test]
async fn without_a_good_token_nothing_is_done() {
    let office = TokenServer::open().await;
    let none = office.builder().connect_lazy().unwrap();
    for (client, reason) in [(none, "TOKEN_MISSING"), (office.client("stranger"), "TOKEN_INVALID")] {
        let refusal = refused(client.submit(mail("echo"))).await;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, reason));
        assert!(!refusal.message.contains("stranger"));
        refused(client.list_queues()).await;
    }
    let boss = office.client("boss");
    assert_eq!(soon(boss.count_jobs(all())).await.unwrap().total, 0);
    let told: Vec<_> =
        office.audit().iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["TOKEN_MISSING", "TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_INVALID"]);
    stop(office.server).await;
}

#[tokio::test]
async fn of_several_tokens_none_is_taken() {
    let office = TokenServer::open().await;
    let channel = connect(&office.server.local_addr().unwrap().to_string()).await;
    for tokens in [["boss", "stranger"], ["stranger", "boss"], ["boss", "boss"]] {
        let mut call = tonic::Request::new(v1::CountJobsRequest::default());
        for token in tokens {
            call.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let status = soon(JobQueueClient::new(channel.clone()).count_jobs(call)).await.unwrap_err();
        assert_eq!(refusal(&status).reason, "TOKEN_INVALID", "{tokens:?}");
        assert!(status.message().contains("more than one"), "{}", status.message());
    }
    stop(office.server).await;
}

#[tokio::test]
async fn roles_hold_on_their_queues_only() {
    let office = TokenServer::open().await;
    let [boss, submitter, reader, auditor, clerk] =
        ["boss", "submitter", "reader", "auditor", "clerk"].map(|name| office.client(name));
    let letter = accepted(&submitter, mail("echo")).await;
    let other = accepted(&boss, job("fail")).await;
    denied(submitter.submit(job("echo")), "submit", QUEUE).await;
    denied(reader.submit(mail("echo")), "submit", "*").await;
    denied(submitter.get_job(&letter, v1::JobView::Basic), "read", "*").await;

    soon(reader.get_job(&letter, v1::JobView::Basic)).await.unwrap();
    soon(auditor.get_job(&other, v1::JobView::Basic)).await.unwrap();
    let hidden = refused(reader.get_job(&other, v1::JobView::Basic)).await;
    let absent = refused(reader.get_job("0000000000000", v1::JobView::Basic)).await;
    assert_eq!((hidden.code, &hidden.reason), (Code::NotFound, &absent.reason));
    denied(reader.cancel_job(&letter), "cancel", "*").await;
    assert_eq!(refused(clerk.cancel_job(&other)).await.code, Code::NotFound);
    soon(boss.cancel_job(&other)).await.unwrap();

    let of = |queue: &str| v1::JobFilter { queues: vec![queue.to_owned()], ..Default::default() };
    assert_eq!(soon(reader.count_jobs(of(MAIL))).await.unwrap().total, 1);
    denied(reader.count_jobs(of(QUEUE)), "read", QUEUE).await;
    denied(reader.count_jobs(all()), "read", "*").await;
    assert_eq!(soon(auditor.count_jobs(all())).await.unwrap().total, 2);
    let names = |queues: Vec<v1::Queue>| queues.into_iter().map(|queue| queue.name).collect::<Vec<_>>();
    assert_eq!(names(soon(reader.list_queues()).await.unwrap()), [MAIL]);
    assert_eq!(names(soon(auditor.list_queues()).await.unwrap()), [QUEUE, MAIL]);

    soon(clerk.pause_queue(MAIL)).await.unwrap();
    denied(clerk.pause_queue(QUEUE), "admin", QUEUE).await;
    denied(clerk.create_queue("other"), "admin", "other").await;
    soon(clerk.create_queue("mail.new")).await.unwrap();
    stop(office.server).await;
}

#[tokio::test]
async fn a_watcher_hears_nothing_of_jobs_that_it_may_not_see() {
    let office = TokenServer::open().await;
    let (boss, reader) = (office.client("boss"), office.client("reader"));
    let other = accepted(&boss, job("echo")).await;
    let letter = accepted(&boss, mail("echo")).await;
    let channel = crate::support::connect(&office.server.local_addr().unwrap().to_string()).await;
    let watch = |request: v1::WatchStatusRequest, token: &'static str| {
        let mut call = tonic::Request::new(request);
        call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut jobs = v1::job_queue_client::JobQueueClient::new(channel.clone());
        async move { soon(jobs.watch_status(call)).await.map(|watch| Watcher::new(watch.into_inner())) }
    };
    let ids = v1::WatchStatusRequest { ids: vec![other.clone(), letter.clone()], ..Default::default() };
    let mut events = watch(ids, "reader").await.unwrap();
    let mut lines = BTreeSet::new();
    for _ in 0..2 {
        lines.insert(events.line().await);
    }
    assert!(lines.iter().any(|line| line.contains("not found")), "{lines:?}");
    events.rest().await.expect("it ends with the only job that there is");
    let every = || v1::WatchStatusRequest { filter: Some(Default::default()), ..Default::default() };
    let status = watch(every(), "reader").await.err().expect("refused");
    assert_eq!(refusal(&status).reason, "ROLE_MISSING");
    watch(every(), "auditor").await.unwrap();
    drop(reader);
    stop(office.server).await;
}

#[tokio::test]
async fn every_call_needs_its_role() {
    let office = TokenServer::open().await;
    let boss = office.client("boss");
    let letter = accepted(&boss, mail("echo")).await;
    for name in ["nobody", "worker"] {
        let client = office.client(name);
        let mut denied = BTreeSet::new();
        let mut check = |what, code: Code| {
            assert_eq!(code, Code::PermissionDenied, "{name} {what}");
            denied.insert(what);
        };
        check("submit", refused(client.submit(mail("echo"))).await.code);
        check("submit_batch", refused(client.submit_batch(batch(vec![mail("echo")]))).await.code);
        check("get", refused(client.get_job(&letter, v1::JobView::Basic)).await.code);
        check("count", refused(client.count_jobs(all())).await.code);
        check("cancel", refused(client.cancel_job(&letter)).await.code);
        check("retry", refused(client.retry_job(&letter)).await.code);
        check("delete", refused(client.delete_job(&letter)).await.code);
        check("create_queue", refused(client.create_queue("a")).await.code);
        check("get_queue", refused(client.get_queue(MAIL)).await.code);
        check("list_queues", refused(client.list_queues()).await.code);
        check("delete_queue", refused(client.delete_queue(MAIL)).await.code);
        check("pause_queue", refused(client.pause_queue(MAIL)).await.code);
        check("resume_queue", refused(client.resume_queue(MAIL)).await.code);
        check("purge_queue", refused(client.purge_queue(MAIL)).await.code);
        assert_eq!(denied.len(), 14);
    }
    let told = office.audit().len();
    assert_eq!(told, 1 + 2 * 14, "each refusal has a line");
    // Health needs no token.
    let channel = crate::support::connect(&office.server.local_addr().unwrap().to_string()).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    soon(health.check(tonic_health::pb::HealthCheckRequest { service: String::new() })).await.unwrap();
    stop(office.server).await;
}

#[tokio::test]
async fn items_of_a_stream_are_refused_one_by_one() {
    let office = TokenServer::open().await;
    let submitter = office.client("submitter");
    let (sender, mut results) = submitter.submit_stream(v1::WhenFull::Unspecified);
    for queue in [MAIL, QUEUE, "mail2", MAIL] {
        let item = v1::JobSpec { queue: queue.to_owned(), ..job("echo") };
        let item = v1::SubmitItem { job: Some(item), request_id: String::new() };
        soon(sender.send(item)).await.unwrap();
    }
    drop(sender);
    let mut codes = Vec::new();
    while let Some(result) = soon(results.next()).await {
        codes.push(result.unwrap().result.err().map(|refusal| refusal.code));
    }
    assert_eq!(codes, [None, Some(Code::PermissionDenied), Some(Code::NotFound), None]);
    let audit = office.audit();
    let ids: usize = audit
        .iter()
        .filter(|line| line["code"] == "OK")
        .map(|line| line["count"].as_u64().unwrap() as usize)
        .sum();
    assert_eq!(ids, 2, "{audit:?}");
    assert!(
        audit.iter().any(|line| line["code"] == "PERMISSION_DENIED" && line["queue"] == QUEUE),
        "{audit:?}"
    );
    stop(office.server).await;
}

#[tokio::test]
async fn tokens_change_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let builder = simple(settings(&dir, memory())).clock(Clock::Manual(clock.clone()));
    let office = TokenServer { server: soon(builder.start()).await.unwrap(), dir };
    let (boss, auditor) = (office.client("boss"), office.client("auditor"));
    soon(boss.pause_queue(MAIL)).await.unwrap();
    let waiting = accepted(&boss, mail("echo")).await;
    let mut watch =
        auditor.watch(v1::WatchStatusRequest { ids: vec![waiting.clone()], ..Default::default() });
    soon(watch.next()).await.unwrap().unwrap();

    // One token is removed, one is added, one expires.
    let tokens = entry("boss", "['admin']", "['*']")
        + &entry("newcomer", "['read']", "['*']")
        + "expires = 2028-01-01T00:00:00Z\n";
    fs::write(office.tokens(), tokens).unwrap();
    let newcomer = office.client("newcomer");
    // A token that has expired stays expired when the clock is set back.
    clock.set(Timestamp::from_micros(1_700_000_000_000_000));
    soon(async {
        while newcomer.list_queues().await.is_err() {
            clock.advance(Duration::from_secs(5));
        }
    })
    .await;
    assert_eq!(refused(auditor.list_queues()).await.reason, "TOKEN_INVALID");
    // A watch that was admitted before ends at its next event.
    soon(boss.resume_queue(MAIL)).await.unwrap();
    let end = soon(async {
        loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it went on to the job's end"),
            }
        }
    })
    .await;
    assert!(matches!(end, ClientError::Refused(refusal) if refusal.reason == "TOKEN_INVALID"));

    // A token's expiry is an instant of the wall clock.
    clock.set(Timestamp::from_micros(1_900_000_000_000_000));
    assert_eq!(refused(newcomer.list_queues()).await.reason, "TOKEN_EXPIRED");

    // An invalid file leaves the tokens as they were.
    fs::write(office.tokens(), "[tokens.boss]\nhash = 'sha256:boss'").unwrap();
    office.server.reloader().reload();
    soon(boss.list_queues()).await.unwrap();
    stop(office.server).await;
}

#[tokio::test]
async fn the_audit_says_who_did_what() {
    let home = Home::new();
    let mut both = home.settings();
    both.tls.as_mut().unwrap().client_ca = Some(home.path("clients.pem"));
    let dir = tempfile::tempdir().unwrap();
    let server = start(settings(&dir, both)).await;
    let pair = home.authority.pair("ada.example");
    let identity = |name: &str| {
        let builder = home.client(&server).identity(pair.certificate.clone(), pair.key.clone());
        builder.token(name).connect_lazy().unwrap()
    };
    let boss = identity("boss");
    let secret = v1::JobSpec { payload: Some(v1::Payload::of("secret")), ..mail("echo") };
    let id = accepted(&boss, secret).await;
    let ids = ids(soon(boss.submit_batch(batch(vec![mail("echo"), job("echo")]))).await.unwrap().jobs);
    refused(boss.retry_job(&id)).await;
    soon(boss.get_job(&id, v1::JobView::Basic)).await.unwrap();
    denied(identity("reader").delete_job(&id), "admin", "*").await;
    stop(server).await;

    let text = fs::read_to_string(dir.path().join("audit")).unwrap();
    assert!(!text.contains("secret") && !text.contains(&TokenHash::of("boss").to_string()));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(line["certificate"], "ada.example");
            assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {} {}", text("subject"), text("rpc"), text("queue"), text("code"), line["ids"])
        })
        .collect();
    let expected = [
        format!("boss jobmill.v1.JobQueue/Submit mail OK [\"{id}\"]"),
        format!("boss jobmill.v1.JobQueue/SubmitBatch default mail OK [\"{}\",\"{}\"]", ids[0], ids[1]),
        format!("boss jobmill.v1.JobQueue/RetryJob mail FAILED_PRECONDITION [\"{id}\"]"),
        "reader jobmill.v1.JobQueue/DeleteJob - PERMISSION_DENIED null".to_owned(),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_in_the_audit_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, memory());
    settings.queues.insert(MAIL.to_owned(), QueueSettings { max_jobs: 1, ..queue(0) });
    let office = TokenServer { server: start(settings).await, dir };
    let submitter = office.client("submitter");
    let id = accepted(&submitter, mail("echo")).await;
    let (waits, boss) = (submitter.clone(), office.client("boss"));
    let waiting = tokio::spawn(async move { waits.submit(mail("echo")).await });
    soon(async {
        while boss.get_queue(MAIL).await.unwrap().stats.unwrap().waiters == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    waiting.abort();
    let codes =
        || office.audit().iter().map(|line| line["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    soon(async {
        while codes().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(codes(), ["OK", "CANCELLED"]);
    assert_eq!(office.audit()[0]["ids"], serde_json::json!([id]));
    stop(office.server).await;
}

#[tokio::test]
async fn sighup_has_the_tokens_read_again() {
    let home = tempfile::tempdir().unwrap();
    let configuration = home.path().join("jobmill.toml");
    fs::write(&configuration, "auth.tokens = 'tokens.toml'\naudit.file = 'audit'").unwrap();
    fs::write(home.path().join("tokens.toml"), entries()).unwrap();
    let mut process = Process::start(&configuration, &home.path().join("data"), &[]).await;
    let client = |token: &str| Client::builder(&process.address).token(token).connect_lazy().unwrap();
    soon(client("boss").list_queues()).await.unwrap();
    refused(client("newcomer").list_queues()).await;
    fs::write(home.path().join("tokens.toml"), entries() + &entry("newcomer", "['read']", "['*']")).unwrap();
    fs::rename(home.path().join("audit"), home.path().join("audit.1")).unwrap();
    process.signal(rustix::process::Signal::HUP);
    let newcomer = client("newcomer");
    soon(async {
        while newcomer.list_queues().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon(async {
        while !home.path().join("audit").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    soon(process.exit()).await;
}
