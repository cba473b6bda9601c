//! Jobs submitted and watched in process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobmill::{
    client::Client,
    execute::Attempt,
    handle::{JobEvent, JobRequest, OfferRefusal, OutcomeError, SpawnRequest, SubmitError},
    job::{OnConflict, Output, StateName, SubmitOutcome, UniqueKey, names::CLOSURE_KIND},
    proto::v1,
    serve::{ServeError, Server},
    settings::{KindDefaults, QueueSettings, Settings, StoreSettings, WhenFull},
};
use tokio::sync::Semaphore;

use super::{TEST_TIMEOUT, builder, builder_with, occupy, one_slot, shout, soon, start, stop, text_output};

#[tokio::test]
async fn a_job_is_submitted_watched_and_its_result_read_in_process() {
    let server = start().await;
    let handle = server.handle();
    let request =
        JobRequest::new("shout").payload("hello").payload_type("text/plain").label("customer", "acme");
    let submitted = soon(handle.submit(request)).await.unwrap();
    assert!(submitted.created());

    let outcome = soon(submitted.outcome()).await.unwrap();
    assert_eq!(outcome.job.state.name(), StateName::Succeeded);
    assert_eq!(outcome.into_result().unwrap(), text_output("HELLO"));

    let whole = soon(handle.get(submitted.id())).await.unwrap().unwrap();
    assert_eq!(whole.payload, "hello");
    assert_eq!(whole.output_tail, "shouting\n");
    assert_eq!(whole.job.spec.labels().unwrap()["customer"], "acme");
    assert_eq!(soon(handle.get("0000000000000".parse().unwrap())).await.unwrap(), None);
    stop(server).await;
}

#[tokio::test]
async fn a_watch_tells_each_step_and_ends_with_the_job() {
    let server = builder_with(StoreSettings::Memory, one_slot()).start().await.unwrap();
    let handle = server.handle();
    let (_, release) = occupy(&handle).await;
    let submitted = soon(handle.submit(JobRequest::new("shout").queue("small").payload("x"))).await.unwrap();

    let mut watch = submitted.watch();
    let Some(Ok(JobEvent::Snapshot(job))) = soon(watch.next()).await else { panic!("no snapshot") };
    assert_eq!(job.state.name(), StateName::Queued);
    drop(release);
    let (mut states, mut lines) = (Vec::new(), Vec::new());
    while let Some(event) = soon(watch.next()).await {
        match event.unwrap() {
            JobEvent::Updated { job, merged } => {
                assert_eq!(merged, Some(0));
                states.push(job.state.name());
            }
            JobEvent::Output(line) => lines.push(line.text.to_string()),
            other @ (JobEvent::Snapshot(_) | JobEvent::Deleted | JobEvent::NotFound) => panic!("{other:?}"),
        }
    }
    assert_eq!(states, [StateName::Running, StateName::Succeeded]);
    assert_eq!(lines, ["shouting"]);

    let mut again = handle.watch(submitted.id());
    assert!(matches!(soon(again.next()).await, Some(Ok(JobEvent::Snapshot(job))) if job.state.is_done()));
    assert!(soon(again.next()).await.is_none());
    let nobody = "0000000000001".parse().unwrap();
    assert!(matches!(soon(handle.watch(nobody).next()).await, Some(Ok(JobEvent::NotFound))));
    assert!(
        matches!(soon(handle.watch(nobody).outcome()).await, Err(OutcomeError::Gone(id)) if id == nobody)
    );
    stop(server).await;
}

#[tokio::test]
async fn a_failure_is_told_with_its_reason_and_code() {
    let server = start().await;
    let submitted = soon(server.handle().submit(JobRequest::new("shout"))).await.unwrap();
    let error = soon(submitted.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!(error.state, StateName::Failed);
    assert_eq!(error.failure.as_ref().unwrap().code, "EMPTY");
    let told = format!("the job {} is FAILED (handler error): nothing to shout", submitted.id());
    assert_eq!(error.to_string(), told);
    stop(server).await;
}

#[tokio::test]
async fn a_repeat_with_its_request_id_finds_the_first_job_even_when_delayed() {
    let server = start().await;
    let handle = server.handle();
    let request = || JobRequest::new("shout").payload("x").request_id("r1").delay(Duration::from_secs(3600));
    let first = soon(handle.submit(request())).await.unwrap();
    assert_eq!(first.job().unwrap().state.name(), StateName::Scheduled);
    let second = soon(handle.submit(request())).await.unwrap();
    assert_eq!((second.id(), second.created()), (first.id(), false));
    let other = soon(handle.submit(request().payload("y"))).await.unwrap_err();
    assert!(matches!(other, SubmitError::Refused(_)), "{other}");

    assert_eq!(soon(handle.cancel(first.id())).await.unwrap().state.name(), StateName::Cancelled);
    soon(handle.cancel(first.id())).await.unwrap();
    let error = soon(first.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!((error.state, error.failure), (StateName::Cancelled, None));
    stop(server).await;
}

#[tokio::test]
async fn a_repeat_whose_job_was_deleted_is_gone_and_makes_no_other() {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen.set_port(0);
    let builder = Server::builder(settings).handler("shout", KindDefaults::default(), shout);
    let server = soon(builder.start()).await.unwrap();
    let client = Client::connect(&server.local_addr().unwrap().to_string()).await.unwrap();
    let handle = server.handle();
    let request = || JobRequest::new("shout").payload("x").request_id("r1");
    let first = soon(handle.submit(request())).await.unwrap();
    soon(first.outcome()).await.unwrap();
    let repeated = soon(handle.submit(request())).await.unwrap();
    assert_eq!((repeated.fate(), repeated.id()), (SubmitOutcome::Repeated, first.id()));
    assert_eq!(repeated.job().unwrap().state.name(), StateName::Succeeded);
    soon(client.delete_job(first.id().to_string())).await.unwrap();
    let gone = soon(handle.submit(request())).await.unwrap();
    assert_eq!((gone.fate(), gone.id(), gone.created()), (SubmitOutcome::Gone, first.id(), false));
    assert!(gone.job().is_none());
    assert!(matches!(soon(gone.outcome()).await, Err(OutcomeError::Gone(id)) if id == first.id()));
    assert_eq!(soon(client.count_jobs(v1::JobFilter::default())).await.unwrap().total, 0);
    drop(client);
    stop(server).await;
}

#[tokio::test]
async fn a_full_queue_makes_its_producers_wait() {
    const CAPACITY: usize = 3;
    const JOBS: usize = 20;
    let small = QueueSettings { max_jobs: CAPACITY as u64, max_wait: TEST_TIMEOUT, ..one_slot() };
    let turns = Arc::new(Semaphore::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let (work_turns, work_done) = (Arc::clone(&turns), Arc::clone(&done));
    let step = move |_: Attempt| {
        let (turns, done) = (Arc::clone(&work_turns), Arc::clone(&work_done));
        async move {
            turns.acquire().await?.forget();
            done.fetch_add(1, Ordering::SeqCst);
            Ok(Output::default())
        }
    };
    let server = builder_with(StoreSettings::Memory, small)
        .handler("step", KindDefaults::default(), step)
        .start()
        .await
        .unwrap();
    let handle = server.handle();
    let request = || JobRequest::new("step").queue("small");
    for _ in 0..CAPACITY {
        soon(handle.submit(request())).await.unwrap();
    }
    // A refused submission fails at once with `Full`; a waiting one returns once there is room.
    let refused = soon(handle.submit(request().when_full(WhenFull::Reject))).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Full { .. }), "{refused}");
    let mut waits = Box::pin(handle.submit(request()));
    assert!(futures_util::poll!(&mut waits).is_pending());
    turns.add_permits(1);
    soon(&mut waits).await.unwrap();

    let mut last = None;
    for accepted in CAPACITY + 2..=JOBS {
        // Each acceptance needs the end of a job, so that the queue never exceeds its capacity.
        turns.add_permits(1);
        last = Some(soon(handle.submit(request())).await.unwrap());
        assert!(accepted - done.load(Ordering::SeqCst) <= CAPACITY + 1);
    }
    turns.add_permits(CAPACITY);
    soon(last.unwrap().outcome()).await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), JOBS);
    stop(server).await;
}

#[tokio::test]
async fn kinds_that_nothing_runs_and_jobmills_own_are_refused_from_everywhere() {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen.set_port(0);
    let server = Server::builder(settings).start().await.unwrap();
    let handle = server.handle();
    let own = soon(handle.submit(JobRequest::new(CLOSURE_KIND))).await.unwrap_err();
    let told = "the name starts with `jobmill/`; such kinds are Jobmill's own: choose another name";
    assert_eq!(own.to_string(), format!("kind: {told}"));
    let unknown = soon(handle.submit(JobRequest::new("nothing"))).await.unwrap_err();
    assert!(
        unknown
            .to_string()
            .starts_with("no handler here and no worker runs the kind `nothing` (known: none)"),
        "{unknown}"
    );

    let client = Client::connect(&server.local_addr().unwrap().to_string()).await.unwrap();
    let job = v1::JobSpec { queue: "default".into(), kind: CLOSURE_KIND.into(), ..Default::default() };
    let request = v1::SubmitRequest { job: Some(job), ..Default::default() };
    let refused = soon(client.submit(request)).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("job.kind: {told}")), "{refused}");
    drop(client);
    stop(server).await;

    for kind in [CLOSURE_KIND, "two words", ""] {
        let built = builder(StoreSettings::Memory).handler(kind, KindDefaults::default(), shout);
        let error = soon(built.start()).await.unwrap_err();
        assert!(matches!(error, ServeError::KindName { .. }), "{error}");
    }
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let server = start().await;
    let request = JobRequest::new("").queue("No").priority(-101).timeout(Duration::ZERO).request_id("a\0b");
    let error = soon(server.handle().submit(request)).await.unwrap_err();
    let SubmitError::Invalid(faults) = &error else { panic!("{error}") };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["queue", "kind", "priority", "attempt_timeout", "request_id"]);
    stop(server).await;
}

#[tokio::test]
async fn without_a_listener_no_port_is_bound() {
    // The port is taken, so that a server that binds it can't start.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen = taken.local_addr().unwrap();
    let error = soon(Server::builder(settings.clone()).start()).await.unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }), "{error}");
    let server = soon(Server::builder(settings).without_listener().start()).await.unwrap();
    assert_eq!(server.local_addr(), None);
    stop(server).await;
}

#[tokio::test]
async fn metrics_and_traces_need_no_port() {
    let server = start().await;
    let handle = server.handle();
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = JobRequest::new("shout").payload("hello").traceparent(context);
    let submitted = soon(handle.submit(request)).await.unwrap();
    assert_eq!(submitted.job().unwrap().spec.extras.as_ref().unwrap().traceparent, context);
    soon(submitted.outcome()).await.unwrap();
    let (seen, closure) = tokio::sync::oneshot::channel();
    let request = SpawnRequest::on("default").traceparent(context);
    let spawned = handle.spawn(request, |attempt: Attempt| async move {
        let _ = seen.send(attempt.traceparent().map(str::to_owned));
        Ok(Output::default())
    });
    soon(soon(spawned).await.unwrap().outcome()).await.unwrap();
    assert_eq!(soon(closure).await.unwrap().as_deref(), Some(context));
    soon(handle.submit(JobRequest::new("nobody"))).await.unwrap_err();

    assert_eq!(server.metrics_addr(), None);
    let page = soon(handle.metrics()).await.unwrap();
    for line in [
        r#"jobmill_jobs_submitted_total{kind="shout"} 1"#,
        r#"jobmill_jobs_ended_total{kind="other",state="succeeded"} 1"#,
        r#"jobmill_submissions_rejected_total{reason="UNKNOWN_KIND"} 1"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    stop(server).await;
}

#[tokio::test]
async fn a_job_with_a_unique_key_is_met_by_later_ones() {
    let server = builder_with(StoreSettings::Memory, one_slot()).start().await.unwrap();
    let handle = server.handle();
    let (_, release) = occupy(&handle).await;
    let request = |payload: &str, key: UniqueKey| {
        JobRequest::new("shout").queue("small").payload(payload.to_owned()).unique(key)
    };
    let first = soon(handle.submit(request("first", "order 17".into()))).await.unwrap();
    assert_eq!(first.fate(), SubmitOutcome::Created);
    let met = soon(handle.submit(request("second", "order 17".into()))).await.unwrap();
    assert_eq!((met.fate(), met.id(), met.created()), (SubmitOutcome::Existing, first.id(), false));
    let replace = || UniqueKey::new("order 17").while_waiting(OnConflict::Replace);
    let met = soon(handle.submit(request("third", replace()))).await.unwrap();
    assert_eq!((met.fate(), met.id()), (SubmitOutcome::Replaced, first.id()));
    let reject = UniqueKey::new("order 17").while_waiting(OnConflict::Reject);
    match soon(handle.submit(request("fourth", reject))).await {
        Err(SubmitError::Refused(OfferRefusal::KeyHeld { holder, .. })) => {
            assert_eq!(holder, Some(first.id()))
        }
        other => panic!("{other:?}"),
    }
    let contradicting = replace().with_hold(Duration::ZERO).once_started(OnConflict::Replace);
    match soon(handle.submit(request("", contradicting))).await {
        Err(SubmitError::Invalid(faults)) => {
            let told: Vec<_> = faults.iter().map(|fault| (fault.field, &fault.problem[..12])).collect();
            assert_eq!(told, [("unique_key", "on_started c"), ("unique_key", "hold is 0s; ")]);
        }
        other => panic!("{other:?}"),
    }
    drop(release);
    assert_eq!(soon(first.outcome()).await.unwrap().into_result().unwrap(), text_output("THIRD"));
    stop(server).await;
}
