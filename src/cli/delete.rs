//! `jobmill delete`.

use super::{
    Global,
    cancel::each,
    connect,
    exit::{Exit, Failure},
    text,
    ui::Ui,
};

/// The arguments of `jobmill delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to delete
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    each(&args.ids, ui, async |id| {
        client.delete_job(id).await?;
        if ui.is_json() {
            ui.print_json(&serde_json::json!({ "deleted": { "id": id } }))
        } else {
            ui.print(&format!("{} deleted", text::escape(id)))
        }
    })
    .await
}
