//! Changes of schedules that callers request.

use std::sync::Arc;

use super::{
    super::{ControlRefusal, OfferRefusal, QueueFull, decision::Decision},
    ScheduleRefusal,
    backfill::BackfillRange,
    times::Coming,
    turn::Turn,
};
use crate::{
    clock::Timestamp,
    job::{JobId, RequestId, ScheduleId, ScheduleOrigin, SubmitOutcome},
    settings::{
        BackfillEnd, Pause, ScheduleChange, ScheduleInfo, ScheduleRun, ScheduleSettings, limits::SCHEDULES_MAX,
    },
    store::sets::RequestOutcome,
    timetable::TimetableFault,
};

/// A change of a schedule.
#[derive(Clone, PartialEq, Debug)]
pub enum ScheduleAction {
    /// Create it.
    Create(Box<ScheduleSettings>),
    /// Change its settings.
    Update {
        /// The changed settings.
        change: Box<ScheduleChange>,
        /// Etag that it must have.
        etag: Option<String>,
    },
    /// Delete it. Its jobs stay.
    Delete,
    /// Pause it, with the reason.
    Pause(String),
    /// Resume it.
    Resume,
    /// Create a job now, under the request's text id.
    Trigger(String),
    /// Run instants of the past, or tell which would run.
    Backfill(BackfillRange),
    /// End its backfill.
    CancelBackfill,
}

/// The answer to a change of a schedule.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ScheduleDone {
    /// The schedule; absent if it is deleted.
    pub schedule: Option<Arc<ScheduleInfo>>,
    /// Whether the request id was seen before.
    pub is_repeat: bool,
    /// The triggered job.
    pub job: Option<(JobId, SubmitOutcome)>,
    /// The instants of the backfill.
    pub instants: Vec<Timestamp>,
}

impl From<TimetableFault> for ControlRefusal {
    fn from(fault: TimetableFault) -> Self {
        ScheduleRefusal::Times(vec![fault]).into()
    }
}

impl Decision<'_> {
    /// Returns a schedule with the batch's changes so far.
    pub(super) fn schedule(&self, id: ScheduleId) -> Option<Arc<ScheduleInfo>> {
        match self.engine.schedules.version(id) {
            Some(version) => version.now.clone(),
            None => self.found.schedules.get(&id).cloned(),
        }
    }

    /// Returns the schedule with this name, with the batch's changes so far.
    pub(super) fn schedule_named(&self, name: &str) -> Option<Arc<ScheduleInfo>> {
        let found = self.found.schedules.values().find(|info| &*info.name == name).map(|info| info.id);
        let id = self.engine.schedules.changed_named(name).or(found)?;
        self.schedule(id)
    }

    /// Carries out a change of a schedule.
    pub(in super::super) fn change_schedule(
        &mut self,
        name: &str,
        action: &ScheduleAction,
        request: Option<RequestId>,
    ) -> Result<ScheduleDone, ControlRefusal> {
        let found = self.schedule_named(name);
        let info = match (action, found) {
            (ScheduleAction::Create(settings), None) => return self.create_schedule(name, settings, request),
            (_, None) => return Err(ScheduleRefusal::NotFound(name.to_owned()).into()),
            (_, Some(info)) => info,
        };
        let queue = self.engine.queues.name(info.queue()).map_or(0, |queue| queue.number);
        let done = match action {
            ScheduleAction::Create(_) => Err(ScheduleRefusal::Exists(name.to_owned()).into()),
            ScheduleAction::Trigger(id) => return self.trigger(&info, id, request),
            ScheduleAction::Delete if info.declared => Err(ScheduleRefusal::Declared(name.to_owned()).into()),
            ScheduleAction::Delete => {
                self.engine.schedules.delete(&info);
                Ok(ScheduleDone::default())
            }
            ScheduleAction::Update { change, etag } => self.update_schedule(&info, change, etag.as_deref()),
            ScheduleAction::Pause(reason) => Ok(self.pause_schedule(&info, reason)),
            ScheduleAction::Resume => self.resume_schedule(&info),
            ScheduleAction::Backfill(range) => {
                let mut turn = Turn::new(&info, self.now(), self.space);
                let instants = self.begin_backfill(&mut turn, *range)?;
                Ok(ScheduleDone { instants, ..self.keep_turn(&info, turn) })
            }
            ScheduleAction::CancelBackfill => {
                let mut turn = Turn::new(&info, self.now(), self.space);
                let at = self.now();
                if let Some(backfill) = turn.info.run.backfill.as_mut().filter(|backfill| backfill.end.is_none()) {
                    backfill.end = Some(BackfillEnd { at, cancelled: true });
                }
                Ok(self.keep_turn(&info, turn))
            }
        }?;
        if !matches!(action, ScheduleAction::Backfill(BackfillRange { dry_run: true, .. })) {
            self.keep_answer(request, RequestOutcome::Done { queue });
        }
        Ok(done)
    }

    /// Answers a repeated request.
    pub(in super::super) fn repeat_schedule(&self, name: &str, answer: RequestOutcome) -> ScheduleDone {
        let job = match answer {
            RequestOutcome::Jobs { first, live: 0, .. } => Some((first, SubmitOutcome::Gone)),
            RequestOutcome::Jobs { first, .. } => Some((first, SubmitOutcome::Repeated)),
            RequestOutcome::Job { .. } | RequestOutcome::Done { .. } | RequestOutcome::Purge { .. } => None,
        };
        ScheduleDone { schedule: self.schedule_named(name), is_repeat: true, job, instants: Vec::new() }
    }

    /// Records what a turn has changed.
    pub(super) fn keep_turn(&mut self, before: &ScheduleInfo, turn: Turn) -> ScheduleDone {
        let is_defined = turn.is_defined;
        let is_blocked = self.engine.schedules.is_blocked(before.id);
        let info = Arc::new(turn.info);
        if *info != *before {
            self.engine.schedules.change(Some(before), Arc::clone(&info), is_defined, is_blocked);
        }
        ScheduleDone { schedule: Some(info), ..ScheduleDone::default() }
    }

    fn create_schedule(
        &mut self,
        name: &str,
        settings: &ScheduleSettings,
        request: Option<RequestId>,
    ) -> Result<ScheduleDone, ControlRefusal> {
        if self.engine.schedules.count() >= SCHEDULES_MAX {
            return Err(ScheduleRefusal::TooMany(SCHEDULES_MAX).into());
        }
        self.check_settings(settings)?;
        let info = self.new_schedule(name, settings, false)?;
        let queue = self.engine.queues.name(info.queue()).map_or(0, |queue| queue.number);
        self.keep_answer(request, RequestOutcome::Done { queue });
        Ok(ScheduleDone { schedule: Some(info), ..ScheduleDone::default() })
    }

    /// Creates a schedule, whose times count from now.
    pub(super) fn new_schedule(
        &mut self,
        name: &str,
        settings: &ScheduleSettings,
        declared: bool,
    ) -> Result<Arc<ScheduleInfo>, ControlRefusal> {
        let now = self.now();
        let mut info = ScheduleInfo {
            id: ScheduleId::from(self.engine.numbers.draw_ids(1, now)),
            name: name.into(),
            settings: Arc::new(settings.clone()),
            generation: 1,
            revision: now.as_micros(),
            created: now,
            since: now,
            declared,
            paused: None,
            run: ScheduleRun { cursor: now, ..ScheduleRun::default() },
        };
        let coming = Coming::of(&info, &self.engine.schedules.calendars(), now)?;
        info.run.next = coming.future(&info, now);
        let info = Arc::new(info);
        self.engine.schedules.change(None, Arc::clone(&info), true, false);
        Ok(info)
    }

    /// Checks that a schedule's job can be admitted, and that its instants come.
    fn check_settings(&self, settings: &ScheduleSettings) -> Result<(), ControlRefusal> {
        let checked = settings.times.check(&self.engine.schedules.calendars(), self.now());
        checked.map_err(ScheduleRefusal::Times)?;
        match self.obstacle_of(&settings.job) {
            Some(obstacle) => Err(ControlRefusal::NotAdmitted(obstacle)),
            None => Ok(()),
        }
    }

    fn update_schedule(
        &mut self,
        info: &Arc<ScheduleInfo>,
        change: &ScheduleChange,
        etag: Option<&str>,
    ) -> Result<ScheduleDone, ControlRefusal> {
        if info.declared {
            return Err(ScheduleRefusal::Declared(info.name.to_string()).into());
        }
        if etag.is_some_and(|etag| etag != info.etag()) {
            let schedule = info.name.to_string();
            return Err(ScheduleRefusal::EtagMismatch { schedule, etag: info.etag() }.into());
        }
        let settings = change.applied(&info.settings);
        self.check_settings(&settings)?;
        self.put_settings(info, settings, false)
    }

    /// Changes the settings of a schedule. New times count from now; with the same times nothing moves.
    pub(super) fn put_settings(
        &mut self,
        before: &Arc<ScheduleInfo>,
        settings: ScheduleSettings,
        declared: bool,
    ) -> Result<ScheduleDone, ControlRefusal> {
        if *before.settings == settings && before.declared == declared {
            return Ok(ScheduleDone { schedule: Some(Arc::clone(before)), ..ScheduleDone::default() });
        }
        let mut turn = Turn::new(before, self.now(), self.space);
        let same_times = before.settings.times == settings.times;
        let former = if same_times { None } else { self.coming(&turn).ok() };
        if !same_times {
            // The instants of the former times that have come are over.
            if before.paused.is_none()
                && let Some(former) = &former
            {
                self.give_up(&mut turn, former);
            }
            turn.info.since = turn.now;
            turn.info.run.cursor = turn.now;
            turn.info.run.high = None;
        }
        turn.info.settings = Arc::new(settings);
        turn.info.declared = declared;
        turn.info.generation += 1;
        turn.revise();
        let coming = self.coming(&turn)?;
        if let Some(former) = former {
            let ran = &turn.info.run.ran;
            turn.info.run.ran =
                ran.with_new_times(turn.now, |after| former.following(after), |after| coming.following(after));
        }
        if before.paused.is_none() && !same_times {
            turn.info.run.next = coming.future(&turn.info, turn.now);
        }
        // With another queue, kind or catch_up, what waits may run.
        self.engine.schedules.call(before.id);
        Ok(self.keep_turn(before, turn))
    }

    fn pause_schedule(&mut self, info: &Arc<ScheduleInfo>, reason: &str) -> ScheduleDone {
        let mut turn = Turn::new(info, self.now(), self.space);
        match &mut turn.info.paused {
            Some(pause) if pause.reason == reason && !pause.by_failures => {}
            Some(pause) => {
                *pause = Pause { since: pause.since, reason: reason.to_owned(), by_failures: false };
                turn.revise();
            }
            None => {
                let pause = Pause { since: turn.now, reason: reason.to_owned(), by_failures: false };
                self.pause(&mut turn, pause);
            }
        }
        self.keep_turn(info, turn)
    }

    fn resume_schedule(&mut self, info: &Arc<ScheduleInfo>) -> Result<ScheduleDone, ControlRefusal> {
        let mut turn = Turn::new(info, self.now(), self.space);
        if turn.info.paused.take().is_some() {
            turn.revise();
            // Paused time is neither late nor missed.
            turn.info.run.cursor = turn.info.run.cursor.max(turn.now);
            turn.info.run.failures = 0;
            let coming = self.coming(&turn)?;
            turn.info.run.next = coming.future(&turn.info, turn.now);
            self.engine.schedules.call(info.id);
        }
        Ok(self.keep_turn(info, turn))
    }

    /// Creates a job of a schedule now. It does not wait for room.
    fn trigger(
        &mut self,
        info: &Arc<ScheduleInfo>,
        id: &str,
        request: Option<RequestId>,
    ) -> Result<ScheduleDone, ControlRefusal> {
        let mut offer = self.schedule_offer(info, self.now(), ScheduleOrigin::Triggered, request.map(|request| (id, request)));
        offer.schedule = None;
        let job = self.offer_now(offer, self.space)?;
        let job = Some((job, SubmitOutcome::Created));
        Ok(ScheduleDone { schedule: Some(Arc::clone(info)), job, ..ScheduleDone::default() })
    }
}

impl From<OfferRefusal> for ControlRefusal {
    fn from(refusal: OfferRefusal) -> Self {
        match refusal {
            OfferRefusal::NotAdmitted(refused) => ControlRefusal::NotAdmitted(refused),
            OfferRefusal::DiskFull => ControlRefusal::DiskFull,
            OfferRefusal::Locked => ControlRefusal::Locked,
            OfferRefusal::RequestMismatch => ControlRefusal::RequestMismatch,
            OfferRefusal::TooManyKinds(max) => ControlRefusal::TooManyKinds(max),
            refusal @ (OfferRefusal::LargerThanQueue { .. }
            | OfferRefusal::KeyHeld { .. }
            | OfferRefusal::KeyConflict { .. }
            | OfferRefusal::KeyHeldBesideDependencies { .. }
            | OfferRefusal::WeightOfUnknownLimit { .. }
            | OfferRefusal::TooHeavy { .. }
            | OfferRefusal::DependencyNotFound { .. }
            | OfferRefusal::DependencyCycle(_)) => ControlRefusal::NeverFits(refusal),
        }
    }
}

impl From<QueueFull> for ControlRefusal {
    fn from(full: QueueFull) -> Self {
        ControlRefusal::QueueFull(full)
    }
}
