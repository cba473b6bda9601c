//! Changes of the data folder behind the server's back.

use std::{fs, path::Path};

use jobmill::{
    handle::JobRequest,
    serve::{ServeError, Server},
    store::{Missing, StoreError},
};
use rusqlite::Connection;

use crate::support::{Rig, folder, job, queue, simple, soon, with_queue};

/// Creates a folder in which a server has stored three jobs and was killed: its log is not in the database yet.
async fn after_a_crash(home: &Path) -> Vec<String> {
    let rig = Rig::start(simple(with_queue(folder(&home.join("data")), "shelf", queue(0)))).await;
    let ids = rig.submit_batch(vec![crate::queues::in_queue("shelf", "echo"); 3]).await;
    let crashed = home.join("crashed");
    fs::create_dir(&crashed).unwrap();
    for file in ["jobmill.db", "jobmill.db-wal", "jobmill.mark"] {
        fs::copy(home.join("data").join(file), crashed.join(file)).unwrap();
    }
    rig.stop().await;
    ids
}

fn start_on(path: &Path) -> jobmill::serve::ServerBuilder {
    simple(with_queue(folder(path), "shelf", queue(0)))
}

async fn refusal_to_start(path: &Path) -> (Missing, String) {
    match soon(start_on(path).start()).await {
        Err(ServeError::Store(error @ StoreError::Lost { what, .. })) => (what, error.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Starts with the loss accepted; returns the number of jobs left.
async fn total_with_loss_accepted(path: &Path) -> i64 {
    let mut settings = with_queue(folder(path), "shelf", queue(0));
    settings.disk.accept_loss = true;
    let rig = Rig::start(simple(settings)).await;
    let total = rig.total().await;
    rig.stop().await;
    total
}

/// Starts a server, applies `happens` to its folder, and returns the error with which the server ends.
async fn ends_after(happens: impl FnOnce(&Path)) -> StoreError {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = soon(simple(folder(&data)).without_listener().start()).await.unwrap();
    soon(server.handle().submit(JobRequest::new("echo"))).await.unwrap();
    happens(&data);
    match soon(server.finished()).await {
        Err(ServeError::Store(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_whose_folder_is_deleted_stops_by_itself_though_nothing_is_submitted() {
    let error = ends_after(|data| fs::remove_dir_all(data).unwrap()).await;
    assert!(matches!(&error, StoreError::Gone { .. }), "{error:?}");
    assert!(error.to_string().contains("was deleted or moved away"), "{error}");
}

#[tokio::test]
async fn a_server_whose_folder_is_moved_away_stops_though_another_one_takes_its_place() {
    let error = ends_after(|data| {
        fs::rename(data, data.with_extension("old")).unwrap();
        fs::create_dir(data).unwrap();
    })
    .await;
    assert!(error.to_string().contains("data was replaced"), "{error}");
}

#[tokio::test]
async fn a_server_whose_database_or_log_is_replaced_or_emptied_stops() {
    let replaced = |file: &'static str| {
        move |data: &Path| {
            fs::copy(data.join(file), data.join("copy")).unwrap();
            fs::rename(data.join("copy"), data.join(file)).unwrap();
        }
    };
    for file in ["jobmill.db", "jobmill.db-wal"] {
        let error = ends_after(replaced(file)).await;
        assert!(error.to_string().contains(&format!("{file} was replaced")), "{error}");
        let error = ends_after(|data| fs::remove_file(data.join(file)).unwrap()).await;
        assert!(error.to_string().contains(&format!("{file} was deleted")), "{error}");
    }
    let error = ends_after(|data| drop(fs::File::create(data.join("jobmill.db")).unwrap())).await;
    // The server's own check or SQLite may find it first.
    assert!(matches!(error, StoreError::Gone { .. } | StoreError::Damaged(_)), "{error:?}");
}

#[tokio::test]
async fn no_second_server_starts_in_a_folder_whatever_is_deleted_in_it() {
    let home = tempfile::tempdir().unwrap();
    let server = soon(simple(folder(home.path())).without_listener().start()).await.unwrap();
    for entry in fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("jobmill.db") {
            fs::remove_file(path).unwrap();
        }
    }
    let second = soon(simple(folder(home.path())).without_listener().start()).await;
    assert!(matches!(second, Err(ServeError::Store(StoreError::InUse(_)))), "{second:?}");
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

#[tokio::test]
async fn a_start_refuses_a_database_whose_log_was_removed_after_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let ids = after_a_crash(home.path()).await;
    let crashed = home.path().join("crashed");
    let log = fs::read(crashed.join("jobmill.db-wal")).unwrap();
    fs::remove_file(crashed.join("jobmill.db-wal")).unwrap();

    let (missing, text) = refusal_to_start(&crashed).await;
    assert!(matches!(missing, Missing::Changes { .. }), "{missing:?}");
    assert!(text.contains("--accept-loss") && text.contains("was acknowledged"), "{text}");
    assert_eq!(refusal_to_start(&crashed).await.0, missing, "a refusal changes nothing");

    // With the file back in place, nothing is lost.
    fs::write(crashed.join("jobmill.db-wal"), log).unwrap();
    let rig = Rig::start(start_on(&crashed)).await;
    for id in &ids {
        rig.get(id).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_start_goes_on_with_what_is_there_where_the_loss_is_accepted_and_the_next_one_asks_no_more() {
    let home = tempfile::tempdir().unwrap();
    after_a_crash(home.path()).await;
    let crashed = home.path().join("crashed");
    fs::remove_file(crashed.join("jobmill.db-wal")).unwrap();
    assert_eq!(total_with_loss_accepted(&crashed).await, 0);
    Rig::start(start_on(&crashed)).await.stop().await;
}

#[tokio::test]
async fn a_start_never_makes_a_new_store_where_the_database_is_gone_or_empty() {
    let home = tempfile::tempdir().unwrap();
    after_a_crash(home.path()).await;
    for (name, empty) in [("emptied", true), ("removed", false)] {
        for log in [true, false] {
            let path = home.path().join(format!("{name}-{log}"));
            fs::create_dir(&path).unwrap();
            fs::copy(home.path().join("crashed/jobmill.mark"), path.join("jobmill.mark")).unwrap();
            if log {
                fs::copy(home.path().join("crashed/jobmill.db-wal"), path.join("jobmill.db-wal")).unwrap();
            }
            if empty {
                fs::write(path.join("jobmill.db"), "").unwrap();
            }
            assert_eq!(refusal_to_start(&path).await.0, Missing::Everything);
            assert!(!log || path.join("jobmill.db-wal").exists(), "the log may still be of use");
        }
    }
    // A log without a database also shows that there was one.
    let path = home.path().join("log");
    fs::create_dir(&path).unwrap();
    fs::copy(home.path().join("crashed/jobmill.db-wal"), path.join("jobmill.db-wal")).unwrap();
    assert_eq!(refusal_to_start(&path).await.0, Missing::Everything);
    assert_eq!(total_with_loss_accepted(&path).await, 0);
}

#[tokio::test]
async fn a_start_refuses_the_database_of_another_store() {
    let home = tempfile::tempdir().unwrap();
    after_a_crash(home.path()).await;
    Rig::start(start_on(&home.path().join("other"))).await.stop().await;
    fs::copy(home.path().join("crashed/jobmill.mark"), home.path().join("other/jobmill.mark")).unwrap();
    assert_eq!(refusal_to_start(&home.path().join("other")).await.0, Missing::AnotherStore);
}

#[tokio::test]
async fn a_restored_backup_and_an_operators_own_checkpoint_start_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let ids = after_a_crash(home.path()).await;
    let crashed = home.path().join("crashed");
    let connection = Connection::open(crashed.join("jobmill.db")).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let rig = Rig::start(start_on(&crashed)).await;
    assert_eq!(rig.total().await, 3);
    let backup = home.path().join("backup");
    jobmill::store::sqlite::backup(&crashed, &backup, |_, _| {}).unwrap();
    rig.submit(job("echo")).await;
    rig.stop().await;

    // The backup's files replace those of the server: the newest job is gone, as intended.
    let _ = fs::remove_file(crashed.join("jobmill.db-wal"));
    for entry in fs::read_dir(&backup).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, crashed.join(path.file_name().unwrap())).unwrap();
    }
    let rig = Rig::start(start_on(&crashed)).await;
    assert_eq!(rig.total().await, 3);
    rig.get(&ids[0]).await;
    rig.stop().await;
    let server = soon(Server::builder(folder(&backup)).without_listener().start()).await.unwrap();
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}
