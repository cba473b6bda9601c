//! The rules of a store, one test each, run against every store.

mod store {
    pub mod build;
    pub mod rig;
    pub mod subject;
}

/// Makes each rule a test of each store.
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

mod conformance {
    mod attempts;
    mod controls;
    mod feed;
    mod order;
    mod queues;
    mod recovery;
    mod requests;
    mod room;
    mod scans;
}
