//! Errors that keep a command from starting.

use jobmill::{
    execute::{Attempt, Handler, command::CommandHandler},
    job::FailureReason,
    settings::CommandSettings,
};

use crate::{GUARD, command, error};

async fn why_not(settings: CommandSettings, guard: &str, lock_path: Option<&str>) -> String {
    let handler = CommandHandler::new(settings, guard, lock_path.map(Into::into));
    let error = error(handler.run(Attempt::detached("payload", "", |_| {})).await);
    assert_eq!((error.failure().reason, error.failure().retryable), (FailureReason::StartFailed, true));
    error.message().to_owned()
}

#[tokio::test]
async fn a_program_that_is_not_there_or_no_program_is_named() {
    assert_eq!(
        why_not(command(&["no-such-program", "x"]), GUARD, None).await,
        "can't start no-such-program: No such file or directory (os error 2)"
    );
    assert_eq!(
        why_not(command(&["/etc/passwd"]), GUARD, None).await,
        "can't start /etc/passwd: Permission denied (os error 13)"
    );
    assert_eq!(why_not(command(&[]), GUARD, None).await, "the command is empty");
    assert_eq!(
        why_not(command(&["true", "a\0b"]), GUARD, None).await,
        "can't start true: nul byte found in provided data"
    );
}

#[tokio::test]
async fn a_missing_folder_is_named_rather_than_the_program() {
    let mut settings = command(&["true"]);
    settings.working_dir = Some("/no/such/folder".into());
    assert_eq!(
        why_not(settings, GUARD, None).await,
        "can't start true: its working folder /no/such/folder does not exist"
    );
}

#[tokio::test]
async fn a_lock_that_cannot_be_taken_starts_nothing() {
    assert_eq!(
        why_not(command(&["true"]), GUARD, Some("/no/such/lock")).await,
        "can't lock /no/such/lock: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn a_program_that_is_no_guard_is_told_from_one() {
    assert_eq!(
        why_not(command(&["true"]), "/no/such/guard", None).await,
        "can't start the command's guard /no/such/guard: No such file or directory (os error 2)"
    );
    let message = why_not(command(&["true"]), "cat", None).await;
    assert!(
        message.starts_with("the guard was lost before it was ready: it ended (exit status: 1): "),
        "{message}"
    );
    assert_eq!(
        why_not(command(&["true"]), "yes", None).await,
        "the guard wrote over 1 MiB before it was ready"
    );
}

#[test]
fn a_guard_started_by_hand_is_refused() {
    let output =
        std::process::Command::new(GUARD).arg("__guard").stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: `__guard` is for the server's own use\n");
}
