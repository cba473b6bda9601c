//! `jobmill list`.

use super::{
    Global, connect, describe,
    exit::{Exit, Failure},
    filter::FilterArgs,
    json,
    table::{Table, plain},
    text,
    ui::Ui,
};
use jobmill::{
    client::from_wire_timestamp,
    clock::Timestamp,
    proto::v1::{Job, JobFilter, JobView, ListJobsRequest},
};

const PAGE_MAX: u64 = 1_000;
/// Limit of the details column, so that a row fits on a line of most terminals. `get` and JSON show the whole text.
const DETAILS_MAX_CHARS: usize = 60;

/// The arguments of `jobmill list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Largest number of jobs to list; 0 means all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    let filter = JobFilter::from(args.filter);
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut page_token = String::new();
    let mut jobs = Vec::new();
    loop {
        let page = client
            .list_jobs(ListJobsRequest {
                filter: Some(filter.clone()),
                page_size: left.min(PAGE_MAX) as i32,
                page_token,
                view: JobView::Basic.into(),
                ..Default::default()
            })
            .await?;
        left = left.saturating_sub(page.jobs.len() as u64);
        if ui.is_json() {
            // Printed page by page, because all jobs together may not fit into memory.
            for job in &page.jobs {
                ui.print_json(&json::job(job))?;
            }
        } else {
            jobs.extend(page.jobs);
        }
        page_token = page.next_page_token;
        if left == 0 || page_token.is_empty() {
            break;
        }
    }
    if !ui.is_json() {
        if jobs.is_empty() {
            ui.note("no jobs");
        } else {
            ui.print(&render(&jobs, ui.clock.now(), ui.colour))?;
        }
    }
    if !page_token.is_empty() {
        ui.note(&format!("there are more than {}; --limit 0 lists all", text::counted(args.limit, "job")));
    }
    Ok(Exit::Ok)
}

fn render(jobs: &[Job], now: Timestamp, colour: bool) -> String {
    let mut table = Table::new(["ID", "QUEUE", "KIND", "STATE", "CREATED", "DETAILS"], colour);
    for job in jobs {
        let created = job.create_time.as_ref().map(from_wire_timestamp);
        table.row([
            plain(text::escape(&job.id)),
            plain(text::escape(job.queue())),
            plain(text::escape(job.kind())),
            (text::state(job.state), text::state_colour(job.state)),
            plain(created.map(|created| text::relative(created, now)).unwrap_or_default()),
            plain(text::shortened(&describe::state_details(job, now), DETAILS_MAX_CHARS)),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::describe::tests::{at, failed_job};
    use jobmill::{
        client::to_wire_timestamp,
        proto::v1::{JobSpec, JobState, Progress},
    };

    #[test]
    fn jobs_in_a_table_with_one_line_each() {
        let running = Job {
            id: "06g3k5m0v4001".into(),
            spec: Some(JobSpec {
                queue: "default".into(),
                kind: "report/daily".into(),
                ..Default::default()
            }),
            state: JobState::Running.into(),
            attempt: 1,
            max_attempts: 5,
            create_time: Some(to_wire_timestamp(at(57_000))),
            progress: Some(Progress { fraction: Some(0.42), text: "x".repeat(100), step: String::new() }),
            ..Default::default()
        };
        let hostile = JobSpec { queue: "default".into(), kind: "a\nb\u{1b}".into(), ..Default::default() };
        let hostile = Job { spec: Some(hostile), ..running.clone() };
        let jobs = [running, failed_job(), hostile];
        insta::assert_snapshot!(render(&jobs, at(60_000), false), @r"
        ID             QUEUE    KIND          STATE    CREATED  DETAILS
        06g3k5m0v4001  default  report/daily  RUNNING  3s ago   42 % xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        06g3k5m0v4000  images   thumbnail     FAILED   1m ago   attempt 2 of 2: disk \x1b]0;owned\x07 full (exit code 1)
        06g3k5m0v4001  default  a\nb\x1b      RUNNING  3s ago   42 % xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        ");
        assert!(render(&jobs, at(60_000), true).contains("\u{1b}["));
    }
}
