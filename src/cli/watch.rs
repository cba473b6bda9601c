//! `jobmill watch`.

use super::{
    Global, connect,
    exit::{Exit, Failure},
    filter::FilterArgs,
    follow::{Ended, ctrl_c, follow},
    live::{LineTarget, Live},
    text,
    ui::Ui,
};
use jobmill::proto::v1::{JobFilter, JobView, WatchDetail, WatchStart, WatchStatusRequest};

/// The arguments of `jobmill watch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With ids it ends when the last job has ended, and the exit code tells their final states: \
                        1 if one failed, otherwise 3 if one was cancelled. With a filter it goes on until Ctrl-C."
)]
pub(super) struct Args {
    /// The jobs to watch
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Watch all jobs, present and future
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// With a filter: skip the jobs' present state, and begin with the next change
    #[arg(long, conflicts_with_all = ["ids", "from_token"])]
    new: bool,
    /// Resume after the event that carried this resume token, with the same ids or filter
    #[arg(
        long,
        value_name = "TOKEN",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    from_token: String,
    /// Show every change of state, not only the latest state
    #[arg(long)]
    every_transition: bool,
    /// Show the lines that the jobs write; only with ids
    #[arg(long, requires = "ids")]
    output_lines: bool,
    /// With --output json: whole jobs, with payload and result
    #[arg(long)]
    full: bool,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let by_ids = !args.ids.is_empty();
    let request = request(args)?;
    let client = connect(global).await?;
    let mut watch = client.watch(request);
    let mut live = Live::new(ui, LineTarget::Stdout);
    let ended = follow(&mut watch, ui, &mut live, ctrl_c()).await;
    live.finish();
    match ended? {
        Ended::Over(fates) if by_ids => Ok(fates.exit()),
        Ended::Over(_) => Ok(Exit::Ok),
        Ended::Interrupted => {
            let token = watch.resume_token();
            if !token.is_empty() {
                let token = text::escape(token);
                ui.note(&format!("to go on from here, repeat the command with --from-token {token}"));
            }
            Ok(Exit::Interrupted)
        }
    }
}

fn request(args: Args) -> Result<WatchStatusRequest, Failure> {
    match (args.ids.is_empty(), args.filter.is_empty()) {
        (false, false) => return Err(Failure::usage("ids and a filter can't be combined")),
        (true, true) if !args.all => {
            let failure = Failure::usage("nothing to watch is named");
            return Err(failure.with_next("Give ids, a filter such as --queue, or --all."));
        }
        _ => {}
    }
    let filter = args.ids.is_empty().then(|| JobFilter::from(args.filter));
    let start = if args.new { WatchStart::Now } else { WatchStart::Snapshot };
    let detail = if args.every_transition { WatchDetail::EveryTransition } else { WatchDetail::Latest };
    let view = if args.full { JobView::Full } else { JobView::Basic };
    let mut ids = args.ids;
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    Ok(WatchStatusRequest {
        ids,
        filter,
        resume_token: args.from_token,
        start: start.into(),
        detail: detail.into(),
        output: args.output_lines,
        view: view.into(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn requested(line: &str) -> Result<WatchStatusRequest, Failure> {
        let words = ["watch"].into_iter().chain(line.split_whitespace());
        request(Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn ids_or_a_filter_or_all() {
        assert_eq!(requested("b a b").unwrap().ids, ["b", "a"]);
        assert_eq!(requested("a").unwrap().filter, None);
        assert_eq!(requested("--all").unwrap().filter, Some(JobFilter::default()));
        assert_eq!(requested("--queue q --queue r").unwrap().filter.unwrap().queues, ["q", "r"]);
        assert_eq!(requested("--live").unwrap().filter.unwrap().done, Some(false));
        for (line, expected) in [
            ("", "error: nothing to watch is named. Give ids, a filter such as --queue, or --all."),
            ("a --kind k", "error: ids and a filter can't be combined"),
        ] {
            let failure = requested(line).unwrap_err();
            assert_eq!((failure.exit(), failure.line().unwrap().as_str()), (Exit::Usage, expected));
        }
    }

    #[test]
    fn a_script_resumes_with_the_token_it_was_given() {
        let request = requested("a --from-token -AP8_w").unwrap();
        assert_eq!(request.resume_token, "-AP8_w");
    }
}
