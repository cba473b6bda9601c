//! `jobmill retry`.

use super::{
    Global, connect,
    control::{self, Condition, each},
    exit::{Exit, Failure},
    ui::Ui,
};
use jobmill::proto::v1::RetryJobRequest;

/// The arguments of `jobmill retry`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to run again
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Count the attempts so far no longer: against the maximum, for the delays, and as snoozes and process losses
    #[arg(long)]
    reset_attempts: bool,
    /// Delete the state that earlier attempts have left, so that the next one begins anew
    #[arg(long)]
    drop_checkpoint: bool,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let Args { ids, reset_attempts, drop_checkpoint, condition } = args;
    condition.check(&ids)?;
    let client = connect(global).await?;
    each(&ids, ui, async |id| {
        let request = RetryJobRequest {
            expected_revision: condition.expected_revision,
            request_id: condition.request_id(),
            reset_attempts,
            drop_checkpoint,
            ..id.into()
        };
        let answer = client.retry_job(request).await?;
        control::tell(&answer.change.unwrap_or_default(), ui)
    })
    .await
}
