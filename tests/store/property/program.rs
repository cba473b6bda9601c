//! Random programs for the property test: what clients, workers, operators, clocks and power cuts may do, repeatable by
//! seed.

use jobmill::job::{DependencyCondition, OnConflict, UniqueScope};

use super::{
    limit_steps::{LimitStep, LimitedPlan},
    schedule_steps::ScheduleStep,
};

/// One step of a program. Jobs are chosen by numbers modulo their count, so that a program stays valid when steps are
/// removed.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// An offer for the next batch.
    Offer { jobs: Vec<Plan>, request: Option<RequestPlan> },
    /// A report for the next batch.
    Report { pick: usize, stale: bool, told: AttemptReport, by: Teller, checkpoint: Option<i64> },
    /// A worker's introduction for the next batch. If it is accepted, the worker opens a session.
    Hello(HelloPlan),
    /// Credits for a pool of one of the open sessions.
    Credit { pick: usize, pool: usize, count: u32 },
    /// One of the open sessions ends, or loses its credits.
    Leave { pick: usize, closes: bool },
    /// A control for the next batch.
    Control(RequestedControl),
    /// A change of a schedule for the next batch.
    Schedule(ScheduleStep),
    /// A change of a limit for the next batch.
    Limit(LimitStep),
    /// Time passes.
    Pass { millis: u64 },
    /// The clock is set, forward or back, to this far ahead of the right time.
    SetClock { ahead_millis: i64 },
    /// The gathered input is applied as one batch.
    Commit { claim: bool },
    /// The process crashes, and the next one has handlers for these kinds.
    Crash { when: When, served: u8 },
}

/// The moment of a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Before the commit: the gathered input is lost.
    Before,
    /// After the commit: the gathered input is on disk, but no caller has been answered.
    After,
}

/// A job to be offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) queue: usize,
    pub(crate) kind: usize,
    pub(crate) priority: i8,
    pub(crate) max_attempts: u32,
    pub(crate) run_in_millis: Option<i64>,
    pub(crate) expires_in_millis: Option<i64>,
    pub(crate) deadline_in_millis: Option<i64>,
    pub(crate) max_snoozes: Option<u32>,
    pub(crate) max_process_losses: Option<u32>,
    pub(crate) payload_bytes: usize,
    /// The value of the label by which queues are fair.
    pub(crate) tenant: Option<u8>,
    pub(crate) unique: Option<UniquePlan>,
    pub(crate) depends_on: [Option<DependencyPlan>; 2],
    pub(crate) limited: LimitedPlan,
}

/// A dependency of a job to be offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DependencyPlan {
    /// A job that ever existed, or one of the same offer.
    pub(crate) pick: usize,
    pub(crate) is_item: bool,
    pub(crate) condition: DependencyCondition,
    pub(crate) is_optional: bool,
}

/// The unique key of a job to be offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UniquePlan {
    pub(crate) key: usize,
    pub(crate) scope: UniqueScope,
    pub(crate) on_waiting: OnConflict,
    pub(crate) on_started: OnConflict,
    pub(crate) time: KeyTime,
}

/// The part of time in a unique key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyTime {
    None,
    Hold(u64),
    Throttle(u64),
    Debounce(u64),
}

/// A request id and the text whose digest identifies the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestPlan {
    pub(crate) id: u64,
    pub(crate) said: u64,
}

/// The sender of a report.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Teller {
    /// The one that runs the attempt, or ran it.
    Owner,
    Server,
    /// The worker of this instance, whether it runs the attempt or not.
    Worker(usize),
}

/// A worker's introduction.
#[derive(Clone, Debug)]
pub(crate) struct HelloPlan {
    pub(crate) instance: usize,
    pub(crate) process: ProcessPlan,
    pub(crate) lists: ListPlan,
    /// The pools of its session.
    pub(crate) pools: Vec<PoolPlan>,
}

/// A pool of a worker's session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolPlan {
    /// The kinds, as bits.
    pub(crate) kinds: u8,
    /// The queues, as bits; none are all queues.
    pub(crate) queues: u8,
    pub(crate) credits: u32,
}

/// The process that introduces itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProcessPlan {
    Same,
    New,
    /// One of those that were replaced.
    Earlier(usize),
}

/// The leases that a process lists.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ListPlan {
    Nothing,
    /// Those that it holds, apart from some, and some others that are over or never were its own.
    Held {
        without: u64,
        others: usize,
    },
}

/// The report of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttemptReport {
    Progress,
    /// Nothing but a checkpoint.
    Checkpoint,
    Success {
        result_bytes: usize,
    },
    Failure {
        retryable: bool,
        delay_millis: Option<u64>,
        process_died: bool,
    },
    Snooze {
        delay_millis: u64,
    },
    Release {
        delay_millis: Option<u64>,
    },
}

/// A control that a client or an operator asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestedControl {
    Cancel(usize),
    Retry(usize, Option<RequestPlan>),
    Reset(usize),
    /// A retry that deletes the checkpoint.
    RetryAnew(usize),
    Delete(usize),
    ForceDelete(usize),
    Pause(usize, bool),
    Update {
        queue: usize,
        consumers: u32,
        max_jobs: u64,
        max_bytes: u64,
        is_fair: bool,
    },
    Create {
        queue: usize,
        consumers: u32,
        is_fair: bool,
    },
    DeleteQueue(usize),
    Purge(usize),
    Review,
}

/// The queues and kinds of all programs.
pub(crate) const QUEUES: [&str; 3] = ["alpha", "beta", "gamma"];
pub(crate) const KINDS: [&str; 3] = ["one", "two", "three"];
/// The names of workers.
pub(crate) const INSTANCES: [&str; 3] = ["red", "green", "blue"];
/// Limit of how far ahead a clock is set.
pub(crate) const AHEAD_MAX_MILLIS: i64 = 4_000 * DAY_MILLIS as i64;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

/// A pseudo-random generator that gives the same numbers for a seed on every machine (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Mixed twice, because seeds that differ by a multiple of the increment would give the same sequence, shifted.
        Dice(mixed(mixed(seed) ^ 0x6A09_E667_F3BC_C909))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0) % end
    }

    pub(super) fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.index(choice.len())]
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Generates the program of a seed.
pub(crate) fn program(seed: u64) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let length = 30 + dice.index(120);
    let schedules = dice.index(3);
    let created: Vec<_> =
        (0..schedules).map(|name| Step::Schedule(ScheduleStep::create(name, &mut dice))).collect();
    let steps = created.into_iter().chain((0..length).map(|_| step(&mut dice))).collect();
    LimitStep::mix_into(steps, &mut Dice::new(!seed))
}

fn step(dice: &mut Dice) -> Step {
    match dice.below(112) {
        0..24 => {
            let request = dice.percent(40).then(|| asked(dice));
            let jobs = match request {
                // A repeat of a request has the same jobs.
                Some(asked) => plans(&mut Dice::new(1_000_000 + asked.id * 100 + asked.said)),
                None => plans(dice),
            };
            Step::Offer { jobs, request }
        }
        24..47 => Step::Report {
            pick: dice.index(1_000),
            stale: dice.percent(20),
            told: told(dice),
            by: match dice.below(20) {
                0..17 => Teller::Owner,
                17 => Teller::Server,
                _ => Teller::Worker(dice.index(INSTANCES.len())),
            },
            checkpoint: dice.percent(20).then(|| 1 + dice.below(9) as i64),
        },
        47..60 => Step::Control(wish(dice)),
        60..69 => Step::Pass { millis: pass(dice) },
        69..72 => Step::SetClock { ahead_millis: ahead(dice) },
        72..88 => Step::Commit { claim: dice.percent(92) },
        88..93 => Step::Hello(hello(dice)),
        93..96 => {
            Step::Credit { pick: dice.index(1_000), pool: dice.index(2), count: dice.one_of(&[1, 1, 2, 5]) }
        }
        96 => Step::Leave { pick: dice.index(1_000), closes: dice.percent(60) },
        100.. => Step::Schedule(ScheduleStep::roll(dice)),
        _ => Step::Crash {
            when: if dice.percent(50) { When::Before } else { When::After },
            served: dice.one_of(&[0b001, 0b011, 0b011, 0b111, 0b110]),
        },
    }
}

fn hello(dice: &mut Dice) -> HelloPlan {
    let process = match dice.below(10) {
        0..6 => ProcessPlan::Same,
        6..9 => ProcessPlan::New,
        _ => ProcessPlan::Earlier(dice.index(10)),
    };
    let lists = match dice.percent(30) {
        true => ListPlan::Nothing,
        false => ListPlan::Held {
            without: dice.one_of(&[0, 0, 0b101, u64::MAX]),
            others: dice.one_of(&[0, 0, 1, 3]),
        },
    };
    let pools = (0..1 + dice.index(2)).map(|_| PoolPlan {
        kinds: dice.one_of(&[0b001, 0b011, 0b100, 0b111]),
        queues: dice.one_of(&[0, 0, 0b001, 0b110]),
        credits: dice.one_of(&[0, 2, 3, 9]),
    });
    let pools = pools.collect();
    HelloPlan { instance: dice.index(INSTANCES.len()), process, lists, pools }
}

fn plans(dice: &mut Dice) -> Vec<Plan> {
    let count = if dice.percent(70) { 1 } else { 1 + dice.index(5) };
    (0..count).map(|_| plan(dice)).collect()
}

fn plan(dice: &mut Dice) -> Plan {
    let unique = dice.percent(35).then(|| unique(dice));
    // A job takes another's place only where what it doesn't give is the same.
    let rare = if unique.is_some() { 10 } else { 50 };
    Plan {
        queue: dice.one_of(&[0, 0, 0, 1, 1, 2]),
        kind: dice.one_of(&[0, 0, 1, 1, 2]),
        priority: dice.one_of(&[0, 0, 0, 0, 1, 5, -5, 100, -100]),
        max_attempts: dice.one_of(&[1, 1, 2, 3, 5, 5]),
        run_in_millis: dice
            .percent(30)
            .then(|| dice.one_of(&[-1_000, 0, 1, 500, 2_000, 2_000, 5_000, 60_000])),
        expires_in_millis: dice
            .percent(20)
            .then(|| dice.one_of(&[-1_000, 0, 1, 700, 3_000, 10_000, 10_000, 90_000])),
        payload_bytes: dice.one_of(&[0, 0, 0, 10, 255, 256, 257, 600]),
        deadline_in_millis: dice
            .percent(20.min(rare))
            .then(|| dice.one_of(&[-1_000, 0, 900, 3_000, 10_000, 90_000])),
        max_snoozes: dice.percent(rare).then(|| dice.one_of(&[0, 1, 2])),
        max_process_losses: dice.percent(rare).then(|| dice.one_of(&[1, 2])),
        tenant: dice.percent(90 * rare / 50).then(|| dice.one_of(&[0, 0, 0, 1, 2])),
        unique,
        depends_on: dependencies(dice),
        limited: LimitedPlan::roll(unique.is_some(), &mut Dice::new(!dice.0)),
    }
}

/// Returns dependencies from dice of their own, so that the rest of a seed's program does not depend on them.
fn dependencies(dice: &Dice) -> [Option<DependencyPlan>; 2] {
    let mut own = Dice::new(dice.0);
    [(); 2].map(|()| own.percent(12).then(|| dependency(&mut own)))
}

fn dependency(dice: &mut Dice) -> DependencyPlan {
    use DependencyCondition::{Ended, Succeeded, Unsuccessful};

    DependencyPlan {
        pick: dice.index(1_000),
        is_item: dice.percent(40),
        condition: dice.one_of(&[Succeeded, Succeeded, Unsuccessful, Ended]),
        is_optional: dice.percent(25),
    }
}

fn unique(dice: &mut Dice) -> UniquePlan {
    use OnConflict::{Cancel, Follow, Reject, Replace, ReturnExisting};

    let millis = dice.one_of(&[1, 1_500, 10_000, 3_600_000]);
    let time = dice.one_of(&[
        KeyTime::None,
        KeyTime::None,
        KeyTime::None,
        KeyTime::Hold(millis),
        KeyTime::Throttle(millis),
        KeyTime::Debounce(millis),
    ]);
    let on_waiting = match time {
        KeyTime::None | KeyTime::Hold(_) => {
            dice.one_of(&[ReturnExisting, Reject, Replace, Replace, Follow, Follow])
        }
        KeyTime::Throttle(_) | KeyTime::Debounce(_) => Replace,
    };
    UniquePlan {
        key: dice.index(3),
        scope: dice.one_of(&[
            UniqueScope::Kind,
            UniqueScope::Queue,
            UniqueScope::Queue,
            UniqueScope::Namespace,
        ]),
        on_waiting,
        on_started: dice.one_of(&[ReturnExisting, Reject, Follow, Follow, Follow, Cancel]),
        time,
    }
}

fn asked(dice: &mut Dice) -> RequestPlan {
    RequestPlan { id: dice.below(6), said: if dice.percent(80) { 0 } else { dice.below(3) } }
}

fn told(dice: &mut Dice) -> AttemptReport {
    match dice.below(12) {
        0 => AttemptReport::Progress,
        1 => AttemptReport::Checkpoint,
        2..6 => AttemptReport::Success { result_bytes: dice.one_of(&[0, 0, 20, 300]) },
        6..9 => AttemptReport::Failure {
            retryable: dice.percent(75),
            delay_millis: dice.percent(40).then(|| dice.one_of(&[0, 1, 2_000])),
            process_died: dice.percent(30),
        },
        9 | 10 => AttemptReport::Snooze { delay_millis: dice.one_of(&[0, 1, 700, 2_000, 20_000]) },
        _ => AttemptReport::Release { delay_millis: dice.percent(40).then(|| dice.one_of(&[0, 1, 2_000])) },
    }
}

fn wish(dice: &mut Dice) -> RequestedControl {
    let (pick, queue) = (dice.index(1_000), dice.index(QUEUES.len()));
    match dice.below(26) {
        0..4 => RequestedControl::Cancel(pick),
        4..9 => match dice.percent(30).then(|| asked(dice)) {
            None if pick % 3 == 0 => RequestedControl::RetryAnew(pick),
            asked => RequestedControl::Retry(pick, asked),
        },
        9..11 => RequestedControl::Delete(pick),
        11 => RequestedControl::ForceDelete(pick),
        12 => RequestedControl::Pause(queue, true),
        13..16 => RequestedControl::Pause(queue, false),
        16..19 => RequestedControl::Update {
            queue,
            consumers: dice.one_of(&[0, 1, 1, 2, 3]),
            max_jobs: dice.one_of(&[2, 10, 30, 100]),
            max_bytes: dice.one_of(&[3_000, 1 << 20, 1 << 20]),
            is_fair: dice.percent(85),
        },
        19 => RequestedControl::Create { queue, consumers: dice.below(3) as u32, is_fair: dice.percent(85) },
        20 => RequestedControl::DeleteQueue(queue),
        21 => RequestedControl::Review,
        22 => RequestedControl::Reset(pick),
        _ => RequestedControl::Purge(queue),
    }
}

fn pass(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => dice.one_of(&[1, 1, 1, 14]) * DAY_MILLIS + 2_000,
        1 => 3_600_000,
        2 => 1_800_000,
        3..5 => 120_000,
        _ => dice.one_of(&[1, 100, 1_000, 2_500, 10_000]),
    }
}

fn ahead(dice: &mut Dice) -> i64 {
    let (hour, day) = (3_600_000, DAY_MILLIS as i64);
    match dice.below(3) {
        0 => 0,
        1 => dice.one_of(&[-5_000, -400, 700, 5_000, hour, -hour]),
        _ => dice.one_of(&[20 * day, -20 * day, AHEAD_MAX_MILLIS, -AHEAD_MAX_MILLIS]),
    }
}

/// Returns the shortest program found that still fails, by removing steps.
pub(crate) fn shrink(program: &[Step], mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    const TRIALS_MAX: usize = 500;
    let mut shortest = program.to_vec();
    let (mut chunk, mut trials) = (shortest.len().div_ceil(2), 0);
    while chunk > 0 && trials < TRIALS_MAX {
        let (mut start, before) = (0, shortest.len());
        while start < shortest.len() && trials < TRIALS_MAX {
            let mut shorter = shortest.clone();
            shorter.drain(start..(start + chunk).min(shortest.len()));
            trials += 1;
            if fails(&shorter) {
                shortest = shorter;
            } else {
                start += chunk;
            }
        }
        if chunk == 1 && shortest.len() == before {
            break;
        }
        chunk = if chunk == 1 { 1 } else { chunk / 2 };
    }
    shortest
}
