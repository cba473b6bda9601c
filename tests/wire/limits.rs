//! Limits of the jobs that run at once or start in a time, over the wire.

use std::{fs, time::Duration};

use jobmill::{
    clock::Clock,
    proto::v1::{
        self, JobState, LimitState, Pending, PendingReason,
        limit::{Key, Rule},
        limit_service_client::LimitServiceClient,
    },
    serve::Server,
    settings::{LimitRule, LimitSpec, Settings, TokenHash},
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    metrics::Scrape,
    queues::in_queue,
    support::{
        QUEUE, Rig, Stage, defaults, folder, job, manual_clock, memory, queue, refusal, simple, soon,
        submission, with_queue,
    },
};

impl Rig {
    pub(crate) fn job_limits(&self) -> LimitServiceClient<Channel> {
        LimitServiceClient::new(self.channel.clone())
    }
}

/// Returns a limit of the jobs that run at once.
pub(crate) fn running(name: &str, max_running: i32) -> v1::Limit {
    v1::Limit {
        name: name.to_owned(),
        rule: Some(Rule::MaxRunning(max_running)),
        key: Some(Key::All(true)),
        ..Default::default()
    }
}

fn by_label(name: &str, max_running: i32) -> v1::Limit {
    v1::Limit { key: Some(Key::ByLabel("tenant".to_owned())), ..running(name, max_running) }
}

fn rate(count: i32, seconds: i64, burst: i32) -> v1::Rate {
    v1::Rate { count, per: Some(prost_types::Duration { seconds, nanos: 0 }), burst }
}

fn rated(name: &str, rate: v1::Rate) -> v1::Limit {
    v1::Limit { rule: Some(Rule::Rate(rate)), ..running(name, 0) }
}

pub(crate) async fn create(rig: &Rig, limit: v1::Limit) -> Result<v1::Limit, Status> {
    let request = v1::CreateLimitRequest { limit: Some(limit), ..Default::default() };
    Ok(soon(rig.job_limits().create_limit(request)).await?.into_inner().limit.expect("the limit"))
}

async fn get(rig: &Rig, name: &str) -> Result<v1::Limit, Status> {
    let response = soon(rig.job_limits().get_limit(v1::GetLimitRequest::from(name))).await?;
    Ok(response.into_inner().limit.expect("the limit"))
}

async fn update(rig: &Rig, limit: v1::Limit) -> Result<v1::Limit, Status> {
    let request = v1::UpdateLimitRequest { limit: Some(limit), ..Default::default() };
    Ok(soon(rig.job_limits().update_limit(request)).await?.into_inner().limit.expect("the limit"))
}

async fn delete(rig: &Rig, name: &str) -> Result<(), Status> {
    soon(rig.job_limits().delete_limit(v1::DeleteLimitRequest::from(name))).await.map(drop)
}

fn exception(limit: &str, value: &str, rule: v1::limit_override::Rule) -> v1::SetLimitOverrideRequest {
    let exception = v1::LimitOverride { limit: limit.to_owned(), value: value.to_owned(), rule: Some(rule) };
    v1::SetLimitOverrideRequest { r#override: Some(exception), ..Default::default() }
}

async fn set(rig: &Rig, limit: &str, value: &str, max_running: i32) -> Result<(), Status> {
    let request = exception(limit, value, v1::limit_override::Rule::MaxRunning(max_running));
    soon(rig.job_limits().set_limit_override(request)).await.map(drop)
}

async fn unset(rig: &Rig, limit: &str, value: &str) -> Result<(), Status> {
    let (limit, value) = (limit.to_owned(), value.to_owned());
    let request = v1::DeleteLimitOverrideRequest { limit, value, ..Default::default() };
    soon(rig.job_limits().delete_limit_override(request)).await.map(drop)
}

async fn list(rig: &Rig, page_size: i32, page_token: &str) -> (Vec<String>, String) {
    let request =
        v1::ListLimitsRequest { page_size, page_token: page_token.to_owned(), ..Default::default() };
    let page = soon(rig.job_limits().list_limits(request)).await.unwrap().into_inner();
    (page.limits.into_iter().map(|limit| limit.name).collect(), page.next_page_token)
}

async fn values(rig: &Rig, request: v1::ListLimitValuesRequest) -> (Vec<v1::LimitValue>, String) {
    let page = soon(rig.job_limits().list_limit_values(request)).await.unwrap().into_inner();
    (page.values, page.next_page_token)
}

/// Returns all values of a limit.
async fn all_values(rig: &Rig, limit: &str) -> Vec<v1::LimitValue> {
    let request = v1::ListLimitValuesRequest { limit: limit.to_owned(), ..Default::default() };
    values(rig, request).await.0
}

/// Starts a server whose jobs of the kind `held` end when the test says so.
async fn staged() -> (Rig, Stage) {
    let (handler, stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(10));
    (Rig::start(Server::builder(settings).handler("held", defaults(), handler)).await, stage)
}

fn of_tenant(tenant: &str) -> v1::JobSpec {
    v1::JobSpec { labels: [("tenant".to_owned(), tenant.to_owned())].into(), ..job("held") }
}

fn weighing(limit: &str, weight: i32) -> v1::JobSpec {
    v1::JobSpec { weights: [(limit.to_owned(), weight)].into(), ..job("held") }
}

async fn pending(rig: &Rig, id: &str) -> Vec<Pending> {
    rig.get(id).await.pending
}

fn because(reason: PendingReason, subject: &str, job_ids: &[&str]) -> Pending {
    let job_ids = job_ids.iter().map(|id| (*id).to_owned()).collect();
    Pending { reason: reason as i32, subject: subject.to_owned(), job_ids, ..Default::default() }
}

/// Returns the code, the reason and the fields of a refusal.
fn told(status: &Status) -> (Code, String, Vec<String>) {
    let refused = refusal(status);
    (refused.code, refused.reason, refused.fields)
}

fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let (code, reason, _) = told(&result.unwrap_err());
    (code, reason)
}

#[tokio::test]
async fn a_limit_is_created_read_changed_and_deleted() {
    let rig = Rig::simple().await;
    let kinds = vec!["send".to_owned(), "echo".to_owned(), "send".to_owned()];
    let said = v1::Limit { kinds, queues: vec!["mail".to_owned()], ..by_label("tenants", 3) };
    let made = create(&rig, said.clone()).await.unwrap();
    let expected = v1::Limit {
        kinds: vec!["echo".to_owned(), "send".to_owned()],
        etag: made.etag.clone(),
        state: made.state,
        namespace: "default".to_owned(),
        ..said.clone()
    };
    assert_eq!(made, expected, "its kinds are sorted, each once");
    assert_eq!(
        get(&rig, "tenants").await.unwrap(),
        v1::Limit { state: LimitState::Active.into(), ..made.clone() }
    );
    assert_eq!(reason(create(&rig, said).await), (Code::AlreadyExists, "LIMIT_EXISTS".to_owned()));

    let hourly = rated("hourly", rate(100, 3_600, 0));
    let made_rate = create(&rig, hourly).await.unwrap();
    assert_eq!(made_rate.rule, Some(Rule::Rate(rate(100, 3_600, 100))), "the burst is the count");
    for (name, key) in [("a", Key::ByQueue(true)), ("b", Key::ByKind(true))] {
        let made =
            create(&rig, v1::Limit { key: Some(key.clone()), ..running(name, 1_000_000) }).await.unwrap();
        assert_eq!((made.key, made.rule), (Some(key), Some(Rule::MaxRunning(1_000_000))));
    }
    let (page, token) = list(&rig, 3, "").await;
    assert_eq!(page, ["a", "b", "hourly"]);
    assert_eq!(list(&rig, 3, &token).await, (vec!["tenants".to_owned()], String::new()));
    assert_eq!(list(&rig, 4, "").await.1, "", "the page is full, and the last one");

    let next = v1::Limit { etag: made.etag.clone(), ..running("tenants", 7) };
    let changed = update(&rig, next.clone()).await.unwrap();
    assert_eq!((&changed.rule, &changed.key), (&Some(Rule::MaxRunning(7)), &Some(Key::All(true))));
    assert_eq!((changed.kinds.len(), changed.queues.len()), (0, 0), "all of it is replaced");
    assert_ne!(changed.etag, made.etag);
    let stale = refusal(&update(&rig, next.clone()).await.unwrap_err());
    assert_eq!((stale.code, stale.reason.as_str()), (Code::FailedPrecondition, "ETAG_MISMATCH"));
    assert_eq!(stale.metadata["etag"], changed.etag);
    update(&rig, v1::Limit { etag: "*".to_owned(), ..next.clone() }).await.unwrap();

    delete(&rig, "tenants").await.unwrap();
    let gone = (Code::NotFound, "LIMIT_NOT_FOUND".to_owned());
    assert_eq!(reason(get(&rig, "tenants").await), gone);
    assert_eq!(reason(delete(&rig, "tenants").await), gone);
    assert_eq!(reason(update(&rig, next).await), gone);
    let request = v1::ListLimitValuesRequest { limit: "tenants".to_owned(), ..Default::default() };
    assert_eq!(reason(soon(rig.job_limits().list_limit_values(request)).await), gone);
    rig.stop().await;
}

#[tokio::test]
async fn each_fault_of_a_limit_is_told_with_its_field() {
    let rig = Rig::simple().await;
    let good = || running("good", 1);
    let with_rate = |rate| rated("good", rate);
    let nameless = vec!["Not A Name".to_owned()];
    let max = prost_types::Duration { seconds: 31 * 86_400, nanos: 1 };
    let rows: [(v1::Limit, &str); 24] = [
        (running("", 1), "limit.name"),
        (running("Big", 1), "limit.name"),
        (running("good", -1), "limit.max_running"),
        (running("good", 1_000_001), "limit.max_running"),
        (running("good", i32::MIN), "limit.max_running"),
        (v1::Limit { rule: None, ..good() }, "limit.rule"),
        (v1::Limit { key: None, ..good() }, "limit.key"),
        (v1::Limit { key: Some(Key::All(false)), ..good() }, "limit.all"),
        (v1::Limit { key: Some(Key::ByQueue(false)), ..good() }, "limit.by_queue"),
        (v1::Limit { key: Some(Key::ByKind(false)), ..good() }, "limit.by_kind"),
        (v1::Limit { key: Some(Key::ByLabel(String::new())), ..good() }, "limit.by_label"),
        (v1::Limit { key: Some(Key::ByLabel("a b".to_owned())), ..good() }, "limit.by_label"),
        (v1::Limit { kinds: nameless.clone(), ..good() }, "limit.kinds[0]"),
        (v1::Limit { kinds: vec!["jobmill/closure".to_owned()], ..good() }, "limit.kinds[0]"),
        (v1::Limit { queues: nameless, ..good() }, "limit.queues[0]"),
        (v1::Limit { queues: vec!["mail".to_owned(); 101], ..good() }, "limit.queues"),
        (with_rate(rate(-1, 1, 0)), "limit.rate.count"),
        (with_rate(rate(1_000_001, 1, 0)), "limit.rate.count"),
        (with_rate(rate(1, 0, 0)), "limit.rate.per"),
        (with_rate(v1::Rate { per: None, ..rate(1, 1, 0) }), "limit.rate.per"),
        (with_rate(v1::Rate { per: Some(max), ..rate(1, 1, 0) }), "limit.rate.per"),
        (with_rate(rate(1, 1, -1)), "limit.rate.burst"),
        (with_rate(rate(1, 1, 1_000_001)), "limit.rate.burst"),
        (with_rate(rate(1, 31 * 86_400, 118)), "limit.rate.burst"),
    ];
    for (limit, field) in rows {
        let expected = (Code::InvalidArgument, "INVALID_REQUEST".to_owned(), vec![field.to_owned()]);
        assert_eq!(told(&create(&rig, limit.clone()).await.unwrap_err()), expected, "{limit:?}");
        let limit = v1::Limit { etag: "*".to_owned(), ..limit };
        assert_eq!(told(&update(&rig, limit.clone()).await.unwrap_err()), expected, "{limit:?}");
    }
    let refused = create(&rig, running("good", -1)).await.unwrap_err();
    assert!(refused.message().contains("is -1; it must be from 0 to 1000000"), "{refused:?}");
    let nothing = soon(rig.job_limits().create_limit(v1::CreateLimitRequest::default())).await.unwrap_err();
    assert_eq!(told(&nothing).2, ["limit"]);
    assert_eq!(told(&update(&rig, good()).await.unwrap_err()).2, ["limit.etag"]);
    for page_token in ["?", "PQ", &"A".repeat(500)] {
        let page_token = page_token.to_owned();
        let request = v1::ListLimitsRequest { page_token, ..Default::default() };
        let refused = soon(rig.job_limits().list_limits(request)).await.unwrap_err();
        assert_eq!(told(&refused).2, ["page_token"]);
    }
    assert_eq!(list(&rig, 0, "").await.0, [""; 0], "nothing was created");
    for limit in [
        rated("good", rate(1, 31 * 86_400, 117)),
        rated("paused", rate(0, 31 * 86_400, 0)),
        rated("slow", rate(0, 1, 1_000_000)),
        running("none", 0),
    ] {
        create(&rig, limit.clone()).await.unwrap_or_else(|status| panic!("{limit:?}: {status:?}"));
    }
    assert_eq!(get(&rig, "paused").await.unwrap().rule, Some(Rule::Rate(rate(0, 31 * 86_400, 1))));
    rig.stop().await;
}

#[tokio::test]
async fn each_fault_of_an_override_is_told() {
    use v1::limit_override::Rule;

    let rig = Rig::simple().await;
    create(&rig, by_label("tenants", 1)).await.unwrap();
    let refused =
        async |request| told(&soon(rig.job_limits().set_limit_override(request)).await.unwrap_err());
    let invalid = |field: &str| (Code::InvalidArgument, "INVALID_REQUEST".to_owned(), vec![field.to_owned()]);
    let at_most = |max| Rule::MaxRunning(max);
    for (request, field) in [
        (v1::SetLimitOverrideRequest::default(), "override"),
        (exception("No Name", "a", at_most(1)), "override.limit"),
        (exception("tenants", &"v".repeat(257), at_most(1)), "override.value"),
        (exception("tenants", "a\nb", at_most(1)), "override.value"),
        (exception("tenants", "a", at_most(-1)), "override.max_running"),
        (exception("tenants", "a", Rule::Rate(rate(1, 0, 1))), "override.rate.per"),
    ] {
        assert_eq!(refused(request.clone()).await, invalid(field), "{request:?}");
    }
    let mut without = exception("tenants", "a", at_most(1));
    without.r#override.as_mut().unwrap().rule = None;
    assert_eq!(refused(without).await, invalid("override.rule"));
    let other = refused(exception("tenants", "a", Rule::Rate(rate(1, 1, 1)))).await;
    assert_eq!(other, (Code::FailedPrecondition, "LIMIT_OF_OTHER_SORT".to_owned(), vec![]));
    let unknown = refused(exception("nobody", "a", at_most(1))).await;
    assert_eq!(unknown, (Code::NotFound, "LIMIT_NOT_FOUND".to_owned(), vec![]));
    assert_eq!(reason(unset(&rig, "nobody", "a").await), (Code::NotFound, "LIMIT_NOT_FOUND".to_owned()));
    let missing = refusal(&unset(&rig, "tenants", "a").await.unwrap_err());
    assert_eq!((missing.code, missing.reason.as_str()), (Code::NotFound, "LIMIT_OVERRIDE_NOT_FOUND"));
    assert_eq!((missing.metadata["limit"].as_str(), missing.metadata["value"].as_str()), ("tenants", "a"));

    set(&rig, "tenants", "a", 0).await.unwrap();
    let sort = v1::Limit { etag: "*".to_owned(), ..rated("tenants", rate(1, 1, 1)) };
    let refused = reason(update(&rig, sort.clone()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "LIMIT_OF_OTHER_SORT".to_owned()));
    unset(&rig, "tenants", "a").await.unwrap();
    update(&rig, sort).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn weights_must_be_of_limits_that_are_there_and_no_heavier_than_these_allow() {
    let (rig, mut stage) = staged().await;
    create(&rig, running("gpu", 4)).await.unwrap();
    let submit = async |spec| soon(rig.jobs.clone().submit(submission(spec))).await.map(drop);
    for weight in [0, -1, 1_000_001] {
        let refused = told(&submit(weighing("gpu", weight)).await.unwrap_err());
        let expected = (Code::InvalidArgument, "INVALID_REQUEST".to_owned(), vec!["job.weights".to_owned()]);
        assert_eq!(refused, expected, "{weight}");
    }
    let unknown = refusal(&submit(weighing("cpu", 1)).await.unwrap_err());
    assert_eq!((unknown.code, unknown.reason.as_str()), (Code::NotFound, "LIMIT_NOT_FOUND"));
    assert!(unknown.message.contains("weights[\"cpu\"]"), "{unknown:?}");
    let heavy = refusal(&submit(weighing("gpu", 5)).await.unwrap_err());
    assert_eq!((heavy.code, heavy.reason.as_str()), (Code::InvalidArgument, "TOO_HEAVY"));
    assert_eq!(heavy.fields, ["job.weights[\"gpu\"]"]);
    let jobs = vec![job("held"), weighing("gpu", 5)];
    let batch = v1::SubmitBatchRequest { jobs, ..Default::default() };
    let heavy = refusal(&soon(rig.jobs.clone().submit_batch(batch)).await.unwrap_err());
    assert_eq!(heavy.fields, ["jobs[1].weights[\"gpu\"]"]);
    assert_eq!(rig.total().await, 0);

    let all = rig.submit(weighing("gpu", 4)).await.id;
    let cue = stage.next().await;
    let one = rig.submit(job("held")).await.id;
    assert_eq!(pending(&rig, &one).await, [because(PendingReason::ConcurrencyLimit, "gpu", &[&all])]);
    assert_eq!(get(&rig, "gpu").await.unwrap().running, 4);
    // What waits, and has become too heavy, says so, and those behind it go on.
    let three = rig.submit(weighing("gpu", 3)).await.id;
    update(&rig, v1::Limit { etag: "*".to_owned(), ..running("gpu", 2) }).await.unwrap();
    assert_eq!(pending(&rig, &three).await, [because(PendingReason::TooHeavy, "gpu", &[])]);
    cue.succeeds();
    let next = stage.next().await;
    assert_eq!(next.id(), one);
    let behind = rig.submit(job("held")).await.id;
    let last = stage.next().await;
    assert_eq!(last.id(), behind);
    delete(&rig, "gpu").await.unwrap();
    assert_eq!(stage.next().await.id(), three, "without the limit, nothing is too heavy");
    rig.force().await;
}

#[tokio::test]
async fn two_jobs_under_a_limit_of_one_run_one_after_the_other() {
    let (rig, mut stage) = staged().await;
    create(&rig, running("one", 1)).await.unwrap();
    let first = rig.submit(job("held")).await.id;
    let cue = stage.next().await;
    let second = rig.submit(job("held")).await.id;
    let waits = rig.get(&second).await;
    assert_eq!(waits.state(), JobState::Queued);
    assert_eq!(waits.pending, [because(PendingReason::ConcurrencyLimit, "one", &[&first])]);
    assert_eq!(pending(&rig, &first).await, []);
    let [value] = &all_values(&rig, "one").await[..] else { panic!("one value") };
    let expected = v1::LimitValue {
        rule: Some(v1::limit_value::Rule::MaxRunning(1)),
        running: 1,
        has_waiting: true,
        ..Default::default()
    };
    assert_eq!(*value, expected);
    cue.succeeds();
    rig.ends(&first).await;
    let cue = stage.next().await;
    assert_eq!(cue.id(), second);
    assert_eq!(pending(&rig, &second).await, []);
    cue.succeeds();
    assert_eq!(rig.ends(&second).await.state(), JobState::Succeeded);
    assert_eq!(all_values(&rig, "one").await, []);
    rig.stop().await;
}

#[tokio::test]
async fn an_override_holds_for_its_value_alone_and_at_once() {
    let (rig, mut stage) = staged().await;
    create(&rig, by_label("tenants", 1)).await.unwrap();
    set(&rig, "tenants", "big", 2).await.unwrap();
    let big = [rig.submit(of_tenant("big")).await.id, rig.submit(of_tenant("big")).await.id];
    let mut cues = vec![stage.next().await, stage.next().await];
    let third = rig.submit(of_tenant("big")).await.id;
    let mut held = pending(&rig, &third).await;
    held.iter_mut().for_each(|pending| pending.job_ids.sort());
    let mut ids = [big[0].as_str(), big[1].as_str()];
    ids.sort_unstable();
    assert_eq!(held, [because(PendingReason::ConcurrencyLimit, "tenants=big", &ids)]);
    rig.submit(of_tenant("small")).await;
    cues.push(stage.next().await);
    let small = rig.submit(of_tenant("small")).await.id;
    assert_eq!(pending(&rig, &small).await.len(), 1);
    let free = rig.submit(job("held")).await.id;
    let cue = stage.next().await;
    assert_eq!(cue.id(), free, "jobs without the label are not limited");
    cue.succeeds();

    let shown = all_values(&rig, "tenants").await;
    let shown: Vec<_> = shown.iter().map(|value| (&*value.value, value.overridden, value.running)).collect();
    assert_eq!(shown, [("big", true, 2), ("small", false, 1)]);
    set(&rig, "tenants", "big", 3).await.unwrap();
    let cue = stage.next().await;
    assert_eq!(cue.id(), third);
    set(&rig, "tenants", "small", 0).await.unwrap();
    cues.pop().unwrap().succeeds();
    assert_eq!(pending(&rig, &small).await[0].reason(), PendingReason::ConcurrencyLimit);
    unset(&rig, "tenants", "small").await.unwrap();
    assert_eq!(stage.next().await.id(), small, "the limit's own rule holds again");
    rig.force().await;
}

#[tokio::test]
async fn a_spent_rate_and_a_paused_one_say_until_when() {
    let clock = manual_clock();
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(10));
    let builder = Server::builder(settings).handler("held", defaults(), handler);
    let rig = Rig::start(builder.clock(Clock::Manual(clock.clone()))).await;
    create(&rig, rated("hourly", rate(1, 3_600, 1))).await.unwrap();
    rig.submit(job("held")).await;
    stage.next().await.succeeds();
    let second = rig.submit(job("held")).await.id;
    let waits = pending(&rig, &second).await;
    let until = Some(prost_types::Timestamp { seconds: 1_800_003_600, nanos: 0 });
    let spent = Pending { until, ..because(PendingReason::RateLimited, "hourly", &[]) };
    assert_eq!(waits, std::slice::from_ref(&spent));
    let value = all_values(&rig, "hourly").await.remove(0);
    assert_eq!((value.next_time, value.has_waiting), (until, true));
    clock.advance(Duration::from_secs(3_600));
    stage.next().await.succeeds();
    rig.ends(&second).await;

    update(&rig, v1::Limit { etag: "*".to_owned(), ..rated("hourly", rate(0, 3_600, 0)) }).await.unwrap();
    let third = rig.submit(job("held")).await.id;
    assert_eq!(pending(&rig, &third).await, [because(PendingReason::RateLimited, "hourly", &[])]);
    delete(&rig, "hourly").await.unwrap();
    assert_eq!(stage.next().await.id(), third);
    rig.force().await;
}

#[tokio::test]
async fn a_limit_of_none_is_paused_and_goes_on_when_it_is_raised() {
    let (rig, mut stage) = staged().await;
    let paused = create(&rig, running("paused", 0)).await.unwrap();
    let id = rig.submit(job("held")).await.id;
    assert_eq!(pending(&rig, &id).await, [because(PendingReason::ConcurrencyLimit, "paused", &[])]);
    update(&rig, v1::Limit { rule: Some(Rule::MaxRunning(1)), ..paused }).await.unwrap();
    let cue = stage.next().await;
    assert_eq!(cue.id(), id);
    cue.succeeds();
    rig.ends(&id).await;
    rig.stop().await;
}

#[tokio::test]
async fn limits_and_their_overrides_outlive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let start = async || {
        let settings = with_queue(folder(home.path()), QUEUE, queue(10));
        Rig::start(Server::builder(settings).handler("held", defaults(), handler.clone())).await
    };
    let rig = start().await;
    let queues = vec![QUEUE.to_owned()];
    create(&rig, v1::Limit { queues, ..by_label("tenants", 1) }).await.unwrap();
    create(&rig, rated("hourly", rate(1_000, 3_600, 0))).await.unwrap();
    set(&rig, "tenants", "none", 0).await.unwrap();
    let before = [get(&rig, "tenants").await.unwrap(), get(&rig, "hourly").await.unwrap()];
    let id = rig.submit(of_tenant("none")).await.id;
    rig.stop().await;

    let rig = start().await;
    assert_eq!([get(&rig, "tenants").await.unwrap(), get(&rig, "hourly").await.unwrap()], before);
    let [value] = &all_values(&rig, "tenants").await[..] else { panic!("one value") };
    assert_eq!((&*value.value, value.overridden, value.has_waiting), ("none", true, true));
    assert_eq!(pending(&rig, &id).await, [because(PendingReason::ConcurrencyLimit, "tenants=none", &[])]);
    unset(&rig, "tenants", "none").await.unwrap();
    let cue = stage.next().await;
    assert_eq!(cue.id(), id);
    cue.succeeds();
    rig.ends(&id).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_declared_limit_is_read_only_but_for_its_overrides() {
    let mut settings = memory();
    settings.job_limits.insert("declared".to_owned(), LimitSpec::new(LimitRule::Running(3)));
    let rig = Rig::start(simple(settings)).await;
    let declared = get(&rig, "declared").await.unwrap();
    assert_eq!((declared.declared, &declared.rule), (true, &Some(Rule::MaxRunning(3))));
    let refused = (Code::FailedPrecondition, "LIMIT_DECLARED".to_owned());
    assert_eq!(reason(update(&rig, declared).await), refused);
    assert_eq!(reason(delete(&rig, "declared").await), refused);
    let exists = (Code::AlreadyExists, "LIMIT_EXISTS".to_owned());
    assert_eq!(reason(create(&rig, running("declared", 1)).await), exists);
    set(&rig, "declared", "", 1).await.unwrap();
    let [value] = &all_values(&rig, "declared").await[..] else { panic!("one value") };
    assert_eq!((value.overridden, &value.rule), (true, &Some(v1::limit_value::Rule::MaxRunning(1))));
    unset(&rig, "declared", "").await.unwrap();
    assert_eq!(all_values(&rig, "declared").await, []);
    rig.stop().await;
}

#[tokio::test]
async fn a_page_of_long_limits_is_cut_to_what_a_message_may_have() {
    let rig = Rig::simple().await;
    // Each has about 16 KiB.
    for n in 0..200 {
        let kinds = (0..100).map(|kind| format!("{}{kind:02}", "k".repeat(126))).collect();
        create(&rig, v1::Limit { kinds, ..running(&format!("limit-{n:03}"), 1) }).await.unwrap();
    }
    let (mut all, mut page_token) = list(&rig, 0, "").await;
    while !page_token.is_empty() {
        let (page, next) = list(&rig, 1_000, &page_token).await;
        all.extend(page);
        page_token = next;
    }
    assert_eq!(all, (0..200).map(|n| format!("limit-{n:03}")).collect::<Vec<_>>());
    rig.stop().await;
}

#[tokio::test]
async fn values_come_in_pages_the_empty_one_too() {
    let (rig, mut stage) = staged().await;
    create(&rig, by_label("tenants", 9)).await.unwrap();
    for value in ["", "a", "b é", "c"] {
        set(&rig, "tenants", value, 1).await.unwrap();
    }
    rig.submit(of_tenant("bb")).await;
    stage.next().await;
    for (only_overridden, expected) in
        [(false, &["", "a", "b é", "bb", "c"][..]), (true, &["", "a", "b é", "c"])]
    {
        for page_size in 1..=5 {
            let (mut all, mut page_token) = (Vec::new(), String::new());
            loop {
                let limit = "tenants".to_owned();
                let request = v1::ListLimitValuesRequest {
                    limit,
                    only_overridden,
                    page_size,
                    page_token,
                    ..Default::default()
                };
                let (page, next) = values(&rig, request).await;
                assert!(page.len() <= page_size as usize && !page.is_empty());
                all.extend(page.into_iter().map(|value| value.value));
                page_token = next;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(all, expected, "{page_size} {only_overridden}");
        }
    }
    for page_token in ["?", "dGVuYW50cw"] {
        let (limit, page_token) = ("tenants".to_owned(), page_token.to_owned());
        let request = v1::ListLimitValuesRequest { limit, page_token, ..Default::default() };
        let refused = soon(rig.job_limits().list_limit_values(request)).await.unwrap_err();
        assert_eq!(told(&refused).2, ["page_token"]);
    }
    rig.force().await;
}

#[tokio::test]
async fn who_may_not_read_the_job_that_holds_the_place_is_not_told_its_id() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens.toml");
    let entry = |name: &str, role: &str, queues: &str| {
        let hash = TokenHash::of(name);
        format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = ['{role}']\nqueues = ['{queues}']\n")
    };
    fs::write(&file, entry("boss", "admin", "*") + &entry("reader", "read", "open")).unwrap();
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(with_queue(memory(), "open", queue(4)), "secret", queue(4));
    let settings = Settings { tokens: Some(file), ..settings };
    let rig = Rig::start(Server::builder(settings).handler("held", defaults(), handler)).await;
    fn by<T>(token: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }
    let request = v1::CreateLimitRequest { limit: Some(running("one", 1)), ..Default::default() };
    soon(rig.job_limits().create_limit(by("boss", request))).await.unwrap();
    let submit = async |queue: &str| {
        let request = by("boss", submission(in_queue(queue, "held")));
        soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner().id().to_owned()
    };
    let holder = submit("secret").await;
    let cue = stage.next().await;
    let waiting = submit("open").await;
    for (token, ids) in [("boss", &[holder.as_str()][..]), ("reader", &[])] {
        let request = by(token, v1::GetJobRequest::from(&waiting));
        let shown = soon(rig.jobs.clone().get_job(request)).await.unwrap().into_inner().job.unwrap();
        assert_eq!(shown.pending, [because(PendingReason::ConcurrencyLimit, "one", ids)], "{token}");
    }
    // Reading needs the role on any queue, changing needs it on all.
    soon(rig.job_limits().get_limit(by("reader", v1::GetLimitRequest::from("one")))).await.unwrap();
    let request = by("reader", v1::DeleteLimitRequest::from("one"));
    assert_eq!(reason(soon(rig.job_limits().delete_limit(request)).await).1, "ROLE_MISSING");
    cue.succeeds();
    stage.next().await.succeeds();
    rig.stop().await;
}

#[tokio::test]
async fn the_metrics_have_the_weight_that_runs_under_each_limit() {
    let (handler, mut stage) = Stage::new();
    let mut settings = with_queue(memory(), QUEUE, queue(4));
    settings.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let rig = Rig::start(Server::builder(settings).handler("held", defaults(), handler)).await;
    create(&rig, running("gpu", 4)).await.unwrap();
    create(&rig, by_label("tenants", 4)).await.unwrap();
    rig.submit(weighing("gpu", 3)).await;
    stage.next().await;
    let now = Scrape::of(rig.metrics_address()).await;
    assert_eq!(now.get(r#"jobmill_limit_running{limit="gpu"}"#), 3.0);
    assert_eq!(now.get(r#"jobmill_limit_running{limit="tenants"}"#), 0.0);
    rig.force().await;
}

#[tokio::test]
async fn there_are_as_many_limits_and_overrides_as_are_told_and_no_more() {
    let rig = Rig::start(simple(memory())).await;
    let max = rig.limit("limits").await;
    for n in 0..max {
        create(&rig, by_label(&format!("limit-{n}"), 1)).await.unwrap();
    }
    let refused = refusal(&create(&rig, running("more", 1)).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_LIMITS"));
    assert_eq!(refused.metadata["limit"], max.to_string());
    // Calls at the same time share a batch, which copies the overrides once.
    let max = rig.limit("limit_overrides").await;
    let set_all = (0..max).map(|n| {
        let mut limits = rig.job_limits();
        let rule = v1::limit_override::Rule::MaxRunning(1);
        let request = exception("limit-0", &format!("value-{n}"), rule);
        async move { limits.set_limit_override(request).await.map(drop) }
    });
    let mut calls = futures_util::StreamExt::buffer_unordered(futures_util::stream::iter(set_all), 500);
    while let Some(done) = soon(futures_util::StreamExt::next(&mut calls)).await {
        done.unwrap();
    }
    drop(calls);
    set(&rig, "limit-0", "value-7", 2).await.unwrap();
    let refused = refusal(&set(&rig, "limit-0", "more", 1).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_LIMIT_OVERRIDES")
    );
    assert_eq!(refused.metadata["limit"], max.to_string());
    unset(&rig, "limit-0", "value-7").await.unwrap();
    set(&rig, "limit-0", "more", 1).await.unwrap();
    rig.stop().await;
}
