//! Metrics and health of a remote worker.

use std::convert::Infallible;

use prometheus::{Gauge, IntGauge, Registry, TextEncoder};
use tokio::net::TcpListener;

use super::{
    endpoint::{Content, serve},
    page::{PageError, signed},
};
use crate::{
    counters::MetricFactory,
    execute::Callbacks,
    listen::Hosts,
    worker::{Counts, Health},
};

/// Serves a worker's metrics and health over HTTP until the future is dropped. Only local host names are allowed.
///
/// Endpoints of running attempts call back here, too.
pub async fn serve_worker(health: Health, callbacks: Callbacks, listener: TcpListener) -> Infallible {
    serve(WorkerPage(health), Hosts::local_and(&[]), callbacks, listener).await
}

#[derive(Clone)]
struct WorkerPage(Health);

impl Content for WorkerPage {
    async fn metrics(&self) -> Option<String> {
        text(&self.0)
            .inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "metrics can't be encoded");
            })
            .ok()
    }

    fn ready(&self) -> Result<String, String> {
        if self.0.is_draining() {
            return Err("the worker is about to end\n".to_owned());
        }
        if !self.0.is_connected() {
            return Err("the worker is not connected to its server\n".to_owned());
        }
        if !self.0.is_live() {
            return Err("the server has not answered for too long\n".to_owned());
        }
        Ok(String::new())
    }
}

fn text(health: &Health) -> Result<String, PageError> {
    let now = MetricFactory(Registry::new());
    let gauge = |name, help| now.register(IntGauge::new(name, help));
    gauge("jobmill_worker_connected", "Whether the server has welcomed the worker on an open stream.")?
        .set(health.is_connected().into());
    gauge("jobmill_worker_draining", "Whether the worker takes no more jobs.")?
        .set(health.is_draining().into());
    gauge("jobmill_worker_running_jobs", "Jobs that are assigned or run.")?.set(signed(health.running()));
    gauge("jobmill_worker_unreported_ends", "Ends that the server has not confirmed.")?
        .set(signed(health.unreported()));
    let silence = Gauge::new(
        "jobmill_worker_silence_seconds",
        "Time since the server last answered a heartbeat or a ping.",
    );
    now.register(silence)?.set(health.last_answer().map_or(f64::NAN, |ago| ago.as_secs_f64()));
    let Counts { started, succeeded, failed, snoozed, released, lost } = health.counts();
    for (name, help, count) in [
        ("streams_total", "Streams on which the server has welcomed the worker.", health.streams()),
        ("attempts_started_total", "Attempts that have started.", started),
        ("attempts_succeeded_total", "Attempts that have succeeded.", succeeded),
        ("attempts_failed_total", "Attempts that have failed.", failed),
        ("attempts_snoozed_total", "Attempts that asked to be run again later.", snoozed),
        ("jobs_released_total", "Jobs that were handed back.", released),
        ("leases_lost_total", "Leases that were lost.", lost),
    ] {
        now.counter(&format!("jobmill_worker_{name}"), help)?.inc_by(count);
    }
    Ok(TextEncoder::new().encode_to_string(&now.0.gather())?)
}
