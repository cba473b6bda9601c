//! `jobmill get`.

use super::{
    Global, connect, describe,
    exit::{Exit, Failure},
    json,
    ui::Ui,
};
use jobmill::proto::v1::JobView;

/// The arguments of `jobmill get`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to show
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    for (index, id) in args.ids.iter().enumerate() {
        let job = client.get_job(id, JobView::Full).await?;
        if ui.is_json() {
            ui.print_json(&json::job(&job))?;
        } else {
            if index > 0 {
                ui.print("\n")?;
            }
            ui.print(&describe::in_full(&job, ui.clock.now(), ui.colour))?;
        }
    }
    Ok(Exit::Ok)
}
