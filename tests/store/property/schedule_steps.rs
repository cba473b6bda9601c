//! What programs do with schedules, and the moments at which programs begin.

use std::time::Duration;

use jobmill::{
    clock::Timestamp,
    engine::{BackfillRange, ScheduleAction},
    job::JobDraft,
    settings::{Late, Overlap, ScheduleChange, ScheduleField, ScheduleSettings, ScheduleTimes},
};

use super::{
    instants::{RULES, Rule, ZONES},
    program::{Dice, KINDS, QUEUES},
};
use crate::store::{batch::Control, build};

/// The names of schedules.
pub(crate) const SCHEDULES: [&str; 3] = ["dawn", "noon", "dusk"];

/// A change of a schedule that a program asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScheduleStep {
    pub(crate) name: usize,
    pub(crate) wish: ScheduleWish,
}

/// What is asked of a schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ScheduleWish {
    Create(SchedulePlan),
    /// A change of all settings.
    Update(SchedulePlan),
    /// A change of the time zone alone.
    Zone(usize),
    /// A change of the job's priority, which leaves the times alone.
    Priority(i8),
    Pause,
    Resume,
    Trigger,
    Delete,
    Backfill {
        back_millis: i64,
        again: bool,
        at_most: u32,
    },
    CancelBackfill,
}

/// The settings of a schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SchedulePlan {
    rule: Rule,
    zone: usize,
    starts_in_millis: Option<i64>,
    ends_in_millis: Option<i64>,
    /// Whether a date is left out: that of the step, or the one after it.
    excluded: Option<i64>,
    overlap: Overlap,
    late: Late,
    catch_up: Option<u64>,
    pause_after_failures: Option<u32>,
    queue: usize,
    kind: usize,
    max_attempts: u32,
}

impl ScheduleStep {
    /// Generates a step.
    pub(crate) fn roll(dice: &mut Dice) -> Self {
        let wish = match dice.below(26) {
            0..8 => ScheduleWish::Create(SchedulePlan::roll(dice)),
            8..11 => ScheduleWish::Update(SchedulePlan::roll(dice)),
            11..13 => ScheduleWish::Zone(dice.index(ZONES.len())),
            13 => ScheduleWish::Priority(dice.one_of(&[-1, 0, 1])),
            14 => ScheduleWish::Pause,
            15..18 => ScheduleWish::Resume,
            18..20 => ScheduleWish::Trigger,
            20..22 => ScheduleWish::Delete,
            22..25 => ScheduleWish::Backfill {
                back_millis: dice.one_of(&[0, 5_000, 60_000, 7_200_000, 90_000_000]),
                again: dice.percent(30),
                at_most: dice.one_of(&[3, 100, 10_000]),
            },
            _ => ScheduleWish::CancelBackfill,
        };
        ScheduleStep { name: dice.one_of(&[0, 0, 1, 1, 2]), wish }
    }

    /// Generates the step that creates a schedule.
    pub(crate) fn create(name: usize, dice: &mut Dice) -> Self {
        ScheduleStep { name, wish: ScheduleWish::Create(SchedulePlan::roll(dice)) }
    }

    /// Returns the control of a step at a time.
    pub(crate) fn control(self, now: Timestamp) -> Control {
        let name = SCHEDULES[self.name].to_owned();
        let action = match self.wish {
            ScheduleWish::Create(plan) => ScheduleAction::Create(Box::new(plan.settings(now))),
            ScheduleWish::Update(plan) => {
                let fields = ScheduleField::ALL.iter().map(|(_, field)| *field);
                change(fields, plan.settings(now))
            }
            ScheduleWish::Zone(zone) => {
                let mut to = ScheduleSettings::default();
                ZONES[zone].clone_into(&mut to.times.spec.time_zone);
                change([ScheduleField::TimeZone], to)
            }
            ScheduleWish::Priority(priority) => {
                let job = JobDraft { priority: Some(priority), ..draft(0, 0, 3) };
                change([ScheduleField::Job], ScheduleSettings { job, ..ScheduleSettings::default() })
            }
            ScheduleWish::Pause => ScheduleAction::Pause("a pause".into()),
            ScheduleWish::Resume => ScheduleAction::Resume,
            ScheduleWish::Trigger => ScheduleAction::Trigger(String::new()),
            ScheduleWish::Delete => ScheduleAction::Delete,
            ScheduleWish::Backfill { back_millis, again, at_most } => {
                let from = Timestamp::from_micros(now.as_micros() - back_millis * 1_000);
                let range = BackfillRange { from, until: now, at_most, again, dry_run: false };
                ScheduleAction::Backfill(range)
            }
            ScheduleWish::CancelBackfill => ScheduleAction::CancelBackfill,
        };
        Control::Schedule { name, action }
    }
}

fn change(fields: impl IntoIterator<Item = ScheduleField>, to: ScheduleSettings) -> ScheduleAction {
    let change = ScheduleChange { fields: fields.into_iter().collect(), to };
    ScheduleAction::Update { change: Box::new(change), etag: None }
}

fn draft(queue: usize, kind: usize, max_attempts: u32) -> JobDraft {
    let (queue, kind) = (QUEUES[queue].to_owned(), KINDS[kind].to_owned());
    JobDraft { queue, kind, max_attempts: Some(max_attempts), ..JobDraft::default() }
}

impl SchedulePlan {
    fn roll(dice: &mut Dice) -> Self {
        let overlap =
            [Overlap::Skip, Overlap::Skip, Overlap::Allow, Overlap::QueueOne, Overlap::CancelRunning];
        SchedulePlan {
            rule: dice.one_of(&RULES),
            zone: dice.one_of(&[0, 1, 1, 1, 2, 2, 2, 3]),
            starts_in_millis: dice.percent(15).then(|| dice.one_of(&[-90_000, 1_500, 60_000])),
            ends_in_millis: dice.percent(10).then(|| dice.one_of(&[20_000, 4_000_000, 200_000_000])),
            excluded: dice.percent(10).then(|| dice.below(2) as i64),
            overlap: dice.one_of(&overlap),
            late: if dice.percent(65) { Late::Latest } else { Late::All },
            catch_up: dice.percent(35).then(|| dice.one_of(&[10, 15, 3_700])),
            pause_after_failures: dice.percent(20).then(|| dice.one_of(&[1, 2])),
            queue: dice.one_of(&[0, 0, 1, 2]),
            kind: dice.one_of(&[0, 0, 1, 2]),
            max_attempts: dice.one_of(&[1, 1, 3]),
        }
    }

    fn settings(self, now: Timestamp) -> ScheduleSettings {
        let at = |millis: i64| Timestamp::from_micros(now.as_micros() + millis * 1_000);
        let mut spec = self.rule.spec(self.zone);
        (spec.start, spec.end) = (self.starts_in_millis.map(at), self.ends_in_millis.map(at));
        let date = |day: i64| {
            let text = at(day * 24 * 3_600 * 1_000).to_string();
            text[..10].parse().expect("a date")
        };
        let excluded = self.excluded.map(date).into_iter().collect();
        ScheduleSettings {
            times: ScheduleTimes { spec, excluded, ..ScheduleTimes::default() },
            overlap: self.overlap,
            late: self.late,
            catch_up: self.catch_up.map(Duration::from_secs),
            pause_after_failures: self.pause_after_failures,
            job: draft(self.queue, self.kind, self.max_attempts),
        }
    }
}

/// Returns when the program of a seed begins: most begin shortly before clocks are set somewhere.
pub(crate) fn beginning(seed: u64) -> Timestamp {
    let utc = match seed % 6 {
        // Clocks in Berlin are set back at 01:00 UTC, so that 02:00 to 03:00 comes twice.
        0 | 4 => "2026-10-25T00:29:30Z",
        // They are set forward at 01:00 UTC, so that 02:00 to 03:00 never comes.
        1 => "2026-03-29T00:59:30Z",
        // Clocks of Lord Howe are set back at 15:00 UTC, so that 01:30 to 02:00 comes twice.
        2 => "2026-04-04T14:44:30Z",
        // They are set forward at 15:30 UTC, so that 02:00 to 02:30 never comes.
        3 => "2026-10-03T15:29:30Z",
        _ => return build::at(0),
    };
    let at: jiff::Timestamp = utc.parse().expect("a timestamp");
    Timestamp::from_micros(at.as_microsecond())
}
