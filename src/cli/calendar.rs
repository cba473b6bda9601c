//! `jobmill calendar`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{
    Global, connect,
    control::RequestIdArg,
    exit::{Exit, Failure},
    json,
    table::{Table, plain},
    text,
    ui::Ui,
};
use jobmill::proto::v1::{Calendar, CreateCalendarRequest, DeleteCalendarRequest, UpdateCalendarRequest};

/// The verbs of `jobmill calendar`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all calendars
    List,
    /// Show the dates of a calendar
    Get(Get),
    /// Create a calendar: dates that schedules leave out
    Create(Dated),
    /// Replace the dates of a calendar
    Update(Update),
    /// Delete a calendar that no schedule uses
    Delete(Change),
}

/// A calendar to show.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The calendar's name
    #[arg(value_name = "CALENDAR")]
    name: String,
}

/// A calendar with its dates.
#[derive(Debug, Args)]
pub(super) struct Dated {
    /// The calendar's name
    #[arg(value_name = "CALENDAR")]
    name: String,
    /// Date, or range such as 2026-12-24..2026-12-26; may be repeated
    #[arg(long, value_name = "DATE")]
    date: Vec<String>,
    /// File with a date or range in each line; `#` begins a comment
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A calendar with its new dates.
#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    dated: Dated,
    /// Refuse the change unless the calendar has this etag, as shown by `jobmill calendar get --output json`. Default: any
    #[arg(long, value_name = "ETAG", default_value = "*", hide_default_value = true)]
    etag: String,
}

/// A calendar to delete.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The calendar's name
    #[arg(value_name = "CALENDAR")]
    name: String,
    #[command(flatten)]
    named: RequestIdArg,
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    match command {
        Command::List => {
            let calendars = connect(global).await?.list_calendars().await?;
            if ui.is_json() {
                calendars.iter().try_for_each(|calendar| ui.print_json(&json::calendar(calendar)))?;
            } else {
                ui.print(&table(&calendars, ui.colour))?;
            }
        }
        Command::Get(Get { name }) => tell(&connect(global).await?.get_calendar(name).await?, ui)?,
        Command::Create(args) => {
            let (calendar, request_id) = read(args)?;
            let request =
                CreateCalendarRequest { calendar: Some(calendar), request_id, ..Default::default() };
            tell(&present(connect(global).await?.create_calendar(request).await?.calendar)?, ui)?;
        }
        Command::Update(Update { dated, etag }) => {
            let (calendar, request_id) = read(dated)?;
            let calendar = Some(Calendar { etag, ..calendar });
            let request = UpdateCalendarRequest { calendar, request_id, ..Default::default() };
            tell(&present(connect(global).await?.update_calendar(request).await?.calendar)?, ui)?;
        }
        Command::Delete(Change { name, named: RequestIdArg { request_id } }) => {
            let request = DeleteCalendarRequest { request_id, ..name.as_str().into() };
            connect(global).await?.delete_calendar(request).await?;
            if ui.is_json() {
                ui.print_json(&serde_json::json!({ "deleted": { "name": name } }))?;
            } else {
                ui.print(&format!("calendar {} deleted", text::escape(&name)))?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// Returns a calendar with the dates of the options and of the file.
fn read(args: Dated) -> Result<(Calendar, String), Failure> {
    let Dated { name, date: mut dates, file, named: RequestIdArg { request_id } } = args;
    if let Some(path) = file {
        dates.extend(dates_of(&path)?);
    }
    Ok((Calendar { name, dates, ..Calendar::default() }, request_id))
}

fn dates_of(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} can't be read: {error}", path.display())))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Returns the calendar of an answer, or a failure if it was deleted since.
fn present(calendar: Option<Calendar>) -> Result<Calendar, Failure> {
    calendar.ok_or_else(|| {
        let what = "this request id was used before, and the calendar was deleted since";
        Failure::new(Exit::NotFound, what).with_next("Use another --request-id for another change.")
    })
}

fn tell(calendar: &Calendar, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.print_json(&json::calendar(calendar));
    }
    let mut fields = vec![("calendar", text::escape(&calendar.name).into_owned())];
    fields.extend(text::listed("dates", calendar.dates.iter().map(|date| text::escape(date).into_owned())));
    if calendar.declared {
        fields.push(("declared", "in the configuration file".to_owned()));
    }
    ui.print(&text::fields(fields))
}

fn table(calendars: &[Calendar], colour: bool) -> String {
    let mut table = Table::new(["CALENDAR", "DATES", "FROM"], colour).numbers([1]);
    for calendar in calendars {
        table.row([
            plain(text::escape(&calendar.name)),
            plain(calendar.dates.len().to_string()),
            plain(if calendar.declared { "file" } else { "API" }),
        ]);
    }
    table.render()
}
