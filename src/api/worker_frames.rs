//! Conversion of what is said to workers to protobuf messages.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::{convert, core::Core, errors};
use crate::{
    clock::Timestamp,
    engine::ReportAnswer,
    job::{Job, JobId, LeaseToken},
    proto::v1::{self, lease_notice::Notice as Proto, server_frame::Frame},
    workers::{LeaseStatus, Notice, StopCause, WorkerState, WorkerStatus},
};

/// Limit of the leases that are shown of a worker.
const LEASES_SHOWN_MAX: usize = 100;

pub(super) fn frame(frame: Frame) -> v1::ServerFrame {
    v1::ServerFrame { frame: Some(frame) }
}

pub(super) fn lease(id: JobId, lease: LeaseToken) -> v1::Lease {
    v1::Lease { job_id: id.to_string(), token: lease.as_i64() }
}

/// Converts the immediate answer to a report.
pub(super) fn notice(id: JobId, token: LeaseToken, notice: &Notice) -> v1::LeaseNotice {
    let notice = match notice {
        Notice::Held(left) => Proto::Held(v1::LeaseHeld { duration: Some(convert::duration(*left)) }),
        Notice::Stop(cause, grace) => stop(*cause, *grace),
        Notice::Ended => Proto::Ended(v1::LeaseEnded {}),
        Notice::Lost => Proto::Refused(errors::item(&errors::lease_lost(id, token))),
        Notice::CheckpointNotNewer(last) => Proto::Refused(errors::item(&checkpoint_not_newer(*last))),
    };
    v1::LeaseNotice { lease: Some(lease(id, token)), notice: Some(notice) }
}

fn checkpoint_not_newer(last: i64) -> Status {
    let mut faults = errors::Faults::default();
    let problem = format!("is not larger than {last}, the number of the checkpoint before");
    faults.add("report.heartbeat.checkpoint.number", problem);
    faults.into_status()
}

fn stop(cause: StopCause, grace: Duration) -> Proto {
    let cause = match cause {
        StopCause::Cancelled => v1::CancelCause::Client,
        StopCause::TimedOut => v1::CancelCause::Timeout,
    };
    Proto::Cancel(v1::CancelRequested { cause: cause as i32, grace: Some(convert::duration(grace)) })
}

/// Converts a request to stop an attempt.
pub(super) fn stop_notice(
    id: JobId,
    token: LeaseToken,
    cause: StopCause,
    grace: Duration,
) -> v1::LeaseNotice {
    v1::LeaseNotice { lease: Some(lease(id, token)), notice: Some(stop(cause, grace)) }
}

/// Converts the notice that the server has ended a lease.
pub(super) fn lost(id: JobId, token: LeaseToken) -> v1::LeaseNotice {
    notice(id, token, &Notice::Lost)
}

/// Converts the refusal of an invalid report.
pub(super) fn refused(lease: Option<v1::Lease>, status: &Status) -> v1::LeaseNotice {
    v1::LeaseNotice { lease, notice: Some(Proto::Refused(errors::item(status))) }
}

/// Converts the committer's answer to a report. Progress that was written has none.
pub(super) fn answer(answer: &ReportAnswer) -> Option<v1::LeaseNotice> {
    let ReportAnswer { id, lease: token, is_final, checkpoint, result } = answer;
    let notice = match (result, is_final, checkpoint) {
        (Err(_), ..) => return Some(lost(*id, *token)),
        (Ok(()), true, _) => Proto::Ended(v1::LeaseEnded {}),
        (Ok(()), false, Some(number)) => {
            Proto::CheckpointCommitted(v1::CheckpointCommitted { number: *number })
        }
        (Ok(()), false, None) => return None,
    };
    Some(v1::LeaseNotice { lease: Some(lease(*id, *token)), notice: Some(notice) })
}

/// Builds an assignment. Reads the payload if the claim has not brought it, and the checkpoint of earlier attempts.
pub(super) async fn assignment(
    core: &Core,
    (job, token): (&Job, LeaseToken),
    payload: Option<Bytes>,
    pool: &str,
) -> Result<v1::Assignment, Status> {
    let id = job.id;
    let payload = match payload {
        Some(payload) => payload,
        None => core.shard.reads.read(move |reader| reader.payload(id)).await?.unwrap_or_default(),
    };
    let checkpoint = core.workers.checkpoint(job).await?;
    let mut proto = convert::job(job);
    convert::add_payload(&mut proto, payload);
    Ok(v1::Assignment {
        lease: Some(lease(id, token)),
        pool: pool.to_owned(),
        job: Some(proto),
        receive_within: Some(convert::duration(core.workers.settings().receive_within)),
        attempt_timeout: Some(convert::duration(job.attempt_timeout())),
        checkpoint: checkpoint.map(|checkpoint| v1::Checkpoint {
            number: checkpoint.number,
            state: Some(convert::output(checkpoint.state)),
            commit_now: false,
        }),
    })
}

/// Converts a worker, as operators see it. `sees` tells whether a lease's queue may be shown.
pub(super) fn worker(status: WorkerStatus, sees: impl Fn(&str) -> bool) -> v1::Worker {
    let state = match status.state {
        WorkerState::Connected => v1::WorkerState::Connected,
        WorkerState::Away => v1::WorkerState::Away,
        WorkerState::Draining => v1::WorkerState::Draining,
    };
    let credits = status.credits.into_iter().map(Some).chain(std::iter::repeat(None));
    let pools = status.about.pools.into_iter().zip(credits).map(|(pool, credits)| v1::PoolStatus {
        name: pool.name,
        kinds: pool.kinds,
        queues: pool.queues,
        credits: credits.map_or(0, |credits| i32::try_from(credits.max(0)).unwrap_or(i32::MAX)),
    });
    let leases: Vec<_> = status.leases.iter().filter(|held| sees(held.job.spec.queue.as_str())).collect();
    v1::Worker {
        instance: status.instance,
        process: status.process,
        subject: status.subject,
        state: state as i32,
        client_version: status.about.client_version,
        labels: status.about.labels,
        address: status.about.address,
        since: (status.since != Timestamp::default()).then(|| convert::timestamp(status.since)),
        pools: pools.collect(),
        lease_count: i32::try_from(leases.len()).unwrap_or(i32::MAX),
        leases: leases.into_iter().take(LEASES_SHOWN_MAX).map(lease_status).collect(),
    }
}

fn lease_status(held: &LeaseStatus) -> v1::LeaseStatus {
    let job = &held.job;
    v1::LeaseStatus {
        lease: Some(lease(job.id, held.lease)),
        queue: job.spec.queue.as_str().to_owned(),
        kind: job.spec.kind.as_str().to_owned(),
        attempt: job.attempt as i32,
        assign_time: Some(convert::timestamp(held.assigned)),
        received: held.is_received,
        remaining: Some(convert::duration(held.remaining)),
        stopping: held.is_stopping,
    }
}
