//! nginx as an endpoint, which closes connections gracefully after a number of requests and at each reload.
//!
//! `JOBMILL_NGINX_JOBS=10000` sends that number of jobs past nginx's default limit, instead of fewer past a lower one.

use std::{collections::HashMap, fs, process::Stdio, time::Duration};

use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState},
    serve::Server,
    settings::{
        Authorities, HandlerSettings, HttpSettings, KindDefaults, KindSettings, QueueSettings, Targets,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{Rig, defaults, job, memory, soon, with_queue};

const CONSUMERS: u32 = 32;
const BATCH: usize = 1_000;

struct Nginx {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    folder: tempfile::TempDir,
    port: u16,
    certificate: String,
}

impl Nginx {
    /// Starts nginx with a listen directive, and with a limit of requests for each connection or its default limit.
    async fn start(listen: &str, keepalive_requests: Option<usize>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(path("cert.pem"), &certificate).unwrap();
        // The port stays free until nginx binds it: the system does not hand it out again so soon.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let limit = keepalive_requests.map_or(String::new(), |max| format!("keepalive_requests {max};"));
        let configuration = format!(
            "daemon off; worker_processes 1; pid nginx.pid; error_log stderr notice;
             events {{ worker_connections 1024; }}
             http {{
                 log_format jobs '$http_jobmill_job_id';
                 access_log jobs.log jobs;
                 {limit}
                 server {{
                     listen 127.0.0.1:{port} {listen};
                     ssl_certificate cert.pem;
                     ssl_certificate_key key.pem;
                     location / {{ return 200 done; }}
                 }}
             }}"
        );
        fs::write(path("nginx.conf"), configuration).unwrap();
        let mut child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nginx is installed: .ci/setup does that");
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut nginx = Nginx { child, log, folder, port, certificate };
        nginx.says("start worker process ").await;
        nginx
    }

    /// Returns once nginx's log has a line with this text.
    async fn says(&mut self, text: &str) {
        while !soon(self.log.next_line()).await.unwrap().expect("nginx runs").contains(text) {}
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, signal).unwrap();
        }
    }

    /// Reloads nginx: new workers take over, and the old ones finish their requests.
    async fn reload(&mut self) {
        self.signal(Signal::HUP);
        self.says("start worker process ").await;
    }

    fn settings(&self) -> HttpSettings {
        let url = format!("https://localhost:{}/jobs", self.port);
        HttpSettings {
            targets: Targets { allow_private: true, ..Targets::default() },
            authorities: Some(Authorities::from_pem(self.certificate.as_bytes()).unwrap()),
            ..HttpSettings::new(url.parse().unwrap())
        }
    }

    /// Stops nginx; returns how often each job was processed.
    async fn processed(mut self) -> HashMap<String, usize> {
        self.signal(Signal::QUIT);
        soon(self.child.wait()).await.unwrap();
        let log = fs::read_to_string(self.folder.path().join("jobs.log")).unwrap();
        let mut processed = HashMap::new();
        for id in log.lines() {
            *processed.entry(id.to_owned()).or_default() += 1;
        }
        processed
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Ends the worker, too.
        self.signal(Signal::TERM);
    }
}

async fn rig(http: HttpSettings) -> Rig {
    let mut settings =
        with_queue(memory(), "default", QueueSettings { consumers: CONSUMERS, ..QueueSettings::default() });
    let handler = HandlerSettings::Http(Box::new(http));
    let defaults = KindDefaults { attempt_timeout: Duration::from_secs(60), ..defaults() };
    settings.kinds.insert("call".to_owned(), KindSettings { handler, defaults });
    Rig::start(Server::builder(settings).clock(Clock::System)).await
}

/// Submits jobs with one attempt each.
async fn submit(rig: &Rig, jobs: usize) -> Vec<String> {
    let only =
        v1::JobSpec { max_attempts: 1, payload: Some(v1::Payload::of(vec![b'x'; 2_000])), ..job("call") };
    let mut ids = Vec::new();
    while ids.len() < jobs {
        ids.extend(rig.submit_batch(vec![only.clone(); BATCH.min(jobs - ids.len())]).await);
    }
    ids
}

/// Asserts that each job succeeded and was processed exactly once.
async fn assert_each_once(rig: Rig, nginx: Nginx, ids: &[String]) {
    for some in ids.chunks(100) {
        let some: Vec<_> = some.iter().map(String::as_str).collect();
        rig.watch_ids(&some).await.rest().await.unwrap();
    }
    let filter = v1::JobFilter { states: vec![JobState::Failed as i32], ..v1::JobFilter::default() };
    let request = v1::ListJobsRequest { filter: Some(filter), page_size: 1, ..Default::default() };
    let failed = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner().jobs;
    assert!(failed.is_empty(), "{:?}", failed[0].last_failure);
    rig.stop().await;
    let processed = nginx.processed().await;
    assert_eq!(processed.len(), ids.len());
    assert!(processed.values().all(|times| *times == 1), "some were processed more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_fails_because_nginx_limits_the_requests_of_a_connection() {
    let many = std::env::var("JOBMILL_NGINX_JOBS").ok().map(|jobs| jobs.parse().unwrap());
    let (jobs, keepalive_requests) = many.map_or((3_000, Some(100)), |jobs| (jobs, None));
    for listen in ["ssl http2", "ssl"] {
        let nginx = Nginx::start(listen, keepalive_requests).await;
        let rig = rig(nginx.settings()).await;
        let ids = submit(&rig, jobs).await;
        assert_each_once(rig, nginx, &ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_fails_because_nginx_is_reloaded() {
    let mut nginx = Nginx::start("ssl http2", None).await;
    let rig = rig(nginx.settings()).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        let some = submit(&rig, 200).await;
        rig.ends(&some[100]).await;
        ids.extend(some);
        nginx.reload().await;
    }
    assert_each_once(rig, nginx, &ids).await;
}
