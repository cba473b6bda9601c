//! The schedules and calendars that a file declares.

use std::{fs, time::Duration};

use jobmill::{
    job::When,
    settings::{Late, Overlap},
};

use super::{Desk, faults::refuses, jobmill};

const KIND: &str = "[kinds.report]\ncommand = ['sh']\n";

fn file(rest: &str) -> String {
    format!("{KIND}{rest}")
}

#[test]
fn every_setting_of_a_schedule_arrives() {
    let desk = Desk::new(&file(
        "[queues.slow]\n[[calendar]]\nname = 'holidays'\ndates = ['2030-12-25']\nfile = 'more.txt'\n\
         [[schedule]]\nname = 'nightly'\ncron = ['0 3 * * *', '0 4 * * *']\nevery = '1h'\ntime_zone = 'Europe/Berlin'\n\
         start = '2030-01-01T00:00:00Z'\nend = '2031-01-01T00:00:00+01:00'\njitter = '10s'\nexclude = ['2030-05-01']\n\
         calendars = ['holidays']\noverlap = 'queue_one'\ncatch_up = '10m'\nlate = 'all'\npause_after_failures = 3\n\
         queue = 'slow'\nkind = 'report'\npayload = 'x'\nmedia_type = 'text/csv'\nlabels = { a = 'b' }\n\
         headers = { c = 'd' }\npriority = -3\nmax_attempts = 2\nattempt_timeout = '1m'\ndelay = '1s'\n\
         expire_after = '2h'\ndeadline_after = '3h'\nretry = { jitter = 0.5 }",
    ));
    fs::write(desk.path("more.txt"), "# Easter\n2030-04-21..2030-04-22 # both\n\n").unwrap();
    let settings = desk.load().settings;
    let dates: Vec<_> = settings.calendars["holidays"].iter().map(ToString::to_string).collect();
    assert_eq!(dates, ["2030-12-25", "2030-04-21..2030-04-22"]);
    let schedule = &settings.schedules["nightly"];
    let times = &schedule.times.spec;
    assert_eq!(
        (times.crons.len(), times.every, &*times.time_zone, times.jitter),
        (2, Some(Duration::from_secs(3_600)), "Europe/Berlin", Some(Duration::from_secs(10)))
    );
    assert_eq!(times.start.unwrap().to_string(), "2030-01-01T00:00:00Z");
    assert_eq!(times.end.unwrap().to_string(), "2030-12-31T23:00:00Z");
    assert_eq!((schedule.times.excluded.len(), &*schedule.times.calendars[0]), (1, "holidays"));
    assert_eq!((schedule.overlap, schedule.late), (Overlap::QueueOne, Late::All));
    assert_eq!((schedule.catch_up, schedule.pause_after_failures), (Some(Duration::from_secs(600)), Some(3)));
    let job = &schedule.job;
    assert_eq!((&*job.queue, &*job.kind, &job.payload[..]), ("slow", "report", &b"x"[..]));
    assert_eq!(
        (&*job.payload_info.media_type, &*job.labels["a"], &*job.headers["c"]),
        ("text/csv", "b", "d")
    );
    assert_eq!((job.priority, job.max_attempts), (Some(-3), Some(2)));
    assert_eq!(job.attempt_timeout, Some(Duration::from_secs(60)));
    assert_eq!(job.start, Some(When::After(Duration::from_secs(1))));
    assert_eq!(job.expiry, Some(When::After(Duration::from_secs(7_200))));
    assert_eq!(job.deadline, Some(When::After(Duration::from_secs(10_800))));
    assert_eq!(job.retry.as_ref().unwrap().jitter, Some(0.5));
}

#[test]
fn faults_of_schedules_name_their_place() {
    refuses(
        "[schedule]\nname = 'a'",
        &["1:1: schedule: this is not a list; write one in brackets, such as [\"a\", \"b\"] or [1, 2]"],
    );
    refuses(
        &file("[[schedule]]\nevery = '1h'"),
        &["3:1: schedule[0].name: the name is missing; write name = \"…\""],
    );
    let schedule = |rest: &str| file(&format!("[[schedule]]\nname = 'a'\nkind = 'report'\n{rest}"));
    refuses(
        &schedule("cron = '0 0 30 2 *'"),
        &[
            "6:8: schedule[0].cron: `0 0 30 2 *` never comes: no month that it names has such a day (looked for 50 years ahead)",
        ],
    );
    refuses(
        &schedule("cron = '0 3 * *'"),
        &[
            "6:8: schedule[0].cron: `0 3 * *`, character 8: expected five fields (minute, hour, day of month, month, day of week), or six with the second first; found the end after 4",
        ],
    );
    refuses(
        &schedule("every = '1h'\ntime_zone = 'Europe/Berlyn'"),
        &[
            "7:13: schedule[0].time_zone: there is no time zone `Europe/Berlyn`; the nearest names are Europe/Berlin, America/Belem, America/North_Dakota/Beulah",
        ],
    );
    refuses(
        &schedule("every = '1h'\ncatch_up = '9s'"),
        &[
            "7:12: schedule[0].catch_up: \"9s\" is under the minimum of 10s; write a duration from 10s to 10years, such as \"30s\"",
        ],
    );
    refuses(
        &schedule("every = '1h'\ncalendars = ['x']"),
        &["7:13: schedule[0].calendars: no calendar is named `x`: create it, or leave it out"],
    );
    refuses(
        &schedule("every = '1h'\nqueue = 'x'"),
        &["7:1: schedule[0].queue: no queue is named \"x\"; declare [queues.x]"],
    );
    refuses(
        &schedule("every = '1h'\n[[schedule]]\nname = 'a'"),
        &["8:1: schedule[1].name: the name \"a\" is used twice; choose another one"],
    );
    refuses(
        &schedule(""),
        &[
            "4:1: schedule[0].cron: a schedule needs times: give a cron expression here, such as `30 2 * * *`, or `every`",
        ],
    );
    refuses(
        &file("[[schedule]]\nname = 'a'\nkind = 'x'\nevery = '1h'"),
        &[
            "5:1: schedule[0].kind: no kind is named \"x\"; declare [kinds.\"x\"] with its handler, or with worker = true, or set accept_unknown_kinds on the queue",
        ],
    );
    refuses(
        &file("[[schedule]]\nname = 'a'\nevery = '1h'"),
        &["4:1: schedule[0].kind: the kind of the jobs is missing; write kind = \"…\""],
    );
    refuses(
        &file("[[calendar]]\nname = 'a'\ndates = ['2026-02-30']"),
        &[
            "5:10: calendar[0].dates[0]: `2026-02-30` is no date: expected one like `2026-12-25`, or a range like `2026-12-24..2027-01-06`",
        ],
    );
}

#[test]
fn the_job_of_a_declared_schedule_obeys_the_rules_of_every_job() {
    let schedule =
        |rest: &str| file(&format!("[[schedule]]\nname = 'a'\nkind = 'report'\nevery = '1h'\n{rest}"));
    let long = "x".repeat(129);
    let many = (0..31).map(|n| format!("l{n} = 'v'")).collect::<Vec<_>>().join(", ");
    for (rest, expected) in [
        (
            format!("media_type = '{long}'"),
            "7:1: schedule[0].media_type: must be at most 128 visible ASCII characters, without a blank at either end",
        ),
        (format!("labels = {{ {many} }}"), "7:1: schedule[0].labels: has 31 entries; at most 30 are allowed"),
        ("labels = { a = 1 }".to_owned(), "7:16: schedule[0].labels.a: the value must be text"),
        (
            "labels = { 'jobmill/x' = 'v' }".to_owned(),
            "7:1: schedule[0].labels: the key \"jobmill/x\" begins with `jobmill/`, which is reserved",
        ),
        (
            "headers = { grpc-x = 'v' }".to_owned(),
            "7:1: schedule[0].headers: the key \"grpc-x\" begins with `grpc-`, which is reserved: use another one",
        ),
        (
            "delay = '2h'\nexpire_after = '1h'".to_owned(),
            "8:1: schedule[0].expire_after: is not after the job's start: the job could never run",
        ),
        (
            "retry = { initial_delay = '2m', max_delay = '1m' }".to_owned(),
            "7:1: schedule[0].retry: max_delay is shorter than initial_delay",
        ),
    ] {
        refuses(&schedule(&rest), &[expected]);
    }
    refuses(
        "[kinds.report]\ncommand = ['sh']\nmax_attempts = 2\nbounds.max_attempts = 3\n[[schedule]]\nname = 'a'\nkind = 'report'\n\
         every = '1h'\nmax_attempts = 4",
        &[
            "9:1: schedule[0].max_attempts: the kind `report` allows a max_attempts of at most 3, and this is 4: ask for less, or have the operator raise the kind's bounds",
        ],
    );
}

#[test]
fn a_schedule_whose_end_has_passed_does_not_keep_the_server_from_starting() {
    let desk = Desk::new(&file(
        "[[schedule]]\nname = 'a'\nkind = 'report'\ncron = '0 3 * * *'\nend = '2001-01-01T00:00:00Z'",
    ));
    assert_eq!(desk.load().settings.schedules.len(), 1);
}

#[test]
fn check_config_previews_schedules() {
    let desk = Desk::new(&file(
        "[[schedule]]\nname = 'leap'\nkind = 'report'\ncron = '30 2 29 2 *'\nstart = '2096-01-01T00:00:00Z'\n\
         time_zone = 'Asia/Tokyo'\n[[schedule]]\nname = 'over'\nkind = 'report'\ncron = '0 3 * * *'\n\
         end = '2001-01-01T00:00:00Z'",
    ));
    let output = jobmill(&desk, &["check-config", "--config", "jobmill.toml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let shown = text.split("\n\n").nth(1).unwrap();
    insta::assert_snapshot!(shown, @r"
    SCHEDULE  NEXT                       UTC
    leap      2096-02-29 02:30:00+09:00  2096-02-28T17:30:00Z
              2104-02-29 02:30:00+09:00  2104-02-28T17:30:00Z
              2108-02-29 02:30:00+09:00  2108-02-28T17:30:00Z
    over      never again
    ");
    let output = jobmill(&desk, &["check-config", "--config", "jobmill.toml", "--output", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected =
        serde_json::json!({ "time": "2096-02-28T17:30:00Z", "localTime": "2096-02-29 02:30:00+09:00" });
    assert_eq!(document["schedules"][0]["name"], "leap");
    assert_eq!(document["schedules"][0]["next"][0], expected);
    assert_eq!(document["schedules"][1]["next"], serde_json::json!([]));
}
