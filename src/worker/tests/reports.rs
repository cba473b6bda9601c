//! Reports: ends that are kept, progress, checkpoints, output.

use std::time::Duration;

use futures_util::FutureExt;

use super::drive::*;
use crate::{
    execute::{Attempt, CheckpointError, HandlerError, ReportSink, StopCause},
    job::Output,
    proto::v1::{self, lease_notice::Notice, report::Report, server_frame},
};

#[test]
fn an_end_is_listed_in_hello_and_sent_again_until_it_is_answered() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.finish(&control);
    assert!(matches!(bench.reports()[..], [(1, Report::Completed(_))]));
    for _ in 0..2 {
        assert_eq!(bench.connect(vec![notice(1, held())]).leases, [lease(1)]);
        assert!(matches!(bench.reports()[..], [(1, Report::Completed(_))]));
    }
    bench.tell(1, Notice::Ended(v1::LeaseEnded {}));
    assert!(bench.connect(Vec::new()).leases.is_empty());
    assert_eq!((bench.session.kept, bench.session.kept_bytes), (0, 0));
}

#[test]
fn an_end_that_the_server_knows_already_is_not_sent_again() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.finish(&control);
    bench.send();
    bench.connect(vec![notice(1, Notice::Ended(v1::LeaseEnded {}))]);
    assert!(bench.reports().is_empty() && bench.session.leases.is_empty());
    assert_eq!(bench.session.counts.lost, 0);
}

#[test]
fn a_panic_is_a_failure_that_says_so() {
    async fn panics(_: Attempt) -> Result<Output, HandlerError> {
        panic!("out of paper")
    }
    let mut bench = Bench::connected(plan(1, panics));
    bench.run(1);
    run_handler(&mut bench);
    let reports = bench.reports();
    let [(1, Report::Failed(failed))] = &reports[..] else { panic!("{reports:?}") };
    assert!(failed.reason() == v1::FailureReason::Panic && failed.retryable == Some(true));
    assert_eq!(failed.message, "the handler panicked: out of paper");
}

#[test]
fn errors_say_whether_and_when_to_try_again() {
    async fn fails(attempt: Attempt) -> Result<Output, HandlerError> {
        assert_eq!((&attempt.payload()[..], attempt.number()), (&b"input"[..], 1));
        Err(HandlerError::permanent("no").with_code("E").with_delay(Duration::from_secs(3)))
    }
    let mut bench = Bench::connected(plan(1, fails));
    bench.run(1);
    run_handler(&mut bench);
    let reports = bench.reports();
    let [(1, Report::Failed(failed))] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((&*failed.message, &*failed.code, failed.retryable), ("no", "E", Some(false)));
    assert_eq!(failed.retry_delay.unwrap().seconds, 3);
    assert_eq!(failed.reason(), v1::FailureReason::HandlerError);
}

#[test]
fn a_result_over_the_limit_is_sent_only_as_far_as_the_server_must_see() {
    async fn large(_: Attempt) -> Result<Output, HandlerError> {
        Ok(Output::new(vec![0; 16 << 20]))
    }
    let mut bench = Bench::connected(plan(1, large));
    bench.run(1);
    run_handler(&mut bench);
    let reports = bench.reports();
    let [(1, Report::Completed(completed))] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(completed.result.as_ref().unwrap().bytes().len(), (1 << 20) + 1);
}

#[test]
fn a_result_that_the_server_refuses_fails_the_job_instead_of_being_sent_for_ever() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.finish(&control);
    bench.send();
    let refused = v1::ItemError { reason: "INVALID_REQUEST".into(), ..Default::default() };
    bench.tell(1, Notice::Refused(refused));
    assert!(matches!(&bench.reports()[..], [(1, Report::Failed(failed))] if failed.retryable == Some(false)));
    assert_eq!((bench.session.counts.succeeded, bench.session.counts.failed), (0, 1));
}

#[test]
fn progress_is_sent_at_once_and_then_at_most_every_half_second() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    let sent = |bench: &mut Bench| {
        bench.events();
        let reports = bench.reports().into_iter().filter_map(|(_, report)| match report {
            Report::Heartbeat(heartbeat) => heartbeat.progress.and_then(|progress| progress.fraction),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    progress(&control, 0.1);
    assert_eq!(sent(&mut bench), [0.1]);
    progress(&control, 0.2);
    progress(&control, 0.3);
    assert!(sent(&mut bench).is_empty());
    bench.now = bench.now.after(Duration::from_millis(500));
    assert!(bench.session.wake() <= bench.now);
    bench.session.tick(bench.now);
    assert_eq!(sent(&mut bench), [0.3]);
}

#[test]
fn a_checkpoint_resolves_when_it_is_written_and_survives_a_broken_stream() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    let numbers = |bench: &mut Bench| {
        bench.events();
        let reports = bench.reports().into_iter().filter_map(|(_, report)| match report {
            Report::Heartbeat(heartbeat) => heartbeat.checkpoint.map(|checkpoint| checkpoint.number),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    let mut first = control.checkpoint(Output::new("1"), true);
    assert_eq!(numbers(&mut bench), [1]);
    assert_eq!((&mut first).now_or_never(), None);
    bench.tell(1, Notice::CheckpointCommitted(v1::CheckpointCommitted { number: 1 }));
    assert_eq!(first.now_or_never(), Some(Ok(())));

    // The second one is on its way when the stream breaks: it is sent again, under a new number.
    let mut second = control.checkpoint(Output::new("2"), true);
    assert_eq!(numbers(&mut bench), [2]);
    bench.connect(vec![notice(1, held())]);
    bench.pass(Duration::ZERO);
    let resent = bench.sent.iter().rev().find_map(|frame| match frame {
        v1::worker_frame::Frame::Report(report) => match report.report.as_ref().unwrap() {
            Report::Heartbeat(heartbeat) => heartbeat.checkpoint.as_ref().map(|checkpoint| checkpoint.number),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(resent, Some(3));
    bench.tell(1, Notice::CheckpointCommitted(v1::CheckpointCommitted { number: 3 }));
    assert_eq!((&mut second).now_or_never(), Some(Ok(())));
}

#[test]
fn a_checkpoint_fails_when_it_is_too_large_or_its_lease_is_lost() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    let large = control.checkpoint(Output::new(vec![0; (256 << 10) + 1]), false);
    let max_bytes = 256 << 10;
    let too_large = CheckpointError::TooLarge { bytes: max_bytes + 1, max_bytes };
    assert_eq!(large.now_or_never(), Some(Err(too_large)));
    let waiting = control.checkpoint(Output::new("1"), true);
    bench.tell(1, lost());
    assert_eq!(waiting.now_or_never(), Some(Err(CheckpointError::Over)));
}

#[test]
fn an_end_takes_its_last_checkpoint_and_output_along() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    control.output_line(b"line");
    drop(control.checkpoint(Output::new("1"), false));
    bench.finish(&control);
    let reports = bench.reports();
    assert!(
        matches!(
            &reports[..],
            [(1, Report::Output(_)), (1, Report::Heartbeat(heartbeat)), (1, Report::Completed(_))]
                if heartbeat.checkpoint.is_some()
        ),
        "{reports:?}"
    );
}

#[test]
fn output_is_bounded_while_the_server_is_away() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.session.disconnected();
    for _ in 0..1_000 {
        control.output_line(&[b'x'; 9_000]);
    }
    bench.events();
    let lines = control.take_pending().lines;
    assert!(lines.iter().all(|line| line.len() == 4 << 10));
    assert!(lines.iter().map(String::len).sum::<usize>() <= 64 << 10);
}

#[test]
fn the_earlier_attempts_checkpoint_and_the_cause_of_a_stop_reach_the_handler() {
    async fn looks(attempt: Attempt) -> Result<Output, HandlerError> {
        let earlier = attempt.earlier_checkpoint().unwrap();
        assert_eq!((&earlier.bytes[..], attempt.stop_cause()), (&b"half"[..], Some(StopCause::Client)));
        Ok(Output::new(attempt.lease().as_i64().to_string()))
    }
    let mut bench = Bench::connected(plan(1, looks));
    let mut assigned = assignment(1);
    let state = Some(v1::Payload::of("half"));
    assigned.checkpoint = Some(v1::Checkpoint { number: 4, state, commit_now: false });
    bench.receive(server_frame::Frame::Assignment(assigned));
    bench.send();
    bench.tell(1, held());
    bench.tell(1, Notice::Cancel(v1::CancelRequested { cause: 1, grace: None }));
    run_handler(&mut bench);
    let reports = bench.reports();
    assert!(matches!(&reports[..], [(1, Report::Completed(completed))]
        if completed.result.as_ref().unwrap().bytes() == b"1"));
}
