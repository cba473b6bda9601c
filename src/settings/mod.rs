//! Settings, as values that are ready to use. [`crate::config`] reads them.
//!
//! An embedding program starts from [`Settings::new`].

mod authorities;
mod connections;
#[cfg(feature = "http")]
pub(crate) mod http;
mod job_limit;
mod kind;
pub mod limits;
mod log;
mod queue;
mod retention;
mod role;
mod schedule;
mod server;
mod storage;
#[cfg(feature = "http")]
mod targets;
mod tls;
mod token;
mod traces;
mod workers;

pub use self::{
    authorities::Authorities,
    connections::LimitSettings,
    job_limit::{LimitInfo, LimitKey, LimitRule, LimitSpec, Rate},
    kind::{CommandSettings, DEFAULT_KILL_GRACE, HandlerSettings, JobBounds, KindDefaults, KindSettings},
    log::{LogFormat, LogSettings},
    queue::{DEFAULT_QUEUE, QueueInfo, QueueSettings, SettingsChange, SettingsField, WhenFull},
    retention::{Keep, QueueRetention, Retention},
    role::{PatternError, QueuePattern, Role},
    schedule::{
        Backfill, BackfillEnd, CalendarInfo, Calendars, Deferred, FutureInstant, LastRun, Late, Overlap,
        Pause, Ran, ScheduleChange, ScheduleCounts, ScheduleField, ScheduleInfo, ScheduleRun,
        ScheduleSettings, ScheduleTimes, SetBack, SkipCount, Waits,
    },
    server::Settings,
    storage::{DiskSettings, StoreSettings},
    tls::{ClientAuth, TlsSettings},
    token::{TOKEN_PREFIX, Token, TokenHash, TokenNameError, check_token_name},
    traces::TracesSettings,
    workers::WorkerSettings,
};
#[cfg(feature = "http")]
pub use self::{
    http::{HttpSettings, HttpUrl, SecretError, SigningSecret, UrlError},
    targets::{Refused, Targets},
};
