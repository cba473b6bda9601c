//! `kill -9` at random while a rate is spent as fast as it allows: no time has more starts than there are tokens, and
//! no kill gives a spent token back.
//!
//! 8 rounds by default. A long run, with the seed that an earlier one printed:
//! ```text
//! JOBMILL_CRASH_ROUNDS=200 JOBMILL_CRASH_SEED=7 cargo test --test wire rate_kills:: -- --nocapture
//! ```

use std::{fs, time::Duration};

use jobmill::proto::v1::{self, JobState, JobView};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    crash::{check_integrity, number},
    support::{Process, Rig, job},
};

const ROUNDS: u64 = 8;
/// The rate: this many starts a second on average, and at most this many at once.
const COUNT: usize = 40;
const BURST: usize = 10;
/// The time from a server's first answer to its kill.
const KILLED_AFTER_MS: std::ops::Range<u64> = 20..700;
/// Number of the jobs that wait after each start, more than the rate allows until the kill.
const JOBS: usize = 60;

/// Returns when the attempts of all jobs have started, in microseconds, in their order.
async fn starts(rig: &Rig) -> Vec<i64> {
    let mut starts = Vec::new();
    for found in rig.list(v1::JobFilter::default()).await {
        let whole = rig.look(&found.id, JobView::Full).await.unwrap();
        assert_eq!(whole.attempts.len(), whole.attempt as usize, "all attempts are told");
        starts.extend(whole.attempts.iter().map(|attempt| {
            let time = attempt.start_time.expect("a start");
            time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
        }));
    }
    starts.sort_unstable();
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_lets_more_start_than_the_rate_allows() {
    let rounds = number("JOBMILL_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("JOBMILL_CRASH_SEED").unwrap_or_else(|| rand::rng().random());
    println!("JOBMILL_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let (configuration, data) = (home.path().join("jobmill.toml"), home.path().join("data"));
    let text = format!(
        "
        [queues.default]
        consumers = 20
        [kinds.run]
        command = ['true']
        retry = {{ initial_delay = '1ms', max_delay = '1ms' }}
        [[limit]]
        name = 'rate'
        count = {COUNT}
        per = '1s'
        burst = {BURST}
        "
    );
    fs::write(&configuration, text).unwrap();
    let mut process = Process::start(&configuration, &data, &[]).await;
    for _ in 0..rounds {
        let rig = Rig::connect(&process.address).await;
        let queued = v1::JobFilter { states: vec![JobState::Queued.into()], ..Default::default() };
        let missing = JOBS.saturating_sub(rig.list(queued).await.len());
        if missing > 0 {
            rig.submit_batch(vec![v1::JobSpec { max_attempts: 1_000, ..job("run") }; missing]).await;
        }
        // A random delay, not a wait for an event: the moment of the kill is what is tested.
        tokio::time::sleep(Duration::from_millis(random.random_range(KILLED_AFTER_MS))).await;
        process.kill().await;
        check_integrity(&data);
        process = Process::start(&configuration, &data, &[]).await;
    }
    let rig = Rig::connect(&process.address).await;
    for found in rig.list(v1::JobFilter::default()).await {
        assert_eq!(rig.ends(&found.id).await.state(), JobState::Succeeded);
    }
    let starts = starts(&rig).await;
    for (first, begin) in starts.iter().enumerate() {
        for (last, end) in starts.iter().enumerate().skip(first) {
            let tokens = BURST as f64 + COUNT as f64 * (end - begin) as f64 / 1e6;
            let count = last - first + 1;
            // A microsecond is the precision of times.
            assert!(count as f64 <= tokens + 1e-3, "{count} starts in {} us", end - begin);
        }
    }
    println!("{rounds} rounds, {} starts", starts.len());
    process.kill().await;
}
