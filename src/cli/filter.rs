//! Which jobs, as arguments.

use super::values;
use jobmill::{
    client::to_wire_timestamp,
    clock::Timestamp,
    proto::v1::{JobFilter, JobState},
};

/// Which jobs: all that are given must fit.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct FilterArgs {
    /// Only jobs of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only jobs of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only jobs in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = values::state)]
    states: Vec<JobState>,
    /// Only jobs with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
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
        self.queue.is_none()
            && self.kinds.is_empty()
            && self.states.is_empty()
            && self.labels.is_empty()
            && self.created_after.is_none()
            && self.created_before.is_none()
    }
}

impl From<FilterArgs> for JobFilter {
    fn from(args: FilterArgs) -> Self {
        JobFilter {
            queue: args.queue.unwrap_or_default(),
            kinds: args.kinds,
            states: args.states.into_iter().map(i32::from).collect(),
            labels: args.labels.into_iter().collect(),
            created_after: args.created_after.map(to_wire_timestamp),
            created_before: args.created_before.map(to_wire_timestamp),
        }
    }
}
