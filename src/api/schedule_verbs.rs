//! The verbs that change schedules.

use std::collections::BTreeSet;

use tonic::{Response, Status};

use super::{
    convert,
    core::Core,
    needs::Needs,
    validate::Validator,
    verbs::{self, Target, Verb},
};
use crate::{
    admission,
    engine::{Action, BACKFILL_MAX, BackfillRange, ControlRefusal, ReplySlot, ScheduleAction, ScheduleDone},
    job::Canonical,
    proto::v1,
    settings::{Role, ScheduleChange, ScheduleField, ScheduleSettings},
};

/// Limit of the instants of a backfill that does not say one.
const BACKFILL_DEFAULT: u32 = 1_000;

const ADMIN: Needs = Needs::Role(Role::Admin);

/// Creates a schedule.
pub(super) struct CreateSchedule {
    name: String,
    settings: ScheduleSettings,
}

impl Verb for CreateSchedule {
    type Request = v1::CreateScheduleRequest;
    type Response = v1::CreateScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "CreateSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::CreateScheduleRequest, validator: &mut Validator) -> Self {
        let v1::Schedule { name, spec, job, .. } = request.schedule.unwrap_or_else(|| {
            validator.fault("schedule", "is required");
            v1::Schedule::default()
        });
        validator.schedule_name("schedule.name", &name);
        let settings = validator.new_schedule(spec, job);
        CreateSchedule { name, settings }
    }

    fn target(&self) -> Target<'_> {
        Target::NewSchedule(&self.name, &self.settings.job.queue)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        add_settings(said, &self.settings);
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        let action = ScheduleAction::Create(Box::new(self.settings.clone()));
        Action::Schedule { name: self.name.clone(), action, ask }
    }

    async fn answer(self, core: &Core, done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::CreateScheduleResponse { schedule: core.schedule_after(done).await?, repeated }))
    }
}

/// Changes some of a schedule's settings.
pub(super) struct UpdateSchedule {
    name: String,
    etag: String,
    paths: BTreeSet<String>,
    change: ScheduleChange,
}

impl Verb for UpdateSchedule {
    type Request = v1::UpdateScheduleRequest;
    type Response = v1::UpdateScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "UpdateSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::UpdateScheduleRequest, validator: &mut Validator) -> Self {
        let v1::Schedule { name, etag, spec, job, .. } = request.schedule.unwrap_or_else(|| {
            validator.fault("schedule", "is required");
            v1::Schedule::default()
        });
        validator.schedule_name("schedule.name", &name);
        validator.etag("schedule.etag", &etag);
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let fields = validator.schedule_fields(&paths);
        let mut to = validator.schedule_spec("schedule.spec", &spec.unwrap_or_default());
        if fields.contains(&ScheduleField::Job) {
            to.job = validator.schedule_job(job);
        }
        let paths = paths.into_iter().collect();
        UpdateSchedule { name, etag, paths, change: ScheduleChange { fields, to } }
    }

    fn target(&self) -> Target<'_> {
        let queue = &self.change.to.job.queue;
        Target::Schedule(&self.name, (!queue.is_empty()).then_some(queue))
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("etag", &self.etag);
        for path in &self.paths {
            said.put_text("update_mask", path);
        }
        // Fields that the mask does not name are ignored.
        add_settings(said, &self.change.applied(&ScheduleSettings::default()));
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        let etag = verbs::wanted_etag(&self.etag);
        let action = ScheduleAction::Update { change: Box::new(self.change.clone()), etag };
        Action::Schedule { name: self.name.clone(), action, ask }
    }

    async fn answer(self, core: &Core, done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::UpdateScheduleResponse { schedule: core.schedule_after(done).await?, repeated }))
    }
}

/// Adds the settings that a request sets to its canonical form.
fn add_settings(said: &mut Canonical, settings: &ScheduleSettings) {
    let spec = &settings.times.spec;
    for cron in &spec.crons {
        said.put_text("spec.crons", cron);
    }
    said.put_duration("spec.every", spec.every);
    said.put_text("spec.time_zone", &spec.time_zone);
    said.put_number("spec.overlap", Some(settings.overlap as u8).filter(|number| *number > 0));
    said.put_duration("spec.catch_up", settings.catch_up);
    said.put_duration("spec.jitter", spec.jitter);
    said.put_number("spec.start_time", spec.start.map(|time| time.as_micros()));
    said.put_number("spec.end_time", spec.end.map(|time| time.as_micros()));
    said.put_number("spec.late", Some(settings.late as u8).filter(|number| *number > 0));
    for range in &settings.times.excluded {
        said.put_text("spec.exclude", &range.to_string());
    }
    for calendar in &settings.times.calendars {
        said.put_text("spec.calendars", calendar);
    }
    said.put_number("spec.pause_after_failures", settings.pause_after_failures);
    if !settings.job.queue.is_empty() {
        admission::put_job(said, &settings.job);
    }
}

/// Defines a verb on a schedule without parameters of its own.
macro_rules! simple_verb {
    ($(#[$doc:meta])* $verb:ident, $request:ident, $response:ident, $action:expr) => {
        $(#[$doc])*
        pub(super) struct $verb {
            name: String,
        }

        impl Verb for $verb {
            type Request = v1::$request;
            type Response = v1::$response;
            type Done = ScheduleDone;
            const NAME: &'static str = stringify!($verb);
            const NEEDS: Needs = ADMIN;

            fn read(request: v1::$request, validator: &mut Validator) -> Self {
                validator.schedule_name("name", &request.name);
                $verb { name: request.name }
            }

            fn target(&self) -> Target<'_> {
                Target::Schedule(&self.name, None)
            }

            fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
                Action::Schedule { name: self.name.clone(), action: $action, ask }
            }

            async fn answer(self, core: &Core, done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
                let repeated = done.is_repeat;
                Ok(Response::new(v1::$response { schedule: core.schedule_after(done).await?, repeated }))
            }
        }
    };
}

simple_verb!(
    /// Resumes a schedule.
    ResumeSchedule, ResumeScheduleRequest, ResumeScheduleResponse, ScheduleAction::Resume
);
simple_verb!(
    /// Ends the backfill of a schedule.
    CancelBackfill, CancelBackfillRequest, CancelBackfillResponse, ScheduleAction::CancelBackfill
);

/// Deletes a schedule.
pub(super) struct DeleteSchedule {
    name: String,
}

impl Verb for DeleteSchedule {
    type Request = v1::DeleteScheduleRequest;
    type Response = v1::DeleteScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "DeleteSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::DeleteScheduleRequest, validator: &mut Validator) -> Self {
        validator.schedule_name("name", &request.name);
        DeleteSchedule { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Schedule(&self.name, None)
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        Action::Schedule { name: self.name.clone(), action: ScheduleAction::Delete, ask }
    }

    async fn answer(self, _: &Core, _: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        Ok(Response::new(v1::DeleteScheduleResponse {}))
    }
}

/// Pauses a schedule.
pub(super) struct PauseSchedule {
    name: String,
    reason: String,
}

impl Verb for PauseSchedule {
    type Request = v1::PauseScheduleRequest;
    type Response = v1::PauseScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "PauseSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::PauseScheduleRequest, validator: &mut Validator) -> Self {
        validator.schedule_name("name", &request.name);
        validator.pause_reason(&request.reason);
        PauseSchedule { name: request.name, reason: request.reason }
    }

    fn target(&self) -> Target<'_> {
        Target::Schedule(&self.name, None)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("reason", &self.reason);
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        Action::Schedule { name: self.name.clone(), action: ScheduleAction::Pause(self.reason.clone()), ask }
    }

    async fn answer(self, core: &Core, done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::PauseScheduleResponse { schedule: core.schedule_after(done).await?, repeated }))
    }
}

/// Creates a job of a schedule now.
pub(super) struct TriggerSchedule {
    name: String,
    request_id: String,
}

impl Verb for TriggerSchedule {
    type Request = v1::TriggerScheduleRequest;
    type Response = v1::TriggerScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "TriggerSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::TriggerScheduleRequest, validator: &mut Validator) -> Self {
        validator.schedule_name("name", &request.name);
        TriggerSchedule { name: request.name, request_id: request.request_id }
    }

    fn target(&self) -> Target<'_> {
        Target::Schedule(&self.name, None)
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        let action = ScheduleAction::Trigger(self.request_id.clone());
        Action::Schedule { name: self.name.clone(), action, ask }
    }

    async fn answer(self, _: &Core, done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        let submitted = done.job.map(|(id, outcome)| convert::submitted(id, outcome));
        Ok(Response::new(v1::TriggerScheduleResponse { submitted }))
    }
}

/// Runs instants of the past.
pub(super) struct BackfillSchedule {
    name: String,
    range: BackfillRange,
}

impl Verb for BackfillSchedule {
    type Request = v1::BackfillScheduleRequest;
    type Response = v1::BackfillScheduleResponse;
    type Done = ScheduleDone;
    const NAME: &'static str = "BackfillSchedule";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::BackfillScheduleRequest, validator: &mut Validator) -> Self {
        validator.schedule_name("name", &request.name);
        let from = validator.required_time("start_time", request.start_time);
        let until = validator.required_time("end_time", request.end_time);
        if request.start_time.is_some() && request.end_time.is_some() && until < from {
            validator.fault("end_time", "is before start_time");
        }
        let at_most = validator.limit("at_most", request.at_most, BACKFILL_MAX, BACKFILL_DEFAULT);
        let range = BackfillRange { from, until, at_most, again: request.again, dry_run: request.dry_run };
        BackfillSchedule { name: request.name, range }
    }

    fn target(&self) -> Target<'_> {
        Target::Schedule(&self.name, None)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        let BackfillRange { from, until, at_most, again, dry_run } = self.range;
        said.put_number("start_time", Some(from.as_micros()));
        said.put_number("end_time", Some(until.as_micros()));
        said.put_number("at_most", Some(at_most));
        said.put_number("dry_run", dry_run.then_some(true));
        said.put_number("again", again.then_some(true));
    }

    fn action(&self, ask: ReplySlot<ScheduleDone, ControlRefusal>) -> Action {
        Action::Schedule { name: self.name.clone(), action: ScheduleAction::Backfill(self.range), ask }
    }

    async fn answer(self, core: &Core, mut done: ScheduleDone) -> Result<Response<Self::Response>, Status> {
        let (repeated, instants) = (done.is_repeat, std::mem::take(&mut done.instants));
        let instants = instants.into_iter().map(convert::timestamp).collect();
        let schedule = core.schedule_after(done).await?;
        Ok(Response::new(v1::BackfillScheduleResponse { instants, schedule, repeated }))
    }
}
