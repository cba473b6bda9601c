//! Kinds that are mapped to a URL.

use std::{fs, time::Duration};

use jobmill::settings::{HandlerSettings, HttpSettings};

use super::{Desk, entry};

/// A signing secret: 32 bytes in base64.
const SECRET: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn endpoint(desk: &Desk, kind: &str) -> HttpSettings {
    match desk.load().settings.kinds[kind].handler.clone() {
        HandlerSettings::Http(settings) => *settings,
        HandlerSettings::Command(command) => panic!("{command:?}"),
        HandlerSettings::Workers => panic!("no handler"),
    }
}

/// Returns a certificate of an authority, in PEM.
pub(super) fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["ca".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

#[test]
fn every_setting_arrives() {
    let desk = Desk::new(
        r#"
        [kinds.call]
        url = "https://example.org:8443/jobs?token=s3cret"
        headers = { Authorization = "Bearer s3cret", "X-Team" = "mail" }
        signing_secret_files = ["new.secret", "old.secret"]
        signing_secret_env = ["CALL_SECRET"]
        allow_private = true
        allow_networks = ["169.254.0.0/16", "fe80::1"]
        ca_file = "ca.pem"
        connect_timeout = "3s"
        max_connections = 7
        connection_wait = "5s"
        idle_timeout = "0s"
        callback_url = "https://jobs.example.org/hooks"
        max_attempts = 2
        "#,
    )
    .with_variable("CALL_SECRET", SECRET);
    fs::write(desk.path("new.secret"), format!("{SECRET}\n")).unwrap();
    fs::write(desk.path("old.secret"), SECRET.trim_start_matches("whsec_")).unwrap();
    fs::write(desk.path("ca.pem"), authority() + &authority()).unwrap();
    let loaded = desk.load();
    assert_eq!(loaded.settings.kinds["call"].defaults.max_attempts, 2);
    let settings = endpoint(&desk, "call");
    assert_eq!(settings.url.to_string(), "https://example.org:8443/jobs?…");
    assert_eq!(settings.headers["authorization"], "Bearer s3cret");
    assert_eq!(settings.headers["x-team"], "mail");
    assert_eq!(settings.signing_secrets, vec![SECRET.parse().unwrap(); 3]);
    assert!(settings.targets.allow_private);
    let networks: Vec<_> = settings.targets.allow_networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["169.254.0.0/16", "fe80::1/128"]);
    assert!(settings.authorities.is_some());
    assert_eq!((settings.connect_timeout, settings.max_connections), (Duration::from_secs(3), 7));
    assert_eq!((settings.connection_wait, settings.idle_timeout), (Duration::from_secs(5), Duration::ZERO));

    assert_eq!(settings.callback_url.unwrap().to_string(), "https://jobs.example.org/hooks");

    let shown = format!("{loaded:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("AQEBAQ"), "{shown}");
    assert_eq!(entry(&loaded, "kinds.call.headers").value, serde_json::json!(["authorization", "x-team"]));
    assert_eq!(entry(&loaded, "kinds.call.signing_secret_env").value, serde_json::json!(["CALL_SECRET"]));
    assert!(!loaded.entries.iter().any(|entry| entry.key.starts_with("kinds.call.command")));
}

#[test]
fn defaults_are_those_of_another_rust_program() {
    let desk = Desk::new("[kinds.call]\nurl = 'https://example.org'");
    let (loaded, own) = (endpoint(&desk, "call"), HttpSettings::new("https://example.org".parse().unwrap()));
    assert_eq!(format!("{loaded:?}"), format!("{own:?}"));
}

/// Asserts that a kind with these lines has exactly these faults, which are counted from its second line.
fn refuses(lines: &str, expected: &[&str]) {
    let faults = Desk::new(&format!("[kinds.a]\n{lines}")).with_variable("SHORT", "c2hvcnQ=").faults();
    let faults: Vec<_> =
        faults.lines().map(|line| line.strip_prefix("jobmill.toml:").expect("in the file")).collect();
    assert_eq!(faults, expected, "{lines}");
}

#[test]
fn a_kind_is_a_command_or_an_endpoint() {
    refuses(
        "url = 'https://example.org'\ncommand = ['sh']\nkill_grace = '1s'",
        &[
            "3:1: kinds.a.command: this is for kinds that run a `command`, and this one has a `url`; leave one of \
             them out",
            "4:1: kinds.a.kill_grace: this is for kinds that run a `command`, and this one has a `url`; leave one of \
             them out",
        ],
    );
    refuses(
        "command = ['sh']\nallow_private = true",
        &[
            "3:1: kinds.a.allow_private: this is for kinds that have a `url`, and this one has none; leave one of \
             them out",
        ],
    );
}

#[test]
fn a_callback_url_is_a_url_without_a_query() {
    let base = "url = 'https://example.org'\ncallback_url";
    let wanted = r#""http://127.0.0.1:9773""#;
    for (given, problem) in [
        (
            "1",
            "1 is a number; write the URL of the address of metrics and health, such as ".to_owned() + wanted,
        ),
        (
            "'http://localhost/?a=s3cret'",
            format!(
                "the URL has a query; leave out all from the ? on, as in the URL of the address of metrics and health, such as {wanted}"
            ),
        ),
    ] {
        refuses(&format!("{base} = {given}"), &[&format!("3:16: kinds.a.callback_url: {problem}")]);
    }
    refuses(
        "command = ['sh']\ncallback_url = 'http://localhost'",
        &[
            "3:1: kinds.a.callback_url: this is for kinds that have a `url`, and this one has none; leave one of them out",
        ],
    );
}

#[test]
fn urls() {
    const WANTED: &str = r#"write the URL of an endpoint, such as "https://example.org/jobs""#;
    refuses("url = 1", &[&format!("2:7: kinds.a.url: 1 is a number; {WANTED}")]);
    for (url, problem) in [
        ("ftp://example.org/?s3cret", "it starts with neither https:// nor http://"),
        ("https://ada:s3cret@example.org", "it has a user or password; use `headers` to say who you are"),
        ("https://example.org:77330/", "its port is not one of 1 to 65535"),
    ] {
        refuses(
            &format!("url = '{url}'"),
            &[&format!("2:7: kinds.a.url: the URL can't be used: {problem}; {WANTED}")],
        );
    }
    refuses(
        "url = 'http://[::ffff:10.0.0.1]:8080/'",
        &[
            "2:7: kinds.a.url: ::ffff:10.0.0.1 is a private address; to allow it, set allow_private = true or \
             allow_networks = [\"10.0.0.1/32\"]",
        ],
    );
    refuses(
        "url = 'http://169.254.169.254/'\nallow_private = true",
        &["2:7: kinds.a.url: 169.254.169.254 is the metadata service of a cloud; to allow it, set \
             allow_networks = [\"169.254.169.254/32\"]"],
    );
}

#[test]
fn networks_headers_and_numbers() {
    refuses(
        "url = 'https://example.org'\nallow_networks = ['10.0.0.0/33', '10.0.0.1/8', 'lan']",
        &[
            r#"3:19: kinds.a.allow_networks[0]: "10.0.0.0/33" is not a network; write a network, such as "10.1.0.0/16", or an address"#,
            r#"3:34: kinds.a.allow_networks[1]: "10.0.0.1/8" has bits beyond its prefix; write "10.0.0.0/8""#,
            r#"3:48: kinds.a.allow_networks[2]: "lan" is not a network; write a network, such as "10.1.0.0/16", or an address"#,
        ],
    );
    refuses(
        "url = 'https://example.org'\nheaders = { Host = 'b', Webhook-Id = 'c', X = \"s3cret\\r\\nY: z\", Z = 1, 'a b' = 'd' }",
        &[
            "3:13: kinds.a.headers.Host: this header is set by Jobmill itself; leave it out",
            "3:25: kinds.a.headers.Webhook-Id: this header is set by Jobmill itself; leave it out",
            "3:43: kinds.a.headers.X: the value has a line break or another character that no header can have; write \
             it without",
            "3:69: kinds.a.headers.Z: the value is not text; put it in quotes",
            "3:72: kinds.a.headers.\"a b\": this is not the name of a header; write one such as \"Authorization\"",
        ],
    );
    refuses(
        "url = 'https://example.org'\nheaders = { X-A = 'b', x-a = 'c' }",
        &["3:24: kinds.a.headers.x-a: the header is given twice, in upper and lower case; keep one of them"],
    );
    refuses(
        "url = 'https://example.org'\nconnect_timeout = '6m'\nmax_connections = 0",
        &[
            r#"3:19: kinds.a.connect_timeout: "6m" is over the limit of 5m; write a duration from 1ms to 5m, such as "30s""#,
            "4:19: kinds.a.max_connections: 0 is under the minimum of 1; write a whole number from 1 to 10000",
        ],
    );
}

#[test]
fn secrets_and_certificates() {
    const MAKE: &str = "make one with `echo whsec_$(openssl rand -base64 32)`";
    let desk = Desk::new(
        "[kinds.a]\nurl = 'https://example.org'\nsigning_secret_files = ['none', 'text', '/dev/zero']\n\
         signing_secret_env = ['NONE', 'SHORT']\nca_file = 'text'",
    )
    .with_variable("SHORT", "c2hvcnQ=");
    fs::write(desk.path("text"), "s3cret and no base64").unwrap();
    let expected = [
        r#"3:25: kinds.a.signing_secret_files[0]: "none" can't be read: No such file or directory (os error 2); name a file that this user may read"#,
        &format!(
            r#"3:33: kinds.a.signing_secret_files[1]: in "text": the secret is not base64, with or without `whsec_` before it; {MAKE}"#
        ),
        r#"3:41: kinds.a.signing_secret_files[2]: "/dev/zero" can't be read: it is over the limit of 1048576 bytes; name a file that this user may read"#,
        r#"4:23: kinds.a.signing_secret_env[0]: the variable "NONE" is not set; set it, or write the name of a variable that holds a signing secret"#,
        &format!(
            r#"4:31: kinds.a.signing_secret_env[1]: in the variable "SHORT": the secret has 5 bytes once decoded, the limits are 24 to 64; {MAKE}"#
        ),
        r#"5:11: kinds.a.ca_file: "text" has no certificate in PEM form (-----BEGIN CERTIFICATE-----); write the path of a file with the certificates of authorities in PEM form"#,
    ];
    let faults = desk.faults();
    let faults: Vec<_> = faults.lines().map(|line| line.strip_prefix("jobmill.toml:").unwrap()).collect();
    assert_eq!(faults, expected);
}
