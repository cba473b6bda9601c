//! Metrics and health of a remote worker.

use std::{convert::Infallible, fmt::Write};

use tokio::net::TcpListener;

use super::endpoint::{Content, serve};
use crate::{
    listen::Hosts,
    worker::{Counts, Health},
};

/// Serves a worker's metrics and health over HTTP until the future is dropped. Only local host names are allowed.
pub async fn serve_worker(health: Health, listener: TcpListener) -> Infallible {
    serve(WorkerPage(health), Hosts::local_and(&[]), listener).await
}

#[derive(Clone)]
struct WorkerPage(Health);

impl Content for WorkerPage {
    async fn metrics(&self) -> Option<String> {
        Some(text(&self.0))
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

fn text(health: &Health) -> String {
    let Counts { started, succeeded, failed, released, lost } = health.counts();
    let flag = |flag: bool| f64::from(u8::from(flag));
    let count = |count: u64| count as f64;
    let silence_s = health.last_answer().map_or(f64::NAN, |ago| ago.as_secs_f64());
    let metrics = [
        (
            "connected",
            "gauge",
            "Whether the server has welcomed the worker on an open stream.",
            flag(health.is_connected()),
        ),
        ("silence_seconds", "gauge", "Time since the server last answered a heartbeat or a ping.", silence_s),
        ("draining", "gauge", "Whether the worker takes no more jobs.", flag(health.is_draining())),
        ("running_jobs", "gauge", "Jobs that are assigned or run.", count(health.running())),
        ("unreported_ends", "gauge", "Ends that the server has not confirmed.", count(health.unreported())),
        (
            "streams_total",
            "counter",
            "Streams on which the server has welcomed the worker.",
            count(health.streams()),
        ),
        ("attempts_started_total", "counter", "Attempts that have started.", count(started)),
        ("attempts_succeeded_total", "counter", "Attempts that have succeeded.", count(succeeded)),
        ("attempts_failed_total", "counter", "Attempts that have failed.", count(failed)),
        ("jobs_released_total", "counter", "Jobs that were handed back.", count(released)),
        ("leases_lost_total", "counter", "Leases that were lost.", count(lost)),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in metrics {
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "# HELP jobmill_worker_{name} {help}\n# TYPE jobmill_worker_{name} {kind}\njobmill_worker_{name} {value}\n"
        );
    }
    text
}
