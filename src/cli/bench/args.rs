//! The arguments of `jobmill bench`.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

/// Measures this machine: how many jobs a second Jobmill accepts and runs, how long one takes, and what it costs.
///
/// Starts servers of its own, with stores in a temporary folder; a running server is not touched. Exits with 0 once all
/// was measured, whatever the figures are, and with 1 if a job was lost or a call failed.
#[derive(clap::Args, Debug)]
pub(crate) struct BenchArgs {
    /// Measure these groups of figures only
    #[arg(long, value_enum, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub(super) only: Vec<Group>,
    /// Check only that the bench works: short runs, small backlogs, no verdicts
    #[arg(long)]
    pub(super) quick: bool,
    /// Measured time of a run [default: 2; with --quick 0.3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) seconds: Option<Duration>,
    /// Number of runs of each figure, in turns with its ceiling [default: 5; with --quick 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) pairs: Option<u16>,
    /// Folder for the stores during the bench; by default the system's temporary folder
    #[arg(long, value_name = "PATH")]
    pub(super) dir: Option<PathBuf>,
}

/// Figures that are taken together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Group {
    /// Unary Submit, beside an empty call
    Submit,
    /// Submit's answer, beside one with the whole job
    Answers,
    /// SubmitBatch
    Batches,
    /// Submit and SubmitBatch with unique keys, beside the same without
    Keys,
    /// SubmitStream, beside an empty bidirectional stream
    Streams,
    /// From Submit to SUCCEEDED, jobs a second
    EndToEnd,
    /// From Submit to SUCCEEDED through remote workers, and what idle workers cost
    Workers,
    /// From Submit to SUCCEEDED, milliseconds at an even pace
    Latency,
    /// Rates, memory and restarts with 1 million jobs waiting
    Backlog,
    /// Jobs of 10,000 values that take turns, beside the same without turns
    Turns,
    /// Jobs under limits, beside the same without
    Limits,
    /// Lateness of 1,000 jobs of schedules at once, and what 100,000 schedules cost
    Schedules,
    /// Memory of idle watchers, and rates beside them
    Watchers,
    /// Rates where ended jobs are deleted as fast as others come
    Retention,
    /// Rates over TLS, and with metrics and traces
    Features,
    /// Flushes, bytes written and processor time for a job
    Cost,
    /// All of the next five: Submit to an idle queue while another queue bears a burden
    Burdens,
    /// Submit to an idle queue while callers that wait for room in another one leave
    BurdenLeaving,
    /// Submit to an idle queue while jobs of another fall due
    BurdenDue,
    /// Submit to an idle queue while large results come in for another
    BurdenResults,
    /// Submit to an idle queue while another is purged
    BurdenPurge,
    /// Submit to an idle queue while retention is behind in another
    BurdenRetention,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.05..=600.0).contains(&seconds) {
        return Err("must be 0.05 to 600".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

impl Group {
    /// Returns each group once, without the one that contains others.
    pub(super) fn each() -> impl Iterator<Item = Group> {
        Group::value_variants().iter().copied().filter(|group| *group != Group::Burdens)
    }

    /// Returns the number of runs of a group.
    pub(super) fn steps(self, pairs: usize) -> u64 {
        let (of_each_pair, others) = match self {
            Group::Submit => (11, 0),
            Group::Answers | Group::Batches | Group::Streams => (2, 0),
            Group::Keys => (8, 0),
            Group::EndToEnd => (5, 0),
            Group::Latency | Group::Turns => (4, 0),
            Group::Limits => (6, 1),
            Group::Workers => (9, 4),
            Group::Backlog => (9, 8),
            Group::Schedules => (2, 8),
            Group::Watchers => (2, 4),
            Group::Retention => (2, 1),
            Group::Features => (5, 0),
            Group::Cost => (0, 4),
            Group::Burdens => (15, 0),
            Group::BurdenLeaving
            | Group::BurdenDue
            | Group::BurdenResults
            | Group::BurdenPurge
            | Group::BurdenRetention => (3, 0),
        };
        (of_each_pair * pairs + others) as u64
    }
}
