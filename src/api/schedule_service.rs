//! The ScheduleService.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    calendar_verbs::{CreateCalendar, DeleteCalendar, UpdateCalendar},
    caller::Caller,
    core::Core,
    errors_of_schedules::{calendar_not_found, schedule_not_found},
    needs::Needs,
    page_token,
    schedule_verbs::{
        BackfillSchedule, CancelBackfill, CreateSchedule, DeleteSchedule, PauseSchedule, ResumeSchedule,
        TriggerSchedule, UpdateSchedule,
    },
    show_schedule::{self, States},
    sizes::ENOUGH_BYTES,
    validate::Validator,
    verbs::{self, Verb},
    watch_schedules,
};
use crate::{
    clock::Timestamp,
    engine::ScheduleDone,
    proto::v1::{self, schedule_service_server::ScheduleService},
    settings::{CalendarInfo, Calendars, FutureInstant, Role, ScheduleInfo},
    store::{Reader, StoreError},
    timetable::{Timetable, time_zone_database},
};

/// Number of the next instants that GetSchedule shows.
const NEXT_SHOWN: usize = 5;
/// Number of the instants of a preview that does not say one.
const PREVIEW_DEFAULT: usize = 10;
/// Limit of the instants of a preview.
pub(super) const PREVIEW_MAX: i32 = 1_000;
/// Number of schedules that are read at a time for a page.
const READ_AT_A_TIME: usize = 200;
/// Limit of the schedules that are looked at for a page.
const LOOKED_AT_MAX: usize = 10_000;

/// The ScheduleService.
#[derive(Clone)]
pub(crate) struct ScheduleServiceApi {
    core: Core,
}

impl ScheduleServiceApi {
    pub(crate) fn new(core: Core) -> Self {
        ScheduleServiceApi { core }
    }

    /// Reads a schedule that the caller may read.
    async fn visible(&self, caller: &Caller, name: &str) -> Result<ScheduleInfo, Status> {
        let wanted = name.to_owned();
        let found = self.core.shard.reads.read(move |reader| reader.schedule(&wanted)).await?;
        found.filter(|info| caller.sees_queue(info.queue())).ok_or_else(|| schedule_not_found(name))
    }

    async fn calendars(&self) -> Result<Calendars, Status> {
        Ok(self.core.shard.reads.read(|reader| Ok(by_name(reader.calendars()?))).await?)
    }
}

/// Reads the name after which a page begins.
fn page_start(validator: &mut Validator, token: &str) -> Option<String> {
    let after = page_token::read_after(token);
    if after.is_none() && !token.is_empty() {
        validator.no_page_token();
    }
    after
}

fn by_name(calendars: Vec<CalendarInfo>) -> Calendars {
    calendars.into_iter().map(|info| (Arc::clone(&info.name), Arc::new(info))).collect()
}

#[tonic::async_trait]
impl ScheduleService for ScheduleServiceApi {
    type WatchSchedulesStream = watch_schedules::Responses;

    async fn create_schedule(
        &self,
        call: Request<v1::CreateScheduleRequest>,
    ) -> Result<Response<v1::CreateScheduleResponse>, Status> {
        verbs::run::<CreateSchedule>(&self.core, call).await
    }

    async fn get_schedule(
        &self,
        call: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::GetScheduleResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.schedule_name("name", &body.name);
        validator.finish()?;
        let info = self.visible(&caller, &body.name).await?;
        let mut next: Vec<FutureInstant> = info.run.next.into_iter().collect();
        if let (Some(first), Ok(table)) =
            (info.run.next, info.settings.times.table(&self.calendars().await?, info.since, info.id))
        {
            next.extend(later(&table, &info, first.nominal).take(NEXT_SHOWN - 1));
        }
        let states = self.core.states_of(&[&info]).await?;
        let schedule = Some(show_schedule::schedule(&info, &next, &states));
        Ok(Response::new(v1::GetScheduleResponse { schedule }))
    }

    async fn list_schedules(
        &self,
        call: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let page_size = validator.page_size(body.page_size);
        let mut after = page_start(&mut validator, &body.page_token);
        validator.finish()?;
        let (mut page, mut looked_at, mut more) = (Vec::new(), 0, true);
        while more && page.len() < page_size && looked_at < LOOKED_AT_MAX {
            let from = after.clone();
            let limit = READ_AT_A_TIME.min(page_size - page.len());
            let read =
                self.core.shard.reads.read(move |reader| reader.schedules(from.as_deref(), limit)).await?;
            more = read.len() == limit;
            looked_at += read.len();
            after = read.last().map(|info| info.name.to_string()).or(after);
            page.extend(read.into_iter().filter(|info| caller.sees_queue(info.queue())));
        }
        let states = self.core.states_of(&page.iter().collect::<Vec<_>>()).await?;
        let (mut schedules, mut bytes) = (Vec::with_capacity(page.len()), 0);
        for info in &page {
            if bytes > ENOUGH_BYTES {
                after = schedules.last().map(|shown: &v1::Schedule| shown.name.clone());
                more = true;
                break;
            }
            let shown = show_schedule::schedule(info, info.run.next.as_slice(), &states);
            bytes += prost::Message::encoded_len(&shown);
            schedules.push(shown);
        }
        let next_page_token =
            after.filter(|_| more).map(|name| page_token::issue_after(&name)).unwrap_or_default();
        Ok(Response::new(v1::ListSchedulesResponse { schedules, next_page_token }))
    }

    async fn update_schedule(
        &self,
        call: Request<v1::UpdateScheduleRequest>,
    ) -> Result<Response<v1::UpdateScheduleResponse>, Status> {
        verbs::run::<UpdateSchedule>(&self.core, call).await
    }

    async fn delete_schedule(
        &self,
        call: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        verbs::run::<DeleteSchedule>(&self.core, call).await
    }

    async fn pause_schedule(
        &self,
        call: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        verbs::run::<PauseSchedule>(&self.core, call).await
    }

    async fn resume_schedule(
        &self,
        call: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        verbs::run::<ResumeSchedule>(&self.core, call).await
    }

    async fn trigger_schedule(
        &self,
        call: Request<v1::TriggerScheduleRequest>,
    ) -> Result<Response<v1::TriggerScheduleResponse>, Status> {
        verbs::run::<TriggerSchedule>(&self.core, call).await
    }

    async fn preview_schedule(
        &self,
        call: Request<v1::PreviewScheduleRequest>,
    ) -> Result<Response<v1::PreviewScheduleResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let now = self.core.clock.now();
        let mut validator = Validator::new(now, &body.namespace);
        let after = body.after.and_then(|after| validator.timestamp("after", &after));
        let count = match body.count {
            0 => PREVIEW_DEFAULT,
            1.. => body.count.min(PREVIEW_MAX) as usize,
            number => {
                validator.fault("count", format!("is {number}; it must not be negative"));
                PREVIEW_DEFAULT
            }
        };
        let spec = match (&body.spec, body.name.is_empty()) {
            (Some(spec), true) => Some(validator.schedule_spec("spec", spec).times),
            (None, false) => {
                validator.schedule_name("name", &body.name);
                None
            }
            (Some(_), false) | (None, true) => {
                validator.fault("name", "name either a stored schedule or a spec");
                None
            }
        };
        let calendars = self.calendars().await?;
        let table = match spec {
            Some(times) => validator.times("spec", &times, &calendars),
            None => None,
        };
        validator.finish()?;
        let (table, info) = match table {
            Some(table) => (table, None),
            None => {
                let info = self.visible(&caller, &body.name).await?;
                let table = info.settings.times.table(&calendars, info.since, info.id);
                let unknown = |fault| Status::from(crate::engine::ControlRefusal::from(fault));
                (table.map_err(unknown)?, Some(info))
            }
        };
        let after = after.unwrap_or(now);
        let mut instants: Vec<v1::ScheduleInstant> = Vec::new();
        let found: Vec<FutureInstant> = match &info {
            Some(info) => later(&table, info, after).take(count).collect(),
            None => table.after(after).take(count).map(FutureInstant::from).collect(),
        };
        for instant in found {
            let change = table.clock_change(instant.nominal).map(|change| change.to_string());
            instants.push(v1::ScheduleInstant {
                local_time: table.local(instant.nominal),
                clock_change: change.unwrap_or_default(),
                ..show_schedule::instant(&instant)
            });
        }
        Ok(Response::new(v1::PreviewScheduleResponse { instants, time_zone_database: time_zone_database() }))
    }

    async fn backfill_schedule(
        &self,
        call: Request<v1::BackfillScheduleRequest>,
    ) -> Result<Response<v1::BackfillScheduleResponse>, Status> {
        verbs::run::<BackfillSchedule>(&self.core, call).await
    }

    async fn cancel_backfill(
        &self,
        call: Request<v1::CancelBackfillRequest>,
    ) -> Result<Response<v1::CancelBackfillResponse>, Status> {
        verbs::run::<CancelBackfill>(&self.core, call).await
    }

    async fn watch_schedules(
        &self,
        call: Request<v1::WatchSchedulesRequest>,
    ) -> Result<Response<Self::WatchSchedulesStream>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let validator = Validator::new(self.core.clock.now(), &body.namespace);
        let names = watch_schedules::names(validator, body.names)?;
        Ok(Response::new(watch_schedules::start(&self.core, caller, names)))
    }

    async fn create_calendar(
        &self,
        call: Request<v1::CreateCalendarRequest>,
    ) -> Result<Response<v1::CreateCalendarResponse>, Status> {
        verbs::run::<CreateCalendar>(&self.core, call).await
    }

    async fn get_calendar(
        &self,
        call: Request<v1::GetCalendarRequest>,
    ) -> Result<Response<v1::GetCalendarResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.calendar_name("name", &body.name);
        validator.finish()?;
        let calendars = self.calendars().await?;
        let info = calendars.get(body.name.as_str()).ok_or_else(|| calendar_not_found(&body.name))?;
        Ok(Response::new(v1::GetCalendarResponse { calendar: Some(show_schedule::calendar(info)) }))
    }

    async fn list_calendars(
        &self,
        call: Request<v1::ListCalendarsRequest>,
    ) -> Result<Response<v1::ListCalendarsResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let page_size = validator.page_size(body.page_size);
        let after = page_start(&mut validator, &body.page_token);
        validator.finish()?;
        let calendars = self.calendars().await?;
        let is_left = |info: &&Arc<CalendarInfo>| after.as_deref().is_none_or(|after| &*info.name > after);
        let mut left = calendars.values().filter(is_left);
        let calendars: Vec<_> =
            left.by_ref().take(page_size).map(|info| show_schedule::calendar(info)).collect();
        let last = calendars.last().filter(|_| left.next().is_some());
        let next_page_token = last.map(|info| page_token::issue_after(&info.name)).unwrap_or_default();
        Ok(Response::new(v1::ListCalendarsResponse { calendars, next_page_token }))
    }

    async fn update_calendar(
        &self,
        call: Request<v1::UpdateCalendarRequest>,
    ) -> Result<Response<v1::UpdateCalendarResponse>, Status> {
        verbs::run::<UpdateCalendar>(&self.core, call).await
    }

    async fn delete_calendar(
        &self,
        call: Request<v1::DeleteCalendarRequest>,
    ) -> Result<Response<v1::DeleteCalendarResponse>, Status> {
        verbs::run::<DeleteCalendar>(&self.core, call).await
    }
}

/// Returns the instants after one that have not run.
fn later<'t>(
    table: &'t Timetable,
    info: &'t ScheduleInfo,
    after: Timestamp,
) -> impl Iterator<Item = FutureInstant> + use<'t> {
    table.after(after).filter(|instant| !info.run.ran.has(instant.nominal)).map(FutureInstant::from)
}

const READ: Needs = Needs::Role(Role::Read);

/// What the service's RPCs require of their callers.
pub(super) const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.ScheduleService/CreateSchedule", CreateSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/GetSchedule", READ),
    ("jobmill.v1.ScheduleService/ListSchedules", READ),
    ("jobmill.v1.ScheduleService/UpdateSchedule", UpdateSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/DeleteSchedule", DeleteSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/PauseSchedule", PauseSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/ResumeSchedule", ResumeSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/TriggerSchedule", TriggerSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/PreviewSchedule", READ),
    ("jobmill.v1.ScheduleService/BackfillSchedule", BackfillSchedule::NEEDS),
    ("jobmill.v1.ScheduleService/CancelBackfill", CancelBackfill::NEEDS),
    ("jobmill.v1.ScheduleService/WatchSchedules", READ),
    ("jobmill.v1.ScheduleService/CreateCalendar", CreateCalendar::NEEDS),
    ("jobmill.v1.ScheduleService/GetCalendar", READ),
    ("jobmill.v1.ScheduleService/ListCalendars", READ),
    ("jobmill.v1.ScheduleService/UpdateCalendar", UpdateCalendar::NEEDS),
    ("jobmill.v1.ScheduleService/DeleteCalendar", DeleteCalendar::NEEDS),
];

impl Core {
    /// Reads the present states of the jobs that schedules show.
    pub(super) async fn states_of(&self, infos: &[&ScheduleInfo]) -> Result<States, Status> {
        let ids: Vec<_> = infos.iter().filter_map(|info| info.run.last.map(|last| last.job)).collect();
        if ids.is_empty() {
            return Ok(States::new());
        }
        let read = move |reader: &dyn Reader| -> Result<States, StoreError> {
            let (jobs, _) = reader.jobs(&ids)?;
            Ok(jobs.into_iter().flatten().map(|job| (job.id, job.state.name())).collect())
        };
        Ok(self.shard.reads.read(read).await?)
    }

    /// Converts a schedule after a change; `None` if the request is a repeat and the schedule has been deleted meanwhile.
    pub(super) async fn schedule_after(&self, done: ScheduleDone) -> Result<Option<v1::Schedule>, Status> {
        let Some(info) = done.schedule else { return Ok(None) };
        let states = self.states_of(&[&info]).await?;
        Ok(Some(show_schedule::schedule(&info, info.run.next.as_slice(), &states)))
    }
}
