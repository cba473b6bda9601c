//! Validation of queue settings.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive, sync::Arc};

use super::validate::Validator;
use crate::{
    admission::rules::{label_name, shown},
    proto::v1,
    settings::{Keep, QueueRetention, QueueSettings, SettingsField, limits},
};

impl Validator {
    pub(super) fn etag(&mut self, field: &str, etag: &str) {
        const ETAG_MAX_BYTES: usize = 64;
        if etag.is_empty() {
            self.fault(field, "is required: send the etag of the queue's last response, or `*` to match any");
        } else if etag.len() > ETAG_MAX_BYTES {
            self.fault(field, format!("has {} bytes, more than any etag", etag.len()));
        }
    }

    /// Returns the settings that an update mask names.
    pub(super) fn settings_fields(&mut self, field: &str, paths: &[String]) -> BTreeSet<SettingsField> {
        const ROOT: &str = "settings";
        const PATHS_MAX: usize = 32;
        if paths.is_empty() || paths.len() > PATHS_MAX {
            let count = paths.len();
            self.fault(
                field,
                format!("has {count} paths; it must have 1 to {PATHS_MAX}, such as `settings.max_jobs`"),
            );
            return BTreeSet::new();
        }
        let mut fields = BTreeSet::new();
        for (index, path) in paths.iter().enumerate() {
            let below = |own: &str| {
                let rest = format!("{ROOT}.{own}").strip_prefix(path.as_str()).map(str::to_owned);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let named: Vec<_> =
                SettingsField::ALL.iter().filter(|(own, _)| below(own)).map(|(_, field)| *field).collect();
            if named.is_empty() || path.is_empty() {
                let shown = shown(path);
                self.fault(
                    format_args!("{field}.paths[{index}]"),
                    format!("{shown} is no path of a queue's settings, such as `settings.max_jobs`"),
                );
            }
            fields.extend(named);
        }
        fields
    }

    pub(super) fn queue_settings(&mut self, at: &str, settings: &v1::QueueSettings) -> QueueSettings {
        let default = QueueSettings::default();
        let max_jobs = self.setting(at, "max_jobs", settings.max_jobs, &limits::QUEUE_JOBS, default.max_jobs);
        let max_bytes =
            self.setting(at, "max_bytes", settings.max_bytes, &limits::QUEUE_BYTES, default.max_bytes);
        let consumers =
            self.setting(at, "consumers", settings.consumers, &limits::QUEUE_CONSUMERS, default.consumers);
        let max_waiters = self.setting(
            at,
            "max_waiters",
            settings.max_waiters,
            &limits::QUEUE_MAX_WAITERS,
            default.max_waiters,
        );
        let max_wait = settings
            .max_wait
            .and_then(|wait| self.duration(format_args!("{at}.max_wait"), &wait, &limits::QUEUE_MAX_WAIT))
            .unwrap_or(default.max_wait);
        let when_full =
            self.when_full(&format!("{at}.when_full"), settings.when_full).unwrap_or(default.when_full);
        let fair_by = (!settings.fair_by.is_empty()).then_some(&*settings.fair_by);
        if let Some(Err(fault)) = fair_by.map(label_name) {
            self.fault(format!("{at}.fair_by"), fault);
        }
        let retention =
            settings.retention.map(|retention| self.retention(at, &retention)).unwrap_or_default();
        QueueSettings {
            max_jobs,
            max_bytes,
            consumers,
            when_full,
            max_wait,
            max_waiters,
            accept_unknown_kinds: settings.accept_unknown_kinds.unwrap_or(default.accept_unknown_kinds),
            fair_by: fair_by.map(Arc::from),
            retention,
        }
    }

    fn retention(&mut self, at: &str, retention: &v1::Retention) -> QueueRetention {
        let mut keep = |state: &str, keep: Option<v1::Keep>| {
            let field = format!("{at}.retention.{state}");
            match keep?.keep {
                Some(v1::keep::Keep::Time(time)) => {
                    self.duration(format_args!("{field}.time"), &time, &limits::KEEP).map(Keep::For)
                }
                Some(v1::keep::Keep::Forever(true)) => Some(Keep::Forever),
                Some(v1::keep::Keep::Forever(false)) => {
                    self.fault(format_args!("{field}.forever"), "is false: leave it out, or give a time");
                    None
                }
                None => {
                    self.fault(field, "is empty: give a time, or `forever`");
                    None
                }
            }
        };
        QueueRetention {
            succeeded: keep("succeeded", retention.succeeded),
            failed: keep("failed", retention.failed),
            cancelled: keep("cancelled", retention.cancelled),
            expired: keep("expired", retention.expired),
        }
    }

    fn setting<W: Copy + Display, T: TryFrom<W> + PartialOrd + Display + Copy>(
        &mut self,
        at: &str,
        name: &str,
        value: Option<W>,
        allowed: &RangeInclusive<T>,
        default: T,
    ) -> T {
        match value.map(|value| (value, T::try_from(value))) {
            None => default,
            Some((_, Ok(value))) if allowed.contains(&value) => value,
            Some((value, _)) => {
                let message = format!("is {value}; it must be from {} to {}", allowed.start(), allowed.end());
                self.fault(format!("{at}.{name}"), message);
                default
            }
        }
    }
}
