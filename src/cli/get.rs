//! `jobmill get`.

use std::time::Duration;

use super::{
    Global, connect, describe,
    exit::{Exit, Failure},
    follow::Fates,
    json, text,
    ui::Ui,
    values,
};
use jobmill::{
    client::Client,
    clock::Stopwatch,
    proto::v1::{GetJobRequest, Job, JobView},
};

/// The arguments of `jobmill get`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --wait, the exit code tells the jobs' final states, as with `watch`: 1 if one failed, \
                        otherwise 3 if one was cancelled; otherwise 7 if one had not ended in time."
)]
pub(super) struct Args {
    /// The jobs to show
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Wait until the jobs have ended, for this long at most
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    let watch = Stopwatch::start();
    let mut fates = Fates::default();
    let mut late = Vec::new();
    for (index, id) in args.ids.iter().enumerate() {
        // The limit covers all of the jobs: time spent waiting for one is taken off the wait for the next.
        let left = args.wait.map(|wait| wait.saturating_sub(watch.elapsed()));
        let job = job(&client, id, left).await?;
        if ui.is_json() {
            ui.print_json(&json::job(&job))?;
        } else {
            if index > 0 {
                ui.print("\n")?;
            }
            ui.print(&describe::in_full(&job, ui.clock.now(), ui.colour))?;
        }
        fates.count(&job);
        if !job.done {
            late.push(job.id);
        }
    }
    let Some(wait) = args.wait else { return Ok(Exit::Ok) };
    for id in &late {
        ui.note(&format!("{} has not ended within {}", text::escape(id), text::duration(wait)));
    }
    Ok(exit(fates, !late.is_empty()))
}

async fn job(client: &Client, id: &str, wait: Option<Duration>) -> Result<Job, Failure> {
    let job = match wait {
        Some(wait) => {
            let request = GetJobRequest { view: JobView::Full.into(), ..id.into() };
            client.wait_for_job(request, wait).await?
        }
        None => client.get_job(id, JobView::Full).await?,
    };
    Ok(job)
}

/// Returns the exit code. Ended jobs decide before a timeout, because a job that has not ended may still succeed.
fn exit(fates: Fates, is_late: bool) -> Exit {
    let exit = fates.exit();
    if exit == Exit::Ok && is_late { Exit::TimedOut } else { exit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::JobState;

    #[test]
    fn a_job_that_failed_decides_before_one_that_goes_on() {
        let fates = |states: &[JobState]| {
            let mut fates = Fates::default();
            for state in states {
                fates.count(&Job { state: (*state).into(), ..Job::default() });
            }
            fates
        };
        for (states, is_late, expected) in [
            (&[JobState::Succeeded][..], false, Exit::Ok),
            (&[JobState::Succeeded, JobState::Running], true, Exit::TimedOut),
            (&[JobState::Running, JobState::Cancelled], true, Exit::JobCancelled),
            (&[JobState::Failed, JobState::Running, JobState::Cancelled], true, Exit::JobFailed),
        ] {
            assert_eq!(exit(fates(states), is_late), expected, "{states:?}");
        }
    }
}
