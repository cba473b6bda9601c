//! Every kind of configuration fault, with its exact message.

use std::fs;

use super::Desk;

/// Asserts that `file` has exactly these faults: one a line, without the file's name.
pub(super) fn refuses(file: &str, expected: &[&str]) {
    let faults = Desk::new(file).faults();
    let faults: Vec<_> =
        faults.lines().map(|line| line.strip_prefix("jobmill.toml:").expect("in the file")).collect();

    assert_eq!(faults, expected, "{file}");
}

#[test]
fn keys() {
    refuses("drain-timeout = '1s'", &["1:1: drain-timeout: unknown key; did you mean `drain_timeout`?"]);
    refuses(
        "port = 1",
        &[
            "1:1: port: unknown key; known here: listen, hosts, insecure, data_dir, memory, drain_timeout, metrics, traces, log, tls, auth, audit, grpc_web, limits, workers, disk, retention, queues, kinds, limit, calendar, schedule",
        ],
    );
    refuses("[queue.mail]", &["1:2: queue: unknown key; did you mean `queues`?"]);
    refuses("log.fliter = 'info'", &["1:5: log.fliter: unknown key; did you mean `filter`?"]);
    refuses(
        "[kinds.a]\ncommand = ['sh']\nretry = { jiter = 0 }",
        &["3:11: kinds.a.retry.jiter: unknown key; did you mean `jitter`?"],
    );
    refuses(
        "[kinds.mail.send]\ncommand = ['sh']",
        &["1:13: kinds.mail.send: unknown key; a name with a dot needs quotes: write [kinds.\"mail.send\"]"],
    );
    refuses(
        "\"a\\u001b[31m\" = 1",
        &[
            r#"1:1: "a\u{1b}[31m": unknown key; known here: listen, hosts, insecure, data_dir, memory, drain_timeout, metrics, traces, log, tls, auth, audit, grpc_web, limits, workers, disk, retention, queues, kinds, limit, calendar, schedule"#,
        ],
    );
}

#[test]
fn types() {
    refuses(
        "drain_timeout = 30",
        &[r#"1:17: drain_timeout: 30 is a number; write a duration from 0s to 1h, such as "30s""#],
    );
    refuses("memory = 'yes'", &[r#"1:10: memory: "yes" is text; write true or false"#]);
    refuses("memory = 1", &["1:10: memory: 1 is a number; write true or false"]);
    refuses(
        "data_dir = 2026-01-01",
        &["1:12: data_dir: 2026-01-01 is a date or time; write the path of a folder"],
    );
    refuses("data_dir = ['a']", &["1:12: data_dir: this is a list; write the path of a folder"]);
    refuses("data_dir = {}", &["1:12: data_dir: this is a table; write the path of a folder"]);
    refuses("log = 'info'", &["1:7: log: this is not a table; write [log]"]);
    refuses("queues = 3", &["1:10: queues: this is not a table; write [queues]"]);
    refuses("queues.mail = 3", &["1:15: queues.mail: this is not a table; write [queues.mail]"]);
    refuses(
        "[queues.a]\nconsumers = 'many'",
        &[r#"2:13: queues.a.consumers: "many" is text; write a whole number from 0 to 10000"#],
    );
    refuses(
        "[queues.a]\nconsumers = 1.5",
        &["2:13: queues.a.consumers: 1.5 is a number; write a whole number from 0 to 10000"],
    );
    refuses(
        "[kinds.a]\ncommand = 'sh'",
        &[
            r#"2:11: kinds.a.command: this is not a list; write one in brackets, such as ["a", "b"] or [1, 2]"#,
        ],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh', 5]",
        &["2:18: kinds.a.command[1]: 5 is a number; write each element as text in quotes"],
    );
}

#[test]
fn durations_sizes_and_numbers() {
    refuses(
        "drain_timeout = 'soon'",
        &[r#"1:17: drain_timeout: "soon" is not a duration; write a duration from 0s to 1h, such as "30s""#],
    );
    refuses(
        "drain_timeout = '2h'",
        &[
            r#"1:17: drain_timeout: "2h" is over the limit of 1h; write a duration from 0s to 1h, such as "30s""#,
        ],
    );
    refuses(
        "[queues.a]\nmax_bytes = '1GB'",
        &[
            r#"2:13: queues.a.max_bytes: "1GB" is not a size; write a size from 1MiB to 1TiB, such as "64MiB" or a number of bytes"#,
        ],
    );
    refuses(
        "[queues.a]\nmax_bytes = 0xFF",
        &[
            r#"2:13: queues.a.max_bytes: 0xFF is under the minimum of 1MiB; write a size from 1MiB to 1TiB, such as "64MiB" or a number of bytes"#,
        ],
    );
    refuses(
        "[queues.a]\nmax_jobs = -99999999999999999999999999999999999999999",
        &[
            "2:12: queues.a.max_jobs: -99999999999999999999999999999999999999999 is under the minimum of 1; write a whole number from 1 to 1000000000",
        ],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\nretry.jitter = nan\nretry.multiplier = 0",
        &[
            "3:16: kinds.a.retry.jitter: nan is not a number; write a number from 0 to 1",
            "4:20: kinds.a.retry.multiplier: 0 is under the minimum of 1; write a number from 1 to 100",
        ],
    );
}

#[test]
fn invalid_choices_and_filters() {
    refuses(
        "[queues.a]\nwhen_full = 'drop'",
        &[r#"2:13: queues.a.when_full: "drop" is none of the choices; write "wait" or "reject""#],
    );
    refuses(
        "[queues.a]\nfair_by = 'the tenant'",
        &[
            r#"2:11: queues.a.fair_by: "the tenant" is no name of a label: write 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`"#,
        ],
    );
    refuses(
        "[log]\nformat = 'xml'\nfilter = 'debgu'",
        &[
            r#"2:10: log.format: "xml" is none of the choices; write "text" or "json""#,
            r#"3:10: log.filter: "debgu" is not a level, unlike "debug"; write a level (off, error, warn, info, debug, trace) or a list such as "info,jobmill=debug""#,
        ],
    );
    refuses(
        "log.filter = 'jobmill=loud'",
        &[
            r#"1:14: log.filter: "jobmill=loud" is not a filter; write a level (off, error, warn, info, debug, trace) or a list such as "info,jobmill=debug""#,
        ],
    );
}

#[test]
fn names() {
    const QUEUE: &str =
        "a queue's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit";
    const KIND: &str = "a kind's name is 1 to 128 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`, `:`, starting with a letter or digit";
    refuses(
        "[queues.\"mail box\"]",
        &[&format!("1:9: queues.\"mail box\": the name has ' ' at position 5; {QUEUE}")],
    );
    refuses("[queues.\"\"]", &[&format!("1:9: queues.\"\": the name is empty; {QUEUE}")]);
    refuses(
        "[kinds.\"/a\"]\ncommand = ['sh']",
        &[&format!("1:8: kinds.\"/a\": the name starts with '/'; {KIND}")],
    );
}

#[test]
fn addresses() {
    for address in ["0.0.0.0:7733", "[::]:7733", "192.0.2.1:7733"] {
        refuses(
            &format!("listen = '{address}'"),
            &[&format!(
                "1:10: listen: \"{address}\" is not a loopback address, and anyone who reaches it could run this \
                 server's commands; set TLS and tokens (tls.certificate, tls.key and auth.tokens), or listen on \
                 \"127.0.0.1:7733\", or say insecure = true or --insecure if the network can be trusted"
            )],
        );
    }
    Desk::new("listen = '[::ffff:127.0.0.1]:1'").load();
    let insecure = Desk::new("listen = '0.0.0.0:1'\ninsecure = true").load().settings;
    assert!(insecure.insecure && !insecure.is_exposed());
    Desk::new("listen = '0.0.0.0:1'").with_flags(|flags| flags.insecure = true).load();
    Desk::new("listen = '0.0.0.0:1'").with_variable("JOBMILL_INSECURE", "true").load();
    for text in ["localhost:7733", "127.0.0.1", "7733", ""] {
        refuses(
            &format!("listen = '{text}'"),
            &[&format!(
                "1:10: listen: \"{text}\" is not an address; write an address and a port, such as \"127.0.0.1:7733\" or \
                 \"[::1]:7733\""
            )],
        );
    }
    refuses(
        "metrics.listen = 'no'",
        &[
            r#"1:18: metrics.listen: "no" is not an address; write an address and a port, such as "127.0.0.1:9773" or "[::1]:9773""#,
        ],
    );
    refuses(
        "metrics.listen = false",
        &[
            r#"1:18: metrics.listen: false is a truth value; write an address and a port, such as "127.0.0.1:9773" or "[::1]:9773", or "off""#,
        ],
    );
    let twice = Desk::new("listen = '127.0.0.1:9773'\nmetrics.listen = '127.0.0.1:9773'").faults();
    assert!(
        twice.contains(r#"2:18: metrics.listen: "127.0.0.1:9773" is the address of `listen` too; write"#),
        "{twice}"
    );
    let open = Desk::new("metrics.listen = '0.0.0.0:9773'").faults();
    assert!(open.contains("metrics.listen: \"0.0.0.0:9773\" is not a loopback address"), "{open}");
}

#[test]
fn collectors_of_traces() {
    const URL: &str = r#"write a URL with a host and a port, such as "http://127.0.0.1:4317""#;
    for (text, what) in [
        ("127.0.0.1:4317", "the URL does not start with http:// or https:// and a host"),
        ("ftp://collector:21", "the URL does not start with http:// or https:// and a host"),
        ("http://", "this is not a URL"),
        (
            "http://me:s3cret@collector:4317",
            "the URL has a user or a password; headers go into OTEL_EXPORTER_OTLP_HEADERS",
        ),
    ] {
        refuses(&format!("traces.endpoint = '{text}'"), &[&format!("1:19: traces.endpoint: {what}; {URL}")]);
    }
    refuses(
        "traces.sample_ratio = 1.5",
        &["1:23: traces.sample_ratio: 1.5 is over the limit of 1; write a number from 0 to 1"],
    );
}

#[test]
fn collectors_that_others_know_of_are_known_here_too() {
    let endpoint = |desk: &Desk| desk.load().settings.traces.endpoint;
    let desk = Desk::new("").with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://common:4317");
    assert_eq!(endpoint(&desk).as_deref(), Some("http://common:4317"));
    let desk = desk.with_variable("JOBMILL_TRACES_ENDPOINT", "http://own:4317");
    assert_eq!(endpoint(&desk).as_deref(), Some("http://own:4317"));
    let desk = desk.with_flags(|flags| flags.traces_endpoint = Some("off".into()));
    assert_eq!(endpoint(&desk), None);
}

#[test]
fn metrics_can_be_switched_off_by_the_source_that_takes_precedence() {
    let desk = Desk::new("metrics.listen = '127.0.0.1:9773'");
    assert!(desk.load().settings.metrics_listen.is_some());
    let desk = desk.with_variable("JOBMILL_METRICS_LISTEN", "[::1]:1");
    assert_eq!(desk.load().settings.metrics_listen, Some("[::1]:1".parse().unwrap()));
    let desk = desk.with_flags(|flags| flags.metrics_listen = Some("off".into()));
    assert_eq!(desk.load().settings.metrics_listen, None);
}

#[test]
fn beyond_loopback_both_tls_and_tokens_are_needed() {
    let desk = |file: &str| {
        let desk = Desk::new(file);
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(desk.path("server.pem"), certified.cert.pem()).unwrap();
        fs::write(desk.path("server.key"), certified.signing_key.serialize_pem()).unwrap();
        fs::write(desk.path("tokens.toml"), "").unwrap();
        desk
    };
    const TLS: &str = "listen = '0.0.0.0:1'\ntls = { certificate = 'server.pem', key = 'server.key' }\n";
    const TOKENS: &str = "auth.tokens = 'tokens.toml'\n";
    desk(&format!("{TLS}{TOKENS}")).load();
    for (file, lacks) in [
        (TLS.to_owned(), "set tokens (auth.tokens), or listen"),
        (format!("listen = '0.0.0.0:1'\n{TOKENS}"), "set TLS (tls.certificate and tls.key), or listen"),
    ] {
        let faults = desk(&file).faults();
        assert!(faults.contains(lacks) && faults.lines().count() == 1, "{faults}");
    }
}

#[test]
fn certificates_are_read_before_anything_starts() {
    refuses(
        "[tls]\ncertificate = 'server.pem'",
        &[
            "2:1: tls.certificate: there is no `key`; write key = \"PATH\", the private key of the certificate",
        ],
    );
    refuses(
        "[tls]\nclient_auth = 'optional'",
        &[
            "2:1: tls.client_auth: there is no `client_ca`; write client_ca = \"PATH\", where clients' certificates come from",
        ],
    );
    let desk = Desk::new("[tls]\ncertificate = 'a.pem'\nkey = 'b.key'\nclient_ca = 'c.pem'");
    let [a, b] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    let text = desk.faults();
    assert_eq!(text.matches("can't be read: No such file or directory").count(), 3, "{text}");
    fs::write(desk.path("a.pem"), a.cert.pem()).unwrap();
    fs::write(desk.path("b.key"), b.signing_key.serialize_pem()).unwrap();
    fs::write(desk.path("c.pem"), "").unwrap();
    assert_eq!(
        desk.faults(),
        "jobmill.toml:4:13: tls.client_ca: \"c.pem\" has no certificate: it must have a block BEGIN CERTIFICATE"
    );
    fs::write(desk.path("c.pem"), b.cert.pem()).unwrap();
    assert_eq!(
        desk.faults(),
        "jobmill.toml:3:7: tls.key: \"b.key\" is not the key of the certificate in \"a.pem\""
    );
    fs::write(desk.path("b.key"), a.cert.pem()).unwrap();
    let text = desk.faults();
    assert!(text.contains("has no private key"), "{text}");
    fs::write(desk.path("b.key"), a.signing_key.serialize_pem()).unwrap();
    desk.load();
}

#[test]
fn every_fault_of_the_file_of_tokens_is_told_with_its_place() {
    let desk = Desk::new("auth.tokens = 'tokens.toml'");
    assert!(desk.faults().starts_with("jobmill.toml:1:15: auth.tokens: "), "{}", desk.faults());
    let hash = "ab".repeat(32);
    let tokens = format!(
        "[tokens.a]\nhash = 'sha256:{hash}'\nroles = ['reed']\nqueues = ['Mail']\nexpires = 'soon'\n\
         [tokens.b]\nhash = 's3cret'\nrole = []\n\
         [tokens.c]\nhash = 'sha256:{hash}'\nroles = []\nqueues = ['*']\nexpires = 2030-01-01"
    );
    fs::write(desk.path("tokens.toml"), tokens).unwrap();
    let faults = desk.faults();
    assert!(!faults.contains("s3cret"));
    insta::assert_snapshot!(faults, @r#"
    tokens.toml:3:10: tokens.a.roles[0]: "reed" is not a role; write one of "submit", "read", "cancel", "work", "admin"
    tokens.toml:4:11: tokens.a.queues[0]: "Mail" is not a pattern for queues: write 1 to 63 of a-z, 0-9, `-`, `_`, `.`, and `*` for any characters, such as "mail*"
    tokens.toml:5:11: tokens.a.expires: "soon" is not an instant; write an instant with its offset, such as 2030-01-31T12:00:00Z
    tokens.toml:6:9: tokens.b: the token has no `queues`; write queues = ["*"] for all
    tokens.toml:6:9: tokens.b: the token has no `roles`; write roles = ["read"], or more of them
    tokens.toml:7:8: tokens.b.hash: this is not the hash of a token; write "sha256:" and 64 hexadecimal digits
    tokens.toml:8:1: tokens.b.role: unknown key; did you mean `roles`?
    tokens.toml:9:9: tokens.c: the token is that of "a" too; give each name a token of its own
    tokens.toml:13:11: tokens.c.expires: "2030-01-01" is not an instant; write an instant with its offset, such as 2030-01-31T12:00:00Z
    "#);
}

#[test]
fn hosts_origins_and_the_audit() {
    refuses(
        "hosts = ['a.example', 'b:1']",
        &[
            r#"1:23: hosts[1]: "b:1" is not the name of a host; write the name of a host without a port, such as "jobs.internal""#,
        ],
    );
    for origin in ["*", "app.example", "https://app.example/", "ftp://a", "https://a:0", "https://A.example"]
    {
        let faults = Desk::new(&format!("grpc_web.origins = ['{origin}']")).faults();
        assert!(faults.contains("is not an origin; write scheme and host of a page"), "{faults}");
    }
    Desk::new("grpc_web.origins = ['https://app.example', 'http://localhost:3000']").load();
    let faults = Desk::new("audit.file = 'absent/audit'").faults();
    assert!(faults.contains("is not in a folder that exists"), "{faults}");
}

#[test]
fn folders_and_stores() {
    refuses("data_dir = ''", &["1:12: data_dir: the path is empty; write the path of a folder"]);
    refuses(
        "data_dir = '~/jobs'",
        &[r#"1:12: data_dir: "~/jobs" starts with `~`, which means nothing here; write the whole path"#],
    );
    refuses(
        "memory = true\ndata_dir = '/jobs'",
        &["1:10: memory: `data_dir` is given as well; keep one of the two"],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\nworking_dir = 'nowhere'",
        &[r#"3:15: kinds.a.working_dir: "nowhere" does not exist; make the folder or correct the path"#],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\nworking_dir = 'jobmill.toml'",
        &[
            r#"3:15: kinds.a.working_dir: "jobmill.toml" is not a folder; make the folder or correct the path"#,
        ],
    );
}

#[test]
fn commands() {
    refuses(
        "[kinds.a]",
        &[
            r#"1:8: kinds.a: the kind has no handler; add command = ["/path/to/program", "argument"] or url = "https://example.org/jobs", or worker = true if remote workers run it"#,
        ],
    );
    refuses(
        "[kinds.a]\ncommand = []",
        &[r#"2:11: kinds.a.command: the list is empty; write ["/path/to/program", "argument"]"#],
    );
    for (program, problem) in [
        ("no-such-program", "was not found on PATH; install it, or write its absolute path"),
        ("/no/such/program", "does not exist; install it or correct the path"),
        ("bin/program", "is a relative path; write the absolute one, or a bare name that is on PATH"),
        ("/tmp", "is not a file; write the path of a program"),
    ] {
        refuses(
            &format!("[kinds.a]\ncommand = ['{program}']"),
            &[&format!("2:12: kinds.a.command[0]: \"{program}\" {problem}")],
        );
    }
    refuses(
        "[kinds.a]\ncommand = ['sh', \"a\\u0000b\"]",
        &[
            "2:18: kinds.a.command[1]: the element has a NUL character, which no argument can have; leave it out",
        ],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\npermanent_exit_codes = [65, 0]",
        &[
            "3:29: kinds.a.permanent_exit_codes[1]: 0 is under the minimum of 1; write a whole number from 1 to 255",
        ],
    );
}

#[test]
fn kinds_of_remote_workers() {
    refuses("[kinds.a]\nworker = false", &["2:1: kinds.a.worker: false says nothing; leave the key out"]);
    refuses(
        "[kinds.a]\nworker = true\ncommand = ['sh']\nurl = 'https://example.org'",
        &[
            "3:1: kinds.a.command: this is for kinds with a handler here, and only workers run this one; leave one of them out",
            "4:1: kinds.a.url: this is for kinds with a handler here, and only workers run this one; leave one of them out",
        ],
    );
    refuses(
        "[workers]\nlease = '50ms'\nleases = '30s'",
        &[
            r#"2:9: workers.lease: "50ms" is under the minimum of 100ms; write a duration from 100ms to 1h, such as "30s""#,
            "3:1: workers.leases: unknown key; did you mean `lease`?",
        ],
    );
}

#[test]
fn variables_without_showing_what_may_be_secret() {
    const WANTED: &str = r#"write the name of a variable, such as "API_TOKEN""#;
    refuses(
        "[kinds.a]\ncommand = ['sh']\nenv = { A = 4711, \"B=\" = 's3cret', JOBMILL_X = 's3cret', C = \"s\\u0000\" }",
        &[
            "3:13: kinds.a.env.A: the value is not text; put it in quotes",
            &format!("3:19: kinds.a.env.\"B=\": the name has '='; {WANTED}"),
            &format!(
                "3:36: kinds.a.env.JOBMILL_X: names that start with JOBMILL_ are Jobmill's own; {WANTED}"
            ),
            "3:62: kinds.a.env.C: the value has a NUL character, which no variable can have",
        ],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\nenv_allow = ['', 'A=s3cret']",
        &[
            &format!("3:14: kinds.a.env_allow[0]: the name is empty; {WANTED}"),
            &format!("3:18: kinds.a.env_allow[1]: the name has '='; {WANTED}"),
        ],
    );
    refuses(
        "[kinds.a]\ncommand = ['sh']\nenv = 'TOKEN=s3cret'",
        &["3:7: kinds.a.env: this is not a table; write [kinds.a.env]"],
    );
    refuses(
        "[kinds.a]\nenv.TOKEN = \"s3cret\nenv.B = 's3cret",
        &[
            "2:20: not valid TOML: invalid basic string, expected `\"`",
            "3:16: not valid TOML: invalid literal string, expected `'`",
        ],
    );
}

#[test]
fn syntax() {
    refuses(
        "drain_timeout = 30s",
        &["1:17: not valid TOML: string values must be quoted, expected literal string"],
    );
    refuses("memory = true\nmemory = false", &["2:1: memory: not valid TOML: duplicate key"]);
    refuses("[queues.a", &["1:10: not valid TOML: unclosed table, expected `]`"]);
}

#[test]
fn all_at_once_in_the_order_of_the_file_then_variables_and_flags() {
    let desk = Desk::new("memroy = true\nlisten = 1\n[queues.b]\nconsumers = -1\n[queues.a]\nmax_jobs = 0")
        .with_variable("JOBMILL_LISTEN", "here")
        .with_variable("JOBMILL_MEMORY", "1")
        .with_flags(|flags| flags.log_format = Some("xml".into()));
    insta::assert_snapshot!(desk.faults(), @r#"
    jobmill.toml:1:1: memroy: unknown key; did you mean `memory`?
    jobmill.toml:2:10: listen: 1 is a number; write an address and a port, such as "127.0.0.1:7733" or "[::1]:7733"
    jobmill.toml:4:13: queues.b.consumers: -1 is under the minimum of 0; write a whole number from 0 to 10000
    jobmill.toml:6:12: queues.a.max_jobs: 0 is under the minimum of 1; write a whole number from 1 to 1000000000
    environment JOBMILL_LISTEN: listen: "here" is not an address; write an address and a port, such as "127.0.0.1:7733" or "[::1]:7733"
    environment JOBMILL_MEMORY: memory: "1" is not a truth value; write true or false
    flag --log-format: log.format: "xml" is none of the choices; write "text" or "json"
    "#);
}

#[test]
fn files_that_cannot_be_read() {
    let desk = Desk::new("");
    fs::write(desk.path("latin1.toml"), b"a = 1\nb = '\xe9'").unwrap();
    let desk = desk.with_flags(|flags| flags.config = Some("latin1.toml".into()));
    assert_eq!(desk.faults(), "latin1.toml:2:6: the file is not UTF-8 from here on; save it as UTF-8");

    let desk = desk.with_flags(|flags| flags.config = Some("missing.toml".into()));
    assert_eq!(
        desk.faults(),
        "flag --config: config: \"missing.toml\" can't be read: No such file or directory (os error 2); name a file \
         that this user may read"
    );
    let desk = desk.with_flags(|flags| flags.config = None).with_variable("JOBMILL_CONFIG", "/dev/zero");
    assert_eq!(
        desk.faults(),
        "environment JOBMILL_CONFIG: config: \"/dev/zero\" is over the limit of 16777216 bytes; name a smaller file"
    );
}

#[test]
fn no_home_and_no_data_folder() {
    let desk = Desk::new("").with_variable("HOME", "");
    assert_eq!(
        desk.faults(),
        "default: data_dir: there is no default without HOME; write the path of a folder, or memory = true"
    );
}

#[test]
fn invalid_times_of_retention() {
    let desk = Desk::new(
        "[retention]\nsucceeded = 'never'\nfailed = '3653days'\ncancelled = 5\nexpird = '1h'\n\
         [queues.a]\nretention = { failed = 'always' }\n[queues.b]\nretention = '1h'",
    );
    insta::assert_snapshot!(desk.faults(), @r#"
    jobmill.toml:2:13: retention.succeeded: "never" is not a duration; write a duration from 0s to 10years, such as "30s", or "forever"
    jobmill.toml:3:10: retention.failed: "3653days" is over the limit of 10years; write a duration from 0s to 10years, such as "30s", or "forever"
    jobmill.toml:4:13: retention.cancelled: 5 is a number; write a duration from 0s to 10years, such as "30s", or "forever"
    jobmill.toml:5:1: retention.expird: unknown key; did you mean `expired`?
    jobmill.toml:7:24: queues.a.retention.failed: "always" is not a duration; write a duration from 0s to 10years, such as "30s", or "forever"
    jobmill.toml:9:13: queues.b.retention: this is not a table; write [queues.b.retention]
    "#);
    let queues = (0..31).map(|n| format!("[queues.q{n}]\nretention.failed = '{n}s'\n")).collect::<String>();
    assert_eq!(
        Desk::new(&queues).faults(),
        "jobmill.toml:1:2: queues: all queues together keep ended jobs for 33 different times, the limit is 32; use fewer"
    );
}
