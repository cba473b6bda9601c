//! The cost of limits: jobs under them, beside the same without.

use jobmill::proto::v1::{self, JobState, limit, limit_service_client::LimitServiceClient};

use super::{
    backlog::thousands,
    end_to_end::{BY_BATCHES, EndToEnd},
    figures::Series,
    load::Calls,
    report::Bounds,
    session::Bench,
    subject::{FILLING, MeasuredServer},
    turns::create_queue,
    wire::{ENDPOINT, Method, TENANT, batch_of, job},
};

const QUEUE: &str = "limits";
/// The value of the label of the jobs that wait at a limit's cap.
const STUCK: &str = "stuck";
/// Number of jobs of each tenant in a backlog.
const JOBS_OF_TENANT: u64 = 20;
/// Number of values of the labels of two limits that cross.
const CROSSING: (usize, usize) = (1_000, 100);
/// Number of jobs that may run at once under a value that does not hold up any.
const AMPLE: i32 = 1_000_000;

impl Bench {
    /// Measures jobs under limits.
    pub(super) async fn limits(&mut self) -> anyhow::Result<()> {
        self.by_label().await?;
        self.at_the_cap().await?;
        self.crossing().await
    }

    /// Jobs of many tenants under a limit by tenant that has places for all of them.
    async fn by_label(&mut self) -> anyhow::Result<()> {
        let tenants = usize::try_from(self.sizes.warming / JOBS_OF_TENANT)?;
        let (limited, free) = self.pair_of_servers().await?;
        create_limit(&limited, "tenants", TENANT, AMPLE).await?;
        let load = EndToEnd { tenants, ..BY_BATCHES.to(QUEUE) };
        let series = self.beside_free(&limited, &free, load, "under a limit by label").await?;
        let name = format!(
            "end to end, by batches of 1,000, a limit by label of {} values",
            thousands(tenants as u64)
        );
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.85, 0.6)));
        limited.end().await?;
        free.end().await
    }

    /// Jobs beside many that wait at the cap of a limit.
    async fn at_the_cap(&mut self) -> anyhow::Result<()> {
        let waiting = self.sizes.waiting;
        let (limited, free) = self.pair_of_servers().await?;
        create_limit(&limited, "tenants", TENANT, AMPLE).await?;
        let value = v1::LimitOverride {
            limit: "tenants".to_owned(),
            value: STUCK.to_owned(),
            rule: Some(v1::limit_override::Rule::MaxRunning(0)),
        };
        let request = v1::SetLimitOverrideRequest { r#override: Some(value), ..Default::default() };
        LimitServiceClient::connect(limited.uri.clone()).await?.set_limit_override(request).await?;
        self.step("filling a queue behind a limit".to_owned());
        let stuck =
            || v1::JobSpec { labels: [(TENANT.to_owned(), STUCK.to_owned())].into(), ..job(QUEUE, 0) };
        let body = batch_of((0..FILLING).map(|_| stuck()).collect());
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: FILLING };
        calls.make(&limited.uri, waiting.div_ceil(FILLING), body).await?;
        let series =
            self.beside_free(&limited, &free, BY_BATCHES.to(QUEUE), "beside jobs at a limit's cap").await?;
        limited.expect(QUEUE, Some(JobState::Queued), waiting.div_ceil(FILLING) * FILLING).await?;
        let name =
            format!("end to end, by batches of 1,000, {} waiting at a limit's cap", thousands(waiting));
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.95, 0.7)));
        limited.end().await?;
        free.end().await
    }

    /// Jobs under two limits whose values cross: about half of those under way wait for their tenant or their endpoint.
    async fn crossing(&mut self) -> anyhow::Result<()> {
        let (limited, free) = self.pair_of_servers().await?;
        create_limit(&limited, "tenants", TENANT, 2).await?;
        create_limit(&limited, "endpoints", ENDPOINT, 20).await?;
        let (tenants, endpoints) = CROSSING;
        let load = EndToEnd { tenants, endpoints, ..BY_BATCHES.to(QUEUE) };
        let series = self.beside_free(&limited, &free, load, "under two limits").await?;
        let tenants = thousands(tenants as u64);
        let name = format!("end to end, by batches of 1,000, two limits of {tenants} × {endpoints} values");
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.6, 0.3)));
        limited.end().await?;
        free.end().await
    }

    async fn pair_of_servers(&self) -> anyhow::Result<(MeasuredServer, MeasuredServer)> {
        let servers = (MeasuredServer::empty(&self.place).await?, MeasuredServer::empty(&self.place).await?);
        create_queue(&servers.0, QUEUE, "").await?;
        create_queue(&servers.1, QUEUE, "").await?;
        Ok(servers)
    }

    async fn beside_free(
        &self,
        limited: &MeasuredServer,
        free: &MeasuredServer,
        load: EndToEnd,
        how: &str,
    ) -> anyhow::Result<Series> {
        let mut series = Series::default();
        for _ in 0..self.pairs {
            self.step(format!("end to end {how}"));
            let with = load.run(&limited.uri, self.run).await?;
            self.step("end to end without limits".to_owned());
            series.add(with.rate, load.run(&free.uri, self.run).await?.rate);
        }
        Ok(series)
    }
}

async fn create_limit(subject: &MeasuredServer, name: &str, label: &str, max: i32) -> anyhow::Result<()> {
    let limit = v1::Limit {
        name: name.to_owned(),
        rule: Some(limit::Rule::MaxRunning(max)),
        key: Some(limit::Key::ByLabel(label.to_owned())),
        queues: vec![QUEUE.to_owned()],
        ..v1::Limit::default()
    };
    let request = v1::CreateLimitRequest { limit: Some(limit), ..v1::CreateLimitRequest::default() };
    LimitServiceClient::connect(subject.uri.clone()).await?.create_limit(request).await?;
    Ok(())
}
