//! Handlers that count themselves: under no limit do more run at once than it allows, however attempts end.
//!
//! Attempts succeed, fail, snooze, panic, run out of time, and are cancelled; servers drain or are cut off, and the next
//! one goes on with the same store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jobmill::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::{Output, RetryPolicy},
    proto::v1::{self, JobState},
    serve::Server,
    settings::{KindDefaults, LimitKey, LimitRule, LimitSpec, Settings},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
};

use crate::support::{QUEUE, Rig, folder, job, queue, soon, with_queue};

const TENANTS: usize = 4;
const TENANT_MAX: u64 = 2;
/// The limit of all jobs together, of which a heavy one takes two places.
const ALL_MAX: u64 = 7;
/// Number of the starts after which a server is stopped.
const STARTS: usize = 60;
/// Number of jobs of each tenant that behave the same way.
const JOBS_OF_EACH: usize = 4;
const BEHAVIOURS: [&str; 8] = ["succeed", "heavy", "fail", "snooze", "panic", "late", "deaf", "cancel"];

/// What runs at once, by limit and value, and where more ran than may.
#[derive(Default)]
struct Counts {
    now: BTreeMap<(&'static str, String), u64>,
    largest: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

/// The handler of all jobs. Each does what its payload says.
#[derive(Clone)]
struct Counting {
    counts: Arc<Mutex<Counts>>,
    starts: mpsc::Sender<(String, String)>,
}

/// An attempt that runs. It is counted until it is dropped.
struct Counted {
    counts: Arc<Mutex<Counts>>,
    places: [(&'static str, String, u64, u64); 2],
}

impl Counted {
    fn new(counts: &Arc<Mutex<Counts>>, tenant: &str, weight: u64) -> Self {
        let places = [("tenants", tenant.to_owned(), 1, TENANT_MAX), ("all", String::new(), weight, ALL_MAX)];
        let mut all = counts.lock().unwrap();
        for (name, value, weight, max) in &places {
            let now = all.now.entry((name, value.clone())).or_default();
            *now += weight;
            let now = *now;
            let largest = all.largest.entry(name).or_default();
            *largest = now.max(*largest);
            if now > *max {
                all.violations.push(format!("{now} under {name} {value}"));
            }
        }
        Counted { counts: Arc::clone(counts), places }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.counts.lock().unwrap();
        for (name, value, weight, _) in &self.places {
            *all.now.get_mut(&(*name, value.clone())).expect("it was counted") -= weight;
        }
    }
}

impl Handler for Counting {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let how = String::from_utf8_lossy(attempt.payload()).into_owned();
        let counted =
            Counted::new(&self.counts, &attempt.labels()["tenant"], if how == "heavy" { 2 } else { 1 });
        let starts = self.starts.clone();
        Box::pin(async move {
            let _counted = counted;
            // The receiver is gone only when the test has ended.
            let _ = starts.send((attempt.id().to_string(), how.clone())).await;
            let is_first = attempt.number() == 1;
            match &*how {
                "fail" if attempt.number() < 4 => return Err(HandlerError::retryable("told to fail")),
                "snooze" if attempt.number() < 3 => {
                    return Err(HandlerError::snooze(Duration::from_millis(1)));
                }
                "panic" if is_first => panic!("told to panic"),
                "deaf" if is_first => std::future::pending::<()>().await,
                "late" if !is_first => {}
                "late" | "cancel" => attempt.cancelled().await,
                _ => {}
            }
            // Others have a chance to start while this one goes on, or stops.
            for _ in 0..20 {
                yield_now().await;
            }
            match attempt.cancellation_token().is_cancelled() {
                true => Err(HandlerError::retryable("told to stop")),
                false => Ok(Output::default()),
            }
        })
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_millis(20)
    }
}

async fn start(settings: &Settings, handler: &Counting) -> Rig {
    let defaults = KindDefaults {
        retry: RetryPolicy {
            initial_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(1),
            ..RetryPolicy::DEFAULT
        },
        ..KindDefaults::default()
    };
    Rig::start(Server::builder(settings.clone()).handler("count", defaults, handler.clone())).await
}

fn settings(home: &std::path::Path) -> Settings {
    let mut settings = with_queue(folder(home), QUEUE, queue(30));
    settings.drain_timeout = Duration::from_millis(10);
    let tenants = LimitSpec::new(LimitRule::Running(TENANT_MAX as u32)).by(LimitKey::Label("tenant".into()));
    settings.job_limits.insert("tenants".to_owned(), tenants);
    settings.job_limits.insert("all".to_owned(), LimitSpec::new(LimitRule::Running(ALL_MAX as u32)));
    settings
}

/// Returns jobs of all tenants with all behaviours.
fn jobs() -> Vec<v1::JobSpec> {
    let spec = |tenant: usize, how: &str| v1::JobSpec {
        labels: [("tenant".to_owned(), format!("tenant-{tenant}"))].into(),
        weights: [("all".to_owned(), if how == "heavy" { 2 } else { 1 })].into(),
        payload: Some(v1::Payload::of(how.to_owned())),
        // Only those that wait for it are late.
        attempt_timeout: ["late", "deaf"]
            .contains(&how)
            .then_some(prost_types::Duration { seconds: 0, nanos: 30_000_000 }),
        max_attempts: 1_000,
        max_process_losses: 100,
        ..job("count")
    };
    let each = (0..JOBS_OF_EACH).flat_map(|_| 0..TENANTS);
    each.flat_map(|tenant| BEHAVIOURS.map(|how| spec(tenant, how))).collect()
}

/// Cancels the jobs that start and wait for it. Returns after this number of starts.
async fn hear(rig: &Rig, started: &mut mpsc::Receiver<(String, String)>, starts: usize) {
    for _ in 0..starts {
        let (id, how) = soon(started.recv()).await.expect("a start");
        if how == "cancel" {
            // It was started by the server before, and that one's end may have been its own.
            let _ = rig.cancel(&id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handler_sees_more_at_once_than_the_limits_allow_however_attempts_and_servers_end() {
    let home = tempfile::tempdir().unwrap();
    let (starts, mut started) = mpsc::channel(100_000);
    let handler = Counting { counts: Arc::default(), starts };
    let settings = settings(home.path());
    let mut all = Vec::new();
    for is_drained in [true, false, true, false] {
        let rig = start(&settings, &handler).await;
        all.extend(rig.submit_batch(jobs()).await);
        hear(&rig, &mut started, STARTS).await;
        if is_drained {
            rig.stop().await;
        } else {
            rig.force().await;
        }
        assert_eq!(handler.counts.lock().unwrap().now.values().sum::<u64>(), 0, "nothing outlives a server");
    }
    let rig = Arc::new(start(&settings, &handler).await);
    let mut ends = JoinSet::new();
    for id in all.clone() {
        let rig = Arc::clone(&rig);
        ends.spawn(async move { rig.ends(&id).await });
    }
    let mut states = BTreeMap::new();
    while !ends.is_empty() {
        tokio::select! {
            ended = soon(ends.join_next()) => {
                let ended = ended.unwrap().unwrap();
                *states.entry(ended.state().as_str_name()).or_insert(0) += 1;
                let how = ended.spec.as_ref().unwrap().payload.as_ref().unwrap().bytes();
                let expected = if how == b"cancel" { JobState::Cancelled } else { JobState::Succeeded };
                assert_eq!(ended.state(), expected, "{ended:?}");
            }
            Some((id, how)) = started.recv() => if how == "cancel" {
                let _ = rig.cancel(&id).await;
            },
        }
    }
    let counts = std::mem::take(&mut *handler.counts.lock().unwrap());
    assert_eq!(counts.violations, [""; 0]);
    assert_eq!(counts.largest, [("tenants", TENANT_MAX), ("all", ALL_MAX)].into());
    assert_eq!(states.values().sum::<i32>() as usize, all.len());
}
