//! Text output for limits and their values.

use std::time::Duration;

use super::{
    super::{
        table::{Table, plain},
        text, values,
    },
    settings::Rule,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{Limit, LimitState, LimitValue, limit},
};

/// Formats a rule: `5 at once`, `10/s, burst 20`.
pub(super) fn rule(rule: Option<Rule>) -> String {
    match rule {
        Some(Rule::MaxRunning(0)) => "paused".to_owned(),
        Some(Rule::MaxRunning(max)) => format!("{max} at once"),
        Some(Rule::Rate(rate)) if rate.count == 0 => "paused".to_owned(),
        Some(Rule::Rate(rate)) => {
            let per = exact(rate.per.as_ref().map(from_wire_duration).unwrap_or_default());
            let per = match &*per {
                "1s" => "s",
                "1m" => "m",
                "1h" => "h",
                per => per,
            };
            let burst = match rate.burst {
                0 => String::new(),
                burst if burst == rate.count => String::new(),
                burst => format!(", burst {burst}"),
            };
            format!("{}/{per}{burst}", rate.count)
        }
        None => String::new(),
    }
}

/// Formats a duration so that it is read again as the same.
fn exact(duration: Duration) -> String {
    let short = text::duration(duration);
    let is_exact = values::duration(&short).is_ok_and(|read| read == duration);
    if is_exact { short } else { humantime::format_duration(duration).to_string() }
}

fn key(limit: &Limit) -> String {
    match &limit.key {
        Some(limit::Key::All(_)) => "all together".to_owned(),
        Some(limit::Key::ByQueue(_)) => "queue".to_owned(),
        Some(limit::Key::ByKind(_)) => "kind".to_owned(),
        Some(limit::Key::ByLabel(label)) => format!("label {}", text::escape(label)),
        None => String::new(),
    }
}

fn state(limit: &Limit) -> &'static str {
    match limit.state() {
        LimitState::Active => "active",
        LimitState::Changing => "changing",
        LimitState::Unspecified => "",
    }
}

/// Formats names in one cell: `all` if there are none.
fn names(names: &[String]) -> String {
    if names.is_empty() { "all".to_owned() } else { text::escape(&names.join(",")).into_owned() }
}

/// Formats limits as a table.
pub(super) fn list(limits: &[Limit], colour: bool) -> String {
    let header = ["LIMIT", "RULE", "BY", "QUEUES", "KINDS", "RUNNING", "STATE"];
    let mut table = Table::new(header, colour).numbers([5]);
    for limit in limits {
        table.row([
            plain(text::escape(&limit.name)),
            plain(rule(limit.rule.map(Rule::from))),
            plain(key(limit)),
            plain(names(&limit.queues)),
            plain(names(&limit.kinds)),
            plain(limit.running.to_string()),
            plain(state(limit)),
        ]);
    }
    table.render()
}

/// Formats a limit with all of its details.
pub(super) fn in_full(limit: &Limit) -> String {
    let mut fields = vec![
        ("limit", text::escape(&limit.name).into_owned()),
        ("rule", rule(limit.rule.map(Rule::from))),
        ("by", key(limit)),
        ("queues", names(&limit.queues)),
        ("kinds", names(&limit.kinds)),
        ("running", limit.running.to_string()),
    ];
    match limit.state() {
        LimitState::Active => fields.push(("state", "active".to_owned())),
        LimitState::Changing => {
            fields.push(("state", "changing: jobs that wait are still being sorted".to_owned()));
        }
        LimitState::Unspecified => {}
    }
    fields.push(("etag", text::escape(&limit.etag).into_owned()));
    if limit.declared {
        fields.push(("declared", "in the configuration file".to_owned()));
    }
    text::fields(fields)
}

/// Formats the values of a limit as a table. A value is quoted as a shell wants it, where that is needed.
pub(super) fn of_values(values: &[LimitValue], now: Timestamp, colour: bool) -> String {
    let header = ["VALUE", "RULE", "OVERRIDDEN", "RUNNING", "WAITING", "NEXT"];
    let mut table = Table::new(header, colour).numbers([3]);
    let yes = |is_so: bool| plain(if is_so { "yes" } else { "no" });
    for value in values {
        let next = value.next_time.as_ref().map(|time| text::relative(from_wire_timestamp(time), now));
        table.row([
            plain(text::word(&value.value)),
            plain(rule(value.rule.map(Rule::from))),
            yes(value.overridden),
            plain(value.running.to_string()),
            yes(value.has_waiting),
            plain(next.unwrap_or_default()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::json;
    use jobmill::{
        client::to_wire_duration,
        proto::v1::{Rate, limit_value},
    };

    fn rate(count: i32, seconds: u64, burst: i32) -> Rate {
        Rate { count, per: Some(to_wire_duration(Duration::from_secs(seconds))), burst }
    }

    fn limits() -> [Limit; 3] {
        [
            Limit {
                name: "gpu".into(),
                rule: Some(limit::Rule::MaxRunning(4)),
                key: Some(limit::Key::All(true)),
                kinds: vec!["encode".into(), "scale".into()],
                etag: "3".into(),
                running: 3,
                state: LimitState::Active.into(),
                namespace: "default".into(),
                ..Limit::default()
            },
            Limit {
                name: "provider".into(),
                rule: Some(limit::Rule::Rate(rate(10, 1, 20))),
                key: Some(limit::Key::ByQueue(true)),
                queues: vec!["mail\u{1b}".into()],
                etag: "1".into(),
                declared: true,
                state: LimitState::Changing.into(),
                ..Limit::default()
            },
            Limit {
                name: "tenants".into(),
                rule: Some(limit::Rule::MaxRunning(0)),
                key: Some(limit::Key::ByLabel("tenant".into())),
                state: LimitState::Active.into(),
                ..Limit::default()
            },
        ]
    }

    fn all_values() -> [LimitValue; 4] {
        let value =
            |value: &str, rule| LimitValue { value: value.into(), rule: Some(rule), ..LimitValue::default() };
        let next_time = Some(prost_types::Timestamp { seconds: 1_090, nanos: 0 });
        [
            value("", limit_value::Rule::MaxRunning(5)),
            LimitValue {
                overridden: true,
                running: 50,
                has_waiting: true,
                ..value("42", limit_value::Rule::MaxRunning(50))
            },
            LimitValue { overridden: true, ..value("a b'\u{1b}", limit_value::Rule::Rate(rate(0, 60, 0))) },
            LimitValue { next_time, ..value("c", limit_value::Rule::Rate(rate(100, 300, 100))) },
        ]
    }

    #[test]
    fn limits_in_a_table() {
        insta::assert_snapshot!(list(&limits(), false), @r"
        LIMIT     RULE            BY            QUEUES    KINDS         RUNNING  STATE
        gpu       4 at once       all together  all       encode,scale        3  active
        provider  10/s, burst 20  queue         mail\x1b  all                 0  changing
        tenants   paused          label tenant  all       all                 0  active
        ");
    }

    #[test]
    fn limits_in_full() {
        let [gpu, provider, _] = limits();
        insta::assert_snapshot!(in_full(&gpu) + &in_full(&provider), @r"
        limit         gpu
        rule          4 at once
        by            all together
        queues        all
        kinds         encode,scale
        running       3
        state         active
        etag          3
        limit         provider
        rule          10/s, burst 20
        by            queue
        queues        mail\x1b
        kinds         all
        running       0
        state         changing: jobs that wait are still being sorted
        etag          1
        declared      in the configuration file
        ");
    }

    #[test]
    fn values_in_a_table() {
        insta::assert_snapshot!(of_values(&all_values(), Timestamp::from_micros(1_000_000_000), false), @r"
        VALUE          RULE        OVERRIDDEN  RUNNING  WAITING  NEXT
        ''             5 at once   no                0  no
        42             50 at once  yes              50  yes
        'a b'\''\x1b'  paused      yes               0  no
        c              100/5m      no                0  no       in 1m 30s
        ");
    }

    #[test]
    fn limits_in_json() {
        let lines = limits().iter().map(|limit| json::limit(limit).to_string()).collect::<Vec<_>>();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"all":true,"declared":false,"etag":"3","kinds":["encode","scale"],"maxRunning":4,"name":"gpu","namespace":"default","running":3,"state":"LIMIT_STATE_ACTIVE"}
        {"byQueue":true,"declared":true,"etag":"1","name":"provider","queues":["mail\u001b"],"rate":{"burst":20,"count":10,"per":"1s"},"running":0,"state":"LIMIT_STATE_CHANGING"}
        {"byLabel":"tenant","declared":false,"maxRunning":0,"name":"tenants","running":0,"state":"LIMIT_STATE_ACTIVE"}
        "#);
        let lines = all_values().iter().map(|value| json::limit_value(value).to_string()).collect::<Vec<_>>();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"hasWaiting":false,"maxRunning":5,"overridden":false,"running":0,"value":""}
        {"hasWaiting":true,"maxRunning":50,"overridden":true,"running":50,"value":"42"}
        {"hasWaiting":false,"overridden":true,"rate":{"count":0,"per":"60s"},"running":0,"value":"a b'\u001b"}
        {"hasWaiting":false,"nextTime":"1970-01-01T00:18:10Z","overridden":false,"rate":{"burst":100,"count":100,"per":"300s"},"running":0,"value":"c"}
        "#);
    }

    #[test]
    fn rules_are_told_as_options_say_them() {
        for (rate, told) in [
            (rate(10, 1, 0), "10/s"),
            (rate(10, 60, 10), "10/m"),
            (rate(10, 3_600, 1), "10/h, burst 1"),
            (rate(10, 90, 0), "10/1m 30s"),
            (
                Rate { per: Some(to_wire_duration(Duration::from_millis(1_050))), ..rate(10, 0, 0) },
                "10/1s 50ms",
            ),
            (rate(10, 31 * 86_400, 0), "10/31d"),
            (rate(0, 1, 5), "paused"),
        ] {
            assert_eq!(rule(Some(Rule::Rate(rate))), told);
        }
    }
}
