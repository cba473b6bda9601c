//! The job filter as options.

use super::values;
use jobmill::{
    client::to_wire_timestamp,
    clock::Timestamp,
    proto::v1::{JobFilter, JobState},
};

/// A job filter. A job must match every option that is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct FilterArgs {
    /// Only jobs of this queue; may be repeated
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
    /// Only jobs of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only jobs in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = values::state)]
    states: Vec<JobState>,
    /// Only jobs that have ended
    #[arg(long, conflicts_with = "live")]
    done: bool,
    /// Only jobs that have not ended
    #[arg(long)]
    live: bool,
    /// Only jobs with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::entry)]
    labels: Vec<(String, String)>,
    /// Only jobs accepted at or after this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    created_after: Option<Timestamp>,
    /// Only jobs accepted before this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    created_before: Option<Timestamp>,
}

impl FilterArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
            && self.kinds.is_empty()
            && self.states.is_empty()
            && !self.done
            && !self.live
            && self.labels.is_empty()
            && self.created_after.is_none()
            && self.created_before.is_none()
    }
}

impl From<FilterArgs> for JobFilter {
    fn from(args: FilterArgs) -> Self {
        JobFilter {
            queues: args.queues,
            kinds: args.kinds,
            states: args.states.into_iter().map(i32::from).collect(),
            labels: args.labels.into_iter().collect(),
            created_after: args.created_after.map(to_wire_timestamp),
            created_before: args.created_before.map(to_wire_timestamp),
            done: (args.done || args.live).then_some(args.done),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn parsed(line: &str) -> Result<FilterArgs, clap::Error> {
        let words = ["list"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.filter)
    }

    #[test]
    fn arguments_become_a_filter() {
        let filter = JobFilter::from(
            parsed(
                "--queue a --queue b --kind k --state failed --state expired --label x=y --live \
                 --created-after 1970-01-01T00:00:01Z --created-before 1970-01-01T00:00:02Z",
            )
            .unwrap(),
        );
        let expected = JobFilter {
            queues: vec!["a".into(), "b".into()],
            kinds: vec!["k".into()],
            states: vec![JobState::Failed.into(), JobState::Expired.into()],
            labels: [("x".to_owned(), "y".to_owned())].into(),
            created_after: Some(to_wire_timestamp(Timestamp::from_micros(1_000_000))),
            created_before: Some(to_wire_timestamp(Timestamp::from_micros(2_000_000))),
            done: Some(false),
        };
        assert_eq!(filter, expected);
    }

    #[test]
    fn each_argument_makes_a_filter_and_none_makes_none() {
        assert!(parsed("").unwrap().is_empty());
        assert_eq!(JobFilter::from(parsed("").unwrap()), JobFilter::default());
        let each = "--queue q|--kind k|--state queued|--label a=b|--done|--live|--created-after \
                    1970-01-01T00:00:01Z|--created-before 1970-01-01T00:00:01Z";
        for line in each.split('|') {
            let args = parsed(line).unwrap();
            assert!(!args.is_empty(), "{line}");
            assert_ne!(JobFilter::from(args), JobFilter::default(), "{line}");
        }
        assert_eq!(JobFilter::from(parsed("--done").unwrap()).done, Some(true));
        assert!(parsed("--done --live").is_err());
    }
}
