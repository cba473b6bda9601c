//! `jobmill backup` and `jobmill compact`: work on a store's files directly, without its server.

use std::path::PathBuf;

use indicatif::ProgressBar;
use jobmill::{
    config::Environment,
    settings::StoreSettings,
    store::{
        StoreError,
        sqlite::{self, CopyError},
    },
};

use super::{
    exit::{Exit, Failure},
    serve::SourceArgs,
    text,
    ui::Ui,
};

/// The arguments of `jobmill backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// New folder for the backup; it can then be used as a data folder
    #[arg(value_name = "FOLDER")]
    into: PathBuf,
    #[command(flatten)]
    from: FromArgs,
}

/// The arguments of `jobmill compact`.
#[derive(Debug, clap::Args)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    from: FromArgs,
}

/// The options that name the store.
#[derive(Debug, clap::Args)]
struct FromArgs {
    /// The server's configuration file, which names the data folder [env: JOBMILL_CONFIG]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The server's data folder [env: JOBMILL_DATA_DIR]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
}

impl FromArgs {
    fn folder(self) -> Result<PathBuf, Failure> {
        let loaded = SourceArgs::of_store(self.config, self.data_dir)
            .load(&Environment::of_process())
            .map_err(|faults| Failure::usage(faults.to_string()))?;
        match loaded.settings.store {
            StoreSettings::Folder(folder) => Ok(folder),
            StoreSettings::Memory => {
                Err(Failure::usage("a server that keeps its jobs in memory has no files"))
            }
        }
    }
}

pub(super) fn backup(args: BackupArgs, ui: &Ui) -> Result<Exit, Failure> {
    let folder = args.from.folder()?;
    let bar = if ui.bars { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let copied = sqlite::backup(&folder, &args.into, |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let copied = copied.map_err(failure)?;
    if ui.is_json() {
        let folder = args.into.to_string_lossy();
        ui.print_json(&serde_json::json!({
            "folder": folder, "bytes": copied.bytes, "jobs": copied.jobs, "position": copied.position.as_i64(),
        }))?;
    } else {
        let (jobs, size) = (text::counted(copied.jobs, "job"), text::bytes(copied.bytes));
        ui.print(&format!("{jobs} in {size}, checked"))?;
    }
    Ok(Exit::Ok)
}

pub(super) fn compact(args: CompactArgs, ui: &Ui) -> Result<Exit, Failure> {
    let (before, after) = sqlite::compact(&args.from.folder()?).map_err(failure)?;
    if ui.is_json() {
        ui.print_json(&serde_json::json!({ "bytesBefore": before, "bytesAfter": after }))?;
    } else {
        ui.print(&format!("{} before, {} after", text::bytes(before), text::bytes(after)))?;
    }
    Ok(Exit::Ok)
}

fn failure(error: CopyError) -> Failure {
    let exit = match &error {
        CopyError::NoStore(_) => Exit::NotFound,
        CopyError::NotEmpty(_) | CopyError::TooMuchWritten => Exit::Refused,
        CopyError::Store(StoreError::InUse(_) | StoreError::NewerSchema { .. }) => Exit::Refused,
        CopyError::NotSound(_) | CopyError::Store(_) => Exit::Internal,
    };
    // `{:#}` adds the causes, down to the error of the operating system.
    Failure::new(exit, format!("{:#}", anyhow::Error::from(error)))
}
