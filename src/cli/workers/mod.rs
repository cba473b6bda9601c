//! `jobmill workers`.

mod show;

use std::{collections::BTreeMap, pin::pin, time::Duration};

use super::{
    Global, connect,
    control::confirmed,
    exit::{Exit, Failure},
    follow::ctrl_c,
    json, text,
    ui::Ui,
    values,
};
use jobmill::{
    client::{Client, to_wire_duration},
    proto::v1::{DrainWorkersRequest, ListWorkersRequest, ListWorkersResponse},
};

/// Interval between two views of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The codes by which a terminal goes to its first line and clears what follows.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// The arguments of `jobmill workers`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

/// The workers to show.
#[derive(Debug, clap::Args)]
struct List {
    /// Show this worker in full, with its leases
    #[arg(long, value_name = "INSTANCE", default_value = "", hide_default_value = true)]
    instance: String,
    /// Only workers with this label; may be repeated: all must match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::entry)]
    labels: Vec<(String, String)>,
    /// Show the workers again every 2 s, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask workers to finish what they run and to end
    Drain(Drain),
}

/// The workers to drain.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A worker that was asked gets no more jobs. It ends once its jobs have ended, or when the time is \
                  over; jobs that are left then go back to their queues, and their attempts count. What starts it \
                  again, such as systemd, is not told."
)]
struct Drain {
    /// The worker's name
    #[arg(
        value_name = "INSTANCE",
        required_unless_present = "labels",
        default_value = "",
        hide_default_value = true
    )]
    instance: String,
    /// All workers with this label; may be repeated: all must match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::entry)]
    labels: Vec<(String, String)>,
    /// How long the workers have to finish what they run
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    within: Duration,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    match args.command {
        Some(Command::Drain(args)) => drain(&client, args, ui).await,
        None if args.list.watch => watch(&client, args.list, ui).await,
        None => list(&client, args.list, ui).await,
    }
}

fn request(instance: &str, labels: Vec<(String, String)>) -> ListWorkersRequest {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    ListWorkersRequest { instance: instance.to_owned(), labels, ..Default::default() }
}

async fn list(client: &Client, args: List, ui: &Ui) -> Result<Exit, Failure> {
    let request = request(&args.instance, args.labels);
    let found = client.list_workers(request).await?;
    if !args.instance.is_empty() && found.workers.is_empty() {
        let failure = Failure::new(Exit::NotFound, format!("no worker is named {}", args.instance));
        return Err(failure.with_next("`jobmill workers` lists those that are connected or hold leases."));
    }
    if ui.is_json() {
        found.workers.iter().try_for_each(|worker| ui.print_json(&json::worker(worker)))?;
    } else if found.workers.is_empty() {
        ui.note("no workers");
    } else {
        ui.print(&view(&found, &args.instance, ui))?;
    }
    if let Some(note) = left_out(&found) {
        ui.note(&note);
    }
    Ok(Exit::Ok)
}

/// Shows the workers again and again: on a terminal in place, elsewhere whenever something has changed.
async fn watch(client: &Client, args: List, ui: &Ui) -> Result<Exit, Failure> {
    let request = request(&args.instance, args.labels);
    let mut interrupted = pin!(ctrl_c());
    let mut last = String::new();
    loop {
        let found = client.list_workers(request.clone()).await?;
        let shown = match ui.is_json() {
            true => json::workers(&found).to_string(),
            false if found.workers.is_empty() => "no workers".to_owned(),
            false => view(&found, &args.instance, ui),
        };
        if ui.stdout_is_terminal && !ui.is_json() {
            ui.print(&format!("{CLEAR}{shown}"))?;
        } else if shown != last {
            ui.print(&shown)?;
        }
        last = shown;
        let next = ui.clock.uptime().after(WATCH_EVERY);
        tokio::select! {
            () = &mut interrupted => return Ok(Exit::Interrupted),
            () = ui.clock.sleep_until(next) => {}
        }
    }
}

fn view(found: &ListWorkersResponse, instance: &str, ui: &Ui) -> String {
    let now = ui.clock.now();
    match instance {
        "" => show::list(&found.workers, now, ui.colour),
        _ => {
            let pages = found.workers.iter().map(|worker| show::in_full(worker, now, ui.colour));
            pages.collect::<Vec<_>>().join("\n")
        }
    }
}

/// Returns a note on workers that match and are not in the answer.
fn left_out(found: &ListWorkersResponse) -> Option<String> {
    let left = u64::try_from(found.total).unwrap_or(0).saturating_sub(found.workers.len() as u64);
    (left > 0).then(|| format!("and {}; --label selects", text::counted(left, "more worker")))
}

async fn drain(client: &Client, args: Drain, ui: &Ui) -> Result<Exit, Failure> {
    let Drain { instance, labels, within, yes } = args;
    let list = request(&instance, labels);
    if !yes {
        let found = client.list_workers(list.clone()).await?;
        // If there is none, the server says so.
        if !found.workers.is_empty() && !confirmed(&question(&found, within)) {
            let failure = Failure::usage("no worker was asked to end");
            return Err(failure.with_next("Repeat it with --yes to drain them."));
        }
    }
    let request = DrainWorkersRequest {
        instance: list.instance,
        labels: list.labels,
        within: Some(to_wire_duration(within)),
        ..Default::default()
    };
    let answer = client.drain_workers(request).await?;
    if ui.is_json() {
        ui.print_json(&serde_json::json!({ "instances": answer.instances, "total": answer.total }))?;
        return Ok(Exit::Ok);
    }
    for instance in &answer.instances {
        ui.print(&text::escape(instance))?;
    }
    let asked = text::counted(u64::try_from(answer.total).unwrap_or(0), "worker");
    let they = if answer.total == 1 { ["it runs", "it gets"] } else { ["they run", "they get"] };
    let ([run, get], within) = (they, text::duration(within));
    ui.note(&format!("{asked} asked to finish what {run} within {within}, and to end; {get} no more jobs"));
    Ok(Exit::Ok)
}

/// Returns the question before a drain, which says what happens.
fn question(found: &ListWorkersResponse, within: Duration) -> String {
    let workers = text::counted(u64::try_from(found.total).unwrap_or(0), "worker");
    let leases = found.workers.iter().map(|worker| u64::try_from(worker.lease_count).unwrap_or(0)).sum();
    format!(
        "Ask {workers}, with {} under way, to take no more, to finish within {}, and to end? [y/N] ",
        text::counted(leases, "job"),
        text::duration(within)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use jobmill::proto::v1::Worker;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Result<Args, clap::Error> {
        let words = ["workers"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn a_drain_names_a_worker_or_a_label() {
        for fine in
            ["drain a", "drain --label zone=b", "drain --label zone=b --within 5m --yes", "", "--watch"]
        {
            assert!(parsed(fine).is_ok(), "{fine}");
        }
        for wrong in ["drain", "drain a --within soon", "drain --label zone", "a", "--watch drain a"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_question_says_what_happens() {
        let worker = |lease_count| Worker { lease_count, ..Default::default() };
        let found = ListWorkersResponse { workers: vec![worker(3), worker(1)], total: 2 };
        assert_eq!(
            question(&found, Duration::from_secs(30)),
            "Ask 2 workers, with 4 jobs under way, to take no more, to finish within 30s, and to end? [y/N] "
        );
        assert_eq!(left_out(&found), None);
        let found = ListWorkersResponse { total: 1_002, ..found };
        assert_eq!(left_out(&found), Some("and 1000 more workers; --label selects".into()));
    }
}
