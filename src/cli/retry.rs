//! `jobmill retry`.

use super::{
    Global,
    cancel::each,
    connect,
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
};

/// The arguments of `jobmill retry`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to start again
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    each(&args.ids, ui, async |id| {
        let job = client.retry_job(id).await?;
        if ui.is_json() {
            ui.print_json(&json::job(&job))
        } else {
            ui.print(&format!("{} {}", text::escape(&job.id), text::state(job.state)))
        }
    })
    .await
}
