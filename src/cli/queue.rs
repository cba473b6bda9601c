//! `jobmill queue`.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use super::{
    Global, connect,
    exit::{Exit, Failure},
    json,
    table::{Table, plain},
    text,
    ui::Ui,
    values::{self, KeepArg, WhenFullArg},
};
use jobmill::{
    client::{Client, from_wire_duration, to_wire_duration},
    proto::v1::{JobState, Queue, QueueSettings, QueueStats, Retention, StateCount, WhenFull},
};

/// What to do with queues.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all queues
    List,
    /// Show a queue
    Get(Name),
    /// Create a queue
    Create(Change),
    /// Change settings of a queue; those that are not named stay
    Update(Change),
    /// Delete a queue that has no waiting or running jobs
    Delete(Name),
    /// Stop starting jobs; submissions are still accepted
    Pause(Name),
    /// Start jobs again
    Resume(Name),
    /// Delete the jobs that wait in a queue
    Purge(Purge),
}

/// A queue.
#[derive(Debug, clap::Args)]
pub(super) struct Name {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
}

/// A queue and its settings.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    /// How many jobs may wait and run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1_000_000_000))]
    max_jobs: Option<i64>,
    /// How many bytes they may take, such as 512MiB
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    max_bytes: Option<u64>,
    /// How many attempts run at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    consumers: Option<i32>,
    /// What submissions do when it is full
    #[arg(long, value_enum, value_name = "HOW")]
    when_full: Option<WhenFullArg>,
    /// How long a submission may wait for room
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    max_wait: Option<Duration>,
    /// How many submissions may wait for room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    max_waiters: Option<i32>,
    /// Whether kinds that have no handler are accepted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    accept_unknown_kinds: Option<bool>,
    /// How long SUCCEEDED jobs are kept: a duration, `forever`, or `default` for as long as the server says
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_succeeded: Option<KeepArg>,
    /// How long FAILED jobs are kept
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_failed: Option<KeepArg>,
    /// How long CANCELLED jobs are kept
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_cancelled: Option<KeepArg>,
    /// How long EXPIRED jobs are kept
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_expired: Option<KeepArg>,
}

/// A queue to empty.
#[derive(Debug, clap::Args)]
pub(super) struct Purge {
    /// The queue's name
    #[arg(value_name = "QUEUE")]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Change {
    /// Puts what is named in place of what was set before.
    fn over(&self, settings: QueueSettings) -> QueueSettings {
        QueueSettings {
            max_jobs: self.max_jobs.or(settings.max_jobs),
            max_bytes: self
                .max_bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
                .or(settings.max_bytes),
            consumers: self.consumers.or(settings.consumers),
            when_full: self.when_full.map_or(settings.when_full, |how| WhenFull::from(how).into()),
            max_wait: self.max_wait.map(to_wire_duration).or(settings.max_wait),
            max_waiters: self.max_waiters.or(settings.max_waiters),
            accept_unknown_kinds: self.accept_unknown_kinds.or(settings.accept_unknown_kinds),
            retention: Some(self.retention_over(settings.retention.unwrap_or_default())),
        }
    }

    fn retention_over(&self, before: Retention) -> Retention {
        let keep = |arg: Option<KeepArg>, before| arg.map_or(before, KeepArg::to_wire);
        Retention {
            succeeded: keep(self.keep_succeeded, before.succeeded),
            failed: keep(self.keep_failed, before.failed),
            cancelled: keep(self.keep_cancelled, before.cancelled),
            expired: keep(self.keep_expired, before.expired),
        }
    }
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    match command {
        Command::List => {
            let queues = client.list_queues().await?;
            if ui.is_json() {
                queues.iter().try_for_each(|queue| ui.print_json(&json::queue(queue)))?;
            } else {
                ui.print(&list(&queues, ui.colour))?;
            }
        }
        Command::Get(Name { name }) => show(&client.get_queue(name).await?, ui)?,
        Command::Create(change) => {
            let settings = change.over(QueueSettings::default());
            show(&client.create_queue(change.name, settings).await?, ui)?;
        }
        Command::Update(change) => {
            // The call replaces all settings, and forgetting the others would be a surprise.
            let before = client.get_queue(change.name.as_str()).await?.settings.unwrap_or_default();
            let settings = change.over(before);
            show(&client.update_queue(change.name, settings).await?, ui)?;
        }
        Command::Delete(Name { name }) => {
            client.delete_queue(name.as_str()).await?;
            if ui.is_json() {
                ui.print_json(&serde_json::json!({ "deleted": { "name": name } }))?;
            } else {
                ui.print(&format!("queue {} deleted", text::escape(&name)))?;
            }
        }
        Command::Pause(Name { name }) => said(&client.pause_queue(name).await?, "paused", ui)?,
        Command::Resume(Name { name }) => said(&client.resume_queue(name).await?, "starts jobs again", ui)?,
        Command::Purge(args) => return purge(&client, args, ui).await,
    }
    Ok(Exit::Ok)
}

async fn purge(client: &Client, args: Purge, ui: &Ui) -> Result<Exit, Failure> {
    if !args.yes {
        let stats = client.get_queue(args.name.as_str()).await?.stats.unwrap_or_default();
        let jobs = text::counted(waiting(&stats), "waiting job");
        if !confirmed(&format!("Delete {jobs} of queue {}? [y/N] ", text::escape(&args.name))) {
            return Err(
                Failure::usage("nothing was deleted").with_next("Repeat it with --yes to delete the jobs.")
            );
        }
    }
    let deleted = client.purge_queue(args.name).await?;
    if ui.is_json() {
        ui.print_json(&serde_json::json!({ "deletedJobs": deleted }))?;
    } else {
        ui.print(&format!("{} deleted", text::counted(deleted, "job")))?;
    }
    Ok(Exit::Ok)
}

/// Asks a person. Where there is none, the answer is no.
fn confirmed(question: &str) -> bool {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    if write!(io::stderr(), "{question}").is_err() {
        return false;
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn said(queue: &Queue, what: &str, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.print_json(&json::queue(queue));
    }
    ui.print(&format!("queue {} {what}", text::escape(&queue.name)))
}

fn show(queue: &Queue, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() { ui.print_json(&json::queue(queue)) } else { ui.print(&in_full(queue)) }
}

fn count_of(stats: &QueueStats, states: &[JobState]) -> u64 {
    let fits =
        |count: &&StateCount| JobState::try_from(count.state).is_ok_and(|state| states.contains(&state));
    stats.counts.iter().filter(fits).map(|count| u64::try_from(count.count).unwrap_or(0)).sum()
}

fn waiting(stats: &QueueStats) -> u64 {
    count_of(stats, &[JobState::Scheduled, JobState::Queued, JobState::BackingOff])
}

fn list(queues: &[Queue], colour: bool) -> String {
    let header = ["QUEUE", "STATE", "LIVE", "OF", "RUNNING", "QUEUED", "LATER", "FAILED", "OLDEST READY"];
    let mut table = Table::new(header, colour).numbers([2, 3, 4, 5, 6, 7]);
    for queue in queues {
        let stats = queue.stats.clone().unwrap_or_default();
        let settings = queue.settings.unwrap_or_default();
        let count = |states: &[JobState]| plain(count_of(&stats, states).to_string());
        let age = stats.oldest_ready_age.as_ref().map(|age| text::duration(from_wire_duration(age)));
        table.row([
            plain(text::escape(&queue.name)),
            plain(if queue.paused { "paused" } else { "active" }),
            plain(stats.live_jobs.to_string()),
            plain(settings.max_jobs.map(|max| max.to_string()).unwrap_or_default()),
            count(&[JobState::Running, JobState::Cancelling]),
            count(&[JobState::Queued]),
            count(&[JobState::Scheduled, JobState::BackingOff]),
            count(&[JobState::Failed]),
            plain(age.unwrap_or_default()),
        ]);
    }
    table.render()
}

fn in_full(queue: &Queue) -> String {
    let settings = queue.settings.unwrap_or_default();
    let stats = queue.stats.clone().unwrap_or_default();
    let size = |bytes: i64| text::bytes(u64::try_from(bytes).unwrap_or(0));
    let of = |used: String, max: Option<String>| match max {
        Some(max) => format!("{used} of {max}"),
        None => used,
    };
    let mut fields = vec![
        ("queue", text::escape(&queue.name).into_owned()),
        ("state", if queue.paused { "paused".to_owned() } else { "active".to_owned() }),
        ("live jobs", of(stats.live_jobs.to_string(), settings.max_jobs.map(|max| max.to_string()))),
        ("live bytes", of(size(stats.live_bytes), settings.max_bytes.map(size))),
    ];
    if let Some(consumers) = settings.consumers {
        fields.push(("consumers", consumers.to_string()));
    }
    let wait = settings.max_wait.as_ref().map(|wait| text::duration(from_wire_duration(wait)));
    match WhenFull::try_from(settings.when_full) {
        Ok(WhenFull::Reject) => fields.push(("when full", "reject".to_owned())),
        Ok(WhenFull::Wait) => {
            fields.push(("when full", format!("wait up to {}", wait.unwrap_or_else(|| "30s".to_owned()))));
        }
        Ok(WhenFull::Unspecified) | Err(_) => {}
    }
    fields.push(("waiters", of(stats.waiters.to_string(), settings.max_waiters.map(|max| max.to_string()))));
    if settings.accept_unknown_kinds == Some(true) {
        fields.push(("unknown kinds", "accepted".to_owned()));
    }
    let retention = settings.retention.unwrap_or_default();
    for (name, keep) in [
        ("succeeded", retention.succeeded),
        ("failed", retention.failed),
        ("cancelled", retention.cancelled),
        ("expired", retention.expired),
    ] {
        if let Some(kept) = keep.as_ref().and_then(values::kept) {
            fields.push((name, format!("kept {kept}")));
        }
    }
    if queue.declared {
        fields.push(("declared", "in the configuration file".to_owned()));
    }
    if let Some(age) = &stats.oldest_ready_age {
        fields.push(("oldest ready", text::duration(from_wire_duration(age))));
    }
    for count in &stats.counts {
        fields.push(("", format!("{} {}", count.count, text::state(count.state))));
    }
    fields.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let count = |state: JobState, count| StateCount { state: state.into(), count };
        Queue {
            name: "images".into(),
            settings: Some(QueueSettings {
                max_jobs: Some(100_000),
                max_bytes: Some(1 << 30),
                consumers: Some(4),
                when_full: WhenFull::Wait.into(),
                max_wait: Some(to_wire_duration(Duration::from_secs(30))),
                max_waiters: Some(1_000),
                accept_unknown_kinds: Some(false),
                retention: Some(Retention {
                    failed: KeepArg::Forever.to_wire(),
                    expired: KeepArg::For(Duration::from_secs(90)).to_wire(),
                    ..Retention::default()
                }),
            }),
            paused: true,
            declared: true,
            stats: Some(QueueStats {
                counts: vec![
                    count(JobState::Scheduled, 2),
                    count(JobState::Queued, 30),
                    count(JobState::Running, 4),
                    count(JobState::Failed, 1),
                ],
                live_jobs: 36,
                live_bytes: 12_345,
                waiters: 0,
                oldest_ready_age: Some(to_wire_duration(Duration::from_secs(75))),
            }),
            namespace: "default".into(),
        }
    }

    #[test]
    fn queues_in_a_table() {
        let idle = Queue { name: "default".into(), ..Default::default() };
        insta::assert_snapshot!(list(&[idle, queue()], false), @r"
        QUEUE    STATE   LIVE      OF  RUNNING  QUEUED  LATER  FAILED  OLDEST READY
        default  active     0                0       0      0       0
        images   paused    36  100000        4      30      2       1  1m 15s
        ");
    }

    #[test]
    fn a_queue_in_full() {
        insta::assert_snapshot!(in_full(&queue()), @r"
        queue         images
        state         paused
        live jobs     36 of 100000
        live bytes    12.1 KiB of 1 GiB
        consumers     4
        when full     wait up to 30s
        waiters       0 of 1000
        failed        kept for ever
        expired       kept 1m 30s
        declared      in the configuration file
        oldest ready  1m 15s
                      2 SCHEDULED
                      30 QUEUED
                      4 RUNNING
                      1 FAILED
        ");
    }

    #[test]
    fn a_queue_in_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&json::queue(&queue())).unwrap(), @r#"
        {
          "declared": true,
          "name": "images",
          "namespace": "default",
          "paused": true,
          "settings": {
            "acceptUnknownKinds": false,
            "consumers": 4,
            "maxBytes": 1073741824,
            "maxJobs": 100000,
            "maxWait": "30s",
            "maxWaiters": 1000,
            "retention": {
              "expired": {
                "time": "90s"
              },
              "failed": {
                "forever": true
              }
            },
            "whenFull": "WHEN_FULL_WAIT"
          },
          "stats": {
            "counts": [
              {
                "count": 2,
                "state": "JOB_STATE_SCHEDULED"
              },
              {
                "count": 30,
                "state": "JOB_STATE_QUEUED"
              },
              {
                "count": 4,
                "state": "JOB_STATE_RUNNING"
              },
              {
                "count": 1,
                "state": "JOB_STATE_FAILED"
              }
            ],
            "liveBytes": 12345,
            "liveJobs": 36,
            "oldestReadyAge": "75s",
            "waiters": 0
          }
        }
        "#);
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let change = Change {
            name: "images".into(),
            max_jobs: None,
            max_bytes: Some(5),
            consumers: Some(0),
            when_full: Some(WhenFullArg::Reject),
            max_wait: None,
            max_waiters: None,
            accept_unknown_kinds: None,
            keep_succeeded: Some(KeepArg::For(Duration::ZERO)),
            keep_failed: Some(KeepArg::Default),
            keep_cancelled: None,
            keep_expired: None,
        };
        let before = queue().settings.unwrap();
        let expected = QueueSettings {
            max_bytes: Some(5),
            consumers: Some(0),
            when_full: WhenFull::Reject.into(),
            retention: Some(Retention {
                succeeded: KeepArg::For(Duration::ZERO).to_wire(),
                failed: None,
                ..before.retention.unwrap()
            }),
            ..before
        };
        assert_eq!(change.over(before), expected);
    }
}
