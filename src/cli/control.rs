//! Options and output shared by the verbs that change something.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
};
use jobmill::proto::v1::{JobChange, JobState};

/// The request id of a change.
#[derive(Debug, clap::Args)]
pub(super) struct RequestIdArg {
    /// Request id, which makes a repeat of this command safe: the same id with the same arguments changes nothing more.
    /// Default: a new one
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) request_id: String,
}

/// Options that apply to the change of one job.
#[derive(Debug, clap::Args)]
pub(super) struct Condition {
    /// Refuse the change unless the job is at this revision, as shown by `jobmill get`; with one job only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) expected_revision: Option<i64>,
    #[command(flatten)]
    pub(super) named: RequestIdArg,
}

impl Condition {
    /// Fails if an option that needs one job is given with several: they share neither a revision nor a request.
    pub(super) fn check(&self, ids: &[String]) -> Result<(), Failure> {
        let given = [
            ("--expected-revision", self.expected_revision.is_some()),
            ("--request-id", !self.named.request_id.is_empty()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given && ids.len() > 1) {
            Some((flag, _)) => Err(Failure::usage(format!("{flag} goes with one job, not with several"))),
            None => Ok(()),
        }
    }

    pub(super) fn request_id(&self) -> String {
        self.named.request_id.clone()
    }
}

/// Prints the state of a job after a change.
pub(super) fn tell(change: &JobChange, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.print_json(&json::change(change));
    }
    ui.print(&said(change))?;
    if change.repeated {
        ui.note("this request id was used before: nothing changed; this was the state after that request");
    }
    Ok(())
}

fn said(change: &JobChange) -> String {
    let id = text::escape(&change.id);
    match JobState::try_from(change.state) {
        Ok(JobState::Cancelling) => format!("{id} CANCELLING; its attempt was asked to stop"),
        Ok(_) | Err(_) => format!("{id} {}", text::state(change.state)),
    }
}

/// Asks for confirmation on the terminal. Without one, the answer is no.
pub(super) fn confirmed(question: &str) -> bool {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    if write!(io::stderr(), "{question}").is_err() {
        return false;
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Calls `act` for each of several jobs. A failure of one job does not stop the others; the first failure decides the
/// exit code.
pub(super) async fn each(
    ids: &[String],
    ui: &Ui,
    mut act: impl AsyncFnMut(&str) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    for id in ids {
        let Err(failure) = act(id).await else { continue };
        // The call would fail in the same way for each of the others.
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

    #[test]
    fn a_condition_goes_with_one_job() {
        let ids = ["a", "b"].map(String::from);
        let condition = |expected_revision, request_id: &str| Condition {
            expected_revision,
            named: RequestIdArg { request_id: request_id.into() },
        };
        assert!(condition(None, "").check(&ids).is_ok());
        assert!(condition(Some(1), "r").check(&ids[..1]).is_ok());
        for (condition, flag) in
            [(condition(Some(1), ""), "--expected-revision"), (condition(None, "r"), "--request-id")]
        {
            let failure = condition.check(&ids).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.line().unwrap().contains(flag));
        }
    }

    #[test]
    fn a_running_job_is_not_cancelled_yet() {
        let change =
            |state: JobState| JobChange { id: "a\n".into(), state: state.into(), ..JobChange::default() };
        assert_eq!(said(&change(JobState::Cancelled)), "a\\n CANCELLED");
        assert_eq!(said(&change(JobState::Cancelling)), "a\\n CANCELLING; its attempt was asked to stop");
    }

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
