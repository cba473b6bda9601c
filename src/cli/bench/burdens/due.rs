//! Many jobs that fall due at once.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::ensure;
use jobmill::{
    clock::{Clock, Timestamp},
    proto::v1::{self, JobState},
};

use super::{
    super::{latencies::now, report::number, session::Bench, wire::job},
    aside::{ASIDE, Aside},
    burden::Burden,
};

/// Time limit for submitting the jobs.
const FILLING_TIME: Duration = Duration::from_secs(3);

/// Jobs with the same `run_time`.
pub(super) struct DueJobs {
    aside: Aside,
    jobs: u64,
    due: Timestamp,
}

impl DueJobs {
    pub(super) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        let aside = Aside::start(&bench.place, v1::QueueSettings::default()).await?;
        Ok(DueJobs { aside, jobs: bench.sizes.burdens.due, due: Timestamp::MAX })
    }
}

impl Burden for DueJobs {
    fn name(&self) -> String {
        format!("{} jobs fall due", number(self.jobs as f64))
    }

    fn aside(&mut self) -> &mut Aside {
        &mut self.aside
    }

    async fn prepare(&mut self, _bench: &Bench, quiet: Duration) -> anyhow::Result<()> {
        // Jobs of the previous round that have not run yet are deleted.
        self.aside.purge().await?;
        self.due = Clock::System.now().after(FILLING_TIME + quiet);
        let micros = self.due.as_micros();
        let run_time = prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
        };
        let start = Some(v1::job_spec::Start::RunTime(run_time));
        let job = v1::JobSpec { start, ..job(ASIDE, 0) };
        self.aside.fill(job, self.jobs).await
    }

    async fn happen(&mut self) -> anyhow::Result<Range<Instant>> {
        let waiting = self.aside.count(&[JobState::Scheduled]).await?;
        ensure!(waiting == self.jobs, "jobs fell due too early: it took too long to submit them");
        let left = self.due.since(Clock::System.now());
        let begin = now() + left;
        tokio::time::sleep(left).await;
        self.aside.until_count(&[JobState::Scheduled], 0).await?;
        Ok(begin..now())
    }

    fn into_aside(self) -> Aside {
        self.aside
    }
}
