//! The command line: one file for each verb, from arguments to an exit code.

mod check_config;
mod completions;
mod doctor;
mod serve;

mod backup;
mod bench;
mod calendar;
mod cancel;
mod control;
mod count;
mod credentials;
mod delete;
mod demo;
mod dependencies;
mod describe;
mod exit;
mod filter;
mod follow;
mod get;
mod graph;
mod info;
mod init;
mod json;
mod key;
mod limit;
mod list;
mod live;
mod logging;
mod payload;
mod queue;
mod retry;
mod schedule;
mod steps;
mod submit;
mod submit_stream;
mod table;
mod text;
mod token;
mod ui;
mod unique;
mod update;
mod values;
mod watch;
mod why;
mod work;
mod workers;

use std::{future::Future, pin::Pin, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use exit::{Exit, Failure};
use jobmill::client::{Client, ClientBuilder};
use ui::{Format, Ui};

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(
    name = "jobmill",
    version,
    about = "A durable job service: submit with one call, run in the background, watch until it ends",
    after_help = exit::HELP,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every verb.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// The server to talk to: host:port, http://host:port, or https://host:port
    #[arg(
        long,
        global = true,
        env = "JOBMILL_SERVER",
        default_value = "http://127.0.0.1:7733",
        value_name = "URL",
        hide_env_values = true
    )]
    server: String,
    #[command(flatten)]
    credentials: credentials::Credentials,
    /// Format of results: text for people, or JSON, one object per line
    #[arg(
        long,
        global = true,
        env = "JOBMILL_OUTPUT",
        default_value = "text",
        value_enum,
        value_name = "FORMAT",
        hide_env_values = true
    )]
    output: Format,
    /// Write plain lines in place of progress bars, as where stderr is no terminal
    #[arg(long, global = true)]
    no_progress: bool,
    /// Time limit of one call
    #[arg(long, global = true, default_value = "40s", value_parser = values::positive_duration, value_name = "DURATION")]
    call_timeout: Duration,
    /// Feature that the server must have, or it refuses each call; listed by `jobmill info`; may be repeated
    #[arg(long = "require", global = true, value_name = "FEATURE")]
    required: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Run jobs of a server elsewhere, with the handlers of a configuration file
    Work(work::WorkArgs),
    /// Check a configuration file without starting anything
    CheckConfig(check_config::CheckConfigArgs),
    /// Diagnose an installation and suggest fixes
    Doctor(doctor::Args),
    /// Copy a server's store to a new folder, while it runs or not
    Backup(backup::BackupArgs),
    /// Return the space of deleted jobs to the file system, while the server is stopped
    Compact(backup::CompactArgs),
    /// Run a demonstration: a temporary server with a job for each file of a folder
    Demo(demo::Args),
    /// Measure the throughput and latency of jobs on this machine
    Bench(bench::BenchArgs),
    /// Show a server's version, clock, features and limits, and your permissions
    Info,
    /// Submit a job
    Submit(Box<submit::Args>),
    /// Watch jobs as they change
    Watch(watch::Args),
    /// Show jobs with all of their details
    Get(get::Args),
    /// Say why jobs do not run, and what would change it
    Why(why::Args),
    /// Show a job with those that it depends on, and those that depend on it
    Graph(graph::Args),
    /// List jobs, newest first
    List(list::Args),
    /// Count jobs by state
    Count(count::Args),
    /// Cancel jobs
    Cancel(cancel::Args),
    /// Run failed or cancelled jobs again, or waiting ones now
    Retry(retry::Args),
    /// Change the input of a job that has never started
    Update(update::Args),
    /// Delete jobs that are not running
    Delete(delete::Args),
    /// Show remote workers, and ask them to end
    Workers(workers::Args),
    /// Show and release unique keys
    #[command(subcommand)]
    Key(key::Command),
    /// Manage queues
    #[command(subcommand)]
    Queue(queue::Command),
    /// Manage schedules, which create jobs at their times
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Manage calendars: dates that schedules leave out
    #[command(subcommand)]
    Calendar(calendar::Command),
    /// Manage limits: how many jobs run at once, or start in a time
    #[command(subcommand)]
    Limit(limit::Command),
    /// Create access tokens for callers
    #[command(subcommand)]
    Token(token::Command),
    /// Write a shell completion script for this program
    Completions(completions::CompletionsArgs),
    /// Write this program's manual pages
    Man(completions::ManArgs),
    #[command(flatten)]
    HiddenVerb(steps::HiddenVerb),
    #[command(name = "__bench-server", hide = true)]
    BenchServer(bench::BenchServerArgs),
}

/// Runs the program, and returns its exit code.
#[must_use]
pub(crate) fn main() -> ExitCode {
    let parsed =
        Cli::command().try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let Cli { global, command } = match parsed {
        Ok(cli) => cli,
        Err(error) => return tell(&error),
    };
    let ui = Ui::new(global.output, global.no_progress);
    match command {
        Command::HiddenVerb(step) => steps::run(step),
        Command::CheckConfig(args) => check_config::run(args, &ui),
        Command::Serve(args) => match init::run() {
            Some(code) => code,
            None => block_on(&ui, async { serve::run(args).await }),
        },
        Command::Bench(args) => block_on(&ui, bench::run(args, global.output == Format::Json)),
        Command::BenchServer(args) => block_on(&ui, bench::run_server(args)),
        Command::Doctor(args) => verb(&ui, doctor::run(args, &global, &ui)),
        Command::Completions(args) => verb(&ui, async { completions::completions(&args, &ui) }),
        Command::Man(args) => verb(&ui, async { completions::man(&args, &ui) }),
        Command::Demo(args) => verb(&ui, demo::run(args, &ui)),
        Command::Backup(args) => verb(&ui, async { backup::backup(args, &ui) }),
        Command::Compact(args) => verb(&ui, async { backup::compact(args, &ui) }),
        Command::Work(args) => match init::run() {
            Some(code) => code,
            None => verb(&ui, work::run(args, &global)),
        },
        Command::Info => verb(&ui, info::run(&global, &ui)),
        Command::Submit(args) => verb(&ui, submit::run(*args, &global, &ui)),
        Command::Watch(args) => verb(&ui, watch::run(args, &global, &ui)),
        Command::Get(args) => verb(&ui, get::run(args, &global, &ui)),
        Command::Why(args) => verb(&ui, why::run(args, &global, &ui)),
        Command::Graph(args) => verb(&ui, graph::run(args, &global, &ui)),
        Command::List(args) => verb(&ui, list::run(args, &global, &ui)),
        Command::Count(args) => verb(&ui, count::run(args, &global, &ui)),
        Command::Cancel(args) => verb(&ui, cancel::run(args, &global, &ui)),
        Command::Retry(args) => verb(&ui, retry::run(args, &global, &ui)),
        Command::Update(args) => verb(&ui, update::run(args, &global, &ui)),
        Command::Delete(args) => verb(&ui, delete::run(args, &global, &ui)),
        Command::Workers(args) => verb(&ui, workers::run(args, &global, &ui)),
        Command::Token(command) => verb(&ui, async { token::run(command, &ui) }),
        Command::Key(command) => verb(&ui, key::run(command, &global, &ui)),
        Command::Queue(command) => verb(&ui, queue::run(command, &global, &ui)),
        Command::Schedule(command) => verb(&ui, schedule::run(command, &global, &ui)),
        Command::Limit(command) => verb(&ui, limit::run(command, &global, &ui)),
        Command::Calendar(command) => verb(&ui, calendar::run(command, &global, &ui)),
    }
}

/// Prints a usage error, or the help that was asked for.
fn tell(told: &clap::Error) -> ExitCode {
    let written = told.print();
    if told.use_stderr() {
        // If it can't be printed, the exit code alone reports the error.
        return Exit::Usage.into();
    }
    let Err(error) = written else { return Exit::Ok.into() };
    let failure = Failure::from(error);
    if let Some(line) = failure.line() {
        Ui::new(Format::Text, true).note(&line);
    }
    failure.exit().into()
}

/// Runs a verb, and prints its failure, if any.
fn verb(ui: &Ui, verb: impl Future<Output = Result<Exit, Failure>>) -> ExitCode {
    // Boxed, so that the runtime is compiled for one type of future and not for each verb.
    run_verb(ui, Box::pin(verb))
}

fn run_verb(ui: &Ui, verb: Pin<Box<dyn Future<Output = Result<Exit, Failure>> + '_>>) -> ExitCode {
    block_on(ui, async {
        verb.await.unwrap_or_else(|failure| {
            if let Some(line) = failure.line() {
                ui.note(&line);
            }
            failure.exit()
        })
    })
}

fn block_on<T: Into<ExitCode>>(ui: &Ui, future: impl Future<Output = T>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(future).into();
            // A blocked read of stdin must not keep the program from ending.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            ui.note(&format!("error: threads can't be started: {error}"));
            Exit::Internal.into()
        }
    }
}

/// Connects to the server that the global options name.
async fn connect(global: &Global) -> Result<Client, Failure> {
    Ok(client(global)?.connect().await?)
}

/// Returns the builder of a client, set up by the global options.
fn client(global: &Global) -> Result<ClientBuilder, Failure> {
    let builder = Client::builder(&global.server).call_timeout(global.call_timeout).require(&global.required);
    global.credentials.add_to(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_the_verbs_and_the_exit_codes() {
        // A fixed width, so that the terminal of the test run does not matter.
        let help = Cli::command().term_width(100).render_help().to_string();
        insta::assert_snapshot!(help, @r"
        A durable job service: submit with one call, run in the background, watch until it ends

        Usage: jobmill [OPTIONS] <COMMAND>

        Commands:
          serve         Run the server
          work          Run jobs of a server elsewhere, with the handlers of a configuration file
          check-config  Check a configuration file without starting anything
          doctor        Diagnose an installation and suggest fixes
          backup        Copy a server's store to a new folder, while it runs or not
          compact       Return the space of deleted jobs to the file system, while the server is stopped
          demo          Run a demonstration: a temporary server with a job for each file of a folder
          bench         Measure the throughput and latency of jobs on this machine
          info          Show a server's version, clock, features and limits, and your permissions
          submit        Submit a job
          watch         Watch jobs as they change
          get           Show jobs with all of their details
          why           Say why jobs do not run, and what would change it
          graph         Show a job with those that it depends on, and those that depend on it
          list          List jobs, newest first
          count         Count jobs by state
          cancel        Cancel jobs
          retry         Run failed or cancelled jobs again, or waiting ones now
          update        Change the input of a job that has never started
          delete        Delete jobs that are not running
          workers       Show remote workers, and ask them to end
          key           Show and release unique keys
          queue         Manage queues
          schedule      Manage schedules, which create jobs at their times
          calendar      Manage calendars: dates that schedules leave out
          limit         Manage limits: how many jobs run at once, or start in a time
          token         Create access tokens for callers
          completions   Write a shell completion script for this program
          man           Write this program's manual pages

        Options:
              --server <URL>             The server to talk to: host:port, http://host:port, or
                                         https://host:port [env: JOBMILL_SERVER] [default:
                                         http://127.0.0.1:7733]
              --tls-ca <PATH>            PEM file with the certificate authorities to trust, in place of the
                                         system's [env: JOBMILL_TLS_CA]
              --tls-cert <PATH>          PEM file with the client certificate to present to the server [env:
                                         JOBMILL_TLS_CERT]
              --tls-key <PATH>           PEM file with the private key of the client certificate [env:
                                         JOBMILL_TLS_KEY]
              --token-file <PATH>        File with the token to send with each call [env:
                                         JOBMILL_TOKEN_FILE]
              --plaintext-token          Send the token even without TLS, for networks that are encrypted
                                         otherwise
              --output <FORMAT>          Format of results: text for people, or JSON, one object per line
                                         [env: JOBMILL_OUTPUT] [default: text] [possible values: text, json]
              --no-progress              Write plain lines in place of progress bars, as where stderr is no
                                         terminal
              --call-timeout <DURATION>  Time limit of one call [default: 40s]
              --require <FEATURE>        Feature that the server must have, or it refuses each call; listed
                                         by `jobmill info`; may be repeated
          -h, --help                     Print help (see more with '--help')
          -V, --version                  Print version

        Exit codes:
            0  all went well
            1  a job that was followed or waited for failed; doctor: there is a problem
            2  wrong usage, or an argument that the server refuses
            3  a job that was followed or waited for was cancelled
            4  no such job, queue, kind, worker or limit; submit: the request id's job was deleted
            5  refused: no permission, the queue is full, the job's state does not allow it, it exists
               already, it has changed since, or the server lacks what --require names
            6  no server answers
            7  no answer in time; get --wait: a job had not ended in time
           70  an internal error
           74  serve: the store failed, or had not written everything when the server ended
          130  interrupted by Ctrl-C
        ");
    }

    #[test]
    fn wrong_usage_is_told_in_one_line_first() {
        let said: Vec<String> = [
            "submit",
            "submit k --priority 101",
            "submit k --delay never",
            "submit k --delay 1s --run-at 2030-01-01T00:00:00Z",
            "submit k text --stdin",
            "submit k --label novalue",
            "submit k --header =v",
            "submit --stream --payload-metadata a=b",
            "submit k --output-lines",
            "submit k --stream",
            "submit k --fail-fast",
            "watch --state BUSY",
            "watch --done --live",
            "watch --all --new --from-token t",
            "list --created-after yesterday",
            "queue",
            "queue create",
            "queue create q --max-bytes 1XB",
            "queue update q --etag e --force",
            "cancel a --expected-revision 0",
            "get a --wait soon",
            "workers drain",
            "workers --watch drain a",
        ]
        .into_iter()
        .map(|line| {
            let words = ["jobmill"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err();
            assert!(error.exit_code() == 2, "{line}");
            let said = error.to_string();
            let first: Vec<_> = said.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            format!("{line}: {}", first.join(" "))
        })
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        submit: error: the following required arguments were not provided: <KIND>
        submit k --priority 101: error: invalid value '101' for '--priority <N>': 101 is not in -100..=100
        submit k --delay never: error: invalid value 'never' for '--delay <DURATION>': write it like 250ms, 30s, 5m or 1h
        submit k --delay 1s --run-at 2030-01-01T00:00:00Z: error: the argument '--delay <DURATION>' cannot be used with '--run-at <TIME>'
        submit k text --stdin: error: the argument '[PAYLOAD]' cannot be used with '--stdin'
        submit k --label novalue: error: invalid value 'novalue' for '--label <KEY=VALUE>': write it like key=value
        submit k --header =v: error: invalid value '=v' for '--header <KEY=VALUE>': write it like key=value
        submit --stream --payload-metadata a=b: error: the argument '--stream [<FILE>]' cannot be used with '--payload-metadata <KEY=VALUE>'
        submit k --output-lines: error: the following required arguments were not provided: --watch
        submit k --stream: error: the argument '[KIND]' cannot be used with '--stream [<FILE>]'
        submit k --fail-fast: error: the argument '[KIND]' cannot be used with '--fail-fast'
        watch --state BUSY: error: invalid value 'BUSY' for '--state <STATE>': one of SCHEDULED, BLOCKED, QUEUED, RUNNING, BACKING_OFF, CANCELLING, SUCCEEDED, FAILED, CANCELLED, EXPIRED
        watch --done --live: error: the argument '--done' cannot be used with '--live'
        watch --all --new --from-token t: error: the argument '--new' cannot be used with '--from-token <TOKEN>'
        list --created-after yesterday: error: invalid value 'yesterday' for '--created-after <TIME>': write it like 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+02:00
        queue: Manage queues
        queue create: error: the following required arguments were not provided: <QUEUE>
        queue create q --max-bytes 1XB: error: invalid value '1XB' for '--max-bytes <SIZE>': write it like 4096, 64MiB or 1GiB
        queue update q --etag e --force: error: the argument '--etag <ETAG>' cannot be used with '--force'
        cancel a --expected-revision 0: error: invalid value '0' for '--expected-revision <N>': 0 is not in 1..9223372036854775807
        get a --wait soon: error: invalid value 'soon' for '--wait <DURATION>': write it like 250ms, 30s, 5m or 1h
        workers drain: error: the following required arguments were not provided: <INSTANCE>
        workers --watch drain a: error: the subcommand 'drain' cannot be used with '--watch'
        ");
    }
}
