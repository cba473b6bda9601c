//! `jobmill schedule`.

mod changes;
mod settings;
mod show;

use clap::{Args, Subcommand};

use super::{
    Global, connect,
    control::RequestIdArg,
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
    values,
};
use jobmill::{
    client::{Client, to_wire_timestamp},
    clock::{Clock, Timestamp},
    proto::v1::{
        ListSchedulesRequest, PreviewScheduleRequest, WatchSchedulesRequest, watch_schedules_response::Event,
    },
};
use settings::{Job, Spec};

/// The verbs of `jobmill schedule`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all schedules
    List,
    /// Show a schedule with all of its details
    Describe(Named),
    /// Show the next instants of a schedule, or of times that are not stored
    Preview(Preview),
    /// Create a schedule
    Create(Box<Create>),
    /// Change the named settings of a schedule; the others stay
    Update(Box<Update>),
    /// Delete a schedule; its jobs stay
    Delete(Change),
    /// Pause a schedule
    Pause(Pause),
    /// Resume a paused schedule from now
    Resume(Change),
    /// Create a job of a schedule now
    Trigger(Change),
    /// Run instants of the past, one after the other
    Backfill(Backfill),
    /// End the backfill of a schedule
    CancelBackfill(Change),
    /// Watch schedules as they change
    Watch(Watch),
}

/// A schedule to show.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
}

/// A schedule to change.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A schedule to pause.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
    /// The reason, for others to read
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    named: RequestIdArg,
}

/// Times to show.
#[derive(Debug, Args)]
pub(super) struct Preview {
    /// The schedule's name; without it, the times are given by --cron or --every
    #[arg(value_name = "SCHEDULE", conflicts_with_all = ["cron", "every"], required_unless_present_any = ["cron", "every"])]
    name: Option<String>,
    #[command(flatten)]
    spec: Spec,
    /// Number of instants, at most 1,000
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    count: i32,
    /// Only instants after this one; default: now
    #[arg(long, value_name = "INSTANT", value_parser = values::instant)]
    after: Option<Timestamp>,
}

/// A schedule to create.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    job: Job,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A schedule and its new settings.
#[derive(Debug, Args)]
#[command(after_help = "Concurrent changes do not undo each other: settings that are not named stay, and \
                  the command is refused (exit code 5) if the schedule changes after the command has read it. New \
                  times count from now; a change of anything else moves no instant.")]
pub(super) struct Update {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    job: Job,
    /// Set the default of a setting, such as `catch-up`; may be repeated
    #[arg(long, value_name = "SETTING", value_parser = settings::cleared)]
    clear: Vec<String>,
    /// Refuse the change unless the schedule has this etag, as shown by `jobmill schedule describe`. Default: its etag
    /// when the command starts
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A range of the past to run.
#[derive(Debug, Args)]
pub(super) struct Backfill {
    /// The schedule's name
    #[arg(value_name = "SCHEDULE")]
    name: String,
    /// Start of the range
    #[arg(long, value_name = "INSTANT", value_parser = values::instant)]
    from: Timestamp,
    /// End of the range, included
    #[arg(long, value_name = "INSTANT", value_parser = values::instant)]
    until: Timestamp,
    /// Limit of the instants; if there are more, nothing runs
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    at_most: i32,
    /// Only show what would run
    #[arg(long)]
    dry_run: bool,
    /// Run instants again that have run already
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    named: RequestIdArg,
}

/// Schedules to watch.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Names of schedules; default: all
    #[arg(value_name = "SCHEDULE")]
    names: Vec<String>,
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    if let Command::Update(args) = &command {
        changes::check(args)?;
    }
    let client = connect(global).await?;
    match command {
        Command::List => list(&client, ui).await?,
        Command::Describe(Named { name }) => tell(&client.get_schedule(name).await?, ui)?,
        Command::Preview(args) => preview(&client, args, ui).await?,
        Command::Watch(args) => return watch(&client, args, ui).await,
        Command::Create(args) => tell(&changes::create(&client, *args).await?, ui)?,
        Command::Update(args) => tell(&changes::update(&client, *args).await?, ui)?,
        Command::Delete(args) => changes::delete(&client, args, ui).await?,
        Command::Pause(args) => said(&changes::pause(&client, args).await?, "paused", ui)?,
        Command::Resume(args) => said(&changes::resume(&client, args).await?, "goes on from now", ui)?,
        Command::Trigger(args) => changes::trigger(&client, args, ui).await?,
        Command::Backfill(args) => changes::backfill(&client, args, ui).await?,
        Command::CancelBackfill(args) => {
            said(&changes::cancel_backfill(&client, args).await?, "runs no more instants of the past", ui)?;
        }
    }
    Ok(Exit::Ok)
}

/// Lists schedules page by page, as one table.
async fn list(client: &Client, ui: &Ui) -> Result<(), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSchedulesRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = client.list_schedules(request).await?;
        if ui.is_json() {
            page.schedules.iter().try_for_each(|schedule| ui.print_json(&json::schedule(schedule)))?;
        } else {
            all.extend(page.schedules);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ui.is_json() { Ok(()) } else { ui.print(&show::list(&all, Clock::System.now(), ui.colour)) }
}

async fn preview(client: &Client, args: Preview, ui: &Ui) -> Result<(), Failure> {
    let Preview { name, spec, count, after } = args;
    let is_stored = name.is_some();
    let request = PreviewScheduleRequest {
        name: name.unwrap_or_default(),
        spec: (!is_stored).then(|| spec.to_wire()),
        count,
        after: after.map(to_wire_timestamp),
        ..Default::default()
    };
    let answer = client.preview_schedule(request).await?;
    if ui.is_json() {
        answer.instants.iter().try_for_each(|instant| ui.print_json(&json::schedule_instant(instant)))
    } else {
        ui.print(&show::preview(&answer.instants, Clock::System.now(), ui.colour))
    }
}

async fn watch(client: &Client, args: Watch, ui: &Ui) -> Result<Exit, Failure> {
    let request = WatchSchedulesRequest { names: args.names, ..Default::default() };
    let mut events = client.watch_schedules(request).await?;
    while let Some(message) = events.next().await {
        match message?.event {
            Some(Event::Schedule(schedule)) if ui.is_json() => ui.print_json(&json::schedule(&schedule))?,
            Some(Event::Schedule(schedule)) => ui.print(&show::line(&schedule, Clock::System.now()))?,
            Some(Event::Deleted(name)) if ui.is_json() => {
                ui.print_json(&serde_json::json!({ "deleted": { "name": name } }))?;
            }
            Some(Event::Deleted(name)) => {
                ui.print(&format!("schedule {} is not there", text::escape(&name)))?
            }
            // What comes now is a change, which needs no word of its own.
            Some(Event::Synced(_)) | None => {}
        }
    }
    Ok(Exit::Ok)
}

fn said(schedule: &jobmill::proto::v1::Schedule, what: &str, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.print_json(&json::schedule(schedule));
    }
    ui.print(&format!("schedule {} {what}", text::escape(&schedule.name)))
}

fn tell(schedule: &jobmill::proto::v1::Schedule, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        ui.print_json(&json::schedule(schedule))
    } else {
        ui.print(&show::in_full(schedule, Clock::System.now()))
    }
}
