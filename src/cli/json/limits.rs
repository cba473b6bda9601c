//! JSON of limits.

use serde_json::{Value, json};

use super::{Object, named};
use jobmill::proto::v1::{
    Limit, LimitOverride, LimitState, LimitValue, Rate, limit, limit_override, limit_value,
};

/// Converts a limit.
pub(in crate::cli) fn limit(limit: &Limit) -> Value {
    let list = |names: &[String]| (!names.is_empty()).then(|| json!(names));
    let object = Object::default().put("name", limit.name.as_str());
    let object = match &limit.rule {
        Some(limit::Rule::MaxRunning(max)) => object.put("maxRunning", *max),
        Some(limit::Rule::Rate(rate)) => object.put("rate", self::rate(rate)),
        None => object,
    };
    let object = match &limit.key {
        Some(limit::Key::All(all)) => object.put("all", *all),
        Some(limit::Key::ByQueue(by_queue)) => object.put("byQueue", *by_queue),
        Some(limit::Key::ByKind(by_kind)) => object.put("byKind", *by_kind),
        Some(limit::Key::ByLabel(label)) => object.put("byLabel", label.as_str()),
        None => object,
    };
    object
        .maybe("kinds", list(&limit.kinds))
        .maybe("queues", list(&limit.queues))
        .text("etag", &limit.etag)
        .put("declared", limit.declared)
        .put("state", named::<LimitState>(limit.state, LimitState::as_str_name))
        .put("running", limit.running)
        .text("namespace", &limit.namespace)
        .done()
}

/// Converts a value of a limit.
pub(in crate::cli) fn limit_value(value: &LimitValue) -> Value {
    let object = Object::default().put("value", value.value.as_str());
    let object = match &value.rule {
        Some(limit_value::Rule::MaxRunning(max)) => object.put("maxRunning", *max),
        Some(limit_value::Rule::Rate(rate)) => object.put("rate", self::rate(rate)),
        None => object,
    };
    object
        .put("overridden", value.overridden)
        .put("running", value.running)
        .put("hasWaiting", value.has_waiting)
        .time("nextTime", value.next_time)
        .done()
}

/// Converts an override that was set.
pub(in crate::cli) fn limit_override(said: &LimitOverride, repeated: bool) -> Value {
    let object = Object::default().put("limit", said.limit.as_str()).put("value", said.value.as_str());
    let object = match &said.rule {
        Some(limit_override::Rule::MaxRunning(max)) => object.put("maxRunning", *max),
        Some(limit_override::Rule::Rate(rate)) => object.put("rate", self::rate(rate)),
        None => object,
    };
    object.put("repeated", repeated).done()
}

fn rate(rate: &Rate) -> Value {
    Object::default()
        .put("count", rate.count)
        .duration("per", rate.per)
        .maybe("burst", (rate.burst != 0).then_some(rate.burst))
        .done()
}
