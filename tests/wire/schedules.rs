//! Schedules and calendars over the wire.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{
        self, JobState, ScheduleOrigin, schedule_service_client::ScheduleServiceClient,
        watch_schedules_response::Event,
    },
};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    QUEUE, Rig, defaults, folder, job, manual_clock, memory, queue, refusal, result, simple, soon, with_queue,
};

impl Rig {
    pub(crate) fn schedules(&self) -> ScheduleServiceClient<Channel> {
        ScheduleServiceClient::new(self.channel.clone())
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) fn every(name: &str, interval: i64) -> v1::Schedule {
    v1::Schedule {
        name: name.to_owned(),
        spec: Some(v1::ScheduleSpec { every: seconds(interval), ..Default::default() }),
        job: Some(job("echo")),
        ..Default::default()
    }
}

fn cron(name: &str, cron: &str) -> v1::Schedule {
    let spec = v1::ScheduleSpec { crons: vec![cron.to_owned()], ..Default::default() };
    v1::Schedule { spec: Some(spec), ..every(name, 1) }
}

pub(crate) async fn create(rig: &Rig, schedule: v1::Schedule) -> Result<v1::Schedule, Status> {
    let request = v1::CreateScheduleRequest { schedule: Some(schedule), ..Default::default() };
    let response = soon(rig.schedules().create_schedule(request)).await?.into_inner();
    Ok(response.schedule.expect("the schedule"))
}

pub(crate) async fn get(rig: &Rig, name: &str) -> v1::Schedule {
    let response = soon(rig.schedules().get_schedule(v1::GetScheduleRequest::from(name))).await;
    response.unwrap().into_inner().schedule.expect("the schedule")
}

/// Waits until a schedule is as told.
pub(crate) async fn until(rig: &Rig, name: &str, is: impl Fn(&v1::Schedule) -> bool) -> v1::Schedule {
    let mut watch = watch(rig, &[name]).await;
    loop {
        if let Event::Schedule(schedule) = next(&mut watch).await
            && is(&schedule)
        {
            return schedule;
        }
    }
}

async fn watch(rig: &Rig, names: &[&str]) -> Streaming<v1::WatchSchedulesResponse> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let request = v1::WatchSchedulesRequest { names, ..Default::default() };
    soon(rig.schedules().watch_schedules(request)).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<v1::WatchSchedulesResponse>) -> Event {
    soon(watch.message()).await.unwrap().expect("a message").event.expect("an event")
}

pub(crate) fn status(schedule: &v1::Schedule) -> &v1::ScheduleStatus {
    schedule.status.as_ref().expect("a status")
}

fn fired(schedule: &v1::Schedule) -> i64 {
    status(schedule).fired.as_ref().map_or(0, |count| count.number)
}

/// Starts a server whose jobs run at once, on a clock that the test moves.
async fn on_manual_clock() -> (Rig, jobmill::clock::ManualClock) {
    let clock = manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(2))).clock(Clock::Manual(clock.clone()));
    (Rig::start(builder).await, clock)
}

#[tokio::test]
async fn a_schedule_runs_its_jobs_and_tells_what_is_next_and_what_was_last() {
    let (rig, clock) = on_manual_clock().await;
    let made = create(&rig, every("report", 60)).await.unwrap();
    assert_eq!((made.generation, made.declared, made.namespace.as_str()), (1, false, "default"));
    assert_eq!(get(&rig, "report").await.status.unwrap().next.len(), 5);
    clock.advance(Duration::from_secs(60));
    let ended = |schedule: &v1::Schedule| {
        let last = status(schedule).last.as_ref();
        last.is_some_and(|last| last.state() == JobState::Succeeded)
    };
    let schedule = until(&rig, "report", ended).await;
    let last = status(&schedule).last.clone().unwrap();
    let next = status(&schedule).next[0].clone();
    assert_eq!(last.time, status(&made).next[0].time);
    assert_eq!(next.time.unwrap().seconds - last.time.unwrap().seconds, 60);
    let job = rig.find(&last.job_id).await.unwrap();
    let by = job.schedule.clone().expect("a schedule");
    assert_eq!((by.name.as_str(), by.id.as_str(), by.time), ("report", made.id.as_str(), last.time));
    assert_eq!(by.origin(), ScheduleOrigin::Scheduled);
    assert_eq!(job.spec.as_ref().unwrap().labels["jobmill/schedule"], "report");
    rig.stop().await;
}

#[tokio::test]
async fn the_jobs_of_a_schedule_are_listed_by_its_label() {
    let (rig, clock) = on_manual_clock().await;
    create(&rig, every("a", 60)).await.unwrap();
    create(&rig, every("b", 60)).await.unwrap();
    clock.advance(Duration::from_secs(60));
    until(&rig, "a", |schedule| fired(schedule) == 1).await;
    let labels = [("jobmill/schedule".to_owned(), "a".to_owned())].into();
    let filter = Some(v1::JobFilter { labels, ..Default::default() });
    let request = v1::ListJobsRequest { filter, ..Default::default() };
    let jobs = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn each_fault_of_a_schedule_names_its_field_and_the_way_out() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    let spec = |change: fn(&mut v1::ScheduleSpec)| {
        let mut schedule = every("s", 60);
        change(schedule.spec.as_mut().unwrap());
        schedule
    };
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let mut never = spec(|_| {});
    never.spec.as_mut().unwrap().start_time = time(2_000_000_000);
    never.spec.as_mut().unwrap().end_time = time(1_999_999_999);
    let mut dated = every("s", 60);
    dated.job.as_mut().unwrap().start = crate::support::run_time(2_000_000_000);
    let mut labelled = every("s", 60);
    labelled.job.as_mut().unwrap().labels = [("jobmill/schedule".to_owned(), String::new())].into();
    for (schedule, field, told) in [
        (v1::Schedule { name: "S".into(), ..every("s", 60) }, "schedule.name", "a schedule's name is"),
        (v1::Schedule { spec: None, ..every("s", 60) }, "schedule.spec", "give crons or every"),
        (v1::Schedule { job: None, ..every("s", 60) }, "schedule.job", "is required"),
        (cron("s", "61 * * * *"), "schedule.spec.crons", "0"),
        (cron("s", "* * * *"), "schedule.spec.crons", "field"),
        (cron("s", "0 0 30 2 *"), "schedule.spec.crons", ""),
        (spec(|spec| spec.time_zone = "Europe/Berln".into()), "schedule.spec.time_zone", "Europe/Berlin"),
        (spec(|spec| spec.every = seconds(0)), "schedule.spec.every", "1 s"),
        (spec(|spec| spec.every = None), "schedule.spec.crons", ""),
        (spec(|spec| spec.catch_up = seconds(-1)), "schedule.spec.catch_up", "10s"),
        (spec(|spec| spec.catch_up = seconds(0)), "schedule.spec.catch_up", "10s"),
        (spec(|spec| spec.catch_up = seconds(9)), "schedule.spec.catch_up", "10s"),
        (spec(|spec| spec.jitter = seconds(61)), "schedule.spec.jitter", ""),
        (never, "schedule.spec.end_time", ""),
        (spec(|spec| spec.overlap = 9), "schedule.spec.overlap", "9 is no value"),
        (spec(|spec| spec.late = 9), "schedule.spec.late", "9 is no value"),
        (spec(|spec| spec.exclude = vec!["25.12.".into()]), "schedule.spec.exclude[0]", "2026-12-25"),
        (spec(|spec| spec.calendars = vec!["A".into()]), "schedule.spec.calendars[0]", "a calendar's name"),
        (spec(|spec| spec.calendars = vec!["none".into()]), "schedule.spec.calendars", "create it"),
        (spec(|spec| spec.pause_after_failures = -1), "schedule.spec.pause_after_failures", "1 to 1000"),
        (dated, "schedule.job.run_time", "a duration"),
        (labelled, "schedule.job.labels", "reserved"),
    ] {
        let status = create(&rig, schedule.clone()).await.expect_err(field);
        let refused = refusal(&status);
        assert_eq!(
            (refused.code, refused.fields),
            (Code::InvalidArgument, vec![field.to_owned()]),
            "{schedule:?}"
        );
        assert!(status.message().contains(told), "{field}: {}", status.message());
    }
    let elsewhere =
        v1::Schedule { job: Some(v1::JobSpec { queue: "none".into(), ..job("echo") }), ..every("s", 60) };
    assert_eq!(refusal(&create(&rig, elsewhere).await.unwrap_err()).reason, "QUEUE_NOT_FOUND");
    let unknown = v1::Schedule { job: Some(job("none")), ..every("s", 60) };
    let status = create(&rig, unknown).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "UNKNOWN_KIND");
    assert!(status.message().contains("start a worker that runs it"), "{status:?}");
    let list = soon(rig.schedules().list_schedules(v1::ListSchedulesRequest::default())).await.unwrap();
    assert_eq!(list.into_inner().schedules, []);
    rig.stop().await;
}

#[tokio::test]
async fn an_update_with_a_fault_of_the_whole_is_refused() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    let made = create(&rig, every("s", 60)).await.unwrap();
    let update = |path: &str, spec: v1::ScheduleSpec| v1::UpdateScheduleRequest {
        schedule: Some(v1::Schedule {
            name: "s".into(),
            etag: made.etag.clone(),
            spec: Some(spec),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
        ..Default::default()
    };
    for (path, spec, field) in [
        ("spec.every", v1::ScheduleSpec::default(), "schedule.spec.crons"),
        (
            "spec.jitter",
            v1::ScheduleSpec { jitter: seconds(61), ..Default::default() },
            "schedule.spec.jitter",
        ),
        ("spec.nothing", v1::ScheduleSpec::default(), "update_mask.paths[0]"),
        ("job", v1::ScheduleSpec::default(), "schedule.job"),
    ] {
        let refused = refusal(&soon(rig.schedules().update_schedule(update(path, spec))).await.unwrap_err());
        assert_eq!((refused.code, refused.fields), (Code::InvalidArgument, vec![field.to_owned()]), "{path}");
    }
    assert_eq!(get(&rig, "s").await.etag, made.etag);
    let fits = update("spec.catch_up", v1::ScheduleSpec { catch_up: seconds(600), ..Default::default() });
    let response = soon(rig.schedules().update_schedule(fits)).await.unwrap().into_inner();
    let spec = response.schedule.unwrap().spec.unwrap();
    assert_eq!((spec.every, spec.catch_up), (seconds(60), seconds(600)), "what is not named stays");
    rig.stop().await;
}

#[tokio::test]
async fn a_preview_tells_what_runs_of_a_stored_schedule_and_of_a_spec() {
    let (rig, clock) = on_manual_clock().await;
    let mut jittered = every("s", 3_600);
    jittered.spec.as_mut().unwrap().jitter = seconds(1_800);
    create(&rig, jittered).await.unwrap();
    let request = v1::PreviewScheduleRequest { count: 3, ..v1::PreviewScheduleRequest::from("s") };
    let preview = soon(rig.schedules().preview_schedule(request)).await.unwrap().into_inner();
    assert_eq!(preview.instants.len(), 3);
    assert_ne!(preview.time_zone_database, "");
    let fires = preview.instants[0].fire_time.unwrap();
    let now = i64::from(clock_seconds(&rig).await);
    clock.advance(Duration::from_secs((fires.seconds - now).unsigned_abs() + 1));
    let ran = until(&rig, "s", |schedule| fired(schedule) == 1).await;
    assert_eq!(status(&ran).last.as_ref().unwrap().time, preview.instants[0].time);
    // A fixed time in the gap of the spring of 2026 runs right after it.
    let spec = v1::ScheduleSpec {
        crons: vec!["30 2 * * *".into()],
        time_zone: "Europe/Berlin".into(),
        ..Default::default()
    };
    let after = Some(prost_types::Timestamp { seconds: 1_774_700_000, nanos: 0 });
    let request = v1::PreviewScheduleRequest { spec: Some(spec), after, count: 1, ..Default::default() };
    let preview = soon(rig.schedules().preview_schedule(request)).await.unwrap().into_inner();
    let instant = &preview.instants[0];
    assert_eq!(instant.local_time, "2026-03-29 03:00:00+02:00");
    assert!(instant.clock_change.contains("in place of 02:30"), "{instant:?}");
    rig.stop().await;
}

async fn clock_seconds(rig: &Rig) -> i32 {
    let info = soon(rig.about.clone().get_server_info(v1::GetServerInfoRequest::default())).await.unwrap();
    let info = info.into_inner();
    assert!(info.features.contains(&"schedules".to_owned()));
    assert_ne!(info.time_zone_database, "");
    info.time.unwrap().seconds as i32
}

#[tokio::test]
async fn a_preview_needs_either_a_name_or_a_valid_spec() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    let spec = |cron: &str| Some(v1::ScheduleSpec { crons: vec![cron.into()], ..Default::default() });
    for (name, spec, fields) in [
        ("", None, vec!["name"]),
        ("s", spec("* * * * *"), vec!["name"]),
        ("", spec("* * *"), vec!["spec.crons"]),
    ] {
        let request = v1::PreviewScheduleRequest { name: name.into(), spec, ..Default::default() };
        let refused = refusal(&soon(rig.schedules().preview_schedule(request)).await.unwrap_err());
        assert_eq!(refused.fields, fields);
    }
    let request = v1::PreviewScheduleRequest::from("s");
    let refused = refusal(&soon(rig.schedules().preview_schedule(request)).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "SCHEDULE_NOT_FOUND"));
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_begins_with_all_schedules_and_goes_on_with_changes() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    for index in 0..30 {
        create(&rig, every(&format!("s{index:02}"), 3_600)).await.unwrap();
    }
    let mut all = watch(&rig, &[]).await;
    let mut names = Vec::new();
    loop {
        match next(&mut all).await {
            Event::Schedule(schedule) => names.push(schedule.name),
            Event::Synced(_) => break,
            Event::Deleted(name) => panic!("{name} was deleted"),
        }
    }
    assert!(names.len() == 30 && names.is_sorted(), "{names:?}");
    let request = v1::PauseScheduleRequest { reason: "x".into(), ..v1::PauseScheduleRequest::from("s07") };
    soon(rig.schedules().pause_schedule(request)).await.unwrap();
    match next(&mut all).await {
        Event::Schedule(schedule) => {
            assert_eq!((schedule.name.as_str(), schedule.pause.unwrap().reason), ("s07", "x".into()))
        }
        event => panic!("{event:?}"),
    }
    soon(rig.schedules().delete_schedule(v1::DeleteScheduleRequest::from("s07"))).await.unwrap();
    assert_eq!(next(&mut all).await, Event::Deleted("s07".into()));
    // By names, those that do not exist are told of, too.
    let mut one = watch(&rig, &["s07"]).await;
    assert_eq!(next(&mut one).await, Event::Deleted("s07".into()));
    assert!(matches!(next(&mut one).await, Event::Synced(_)));
    create(&rig, every("s30", 3_600)).await.unwrap();
    create(&rig, every("s07", 3_600)).await.unwrap();
    assert!(matches!(next(&mut one).await, Event::Schedule(schedule) if schedule.name == "s07"));
    rig.stop().await;
}

#[tokio::test]
async fn a_list_of_schedules_has_pages() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    for name in ["c", "a", "b"] {
        create(&rig, every(name, 3_600)).await.unwrap();
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListSchedulesRequest { page_size: 2, page_token, ..Default::default() };
        let page = soon(rig.schedules().list_schedules(request)).await.unwrap().into_inner();
        names.extend(page.schedules.into_iter().map(|schedule| schedule.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let request = v1::ListSchedulesRequest { page_token: "?".into(), ..Default::default() };
    let refused = refusal(&soon(rig.schedules().list_schedules(request)).await.unwrap_err());
    assert_eq!(refused.fields, ["page_token"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_running_backfill_is_told_by_the_schedule_and_refuses_another() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    create(&rig, every("s", 3_600)).await.unwrap();
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    // Three periods have three instants, whenever the schedule was made.
    let range = |at_most| v1::BackfillScheduleRequest {
        name: "s".into(),
        start_time: at(1_700_000_000),
        end_time: at(1_700_010_800),
        at_most,
        ..Default::default()
    };
    let refused = refusal(&soon(rig.schedules().backfill_schedule(range(2))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "BACKFILL_TOO_LARGE"));
    let dry = v1::BackfillScheduleRequest { dry_run: true, ..range(0) };
    let told = soon(rig.schedules().backfill_schedule(dry)).await.unwrap().into_inner();
    assert_eq!(told.instants.len(), 3);
    soon(rig.schedules().backfill_schedule(range(0))).await.unwrap();
    let schedule = until(&rig, "s", |schedule| {
        status(schedule).backfill.as_ref().is_some_and(|backfill| backfill.created_jobs == 1)
    })
    .await;
    let id = status(&schedule).backfill.as_ref().unwrap().job_id.clone();
    let by = rig.find(&id).await.unwrap().schedule.unwrap();
    assert_eq!((by.origin(), by.time), (ScheduleOrigin::Backfilled, told.instants.first().copied()));
    let refused = refusal(&soon(rig.schedules().backfill_schedule(range(0))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "BACKFILL_RUNNING"));
    rig.stop().await;
}

#[tokio::test]
async fn a_triggered_job_is_told_apart_and_its_handler_gets_the_instant() {
    let told = |attempt: jobmill::Attempt| async move {
        let headers: Vec<_> = attempt.headers().iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(jobmill::Output { bytes: headers.join("\n").into(), ..Default::default() })
    };
    let builder = simple(with_queue(memory(), QUEUE, queue(2))).handler("told", defaults(), told);
    let rig = Rig::start(builder).await;
    create(&rig, v1::Schedule { job: Some(job("told")), ..every("s", 3_600) }).await.unwrap();
    let response =
        soon(rig.schedules().trigger_schedule(v1::TriggerScheduleRequest::from("s"))).await.unwrap();
    let id = response.into_inner().submitted.unwrap().id;
    let ended = rig.ends(&id).await;
    assert_eq!(ended.schedule.as_ref().unwrap().origin(), ScheduleOrigin::Triggered);
    let text = String::from_utf8(result(&rig.get(&id).await).to_vec()).unwrap();
    assert!(
        text.contains("jobmill-schedule=s\n") && text.contains("jobmill-schedule-origin=triggered"),
        "{text}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_schedule_goes_on_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let start = || {
        let builder = simple(with_queue(folder(home.path()), QUEUE, queue(2)));
        Rig::start(builder.clock(Clock::Manual(clock.clone())))
    };
    let rig = start().await;
    create(&rig, every("s", 60)).await.unwrap();
    rig.stop().await;
    clock.advance(Duration::from_secs(90));
    let rig = start().await;
    let schedule = until(&rig, "s", |schedule| fired(schedule) == 1).await;
    let made = schedule.create_time.unwrap().seconds;
    assert_eq!(status(&schedule).last.as_ref().unwrap().time.unwrap().seconds - made, 60);
    rig.stop().await;
}
