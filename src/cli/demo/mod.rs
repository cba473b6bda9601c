//! `jobmill demo`.
use super::{
    exit::{Exit, Failure},
    ui::Ui,
};
/// x
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) async fn run(_args: Args, _ui: &Ui) -> Result<Exit, Failure> {
    Ok(Exit::Ok)
}
