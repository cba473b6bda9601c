//! The limits of schedules and calendars, each at its edge.

use jobmill::proto::v1;
use tonic::Code;

use crate::{
    schedules::{create, every},
    support::{QUEUE, Refusal, Rig, folder, memory, queue, refusal, simple, soon, with_queue},
};

async fn rig() -> Rig {
    Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await
}

async fn create_calendar(rig: &Rig, name: String) -> Result<(), Refusal> {
    let calendar = Some(v1::Calendar { name, dates: vec!["2030-12-25".into()], ..Default::default() });
    let request = v1::CreateCalendarRequest { calendar, ..Default::default() };
    soon(rig.schedules().create_calendar(request)).await.map(drop).map_err(|status| refusal(&status))
}

#[tokio::test]
async fn there_are_as_many_schedules_as_are_told_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let start = async || Rig::start(simple(with_queue(folder(home.path()), QUEUE, queue(0)))).await;
    let rig = start().await;
    let max = rig.limit("schedules").await as i64;
    let yearly = |name: &str| {
        let spec = v1::ScheduleSpec { crons: vec!["0 0 1 1 *".into()], ..Default::default() };
        v1::Schedule { spec: Some(spec), ..every(name, 1) }
    };
    create(&rig, yearly("first")).await.unwrap();
    rig.stop().await;
    // Copies of the first one's rows: to create them by calls would take a minute.
    let database = rusqlite::Connection::open(home.path().join("jobmill.db")).unwrap();
    let copies = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)";
    for insert in [
        "INSERT INTO schedule SELECT id + i, 'copy-' || i, revision, created, since, declared, paused, settings \
         FROM schedule, n",
        "INSERT INTO schedule_run SELECT schedule + i, generation, cursor, wake, is_unsettled, is_paused, bytes, state \
         FROM schedule_run, n",
    ] {
        assert_eq!(database.execute(&format!("{copies} {insert}"), [max - 2]).unwrap() as i64, max - 2);
    }
    drop(database);
    let rig = start().await;
    create(&rig, yearly("last")).await.unwrap();
    let refused = refusal(&create(&rig, yearly("one-more")).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_SCHEDULES"));
    soon(rig.schedules().delete_schedule(v1::DeleteScheduleRequest::from("copy-7"))).await.unwrap();
    create(&rig, yearly("one-more")).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn there_are_as_many_calendars_as_are_told_and_no_more() {
    let rig = rig().await;
    let max = rig.limit("calendars").await as i64;
    for n in 0..max {
        create_calendar(&rig, format!("c{n}")).await.unwrap();
    }
    let refused = create_calendar(&rig, "one-more".to_owned()).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_CALENDARS"));
    // One that goes makes room.
    soon(rig.schedules().delete_calendar(v1::DeleteCalendarRequest::from("c7"))).await.unwrap();
    create_calendar(&rig, "one-more".to_owned()).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_schedule_names_as_many_calendars_as_are_told_and_no_more() {
    let rig = rig().await;
    let max = rig.limit("schedule_calendars").await as i64;
    for n in 0..=max {
        create_calendar(&rig, format!("c{n}")).await.unwrap();
    }
    let with = |count| {
        let mut schedule = every("s", 60);
        schedule.spec.as_mut().unwrap().calendars = (0..count).map(|n| format!("c{n}")).collect();
        schedule
    };
    let refused = refusal(&create(&rig, with(max + 1)).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.fields),
        (Code::InvalidArgument, vec!["schedule.spec.calendars".to_owned()])
    );
    create(&rig, with(max)).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_backfill_has_as_many_instants_as_are_told_and_no_more() {
    let rig = rig().await;
    let max = rig.limit("backfill_instants").await as i64;
    create(&rig, every("s", 1)).await.unwrap();
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let range = |periods, at_most: i64| v1::BackfillScheduleRequest {
        name: "s".into(),
        start_time: at(1_700_000_000),
        end_time: at(1_700_000_000 + periods),
        at_most: at_most as i32,
        dry_run: true,
        ..Default::default()
    };
    let refused = soon(rig.schedules().backfill_schedule(range(3, max + 1))).await.unwrap_err();
    assert_eq!(refusal(&refused).fields, ["at_most"]);
    let refused = refusal(&soon(rig.schedules().backfill_schedule(range(max + 1, max))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "BACKFILL_TOO_LARGE"));
    let told = soon(rig.schedules().backfill_schedule(range(max, max))).await.unwrap().into_inner();
    assert_eq!(told.instants.len() as i64, max);
    rig.stop().await;
}

#[tokio::test]
async fn a_preview_has_at_most_as_many_instants_as_are_told() {
    let rig = rig().await;
    let max = rig.limit("preview_instants").await as i64;
    create(&rig, every("s", 60)).await.unwrap();
    for (asked, got) in [(max - 1, max - 1), (max, max), (max + 1, max)] {
        let request =
            v1::PreviewScheduleRequest { count: asked as i32, ..v1::PreviewScheduleRequest::from("s") };
        let told = soon(rig.schedules().preview_schedule(request)).await.unwrap().into_inner();
        assert_eq!(told.instants.len() as i64, got, "{asked} asked");
    }
    rig.stop().await;
}
