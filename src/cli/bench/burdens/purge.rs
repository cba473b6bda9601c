//! A purge of many jobs.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::ensure;
use jobmill::proto::v1;

use super::{
    super::{latencies::now, report::number, session::Bench, wire::job},
    aside::{ASIDE, Aside},
    burden::Burden,
};

/// Waiting jobs, purged by one call.
pub(super) struct Purge {
    aside: Aside,
    jobs: u64,
}

impl Purge {
    pub(super) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        let jobs = bench.sizes.burdens.purged;
        let settings = v1::QueueSettings {
            max_jobs: Some(i64::try_from(jobs)?),
            consumers: Some(0),
            ..v1::QueueSettings::default()
        };
        Ok(Purge { aside: Aside::start(&bench.place, settings).await?, jobs })
    }
}

impl Burden for Purge {
    fn name(&self) -> String {
        format!("{} jobs are purged", number(self.jobs as f64))
    }

    fn aside(&mut self) -> &mut Aside {
        &mut self.aside
    }

    async fn prepare(&mut self, _bench: &Bench, _quiet: Duration) -> anyhow::Result<()> {
        self.aside.fill(job(ASIDE, 0), self.jobs).await
    }

    async fn happen(&mut self) -> anyhow::Result<Range<Instant>> {
        let begin = now();
        let purged = self.aside.purge().await?;
        let span = begin..now();
        ensure!(purged == self.jobs, "{purged} of {} jobs were purged", self.jobs);
        Ok(span)
    }

    fn into_aside(self) -> Aside {
        self.aside
    }
}
