//! Retention that is behind: many ended jobs whose time is over.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::ensure;
use jobmill::proto::v1::{self, JobState};

use super::{
    super::{latencies::now, report::number, server::CONSUMERS, session::Bench, wire::job},
    aside::{ASIDE, Aside, pause},
    burden::Burden,
};

/// Retention time of ended jobs during the preparation.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Time limit of a round. It need not wait until retention has caught up.
const WATCHED_MAX: Duration = Duration::from_secs(10);

/// Ended jobs, overdue all at once by a change of their queue's retention time.
pub(super) struct OverdueJobs {
    aside: Aside,
    jobs: u64,
}

impl OverdueJobs {
    pub(super) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        let jobs = bench.sizes.burdens.overdue;
        let settings = v1::QueueSettings {
            max_jobs: Some(i64::try_from(jobs)?),
            consumers: Some(i32::try_from(CONSUMERS)?),
            ..v1::QueueSettings::default()
        };
        Ok(OverdueJobs { aside: Aside::start(&bench.place, settings).await?, jobs })
    }
}

impl Burden for OverdueJobs {
    fn name(&self) -> String {
        format!("retention is behind by {} jobs", number(self.jobs as f64))
    }

    fn aside(&mut self) -> &mut Aside {
        &mut self.aside
    }

    async fn prepare(&mut self, _bench: &Bench, _quiet: Duration) -> anyhow::Result<()> {
        self.aside.keep_succeeded(KEPT).await?;
        // A round may end before all of its jobs are deleted.
        let left = self.aside.count(&[]).await?;
        self.aside.fill(job(ASIDE, 0), self.jobs).await?;
        self.aside.until_count(&[JobState::Succeeded], left + self.jobs).await
    }

    async fn happen(&mut self) -> anyhow::Result<Range<Instant>> {
        let before = self.aside.count(&[]).await?;
        let begin = now();
        self.aside.keep_succeeded(Duration::ZERO).await?;
        loop {
            let left = self.aside.count(&[]).await?;
            if left == 0 || begin.elapsed() > WATCHED_MAX {
                ensure!(left < before, "retention deletes nothing");
                return Ok(begin..now());
            }
            pause().await;
        }
    }

    fn into_aside(self) -> Aside {
        self.aside
    }
}
