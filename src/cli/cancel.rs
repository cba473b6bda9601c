//! `jobmill cancel`.

use super::{
    Global, connect,
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
};
use jobmill::proto::v1::{Job, JobState};

/// The arguments of `jobmill cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to cancel
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    each(&args.ids, ui, async |id| {
        let job = client.cancel_job(id).await?;
        if ui.is_json() { ui.print_json(&json::job(&job)) } else { ui.print(&said(&job)) }
    })
    .await
}

fn said(job: &Job) -> String {
    let id = text::escape(&job.id);
    match JobState::try_from(job.state) {
        Ok(JobState::Cancelling) => format!("{id} CANCELLING; its attempt was asked to stop"),
        Ok(_) | Err(_) => format!("{id} {}", text::state(job.state)),
    }
}

/// Does something to each of several jobs. What is wrong with one does not keep it from the others; the first failure
/// decides the exit code.
pub(super) async fn each(
    ids: &[String],
    ui: &Ui,
    mut act: impl AsyncFnMut(&str) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    for id in ids {
        let Err(failure) = act(id).await else { continue };
        // The same would happen to each of the others.
        if ids.len() == 1 || matches!(failure.exit(), Exit::Ok | Exit::Unreachable | Exit::TimedOut) {
            return Err(failure);
        }
        if let Some(line) = failure.line() {
            ui.note(&format!("{}: {line}", text::escape(id)));
        }
        if exit == Exit::Ok {
            exit = failure.exit();
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Format;

    #[tokio::test]
    async fn one_bad_id_does_not_stop_the_others_but_a_lost_server_does() {
        let ui = Ui::new(Format::Text, true);
        let ids = ["a", "missing", "refused", "b", "gone", "c"].map(String::from);
        let mut done = Vec::new();
        let exit = each(&ids[..4], &ui, async |id| match id {
            "missing" => Err(Failure::new(Exit::NotFound, "no")),
            "refused" => Err(Failure::new(Exit::Refused, "no")),
            id => {
                done.push(id.to_owned());
                Ok(())
            }
        })
        .await;
        assert_eq!(exit.unwrap(), Exit::NotFound);
        assert_eq!(done, ["a", "b"]);

        let mut asked = 0;
        let failure = each(&ids[3..], &ui, async |id| {
            asked += 1;
            if id == "gone" { Err(Failure::new(Exit::Unreachable, "no")) } else { Ok(()) }
        })
        .await;
        assert_eq!((failure.unwrap_err().exit(), asked), (Exit::Unreachable, 2));
    }
}
