//! The limits that a file declares, and the weights of a schedule's jobs.

use std::time::Duration;

use jobmill::settings::{LimitKey, LimitRule, LimitSpec, Rate};

use super::{Desk, entry, faults::refuses};

#[test]
fn every_setting_of_a_limit_arrives() {
    let limits = Desk::new(
        "[[limit]]\nname = 'gpu'\nmax_running = 4\nqueues = ['video', 'not.there']\nkinds = ['encode']\n\
         [[limit]]\nname = 'calls'\ncount = 100\nper = '1m'\nburst = 10\nby_label = 'tenant'\n\
         [[limit]]\nname = 'each.queue'\ncount = 5\nper = '31days'\nby = 'queue'\n\
         [[limit]]\nname = 'each-kind'\nmax_running = 0\nby = 'kind'\n\
         [[limit]]\nname = '2'\nmax_running = 1\nby = 'all'",
    )
    .load()
    .settings
    .job_limits;
    let rate = |count, per| LimitRule::Rate(Rate::new(count, Duration::from_secs(per)));
    let video = ["video", "not.there"].map(str::to_owned).into();
    let gpu = LimitSpec::new(LimitRule::Running(4));
    let ten = LimitRule::Rate(Rate::new(100, Duration::from_secs(60)).burst(10));
    let expected = [
        ("gpu", LimitSpec { queues: video, kinds: ["encode".to_owned()].into(), ..gpu }),
        ("calls", LimitSpec::new(ten).by(LimitKey::Label("tenant".into()))),
        ("each.queue", LimitSpec::new(rate(5, 31 * 86_400)).by(LimitKey::Queue)),
        ("each-kind", LimitSpec::new(LimitRule::Running(0)).by(LimitKey::Kind)),
        ("2", LimitSpec::new(LimitRule::Running(1))),
    ];
    assert_eq!(limits, expected.map(|(name, spec)| (name.to_owned(), spec)).into());
}

#[test]
fn a_limit_is_shown_as_it_was_resolved() {
    let loaded = Desk::new(
        "[[limit]]\nname = 'a'\nmax_running = 4\n[[limit]]\nname = 'b'\nmax_running = 4\nby_label = 'tenant'",
    )
    .load();
    let value = |key: &str| entry(&loaded, key).value.clone();
    assert_eq!((value("limit[0].by"), value("limit[0].by_label")), ("all".into(), serde_json::Value::Null));
    assert_eq!(
        (value("limit[1].by"), value("limit[1].by_label")),
        (serde_json::Value::Null, "tenant".into())
    );
}

#[test]
fn faults_of_limits_name_their_place() {
    refuses(
        "[limit]\nname = 'a'",
        &["1:1: limit: this is not a list; write one in brackets, such as [\"a\", \"b\"] or [1, 2]"],
    );
    refuses("[[limit]]\nmax_running = 5", &["1:1: limit[0].name: the name is missing; write name = \"…\""]);
    refuses(
        "[[limit]]\nname = 'A'\nmax_running = 5",
        &[
            "2:8: limit[0].name: the name has 'A' at position 1; a limit's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
        ],
    );
    let limit = |rest: &str| format!("[[limit]]\nname = 'a'\n{rest}");
    refuses(
        &limit("max_running = 5\n[[limit]]\nname = 'a'\nmax_running = 5"),
        &["5:1: limit[1].name: the name \"a\" is used twice; choose another one"],
    );
    refuses(
        &limit("by = 'kind'"),
        &[
            "2:1: limit[0].max_running: the limit limits nothing; write max_running = 5, or count = 10 and per = \"1s\"",
        ],
    );
    for rate in ["count = 10\nper = '1s'", "count = 10", "per = '1s'", "burst = 5"] {
        let key = rate.split(' ').next().unwrap();
        let expected = format!(
            "4:1: limit[0].{key}: `max_running` is given as well; a limit has that, or `count` and `per`"
        );
        refuses(&limit(&format!("max_running = 5\n{rate}")), &[&expected]);
    }
    refuses(
        &limit("per = '1s'"),
        &["3:1: limit[0].count: the number of starts is missing; write count = 10"],
    );
    refuses(&limit("burst = 3"), &["3:1: limit[0].count: the number of starts is missing; write count = 10"]);
    refuses(
        &limit("count = 3"),
        &["3:1: limit[0].per: the time of these starts is missing; write per = \"1s\""],
    );
    refuses(
        &limit("max_running = 5\nby = 'all'\nby_label = 'tenant'"),
        &["5:1: limit[0].by_label: `by` is given as well; keep one of the two"],
    );
}

#[test]
fn all_faults_of_a_limit_are_told_at_once() {
    refuses(
        "[[limit]]\nname = 'a'\ncount = 1_000_001\nper = '0s'\nburst = 0\nby = 'tenant'\nby_label = ''\n\
         queues = ['a b']\nkinds = 'x'\nmax = 5",
        &[
            "3:9: limit[0].count: 1000001 is over the limit of 1000000; write a whole number from 0 to 1000000",
            "4:7: limit[0].per: \"0s\" is under the minimum of 1ms; write a duration from 1ms to 1month 13h 26m 24s, such as \"30s\"",
            "5:9: limit[0].burst: 0 is under the minimum of 1; write a whole number from 1 to 1000000",
            "6:6: limit[0].by: \"tenant\" is none of the choices; write \"all\" or \"queue\" or \"kind\"",
            "7:1: limit[0].by_label: `by` is given as well; keep one of the two",
            "7:12: limit[0].by_label: \"\" is no name of a label: write 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`",
            "8:11: limit[0].queues[0]: the name has ' ' at position 2; a queue's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
            "9:9: limit[0].kinds: this is not a list; write one in brackets, such as [\"a\", \"b\"] or [1, 2]",
            "10:1: limit[0].max: unknown key; known here: name, max_running, count, per, burst, by, by_label, queues, kinds",
        ],
    );
}

#[test]
fn a_bucket_fills_within_ten_years() {
    let limit = |rest: &str| format!("[[limit]]\nname = 'a'\n{rest}");
    refuses(
        &limit("count = 1\nper = '31days'\nburst = 119"),
        &[
            "5:1: limit[0].burst: the burst takes 10years 1month 6days 1h 26m 24s to fill, the limit is 10years; write less burst, or a faster rate",
        ],
    );
    Desk::new(&limit("count = 1\nper = '31days'\nburst = 117")).load();
    // A paused rate never fills.
    Desk::new(&limit("count = 0\nper = '31days'\nburst = 1_000_000")).load();
}

#[test]
fn a_limit_names_at_most_a_hundred_queues() {
    let names = |count| (0..count).map(|n| format!("'q{n}'")).collect::<Vec<_>>().join(", ");
    let limit = |count| format!("[[limit]]\nname = 'a'\nmax_running = 1\nqueues = [{}]", names(count));
    Desk::new(&limit(100)).load();
    refuses(
        &limit(101),
        &["4:10: limit[0].queues: the list has 101 elements, the limit is 100; write fewer"],
    );
}

#[test]
fn a_schedules_jobs_have_weights() {
    let schedule = |weights: &str| {
        format!(
            "[kinds.a]\ncommand = ['sh']\n[[schedule]]\nname = 'a'\nkind = 'a'\nevery = '1h'\nweights = {weights}"
        )
    };
    let settings = Desk::new(&schedule("{ gpu = 2, 'x.y' = 1_000_000 }")).load().settings;
    let weights = &settings.schedules["a"].job.weights;
    assert_eq!(weights, &[("gpu".to_owned(), 2), ("x.y".to_owned(), 1_000_000)].into());
    refuses(
        &schedule("{ gpu = 0, x = 'y' }"),
        &[
            "7:19: schedule[0].weights.gpu: 0 is under the minimum of 1; write a whole number from 1 to 1000000",
            "7:26: schedule[0].weights.x: \"y\" is text; write a whole number from 1 to 1000000",
        ],
    );
    refuses(
        &schedule("{ 'a b' = 1 }"),
        &[
            "7:1: schedule[0].weights: the key \"a b\": the name has ' ' at position 2; a limit's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
        ],
    );
}
