//! Changes of schedules by callers.

use jobmill::{
    engine::{ControlRefusal, ScheduleAction, ScheduleRefusal},
    job::{JobDraft, ScheduleOrigin, SubmitOutcome},
    settings::{Overlap, ScheduleChange, ScheduleField, ScheduleSettings},
};

use crate::store::{
    batch::{Batch, Control, ControlDone},
    build::{at, request, settings},
    rig::Rig,
    schedules::{control, every, overlapping, told, whole},
};

both_stores!(
    a_schedule_is_created_changed_and_deleted,
    new_times_count_from_now,
    a_change_that_leaves_the_times_alone_moves_and_repeats_nothing,
    a_change_is_refused_after_another_one,
    paused_time_is_neither_late_nor_missed,
    what_waits_when_a_pause_begins_is_counted_and_does_not_run,
    a_pause_and_its_reason_survive_a_crash,
    a_schedule_deleted_and_made_again_is_another_one,
    a_trigger_creates_a_job_now_told_apart_and_moves_nothing,
    a_trigger_works_while_the_schedule_is_paused,
    a_trigger_finds_no_room_and_says_so,
    a_queue_for_which_the_same_batch_triggers_a_job_is_not_deleted,
    a_repeated_trigger_creates_nothing,
    a_repeated_change_changes_nothing,
    a_schedule_for_a_queue_or_kind_that_is_not_there_is_refused,
    unknown_schedules_are_told_as_such,
    schedules_are_listed_by_name,
    several_changes_in_one_batch_follow_each_other,
    a_refused_change_changes_nothing,
);

fn a_schedule_is_created_changed_and_deleted(rig: &mut Rig) {
    let info = rig.schedule(every(10));
    assert_eq!((info.generation, info.declared, &info.paused), (1, false, &None));
    let again = rig.change("s", ScheduleAction::Create(Box::new(every(20))));
    assert_eq!(again.unwrap_err(), ScheduleRefusal::Exists("s".into()).into());
    rig.change("s", whole(every(20))).unwrap();
    rig.crash();
    let changed = rig.info();
    assert_eq!((changed.generation, &*changed.settings), (2, &every(20)));
    assert_ne!(changed.etag(), info.etag());
    rig.change("s", ScheduleAction::Delete).unwrap();
    rig.crash();
    assert_eq!(rig.reader().schedule("s").unwrap(), None);
    assert_eq!(rig.comes(100), Vec::<i64>::new());
}

fn new_times_count_from_now(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    rig.until(at(27));
    // The instant at 20 has come, and is not run by the new times.
    rig.change("s", whole(overlapping(Overlap::Allow, every(60)))).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    assert_eq!(told(rig.info().run.counts.missed), (1, 20));
    assert_eq!(rig.comes(87), [10, 87]);
}

fn a_change_that_leaves_the_times_alone_moves_and_repeats_nothing(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    rig.until(at(15));
    let before = rig.info();
    let job = JobDraft { priority: Some(9), ..every(10).job };
    rig.change("s", whole(ScheduleSettings { job, ..overlapping(Overlap::Allow, every(10)) })).unwrap();
    rig.settle();
    let after = rig.info();
    assert_eq!(
        (after.run.next, after.since, after.run.cursor),
        (before.run.next, before.since, before.run.cursor)
    );
    assert_eq!(rig.comes(20), [10, 20]);
    assert_eq!(rig.scheduled()[1].spec.priority, 9);
    // An instant that has come is run by the new job, and only once.
    rig.until(at(30));
    rig.change("s", whole(overlapping(Overlap::Allow, every(10)))).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10, 20, 30]);
}

fn a_change_is_refused_after_another_one(rig: &mut Rig) {
    let etag = rig.schedule(every(10)).etag();
    let update = |etag: &str, seconds| {
        let fields = [ScheduleField::Every].into();
        let change = Box::new(ScheduleChange { fields, to: every(seconds) });
        ScheduleAction::Update { change, etag: Some(etag.to_owned()) }
    };
    rig.pass(1);
    rig.change("s", update(&etag, 20)).unwrap();
    let present = rig.info().etag();
    let refusal = rig.change("s", update(&etag, 30)).unwrap_err();
    let schedule = "s".to_owned();
    assert_eq!(refusal, ScheduleRefusal::EtagMismatch { schedule, etag: present.clone() }.into());
    assert_eq!(*rig.info().settings, every(20));
    // Progress is no change of the settings.
    rig.comes(41);
    assert_eq!(rig.info().etag(), present);
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    assert_ne!(rig.info().etag(), present);
}

fn paused_time_is_neither_late_nor_missed(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    rig.change("s", ScheduleAction::Pause("holidays".into())).unwrap();
    assert_eq!(rig.comes(55), [10]);
    assert_eq!(rig.info().run.next, None);
    rig.change("s", ScheduleAction::Resume).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    assert_eq!(rig.comes(60), [10, 60]);
    let counts = rig.info().run.counts;
    assert_eq!((told(counts.missed), told(counts.superseded)), ((0, 0), (0, 0)));
}

fn what_waits_when_a_pause_begins_is_counted_and_does_not_run(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    rig.comes(20);
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    rig.ends_one();
    assert_eq!(rig.instants(), [10]);
    rig.change("s", ScheduleAction::Resume).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    assert_eq!(told(rig.info().run.counts.overlapped), (1, 20));
}

fn a_pause_and_its_reason_survive_a_crash(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.change("s", ScheduleAction::Pause("the report is wrong".into())).unwrap();
    rig.crash();
    assert_eq!(rig.comes(100), Vec::<i64>::new());
    let pause = rig.info().paused.unwrap();
    assert_eq!(
        (pause.since, pause.reason.as_str(), pause.by_failures),
        (at(0), "the report is wrong", false)
    );
}

fn a_schedule_deleted_and_made_again_is_another_one(rig: &mut Rig) {
    let first = rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    rig.change("s", ScheduleAction::Delete).unwrap();
    rig.set_clock(at(0));
    let second = rig.schedule(overlapping(Overlap::Allow, every(10)));
    assert_ne!(first.id, second.id);
    assert_eq!(rig.comes(10), [10, 10], "its instants are its own");
}

fn a_trigger_creates_a_job_now_told_apart_and_moves_nothing(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.until(at(5));
    let next = rig.info().run.next;
    let done = rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
    let (id, outcome) = done.job.unwrap();
    let job = rig.job(id);
    let by = job.spec.schedule().unwrap();
    assert_eq!((by.origin, by.instant, outcome), (ScheduleOrigin::Triggered, at(5), SubmitOutcome::Created));
    let extras = job.spec.extras.as_ref().unwrap();
    assert_eq!(extras.headers["jobmill-schedule-origin"], "triggered");
    let run = rig.info().run;
    assert_eq!((run.next, run.last, run.counts.fired.number), (next, None, 0));
}

fn a_trigger_works_while_the_schedule_is_paused(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
    assert_eq!(rig.scheduled().len(), 1);
    assert!(rig.info().paused.is_some());
}

fn a_queue_for_which_the_same_batch_triggers_a_job_is_not_deleted(rig: &mut Rig) {
    rig.schedule(every(10));
    let trigger = control("s", ScheduleAction::Trigger(String::new()));
    let controls = vec![trigger, Control::DeleteQueue { name: "q".into() }];
    let applied = rig.apply(Batch { controls, claim: true, ..Batch::default() });
    let refusal = applied.controls[1].as_ref().unwrap_err();
    assert!(matches!(refusal, ControlRefusal::QueueNotEmpty { jobs: 1, .. }), "{refusal:?}");
    rig.ends_one();
}

fn a_trigger_finds_no_room_and_says_so(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 1));
    rig.schedule(every(10));
    rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
    let refusal = rig.change("s", ScheduleAction::Trigger(String::new())).unwrap_err();
    assert!(matches!(refusal, ControlRefusal::QueueFull(_)), "{refusal:?}");
    rig.ends_one();
    assert_eq!(rig.scheduled().len(), 1, "nothing waits");
}

fn a_repeated_trigger_creates_nothing(rig: &mut Rig) {
    rig.schedule(every(10));
    let trigger = |said: &str| {
        Control::Repeatable(request("id", said), Box::new(control("s", ScheduleAction::Trigger("id".into()))))
    };
    let job_of = |done: ControlDone| match done {
        ControlDone::Schedule(done) => (done.job.unwrap(), done.is_repeat),
        other => panic!("{other:?}"),
    };
    let ((first, _), is_repeat) = job_of(rig.control(trigger("this")).unwrap());
    assert!(!is_repeat);
    rig.crash();
    let again = job_of(rig.control(trigger("this")).unwrap());
    assert_eq!(again, ((first, SubmitOutcome::Repeated), true));
    assert_eq!(rig.control(trigger("that")).unwrap_err(), ControlRefusal::RequestMismatch);
    rig.control(Control::Cancel(first)).unwrap();
    rig.settle();
    rig.control(Control::Delete(first)).unwrap();
    let gone = job_of(rig.control(trigger("this")).unwrap());
    assert_eq!(gone, ((first, SubmitOutcome::Gone), true));
    assert_eq!(rig.scheduled().len(), 0);
}

fn a_repeated_change_changes_nothing(rig: &mut Rig) {
    rig.queue("q", 1);
    let repeatable = |id: &str, action| Control::Repeatable(request(id, "x"), Box::new(control("s", action)));
    let is_repeat = |done: ControlDone| match done {
        ControlDone::Schedule(done) => (done.is_repeat, done.schedule.is_some()),
        other => panic!("{other:?}"),
    };
    let create = || repeatable("create", ScheduleAction::Create(Box::new(every(10))));
    assert_eq!(is_repeat(rig.control(create()).unwrap()), (false, true));
    assert_eq!(is_repeat(rig.control(create()).unwrap()), (true, true));
    let pause = || repeatable("pause", ScheduleAction::Pause("x".into()));
    rig.control(pause()).unwrap();
    rig.change("s", ScheduleAction::Resume).unwrap();
    assert_eq!(is_repeat(rig.control(pause()).unwrap()), (true, true));
    assert_eq!(rig.info().paused, None);
    let delete = || repeatable("delete", ScheduleAction::Delete);
    rig.control(delete()).unwrap();
    assert_eq!(is_repeat(rig.control(delete()).unwrap()), (true, false));
    assert_eq!(is_repeat(rig.control(create()).unwrap()), (true, false));
}

fn a_schedule_for_a_queue_or_kind_that_is_not_there_is_refused(rig: &mut Rig) {
    let create = |rig: &mut Rig| rig.change("s", ScheduleAction::Create(Box::new(every(10)))).unwrap_err();
    let refusal = create(rig);
    assert!(refusal.to_string().contains("no queue is named `q`: create it"), "{refusal}");
    rig.queue_with("q", jobmill::settings::QueueSettings { accept_unknown_kinds: false, ..settings(1, 1) });
    let kinds = std::mem::take(&mut rig.setup.schedules.kinds);
    rig.crash();
    let refusal = create(rig);
    assert!(
        refusal.to_string().contains("the kind `run`") && refusal.to_string().contains("start a worker"),
        "{refusal}"
    );
    rig.setup.schedules.kinds = kinds;
    rig.crash();
    rig.change("s", ScheduleAction::Create(Box::new(every(10)))).unwrap();
}

fn unknown_schedules_are_told_as_such(rig: &mut Rig) {
    let actions = [
        ScheduleAction::Delete,
        ScheduleAction::Pause(String::new()),
        ScheduleAction::Resume,
        ScheduleAction::Trigger(String::new()),
        ScheduleAction::CancelBackfill,
        whole(every(10)),
    ];
    for action in actions {
        assert_eq!(rig.change("x", action).unwrap_err(), ScheduleRefusal::NotFound("x".into()).into());
    }
}

fn schedules_are_listed_by_name(rig: &mut Rig) {
    rig.queue("q", 1);
    let payload = bytes::Bytes::from_static(b"large");
    for name in ["c", "a", "b", "a.1"] {
        let job = JobDraft { payload: payload.clone(), ..every(10).job };
        let settings = ScheduleSettings { job, ..every(10) };
        rig.change(name, ScheduleAction::Create(Box::new(settings))).unwrap();
    }
    let names = |after: Option<&str>, limit| -> Vec<String> {
        let page = rig.reader().schedules(after, limit).unwrap();
        assert!(page.iter().all(|info| info.settings.job.payload.is_empty()));
        page.iter().map(|info| info.name.to_string()).collect()
    };
    assert_eq!(names(None, 10), ["a", "a.1", "b", "c"]);
    assert_eq!(names(Some("a"), 2), ["a.1", "b"]);
    assert_eq!(names(Some("c"), 2), Vec::<String>::new());
}

fn several_changes_in_one_batch_follow_each_other(rig: &mut Rig) {
    rig.queue("q", 1);
    let create = || control("s", ScheduleAction::Create(Box::new(every(10))));
    let controls = vec![
        create(),
        control("s", whole(every(20))),
        control("s", ScheduleAction::Pause("x".into())),
        control("s", ScheduleAction::Delete),
        control("s", ScheduleAction::Resume),
        create(),
        create(),
    ];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    let fits: Vec<_> = applied.controls.iter().map(Result::is_ok).collect();
    assert_eq!(fits, [true, true, true, true, false, true, false]);
    rig.crash();
    assert_eq!((*rig.info().settings).clone(), every(10));
    assert_eq!(rig.comes(10), [10]);
}

fn a_refused_change_changes_nothing(rig: &mut Rig) {
    rig.schedule(every(10));
    let before = rig.info();
    let job = JobDraft { queue: "nowhere".into(), ..every(10).job };
    rig.change("s", whole(ScheduleSettings { job, ..every(20) })).unwrap_err();
    let mut wrong = every(10);
    wrong.times.spec.every = None;
    let refusal = rig.change("s", whole(wrong)).unwrap_err();
    assert!(matches!(refusal, ControlRefusal::Schedule(ScheduleRefusal::Times(_))), "{refusal:?}");
    assert_eq!(rig.info(), before);
}
