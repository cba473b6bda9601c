//! A session with its time, its server and its handlers in the hands of the test.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    client::to_wire_duration,
    clock::Uptime,
    execute::{Attempt, Handler, ReportSink},
    job::JobId,
    proto::v1::{self, lease_notice::Notice, report::Report, server_frame, worker_frame},
    worker::{
        control::Control,
        handlers::{self, Registered, Start},
        key::LeaseKey,
        plan::{Plan, PlannedPool},
        session::Session,
    },
};

pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
pub(super) const LEASE: Duration = Duration::from_secs(30);

pub(super) fn plan(concurrency: usize, handler: impl Handler) -> Plan {
    let registered = Registered::new("k", 0, Arc::new(handler));
    Plan {
        instance: "w".into(),
        process: "p".into(),
        labels: Default::default(),
        pools: vec![PlannedPool {
            name: String::new(),
            kinds: vec!["k".into()],
            queues: Vec::new(),
            concurrency,
        }],
        handlers: HashMap::from([("k".to_owned(), registered)]),
        drain_timeout: Duration::from_secs(60),
        max_jobs: None,
        until_idle: None,
    }
}

/// A handler that a test never calls.
pub(super) async fn unused(_: Attempt) -> Result<crate::job::Output, crate::execute::HandlerError> {
    Err(crate::execute::HandlerError::permanent("not called"))
}

pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Uptime,
    pub(super) sent: Vec<worker_frame::Frame>,
    pub(super) started: Vec<Start>,
    /// Whether the server answers no pings.
    pub(super) silent: bool,
}

pub(super) fn lease(job: i64) -> v1::Lease {
    v1::Lease { job_id: JobId::from_raw(job).to_string(), token: job }
}

pub(super) fn assignment(job: i64) -> v1::Assignment {
    let spec = v1::JobSpec {
        queue: "q".into(),
        kind: "k".into(),
        payload: Some(v1::Payload::of("input")),
        ..Default::default()
    };
    let wire = v1::Job { id: lease(job).job_id, spec: Some(spec), attempt: 1, ..Default::default() };
    v1::Assignment { lease: Some(lease(job)), job: Some(wire), ..Default::default() }
}

pub(super) fn held() -> Notice {
    Notice::Held(v1::LeaseHeld { duration: Some(to_wire_duration(LEASE)) })
}

pub(super) fn lost() -> Notice {
    Notice::Refused(v1::ItemError { reason: "LEASE_LOST".into(), ..Default::default() })
}

pub(super) fn notice(job: i64, notice: Notice) -> v1::LeaseNotice {
    v1::LeaseNotice { lease: Some(lease(job)), notice: Some(notice) }
}

pub(super) fn welcome(leases: Vec<v1::LeaseNotice>) -> v1::Welcome {
    v1::Welcome {
        heartbeat_every: Some(to_wire_duration(HEARTBEAT)),
        ping_every: Some(to_wire_duration(Duration::from_secs(5))),
        lease_time: Some(to_wire_duration(LEASE)),
        leases,
    }
}

impl Bench {
    pub(super) fn new(plan: Plan) -> Self {
        let now = Uptime::new(Duration::from_secs(1_000));
        let session = Session::new(plan, Arc::default());
        Bench { session, now, sent: Vec::new(), started: Vec::new(), silent: false }
    }

    /// A worker that is connected, and has granted its credits.
    pub(super) fn connected(plan: Plan) -> Self {
        let mut bench = Bench::new(plan);
        bench.connect(Vec::new());
        bench
    }

    /// Opens a stream. Returns `hello`.
    pub(super) fn open(&mut self) -> v1::Hello {
        self.session.opened();
        match self.send().pop() {
            Some(worker_frame::Frame::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn connect(&mut self, leases: Vec<v1::LeaseNotice>) -> v1::Hello {
        let hello = self.open();
        self.receive(server_frame::Frame::Welcome(welcome(leases)));
        hello
    }

    /// Sends all that there is to send, and returns it.
    pub(super) fn send(&mut self) -> Vec<worker_frame::Frame> {
        let mut sent = Vec::new();
        while self.session.has_output() {
            let message = self.session.take_message(self.now).unwrap();
            sent.extend(message.frames.into_iter().map(|frame| frame.frame.unwrap()));
        }
        self.sent.extend(sent.iter().cloned());
        sent
    }

    /// Sends, and returns the reports among what was sent, by job.
    pub(super) fn reports(&mut self) -> Vec<(i64, Report)> {
        let reports = self.send().into_iter().filter_map(|frame| match frame {
            worker_frame::Frame::Report(report) => {
                Some((report.lease.unwrap().token, report.report.unwrap()))
            }
            _ => None,
        });
        reports.collect()
    }

    /// Sends, and returns the credits that are granted.
    pub(super) fn credits(&mut self) -> i32 {
        let credits = self.send().into_iter().filter_map(|frame| match frame {
            worker_frame::Frame::Credit(credit) => Some(credit.count),
            _ => None,
        });
        credits.sum()
    }

    pub(super) fn receive(&mut self, frame: server_frame::Frame) {
        self.session.receive(v1::ServerFrame { frame: Some(frame) }, self.now);
        self.started.append(&mut self.session.starts);
    }

    pub(super) fn assign(&mut self, job: i64) {
        self.receive(server_frame::Frame::Assignment(assignment(job)));
    }

    pub(super) fn tell(&mut self, job: i64, told: Notice) {
        self.receive(server_frame::Frame::Notice(notice(job, told)));
    }

    /// Assigns a job, and confirms it. Returns the attempt's control.
    pub(super) fn run(&mut self, job: i64) -> Arc<Control> {
        self.assign(job);
        self.send();
        self.tell(job, held());
        Arc::clone(&self.started.last().expect("an attempt has started").control)
    }

    /// Ends a running attempt with a success.
    pub(super) fn finish(&mut self, control: &Control) {
        control.ended(Report::Completed(v1::Completed { result: Some(v1::Payload::of("output")) }));
        self.events();
    }

    pub(super) fn events(&mut self) {
        for event in self.session.mailbox.take() {
            self.session.event(event, self.now);
        }
    }

    /// Lets time pass, and does what is due in it. The server answers pings, unless it is `silent`.
    pub(super) fn pass(&mut self, by: Duration) {
        let end = self.now.after(by);
        while self.session.wake() <= end && !self.session.is_over(self.now) {
            self.now = self.now.max(self.session.wake());
            if self.session.is_broken(self.now) {
                break;
            }
            self.session.tick(self.now);
            let sent = self.send();
            if !self.silent && sent.iter().any(|frame| matches!(frame, worker_frame::Frame::Ping(_))) {
                self.receive(server_frame::Frame::Pong(v1::Pong::default()));
            }
        }
        self.now = end;
    }

    pub(super) fn key(job: i64) -> LeaseKey {
        LeaseKey::of(Some(&lease(job))).unwrap()
    }
}

/// Runs the handler of an attempt to its end, which does not wait for anything.
pub(super) fn run_handler(bench: &mut Bench) {
    let start = bench.started.pop().unwrap();
    handlers::run(start).now_or_never().expect("the handler does not wait");
    bench.events();
}

/// Reports of progress, as a handler makes them.
pub(super) fn progress(control: &Control, fraction: f64) {
    let progress = crate::job::Progress { fraction: Some(fraction), ..Default::default() };
    control.progress(progress);
}
