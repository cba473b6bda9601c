//! Conversion of limits to protobuf messages.

use std::collections::HashSet;

use tonic::Status;

use super::{caller::Caller, convert, core::Core};
use crate::{
    engine::{LimitDone, LimitValueView, LimitView, LimitWait},
    job::{Job, JobId, State, names},
    proto::v1,
    settings::{LimitKey, LimitRule, Rate},
};

/// Converts a limit.
pub(super) fn limit(view: &LimitView) -> v1::Limit {
    use v1::limit::{Key, Rule};

    let info = &view.info;
    let state = if view.is_changing { v1::LimitState::Changing } else { v1::LimitState::Active };
    v1::Limit {
        name: info.name.to_string(),
        rule: Some(match &info.spec.rule {
            LimitRule::Running(max) => Rule::MaxRunning(*max as i32),
            LimitRule::Rate(rate) => Rule::Rate(self::rate(rate)),
        }),
        key: Some(match &info.spec.key {
            LimitKey::All => Key::All(true),
            LimitKey::Queue => Key::ByQueue(true),
            LimitKey::Kind => Key::ByKind(true),
            LimitKey::Label(label) => Key::ByLabel(label.to_string()),
        }),
        kinds: info.spec.kinds.iter().cloned().collect(),
        queues: info.spec.queues.iter().cloned().collect(),
        etag: info.etag(),
        declared: info.declared,
        state: state as i32,
        running: signed(view.running),
        namespace: names::NAMESPACE.to_owned(),
    }
}

/// Converts a value of a limit.
pub(super) fn value(view: &LimitValueView) -> v1::LimitValue {
    use v1::limit_value::Rule;

    v1::LimitValue {
        value: view.value.to_string(),
        rule: Some(match &view.rule {
            LimitRule::Running(max) => Rule::MaxRunning(*max as i32),
            LimitRule::Rate(rate) => Rule::Rate(self::rate(rate)),
        }),
        overridden: view.is_overridden,
        running: signed(view.running),
        has_waiting: view.has_waiting,
        next_time: view.next.map(convert::timestamp),
    }
}

fn rate(rate: &Rate) -> v1::Rate {
    let Rate { count, per, burst } = *rate;
    v1::Rate { count: count as i32, per: Some(convert::duration(per)), burst: burst as i32 }
}

fn signed(weight: u64) -> i64 {
    i64::try_from(weight).unwrap_or(i64::MAX)
}

/// Limit of the ids in a reason why a job does not run.
const PENDING_IDS_MAX: usize = 10;

/// Converts a limit for which a job waits to the reason why it does not run.
fn pending(wait: &LimitWait, may_see: impl Fn(&JobId) -> bool) -> v1::Pending {
    let LimitWait { limit, value, rule, is_too_heavy, until, holders } = wait;
    let reason = match rule {
        _ if *is_too_heavy => v1::PendingReason::TooHeavy,
        // A place comes at a certain time only after a pause.
        LimitRule::Running(_) if wait.until.is_none() => v1::PendingReason::ConcurrencyLimit,
        LimitRule::Running(_) | LimitRule::Rate(_) => v1::PendingReason::RateLimited,
    };
    v1::Pending {
        reason: reason as i32,
        subject: if value.is_empty() { limit.to_string() } else { format!("{limit}={value}") },
        until: until.map(convert::timestamp),
        job_ids: holders.iter().filter(|id| may_see(id)).map(ToString::to_string).collect(),
    }
}

impl Core {
    /// Returns the reasons for which a job waits that is ready and finds no places under limits. Jobs that hold these are
    /// left out if the caller may not read them.
    pub(super) async fn pending_on_limits(
        &self,
        caller: &Caller,
        job: &Job,
    ) -> Result<Vec<v1::Pending>, Status> {
        if !matches!(job.state, State::Queued { .. }) {
            return Ok(Vec::new());
        }
        let waits = self.shard.limits.waits_of(job, self.clock.now(), PENDING_IDS_MAX);
        let ids: Vec<JobId> = waits.iter().flat_map(|wait| &wait.holders).copied().collect();
        if ids.is_empty() || caller.sees_all() {
            return Ok(waits.iter().map(|wait| pending(wait, |_| true)).collect());
        }
        let (read, _) = self.shard.reads.read(move |reader| reader.jobs(&ids)).await?;
        let visible: HashSet<JobId> =
            read.iter().flatten().filter(|holder| caller.sees(holder)).map(|holder| holder.id).collect();
        Ok(waits.iter().map(|wait| pending(wait, |id| visible.contains(id))).collect())
    }

    /// Converts a limit after a change; `None` if the request is a repeat and the limit has been deleted meanwhile.
    pub(super) fn limit_after(&self, done: LimitDone) -> Option<v1::Limit> {
        let info = done.limit?;
        // A change that came right after this one shows in what runs, at most.
        let now = self.shard.limits.limit(&info.name).filter(|view| view.info.number == info.number);
        let (running, is_changing) = now.map_or((0, false), |view| (view.running, view.is_changing));
        Some(limit(&LimitView { info, running, is_changing }))
    }
}
