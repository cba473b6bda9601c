//! A batch that does not fit on the disk leaves workers, leases and credits as they were.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jobmill::{
    engine::{NewPool, PoolId},
    job::{JobId, StateName, WorkerProcess},
    store::{
        Names, Reader, Store, StoreError,
        memory::MemoryStore,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
};

use crate::store::{
    batch::{Applied, Batch, Control, ControlDone, Offer, Setup, WorkerReport},
    build::{job, present, settings},
    rig::{offer, succeeded},
    subject::Product,
    workers::{assigned, hello, hello_with, pool, report, takers},
};

/// A store whose disk is full while the flag is set.
struct Bounded {
    store: MemoryStore,
    is_full: Arc<AtomicBool>,
}

impl Store for Bounded {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(StoreError::DiskFull("no space is left".into())),
            false => self.store.write(writes),
        }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

/// A product on such a store, with a queue that only workers serve.
struct Bench {
    product: Product,
    reader: Arc<dyn Reader>,
    is_full: Arc<AtomicBool>,
}

impl Bench {
    fn open() -> Self {
        let (store, is_full) = (MemoryStore::new(), Arc::<AtomicBool>::default());
        let reader = store.reader();
        let declared_queues = [("q".to_owned(), settings(0, 1_000))].into();
        let setup = Setup { present: present(0), declared_queues, ..Setup::default() };
        let store = Bounded { store, is_full: Arc::clone(&is_full) };
        Bench { product: Product::open(Box::new(store), setup).unwrap(), reader, is_full }
    }

    fn apply(&mut self, batch: Batch) -> Applied {
        self.product.apply(Batch { present: present(1), claim: true, ..batch }).unwrap()
    }

    /// Applies a batch that does not fit on the disk.
    fn fail(&mut self, batch: Batch) {
        self.is_full.store(true, Ordering::Relaxed);
        let applied = self.product.try_to_apply(Batch { present: present(1), claim: true, ..batch }).unwrap();
        assert!(applied.is_none());
        self.is_full.store(false, Ordering::Relaxed);
    }

    fn worker(&mut self, instance: &str, process: &str) -> Arc<WorkerProcess> {
        let controls = vec![Control::RegisterWorker(hello(instance, process, &["far"]))];
        match self.apply(Batch { controls, ..Batch::default() }).controls.pop().unwrap() {
            Ok(ControlDone::Registered(registered)) => registered.worker,
            other => panic!("no registration: {other:?}"),
        }
    }

    fn session(&self, worker: &Arc<WorkerProcess>, room: u64, credits: u32) -> PoolId {
        let pools: Vec<NewPool> = vec![pool(&["far"], &[])];
        let session = self.product.board.open(Arc::clone(worker), pools, room);
        let pool = PoolId { session, index: 0 };
        self.product.board.credit(pool, credits);
        pool
    }

    fn state(&self, id: JobId) -> StateName {
        self.reader.job(id).unwrap().unwrap().state.name()
    }
}

fn jobs(count: usize) -> Vec<Offer> {
    vec![offer(vec![job("q", "far"); count])]
}

#[test]
fn a_batch_that_does_not_fit_on_the_disk_gives_credits_back() {
    let mut bench = Bench::open();
    let [a, b] = ["a", "b"].map(|instance| bench.worker(instance, "1"));
    // The second one has room for one job.
    bench.session(&a, 1 << 20, 2);
    bench.session(&b, 1, 2);
    for _ in 0..3 {
        bench.fail(Batch { offers: jobs(5), ..Batch::default() });
    }
    let mut got = takers(&bench.apply(Batch { offers: jobs(5), ..Batch::default() }));
    got.sort_unstable();
    assert_eq!(got, [a.number(), a.number(), b.number()]);
    assert_eq!(assigned(&bench.apply(Batch::default())), []);
}

#[test]
fn a_batch_that_does_not_fit_on_the_disk_replaces_no_process() {
    let mut bench = Bench::open();
    let old = bench.worker("a", "1");
    let pool = bench.session(&old, 1 << 20, 3);
    let first = assigned(&bench.apply(Batch { offers: jobs(1), ..Batch::default() }))[0];
    let replace = || Batch {
        controls: vec![Control::RegisterWorker(hello("a", "2", &["wide"]))],
        offers: jobs(1),
        ..Batch::default()
    };
    bench.fail(replace());
    // The old process keeps its lease, its session and its credits.
    assert_eq!(bench.state(first), StateName::Running);
    let second = bench.apply(Batch { offers: jobs(1), ..Batch::default() });
    assert_eq!((takers(&second), second.assigned[0].pool), (vec![old.number()], pool));
    let running = bench.reader.job(first).unwrap().unwrap();
    let end: WorkerReport = report(old.number(), &running, succeeded());
    bench.fail(Batch { worker_reports: vec![end.clone()], ..Batch::default() });
    assert_eq!(bench.state(first), StateName::Running);
    let answers = bench.apply(Batch { worker_reports: vec![end], ..Batch::default() }).answers;
    assert_eq!((answers.len(), answers[0].result), (1, Ok(())));
    // The next try ends what is left.
    let applied = bench.apply(replace());
    assert_eq!((applied.superseded, applied.assigned.len()), (vec![old.number()], 0));
    assert_eq!(bench.state(second.assigned[0].claim.job.id), StateName::BackingOff);
}

#[test]
fn a_batch_that_does_not_fit_on_the_disk_releases_no_lease() {
    let mut bench = Bench::open();
    let worker = bench.worker("a", "1");
    bench.session(&worker, 1 << 20, 1);
    let id = assigned(&bench.apply(Batch { offers: jobs(1), ..Batch::default() }))[0];
    let hello =
        || Batch { controls: vec![Control::RegisterWorker(hello_with("a", "1", &[]))], ..Batch::default() };
    bench.fail(hello());
    assert_eq!(bench.state(id), StateName::Running);
    bench.apply(hello());
    assert_eq!(bench.state(id), StateName::Queued);
}
