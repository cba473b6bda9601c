//! Input and environment of a command, and the handling of its result.

use bytes::Bytes;
use jobmill::{
    execute::{Attempt, Handler, command::CommandHandler},
    job::FailureReason,
};

use crate::{GUARD, command, error, run, script};

const MIB: usize = 1024 * 1024;

fn noise(len: usize) -> Bytes {
    (0..len).map(|place| ((place * place) >> 7) as u8).collect()
}

#[tokio::test]
async fn standard_output_is_the_result() {
    let output = run(script("printf 'a\\nb'; echo noise >&2"), "").await.unwrap();
    assert_eq!((&output.bytes[..], &*output.info.media_type), (&b"a\nb"[..], ""));
}

#[tokio::test]
async fn the_largest_payload_goes_in_and_the_largest_result_comes_out() {
    let payload = noise(MIB);
    assert!(run(command(&["cat"]), payload.clone()).await.unwrap().bytes == payload);
}

#[tokio::test]
async fn a_result_over_the_cap_is_a_permanent_failure() {
    for settings in [command(&["head", "-c", "1048577", "/dev/zero"]), command(&["yes"])] {
        let error = error(run(settings, "").await);
        assert_eq!(
            (error.failure().reason, error.failure().retryable),
            (FailureReason::ResultTooLarge, false)
        );
        assert_eq!(error.message(), "the command wrote more than 1048576 bytes to its standard output");
    }
}

#[tokio::test]
async fn a_command_need_not_read_its_payload() {
    assert!(run(command(&["true"]), noise(MIB)).await.is_ok());
    assert_eq!(run(command(&["head", "-c", "1"]), noise(MIB)).await.unwrap().bytes.len(), 1);
    assert_eq!(run(script("exec <&-; echo closed"), noise(MIB)).await.unwrap().bytes, "closed\n");
}

#[tokio::test]
async fn an_exit_code_is_a_failure_with_the_last_line_of_output() {
    let cases = [
        ("exit 1", 1, true, "exited with code 1"),
        ("echo first >&2; echo ' last ' >&2; echo >&2; exit 2", 2, true, "exited with code 2: last"),
        ("printf unfinished >&2; exit 255", 255, true, "exited with code 255: unfinished"),
        ("exit 3", 3, false, "exited with code 3"),
        ("exit 75", 75, true, "exited with code 75"),
        ("kill -KILL $$", 137, true, "killed by signal 9 (SIGKILL)"),
        ("echo why >&2; kill -TERM $$", 143, true, "killed by signal 15 (SIGTERM): why"),
    ];
    for (text, code, retryable, message) in cases {
        let mut settings = script(text);
        settings.permanent_exit_codes = vec![3, 75];
        let error = error(run(settings, "").await);
        let failure = error.failure();
        assert_eq!(
            (failure.reason, failure.exit_code, failure.retryable, error.message()),
            (FailureReason::HandlerError, Some(code), retryable, message),
        );
    }
}

#[tokio::test]
async fn the_last_line_in_a_failure_is_cut() {
    let error = error(run(script("head -c 600 /dev/zero | tr '\\0' x >&2; exit 1"), "").await);
    assert_eq!(error.message(), format!("exited with code 1: {}", "x".repeat(512)));
}

#[tokio::test]
async fn every_argument_arrives_as_it_is() {
    let arguments =
        ["--help", "-n", "$(id)", "`id`", "; exit 9", "a  b", "", "*", "~", "'\"\\", "\n", "é", "--"];
    let settings = command(&[&["printf", "[%s]"], &arguments[..]].concat());
    let expected: String = arguments.iter().map(|argument| format!("[{argument}]")).collect();
    assert_eq!(run(settings, "").await.unwrap().bytes, expected);
}

#[tokio::test]
async fn a_command_sees_only_the_variables_it_is_meant_to_see() {
    let mut settings = command(&["env"]);
    settings.env_allow = vec!["CARGO_PKG_NAME".to_owned(), "NOT_SET_ANYWHERE".to_owned(), "HOME".to_owned()];
    settings.env = [("LANG", "C"), ("OWN", "a b=c"), ("JOBMILL_KIND", "spoofed")]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .into();
    let attempt = Attempt::detached("", "text/plain", |_| {});
    let id = attempt.id();
    let output = CommandHandler::new(settings, GUARD, None).run(attempt).await.unwrap();

    let mut expected: Vec<String> = ["PATH", "HOME", "TZ", "CARGO_PKG_NAME"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .collect();
    assert!(expected.contains(&"CARGO_PKG_NAME=jobmill".to_owned()));
    expected.extend(
        [
            "LANG=C",
            "OWN=a b=c",
            &format!("JOBMILL_JOB_ID={id}"),
            "JOBMILL_QUEUE=test",
            "JOBMILL_KIND=test",
            "JOBMILL_ATTEMPT=2",
            "JOBMILL_MAX_ATTEMPTS=5",
            "JOBMILL_LEASE=7",
            "JOBMILL_PROGRESS_FD=3",
            "JOBMILL_CHECKPOINT_FD=5",
            "JOBMILL_CHECKPOINT_ANSWER_FD=6",
            "JOBMILL_DEADLINE=1970-01-01T00:15:00Z",
            "JOBMILL_REQUEST_ID=r-1",
            "JOBMILL_LABELS={\"tier\":\"gold\"}",
            "JOBMILL_HEADERS={\"tenant\":\"x\"}",
            "JOBMILL_PAYLOAD_TYPE=text/plain",
            "JOBMILL_PAYLOAD_METADATA={\"encoding\":\"none\"}",
        ]
        .map(str::to_owned),
    );
    expected.sort();
    let text = String::from_utf8(output.bytes.to_vec()).unwrap();
    let mut seen: Vec<&str> = text.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, expected);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_has_no_descriptors_but_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let handler =
        CommandHandler::new(command(&["ls", "/proc/self/fd"]), GUARD, Some(folder.path().join("lock")));
    let output = handler.run(Attempt::detached("", "", |_| {})).await.unwrap();
    // Standard streams, progress, the lock, checkpoints, their answers, and the folder that `ls` reads.
    assert_eq!(output.bytes, "0\n1\n2\n3\n4\n5\n6\n7\n");
}

#[tokio::test]
async fn signals_have_their_usual_effect_on_a_command() {
    // An ignored signal would be inherited, and a shell can't trap one that was ignored at its start.
    let text = "for signal in INT HUP QUIT ALRM USR1 USR2 TERM; do \
                sh -c \"kill -$signal \\$\\$; echo $signal is ignored\"; done; true";
    assert_eq!(run(script(text), "").await.unwrap().bytes, "");
}

#[tokio::test]
async fn a_command_runs_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let mut settings = command(&["pwd"]);
    settings.working_dir = Some(folder.clone());
    assert_eq!(run(settings, "").await.unwrap().bytes, format!("{}\n", folder.display()));
}
