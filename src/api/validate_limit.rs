//! Validation of limits.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive};

use super::validate::{Field, Validator};
use crate::{
    admission::rules::{self, RuleResult},
    job::names,
    proto::v1,
    settings::{
        LimitKey, LimitRule, LimitSpec, Rate,
        limits::{
            LIMIT_NAMES_MAX, LIMIT_RUNNING, LIMIT_VALUE_BYTES_MAX, RATE_BURST, RATE_COUNT, RATE_PERIOD,
            TEN_YEARS,
        },
    },
};

/// A rule, as it is said of a limit or of one of its values.
enum SaidRule {
    Running(i32),
    Rate(v1::Rate),
}

impl From<v1::limit::Rule> for SaidRule {
    fn from(rule: v1::limit::Rule) -> Self {
        match rule {
            v1::limit::Rule::MaxRunning(max) => SaidRule::Running(max),
            v1::limit::Rule::Rate(rate) => SaidRule::Rate(rate),
        }
    }
}

impl From<v1::limit_override::Rule> for SaidRule {
    fn from(rule: v1::limit_override::Rule) -> Self {
        match rule {
            v1::limit_override::Rule::MaxRunning(max) => SaidRule::Running(max),
            v1::limit_override::Rule::Rate(rate) => SaidRule::Rate(rate),
        }
    }
}

impl Validator {
    pub(super) fn limit_name(&mut self, field: impl std::fmt::Display, name: &str) {
        if let Err(error) = names::check_limit_name(name) {
            self.fault(field, error.to_string());
        }
    }

    /// Validates a limit, apart from its etag, and returns its name and what it says.
    pub(super) fn job_limit(&mut self, limit: Option<v1::Limit>) -> (String, LimitSpec) {
        let Some(limit) = limit else {
            self.fault("limit", "is required");
            return (String::new(), LimitSpec::new(LimitRule::Running(0)));
        };
        self.limit_name("limit.name", &limit.name);
        let rule = self.limit_rule("limit", limit.rule.map(SaidRule::from));
        let key = self.limit_key(limit.key);
        let kinds = self.limit_names("limit.kinds", limit.kinds, rules::kind);
        let queues = self.limit_names("limit.queues", limit.queues, rules::queue);
        (limit.name, LimitSpec { rule, key, kinds, queues })
    }

    /// Validates an override, and returns the limit's name, the value and its rule.
    pub(super) fn limit_override(&mut self, said: Option<v1::LimitOverride>) -> (String, String, LimitRule) {
        let Some(said) = said else {
            self.fault("override", "is required");
            return (String::new(), String::new(), LimitRule::Running(0));
        };
        self.limit_name("override.limit", &said.limit);
        self.limit_value("override.value", &said.value);
        let rule = self.limit_rule("override", said.rule.map(SaidRule::from));
        (said.limit, said.value, rule)
    }

    pub(super) fn limit_value(&mut self, field: &str, value: &str) {
        if value.len() > LIMIT_VALUE_BYTES_MAX {
            let bytes = value.len();
            self.fault(field, format!("has {bytes} bytes; at most {LIMIT_VALUE_BYTES_MAX} are allowed"));
        } else if value.chars().any(char::is_control) {
            self.fault(
                field,
                "has a control character: give the value as it is in labels, or the name of a queue or kind",
            );
        }
    }

    fn limit_rule(&mut self, of: &str, rule: Option<SaidRule>) -> LimitRule {
        let at = |name| Field { of: &of, name };
        match rule {
            Some(SaidRule::Running(max)) => {
                LimitRule::Running(self.number(at("max_running"), max, &LIMIT_RUNNING, "0 lets none start"))
            }
            Some(SaidRule::Rate(rate)) => LimitRule::Rate(self.rate(&at("rate"), rate)),
            None => {
                self.fault(at("rule"), "is required: give max_running or rate");
                LimitRule::Running(0)
            }
        }
    }

    fn rate(&mut self, of: &dyn Display, rate: v1::Rate) -> Rate {
        let at = |name| Field { of, name };
        let count = self.number(at("count"), rate.count, &RATE_COUNT, "0 lets none start");
        let per = match &rate.per {
            Some(per) => self.duration(at("per"), per, &RATE_PERIOD),
            None => {
                let limits = rules::duration_limits(&RATE_PERIOD);
                self.fault(
                    at("per"),
                    format!("is required: give the time in which so many may start; {limits}"),
                );
                None
            }
        };
        let burst = match rate.burst {
            0 => count.max(*RATE_BURST.start()),
            burst => self.number(at("burst"), burst, &RATE_BURST, "0 is as much as the count"),
        };
        let per = per.unwrap_or(*RATE_PERIOD.start());
        if count > 0 && per.as_nanos() * u128::from(burst) > TEN_YEARS.as_nanos() * u128::from(count) {
            let message = format!(
                "is {burst}; it must fill within {}: give a smaller burst, or a faster rate",
                humantime::format_duration(TEN_YEARS)
            );
            self.fault(at("burst"), message);
        }
        Rate { count, per, burst }
    }

    fn limit_key(&mut self, key: Option<v1::limit::Key>) -> LimitKey {
        use v1::limit::Key;

        let (said, name, key) = match key {
            Some(Key::All(said)) => (said, "limit.all", LimitKey::All),
            Some(Key::ByQueue(said)) => (said, "limit.by_queue", LimitKey::Queue),
            Some(Key::ByKind(said)) => (said, "limit.by_kind", LimitKey::Kind),
            Some(Key::ByLabel(label)) => {
                self.hold("limit.by_label", rules::label_name(&label));
                return LimitKey::Label(label.into());
            }
            None => {
                self.fault("limit.key", "is required: give all, by_queue, by_kind or by_label");
                return LimitKey::All;
            }
        };
        if !said {
            self.fault(
                name,
                "is false; set it to true, or give another of all, by_queue, by_kind and by_label",
            );
        }
        key
    }

    fn limit_names(
        &mut self,
        field: &str,
        names: Vec<String>,
        rule: fn(&str) -> RuleResult,
    ) -> BTreeSet<String> {
        if names.len() > LIMIT_NAMES_MAX {
            let count = names.len();
            let message = format!(
                "has {count} entries; at most {LIMIT_NAMES_MAX} are allowed: leave it empty for all of them"
            );
            self.fault(field, message);
            return BTreeSet::new();
        }
        for (index, name) in names.iter().enumerate() {
            self.hold(format_args!("{field}[{index}]"), rule(name));
        }
        names.into_iter().collect()
    }

    /// Validates a number. `zero` says what 0 means.
    fn number(&mut self, field: impl Display, number: i32, allowed: &RangeInclusive<u32>, zero: &str) -> u32 {
        match u32::try_from(number) {
            Ok(number) if allowed.contains(&number) => number,
            Ok(_) | Err(_) => {
                let (least, most) = (allowed.start(), allowed.end());
                self.fault(field, format!("is {number}; it must be from {least} to {most}, and {zero}"));
                *least
            }
        }
    }
}
