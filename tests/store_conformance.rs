//! The rules of a store, one test each, run against every store.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

/// Turns each rule into a test for each store.
macro_rules! both_stores {
    ($($rule:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $rule() { super::$rule(&mut crate::store::rig::Rig::memory()); })*
        }
        mod sqlite {
            $(#[test] fn $rule() { super::$rule(&mut crate::store::rig::Rig::sqlite()); })*
        }
    };
}

mod store {
    pub(crate) mod batch;
    pub(crate) mod build;
    pub(crate) mod limits;
    pub(crate) mod rig;
    pub(crate) mod schedules;
    pub(crate) mod subject;
    pub(crate) mod workers;

    mod conformance {
        mod attempts;
        mod checkpoints;
        mod clocks;
        mod controls;
        mod credits;
        mod deadlines;
        mod dependencies;
        mod expiry;
        mod fairness;
        mod fan_out;
        mod feed;
        mod flights;
        mod full_disk;
        mod hellos;
        mod kept_parents;
        mod keys;
        mod keys_by_time;
        mod limits {
            mod changes;
            mod order;
            mod places;
            mod random;
            mod rates;
        }
        mod names;
        mod numbers;
        mod order;
        mod purges;
        mod queues;
        mod recovery;
        mod release;
        mod repeats;
        mod request_life;
        mod requests;
        mod retention;
        mod retries;
        mod room;
        mod scans;
        mod suspects;
        mod schedules {
            mod backfills;
            mod calendars;
            mod changes;
            mod clocks;
            mod declared;
            mod late;
            mod overlap;
            mod random;
            mod waiting;
        }
        mod turns;
        mod updates;
        mod worker_kinds;
        mod worker_reports;
    }
}
