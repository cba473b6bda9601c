//! Credits, and the end of a worker.

use std::time::Duration;

use super::drive::*;
use crate::{
    execute::StopCause,
    proto::v1::{self, lease_notice::Notice, report::Report, server_frame, worker_frame},
    worker::session::KEPT_MAX_BYTES,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn credits_never_exceed_the_free_places_and_are_refilled_after_each_end() {
    let mut bench = Bench::connected(plan(3, unused));
    assert_eq!(bench.credits(), 3);
    let controls: Vec<_> = (1..=3).map(|job| bench.run(job)).collect();
    assert_eq!(bench.credits(), 0);
    bench.finish(&controls[1]);
    assert_eq!(bench.credits(), 1, "an end frees its place before it is answered");
    bench.finish(&controls[0]);
    bench.finish(&controls[2]);
    assert_eq!(bench.credits(), 2);
    // Credits start anew on each stream, and held leases use none.
    let control = bench.run(4);
    let ended = (1..=3).map(|job| notice(job, Notice::Ended(v1::LeaseEnded {})));
    bench.connect(ended.chain([notice(4, held())]).collect());
    assert_eq!(bench.credits(), 2);
    bench.finish(&control);
    assert_eq!(bench.credits(), 1);
}

#[test]
fn no_jobs_are_taken_while_too_many_bytes_of_ends_wait() {
    let mut bench = Bench::connected(plan(1_000, unused));
    for job in 1..=64 {
        let control = bench.run(job);
        let result = Some(v1::Payload::of(vec![0; 1 << 20]));
        control.ended(Report::Completed(v1::Completed { result }));
    }
    bench.events();
    assert!(bench.session.kept_bytes >= KEPT_MAX_BYTES);
    assert_eq!(bench.credits(), 0);
    for job in 1..=10 {
        bench.tell(job, Notice::Ended(v1::LeaseEnded {}));
    }
    assert_eq!(bench.credits(), 64);
}

#[test]
fn a_drain_hands_back_what_has_not_started_and_lets_the_rest_finish() {
    let mut bench = Bench::connected(plan(3, unused));
    let control = bench.run(1);
    bench.assign(2);
    bench.send();
    bench.session.drain(None, bench.now);
    let sent = bench.send();
    assert!(matches!(sent[0], worker_frame::Frame::Draining(_)), "{sent:?}");
    let released = match &sent[1] {
        worker_frame::Frame::Report(v1::Report { report: Some(Report::Released(released)), .. }) => released,
        other => panic!("{other:?}"),
    };
    assert!(released.never_started && sent.len() == 2);
    // An assignment that was on its way is handed back, too.
    bench.assign(3);
    assert!(matches!(&bench.reports()[..], [(3, Report::Released(released))] if released.never_started));
    for job in [2, 3] {
        bench.tell(job, Notice::Ended(v1::LeaseEnded {}));
    }
    assert!(!bench.session.is_over(bench.now) && control.cause().is_none());
    bench.finish(&control);
    assert!(!bench.session.is_over(bench.now), "the end is not answered yet");
    bench.send();
    bench.tell(1, Notice::Ended(v1::LeaseEnded {}));
    assert!(bench.session.is_over(bench.now));
    assert_eq!((bench.session.counts.succeeded, bench.session.counts.released), (1, 2));
}

#[test]
fn a_drain_that_runs_out_of_time_stops_attempts_then_cuts_them_off() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.receive(server_frame::Frame::Drain(v1::Drain {
        within: Some(crate::client::to_wire_duration(2 * SECOND)),
    }));
    bench.pass(SECOND);
    assert_eq!(control.cause(), None);
    bench.pass(SECOND);
    assert_eq!(control.cause(), Some(StopCause::Shutdown));
    assert!(!control.cut.is_cancelled());
    bench.pass(5 * SECOND);
    assert!(control.cut.is_cancelled());
    assert!(!bench.session.is_over(bench.now));
    bench.pass(5 * SECOND);
    assert!(bench.session.is_over(bench.now), "a worker ends even if its handler does not");
}

#[test]
fn a_second_request_to_end_cuts_attempts_off_at_once() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.session.drain(None, bench.now);
    bench.session.force(bench.now);
    bench.session.tick(bench.now);
    assert!(control.cut.is_cancelled() && control.cause() == Some(StopCause::Shutdown));
}

#[test]
fn a_limit_of_jobs_bounds_the_credits_and_ends_the_worker() {
    let mut bench = Bench::connected(crate::worker::plan::Plan { max_jobs: Some(3), ..plan(2, unused) });
    assert_eq!(bench.credits(), 2);
    // A job that never started does not count.
    bench.assign(9);
    bench.send();
    bench.tell(9, lost());
    for job in 1..=3 {
        let control = bench.run(job);
        bench.finish(&control);
        bench.send();
        assert!(!bench.session.is_over(bench.now));
        bench.tell(job, Notice::Ended(v1::LeaseEnded {}));
    }
    assert_eq!(bench.credits(), 0);
    assert!(bench.session.is_over(bench.now));
}

#[test]
fn a_worker_until_idle_ends_after_a_while_without_jobs() {
    let until_idle = Some(3 * SECOND);
    let mut bench = Bench::connected(crate::worker::plan::Plan { until_idle, ..plan(1, unused) });
    bench.pass(2 * SECOND);
    let control = bench.run(1);
    bench.pass(4 * SECOND);
    bench.finish(&control);
    bench.send();
    bench.tell(1, Notice::Ended(v1::LeaseEnded {}));
    bench.pass(2 * SECOND);
    assert!(!bench.session.is_over(bench.now));
    bench.pass(SECOND);
    assert!(bench.session.is_over(bench.now));
}

#[test]
fn pings_are_sent_and_their_absence_breaks_the_stream() {
    let mut bench = Bench::connected(plan(1, unused));
    bench.sent.clear();
    bench.silent = true;
    bench.pass(14 * SECOND);
    let pings = bench.sent.iter().filter(|frame| matches!(frame, worker_frame::Frame::Ping(_))).count();
    assert_eq!(pings, 2);
    assert!(!bench.session.is_broken(bench.now));
    bench.receive(server_frame::Frame::Pong(v1::Pong { number: 2 }));
    bench.pass(14 * SECOND);
    assert!(!bench.session.is_broken(bench.now));
    bench.now = bench.now.after(SECOND);
    assert!(bench.session.is_broken(bench.now));
}

#[test]
fn a_hello_without_an_answer_breaks_the_stream() {
    let mut bench = Bench::new(plan(1, unused));
    bench.open();
    bench.now = bench.now.after(9 * SECOND);
    assert!(!bench.session.is_broken(bench.now));
    bench.now = bench.now.after(SECOND);
    assert!(bench.session.is_broken(bench.now));
}
