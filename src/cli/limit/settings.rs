//! Options of a limit: its rule, what has a place of its own, and the jobs that it concerns.

use clap::Args;

use super::super::values;
use jobmill::{
    client::to_wire_duration,
    proto::v1::{Limit, Rate, limit, limit_override, limit_value},
};

/// What a value of a limit is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// The total weight of the jobs that run at once.
    MaxRunning(i32),
    /// How often jobs may start.
    Rate(Rate),
}

/// Conversions between the rule and that of a message of the protocol.
macro_rules! conversions {
    ($message:ident) => {
        impl From<$message::Rule> for Rule {
            fn from(rule: $message::Rule) -> Self {
                match rule {
                    $message::Rule::MaxRunning(max) => Rule::MaxRunning(max),
                    $message::Rule::Rate(rate) => Rule::Rate(rate),
                }
            }
        }

        impl From<Rule> for $message::Rule {
            fn from(rule: Rule) -> Self {
                match rule {
                    Rule::MaxRunning(max) => $message::Rule::MaxRunning(max),
                    Rule::Rate(rate) => $message::Rule::Rate(rate),
                }
            }
        }
    };
}

conversions!(limit);
conversions!(limit_override);
conversions!(limit_value);

impl Rule {
    /// Returns the rule of the same sort by which none may start.
    pub(super) fn paused(self) -> Self {
        match self {
            Rule::MaxRunning(_) => Rule::MaxRunning(0),
            Rule::Rate(rate) => Rule::Rate(Rate { count: 0, burst: 0, ..rate }),
        }
    }
}

/// Parses a rate: `10/s`, `100/5m`.
fn rate(text: &str) -> Result<Rate, String> {
    let fault = || "write it like 10/s, 100/5m or 0/s, with up to 1000000 in up to 31days".to_owned();
    let (count, per) = text.split_once('/').ok_or_else(fault)?;
    let count = count.parse().ok().filter(|count| (0..=1_000_000).contains(count)).ok_or_else(fault)?;
    let one = if per.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
    let per = values::positive_duration(&format!("{one}{per}")).map_err(|_| fault())?;
    Ok(Rate { count, per: Some(to_wire_duration(per)), burst: 0 })
}

/// What is allowed.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct RuleArgs {
    /// Total weight of the jobs that run at once; 0 lets none start
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1_000_000), conflicts_with_all = ["rate", "burst"])]
    max_running: Option<i32>,
    /// How many jobs may start in a time, such as 10/s or 100/5m; 0/s lets none start
    #[arg(long, value_name = "COUNT/TIME", value_parser = rate)]
    rate: Option<Rate>,
    /// Largest number of starts that are saved while none happen. Default: the rate's count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    burst: Option<i32>,
}

impl RuleArgs {
    /// Returns whether any option is given.
    pub(super) fn is_given(&self) -> bool {
        self.max_running.is_some() || self.rate.is_some() || self.burst.is_some()
    }

    /// Returns the rule; `None` if none is given. A burst alone changes the rate of `present`.
    pub(super) fn over(&self, present: Option<Rule>) -> Option<Rule> {
        let burst = |rate| Rule::Rate(Rate { burst: self.burst.unwrap_or(0), ..rate });
        match (self.max_running, self.rate, present) {
            (Some(max), _, _) => Some(Rule::MaxRunning(max)),
            (None, Some(rate), _) => Some(burst(rate)),
            (None, None, Some(Rule::Rate(rate))) if self.burst.is_some() => Some(burst(rate)),
            (None, None, _) => None,
        }
    }
}

/// What has a place of its own.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(super) struct KeyArgs {
    /// All jobs share one place; the default of a new limit
    #[arg(long)]
    by_all: bool,
    /// Each value of this label has a place of its own; jobs without it are not limited
    #[arg(long, value_name = "LABEL")]
    by_label: Option<String>,
    /// Each queue has a place of its own
    #[arg(long)]
    by_queue: bool,
    /// Each kind has a place of its own
    #[arg(long)]
    by_kind: bool,
}

impl KeyArgs {
    /// Returns what has a place of its own; `None` if no option is given.
    pub(super) fn to_wire(&self) -> Option<limit::Key> {
        match self {
            KeyArgs { by_label: Some(label), .. } => Some(limit::Key::ByLabel(label.clone())),
            KeyArgs { by_queue: true, .. } => Some(limit::Key::ByQueue(true)),
            KeyArgs { by_kind: true, .. } => Some(limit::Key::ByKind(true)),
            KeyArgs { by_all: true, .. } => Some(limit::Key::All(true)),
            KeyArgs { by_label: None, by_queue: false, by_kind: false, by_all: false } => None,
        }
    }
}

/// The jobs that a limit concerns.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScopeArgs {
    /// Queue whose jobs are limited; may be repeated. Default: all
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
    /// Kind whose jobs are limited; may be repeated. Default: all
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
}

/// The options of a limit that is created.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Settings {
    #[command(flatten)]
    pub(super) rule: RuleArgs,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    scope: ScopeArgs,
}

/// The options of a limit that is changed.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Changes {
    #[command(flatten)]
    settings: Settings,
    /// Limit the jobs of all queues again
    #[arg(long, conflicts_with = "queues")]
    all_queues: bool,
    /// Limit the jobs of all kinds again
    #[arg(long, conflicts_with = "kinds")]
    all_kinds: bool,
}

impl Settings {
    /// Returns a new limit. Its rule is the caller's to check.
    pub(super) fn create(&self, name: String) -> Limit {
        Limit {
            name,
            rule: self.rule.over(None).map(Into::into),
            key: Some(self.key.to_wire().unwrap_or(limit::Key::All(true))),
            queues: self.scope.queues.clone(),
            kinds: self.scope.kinds.clone(),
            ..Limit::default()
        }
    }
}

impl Changes {
    /// Returns whether any option is given.
    pub(super) fn is_given(&self) -> bool {
        let Settings { rule, key, scope: ScopeArgs { queues, kinds } } = &self.settings;
        rule.is_given()
            || key.to_wire().is_some()
            || !queues.is_empty()
            || !kinds.is_empty()
            || self.all_queues
            || self.all_kinds
    }

    /// Returns what a limit says after the change: what is given, and the rest as it is.
    pub(super) fn over(&self, present: Limit) -> Limit {
        let Settings { rule, key, scope } = &self.settings;
        let names = |given: &[String], all: bool, present| match given {
            [] if all => Vec::new(),
            [] => present,
            given => given.to_vec(),
        };
        let present_rule = present.rule.map(Rule::from);
        Limit {
            name: present.name,
            rule: rule.over(present_rule).map(Into::into).or(present.rule),
            key: key.to_wire().or(present.key),
            queues: names(&scope.queues, self.all_queues, present.queues),
            kinds: names(&scope.kinds, self.all_kinds, present.kinds),
            etag: present.etag,
            ..Limit::default()
        }
    }

    /// Returns whether only the burst of a rate is changed, of a limit that has no rate.
    pub(super) fn lacks_a_rate(&self, present: &Limit) -> bool {
        let rule = &self.settings.rule;
        rule.is_given() && rule.over(present.rule.map(Rule::from)).is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Create {
        #[command(flatten)]
        settings: Settings,
    }

    #[derive(Parser)]
    struct Update {
        #[command(flatten)]
        changes: Changes,
    }

    fn words(line: &str) -> impl Iterator<Item = &str> {
        ["limit"].into_iter().chain(line.split_whitespace())
    }

    fn created(line: &str) -> Limit {
        Create::try_parse_from(words(line)).unwrap().settings.create("l".to_owned())
    }

    fn changes(line: &str) -> Changes {
        Update::try_parse_from(words(line)).unwrap().changes
    }

    fn in_time(count: i32, millis: u64, burst: i32) -> limit::Rule {
        let per = Some(to_wire_duration(Duration::from_millis(millis)));
        limit::Rule::Rate(Rate { count, per, burst })
    }

    #[test]
    fn options_become_a_limit() {
        let all = Some(limit::Key::All(true));
        let limit = Limit { name: "l".into(), key: all.clone(), ..Limit::default() };
        let running = |max| Some(limit::Rule::MaxRunning(max));
        assert_eq!(created("--max-running 0"), Limit { rule: running(0), ..limit.clone() });
        assert_eq!(created("--rate 10/s"), Limit { rule: Some(in_time(10, 1_000, 0)), ..limit.clone() });
        let expected = Limit {
            rule: Some(in_time(7, 1_500, 3)),
            key: Some(limit::Key::ByLabel("tenant".into())),
            queues: vec!["a".into(), "b".into()],
            kinds: vec!["k".into()],
            ..limit.clone()
        };
        let line = "--rate 7/1500ms --burst 3 --by-label tenant --queue a --queue b --kind k";
        assert_eq!(created(line), expected);
        for (line, key) in [
            ("--by-queue", limit::Key::ByQueue(true)),
            ("--by-kind", limit::Key::ByKind(true)),
            ("--by-all", limit::Key::All(true)),
        ] {
            assert_eq!(created(line).key, Some(key), "{line}");
        }
    }

    #[test]
    fn rates_are_a_count_and_a_time() {
        for (text, count, millis) in
            [("10/s", 10, 1_000), ("100/5m", 100, 300_000), ("0/day", 0, 86_400_000), ("1/ms", 1, 1)]
        {
            assert_eq!(limit::Rule::Rate(rate(text).unwrap()), in_time(count, millis, 0), "{text}");
        }
        for text in ["", "10", "10/", "/s", "-1/s", "1000001/s", "1.5/s", "10/0s", "10/x", "10/s/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for line in [
            "--max-running 5 --rate 10/s",
            "--max-running 5 --burst 10",
            "--max-running -1",
            "--rate 10/s --burst 0",
            "--by-queue --by-kind",
            "--by-label a --by-queue",
            "--all-queues --queue a",
            "--all-kinds --kind a",
        ] {
            assert!(Update::try_parse_from(words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let present = Limit {
            etag: "7".into(),
            running: 3,
            ..created("--rate 10/s --burst 20 --by-label tenant --queue a --kind k")
        };
        let kept = Limit { running: 0, ..present.clone() };
        let changed = |line: &str| {
            let changes = changes(line);
            assert!(changes.is_given() && !changes.lacks_a_rate(&present), "{line}");
            changes.over(present.clone())
        };
        for (line, expected) in [
            ("--burst 5", Limit { rule: Some(in_time(10, 1_000, 5)), ..kept.clone() }),
            ("--rate 1/m", Limit { rule: Some(in_time(1, 60_000, 0)), ..kept.clone() }),
            ("--max-running 4", Limit { rule: Some(limit::Rule::MaxRunning(4)), ..kept.clone() }),
            ("--by-all", Limit { key: Some(limit::Key::All(true)), ..kept.clone() }),
            ("--queue b", Limit { queues: vec!["b".into()], ..kept.clone() }),
            ("--all-queues", Limit { queues: vec![], ..kept.clone() }),
            ("--all-kinds", Limit { kinds: vec![], ..kept.clone() }),
        ] {
            assert_eq!(changed(line), expected, "{line}");
        }
        assert!(!changes("").is_given());
        assert!(changes("--burst 5").lacks_a_rate(&created("--max-running 5")));
    }

    #[test]
    fn a_rule_is_paused_as_one_of_its_sort() {
        assert_eq!(Rule::MaxRunning(5).paused(), Rule::MaxRunning(0));
        let rate = Rule::from(in_time(10, 1_000, 5)).paused();
        assert_eq!(rate, Rule::from(in_time(0, 1_000, 0)));
    }
}
