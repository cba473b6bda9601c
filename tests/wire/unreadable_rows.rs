//! Rows of the database that can't be read: they are set aside, and all others go on.

use std::path::Path;

use jobmill::{
    proto::v1::{self, JobState, SubmitOutcome},
    serve::Server,
    store::sqlite::{Checkup, check},
};
use rusqlite::Connection;
use tonic::Code;

use crate::{
    queues::in_queue,
    support::{
        QUEUE, Rig, Stage, defaults, describe, folder, ids, job, named, outcomes, queue, refusal, run_time,
        simple, soon, with_queue,
    },
};

/// Changes rows as a bad sector or an operator's mistake would.
fn damage(folder: &Path, sql: &str) {
    let connection = Connection::open(folder.join("jobmill.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// Returns the id of the job that was submitted as number `number`, from 0 on, in SQL.
fn nth(number: u32) -> String {
    format!("(SELECT id FROM job ORDER BY id LIMIT 1 OFFSET {number})")
}

fn settings(home: &Path) -> jobmill::settings::Settings {
    with_queue(with_queue(folder(home), "shelf", queue(0)), "other", queue(1))
}

/// Returns the rows that `jobmill doctor` lists as set aside.
fn set_aside(home: &Path) -> Vec<String> {
    match check(home).unwrap() {
        Checkup::InUse { set_aside } | Checkup::Checked { set_aside, .. } => set_aside.first,
        other => panic!("{other:?}"),
    }
}

async fn is_unreadable(rig: &Rig, id: &str) {
    let status = rig.find(id).await.unwrap_err();
    let refused = refusal(&status);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::DataLoss, "JOB_UNREADABLE"), "{status:?}");
    assert_eq!(refused.metadata["job_id"], id);
    assert!(status.message().contains(id) && status.message().contains("jobmill doctor"), "{status:?}");
}

#[tokio::test]
async fn one_unreadable_row_of_any_state_stops_no_start_and_the_others_go_on() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(settings(home.path()))).await;
    rig.pause("default").await;
    let waiting = rig.submit(job("echo")).await.id;
    let first_in_line = rig.submit(v1::JobSpec { priority: Some(9), ..job("echo") }).await.id;
    let running = rig.submit(job("echo")).await.id;
    let scheduled = rig.submit(v1::JobSpec { start: run_time(2_000_000_000), ..job("echo") }).await.id;
    let shelved = rig.submit(in_queue("shelf", "echo")).await.id;
    rig.stop().await;
    damage(
        home.path(),
        &format!(
            "UPDATE job SET rank = -500 WHERE id = {};
             UPDATE job SET state = 4, detail = NULL WHERE id = {};
             UPDATE job SET extras = '{{', detail = 0 WHERE id = {};
             UPDATE job SET retry = 'x' WHERE id = {};",
            nth(1),
            nth(2),
            nth(3),
            nth(4)
        ),
    );
    assert_eq!(set_aside(home.path()).len(), 4, "{:?}", set_aside(home.path()));

    let rig = Rig::start(simple(settings(home.path()))).await;
    rig.resume("default").await;
    rig.ends(&waiting).await;
    // Only the doctor has read this row so far.
    is_unreadable(&rig, &shelved).await;
    let next = rig.submit(job("echo")).await.id;
    rig.ends(&next).await;
    for id in [&first_in_line, &running, &scheduled, &shelved] {
        is_unreadable(&rig, id).await;
    }
    assert_eq!(rig.total().await, 2, "counts are of what can be read: {:?}", set_aside(home.path()));
    let found = set_aside(home.path());
    for id in [&first_in_line, &running, &scheduled, &shelved] {
        assert!(found.iter().any(|row| row.starts_with(&format!("job {id}: "))), "{found:?}");
    }
    rig.stop().await;
    Rig::start(simple(settings(home.path()))).await.stop().await;
}

#[tokio::test]
async fn a_row_that_becomes_unreadable_under_a_running_server_leaves_lists_and_its_watchers_hear_of_it() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(settings(home.path()))).await;
    let bad = rig.submit(in_queue("shelf", "echo")).await.id;
    let good = rig.submit(in_queue("shelf", "echo")).await.id;
    let mut watcher = rig.watch_ids(&[&bad]).await;
    damage(home.path(), &format!("UPDATE job SET failure = '[' WHERE id = {}", nth(0)));
    let listed = soon(rig.jobs.clone().list_jobs(v1::ListJobsRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), [good.as_str()]);
    // No call triggers it: the server's own check does.
    let rest = watcher.rest().await.unwrap();
    let rest: Vec<_> = rest.iter().map(describe).collect();
    assert!(rest.last().unwrap().contains("deleted"), "{rest:?}");
    is_unreadable(&rig, &bad).await;
    let status = rig.cancel(&bad).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    assert_eq!(
        rig.queue("shelf").await.stats.unwrap().counts.iter().map(|count| count.count).sum::<i64>(),
        1
    );
    assert_eq!(rig.cancel(&good).await.unwrap().state(), JobState::Cancelled);
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_of_a_job_that_can_not_be_read_is_no_new_job_and_not_gone() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(settings(home.path()))).await;
    let single = || named("single", in_queue("shelf", "echo"));
    let batch = || v1::SubmitBatchRequest {
        jobs: vec![in_queue("shelf", "echo"); 3],
        request_id: "batch".to_owned(),
        ..Default::default()
    };
    let first = soon(rig.jobs.clone().submit(single())).await.unwrap().into_inner();
    let batched = ids(soon(rig.jobs.clone().submit_batch(batch())).await.unwrap().into_inner().jobs);
    rig.delete(&batched[0]).await.unwrap();
    rig.stop().await;
    damage(home.path(), &format!("UPDATE job SET extras = '{{' WHERE id IN ({}, {})", nth(0), nth(1)));
    for _ in 0..2 {
        let rig = Rig::start(simple(settings(home.path()))).await;
        for id in [first.id(), &batched[1]] {
            is_unreadable(&rig, id).await;
        }
        let again = soon(rig.jobs.clone().submit(single())).await.unwrap().into_inner();
        assert_eq!((again.id(), again.outcome()), (first.id(), SubmitOutcome::Repeated));
        let again = soon(rig.jobs.clone().submit_batch(batch())).await.unwrap().into_inner();
        let expected = [SubmitOutcome::Gone, SubmitOutcome::Repeated, SubmitOutcome::Repeated];
        assert_eq!(outcomes(&again.jobs), expected);
        assert_eq!(rig.total().await, 1);
        rig.stop().await;
    }
}

#[tokio::test]
async fn unreadable_rows_of_queues_kinds_counts_and_retention_stop_no_start_either() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let start = || simple(settings(home.path())).handler("staged", defaults(), handler.clone());
    let rig = Rig::start(start()).await;
    rig.pause("other").await;
    let jobs =
        [rig.submit(in_queue("shelf", "echo")).await.id, rig.submit(in_queue("other", "staged")).await.id];
    rig.queues
        .clone()
        .create_queue(v1::CreateQueueRequest {
            name: "made".to_owned(),
            settings: None,
            ..Default::default()
        })
        .await
        .unwrap();
    let made = rig.submit(in_queue("made", "echo")).await.id;
    rig.ends(&made).await;
    rig.stop().await;
    damage(
        home.path(),
        "UPDATE queue SET consumers = -1 WHERE name = 'made';
         DELETE FROM kind WHERE name = 'echo';
         UPDATE queue SET name = CAST(x'ff' AS TEXT) WHERE name = 'shelf';
         UPDATE tally SET state = 99 WHERE state = 3;
         UPDATE retention SET one = 1, failed_us = failed_us;
         UPDATE sweep SET keep_us = -keep_us;
         UPDATE incarnation SET id = x'00';",
    );
    let rig = Rig::start(start()).await;
    rig.resume("other").await;
    soon(stage.next()).await.succeeds();
    assert_eq!(rig.ends(&jobs[1]).await.state(), JobState::Succeeded);
    assert!(rig.get(&jobs[0]).await.queue().starts_with("unreadable-queue-"));
    assert!(rig.get(&made).await.kind().starts_with("unreadable-kind-"));
    assert_eq!(rig.total().await, 3);
    let found = set_aside(home.path());
    for table in ["queue", "kind", "sweep"] {
        assert!(found.iter().any(|row| row.starts_with(table)), "{table}: {found:?}");
    }
    rig.stop().await;
    let rig = Rig::start(start()).await;
    assert_eq!(rig.total().await, 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_suspect_whose_row_becomes_unreadable_holds_up_no_other() {
    let home = tempfile::tempdir().unwrap();
    let start = || {
        let (handler, stage) = Stage::new();
        let settings = with_queue(folder(home.path()), QUEUE, queue(3));
        (Server::builder(settings).handler("stage", defaults(), handler), stage)
    };
    let rig = Rig::start(start().0).await;
    rig.pause(QUEUE).await;
    let ids = rig.submit_batch(vec![job("stage"); 2]).await;
    rig.stop().await;
    // As if both had run when the server crashed.
    damage(home.path(), "INSERT INTO suspect SELECT id FROM job");

    let (builder, mut stage) = start();
    let rig = Rig::start(builder).await;
    rig.resume(QUEUE).await;
    let first = stage.next().await;
    assert_eq!(first.attempt.id().to_string(), ids[0]);
    damage(home.path(), &format!("UPDATE job SET retry = 'x' WHERE id = {}", nth(0)));
    is_unreadable(&rig, &ids[0]).await;
    let second = soon(stage.next()).await;
    assert_eq!(second.attempt.id().to_string(), ids[1]);
    second.succeeds();
    assert_eq!(rig.ends(&ids[1]).await.state(), JobState::Succeeded);
    first.succeeds();
    rig.stop().await;
    let left: i64 = Connection::open(home.path().join("jobmill.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM suspect", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}
