//! The data folder: backups of a running server, compaction, and a file system that fills up.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use jobmill::{
    engine::OfferRefusal,
    execute::{Attempt, HandlerError},
    handle::{Handle, JobRequest, SubmitError},
    job::{Output, StateName},
    proto::v1::{self, JobState, WatchResync},
    serve::Server,
    settings::{DiskSettings, KindDefaults},
    store::{
        StoreError,
        sqlite::{self, CopyError},
    },
};
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::support::{Rig, Stage, defaults, folder, job, queue, refusal, simple, soon, with_queue};

fn everything() -> v1::WatchStatusRequest {
    v1::WatchStatusRequest { filter: Some(v1::JobFilter::default()), ..Default::default() }
}

fn sound(folder: &Path) -> bool {
    let connection = Connection::open(folder.join("jobmill.db")).unwrap();
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    found == "ok"
}

#[tokio::test]
async fn a_backup_of_a_busy_server_has_what_was_acknowledged_before_it() {
    let home = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let mut settings = with_queue(folder(home.path()), "shelf", queue(0));
    // A long deadline, so that everything that was running when the copy ended is reported even on a busy machine.
    settings.drain_timeout = Duration::from_secs(60);
    let rig = Rig::start(simple(settings)).await;
    let mut before = rig.submit_batch(vec![crate::queues::in_queue("shelf", "echo"); 500]).await;
    before.push(rig.submit(job("echo")).await.id);
    let mut writer = rig.jobs.clone();
    let writing = tokio::spawn(async move {
        loop {
            let spec = v1::JobSpec { payload: Some(v1::Payload::of(vec![1; 5_000])), ..job("echo") };
            if writer.submit(crate::support::submission(spec)).await.is_err() {
                return;
            }
        }
    });
    let (from, into) = (home.path().to_owned(), copies.path().join("monday"));
    let mut steps = 0;
    let to = into.clone();
    let copied = tokio::task::spawn_blocking(move || sqlite::backup(&from, &to, |_, _| steps += 1));
    let copied = soon(copied).await.unwrap().unwrap();
    writing.abort();
    assert!(copied.jobs >= before.len() as u64 && copied.bytes > 0, "{copied:?}");
    assert!(matches!(sqlite::backup(home.path(), &into, |_, _| {}), Err(CopyError::NotEmpty(_))));
    rig.stop().await;

    assert!(sound(&into));
    let mut names: Vec<_> =
        std::fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["jobmill.db", "jobmill.mark"]);
    let rig = Rig::start(simple(with_queue(folder(&into), "shelf", queue(0)))).await;
    for id in before {
        rig.get(&id).await;
    }
    let again = rig.submit(job("echo")).await.id;
    rig.ends(&again).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_token_from_before_a_backup_holds_after_its_restore_and_a_later_one_does_not() {
    let home = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let into = copies.path().join("copy");
    let rig = Rig::start(simple(folder(home.path()))).await;
    let first = rig.submit(job("echo")).await.id;
    rig.ends(&first).await;
    let mut watcher = rig.watch(everything()).await;
    watcher.synced().await;
    let early = watcher.token.clone();
    sqlite::backup(home.path(), &into, |_, _| {}).unwrap();
    let second = rig.submit(job("echo")).await.id;
    watcher.until(JobState::Succeeded).await;
    let late = watcher.token.clone();
    rig.stop().await;

    let rig = Rig::start(simple(folder(&into))).await;
    assert_eq!(rig.find(&second).await.unwrap_err().code(), Code::NotFound);
    let request = |token: &str| v1::WatchStatusRequest {
        resume_token: token.to_owned(),
        resync: WatchResync::Fail.into(),
        ..everything()
    };
    let refused = soon(rig.jobs.clone().watch_status(request(&late))).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "RESUME_TOKEN_TOO_OLD");
    let mut watcher = rig.watch(request(&early)).await;
    let third = rig.submit(job("echo")).await.id;
    assert_eq!(watcher.until(JobState::Succeeded).await.id, third);
    rig.stop().await;
}

#[tokio::test]
async fn no_lease_of_a_history_that_a_restore_undid_is_given_again() {
    let home = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let into = copies.path().join("copy");
    let start = async |folder_of: &Path| {
        let (handler, stage) = Stage::new();
        (Rig::start(Server::builder(folder(folder_of)).handler("stage", defaults(), handler)).await, stage)
    };
    let lease = async |rig: &Rig, stage: &mut Stage| {
        let id = rig.submit(job("stage")).await.id;
        let cue = stage.next().await;
        let lease = cue.attempt.lease().as_i64();
        cue.succeeds();
        rig.ends(&id).await;
        lease
    };
    let (rig, mut stage) = start(home.path()).await;
    lease(&rig, &mut stage).await;
    sqlite::backup(home.path(), &into, |_, _| {}).unwrap();
    let mut undone = 0;
    for _ in 0..10 {
        undone = lease(&rig, &mut stage).await;
    }
    rig.stop().await;

    let (rig, mut stage) = start(&into).await;
    let next = lease(&rig, &mut stage).await;
    assert!(next > undone, "{next} may still report for the attempt that had {undone}");
    rig.stop().await;
}

#[tokio::test]
async fn compacting_needs_a_stopped_server_and_gives_space_back() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(with_queue(folder(home.path()), "shelf", queue(0)))).await;
    let spec = v1::JobSpec {
        payload: Some(v1::Payload::of(vec![1; 10_000])),
        ..crate::queues::in_queue("shelf", "echo")
    };
    rig.submit_batch(vec![spec; 300]).await;
    let kept = rig.submit(job("echo")).await.id;
    rig.ends(&kept).await;
    let mut queues = rig.queues.clone();
    let name = "shelf".to_owned();
    soon(queues.purge_queue(v1::PurgeQueueRequest { name, ..Default::default() })).await.unwrap();
    let refused = sqlite::compact(home.path());
    assert!(matches!(refused, Err(CopyError::Store(StoreError::InUse(_)))), "{refused:?}");
    rig.stop().await;

    let (before, after) = sqlite::compact(home.path()).unwrap();
    assert!(before > 3_000_000 && after < 1_000_000, "{before} {after}");
    assert!(sound(home.path()));
    let rig = Rig::start(simple(folder(home.path()))).await;
    rig.get(&kept).await;
    rig.stop().await;
    assert!(matches!(sqlite::compact(Path::new("/nowhere")), Err(CopyError::NoStore(_))));
}

/// A small file system, which is unmounted on drop.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    /// Mounts a file system; returns `None` where this user may not.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|done| done.status.success()).then(|| SmallFileSystem(folder))
    }

    /// Takes all the space that is left.
    fn stuff(&self) -> PathBuf {
        let path = self.0.path().join("stuffing");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

async fn submit_until_refused(handle: &Handle) -> Vec<jobmill::handle::Submitted> {
    let mut taken = Vec::new();
    loop {
        match soon(handle.submit(JobRequest::new("work").payload(vec![1; 60_000]))).await {
            Ok(submitted) => taken.push(submitted),
            Err(SubmitError::Refused(OfferRefusal::DiskFull)) => return taken,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn on_a_file_system_that_fills_up_running_jobs_end_and_submissions_resume_when_there_is_space() {
    let Some(small) = SmallFileSystem::mount(32) else {
        eprintln!("skipped: this user may not mount a small file system; tests/faults tries the rest");
        return;
    };
    let data = small.0.path().join("data");
    let others = small.0.path().join("others");
    std::fs::write(&others, vec![1; 8 << 20]).unwrap();
    let mut settings = folder(&data);
    settings.disk =
        DiskSettings { ballast_bytes: 3 << 20, min_free_bytes: 4 << 20, ..DiskSettings::default() };
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |_: Attempt| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.map_err(|_| HandlerError::permanent("closed"))?.forget();
                Ok::<_, HandlerError>(Output::default())
            }
        }
    };
    let builder = || {
        Server::builder(settings.clone())
            .handler("work", KindDefaults::default(), handler.clone())
            .without_listener()
    };
    let server = soon(builder().start()).await.unwrap();
    let handle = server.handle();
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(soon(handle.submit(JobRequest::new("work"))).await.unwrap());
    }
    // Jobs fill the disk up to the low mark, and then another file takes the rest.
    let mut taken = submit_until_refused(&handle).await;
    assert!(taken.len() > 20, "{} jobs", taken.len());
    let stuffing = small.stuff();

    gate.add_permits(4);
    for job in &running {
        let outcome = soon(job.outcome()).await.unwrap();
        assert_eq!(outcome.job.state.name(), StateName::Succeeded, "its end has the ballast's space");
    }
    let cancelled = taken.pop().unwrap();
    soon(handle.cancel(cancelled.id())).await.unwrap();
    assert!(soon(handle.get(cancelled.id())).await.unwrap().unwrap().job.state.is_done());
    assert!(submit_until_refused(&handle).await.is_empty());

    std::fs::remove_file(stuffing).unwrap();
    std::fs::remove_file(others).unwrap();
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for job in &taken {
        soon(job.outcome()).await.unwrap().into_result().unwrap();
    }
    let resumed = soon(async {
        loop {
            match handle.submit(JobRequest::new("work")).await {
                Ok(submitted) => return submitted,
                Err(SubmitError::Refused(OfferRefusal::DiskFull)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await;
    soon(resumed.outcome()).await.unwrap().into_result().unwrap();
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
    assert!(sound(&data));
    let server = soon(builder().start()).await.unwrap();
    for job in running.iter().chain([&cancelled, &resumed]) {
        assert!(soon(server.handle().get(job.id())).await.unwrap().is_some());
    }
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}
