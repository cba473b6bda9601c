//! A program that ends its runtime before its server: nothing panics, and accepted jobs exist at the next start.

use std::{
    fs::File,
    panic,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use jobmill::{
    handle::{Handle, JobRequest, SubmitError},
    job::StateName,
    serve::Server,
    settings::StoreSettings,
};
use rustix::fs::FlockOperation;
use tokio::runtime::{Builder, Runtime};

use super::{TEST_TIMEOUT, builder, occupy, soon};

/// Collects panic messages of the servers' threads. Threads are filtered by name, because other tests run in this
/// process.
fn panics_of_servers() -> Arc<Mutex<Vec<String>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let before = panic::take_hook();
    let telling = Arc::clone(&told);
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        if ["commit", "checkpoint", "ends early"].contains(&thread.name().unwrap_or_default()) {
            telling.lock().unwrap().push(info.to_string());
        }
        before(info);
    }));
    told
}

fn runtimes() -> [Runtime; 2] {
    let many = Builder::new_multi_thread().worker_threads(2).thread_name("ends early").enable_all().build();
    let one = Builder::new_current_thread().thread_name("ends early").enable_all().build();
    [many.unwrap(), one.unwrap()]
}

/// Returns once no server holds the folder's lock.
fn is_free(folder: &Path) {
    let lock = File::open(folder).unwrap();
    let (sender, freed) = mpsc::sync_channel(1);
    thread::spawn(move || sender.send(rustix::fs::flock(&lock, FlockOperation::LockExclusive)));
    freed.recv_timeout(TEST_TIMEOUT).expect("the server keeps its folder").unwrap();
}

async fn busy(folder: &Path) -> (Server, Handle) {
    let server = builder(StoreSettings::Folder(folder.to_owned())).start().await.unwrap();
    let handle = server.handle();
    // At this point the committer waits for a due time, an attempt runs, and a watch is open.
    let later = JobRequest::new("shout").payload("x").delay(Duration::from_secs(3600));
    let later = soon(handle.submit(later)).await.unwrap();
    soon(later.watch().next()).await.unwrap().unwrap();
    let (_, release) = occupy(&handle).await;
    std::mem::forget(release);
    (server, handle)
}

#[test]
fn a_runtime_that_ends_before_its_server_panics_no_thread_and_leaves_the_jobs_to_the_next_start() {
    let panics = panics_of_servers();
    for runtime in runtimes() {
        let dir = tempfile::tempdir().unwrap();
        let (server, handle) = runtime.block_on(busy(dir.path()));
        runtime.shutdown_background();
        drop(server);
        // The program's handle outlives its runtime.
        is_free(dir.path());

        let next = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        next.block_on(async {
            let refused = soon(handle.submit(JobRequest::new("shout").payload("x"))).await;
            assert!(matches!(refused, Err(SubmitError::Stopped(_))), "{refused:?}");
            let server = builder(StoreSettings::Folder(dir.path().to_owned())).start().await.unwrap();
            let handle = server.handle();
            let first = soon(handle.submit(JobRequest::new("shout").payload("hello"))).await.unwrap();
            let outcome = soon(first.outcome()).await.unwrap();
            assert_eq!(outcome.job.state.name(), StateName::Succeeded);
            server.stopper().drain();
            soon(server.finished()).await.unwrap();
        });
    }
    assert_eq!(*panics.lock().unwrap(), Vec::<String>::new());
}
