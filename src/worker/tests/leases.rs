//! Leases: when an attempt starts, how long it may run, and what comes of a lost lease.

use std::time::Duration;

use super::drive::*;
use crate::{
    execute::StopCause,
    proto::v1::{self, lease_notice::Notice, report::Report, worker_frame},
    worker::{OnSilence, on_silence},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_handler_starts_only_after_the_server_has_answered_received() {
    let mut bench = Bench::connected(plan(2, unused));
    bench.assign(1);
    assert!(matches!(bench.reports()[..], [(1, Report::Received(_))]));
    assert!(bench.started.is_empty());
    bench.tell(1, held());
    assert_eq!(bench.started.len(), 1);
}

#[test]
fn a_job_that_is_cancelled_before_its_start_is_handed_back() {
    let mut bench = Bench::connected(plan(1, unused));
    bench.assign(1);
    bench.send();
    bench.tell(1, Notice::Cancel(v1::CancelRequested::default()));
    let reports = bench.reports();
    assert!(matches!(&reports[..], [(1, Report::Released(released))] if released.never_started));
    bench.tell(1, Notice::Ended(v1::LeaseEnded {}));
    assert!(bench.started.is_empty() && bench.session.leases.is_empty());
}

#[test]
fn a_job_whose_lease_is_lost_before_its_start_is_dropped_without_a_word() {
    let mut bench = Bench::connected(plan(1, unused));
    assert_eq!(bench.credits(), 1);
    bench.assign(1);
    bench.send();
    bench.tell(1, lost());
    assert!(bench.started.is_empty() && bench.session.leases.is_empty());
    assert!(bench.reports().is_empty());
    assert_eq!(bench.session.places[0].credits, 1, "its place is free again");
}

#[test]
fn a_lease_is_counted_from_when_its_heartbeat_was_sent() {
    let mut bench = Bench::connected(plan(1, unused));
    bench.assign(1);
    bench.send();
    let sent = bench.now;
    bench.now = bench.now.after(4 * SECOND);
    bench.tell(1, held());
    assert_eq!(bench.session.leases[&Bench::key(1)].until, Some(sent.after(LEASE)));

    // Two heartbeats are on their way, and are answered in their order.
    bench.sent.clear();
    bench.now = sent;
    bench.pass(25 * SECOND);
    let beats = bench.sent.iter().filter(|frame| matches!(frame, worker_frame::Frame::Report(_))).count();
    assert!((2..=3).contains(&beats), "{beats}");
    let first = bench.session.leases[&Bench::key(1)].sent[0];
    assert!(first.since(sent) <= HEARTBEAT);
    bench.tell(1, held());
    assert_eq!(bench.session.leases[&Bench::key(1)].until, Some(first.after(LEASE)));
}

#[test]
fn an_attempt_that_stops_on_silence_has_ended_before_its_lease_is_over() {
    let mut bench = Bench::connected(plan(1, on_silence(OnSilence::Stop, unused)));
    let control = bench.run(1);
    let until = bench.session.leases[&Bench::key(1)].until.unwrap();
    bench.session.disconnected();
    bench.pass(until.since(bench.now) - 6 * SECOND);
    assert_eq!(control.cause(), None);
    // Its grace period of 5 s lies within the lease.
    bench.pass(SECOND);
    assert_eq!(control.cause(), Some(StopCause::LeaseLost));
    assert!(!control.cut.is_cancelled());
    bench.pass(4 * SECOND + SECOND / 2);
    assert!(bench.now < until && control.cut.is_cancelled());
}

#[test]
fn by_default_an_attempt_outlives_silence_and_reports_its_end() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.session.disconnected();
    bench.pass(10 * LEASE);
    assert_eq!(control.cause(), None);
    bench.finish(&control);
    assert_eq!(bench.connect(vec![notice(1, held())]).leases, [lease(1)]);
    assert!(matches!(bench.reports()[..], [(1, Report::Completed(_))]));
}

#[test]
fn a_lost_lease_stops_its_attempt_and_the_end_is_not_reported() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    bench.tell(1, lost());
    assert_eq!(control.cause(), Some(StopCause::LeaseLost));
    assert_eq!(bench.credits(), 0, "the handler still has its place");
    bench.pass(5 * SECOND);
    assert!(control.cut.is_cancelled());
    bench.sent.clear();
    bench.finish(&control);
    assert!(bench.reports().is_empty());
    assert_eq!(bench.session.places[0].credits, 1);
    assert_eq!(bench.session.counts.lost, 1);
}

#[test]
fn a_lease_that_welcome_refuses_is_lost() {
    let mut bench = Bench::connected(plan(2, unused));
    let (one, two) = (bench.run(1), bench.run(2));
    bench.session.disconnected();
    bench.finish(&two);
    let mut listed: Vec<_> = bench.open().leases.iter().map(|lease| lease.token).collect();
    listed.sort_unstable();
    assert_eq!(listed, [1, 2]);
    let leases = vec![notice(1, lost()), notice(2, lost())];
    bench.receive(v1::server_frame::Frame::Welcome(welcome(leases)));
    assert_eq!(one.cause(), Some(StopCause::LeaseLost));
    assert!(bench.reports().is_empty() && bench.session.leases.is_empty());
}

#[test]
fn a_cancel_stops_the_attempt_within_the_shorter_grace_and_is_answered_by_its_end() {
    let mut bench = Bench::connected(plan(1, unused));
    let control = bench.run(1);
    let grace = Some(crate::client::to_wire_duration(2 * SECOND));
    let cancel = v1::CancelRequested { cause: v1::CancelCause::Timeout.into(), grace };
    bench.tell(1, Notice::Cancel(cancel));
    assert_eq!(control.cause(), Some(StopCause::Timeout));
    bench.pass(SECOND);
    assert!(!control.cut.is_cancelled());
    bench.pass(SECOND);
    assert!(control.cut.is_cancelled());
    bench.finish(&control);
    assert!(matches!(bench.reports()[..], [(1, Report::Completed(_))]));
}

#[test]
fn an_assignment_that_was_not_confirmed_is_forgotten_with_its_stream() {
    let mut bench = Bench::connected(plan(1, unused));
    bench.assign(1);
    bench.send();
    bench.session.disconnected();
    assert!(bench.connect(Vec::new()).leases.is_empty());
    assert_eq!(bench.credits(), 1);
}

#[test]
fn heartbeats_of_many_leases_share_a_message() {
    let mut bench = Bench::connected(plan(100, unused));
    for job in 1..=100 {
        bench.run(job);
        bench.now = bench.now.after(Duration::from_millis(10));
    }
    bench.now = bench.now.after(HEARTBEAT - 2 * SECOND);
    bench.session.tick(bench.now);
    let message = bench.session.take_message(bench.now).unwrap();
    let beats = message.frames.iter().filter(|frame| {
        let report = match &frame.frame {
            Some(worker_frame::Frame::Report(report)) => report.report.as_ref(),
            _ => None,
        };
        matches!(report, Some(Report::Heartbeat(_)))
    });
    assert_eq!(beats.count(), 100);
}
