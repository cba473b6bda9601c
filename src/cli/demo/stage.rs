//! The run of the demo's jobs: submitted, followed to their end, and shown.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use jobmill::{
    client::{Client, ClientError, Code, WatchItem},
    clock::Timestamp,
    proto::v1::{Job, JobState, JobView, WatchDetail, WatchStatusRequest, watch_event::Event},
};

use super::{files::Input, plan::Role};
use crate::cli::{describe, exit::Failure, live::style, text, ui::Ui};

/// Limit of concurrent submissions: enough for one commit to take several.
const SUBMISSIONS_MAX: usize = 32;
const BAR_STEPS: u64 = 1_000;

/// The ended jobs, by their parts in the demo.
pub(super) struct Played {
    pub(super) jobs: BTreeMap<Role, Job>,
    /// The instant from which the delayed job's time counts.
    pub(super) started: Timestamp,
    pub(super) file_time: Duration,
}

/// Submits all jobs, follows them to their end, and cancels the one that is to be cancelled once it runs.
pub(super) async fn play(client: &Client, files: &[Input], ui: &Ui) -> Result<Played, Failure> {
    let started = ui.clock.now();
    // The special ones first: they take the longest.
    let roles = Role::SPECIAL.into_iter().chain((0..files.len()).map(Role::File));
    let submitted: BTreeMap<String, Role> = stream::iter(roles)
        .map(|role| submit(client, role, files))
        .buffer_unordered(SUBMISSIONS_MAX)
        .try_collect()
        .await?;
    let mut watch = client.watch(WatchStatusRequest {
        ids: submitted.keys().cloned().collect(),
        // Every transition, so that the RUNNING state of the job that is to be cancelled is not merged away.
        detail: WatchDetail::EveryTransition.into(),
        view: JobView::Result.into(),
        ..Default::default()
    });
    let mut show = LiveView::new(ui, files.len() as u64);
    let mut played = Played { jobs: BTreeMap::new(), started, file_time: Duration::ZERO };
    let mut cancelled = false;
    while let Some(item) = watch.next().await {
        let job = match item? {
            WatchItem::Event { event: Event::Snapshot(job), .. } => job,
            WatchItem::Event { event: Event::Updated(updated), .. } => updated.job.unwrap_or_default(),
            WatchItem::Event { .. } | WatchItem::Interrupted { .. } => continue,
        };
        let Some(role) = submitted.get(&job.id).copied() else { continue };
        // Progress shows that the command runs. A job that is cancelled before its start had no attempt.
        let runs = job.state == i32::from(JobState::Running) && job.progress.is_some();
        if role == Role::Cancelled && runs && !cancelled {
            cancelled = true;
            cancel(client, &job.id).await?;
        }
        if job.done && matches!(role, Role::File(_)) {
            played.file_time = ui.clock.now().since(started);
        }
        show.job(role, &job);
        if job.done {
            played.jobs.insert(role, *job);
        }
    }
    show.finish();
    Ok(played)
}

async fn submit(client: &Client, role: Role, files: &[Input]) -> Result<(String, Role), ClientError> {
    let answer = client.submit(role.spec(files)).await?;
    Ok((answer.id().to_owned(), role))
}

async fn cancel(client: &Client, id: &str) -> Result<(), Failure> {
    match client.cancel_job(id).await {
        Ok(_) => Ok(()),
        // The job ended before it was cancelled, which the report will show.
        Err(ClientError::Refused(refusal)) if refusal.code == Code::FailedPrecondition => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The live view of the jobs: bars on a terminal, lines elsewhere, nothing for programs.
struct LiveView<'u> {
    ui: &'u Ui,
    bars: Option<Bars>,
    files: u64,
    files_done: u64,
}

struct Bars {
    multi: MultiProgress,
    files: ProgressBar,
    special: BTreeMap<Role, ProgressBar>,
}

impl<'u> LiveView<'u> {
    fn new(ui: &'u Ui, files: u64) -> Self {
        let bars = ui.bars.then(|| {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let overall = multi.add(ProgressBar::new(files));
            overall.set_style(style("{msg:28} {bar:30.cyan/dim} {pos}/{len}"));
            overall.set_message("checksums");
            let special = Role::SPECIAL.map(|role| {
                let bar = multi.add(ProgressBar::new(BAR_STEPS));
                bar.set_style(style("{prefix:28} {bar:30.cyan/dim} {wide_msg}"));
                bar.set_prefix(role.title());
                bar.tick();
                (role, bar)
            });
            Bars { multi, files: overall, special: special.into() }
        });
        LiveView { ui, bars, files, files_done: 0 }
    }

    fn job(&mut self, role: Role, job: &Job) {
        if let Role::File(_) = role {
            if !job.done {
                return;
            }
            self.files_done += 1;
            match &self.bars {
                Some(bars) => bars.files.set_position(self.files_done),
                None if self.files_done == self.files => {
                    self.note(&format!("checksums: {} of {} done", self.files_done, self.files));
                }
                None => {}
            }
            return;
        }
        let details = describe::state_details(job, self.ui.clock.now());
        let line = format!("{} {details}", text::state(job.state)).trim_end().to_owned();
        match self.bars.as_ref().and_then(|bars| bars.special.get(&role)) {
            Some(bar) => {
                let part = job.progress.as_ref().and_then(|progress| progress.fraction).unwrap_or(0.0);
                let fraction = if job.done { 1.0 } else { part.clamp(0.0, 1.0) };
                bar.set_position((fraction * BAR_STEPS as f64) as u64);
                bar.set_message(line);
            }
            None => self.note(&format!("{}: {line}", role.title())),
        }
    }

    fn note(&self, line: &str) {
        if !self.ui.is_json() {
            self.ui.note(line);
        }
    }

    /// Leaves the bars as they are at the end.
    fn finish(self) {
        if let Some(bars) = self.bars {
            bars.files.abandon();
            bars.special.values().for_each(ProgressBar::abandon);
            drop(bars.multi);
        }
    }
}
