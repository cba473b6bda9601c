//! All metrics as text: the counters, and the values that are read on a scrape.

use std::{collections::BTreeMap, sync::Arc};

use prometheus::{Gauge, GaugeVec, IntGauge, Opts, Registry, TextEncoder};

use super::{endpoint::Content, lost::LostLineCounts};
use crate::{
    clock::{Clock, ClockReading, Timestamp},
    counters::{Counters, MetricFactory, MetricsError, label},
    engine::ScheduleCensus,
    job::StateName,
    listen::{ListenStats, RefusalReason},
    settings::limits,
    shard::Shard,
    store::{Reader, StoreError},
    workers::{Roster, WorkerFigures},
};

/// The sources of the metrics.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) counters: Arc<Counters>,
    pub(crate) shard: Shard,
    pub(crate) connections: Arc<ListenStats>,
    pub(crate) workers: Arc<Roster>,
    pub(crate) lost: LostLineCounts,
    pub(crate) clock: Clock,
    /// When the server started.
    pub(crate) started: ClockReading,
}

impl Content for Page {
    async fn metrics(&self) -> Option<String> {
        self.text()
            .await
            .inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "metrics can't be read");
            })
            .ok()
    }

    fn ready(&self) -> Result<String, String> {
        match self.counters.health.ready(self.clock.uptime()) {
            Ok(()) => Ok(self.lost.details()),
            Err(reason) => Err(format!("{reason}\n{}", self.lost.details())),
        }
    }
}

/// Reason why the metrics can't be rendered.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metrics can't be encoded.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl From<prometheus::Error> for PageError {
    fn from(error: prometheus::Error) -> Self {
        MetricsError::from(error).into()
    }
}

impl Page {
    /// Returns the metrics in Prometheus' text format.
    pub(crate) async fn text(&self) -> Result<String, PageError> {
        let page = self.clone();
        // Off the runtime, because it reads the store, and takes a while with a thousand queues.
        self.shard.reads.read(move |reader| Ok(page.write(reader))).await?
    }

    fn write(&self, reader: &dyn Reader) -> Result<String, PageError> {
        let now = MetricFactory(Registry::new());
        self.read_queues(reader, &now)?;
        self.read_connections(&now)?;
        self.read_lost(&now)?;
        self.read_workers(&now)?;
        self.read_schedules(&now)?;
        self.read_limits(&now)?;
        self.read_rest(reader, &now)?;
        let mut families = self.counters.gather();
        families.extend(now.0.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }

    /// Reads the usage and limits of each queue.
    fn read_queues(&self, reader: &dyn Reader, factory: &MetricFactory) -> Result<(), PageError> {
        let by_queue = |name, help| factory.gauges(name, help, &["queue"]);
        let jobs = factory.gauges("jobmill_jobs", "Jobs in the store.", &["queue", "state"])?;
        let bytes = by_queue("jobmill_queue_bytes", "Bytes of jobs that have not ended.")?;
        let max_jobs = by_queue("jobmill_queue_max_jobs", "Limit of the jobs that have not ended.")?;
        let max_bytes =
            by_queue("jobmill_queue_max_bytes", "Limit of the bytes of jobs that have not ended.")?;
        let consumers = by_queue("jobmill_queue_consumers", "Limit of concurrent attempts.")?;
        let paused =
            by_queue("jobmill_queue_paused", "1 while the queue is paused and starts no jobs, else 0.")?;
        let waiters = by_queue("jobmill_queue_waiters", "Callers that wait for room.")?;
        let oldest = factory.register(GaugeVec::new(
            Opts::new(
                "jobmill_queue_oldest_ready_seconds",
                "How long the next job to start has been ready; 0 if no job is ready.",
            ),
            &["queue"],
        ))?;

        let moment = self.clock.now();
        let tallies = reader.tallies()?;
        let mut counts: BTreeMap<(&str, StateName), (u64, u64)> = BTreeMap::new();
        for tally in &tallies {
            let (jobs, bytes) = counts.entry((tally.queue.as_str(), tally.state)).or_default();
            *jobs += tally.jobs;
            *bytes += tally.bytes;
        }
        let states = StateName::ALL.map(|state| (state, label(state)));
        for queue in reader.queues()?.into_iter().take(limits::QUEUES_MAX) {
            let name = &[queue.name.as_str()];
            let mut live_bytes = 0;
            let mut ready = 0;
            for (state, label) in &states {
                let state = *state;
                let (count, bytes) = counts.get(&(queue.name.as_str(), state)).copied().unwrap_or_default();
                jobs.with_label_values(&[queue.name.as_str(), label.as_str()]).set(signed(count));
                live_bytes += if state.is_done() { 0 } else { bytes };
                ready += if state == StateName::Queued { count } else { 0 };
            }
            bytes.with_label_values(name).set(signed(live_bytes));
            max_jobs.with_label_values(name).set(signed(queue.settings.max_jobs));
            max_bytes.with_label_values(name).set(signed(queue.settings.max_bytes));
            consumers.with_label_values(name).set(queue.settings.consumers.into());
            paused.with_label_values(name).set(queue.paused.into());
            let entry = self.shard.queues.get(queue.name.as_str());
            waiters.with_label_values(name).set(entry.map_or(0, |entry| signed(entry.waiters())));
            let since = if ready > 0 { reader.oldest_ready(&queue.name)? } else { None };
            oldest.with_label_values(name).set(age(moment, since));
        }
        Ok(())
    }

    fn read_connections(&self, factory: &MetricFactory) -> Result<(), PageError> {
        let gauge = |name, help| factory.register(IntGauge::new(name, help));
        gauge("jobmill_connections", "Open connections.")?.set(signed(self.connections.open()));
        let pending = gauge(
            "jobmill_connections_pending",
            "Open connections that have sent nothing yet, apart from a TLS handshake.",
        )?;
        pending.set(signed(self.connections.pending()));
        let accepted = factory.counter(
            "jobmill_connections_accepted_total",
            "Accepted connections, those that were refused later included.",
        )?;
        accepted.inc_by(self.connections.accepted_total());
        let refused = factory.counters(
            "jobmill_connections_refused_total",
            "Connections that were refused, or closed before their first call.",
            &["reason"],
        )?;
        for why in RefusalReason::ALL {
            refused.with_label_values(&[why.as_str()]).inc_by(self.connections.refused_total(why));
        }
        Ok(())
    }

    fn read_workers(&self, factory: &MetricFactory) -> Result<(), PageError> {
        let WorkerFigures { connected, away, draining, credits, leases, unreceived } = self.workers.figures();
        let workers = factory.gauges("jobmill_workers", "Remote workers, by state.", &["state"])?;
        for (state, count) in [("connected", connected), ("away", away), ("draining", draining)] {
            workers.with_label_values(&[state]).set(signed(count));
        }
        let gauge = |name, help| factory.register(IntGauge::new(name, help));
        gauge("jobmill_worker_credits", "Jobs that remote workers would take now.")?.set(signed(credits));
        let held = factory.gauges("jobmill_worker_leases", "Leases of remote workers.", &["received"])?;
        held.with_label_values(&["true"]).set(signed(leases - unreceived));
        held.with_label_values(&["false"]).set(signed(unreceived));
        Ok(())
    }

    fn read_schedules(&self, factory: &MetricFactory) -> Result<(), PageError> {
        let ScheduleCensus { all, paused, waiting } = self.shard.schedule_feed.census();
        let schedules = factory.gauges("jobmill_schedules", "Schedules, by state.", &["state"])?;
        let active = all.saturating_sub(paused + waiting);
        for (state, count) in [("active", active), ("paused", paused), ("waiting", waiting)] {
            schedules.with_label_values(&[state]).set(signed(count));
        }
        Ok(())
    }

    fn read_limits(&self, factory: &MetricFactory) -> Result<(), PageError> {
        let help = "Total weight of the jobs that run under the limit.";
        let running = factory.gauges("jobmill_limit_running", help, &["limit"])?;
        for limit in self.shard.limits.limits().iter().take(limits::LIMITS_MAX) {
            running.with_label_values(&[&*limit.info.name]).set(signed(limit.running));
        }
        Ok(())
    }

    fn read_lost(&self, factory: &MetricFactory) -> Result<(), PageError> {
        let log = factory.counter(
            "jobmill_log_lines_lost_total",
            "Lost log lines: too many waited to be written, or writing failed.",
        )?;
        log.inc_by(self.lost.log.get());
        let audit = factory.counter(
            "jobmill_audit_lines_lost_total",
            "Lost audit lines, because too many waited to be written.",
        )?;
        audit.inc_by(self.lost.audit.get());
        Ok(())
    }

    fn read_rest(&self, reader: &dyn Reader, factory: &MetricFactory) -> Result<(), PageError> {
        let watchers = factory.gauges("jobmill_watchers", "Open watches.", &["by"])?;
        let figures = self.shard.hub.figures();
        watchers.with_label_values(&["ids"]).set(signed(figures.by_ids));
        watchers.with_label_values(&["filter"]).set(signed(figures.by_filter));
        let resyncs = factory.counter(
            "jobmill_watch_resyncs_total",
            "Fresh snapshots, sent because a resume token was too old.",
        )?;
        resyncs.inc_by(figures.resyncs);
        let ahead = factory.register(Gauge::new(
            "jobmill_clock_set_seconds",
            "Seconds by which the wall clock was set ahead since the server started; negative if back.",
        ))?;
        ahead.set(self.clock.present().set_since(self.started));
        let size = reader.size()?;
        let bytes = factory.gauges("jobmill_store_bytes", "Size of the store on disk.", &["file"])?;
        bytes.with_label_values(&["database"]).set(signed(size.database_bytes));
        bytes.with_label_values(&["log"]).set(signed(size.log_bytes));
        factory
            .register(IntGauge::new(
                "jobmill_rows_set_aside",
                "Unreadable rows of the store that were set aside.",
            ))?
            .set(signed(size.set_aside_rows));
        factory
            .register(Gauge::new(
                "jobmill_store_locked_seconds",
                "How long another program has held the database's lock; 0 while none does.",
            ))?
            .set(self.counters.health.locked_for(self.clock.uptime()).as_secs_f64());
        let ready = factory.register(Gauge::new(
            "jobmill_ready",
            "1 while the server is ready, else 0, as /readyz answers.",
        ))?;
        ready.set(if self.counters.health.ready(self.clock.uptime()).is_ok() { 1.0 } else { 0.0 });
        Ok(())
    }
}

fn age(now: Timestamp, since: Option<Timestamp>) -> f64 {
    since.map_or(0.0, |since| now.since(since).as_secs_f64())
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
