//! A store that does not take its last writes: the server waits for it until the drain's deadline, and then reports
//! what was not written.

use std::{
    fs,
    future::pending,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use jobmill::{
    engine::Stopped,
    handle::{JobRequest, SubmitError},
    proto::v1::{FailureReason, JobState},
    serve::{ServeError, Server},
    settings::QueueSettings,
    shard::StoreObstacle,
    store::{
        Names, Reader, Space, Store, StoreError,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;

use crate::support::{
    QUEUE, Rig, Stage, StagedAttempt, TEST_TIMEOUT, defaults, folder, job, queue, soon, with_queue,
};

const DRAIN: Duration = Duration::from_secs(600);

/// The behaviour of a store towards the ends of attempts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Takes,
    Hangs,
    Fails,
    /// An obstacle keeps the store from taking them.
    Refuses(StoreObstacle),
}

/// The switch and the signals of a gated store.
struct Gate {
    mode: Mutex<Mode>,
    changed: Condvar,
    /// Notified when the store begins to hang, and when it refuses.
    hangs: Notify,
    /// Notified when the store is dropped.
    gone: Notify,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Gate {
            mode: Mutex::new(Mode::Takes),
            changed: Condvar::new(),
            hangs: Notify::new(),
            gone: Notify::new(),
        })
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
        self.changed.notify_all();
    }

    fn is(&self, mode: Mode) -> bool {
        *self.mode.lock() == mode
    }
}

/// A store that takes the ends of attempts only in [`Mode::Takes`].
struct Gated {
    store: Box<dyn Store>,
    gate: Arc<Gate>,
    /// The last field, so that it is dropped last.
    _gone: Gone,
}

/// Notifies on drop that a store is gone.
struct Gone(Arc<Gate>);

impl Store for Gated {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        if self.gate.is(Mode::Refuses(StoreObstacle::Locked)) {
            self.gate.hangs.notify_one();
            return Err(StoreError::Locked("told to be locked".into()));
        }
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        let mut jobs = writes.changed_jobs.iter();
        if jobs.any(|job| job.before.state.lease().is_some() && job.after.state.lease().is_none()) {
            let mut mode = self.gate.mode.lock();
            if *mode == Mode::Hangs {
                self.gate.hangs.notify_one();
                self.gate.changed.wait_while(&mut mode, |mode| *mode == Mode::Hangs);
            }
            match *mode {
                Mode::Takes | Mode::Hangs | Mode::Refuses(StoreObstacle::Locked) => {}
                Mode::Fails => return Err(StoreError::Corrupt("told to fail".into())),
                Mode::Refuses(StoreObstacle::DiskFull) => {
                    self.gate.hangs.notify_one();
                    // Ends the open transaction without writing anything.
                    self.store.write(&WriteSet::default())?;
                    return Err(StoreError::DiskFull("told to be full".into()));
                }
            }
        }
        self.store.write(writes)
    }

    fn space(&mut self) -> Space {
        if self.gate.is(Mode::Refuses(StoreObstacle::DiskFull)) { Space::Full } else { Space::Enough }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.notify_one();
    }
}

/// Starts a server with this many running attempts.
async fn running(home: &Path, gate: &Arc<Gate>, attempts: u32) -> (Server, Vec<StagedAttempt>) {
    let (handler, mut stage) = Stage::new();
    let mut settings = with_queue(folder(home), QUEUE, queue(attempts));
    settings.drain_timeout = DRAIN;
    let small = QueueSettings { max_jobs: 1, max_wait: DRAIN, ..queue(0) };
    settings.queues.insert("small".to_owned(), small);
    let (gate, gone) = (Arc::clone(gate), Gone(Arc::clone(gate)));
    let builder = Server::builder(settings).handler("stage", defaults(), handler).without_listener();
    let builder = builder.around_store(|store| Box::new(Gated { store, gate, _gone: gone }));
    let server = soon(builder.start()).await.unwrap();
    let mut cues = Vec::new();
    for _ in 0..attempts {
        soon(server.handle().submit(JobRequest::new("stage"))).await.unwrap();
        cues.push(stage.next().await);
    }
    (server, cues)
}

/// Starts a server that drains, with an attempt whose outcome the store does not take. Time is paused from here on: it
/// advances only when nothing else can run.
async fn stuck(home: &Path, gate: &Arc<Gate>, mode: Mode) -> (Server, String) {
    let (server, id) = ended(home, gate, mode).await;
    server.stopper().drain();
    tokio::time::pause();
    (server, id)
}

/// Starts a server with an ended attempt whose outcome the store does not take.
async fn ended(home: &Path, gate: &Arc<Gate>, mode: Mode) -> (Server, String) {
    let (server, mut cues) = running(home, gate, 1).await;
    gate.set(mode);
    let cue = cues.remove(0);
    let id = cue.id();
    cue.succeeds();
    soon(gate.hangs.notified()).await;
    (server, id)
}

/// Waits for the end of a server whose store continues after `release`. Time is paused from then on, so that only what
/// the server waits for can end it.
async fn ends_after(server: Server, gate: &Gate, release: Duration) -> Result<(), ServeError> {
    let (over, is_over) = mpsc::sync_channel::<()>(1);
    let released = async {
        tokio::time::sleep(release).await;
        // Paused time does not advance while a blocking task runs.
        drop(tokio::task::spawn_blocking(move || is_over.recv()));
        gate.set(Mode::Takes);
        pending::<()>().await;
    };
    let end = tokio::select! {
        end = server.finished() => end,
        () = released => unreachable!(),
    };
    assert!(gate.is(Mode::Takes), "it waits for the store");
    drop(over);
    tokio::time::resume();
    end
}

/// Restarts without consumers; returns the job's state.
async fn state(home: &Path, id: &str) -> JobState {
    let rig = Rig::start(Server::builder(with_queue(folder(home), QUEUE, queue(0)))).await;
    let job = rig.get(id).await;
    rig.stop().await;
    job.state()
}

#[tokio::test]
async fn the_outcome_of_an_attempt_is_waited_for_until_the_deadline() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, id) = stuck(home.path(), &gate, Mode::Hangs).await;
    ends_after(server, &gate, DRAIN - Duration::from_secs(1)).await.unwrap();
    assert_eq!(state(home.path(), &id).await, JobState::Succeeded);
}

#[tokio::test]
async fn an_outcome_that_the_store_has_not_taken_by_the_deadline_is_told() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, id) = stuck(home.path(), &gate, Mode::Hangs).await;
    let end = server.finished().await;
    assert!(matches!(end, Err(ServeError::Unwritten { outcomes: 1 })), "{end:?}");
    tokio::time::resume();
    // The store may still continue: the outcome that was not reported as written is stored all the same.
    gate.set(Mode::Takes);
    soon(gate.gone.notified()).await;
    assert_eq!(state(home.path(), &id).await, JobState::Succeeded);
}

#[tokio::test]
async fn a_drain_waits_for_space_for_the_outcome_of_an_attempt() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, id) = ended(home.path(), &gate, Mode::Refuses(StoreObstacle::DiskFull)).await;
    server.stopper().drain();
    // The write is retried again and again, not just once.
    let refused_again = async {
        for _ in 0..3 {
            gate.hangs.notified().await;
        }
        gate.set(Mode::Takes);
        pending::<()>().await;
    };
    let end = tokio::select! {
        end = server.finished() => end,
        () = soon(refused_again) => unreachable!(),
    };
    end.unwrap();
    assert_eq!(state(home.path(), &id).await, JobState::Succeeded);
}

#[tokio::test]
async fn an_outcome_for_which_there_is_no_space_until_the_deadline_is_told() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, _) = stuck(home.path(), &gate, Mode::Refuses(StoreObstacle::DiskFull)).await;
    let end = server.finished().await;
    assert!(matches!(end, Err(ServeError::Unwritten { outcomes: 1 })), "{end:?}");
}

#[tokio::test]
async fn a_lock_held_until_the_deadline_is_reported_and_does_not_delay_the_end() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, mut cues) = running(home.path(), &gate, 1).await;
    let handle = server.handle();
    soon(handle.submit(JobRequest::new("stage").queue("small"))).await.unwrap();
    let waiting = tokio::spawn(async move { handle.submit(JobRequest::new("stage").queue("small")).await });
    let waits = async {
        while !server.handle().metrics().await.unwrap().contains("jobmill_queue_waiters{queue=\"small\"} 1") {
            tokio::task::yield_now().await;
        }
    };
    soon(waits).await;
    gate.set(Mode::Refuses(StoreObstacle::Locked));
    cues.remove(0).succeeds();
    soon(gate.hangs.notified()).await;
    server.stopper().drain();
    let refused = soon(waiting).await.unwrap();
    assert!(matches!(refused, Err(SubmitError::Stopped(Stopped::Refused))), "{refused:?}");
    tokio::time::pause();
    let end = server.finished().await;
    assert!(matches!(end, Err(ServeError::Unwritten { outcomes: 1 })), "{end:?}");
    tokio::time::resume();
    // The server releases the folder, although the database's lock is still held.
    soon(gate.gone.notified()).await;
}

#[tokio::test]
async fn after_a_second_signal_the_outcome_of_an_attempt_is_still_kept() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, id) = stuck(home.path(), &gate, Mode::Hangs).await;
    server.stopper().force();
    ends_after(server, &gate, Duration::from_secs(1)).await.unwrap();
    assert_eq!(state(home.path(), &id).await, JobState::Succeeded);
}

#[tokio::test]
async fn after_a_second_signal_an_outcome_that_the_store_does_not_take_is_told() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, _) = stuck(home.path(), &gate, Mode::Hangs).await;
    server.stopper().force();
    let end = server.finished().await;
    assert!(matches!(end, Err(ServeError::Unwritten { outcomes: 1 })), "{end:?}");
    tokio::time::resume();
    gate.set(Mode::Takes);
    soon(gate.gone.notified()).await;
}

#[tokio::test]
async fn an_error_of_the_store_in_the_last_batch_is_an_error_of_the_server() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, cues) = running(home.path(), &gate, 1).await;
    server.stopper().drain();
    gate.set(Mode::Fails);
    cues.into_iter().for_each(StagedAttempt::succeeds);
    let end = soon(server.finished()).await;
    assert!(matches!(end, Err(ServeError::Store(StoreError::Corrupt(_)))), "{end:?}");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_attempts_whose_ends_can_not_be_kept_any_more() {
    let (home, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let (server, mut cues) = running(home.path(), &gate, 2).await;
    server.stopper().drain();
    gate.set(Mode::Fails);
    cues.remove(0).succeeds();
    let end = soon(server.finished()).await;
    assert!(matches!(end, Err(ServeError::Store(StoreError::Corrupt(_)))), "{end:?}");
}

#[tokio::test]
async fn a_server_whose_store_could_not_take_everything_says_so_and_exits_with_74() {
    let home = tempfile::tempdir().unwrap();
    let go = home.path().join("go");
    let configuration = home.path().join("jobmill.toml");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    let text = format!("[kinds.wait]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n");
    fs::write(&configuration, text).unwrap();
    let (data, port) = (home.path().join("data"), home.path().join("port"));
    let mut process = Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--drain-timeout", "500ms"])
        .arg("--config")
        .arg(&configuration)
        .arg("--data-dir")
        .arg(&data)
        .arg("--port-file")
        .arg(&port)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let listens = async {
        loop {
            match fs::read_to_string(&port) {
                Ok(address) => return address.trim().to_owned(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let address = soon(listens).await;
    let rig = Rig::connect(&address).await;
    let id = rig.submit(job("wait")).await.id;
    rig.reaches(&id, JobState::Running).await;
    // Another program has the database's lock.
    let other = rusqlite::Connection::open(data.join("jobmill.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    fs::write(&go, "").unwrap();
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (process.wait().unwrap().code(), said)
    });
    let (code, said) = tokio::time::timeout(TEST_TIMEOUT, ended).await.expect("it ends").unwrap();
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("the results of 1 attempts are lost"), "{said}");
    drop(other);

    let rig = Rig::start(Server::builder(with_queue(folder(&data), QUEUE, queue(0)))).await;
    let lost = rig.get(&id).await;
    assert_eq!(
        (lost.state(), lost.last_failure.unwrap().reason()),
        (JobState::BackingOff, FailureReason::Lost)
    );
    rig.stop().await;
}
