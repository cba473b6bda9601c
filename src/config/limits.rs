//! The limits of jobs that a file declares.

use std::collections::BTreeMap;

use super::{
    fault::SettingSource,
    rules::{Choice, DurationIn, IntIn, LabelName, Rule},
    schedule_rules::Name,
    section::{Reading, Section},
    tables::tables,
    units::show_duration,
};
use crate::{
    job::names::{check_kind_name, check_limit_name, check_queue_name},
    settings::{LimitKey, LimitRule, LimitSpec, Rate, limits},
};

/// The keys of `[[limit]]`, in the order of the documentation.
pub(super) const LIMIT_KEYS: [&str; 9] =
    ["name", "max_running", "count", "per", "burst", "by", "by_label", "queues", "kinds"];

/// What has a place of its own, if that is not a label's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    All,
    Queue,
    Kind,
}

const BY: Choice<By> = Choice(&[("all", By::All), ("queue", By::Queue), ("kind", By::Kind)]);

/// Reads the limits.
pub(super) fn limits(root: &Section<'_>, reading: &mut Reading<'_>) -> BTreeMap<String, LimitSpec> {
    let found = tables(root, "limit", &LIMIT_KEYS, limits::LIMITS_MAX, check_limit_name, reading);
    found.into_iter().filter_map(|(name, section)| Some((name, limit(&section, reading)?))).collect()
}

/// Reads a limit; `None` if it lacks a rule, or has a faulty one.
fn limit(section: &Section<'_>, reading: &mut Reading<'_>) -> Option<LimitSpec> {
    let rule = rule(section, reading);
    let key = key(section, reading);
    let names = limits::LIMIT_NAMES_MAX;
    let queues = section.list_setting("queues", names, &Name(check_queue_name), reading);
    let kinds = section.list_setting("kinds", names, &Name(check_kind_name), reading);
    Some(LimitSpec {
        rule: rule?,
        key,
        queues: queues.into_iter().collect(),
        kinds: kinds.into_iter().collect(),
    })
}

fn rule(section: &Section<'_>, reading: &mut Reading<'_>) -> Option<LimitRule> {
    let max_running = section.optional("max_running", &IntIn(limits::LIMIT_RUNNING), reading);
    let count = section.optional("count", &IntIn(limits::RATE_COUNT), reading);
    let per = section.optional("per", &DurationIn(limits::RATE_PERIOD), reading);
    let burst = section.optional("burst", &IntIn(limits::RATE_BURST), reading);
    let mut fault = |at: &str, key: &str, message: &str| {
        reading.fault_at(&section.key_span(at), section.key(key), message);
        None
    };
    let of_rate = ["count", "per", "burst"].into_iter().find(|key| section.get(key).is_some());
    match (section.get("max_running"), of_rate) {
        (Some(_), None) => return max_running.map(LimitRule::Running),
        (Some(_), Some(other)) => {
            let message = "`max_running` is given as well; a limit has that, or `count` and `per`";
            return fault(other, other, message);
        }
        (None, None) => {
            let message = "the limit limits nothing; write max_running = 5, or count = 10 and per = \"1s\"";
            return fault("name", "max_running", message);
        }
        (None, Some(other)) if section.get("count").is_none() => {
            return fault(other, "count", "the number of starts is missing; write count = 10");
        }
        (None, Some(_)) if section.get("per").is_none() => {
            return fault("count", "per", "the time of these starts is missing; write per = \"1s\"");
        }
        (None, Some(_)) => {}
    }
    let (count, per) = (count?, per?);
    let rate = Rate { count, per, burst: burst.unwrap_or(count) };
    check_filling(section, rate, reading);
    Some(LimitRule::Rate(rate))
}

/// Checks that an empty bucket is full again while it matters.
fn check_filling(section: &Section<'_>, rate: Rate, reading: &mut Reading<'_>) {
    let filling = rate.per.saturating_mul(rate.burst).checked_div(rate.count);
    if let Some(filling) = filling.filter(|filling| *filling > limits::TEN_YEARS) {
        let key = if section.get("burst").is_some() { "burst" } else { "count" };
        let message = format!(
            "the burst takes {} to fill, the limit is {}; write less burst, or a faster rate",
            show_duration(filling),
            show_duration(limits::TEN_YEARS)
        );
        reading.fault_at(&section.key_span(key), section.key(key), message);
    }
}

fn key(section: &Section<'_>, reading: &mut Reading<'_>) -> LimitKey {
    let by = section.read("by", &BY, reading);
    let is_by_label = section.get("by_label").is_some();
    let (shown, place) = match &by {
        Some((by, place)) => (BY.show(by), place.clone()),
        None if is_by_label => (serde_json::Value::Null, SettingSource::Default),
        None => (BY.show(&By::All), SettingSource::Default),
    };
    reading.entry(section.key("by"), shown, place);
    let label = section.optional("by_label", &LabelName, reading);
    if is_by_label && section.get("by").is_some() {
        let message = "`by` is given as well; keep one of the two";
        reading.fault_at(&section.key_span("by_label"), section.key("by_label"), message);
    }
    match (label, by.map(|(by, _)| by)) {
        (Some(label), _) => LimitKey::Label(label),
        (None, Some(By::Queue)) => LimitKey::Queue,
        (None, Some(By::Kind)) => LimitKey::Kind,
        (None, Some(By::All) | None) => LimitKey::All,
    }
}
