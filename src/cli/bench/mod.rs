//! `jobmill bench`: how fast this machine is with Jobmill, beside what its RPC layer and its disk could do at best.
//!
//! Client and server are separate processes. Each figure is taken in turns with its ceiling, because machines are noisy;
//! see docs/benchmarks.md for what each one means.

mod backlog;
mod cost;
mod end_to_end;
mod figures;
mod load;
mod paced;
mod place;
mod process;
mod report;
mod server;
mod streams;
mod subject;
mod table;
mod variants;
mod watchers;
mod wire;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::{
    load::Run,
    paced::PACE,
    place::Place,
    report::{Figure, Report},
};
pub(crate) use server::{BenchServerArgs, run as run_server};

/// Measures this machine: how many jobs a second Jobmill accepts and runs, how long one takes, and what it costs.
///
/// Starts servers of its own, with stores in a temporary folder; a running server is not touched. Exits with 0 once all
/// was measured, whatever the figures are, and with 1 if a job was lost or a call failed.
#[derive(clap::Args, Debug)]
pub(crate) struct BenchArgs {
    /// Take only these figures
    #[arg(long, value_enum, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    only: Vec<Group>,
    /// Only see that it works: short runs, small backlogs, no verdicts
    #[arg(long)]
    quick: bool,
    /// How long a run is counted [default: 2; with --quick 0.3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// How often each figure is taken in turns with its ceiling [default: 5; with --quick 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pairs: Option<u16>,
    /// Keep the stores under this folder while it runs; by default in the system's temporary folder
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

/// Figures that are taken together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Group {
    /// Unary Submit, beside an empty call
    Submit,
    /// SubmitBatch
    Batches,
    /// SubmitStream, beside an empty bidirectional stream
    Streams,
    /// From Submit to SUCCEEDED, jobs a second
    EndToEnd,
    /// From Submit to SUCCEEDED, milliseconds at an even pace
    Latency,
    /// Rates, memory and restarts with 1 million jobs waiting
    Backlog,
    /// Memory of idle watchers, and rates beside them
    Watchers,
    /// Rates where ended jobs are deleted as fast as others come
    Retention,
    /// Rates over TLS, and with metrics and traces
    Features,
    /// Flushes, bytes written and processor time for a job
    Cost,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.05..=600.0).contains(&seconds) {
        return Err("must be 0.05 to 600".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// How much there is to do.
struct Sizes {
    /// Jobs that wait.
    waiting: u64,
    /// Jobs that warm caches up.
    warming: u64,
    /// Watchers that have nothing to see.
    watchers_by_id: usize,
    watchers_by_filter: usize,
}

/// A bench under way.
struct Bench {
    place: Place,
    run: Run,
    pairs: usize,
    sizes: Sizes,
    bar: ProgressBar,
    figures: Vec<Figure>,
}

/// Measures, and writes what it found to stdout: as JSON or for people.
pub(crate) async fn run(args: BenchArgs, json: bool) -> ExitCode {
    let measured = tokio::select! {
        measured = measure(args) => measured,
        // Returns, so that servers and stores are cleared away.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let text = match measured {
        Ok(report) if json => format!("{:#}", report.json()),
        Ok(report) => report.to_string(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "jobmill: the bench failed: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jobmill: the output can't be written: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: BenchArgs) -> anyhow::Result<Report> {
    let BenchArgs { mut only, quick, seconds, pairs, dir } = args;
    if only.is_empty() {
        only.extend(Group::value_variants());
    }
    let counted = seconds.unwrap_or(Duration::from_millis(if quick { 300 } else { 2_000 }));
    let run = Run { warm_up: counted / 4, counted };
    let pairs = pairs.map_or(if quick { 1 } else { 5 }, usize::from);
    let sizes = if quick {
        Sizes { waiting: 20_000, warming: 10_000, watchers_by_id: 1_000, watchers_by_filter: 100 }
    } else {
        Sizes { waiting: 1_000_000, warming: 200_000, watchers_by_id: 10_000, watchers_by_filter: 1_000 }
    };
    let bar = ProgressBar::with_draw_target(
        Some(only.iter().map(|group| group.steps(pairs)).sum()),
        ProgressDrawTarget::stderr(),
    );
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}") {
        bar.set_style(style);
    }
    let place = Place::new(&dir.unwrap_or_else(std::env::temp_dir))?;
    let mut bench = Bench { place, run, pairs, sizes, bar, figures: Vec::new() };
    for group in &only {
        match group {
            Group::Submit => bench.submit().await?,
            Group::Batches => bench.batches().await?,
            Group::Streams => bench.streams().await?,
            Group::EndToEnd => bench.end_to_end().await?,
            Group::Latency => bench.latency().await?,
            Group::Backlog => bench.backlog().await?,
            Group::Watchers => bench.watchers().await?,
            Group::Retention => bench.retention().await?,
            Group::Features => bench.features().await?,
            Group::Cost => bench.cost().await?,
        }
    }
    bench.bar.finish_and_clear();
    Ok(Report {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        file_system: bench.place.file_system(),
        seconds: counted.as_secs_f64(),
        pairs,
        judged: !quick,
        figures: bench.figures,
    })
}

impl Group {
    /// How many runs it takes.
    fn steps(self, pairs: usize) -> u64 {
        let (of_each_pair, others) = match self {
            Group::Submit => (11, 0),
            Group::Batches | Group::Streams => (2, 0),
            Group::EndToEnd => (5, 0),
            Group::Latency => (4, 0),
            Group::Backlog => (9, 8),
            Group::Watchers => (2, 4),
            Group::Retention => (2, 1),
            Group::Features => (5, 0),
            Group::Cost => (0, 4),
        };
        (of_each_pair * pairs + others) as u64
    }
}

impl Bench {
    /// Tells what is done now.
    fn step(&self, what: String) {
        self.bar.set_message(what);
        self.bar.inc(1);
    }

    /// The calls of a paced run, which takes as long as others do.
    fn paced_calls(&self) -> usize {
        (self.run.counted.as_secs_f64() * f64::from(PACE)).ceil() as usize
    }
}
