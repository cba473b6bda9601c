//! Reports of a running command.

use jobmill::{execute::DetachedReport, job::Progress};

use crate::{Running, script};

fn progress(fraction: f64, text: &str, step: &str) -> DetachedReport {
    DetachedReport::Progress(Progress {
        fraction: Some(fraction),
        text: text.to_owned(),
        step: step.to_owned(),
    })
}

#[tokio::test]
async fn progress_comes_line_by_line_and_other_lines_are_ignored() {
    let mut running = Running::start(
        script(
            r#"
            echo '0.25 reading' >&$JOBMILL_PROGRESS_FD
            echo 'what is this' >&3
            head -c 5000 /dev/zero | tr '\0' 0 >&3; echo >&3
            echo '50%' >&3
            echo '{"fraction":0.75,"text":"almost","step":"write"}' >&3
            printf '100%% done' >&3
            "#,
        ),
        None,
    );
    assert_eq!(running.report().await, progress(0.25, "reading", ""));
    assert_eq!(running.report().await, progress(0.5, "", ""));
    assert_eq!(running.report().await, progress(0.75, "almost", "write"));
    assert_eq!(running.report().await, progress(1.0, "done", ""));
    running.outcome().await.unwrap();
}

#[tokio::test]
async fn a_flood_of_progress_comes_whole() {
    let mut running = Running::start(script("yes 0.5 | head -n 50000 >&3"), None);
    for _ in 0..50_000 {
        assert_eq!(running.report().await, progress(0.5, "", ""));
    }
    running.outcome().await.unwrap();
}

#[tokio::test]
async fn lines_and_progress_come_while_the_command_runs() {
    let mut running =
        Running::start(script("trap 'exit 0' TERM; echo one >&2; echo 0.5 >&3; sleep 1000 & wait"), None);
    let mut reports = [running.report().await, running.report().await];
    reports.sort_by_key(|report| matches!(report, DetachedReport::Progress(_)));
    assert_eq!(reports, [DetachedReport::OutputLine(b"one".to_vec()), progress(0.5, "", "")]);
    running.cancellation.cancel();
    running.outcome().await.unwrap();
}

#[tokio::test]
async fn output_without_end_is_bounded() {
    // A line without a newline is reported once, cut to the limit, and the rest takes no memory.
    let mut running = Running::start(script("head -c 4194304 /dev/zero >&2"), None);
    let DetachedReport::OutputLine(line) = running.report().await else { panic!("a line") };
    assert_eq!(line.len(), 8 * 1024);
    running.outcome().await.unwrap();

    let mut running = Running::start(script("exec yes >&2"), None);
    for _ in 0..10_000 {
        assert_eq!(running.line().await, "y");
    }
    running.cancellation.cancel();
    assert_eq!(running.outcome().await.unwrap_err().failure().exit_code, Some(128 + 15));
}
