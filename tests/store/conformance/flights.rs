//! The number of store calls of a batch: small and constant, whatever the batch brings.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use jobmill::{
    engine::{NewJob, PoolId, ReportBody},
    job::Job,
    store::{
        Names, Reader, Store, StoreError,
        memory::MemoryStore,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
};

use crate::store::{
    batch::{Applied, Batch, Control, ControlDone, Report, Setup},
    build::{at, job, present, settings},
    rig::{Rig, created, failed, lease, offer, succeeded},
    subject::Product,
    workers::{checkpoint, hello, pool, report},
};

/// A store that counts its calls.
struct Counted {
    store: MemoryStore,
    flights: Arc<AtomicUsize>,
}

impl Store for Counted {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.flights.fetch_add(1, Ordering::Relaxed);
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.flights.fetch_add(1, Ordering::Relaxed);
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        self.flights.fetch_add(1, Ordering::Relaxed);
        self.store.write(writes)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

/// Returns the number of store calls of the start and of each batch of a history with this many jobs: new ones, some
/// with request ids and some scheduled, reports, cancels, repeats, promotion, a purge, retention.
fn flights(jobs: usize) -> Vec<usize> {
    let flights = Arc::<AtomicUsize>::default();
    let store = Counted { store: MemoryStore::new(), flights: Arc::clone(&flights) };
    let setup = Setup {
        present: present(0),
        served_kinds: vec![Rig::KIND.into()],
        declared_queues: [
            ("run".to_owned(), settings(10_000, 100_000)),
            ("wait".to_owned(), settings(0, 100_000)),
        ]
        .into(),
        ..Setup::default()
    };
    let mut product = Product::open(Box::new(store), setup).unwrap();
    let mut counts = vec![flights.swap(0, Ordering::Relaxed)];
    let mut apply = |seconds: i64, batch: Batch| -> Applied {
        let applied = product.apply(Batch { present: present(seconds), claim: true, ..batch }).unwrap();
        counts.push(flights.swap(0, Ordering::Relaxed));
        applied
    };
    let later = NewJob { run_time: Some(at(50).into()), ..job("wait", Rig::KIND) };
    let offers = vec![
        offer(vec![job("run", Rig::KIND); jobs]),
        offer(vec![job("wait", Rig::KIND); jobs]),
        offer(vec![later; jobs]),
    ];
    let mut applied = apply(1, Batch { offers, ..Batch::default() });
    applied.offers.remove(2);
    let waiting = created(applied.offers.remove(1));
    let running = created(applied.offers.remove(0));
    let report = |job: &Arc<Job>| Report { id: job.id, lease: lease(job), body: succeeded() };
    let reports = running.iter().map(report).collect();
    let controls = waiting.iter().map(|job| Control::Cancel(job.id)).collect();
    apply(2, Batch { reports, controls, ..Batch::default() });
    apply(50, Batch::default());
    apply(51, Batch { controls: vec![Control::Purge { name: "wait".into() }], ..Batch::default() });
    // A day later, retention deletes what has ended.
    apply(2 * 24 * 3_600, Batch::default());
    apply(2 * 24 * 3_600 + 10, Batch::default());
    counts
}

#[test]
fn the_number_of_store_calls_does_not_depend_on_the_number_of_jobs() {
    let one = flights(1);
    assert_eq!(one[0], 3, "a start loads, reads and writes");
    assert_eq!(one[1..], vec![2; one.len() - 1], "a batch reads once and writes once");
    assert_eq!(flights(10), one);
    assert_eq!(flights(1_000), one);
}

/// Returns the number of store calls of each batch of a history with remote workers, each of which runs this many jobs:
/// hellos, assignments, reports with checkpoints, repeats, hellos with leases, new processes, a review.
fn worker_flights(workers: usize, jobs: usize) -> Vec<usize> {
    let flights = Arc::<AtomicUsize>::default();
    let store = Counted { store: MemoryStore::new(), flights: Arc::clone(&flights) };
    let declared_queues = [("q".to_owned(), settings(0, 100_000))].into();
    let setup = Setup { present: present(0), declared_queues, ..Setup::default() };
    let mut product = Product::open(Box::new(store), setup).unwrap();
    let mut counts = vec![flights.swap(0, Ordering::Relaxed)];
    let mut apply = |product: &mut Product, batch: Batch| -> Applied {
        let applied = product.apply(Batch { present: present(1), claim: true, ..batch }).unwrap();
        counts.push(flights.swap(0, Ordering::Relaxed));
        applied
    };
    let hellos = |process: &str| {
        let hello = |number| hello(&format!("worker-{number}"), process, &["far"]);
        (0..workers).map(hello).collect::<Vec<_>>()
    };
    let controls = hellos("1").into_iter().map(Control::RegisterWorker).collect();
    let mut numbers = Vec::new();
    for done in apply(&mut product, Batch { controls, ..Batch::default() }).controls {
        let Ok(ControlDone::Registered(registered)) = done else { panic!("{done:?}") };
        numbers.push(registered.worker.number());
        let session = product.board.open(registered.worker, vec![pool(&["far"], &[])], 1 << 20);
        product.board.credit(PoolId { session, index: 0 }, jobs as u32);
    }
    let offers = vec![offer(vec![job("q", "far"); workers * jobs])];
    let assigned = apply(&mut product, Batch { offers, ..Batch::default() }).assigned;
    assert_eq!(assigned.len(), workers * jobs);
    let (mut reports, mut listing) = (Vec::new(), hellos("1"));
    for (index, assignment) in assigned.iter().enumerate() {
        let body = match index % 3 {
            0 => succeeded(),
            1 => failed(true, ""),
            _ => ReportBody::Checkpoint,
        };
        let mut report = report(assignment.worker, &assignment.claim.job, body);
        report.checkpoint = checkpoint(1, "x");
        reports.push(report);
        let worker = numbers.iter().position(|number| *number == assignment.worker).unwrap();
        let leases = listing[worker].leases.get_or_insert_default();
        leases.push((assignment.claim.job.id, assignment.claim.lease));
    }
    for _ in 0..2 {
        apply(&mut product, Batch { worker_reports: reports.clone(), ..Batch::default() });
    }
    for hellos in [listing, hellos("2")] {
        let controls = hellos.into_iter().map(Control::RegisterWorker).collect();
        apply(&mut product, Batch { controls, ..Batch::default() });
    }
    apply(&mut product, Batch { controls: vec![Control::ReviewWorkers], ..Batch::default() });
    counts
}

#[test]
fn the_number_of_store_calls_does_not_depend_on_the_number_of_workers() {
    let one = worker_flights(1, 1);
    assert_eq!(one[1..], vec![2; one.len() - 1], "a batch reads once and writes once");
    assert_eq!(worker_flights(1, 300), one);
    assert_eq!(worker_flights(300, 1), one);
    assert_eq!(worker_flights(100, 10), one);
}
