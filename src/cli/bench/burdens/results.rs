//! Many attempts that end at once, each with a large result.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::ensure;
use jobmill::proto::v1::{self, JobState};

use super::{
    super::{gate::RESULT, latencies::now, report::number, session::Bench, wire::job},
    aside::{ASIDE, Aside},
    burden::Burden,
};

/// Running attempts, ended together by the server's gate.
pub(super) struct Results {
    aside: Aside,
    attempts: u64,
}

impl Results {
    pub(super) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        let attempts = bench.sizes.burdens.results;
        Ok(Results { aside: Self::start(bench, attempts).await?, attempts })
    }

    async fn start(bench: &Bench, attempts: u64) -> anyhow::Result<Aside> {
        let consumers = Some(i32::try_from(attempts)?);
        Aside::start(&bench.place, v1::QueueSettings { consumers, ..v1::QueueSettings::default() }).await
    }
}

impl Burden for Results {
    fn name(&self) -> String {
        format!("{} results of 1 MiB come in", number(self.attempts as f64))
    }

    fn aside(&mut self) -> &mut Aside {
        &mut self.aside
    }

    async fn prepare(&mut self, bench: &Bench, _quiet: Duration) -> anyhow::Result<()> {
        if self.aside.count(&[JobState::Succeeded]).await? > 0 {
            // Results of several rounds would pile up in one store.
            let next = Self::start(bench, self.attempts).await?;
            std::mem::replace(&mut self.aside, next).end().await?;
        }
        let job = v1::JobSpec { kind: RESULT.to_owned(), ..job(ASIDE, 0) };
        self.aside.fill(job, self.attempts).await?;
        self.aside.until_at_gate(self.attempts).await
    }

    async fn happen(&mut self) -> anyhow::Result<Range<Instant>> {
        let begin = now();
        let ended = self.aside.subject.process.open_gate().await?;
        ensure!(ended == self.attempts, "{ended} of {} attempts ended together", self.attempts);
        self.aside.until_count(&[JobState::Succeeded], self.attempts).await?;
        Ok(begin..now())
    }

    fn into_aside(self) -> Aside {
        self.aside
    }
}
