//! The settings of a queue as options.

use std::time::Duration;

use super::super::values::{self, KeepArg, WhenFullArg};
use jobmill::{
    client::to_wire_duration,
    proto::v1::{QueueSettings, Retention, WhenFull},
};

/// Settings of a queue that are given as options.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Settings {
    /// Limit of the jobs that wait or run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1_000_000_000))]
    max_jobs: Option<i64>,
    /// Limit of the bytes of these jobs, such as 512MiB
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    max_bytes: Option<u64>,
    /// Limit of the attempts that run at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    consumers: Option<i32>,
    /// What submissions do when the queue is full
    #[arg(long, value_enum, value_name = "HOW")]
    when_full: Option<WhenFullArg>,
    /// Longest time that a submission may wait for room
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    max_wait: Option<Duration>,
    /// Limit of the submissions that wait for room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    max_waiters: Option<i32>,
    /// Whether jobs of kinds without a handler are accepted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    accept_unknown_kinds: Option<bool>,
    /// Label whose values take turns, such as tenant; empty for none
    #[arg(long, value_name = "LABEL")]
    fair_by: Option<String>,
    /// Retention time of SUCCEEDED jobs: a duration, `forever`, or `default` for the server's setting
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_succeeded: Option<KeepArg>,
    /// Retention time of FAILED jobs
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_failed: Option<KeepArg>,
    /// Retention time of CANCELLED jobs
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_cancelled: Option<KeepArg>,
    /// Retention time of EXPIRED jobs
    #[arg(long, value_name = "DURATION", value_parser = values::keep)]
    keep_expired: Option<KeepArg>,
}

impl Settings {
    /// Converts the settings to the protocol's message.
    pub(super) fn to_wire(&self) -> QueueSettings {
        let keep = |arg: Option<KeepArg>| arg.and_then(KeepArg::to_wire);
        let retention = Retention {
            succeeded: keep(self.keep_succeeded),
            failed: keep(self.keep_failed),
            cancelled: keep(self.keep_cancelled),
            expired: keep(self.keep_expired),
        };
        QueueSettings {
            max_jobs: self.max_jobs,
            max_bytes: self.max_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            consumers: self.consumers,
            when_full: self.when_full.map_or(WhenFull::Unspecified, WhenFull::from).into(),
            max_wait: self.max_wait.map(to_wire_duration),
            max_waiters: self.max_waiters,
            accept_unknown_kinds: self.accept_unknown_kinds,
            fair_by: self.fair_by.clone().unwrap_or_default(),
            retention: (retention != Retention::default()).then_some(retention),
        }
    }

    /// Returns the field mask: the paths of the settings that are named. A path without a value sets the default.
    pub(super) fn mask(&self) -> Vec<String> {
        let named = [
            ("max_jobs", self.max_jobs.is_some()),
            ("max_bytes", self.max_bytes.is_some()),
            ("consumers", self.consumers.is_some()),
            ("when_full", self.when_full.is_some()),
            ("max_wait", self.max_wait.is_some()),
            ("max_waiters", self.max_waiters.is_some()),
            ("accept_unknown_kinds", self.accept_unknown_kinds.is_some()),
            ("fair_by", self.fair_by.is_some()),
            ("retention.succeeded", self.keep_succeeded.is_some()),
            ("retention.failed", self.keep_failed.is_some()),
            ("retention.cancelled", self.keep_cancelled.is_some()),
            ("retention.expired", self.keep_expired.is_some()),
        ];
        let paths = named.into_iter().filter(|(_, is_named)| *is_named);
        paths.map(|(path, _)| format!("settings.{path}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn parsed(line: &str) -> Settings {
        let words = ["update"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().settings
    }

    #[test]
    fn the_mask_has_what_is_named_and_nothing_else() {
        let each = [
            ("--max-jobs 5", "max_jobs"),
            ("--max-bytes 5MiB", "max_bytes"),
            ("--consumers 0", "consumers"),
            ("--when-full reject", "when_full"),
            ("--max-wait 0s", "max_wait"),
            ("--max-waiters 0", "max_waiters"),
            ("--accept-unknown-kinds false", "accept_unknown_kinds"),
            ("--fair-by tenant", "fair_by"),
            ("--keep-succeeded 0s", "retention.succeeded"),
            ("--keep-failed default", "retention.failed"),
            ("--keep-cancelled forever", "retention.cancelled"),
            ("--keep-expired 1h", "retention.expired"),
        ];
        for (line, path) in each {
            assert_eq!(parsed(line).mask(), [format!("settings.{path}")]);
        }
        assert!(parsed("").mask().is_empty());
        assert_eq!(parsed("").to_wire(), QueueSettings::default());
        let all: Vec<_> = each.iter().map(|(line, _)| *line).collect();
        let all = parsed(&all.join(" "));
        assert_eq!(all.mask().len(), each.len());
        let expected = QueueSettings {
            max_jobs: Some(5),
            max_bytes: Some(5 << 20),
            consumers: Some(0),
            when_full: WhenFull::Reject.into(),
            max_wait: Some(to_wire_duration(Duration::ZERO)),
            max_waiters: Some(0),
            accept_unknown_kinds: Some(false),
            fair_by: "tenant".to_owned(),
            retention: Some(Retention {
                succeeded: KeepArg::For(Duration::ZERO).to_wire(),
                failed: None,
                cancelled: KeepArg::Forever.to_wire(),
                expired: KeepArg::For(Duration::from_secs(3600)).to_wire(),
            }),
        };
        assert_eq!(all.to_wire(), expected);
    }
}
