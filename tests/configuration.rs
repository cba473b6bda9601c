//! Configuration files: valid input, the settings that result, and the messages for faults.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "configuration/endpoints.rs"]
mod endpoints;
#[path = "configuration/faults.rs"]
mod faults;
#[path = "configuration/limits.rs"]
mod job_limits;
#[path = "configuration/schedules.rs"]
mod schedules;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use jobmill::{
    config::{Environment, Flags, Loaded, ResolvedSetting, SettingSource, keys, load},
    job::RetryPolicy,
    settings::{
        HandlerSettings, Keep, LogFormat, LogSettings, Retention, Settings, StoreSettings, TracesSettings,
        WhenFull, limits,
    },
};
use tempfile::TempDir;

/// A folder with a configuration file and the environment of its user.
struct Desk {
    dir: TempDir,
    environment: Environment,
    flags: Flags,
}

impl Desk {
    fn new(file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("jobmill.toml"), file).unwrap();
        let environment = Environment::bare(dir.path())
            .with_variable("HOME", "/home/ada")
            .with_variable("PATH", "/bin:/usr/bin");
        let flags = Flags { config: Some("jobmill.toml".into()), ..Flags::default() };
        Desk { dir, environment, flags }
    }

    fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment = self.environment.with_variable(name, value);
        self
    }

    fn with_flags(mut self, set: impl FnOnce(&mut Flags)) -> Self {
        set(&mut self.flags);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self) -> Loaded {
        load(&self.flags, &self.environment).unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// Returns the faults, one a line, without the folder's path.
    fn faults(&self) -> String {
        let faults = load(&self.flags, &self.environment).expect_err("no fault").to_string();
        faults.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn entry<'a>(loaded: &'a Loaded, key: &str) -> &'a ResolvedSetting {
    loaded.entries.iter().find(|entry| entry.key == key).unwrap_or_else(|| panic!("no {key}"))
}

#[test]
fn every_setting_of_a_file_arrives() {
    let desk = Desk::new(
        r#"
        listen = "[::1]:0"
        data_dir = "jobs"
        drain_timeout = "1m 30s"
        log = { filter = "warn,jobmill=debug", format = "json" }
        metrics.listen = "127.0.0.1:9773"
        traces = { endpoint = "https://collector:4317", sample_ratio = 0.25 }
        [retention]
        succeeded = "6h"
        [queues.default]
        consumers = 0
        [queues.mail]
        max_jobs = 1_000
        max_bytes = 2_097_152
        consumers = 7
        when_full = "reject"
        max_wait = "0s"
        max_waiters = 0
        accept_unknown_kinds = true
        retention = { failed = "forever", expired = "0s" }
        [kinds."mail.send"]
        command = ["sh", "-c", "exit 0", ""]
        env = { TOKEN = "s3cret" }
        env_allow = ["LC_ALL"]
        working_dir = "."
        kill_grace = "0s"
        permanent_exit_codes = [65, 78]
        max_attempts = 1
        attempt_timeout = "1ms"
        [kinds."mail.send".retry]
        initial_delay = "2s"
        max_delay = "1day"
        multiplier = 1
        jitter = 0.5
        "#,
    );
    let Loaded { settings, log, file, .. } = desk.load();
    assert_eq!(file, Some(desk.path("jobmill.toml")));
    assert_eq!(log, LogSettings { filter: "warn,jobmill=debug".to_owned(), format: LogFormat::Json });
    assert_eq!(settings.listen, "[::1]:0".parse().unwrap());
    assert_eq!(settings.store, StoreSettings::Folder(desk.path("jobs")));
    assert_eq!(settings.drain_timeout, Duration::from_secs(90));
    assert_eq!(settings.metrics_listen, Some("127.0.0.1:9773".parse().unwrap()));
    let collector = Some("https://collector:4317".to_owned());
    assert_eq!(settings.traces, TracesSettings { endpoint: collector, sample_ratio: 0.25 });
    assert_eq!(settings.queues.keys().collect::<Vec<_>>(), ["default", "mail"]);
    assert_eq!(settings.queues["default"].consumers, 0);
    assert_eq!(settings.queues["default"].max_jobs, 100_000);

    let mail = &settings.queues["mail"];
    assert_eq!((mail.max_jobs, mail.max_bytes, mail.consumers), (1_000, 2 << 20, 7));
    assert_eq!((mail.when_full, mail.max_wait, mail.max_waiters), (WhenFull::Reject, Duration::ZERO, 0));
    assert!(mail.accept_unknown_kinds);
    let (hours, day) = (Keep::For(Duration::from_secs(6 * 3600)), Keep::For(Duration::from_secs(86_400)));
    assert_eq!(settings.retention, Retention { succeeded: hours, ..Retention::default() });
    let expected = Retention {
        succeeded: hours,
        failed: Keep::Forever,
        cancelled: day,
        expired: Keep::For(Duration::ZERO),
    };
    assert_eq!(mail.retention.over(settings.retention), expected);

    let kind = &settings.kinds["mail.send"];
    let HandlerSettings::Command(command) = &kind.handler else { panic!("{kind:?}") };
    assert!(Path::new(&command.argv[0]).is_absolute() && command.argv[0].ends_with("/sh"));
    assert_eq!(command.argv[1..], ["-c", "exit 0", ""]);
    assert_eq!(command.env["TOKEN"], "s3cret");
    assert_eq!(command.env_allow, ["LC_ALL"]);
    assert_eq!(command.working_dir, Some(desk.path(".")));
    assert_eq!(command.kill_grace, Duration::ZERO);
    assert_eq!(command.permanent_exit_codes, [65, 78]);
    assert_eq!((kind.defaults.max_attempts, kind.defaults.attempt_timeout), (1, Duration::from_millis(1)));
    let (initial_delay, max_delay) = (Duration::from_secs(2), Duration::from_secs(86_400));
    assert_eq!(
        kind.defaults.retry,
        RetryPolicy { initial_delay, max_delay, multiplier: 1.0, jitter: 0.5, delays: None }
    );
    assert!(!format!("{settings:?}").contains("s3cret"), "secrets stay out of what logs may show");
}

#[test]
fn flags_go_before_variables_before_the_file_before_defaults() {
    const DRAIN: &str = "drain_timeout";
    let all = || {
        Desk::new("drain_timeout = \"1s\"")
            .with_variable("JOBMILL_DRAIN_TIMEOUT", "2s")
            .with_flags(|flags| flags.drain_timeout = Some("3s".into()))
    };
    let file =
        |desk: &Desk| SettingSource::File { path: desk.path("jobmill.toml").into(), line: 1, column: 17 };
    let expect = |desk: Desk, seconds: u64, place: SettingSource| {
        let loaded = desk.load();
        assert_eq!(loaded.settings.drain_timeout, Duration::from_secs(seconds));
        assert_eq!(entry(&loaded, DRAIN).place, place);
    };
    expect(all(), 3, SettingSource::Flag("--drain-timeout"));
    expect(
        all().with_flags(|flags| flags.drain_timeout = None),
        2,
        SettingSource::Environment("JOBMILL_DRAIN_TIMEOUT"),
    );
    let in_file =
        all().with_flags(|flags| flags.drain_timeout = None).with_variable("JOBMILL_DRAIN_TIMEOUT", "");
    let place = file(&in_file);
    expect(in_file, 1, place);
    expect(Desk::new(""), 30, SettingSource::Default);
}

#[test]
fn every_variable_and_flag_arrives() {
    let desk = Desk::new("")
        .with_variable("JOBMILL_LISTEN", "127.0.0.1:1")
        .with_variable("JOBMILL_DATA_DIR", "/jobs")
        .with_variable("JOBMILL_DRAIN_TIMEOUT", "1s")
        .with_variable("JOBMILL_LOG", "warn")
        .with_variable("JOBMILL_LOG_FORMAT", "json");
    let from_variables = desk.load();
    assert_eq!(from_variables.settings.listen.port(), 1);
    assert_eq!(from_variables.settings.store, StoreSettings::Folder("/jobs".into()));
    assert_eq!(from_variables.settings.drain_timeout, Duration::from_secs(1));
    assert_eq!(from_variables.log, LogSettings { filter: "warn".to_owned(), format: LogFormat::Json });

    let from_flags = desk.with_flags(|flags| {
        flags.listen = Some("127.0.0.1:2".into());
        flags.data_dir = Some("here".into());
        flags.drain_timeout = Some("0s".into());
        flags.log = Some("debug".into());
        flags.log_format = Some("text".into());
    });
    let loaded = from_flags.load();
    assert_eq!(loaded.settings.listen.port(), 2);
    assert_eq!(loaded.settings.store, StoreSettings::Folder(from_flags.path("here")));
    assert_eq!(loaded.settings.drain_timeout, Duration::ZERO);
    assert_eq!(loaded.log, LogSettings { filter: "debug".to_owned(), format: LogFormat::Text });
}

#[test]
fn the_store_is_what_the_last_source_says() {
    let folder = |path: &str| StoreSettings::Folder(path.into());
    let home = || folder("/home/ada/.local/share/jobmill");
    for (file, memory, dir, flag_memory, flag_dir, store) in [
        ("", "", "", false, None, home()),
        ("data_dir = '/f'", "", "", false, None, folder("/f")),
        ("memory = true", "", "", false, None, StoreSettings::Memory),
        ("memory = true", "false", "", false, None, home()),
        ("memory = true", "", "/e", false, None, folder("/e")),
        ("memory = true", "", "", false, Some("/g"), folder("/g")),
        ("data_dir = '/f'", "true", "", false, None, StoreSettings::Memory),
        ("data_dir = '/f'", "", "/e", true, None, StoreSettings::Memory),
        ("data_dir = '/f'", "true", "", false, Some("/g"), folder("/g")),
        ("data_dir = '/f'\nmemory = false", "", "", false, None, folder("/f")),
    ] {
        let desk = Desk::new(file)
            .with_variable("JOBMILL_MEMORY", memory)
            .with_variable("JOBMILL_DATA_DIR", dir)
            .with_flags(|flags| {
                flags.memory = flag_memory;
                flags.data_dir = flag_dir.map(PathBuf::from);
            });
        assert_eq!(desk.load().settings.store, store, "{file} {memory} {dir} {flag_memory} {flag_dir:?}");
    }
}

#[test]
fn the_file_is_the_named_one_or_the_users_own_or_none() {
    let desk = Desk::new("drain_timeout = '1s'").with_flags(|flags| flags.config = None);
    assert_eq!(desk.load().file, None, "nobody names it");

    let named = desk.path("other.toml");
    fs::write(&named, "").unwrap();
    let desk = desk.with_variable("JOBMILL_CONFIG", "other.toml");
    assert_eq!(desk.load().file, Some(named));

    let own = desk.path("jobmill/jobmill.toml");
    let config_home = desk.dir.path().to_str().unwrap().to_owned();
    let desk = desk.with_variable("JOBMILL_CONFIG", "").with_variable("XDG_CONFIG_HOME", &config_home);
    assert_eq!(desk.load().file, None, "the user has none");
    fs::create_dir(desk.path("jobmill")).unwrap();
    fs::write(&own, "").unwrap();
    assert_eq!(desk.load().file, Some(own));
}

#[test]
fn each_limit_is_the_last_value_that_is_accepted() {
    let queue = |setting: &str| format!("[queues.a]\n{setting}");
    let kind = |setting: &str| format!("[kinds.a]\ncommand = ['sh']\n{setting}");
    let limit = |accepted: &str, refused: &str| (format!("limits.{accepted}"), format!("limits.{refused}"));
    let workers =
        |accepted: &str, refused: &str| (format!("workers.{accepted}"), format!("workers.{refused}"));
    for (accepted, refused) in [
        (queue("max_jobs = 1"), queue("max_jobs = 0")),
        (queue("max_jobs = 1_000_000_000"), queue("max_jobs = 1_000_000_001")),
        (queue("max_bytes = '1MiB'"), queue("max_bytes = 1_048_575")),
        (queue("max_bytes = '1TiB'"), queue("max_bytes = '1025GiB'")),
        (queue("consumers = 0"), queue("consumers = -1")),
        (queue("consumers = 10_000"), queue("consumers = 10_001")),
        (queue("max_wait = '0s'"), queue("max_wait = '-1s'")),
        (queue("max_wait = '10m'"), queue("max_wait = '10m 1ns'")),
        (queue("max_waiters = 10_000"), queue("max_waiters = 99999999999999999999999999999999999999999")),
        (kind("max_attempts = 1"), kind("max_attempts = 0")),
        (kind("max_attempts = 1_000"), kind("max_attempts = 1_001")),
        (kind("attempt_timeout = '1ms'"), kind("attempt_timeout = '999us'")),
        (kind("attempt_timeout = '30days'"), kind("attempt_timeout = '31days'")),
        (kind("kill_grace = '10m'"), kind("kill_grace = '11m'")),
        (kind("retry.initial_delay = '30days'"), kind("retry.initial_delay = '31days'")),
        (kind("retry.max_delay = '0s'"), kind("retry.max_delay = '31days'")),
        (kind("retry.multiplier = 1"), kind("retry.multiplier = 0.99")),
        (kind("retry.multiplier = 100.0"), kind("retry.multiplier = inf")),
        (kind("retry.jitter = 0"), kind("retry.jitter = -0.1")),
        (kind("retry.jitter = 1.0"), kind("retry.jitter = 1.1")),
        (kind("permanent_exit_codes = [1, 255]"), kind("permanent_exit_codes = [256]")),
        ("drain_timeout = '1h'".to_owned(), "drain_timeout = '61m'".to_owned()),
        limit("connections = 1", "connections = 0"),
        limit("connections = 1_000_000", "connections = 1_000_001"),
        limit("handshakes = 100_000", "handshakes = 0"),
        limit("handshake_timeout = '100ms'", "handshake_timeout = '99ms'"),
        limit("streams_per_connection = 1", "streams_per_connection = 100_001"),
        limit("header_bytes = '4KiB'", "header_bytes = 4_095"),
        limit("header_bytes = '1MiB'", "header_bytes = '2MiB'"),
        limit("keepalive_interval = '1h'", "keepalive_interval = '0s'"),
        limit("keepalive_timeout = '10m'", "keepalive_timeout = '11m'"),
        workers("lease = '1h'", "lease = '61m'"),
        workers("receive_within = '10m'", "receive_within = '11m'"),
        workers("stop_grace = '100ms'", "stop_grace = '99ms'"),
        workers("ping_every = '10m'", "ping_every = '11m'"),
    ] {
        Desk::new(&accepted).load();
        let faults = Desk::new(&refused).faults();
        assert_eq!(faults.lines().count(), 1, "{refused}: {faults}");
    }
}

#[test]
fn queues_kinds_consumers_and_arguments_have_limits() {
    let arguments = |count: usize| format!("[kinds.a]\ncommand = ['sh'{}]", ", 'x'".repeat(count - 1));
    Desk::new(&arguments(limits::ARGV_MAX)).load();
    assert_eq!(
        Desk::new(&arguments(limits::ARGV_MAX + 1)).faults(),
        "jobmill.toml:2:11: kinds.a.command: the list has 257 elements, the limit is 256; write fewer"
    );
    let queues = |count: usize, consumers: u32| -> String {
        (0..count).map(|n| format!("[queues.q{n}]\nconsumers = {consumers}\n")).collect()
    };
    assert_eq!(
        Desk::new(&queues(1_001, 1)).faults(),
        "jobmill.toml:1:2: queues: there are 1001 of them, the limit is 1000; declare fewer"
    );
    let none_for_default = "[queues.default]\nconsumers = 0\n";
    Desk::new(&format!("{none_for_default}{}", queues(10, 10_000))).load();
    assert_eq!(
        Desk::new(&format!("{none_for_default}{}[queues.last]\nconsumers = 1", queues(10, 10_000))).faults(),
        "jobmill.toml:1:2: queues: all queues together have 100001 consumers, the limit is 100000; give some of \
         them fewer"
    );
    let kinds: String = (0..1_001).map(|n| format!("[kinds.k{n}]\ncommand = ['/bin/sh']\n")).collect();
    assert_eq!(
        Desk::new(&kinds).faults(),
        "jobmill.toml:1:2: kinds: there are 1001 of them, the limit is 1000; declare fewer"
    );
}

#[test]
fn the_example_has_every_key_and_is_valid() {
    let example =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/jobmill.example.toml")).unwrap();
    // The example needs no other files as it stands.
    Desk::new(&example).load();
    // The other settings are commented out by a `#` without a space.
    let hidden = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let lines =
        example.lines().map(|line| line.strip_prefix('#').filter(|rest| hidden(rest)).unwrap_or(line));
    let desk = Desk::new(&lines.collect::<Vec<_>>().join("\n"));
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (name, text) in [
        ("server.pem", certified.cert.pem()),
        ("server.key", certified.signing_key.serialize_pem()),
        ("clients.pem", certified.cert.pem()),
        ("tokens.toml", String::new()),
        ("ca.pem", endpoints::authority()),
        ("holidays.txt", "2026-05-25 # Whit Monday\n".to_owned()),
    ] {
        fs::write(desk.path(name), text).unwrap();
    }
    let loaded = desk.load();
    let in_file = loaded.entries.iter().filter(|entry| matches!(entry.place, SettingSource::File { .. }));
    let present: BTreeSet<String> = in_file.map(|entry| general(&entry.key)).collect();
    assert_eq!(present, keys().collect());
}

#[test]
fn the_documentation_has_every_key_with_its_default() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let cells: Vec<_> = row.split(" | ").collect();
        let [key, _what, default, _limits] = cells[..] else { return None };
        Some((key.trim_end_matches('`').to_owned(), default.replace('`', "")))
    });
    let documented: Vec<(String, String)> = rows.collect();
    let documented_keys: BTreeSet<_> = documented.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(documented_keys, keys().collect());

    let loaded = Desk::new(
        "[queues.a]\n[kinds.a]\ncommand = ['sh']\n[kinds.b]\nurl = 'https://example.org'\n[kinds.c]\nworker = true\n\
         [[limit]]\nname = 'a'\ncount = 1\nper = '1s'\n\
         [[calendar]]\nname = 'a'\n[[schedule]]\nname = 'a'\nkind = 'a'\ncron = '@daily'\nretry = {}",
    )
    .load();
    for (key, default) in documented {
        let actual = loaded.entries.iter().find(|entry| general(&entry.key) == key).unwrap();
        let expected = match &*default {
            "required" => continue,
            "\"\"" => String::new(),
            "one a core" => jobmill::settings::QueueSettings::default().consumers.to_string(),
            "the server's own" | "as the server's" | "the public ones" | "none" => "null".to_owned(),
            default => default.replace("~/", "/home/ada/"),
        };
        let actual = actual.value.as_str().map_or_else(|| actual.value.to_string(), str::to_owned);
        assert_eq!(actual, expected, "{key}");
    }
}

/// Returns a key's path with `NAME` in place of the name that the operator chose.
fn general(key: &str) -> String {
    if let Some((list @ ("limit" | "calendar" | "schedule"), rest)) = key.split_once('[') {
        return format!("{list}{}", rest.split_once(']').unwrap().1);
    }
    let Some((parent @ ("queues" | "kinds"), rest)) = key.split_once('.') else {
        return key.to_owned();
    };
    let name_end =
        rest.strip_prefix('"').map_or_else(|| rest.find('.'), |rest| rest.find('"').map(|at| at + 2));
    format!("{parent}.NAME{}", &rest[name_end.unwrap()..])
}

#[test]
fn defaults_are_those_of_another_rust_program() {
    let Settings { listen, drain_timeout, queues, kinds, .. } = Settings::new(StoreSettings::Memory);
    let loaded = Desk::new("").load().settings;
    assert_eq!((loaded.listen, loaded.drain_timeout, loaded.queues), (listen, drain_timeout, queues));
    assert!(kinds.is_empty() && loaded.kinds.is_empty());
}

#[test]
fn the_systemd_unit_waits_for_the_drain_and_leaves_commands_to_the_server() {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/jobmill.service")).unwrap();
    let setting = |name: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let timeout: u64 = setting("TimeoutStopSec").strip_suffix('s').unwrap().parse().unwrap();
    let drain = Settings::new(StoreSettings::Memory).drain_timeout;
    assert!(Duration::from_secs(timeout) >= drain + Duration::from_secs(10));
    assert_eq!(setting("KillMode"), "mixed");
    assert_eq!(setting("RestartPreventExitStatus"), "2");
}

/// Runs the program with `HOME` as its only environment variable.
fn jobmill(desk: &Desk, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(arguments)
        .current_dir(desk.dir.path())
        .env_clear()
        .env("HOME", desk.dir.path())
        .env("PATH", "/bin:/usr/bin")
        .output()
        .unwrap()
}

#[test]
fn check_config_shows_each_setting_with_where_it_comes_from() {
    let desk = Desk::new(
        "[queues.default]\nconsumers = 2\n[kinds.\"a.b\"]\ncommand = [\"/bin/sh\", \"a b\"]\nenv.TOKEN = \"s3cret\"",
    );
    let output = jobmill(&desk, &["check-config", "--config", "jobmill.toml", "--memory"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    let folder = fs::canonicalize(desk.dir.path()).unwrap();
    let text = text.replace(&format!("{}/", folder.display()), "");
    insta::assert_snapshot!(text, @r#"
    KEY                                    VALUE               FROM
    listen                                 127.0.0.1:7733      default
    hosts                                  []                  default
    insecure                               false               default
    data_dir                               -                   default
    memory                                 true                flag --memory
    drain_timeout                          30s                 default
    metrics.listen                         off                 default
    traces.endpoint                        off                 default
    traces.sample_ratio                    1.0                 default
    log.filter                             info                default
    log.format                             text                default
    tls.certificate                        -                   default
    tls.key                                -                   default
    tls.client_ca                          -                   default
    tls.client_auth                        required            default
    auth.tokens                            -                   default
    audit.file                             -                   default
    grpc_web.origins                       []                  default
    limits.connections                     10000               default
    limits.handshakes                      1000                default
    limits.handshake_timeout               10s                 default
    limits.streams_per_connection          1024                default
    limits.header_bytes                    16KiB               default
    limits.keepalive_interval              30s                 default
    limits.keepalive_timeout               20s                 default
    workers.lease                          30s                 default
    workers.receive_within                 10s                 default
    workers.stop_grace                     30s                 default
    workers.ping_every                     10s                 default
    disk.ballast                           16MiB               default
    disk.min_free                          64MiB               default
    retention.succeeded                    1day                default
    retention.failed                       14days              default
    retention.cancelled                    1day                default
    retention.expired                      1day                default
    queues.default.max_jobs                100000              default
    queues.default.max_bytes               1GiB                default
    queues.default.consumers               2                   jobmill.toml:2:13
    queues.default.when_full               wait                default
    queues.default.max_wait                30s                 default
    queues.default.max_waiters             1000                default
    queues.default.accept_unknown_kinds    false               default
    queues.default.fair_by                 -                   default
    queues.default.retention.succeeded     -                   default
    queues.default.retention.failed        -                   default
    queues.default.retention.cancelled     -                   default
    queues.default.retention.expired       -                   default
    kinds."a.b".command                    ["/bin/sh", "a b"]  jobmill.toml:4:11
    kinds."a.b".env                        ["TOKEN"]           jobmill.toml:5:1
    kinds."a.b".permanent_exit_codes       []                  default
    kinds."a.b".snooze_exit_codes          []                  default
    kinds."a.b".env_allow                  []                  default
    kinds."a.b".working_dir                -                   default
    kinds."a.b".kill_grace                 10s                 default
    kinds."a.b".snooze_delay               1m                  default
    kinds."a.b".snooze_pauses              -                   default
    kinds."a.b".max_attempts               5                   default
    kinds."a.b".attempt_timeout            15m                 default
    kinds."a.b".deadline                   -                   default
    kinds."a.b".max_snoozes                1000                default
    kinds."a.b".max_process_losses         3                   default
    kinds."a.b".retry.delays               []                  default
    kinds."a.b".retry.initial_delay        1s                  default
    kinds."a.b".retry.max_delay            1h                  default
    kinds."a.b".retry.multiplier           2.0                 default
    kinds."a.b".retry.jitter               0.2                 default
    kinds."a.b".bounds.max_attempts        -                   default
    kinds."a.b".bounds.attempt_timeout     -                   default
    kinds."a.b".bounds.max_delay           -                   default
    kinds."a.b".bounds.max_snoozes         -                   default
    kinds."a.b".bounds.max_process_losses  -                   default

    The configuration is valid. File: jobmill.toml
    "#);
}

#[test]
fn check_config_answers_scripts_in_json() {
    let desk = Desk::new("drain_timeout = '1s'\n[kinds.a]\ncommand = ['/bin/sh']\nenv.TOKEN = 's3cret'");
    let output = jobmill(&desk, &["check-config", "--config", "jobmill.toml", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("s3cret"));
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["valid"], true);
    let drain =
        answer["settings"].as_array().unwrap().iter().find(|row| row["key"] == "drain_timeout").unwrap();
    assert_eq!((&drain["value"], &drain["from"]["line"]), (&"1s".into(), &1.into()));

    let output = jobmill(&desk, &["check-config", "--listen", "0.0.0.0:1", "--output", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["valid"], &answer["faults"][0]["key"]), (&false.into(), &"listen".into()));
    assert_eq!(answer["faults"][0]["from"]["flag"], "--listen");
}

#[test]
fn a_server_with_a_faulty_configuration_does_not_start() {
    let desk = Desk::new("data_dir = 'jobs'\ndrain_timeot = '1s'");
    let output = jobmill(&desk, &["serve", "--config", "jobmill.toml", "--port-file", "port"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("jobmill.toml:2:1: drain_timeot: unknown key; did you mean `drain_timeout`?\n"),
        "{text}"
    );
    assert!(text.ends_with("jobmill: not started: 1 fault in the configuration\n"), "{text}");
    assert!(!desk.path("jobs").exists() && !desk.path("port").exists());
}
