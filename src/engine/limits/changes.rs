//! Changes of limits and their overrides.

use std::{collections::BTreeMap, sync::Arc};

use super::{super::{ControlRefusal, decision::Decision}, Definition, Definitions, LimitBook, LimitRefusal};
use crate::{
    job::RequestId,
    settings::{
        LimitInfo, LimitRule, LimitSpec,
        limits::{LIMIT_OVERRIDES_MAX, LIMITS_MAX},
    },
    store::sets::RequestOutcome,
};

/// A change of a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LimitAction {
    /// Create it.
    Create(LimitSpec),
    /// Replace what it says.
    Update {
        /// What it says from now on.
        spec: LimitSpec,
        /// Etag that it must have.
        etag: Option<String>,
    },
    /// Delete it.
    Delete,
    /// Set the override of a value.
    SetOverride {
        /// The value.
        value: String,
        /// Its rule.
        rule: LimitRule,
    },
    /// Delete the override of a value.
    DeleteOverride {
        /// The value.
        value: String,
    },
}

/// The answer to a change of a limit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LimitDone {
    /// The limit; absent if it is deleted.
    pub limit: Option<Arc<LimitInfo>>,
    /// Whether the request id was seen before.
    pub is_repeat: bool,
}

impl LimitBook {
    fn present(&self) -> &Definitions {
        self.next.as_ref().unwrap_or(&self.kept)
    }

    fn next(&mut self) -> &mut Definitions {
        self.next.get_or_insert_with(|| self.kept.clone())
    }

    /// Returns a limit with the batch's changes so far.
    pub(in super::super) fn find(&self, name: &str) -> Option<Arc<LimitInfo>> {
        self.present().get(name).map(|definition| Arc::clone(&definition.info))
    }

    /// Returns the rule of a value of a limit, with the batch's changes so far.
    pub(super) fn rule_of(&self, limit: &LimitInfo, value: &str) -> LimitRule {
        let definition = self.present().get(&limit.name);
        let overridden = definition.and_then(|definition| definition.overrides.get(value).copied());
        overridden.unwrap_or(limit.spec.rule)
    }

    /// Returns the limits that concern the jobs of a queue and a kind, with the batch's changes so far.
    pub(super) fn covering(&self, queue: &str, kind: &str) -> impl Iterator<Item = &Arc<LimitInfo>> {
        let infos = self.present().values().map(|definition| &definition.info);
        infos.filter(move |info| info.spec.covers(queue, kind))
    }

    /// Creates or replaces a limit. Returns it, and whether jobs wait in other lanes under it.
    fn put(&mut self, name: &str, spec: LimitSpec, declared: bool, revision: i64) -> (Arc<LimitInfo>, bool) {
        let kept = self.present().get(name).cloned();
        if let Some(Definition { info, .. }) = &kept
            && info.spec == spec
            && info.declared == declared
        {
            return (Arc::clone(info), false);
        }
        let sorts_anew = kept.as_ref().is_none_or(|kept| !kept.info.spec.sorts_as(&spec));
        let number = match &kept {
            Some(kept) => kept.info.number,
            None => {
                self.last_number += 1;
                self.last_number
            }
        };
        let name: Arc<str> = kept.as_ref().map_or_else(|| name.into(), |kept| Arc::clone(&kept.info.name));
        let revision = kept.as_ref().map_or(revision, |kept| revision.max(kept.info.revision + 1));
        let info = Arc::new(LimitInfo { number, name: Arc::clone(&name), spec, revision, declared });
        let overrides = kept.map(|kept| kept.overrides).unwrap_or_default();
        self.changes.limits.retain(|row| row.number != number);
        self.changes.limits.push(LimitInfo::clone(&info));
        self.next().insert(name, Definition { info: Arc::clone(&info), overrides });
        (info, sorts_anew)
    }

    fn delete(&mut self, info: &LimitInfo) {
        self.next().remove(&info.name);
        self.changes.limits.retain(|row| row.number != info.number);
        self.changes.overrides.retain(|(limit, ..)| *limit != info.number);
        self.changes.deleted.push(info.number);
    }

    fn set_override(&mut self, info: &LimitInfo, value: &str, rule: Option<LimitRule>) {
        let value: Arc<str> = value.into();
        if let Some(definition) = self.next().get_mut(&info.name) {
            let overrides: &mut BTreeMap<_, _> = Arc::make_mut(&mut definition.overrides);
            match rule {
                Some(rule) => overrides.insert(Arc::clone(&value), rule),
                None => overrides.remove(&value),
            };
        }
        let number = info.number;
        self.changed_values.push((number, Arc::clone(&value)));
        self.changes.overrides.retain(|(limit, other, _)| (*limit, other) != (number, &value));
        self.changes.overrides.push((number, value, rule));
    }
}

impl Decision<'_> {
    /// Carries out a change of a limit.
    pub(in super::super) fn change_limit(
        &mut self,
        name: &str,
        action: &LimitAction,
        request: Option<RequestId>,
    ) -> Result<LimitDone, ControlRefusal> {
        let found = self.engine.limits.find(name);
        let found = || found.ok_or_else(|| LimitRefusal::NotFound(name.to_owned()));
        let declared = |info: &LimitInfo| match info.declared {
            true => Err(LimitRefusal::Declared(name.to_owned())),
            false => Ok(()),
        };
        let limit = match action {
            LimitAction::Create(spec) => {
                if found().is_ok() {
                    return Err(LimitRefusal::Exists(name.to_owned()).into());
                }
                if self.engine.limits.present().len() >= LIMITS_MAX {
                    return Err(LimitRefusal::TooMany(LIMITS_MAX).into());
                }
                Some(self.put_limit(name, spec.clone(), false))
            }
            LimitAction::Update { spec, etag } => {
                let info = found()?;
                declared(&info)?;
                if etag.as_ref().is_some_and(|etag| *etag != info.etag()) {
                    let (limit, etag) = (name.to_owned(), info.etag());
                    return Err(LimitRefusal::EtagMismatch { limit, etag }.into());
                }
                if self.engine.limits.has_other_sort(name, spec.rule) {
                    return Err(LimitRefusal::OtherSort(name.to_owned()).into());
                }
                Some(self.put_limit(name, spec.clone(), false))
            }
            LimitAction::Delete => {
                let info = found()?;
                declared(&info)?;
                self.delete_limit(&info);
                None
            }
            LimitAction::SetOverride { value, rule } => {
                let info = found()?;
                if !info.spec.rule.is_like(rule) {
                    return Err(LimitRefusal::OtherSort(name.to_owned()).into());
                }
                let overrides = self.engine.limits.overrides(name);
                if overrides.len() >= LIMIT_OVERRIDES_MAX && !overrides.contains_key(value.as_str()) {
                    return Err(LimitRefusal::TooManyOverrides(LIMIT_OVERRIDES_MAX).into());
                }
                self.engine.limits.set_override(&info, value, Some(*rule));
                Some(info)
            }
            LimitAction::DeleteOverride { value } => {
                let info = found()?;
                if !self.engine.limits.overrides(name).contains_key(value.as_str()) {
                    let (limit, value) = (name.to_owned(), value.clone());
                    return Err(LimitRefusal::OverrideNotFound { limit, value }.into());
                }
                self.engine.limits.set_override(&info, value, None);
                Some(info)
            }
        };
        self.keep_answer(request, RequestOutcome::Done { queue: 0 });
        Ok(LimitDone { limit, is_repeat: false })
    }

    fn put_limit(&mut self, name: &str, spec: LimitSpec, declared: bool) -> Arc<LimitInfo> {
        let revision = self.now().as_micros();
        let (info, sorts_anew) = self.engine.limits.put(name, spec, declared, revision);
        if sorts_anew {
            self.sort_lanes_anew();
        }
        info
    }

    fn delete_limit(&mut self, info: &LimitInfo) {
        self.engine.limits.delete(info);
        self.sort_lanes_anew();
    }

    /// Begins to move the jobs of all lanes back among the others, from where the claim step sorts them by the limits of
    /// now. Without it, a job could wait in its lane for another one's sake.
    fn sort_lanes_anew(&mut self) {
        let queues = self.engine.limits.queues_with_lanes();
        self.engine.turns.look_again(&queues);
    }

    /// Sets up the declared limits, and deletes those that are declared no more. Overrides stay.
    pub(in super::super) fn declare_limits(&mut self, declared: &BTreeMap<String, LimitSpec>) {
        let gone: Vec<_> = self.engine.limits.declared().filter(|info| !declared.contains_key(&*info.name)).collect();
        for info in gone {
            tracing::warn!(
                limit = &*info.name,
                "the configuration file does not declare this limit any more, and it is deleted"
            );
            self.delete_limit(&info);
        }
        for (name, spec) in declared {
            if self.engine.limits.has_other_sort(name, spec.rule) {
                tracing::warn!(limit = &**name, "the limit's overrides are of another sort now, and are deleted");
                self.engine.limits.drop_overrides(name);
            }
            self.put_limit(name, spec.clone(), true);
        }
    }
}

impl LimitBook {
    fn overrides(&self, name: &str) -> Arc<BTreeMap<Arc<str>, LimitRule>> {
        self.present().get(name).map_or_else(Arc::default, |definition| Arc::clone(&definition.overrides))
    }

    /// Returns whether a limit has overrides of another sort than a rule.
    fn has_other_sort(&self, name: &str, rule: LimitRule) -> bool {
        self.overrides(name).values().any(|other| !other.is_like(&rule))
    }

    fn drop_overrides(&mut self, name: &str) {
        let Some(info) = self.find(name) else { return };
        for value in self.overrides(name).keys() {
            self.set_override(&info, value, None);
        }
    }

    fn declared(&self) -> impl Iterator<Item = Arc<LimitInfo>> {
        let infos = self.present().values().map(|definition| &definition.info);
        infos.filter(|info| info.declared).cloned()
    }

    fn queues_with_lanes(&self) -> Vec<u32> {
        if self.is_unused { Vec::new() } else { self.board.table().lanes.queues().into_iter().collect() }
    }
}
