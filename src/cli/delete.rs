//! `jobmill delete`.

use super::{
    Global, connect,
    control::{Condition, each},
    exit::{Exit, Failure},
    text,
    ui::Ui,
};
use jobmill::proto::v1::DeleteJobRequest;

/// The arguments of `jobmill delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to delete
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Delete a job although others depend on it; those that wait for it are told that it was unsuccessful
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let Args { ids, force, condition } = args;
    condition.check(&ids)?;
    let client = connect(global).await?;
    each(&ids, ui, async |id| {
        let request = DeleteJobRequest {
            force,
            expected_revision: condition.expected_revision,
            request_id: condition.request_id(),
            ..id.into()
        };
        client.delete_job(request).await?;
        if ui.is_json() {
            ui.print_json(&serde_json::json!({ "deleted": { "id": id } }))
        } else {
            ui.print(&format!("{} deleted", text::escape(id)))
        }
    })
    .await
}
