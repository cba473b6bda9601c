//! The verbs that change calendars.

use tonic::{Response, Status};

use super::{
    core::Core,
    needs::Needs,
    show_schedule,
    validate::Validator,
    verbs::{self, Target, Verb},
};
use crate::{
    engine::{Action, CalendarAction, CalendarDone, ControlRefusal, ReplySlot},
    job::Canonical,
    proto::v1,
    settings::Role,
    timetable::DateRange,
};

const ADMIN: Needs = Needs::Role(Role::Admin);

/// Creates a calendar.
pub(super) struct CreateCalendar {
    name: String,
    dates: Vec<DateRange>,
}

impl Verb for CreateCalendar {
    type Request = v1::CreateCalendarRequest;
    type Response = v1::CreateCalendarResponse;
    type Done = CalendarDone;
    const NAME: &'static str = "CreateCalendar";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::CreateCalendarRequest, validator: &mut Validator) -> Self {
        let v1::Calendar { name, dates, .. } = request.calendar.unwrap_or_else(|| {
            validator.fault("calendar", "is required");
            v1::Calendar::default()
        });
        validator.calendar_name("calendar.name", &name);
        CreateCalendar { name, dates: validator.dates("calendar.dates", &dates) }
    }

    fn target(&self) -> Target<'_> {
        Target::Calendar(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        add_dates(said, &self.dates);
    }

    fn action(&self, ask: ReplySlot<CalendarDone, ControlRefusal>) -> Action {
        let action = CalendarAction::Create(self.dates.clone());
        Action::Calendar { name: self.name.clone(), action, ask }
    }

    async fn answer(self, _: &Core, done: CalendarDone) -> Result<Response<Self::Response>, Status> {
        let calendar = done.calendar.as_deref().map(show_schedule::calendar);
        Ok(Response::new(v1::CreateCalendarResponse { calendar, repeated: done.is_repeat }))
    }
}

/// Replaces the dates of a calendar.
pub(super) struct UpdateCalendar {
    name: String,
    etag: String,
    dates: Vec<DateRange>,
}

impl Verb for UpdateCalendar {
    type Request = v1::UpdateCalendarRequest;
    type Response = v1::UpdateCalendarResponse;
    type Done = CalendarDone;
    const NAME: &'static str = "UpdateCalendar";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::UpdateCalendarRequest, validator: &mut Validator) -> Self {
        let v1::Calendar { name, dates, etag, .. } = request.calendar.unwrap_or_else(|| {
            validator.fault("calendar", "is required");
            v1::Calendar::default()
        });
        validator.calendar_name("calendar.name", &name);
        validator.etag("calendar.etag", &etag);
        UpdateCalendar { name, etag, dates: validator.dates("calendar.dates", &dates) }
    }

    fn target(&self) -> Target<'_> {
        Target::Calendar(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("etag", &self.etag);
        add_dates(said, &self.dates);
    }

    fn action(&self, ask: ReplySlot<CalendarDone, ControlRefusal>) -> Action {
        let etag = verbs::wanted_etag(&self.etag);
        let action = CalendarAction::Update { dates: self.dates.clone(), etag };
        Action::Calendar { name: self.name.clone(), action, ask }
    }

    async fn answer(self, _: &Core, done: CalendarDone) -> Result<Response<Self::Response>, Status> {
        let calendar = done.calendar.as_deref().map(show_schedule::calendar);
        Ok(Response::new(v1::UpdateCalendarResponse { calendar, repeated: done.is_repeat }))
    }
}

/// Deletes a calendar.
pub(super) struct DeleteCalendar {
    name: String,
}

impl Verb for DeleteCalendar {
    type Request = v1::DeleteCalendarRequest;
    type Response = v1::DeleteCalendarResponse;
    type Done = CalendarDone;
    const NAME: &'static str = "DeleteCalendar";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::DeleteCalendarRequest, validator: &mut Validator) -> Self {
        validator.calendar_name("name", &request.name);
        DeleteCalendar { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Calendar(&self.name)
    }

    fn action(&self, ask: ReplySlot<CalendarDone, ControlRefusal>) -> Action {
        Action::Calendar { name: self.name.clone(), action: CalendarAction::Delete, ask }
    }

    async fn answer(self, _: &Core, _: CalendarDone) -> Result<Response<Self::Response>, Status> {
        Ok(Response::new(v1::DeleteCalendarResponse {}))
    }
}

fn add_dates(said: &mut Canonical, dates: &[DateRange]) {
    for range in dates {
        said.put_text("dates", &range.to_string());
    }
}
