//! JSON of remote workers.

use serde_json::{Value, json};

use super::{Object, named};
use jobmill::proto::v1::{Lease, LeaseStatus, ListWorkersResponse, PoolStatus, Worker, WorkerState};

/// Converts a view of `workers --watch`.
pub(in super::super) fn workers(found: &ListWorkersResponse) -> Value {
    let workers: Vec<_> = found.workers.iter().map(worker).collect();
    json!({ "workers": workers, "total": found.total })
}

pub(in super::super) fn worker(worker: &Worker) -> Value {
    let pools: Vec<_> = worker.pools.iter().map(pool).collect();
    let leases: Vec<_> = worker.leases.iter().map(lease_status).collect();
    Object::default()
        .put("instance", worker.instance.as_str())
        .put("process", worker.process.as_str())
        .text("subject", &worker.subject)
        .put("state", named::<WorkerState>(worker.state, WorkerState::as_str_name))
        .text("clientVersion", &worker.client_version)
        .maybe("labels", (!worker.labels.is_empty()).then(|| json!(worker.labels)))
        .text("address", &worker.address)
        .time("since", worker.since)
        .put("pools", pools)
        .put("leases", leases)
        .put("leaseCount", worker.lease_count)
        .done()
}

fn pool(pool: &PoolStatus) -> Value {
    Object::default()
        .text("name", &pool.name)
        .put("kinds", pool.kinds.as_slice())
        .maybe("queues", (!pool.queues.is_empty()).then_some(pool.queues.as_slice()))
        .put("credits", pool.credits)
        .done()
}

fn lease_status(held: &LeaseStatus) -> Value {
    let lease = |lease: &Lease| json!({ "jobId": lease.job_id, "token": lease.token });
    Object::default()
        .maybe("lease", held.lease.as_ref().map(lease))
        .put("queue", held.queue.as_str())
        .put("kind", held.kind.as_str())
        .put("attempt", held.attempt)
        .time("assignTime", held.assign_time)
        .put("received", held.received)
        .duration("remaining", held.remaining)
        .put("stopping", held.stopping)
        .done()
}
