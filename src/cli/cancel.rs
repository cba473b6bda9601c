//! `jobmill cancel`.

use super::{
    Global, connect,
    control::{self, Condition, each},
    exit::{Exit, Failure},
    ui::Ui,
};
use jobmill::proto::v1::CancelJobRequest;

/// The arguments of `jobmill cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to cancel
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let Args { ids, condition } = args;
    condition.check(&ids)?;
    let client = connect(global).await?;
    each(&ids, ui, async |id| {
        let request = CancelJobRequest {
            expected_revision: condition.expected_revision,
            request_id: condition.request_id(),
            ..id.into()
        };
        let answer = client.cancel_job(request).await?;
        control::tell(&answer.change.unwrap_or_default(), ui)
    })
    .await
}
