//! The bench from its arguments to its report: one group of figures after the other.

use std::{
    io::{self, Write},
    pin::Pin,
    process::ExitCode,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    args::{BenchArgs, Group},
    load::Run,
    place::BenchFolder,
    report::BenchReport,
    session::{Bench, BurdenSizes, Sizes},
};

const FULL: Sizes = Sizes {
    waiting: 1_000_000,
    warming: 200_000,
    watchers_by_id: 10_000,
    watchers_by_filter: 1_000,
    idle_workers: 1_000,
    schedules: 100_000,
    firing: 1_000,
    burdens: BurdenSizes {
        leaving: 1_000,
        due: 50_000,
        results: 1_000,
        purged: 300_000,
        overdue: 200_000,
        samples: 500,
    },
};
const QUICK: Sizes = Sizes {
    waiting: 20_000,
    warming: 10_000,
    watchers_by_id: 1_000,
    watchers_by_filter: 100,
    idle_workers: 100,
    schedules: 2_000,
    firing: 1_000,
    burdens: BurdenSizes {
        leaving: 50,
        due: 5_000,
        results: 50,
        purged: 20_000,
        overdue: 20_000,
        samples: 0,
    },
};

/// Runs the bench, and writes its report to stdout, as JSON or for people.
pub(crate) async fn run(args: BenchArgs, json: bool) -> ExitCode {
    let measured = tokio::select! {
        measured = measure(args) => measured,
        // Returns normally, so that servers are stopped and stores deleted.
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

async fn measure(args: BenchArgs) -> anyhow::Result<BenchReport> {
    let BenchArgs { mut only, quick, seconds, pairs, dir } = args;
    if only.is_empty() {
        only.extend(Group::each());
    }
    let counted = seconds.unwrap_or(Duration::from_millis(if quick { 300 } else { 2_000 }));
    let run = Run { warm_up: counted / 4, counted };
    let pairs = pairs.map_or(if quick { 1 } else { 5 }, usize::from);
    let sizes = if quick { QUICK } else { FULL };
    let bar = ProgressBar::with_draw_target(
        Some(only.iter().map(|group| group.steps(pairs)).sum()),
        ProgressDrawTarget::stderr(),
    );
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}") {
        bar.set_style(style);
    }
    let place = BenchFolder::new(&dir.unwrap_or_else(std::env::temp_dir))?;
    let mut bench = Bench { place, run, pairs, sizes, bar, figures: Vec::new() };
    for group in &only {
        // Boxed, so that the state of one group is not a part of that of all.
        let measured: Pin<Box<dyn Future<Output = anyhow::Result<()>> + '_>> = match group {
            Group::Submit => Box::pin(bench.submit()),
            Group::Answers => Box::pin(bench.answers()),
            Group::Batches => Box::pin(bench.batches()),
            Group::Keys => Box::pin(bench.keys()),
            Group::Streams => Box::pin(bench.streams()),
            Group::EndToEnd => Box::pin(bench.end_to_end()),
            Group::Workers => Box::pin(bench.workers()),
            Group::Latency => Box::pin(bench.latency()),
            Group::Backlog => Box::pin(bench.backlog()),
            Group::Turns => Box::pin(bench.turns()),
            Group::Limits => Box::pin(bench.limits()),
            Group::Schedules => Box::pin(bench.schedules()),
            Group::Watchers => Box::pin(bench.watchers()),
            Group::Retention => Box::pin(bench.retention()),
            Group::Features => Box::pin(bench.features()),
            Group::Cost => Box::pin(bench.cost()),
            Group::Burdens => Box::pin(bench.burdens()),
            Group::BurdenLeaving => Box::pin(bench.leaving_callers()),
            Group::BurdenDue => Box::pin(bench.due_jobs()),
            Group::BurdenResults => Box::pin(bench.large_results()),
            Group::BurdenPurge => Box::pin(bench.purge()),
            Group::BurdenRetention => Box::pin(bench.overdue_jobs()),
        };
        measured.await?;
    }
    bench.bar.finish_and_clear();
    Ok(BenchReport {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        file_system: bench.place.file_system(),
        seconds: counted.as_secs_f64(),
        pairs,
        judged: !quick,
        figures: bench.figures,
    })
}
