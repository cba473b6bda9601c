//! Following a watch to its end, or until Ctrl-C.

use std::{future::Future, pin::pin};

use super::{
    exit::{Exit, Failure},
    json,
    live::Live,
    text,
    ui::Ui,
};
use jobmill::{
    client::{Watch, WatchItem},
    proto::v1::{Job, JobState, watch_event::Event},
};

/// Counts of the ways in which the watched jobs ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fates {
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) missing: u64,
}

impl Fates {
    /// Counts a job by its present state.
    pub(super) fn count(&mut self, job: &Job) {
        match JobState::try_from(job.state) {
            Ok(JobState::Failed | JobState::Expired) => self.failed += 1,
            Ok(JobState::Cancelled) => self.cancelled += 1,
            Ok(
                JobState::Unspecified
                | JobState::Scheduled
                | JobState::Blocked
                | JobState::Queued
                | JobState::Running
                | JobState::BackingOff
                | JobState::Cancelling
                | JobState::Succeeded,
            ) => {}
            // A final state that this program does not know may be a failure.
            Err(_) if job.done => self.failed += 1,
            Err(_) => {}
        }
    }

    /// Returns the exit code of the worst outcome.
    pub(super) fn exit(self) -> Exit {
        match self {
            Fates { failed: 1.., .. } => Exit::JobFailed,
            Fates { cancelled: 1.., .. } => Exit::JobCancelled,
            Fates { missing: 1.., .. } => Exit::NotFound,
            Fates { .. } => Exit::Ok,
        }
    }
}

/// The end of following a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The server ended the watch: all its jobs have ended.
    Over(Fates),
    /// The user pressed Ctrl-C.
    Interrupted,
}

/// Returns when the user presses Ctrl-C.
pub(super) async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        // The handler can't be installed: the signal then ends the program by its default action.
        std::future::pending().await
    }
}

/// Shows the events of a watch until it ends.
pub(super) async fn follow(
    watch: &mut Watch,
    ui: &Ui,
    live: &mut Live<'_>,
    interrupt: impl Future<Output = ()>,
) -> Result<Ended, Failure> {
    let mut interrupt = pin!(interrupt);
    let mut fates = Fates::default();
    loop {
        let item = tokio::select! {
            biased;
            () = &mut interrupt => return Ok(Ended::Interrupted),
            item = watch.next() => item,
        };
        match item {
            None => return Ok(Ended::Over(fates)),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(WatchItem::Interrupted { cause })) => {
                if ui.is_json() {
                    ui.print_json(&json::interrupted(&cause))?;
                } else {
                    live.note(&format!("{}; reconnecting …", text::escape(&cause)));
                }
            }
            Some(Ok(WatchItem::Event { event, resume_token })) => {
                if ui.is_json() {
                    ui.print_json(&json::event(&event, resume_token.as_deref()))?;
                }
                take(&event, &mut fates, (!ui.is_json()).then_some(&mut *live))?;
            }
        }
    }
}

/// Counts the job of an event, and shows the event in `live`, if given.
fn take(event: &Event, fates: &mut Fates, live: Option<&mut Live<'_>>) -> Result<(), Failure> {
    let job = match event {
        Event::Snapshot(job) => Some(job),
        Event::Updated(updated) => updated.job.as_ref(),
        Event::Synced(_)
        | Event::Left(_)
        | Event::Deleted(_)
        | Event::NotFound(_)
        | Event::Bookmark(_)
        | Event::Closing(_)
        | Event::Resync(_)
        | Event::Output(_) => None,
    };
    if let Some(job) = job {
        fates.count(job);
    }
    if let Event::Deleted(_) | Event::NotFound(_) = event {
        fates.missing += 1;
    }
    let Some(live) = live else { return Ok(()) };
    match event {
        Event::Snapshot(_) | Event::Updated(_) => job.map_or(Ok(()), |job| live.job(job)),
        Event::Left(left) => live.left(&left.id, &text::state(left.state)),
        Event::Deleted(deleted) => live.left(&deleted.id, "deleted"),
        Event::NotFound(missing) => live.left(&missing.id, "no such job"),
        Event::Resync(_) => {
            live.note("some changes were missed; all jobs are shown anew");
            Ok(())
        }
        Event::Output(line) => live.output(line),
        Event::Synced(_) | Event::Bookmark(_) | Event::Closing(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::{JobDeleted, JobNotFound, JobUpdated};

    #[test]
    fn the_worst_fate_decides_the_exit_code() {
        let ended = |state: i32, done| {
            Event::Updated(JobUpdated {
                job: Some(Job { state, done, ..Job::default() }.into()),
                merged: Some(0),
            })
        };
        let (succeeded, failed) = (JobState::Succeeded.into(), JobState::Failed.into());
        let cancelled = JobState::Cancelled.into();
        let missing = || Event::NotFound(JobNotFound { id: "1".into() });
        let deleted = || Event::Deleted(JobDeleted { id: "1".into() });
        for (events, expected) in [
            (vec![ended(succeeded, true)], Exit::Ok),
            (vec![ended(JobState::BackingOff.into(), false), ended(succeeded, true)], Exit::Ok),
            (vec![ended(cancelled, true), ended(failed, true), missing()], Exit::JobFailed),
            (vec![missing(), ended(cancelled, true)], Exit::JobCancelled),
            (vec![missing(), ended(succeeded, true)], Exit::NotFound),
            (vec![deleted()], Exit::NotFound),
            (vec![ended(14, false)], Exit::Ok),
            (vec![ended(14, true)], Exit::JobFailed),
        ] {
            let mut fates = Fates::default();
            for event in &events {
                take(event, &mut fates, None).unwrap();
            }
            assert_eq!(fates.exit(), expected, "{events:?}");
        }
    }
}
