//! `kill -9` at random while schedules fire every second: each instant creates one job, and none is missing.
//!
//! 10 rounds by default. A long run, with the seed that an earlier one printed:
//! ```text
//! JOBMILL_CRASH_ROUNDS=1000 JOBMILL_CRASH_SEED=7 cargo test --test wire schedule_kills:: -- --nocapture
//! ```

use std::{collections::BTreeSet, fs, time::Duration};

use jobmill::{
    clock::Clock,
    proto::v1::{self, ScheduleOrigin},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    crash::{check_integrity, number},
    schedules::{create, every, get, status, until},
    support::{Process, Rig, job},
};

const ROUNDS: u64 = 10;
/// Number of schedules that the file declares, and of those that are created by calls.
const SCHEDULES: usize = 8;
/// The time from a server's first answer to its kill.
const KILLED_AFTER_MS: std::ops::Range<u64> = 50..700;

/// Returns the instants of a schedule's jobs, in microseconds, oldest first.
async fn instants(rig: &Rig, name: &str) -> Vec<i64> {
    let labels = [("jobmill/schedule".to_owned(), name.to_owned())].into();
    let jobs = rig.list(v1::JobFilter { labels, ..Default::default() }).await;
    let by = jobs.into_iter().map(|job| job.schedule.expect("a schedule"));
    let scheduled = by.inspect(|by| assert_eq!(by.origin(), ScheduleOrigin::Scheduled));
    let mut instants: Vec<_> = scheduled.map(|by| micros(by.time)).collect();
    instants.sort_unstable();
    instants
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("a time");
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_an_instant_or_runs_it_twice() {
    const SECOND: i64 = 1_000_000;

    let rounds = number("JOBMILL_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("JOBMILL_CRASH_SEED").unwrap_or_else(|| rand::rng().random());
    println!("JOBMILL_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let (configuration, data) = (home.path().join("jobmill.toml"), home.path().join("data"));
    let declared = |n: usize| {
        format!(
            "[[schedule]]\nname = 'declared-{n}'\nkind = 'run'\nevery = '1s'\noverlap = 'allow'\nlate = 'all'\n"
        )
    };
    let text =
        format!("[kinds.run]\ncommand = ['true']\n{}", (0..SCHEDULES).map(declared).collect::<String>());
    fs::write(&configuration, text).unwrap();
    let mut process = Process::start(&configuration, &data, &[]).await;
    let rig = Rig::connect(&process.address).await;
    for n in 0..SCHEDULES {
        let mut schedule = v1::Schedule { job: Some(job("run")), ..every(&format!("created-{n}"), 1) };
        let spec = schedule.spec.as_mut().unwrap();
        spec.overlap = v1::OverlapPolicy::Allow.into();
        spec.late = v1::LatePolicy::All.into();
        create(&rig, schedule).await.unwrap();
    }
    for _ in 0..rounds {
        // A random delay, not a wait for an event: the moment of the kill is what is tested.
        tokio::time::sleep(Duration::from_millis(random.random_range(KILLED_AFTER_MS))).await;
        process.kill().await;
        check_integrity(&data);
        process = Process::start(&configuration, &data, &[]).await;
    }
    let rig = Rig::connect(&process.address).await;
    let end = Clock::System.now().as_micros();
    let mut all = 0;
    for name in ["declared", "created"].iter().flat_map(|of| (0..SCHEDULES).map(move |n| format!("{of}-{n}")))
    {
        let has_come = |schedule: &v1::Schedule| {
            status(schedule).last.as_ref().is_some_and(|last| micros(last.time) >= end)
        };
        let schedule = until(&rig, &name, has_come).await;
        assert_eq!(schedule.declared, name.starts_with("declared"));
        let made = micros(get(&rig, &name).await.create_time);
        let found: Vec<_> =
            instants(&rig, &name).await.into_iter().filter(|instant| *instant <= end).collect();
        let distinct: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "{name}: an instant ran twice: {found:?}");
        let expected: Vec<_> =
            (1..).map(|n| made + n * SECOND).take_while(|instant| *instant <= end).collect();
        assert_eq!(found, expected, "{name}");
        all += found.len();
    }
    assert!(all >= SCHEDULES, "{all} instants");
    println!("{rounds} rounds, {all} instants");
    process.kill().await;
}
