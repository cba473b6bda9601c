//! `jobmill demo`: one command that shows the main functions on real files.
//!
//! Nothing is simulated: the server is the real one, with its store on disk and its commands as processes. The results
//! of its jobs are compared with checksums that this process computes by itself.

mod files;
mod plan;
mod report;
mod stage;

use std::path::{Path, PathBuf};

use jobmill::{
    client::Client,
    serve::{Server, Stopper},
};

use crate::cli::{
    exit::{Exit, Failure},
    follow::ctrl_c,
    text,
    ui::Ui,
};
use files::{Input, InputFiles};
use plan::Role;
use report::DemoReport;

/// The arguments of `jobmill demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It starts a server of its own on a free port, with its jobs in a temporary folder that is \
                        removed at the end. Nothing in DIR is changed. Exits with 0 only if all went as expected."
)]
pub(super) struct Args {
    /// The folder whose files the jobs read
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

pub(super) async fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let found = find(args.folder).await?;
    introduce(&found, ui);
    let data = tempfile::Builder::new()
        .prefix("jobmill-demo-")
        .tempdir()
        .map_err(|error| Failure::new(Exit::Internal, format!("no temporary folder can be made: {error}")))?;
    let server = start(data.path()).await?;
    let stopper = server.stopper();
    let Some(address) = server.local_addr() else {
        return Err(Failure::new(Exit::Internal, "the server does not listen"));
    };
    let endpoint = address.to_string();

    let shown = tokio::select! {
        shown = show(&endpoint, found.files, ui) => shown,
        () = ctrl_c() => {
            ui.note("interrupted; stopping the server");
            stopper.force();
            let _ = server.finished().await;
            return Ok(Exit::Interrupted);
        }
    };
    let drained = drain(server, &stopper).await;
    let mut report = shown?;
    if let Err(fault) = drained {
        report.differs(fault);
    }
    if let Err(error) = data.close() {
        report.differs(format!("the temporary folder can't be removed: {error}"));
    }
    if ui.is_json() {
        ui.print_json(&report.json())?;
    } else {
        ui.print(&format!("\n{}", report.render(ui.colour)))?;
        if report.all_well() {
            ui.print(TRY_NEXT)?;
        }
    }
    Ok(if report.all_well() { Exit::Ok } else { Exit::JobFailed })
}

/// The commands to try next, ready to be copied.
const TRY_NEXT: &str = r#"
Try next, in a folder of your own:

  printf '[kinds.hello]\ncommand = ["wc", "-c"]\n' > jobmill.toml
  jobmill serve --config jobmill.toml --data-dir ./jobmill-data

and from another terminal:

  jobmill submit hello 'how long is this?' --watch
  echo some input | jobmill submit hello --stdin
  jobmill list

or with any gRPC client:

  grpcurl -plaintext -d '{"job": {"queue": "default", "kind": "hello", "payload": {"text": "hello"}}}' \
    127.0.0.1:7733 jobmill.v1.JobQueue/Submit
  grpcurl -plaintext -d '{"filter": {}}' 127.0.0.1:7733 jobmill.v1.JobQueue/WatchStatus
"#;

async fn find(folder: PathBuf) -> Result<InputFiles, Failure> {
    let name = folder.display().to_string();
    let find = move || InputFiles::under(&std::fs::canonicalize(folder)?);
    let found = blocking(find).await?;
    found.map_err(|error| Failure::usage(format!("`{name}` can't be read: {error}")))
}

fn introduce(found: &InputFiles, ui: &Ui) {
    if ui.is_json() {
        return;
    }
    let files = found.files.len() as u64;
    ui.note(&format!("{} to compute, and 3 jobs that show more", text::counted(files, "checksum")));
    let left_out = found.left_out();
    if !left_out.is_empty() {
        ui.note(&format!("left out: {}", left_out.join(", ")));
    }
}

async fn start(data: &Path) -> Result<Server, Failure> {
    let internal = |message: String| Failure::new(Exit::Internal, message);
    let program = std::env::current_exe()
        .map_err(|error| internal(format!("the path of this program is unknown: {error}")))?;
    let program =
        program.to_str().ok_or_else(|| internal("the path of this program is not UTF-8".to_owned()))?;
    let server = Server::builder(plan::settings(&data.join("data"), program)).start().await;
    server.map_err(|error| internal(format!("the server did not start: {error}")))
}

/// Runs the jobs, and compares them with what is expected.
async fn show(endpoint: &str, files: Vec<Input>, ui: &Ui) -> Result<DemoReport, Failure> {
    let client = Client::connect(endpoint).await?;
    let played = stage::play(&client, &files, ui).await?;
    let checks = blocking(move || files.into_iter().map(|file| (file.check(), file)).collect::<Vec<_>>());
    let mut report = DemoReport::new(played.started, played.file_time);
    for (index, (checked, file)) in checks.await?.into_iter().enumerate() {
        report.file(&file, played.jobs.get(&Role::File(index)), &checked);
    }
    for role in Role::SPECIAL {
        report.special(role, played.jobs.get(&role));
    }
    Ok(report)
}

async fn drain(server: Server, stopper: &Stopper) -> Result<(), String> {
    stopper.drain();
    server.finished().await.map_err(|error| format!("the server did not stop as it should: {error}"))
}

/// Runs disk work on a thread that may block, so that progress bars keep moving.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(Exit::Internal, format!("a thread failed: {error}")))
}
