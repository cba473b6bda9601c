//! `jobmill queue`.

mod settings;
mod show;

use super::{
    Global, connect,
    control::{RequestIdArg, confirmed},
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
};
use jobmill::{
    client::Client,
    proto::v1::{
        CreateQueueRequest, DeleteQueueRequest, PauseQueueRequest, PurgeQueueRequest, Queue,
        ResumeQueueRequest, UpdateQueueRequest,
    },
};
use settings::Settings;

/// The etag that matches any state of a queue.
const ANY: &str = "*";

/// The verbs of `jobmill queue`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all queues
    List,
    /// Show a queue
    Get(Get),
    /// Create a queue
    Create(Create),
    /// Change the named settings of a queue; the others stay
    Update(Update),
    /// Delete a queue that has no waiting or running jobs
    Delete(Change),
    /// Stop starting jobs; submissions are still accepted
    Pause(Change),
    /// Start the jobs of a paused queue again
    Resume(Change),
    /// Delete the jobs that wait in a queue
    Purge(Purge),
}

/// A queue to show.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
}

/// A queue to change.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A queue to create.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A queue and its new settings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Concurrent changes do not undo each other: settings that are not named stay, and \
                  the command is refused (exit code 5) if the queue changes after the command has read it.")]
pub(super) struct Update {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Refuse the change unless the queue has this etag, as shown by `jobmill queue get`. Default: its etag when the
    /// command starts
    #[arg(long, value_name = "ETAG", conflicts_with = "force")]
    etag: Option<String>,
    /// Change the queue whatever its etag is
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A queue to empty.
#[derive(Debug, clap::Args)]
pub(super) struct Purge {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    named: RequestIdArg,
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    if let Command::Update(args) = &command {
        check(args)?;
    }
    let client = connect(global).await?;
    match command {
        Command::List => {
            let queues = client.list_queues().await?;
            if ui.is_json() {
                queues.iter().try_for_each(|queue| ui.print_json(&json::queue(queue)))?;
            } else {
                ui.print(&show::list(&queues, ui.colour))?;
            }
        }
        Command::Get(Get { name }) => tell(&client.get_queue(name).await?, ui)?,
        Command::Create(Create { name, settings, named: RequestIdArg { request_id } }) => {
            let settings = Some(settings.to_wire());
            let request = CreateQueueRequest { settings, request_id, ..name.into() };
            tell(&present(client.create_queue(request).await?.queue)?, ui)?;
        }
        Command::Update(args) => tell(&update(&client, args).await?, ui)?,
        Command::Delete(Change { name, named: RequestIdArg { request_id } }) => {
            client.delete_queue(DeleteQueueRequest { request_id, ..name.as_str().into() }).await?;
            if ui.is_json() {
                ui.print_json(&serde_json::json!({ "deleted": { "name": name } }))?;
            } else {
                ui.print(&format!("queue {} deleted", text::escape(&name)))?;
            }
        }
        Command::Pause(Change { name, named: RequestIdArg { request_id } }) => {
            let request = PauseQueueRequest { request_id, ..name.into() };
            said(&present(client.pause_queue(request).await?.queue)?, ui)?;
        }
        Command::Resume(Change { name, named: RequestIdArg { request_id } }) => {
            let request = ResumeQueueRequest { request_id, ..name.into() };
            said(&present(client.resume_queue(request).await?.queue)?, ui)?;
        }
        Command::Purge(args) => purge(&client, args, ui).await?,
    }
    Ok(Exit::Ok)
}

/// Checks that an update changes something, and that its repeat is the same request.
fn check(args: &Update) -> Result<(), Failure> {
    if args.settings.mask().is_empty() {
        let failure = Failure::usage("nothing to change is named");
        return Err(failure.with_next("Name settings, such as --consumers 4; --help lists them."));
    }
    if !args.named.request_id.is_empty() && args.etag.is_none() && !args.force {
        // A repeat would read another etag, and so be another request.
        return Err(Failure::usage(
            "--request-id needs --etag or --force, for a repeat to be the same request",
        ));
    }
    Ok(())
}

async fn update(client: &Client, args: Update) -> Result<Queue, Failure> {
    let etag = match args.etag {
        Some(etag) => etag,
        None if args.force => ANY.to_owned(),
        None => client.get_queue(args.name.as_str()).await?.etag,
    };
    let (paths, settings) = (args.settings.mask(), Some(args.settings.to_wire()));
    let request = UpdateQueueRequest {
        queue: Some(Queue { name: args.name, etag, settings, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths }),
        request_id: args.named.request_id,
        ..Default::default()
    };
    present(client.update_queue(request).await?.queue)
}

async fn purge(client: &Client, args: Purge, ui: &Ui) -> Result<(), Failure> {
    let Purge { name, yes, named: RequestIdArg { request_id } } = args;
    if !yes {
        let stats = client.get_queue(name.as_str()).await?.stats.unwrap_or_default();
        let jobs = text::counted(show::waiting(&stats), "waiting job");
        if !confirmed(&format!("Delete {jobs} of queue {}? [y/N] ", text::escape(&name))) {
            return Err(
                Failure::usage("nothing was deleted").with_next("Repeat it with --yes to delete the jobs.")
            );
        }
    }
    let answer = client.purge_queue(PurgeQueueRequest { request_id, ..name.into() }).await?;
    if ui.is_json() {
        return ui.print_json(&serde_json::json!({
            "deletedJobs": answer.deleted_jobs, "skippedJobs": answer.skipped_jobs,
        }));
    }
    let deleted = u64::try_from(answer.deleted_jobs).unwrap_or(0);
    ui.print(&format!("{} deleted", text::counted(deleted, "job")))?;
    match u64::try_from(answer.skipped_jobs).unwrap_or(0) {
        0 => Ok(()),
        skipped => {
            let skipped = text::counted(skipped, "job");
            ui.note(&format!("{skipped} left, because others depend on them: see `jobmill delete --force`"));
            Ok(())
        }
    }
}

/// Returns the queue of an answer, or a failure if it was deleted since.
fn present(queue: Option<Queue>) -> Result<Queue, Failure> {
    queue.ok_or_else(|| {
        let what = "this request id was used before, and the queue was deleted since";
        Failure::new(Exit::NotFound, what).with_next("Use another --request-id for another change.")
    })
}

fn said(queue: &Queue, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.print_json(&json::queue(queue));
    }
    let what = if queue.paused { "paused" } else { "starts jobs again" };
    ui.print(&format!("queue {} {what}", text::escape(&queue.name)))
}

fn tell(queue: &Queue, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() { ui.print_json(&json::queue(queue)) } else { ui.print(&show::in_full(queue)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn checked(line: &str) -> Result<(), Failure> {
        let words = ["update", "q"].into_iter().chain(line.split_whitespace());
        check(&Line::try_parse_from(words).unwrap().update)
    }

    #[test]
    fn an_update_names_what_it_changes_and_is_the_same_when_it_is_repeated() {
        for fine in [
            "--consumers 4",
            "--consumers 4 --force --request-id r",
            "--keep-failed default --etag e --request-id r",
        ] {
            assert!(checked(fine).is_ok(), "{fine}");
        }
        for (line, said) in
            [("--force", "nothing to change"), ("--consumers 4 --request-id r", "--request-id needs --etag")]
        {
            let failure = checked(line).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.line().unwrap().contains(said), "{line}");
        }
        assert!(Line::try_parse_from(["update", "q", "--etag", "e", "--force"]).is_err());
    }

    #[test]
    fn a_queue_that_a_repeat_does_not_find_any_more_is_told_as_missing() {
        assert_eq!(present(None).unwrap_err().exit(), Exit::NotFound);
    }
}
