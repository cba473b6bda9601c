//! Termination of commands that do not end by themselves.

use std::time::Duration;

#[cfg(target_os = "linux")]
use jobmill::execute::DetachedReport;
#[cfg(target_os = "linux")]
use rustix::process::{Signal, kill_process};

use crate::{Running, error, is_gone, reaped, script};
#[cfg(target_os = "linux")]
use crate::{ended, parse_pid};

/// A script that ignores SIGTERM and reports the pids of its guard, itself and its child.
const STUBBORN: &str = r#"
    trap '' TERM
    echo "guard $PPID" >&2
    echo "leader $$" >&2
    sh -c 'echo "child $$" >&2; while :; do sleep 1000; done' &
    while :; do sleep 1000; done
"#;

#[tokio::test]
async fn a_command_that_ends_when_asked_may_still_succeed() {
    let mut running =
        Running::start(script("trap 'echo saved; exit 0' TERM; echo ready >&2; sleep 1000 & wait"), None);
    assert_eq!(running.line().await, "ready");
    running.cancellation.cancel();
    assert_eq!(running.outcome().await.unwrap().bytes, "saved\n");
}

#[tokio::test]
async fn a_stopped_command_is_woken_to_end() {
    let mut running = Running::start(script("echo ready >&2; kill -STOP $$; echo woken"), None);
    assert_eq!(running.line().await, "ready");
    running.cancellation.cancel();
    assert_eq!(error(running.outcome().await).failure().exit_code, Some(128 + 15));
}

#[tokio::test]
async fn a_command_that_ignores_the_request_is_killed_with_its_children() {
    let mut settings = script(STUBBORN);
    settings.kill_grace = Duration::from_millis(20);
    let mut running = Running::start(settings, None);
    let pids = [running.pid("guard").await, running.pid("leader").await, running.pid("child").await];
    running.cancellation.cancel();
    assert_eq!(error(running.outcome().await).failure().exit_code, Some(128 + 9));
    assert!(pids.into_iter().all(is_gone), "{pids:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn children_that_left_the_group_are_killed_too() {
    let mut settings = script(
        r#"
        trap '' TERM
        echo "leader $$" >&2
        (setsid sh -c 'echo "child $$" >&2
                       (setsid sh -c "echo grandchild \$\$ >&2; sleep 1000; :" &)
                       sleep 1000; :' &)
        while :; do sleep 1000; done
        "#,
    );
    settings.kill_grace = Duration::from_millis(20);
    let mut running = Running::start(settings, None);
    let pids = [running.pid("leader").await, running.pid("child").await, running.pid("grandchild").await];
    running.cancellation.cancel();
    assert_eq!(error(running.outcome().await).failure().exit_code, Some(128 + 9));
    assert!(pids.into_iter().all(is_gone), "{pids:?}");
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed() {
    let mut running = Running::start(script("sleep 1000 & echo \"child $!\" >&2; echo done"), None);
    let child = running.pid("child").await;
    assert_eq!(running.outcome().await.unwrap().bytes, "done\n");
    assert!(is_gone(child));
}

#[tokio::test]
async fn a_dropped_attempt_is_dead_with_all_its_processes() {
    let mut running = Running::start(script(STUBBORN), None);
    let pids = [running.pid("guard").await, running.pid("leader").await, running.pid("child").await];
    running.task.abort();
    for pid in pids {
        reaped(pid).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dropped_attempt_is_dead_although_its_guard_is_stopped() {
    let mut running = Running::start(
        script("echo \"guard $PPID\" >&2; echo \"leader $$\" >&2; echo 0 >&3; sleep 1000 & wait"),
        None,
    );
    // The progress reports pass through the guard, which has reported its leader before.
    let (mut guard, mut leader) = (None, None);
    for _ in 0..3 {
        if let DetachedReport::OutputLine(line) = running.report().await {
            let line = String::from_utf8(line).unwrap();
            guard = guard.or(parse_pid(&line, "guard"));
            leader = leader.or(parse_pid(&line, "leader"));
        }
    }
    let guard = guard.unwrap();
    kill_process(guard, Signal::STOP).unwrap();
    running.task.abort();
    ended(leader.unwrap()).await;
    kill_process(guard, Signal::CONT).unwrap();
    reaped(guard).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn orphans_do_not_pile_up_as_zombies_while_the_command_runs() {
    let mut running = Running::start(
        script("trap 'exit 0' TERM; (sh -c 'echo \"orphan $$\" >&2' &); sleep 1000 & wait"),
        None,
    );
    let orphan = running.pid("orphan").await;
    reaped(orphan).await;
    running.cancellation.cancel();
    running.outcome().await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_is_cancelled_at_once_starts_nothing() {
    let running = Running::start(script("echo started >&2"), None);
    running.cancellation.cancel();
    let mut reports = running.reports;
    let error = error(running.task.await.unwrap());
    assert_eq!(error.message(), "stopped before the command was started");
    assert_eq!(reports.recv().await, None);
}
