//! `jobmill count`.

use super::{
    Global, connect,
    exit::{Exit, Failure},
    filter::FilterArgs,
    json,
    table::{Table, plain},
    text,
    ui::Ui,
};
use jobmill::proto::v1::CountJobsResponse;

/// The arguments of `jobmill count`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let answer = connect(global).await?.count_jobs(args.filter.into()).await?;
    if ui.is_json() {
        ui.print_json(&json::counts(&answer))?;
        return Ok(Exit::Ok);
    }
    ui.print(&render(&answer, ui.colour))?;
    if !answer.exact {
        ui.note("too many jobs to count them all: these numbers are lower bounds");
    }
    Ok(Exit::Ok)
}

fn render(answer: &CountJobsResponse, colour: bool) -> String {
    let mut table = Table::new(["STATE", "JOBS"], colour).numbers([1]);
    for count in &answer.counts {
        let state = (text::state(count.state), text::state_colour(count.state));
        table.row([state, plain(count.count.to_string())]);
    }
    table.row([plain("total"), plain(answer.total.to_string())]);
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::{JobState, StateCount};

    #[test]
    fn counts_in_a_table() {
        let count = |state: JobState, count| StateCount { state: state.into(), count };
        let counts = vec![count(JobState::Queued, 1_204), count(JobState::Failed, 3)];
        let answer = CountJobsResponse { counts, total: 1_207, exact: true };
        insta::assert_snapshot!(render(&answer, false), @r"
        STATE   JOBS
        QUEUED  1204
        FAILED     3
        total   1207
        ");
    }
}
