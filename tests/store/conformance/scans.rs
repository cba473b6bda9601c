//! Scans of jobs: orders, pages, budgets and filters.

use jobmill::{
    engine::NewJob,
    job::{JobFilter, JobId, StateName},
    store::{Page, Scan, ScanOrder},
};

use crate::store::{
    batch::Control,
    build::{at, job},
    rig::{Rig, failed, labelled, succeeded},
};

both_stores!(
    jobs_are_read_in_the_order_asked_at_one_moment,
    both_orders_give_every_job_once_whatever_the_page,
    bounds_cut_a_scan,
    a_budget_ends_a_page_that_found_little,
    a_filter_keeps_what_fits_all_of_it,
    states_narrow_a_scan,
    times_narrow_a_scan,
    a_scan_past_its_end_is_empty,
    a_page_tells_its_moment,
    the_oldest_ready_job_is_known,
    ids_grow_with_the_clock_set_back,
);

const OLDEST_FIRST: ScanOrder = ScanOrder::OldestFirst { after: None, last: None };
const NEWEST_FIRST: ScanOrder = ScanOrder::NewestFirst { before: None };

fn scan(rig: &Rig, filter: &JobFilter, order: ScanOrder, limit: usize, budget: usize) -> Page {
    rig.reader().scan(filter, Scan { order, limit, budget }).unwrap()
}

/// Returns all pages of a scan, concatenated.
fn all(rig: &Rig, filter: &JobFilter, mut order: ScanOrder, limit: usize, budget: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    loop {
        let page = scan(rig, filter, order, limit, budget);
        assert!(page.jobs.len() <= limit);
        ids.extend(page.jobs.iter().map(|job| job.id));
        let Some(next) = page.next else { return ids };
        order = match order {
            ScanOrder::NewestFirst { .. } => ScanOrder::NewestFirst { before: Some(next) },
            ScanOrder::OldestFirst { last, .. } => ScanOrder::OldestFirst { after: Some(next), last },
        };
    }
}

fn ids(rig: &mut Rig, count: usize) -> Vec<JobId> {
    rig.queue("q", 0);
    rig.submit_all(vec![job("q", Rig::KIND); count]).iter().map(|job| job.id).collect()
}

fn jobs_are_read_in_the_order_asked_at_one_moment(rig: &mut Rig) {
    let ids = ids(rig, 3);
    let nobody = "0000000000001".parse().unwrap();
    let asked = [ids[2], nobody, ids[0], ids[2]];
    let (jobs, position) = rig.reader().jobs(&asked).unwrap();
    let found: Vec<_> = jobs.iter().map(|job| job.as_ref().map(|job| job.id)).collect();
    assert_eq!(found, [Some(ids[2]), None, Some(ids[0]), Some(ids[2])]);
    assert_eq!(position, rig.end());
}

fn both_orders_give_every_job_once_whatever_the_page(rig: &mut Rig) {
    let ids = ids(rig, 7);
    let backwards: Vec<_> = ids.iter().rev().copied().collect();
    for limit in 1..=8 {
        for budget in limit..=9 {
            assert_eq!(all(rig, &JobFilter::default(), OLDEST_FIRST, limit, budget), ids);
            assert_eq!(all(rig, &JobFilter::default(), NEWEST_FIRST, limit, budget), backwards);
        }
    }
}

fn bounds_cut_a_scan(rig: &mut Rig) {
    let ids = ids(rig, 5);
    let any = JobFilter::default();
    let between = ScanOrder::OldestFirst { after: Some(ids[0]), last: Some(ids[3]) };
    assert_eq!(all(rig, &any, between, 2, 10), ids[1..=3]);
    let below = ScanOrder::NewestFirst { before: Some(ids[2]) };
    assert_eq!(all(rig, &any, below, 2, 10), [ids[1], ids[0]]);
}

fn a_budget_ends_a_page_that_found_little(rig: &mut Rig) {
    rig.queue("q", 0);
    let mut jobs = vec![job("q", "walk"); 10];
    jobs.push(job("q", Rig::KIND));
    let ids = rig.submit_all(jobs);
    let filter = JobFilter { kinds: vec![Rig::KIND.into()], ..JobFilter::default() };
    let page = scan(rig, &filter, OLDEST_FIRST, 5, 4);
    assert_eq!((page.jobs.len(), page.next), (0, Some(ids[3].id)));
    assert_eq!(all(rig, &filter, OLDEST_FIRST, 5, 4), [ids[10].id]);
}

fn a_filter_keeps_what_fits_all_of_it(rig: &mut Rig) {
    rig.queue("a", 0);
    rig.queue("b", 0);
    let jobs = rig.submit_all(vec![
        NewJob { extras: labelled("env", "prod"), ..job("a", "run") },
        NewJob { extras: labelled("env", "test"), ..job("a", "run") },
        NewJob { extras: labelled("env", "prod"), ..job("b", "run") },
        job("a", "walk"),
    ]);
    let found = |filter: JobFilter| -> Vec<usize> {
        let found = all(rig, &filter, OLDEST_FIRST, 2, 3).into_iter();
        found.map(|id| jobs.iter().position(|job| job.id == id).unwrap()).collect()
    };
    let labels = |value: &str| [("env".to_owned(), value.to_owned())].into();
    assert_eq!(found(JobFilter::default()), [0, 1, 2, 3]);
    assert_eq!(found(JobFilter { queues: vec!["a".into()], ..JobFilter::default() }), [0, 1, 3]);
    assert_eq!(found(JobFilter { queues: vec!["c".into()], ..JobFilter::default() }), [0; 0]);
    assert_eq!(found(JobFilter { kinds: vec!["walk".into(), "x".into()], ..JobFilter::default() }), [3]);
    assert_eq!(found(JobFilter { labels: labels("prod"), ..JobFilter::default() }), [0, 2]);
    let all_of_it = JobFilter { queues: vec!["b".into()], labels: labels("prod"), ..JobFilter::default() };
    assert_eq!(found(all_of_it), [2]);
    let either = JobFilter { queues: vec!["b".into(), "c".into(), "a".into()], ..JobFilter::default() };
    assert_eq!(found(either), [0, 1, 2, 3]);
    assert_eq!(found(JobFilter { done: Some(true), ..JobFilter::default() }), [0; 0]);
    assert_eq!(found(JobFilter { done: Some(false), ..JobFilter::default() }), [0, 1, 2, 3]);
}

fn states_narrow_a_scan(rig: &mut Rig) {
    rig.queue("q", 4);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 6]);
    rig.report(&jobs[0], failed(false, "")).unwrap();
    rig.report(&jobs[1], succeeded()).unwrap();
    rig.control(Control::Cancel(jobs[2].id)).unwrap();
    let states: Vec<_> = jobs.iter().map(|job| (job.id, rig.state(job.id))).collect();
    for wanted in [
        vec![StateName::Failed],
        vec![StateName::Running],
        vec![StateName::Running, StateName::Cancelling],
        vec![StateName::Failed, StateName::Running],
        vec![StateName::Scheduled],
        StateName::ALL.to_vec(),
    ] {
        let expected: Vec<_> =
            states.iter().filter(|(_, state)| wanted.contains(state)).map(|(id, _)| *id).collect();
        let backwards: Vec<_> = expected.iter().rev().copied().collect();
        let filter = JobFilter { states: wanted, ..JobFilter::default() };
        assert_eq!(all(rig, &filter, OLDEST_FIRST, 2, 3), expected, "{filter:?}");
        assert_eq!(all(rig, &filter, NEWEST_FIRST, 2, 3), backwards, "{filter:?}");
    }
}

fn times_narrow_a_scan(rig: &mut Rig) {
    rig.queue("q", 0);
    let mut created = Vec::new();
    for seconds in [0, 10, 20] {
        rig.until(at(seconds));
        created.push(rig.submit(job("q", Rig::KIND)).id);
    }
    let filter = |after: Option<i64>, before: Option<i64>| JobFilter {
        created_after: after.map(at),
        created_before: before.map(at),
        ..JobFilter::default()
    };
    for order in [OLDEST_FIRST, NEWEST_FIRST] {
        for (filter, expected) in [
            (filter(Some(10), None), vec![1, 2]),
            (filter(None, Some(10)), vec![0]),
            (filter(Some(1), Some(20)), vec![1]),
            (filter(Some(21), None), vec![]),
        ] {
            let mut found = all(rig, &filter, order, 10, 10);
            found.sort_unstable();
            let expected: Vec<_> = expected.into_iter().map(|index: usize| created[index]).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }
    // A page that starts above the filter's begin, or ends below it.
    let above = ScanOrder::OldestFirst { after: Some(created[1]), last: None };
    assert_eq!(all(rig, &filter(Some(5), None), above, 10, 10), [created[2]]);
    let below = ScanOrder::OldestFirst { after: None, last: Some(created[0]) };
    assert_eq!(all(rig, &filter(Some(5), None), below, 10, 10), [] as [JobId; 0]);
}

fn a_scan_past_its_end_is_empty(rig: &mut Rig) {
    let ids = ids(rig, 3);
    for (after, last) in [(ids[2], ids[2]), (ids[2], ids[0]), (ids[0], ids[0])] {
        let order = ScanOrder::OldestFirst { after: Some(after), last: Some(last) };
        let page = scan(rig, &JobFilter::default(), order, 10, 10);
        assert_eq!((page.jobs.len(), page.next), (0, None));
    }
    let order = ScanOrder::NewestFirst { before: Some(ids[0]) };
    assert!(scan(rig, &JobFilter::default(), order, 10, 10).jobs.is_empty());
}

fn a_page_tells_its_moment(rig: &mut Rig) {
    let page = scan(rig, &JobFilter::default(), OLDEST_FIRST, 1, 1);
    assert_eq!(page.position, rig.end());
    let ids = ids(rig, 3);
    rig.control(Control::Delete(ids[2])).unwrap();
    let page = scan(rig, &JobFilter::default(), OLDEST_FIRST, 1, 1);
    assert_eq!((page.position, page.newest), (rig.end(), ids[2]), "the newest id there ever was");
}

fn the_oldest_ready_job_is_known(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.queue("other", 0);
    let queue = rig.submit(job("other", Rig::KIND)).spec.queue.clone();
    assert_eq!(rig.reader().oldest_ready(&queue).unwrap(), Some(rig.now));
    rig.pass(5);
    let first = rig.submit(job("q", "walk"));
    rig.pass(5);
    rig.submit(job("q", Rig::KIND));
    let oldest = |rig: &Rig| rig.reader().oldest_ready(&first.spec.queue).unwrap();
    assert_eq!(oldest(rig), Some(first.updated));
    rig.control(Control::Cancel(first.id)).unwrap();
    assert_eq!(oldest(rig), Some(rig.now));
}

fn ids_grow_with_the_clock_set_back(rig: &mut Rig) {
    rig.queue("q", 0);
    let mut last = None;
    for seconds in [100, 100, 50, 0, 60, 101, 5] {
        rig.set_clock(at(seconds));
        for job in rig.submit_all(vec![job("q", Rig::KIND); 2]) {
            assert!(Some(job.id) > last);
            assert_eq!(job.spec.created, rig.now);
            last = Some(job.id);
        }
        if seconds == 0 {
            rig.crash();
        }
    }
}
