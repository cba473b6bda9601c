//! The kinds of a server: their handlers, and the defaults of their jobs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{ServeError, ServerBuilder, commands_lock};
use crate::{
    dispatch::Handlers,
    execute::{
        Callbacks,
        closures::{ClosureHandler, Closures},
        configured::Common,
    },
    job::names,
    settings::{KindDefaults, StoreSettings},
};

/// The handlers and default settings of all kinds.
pub(super) struct Kinds {
    pub(super) closures: Arc<Closures>,
    pub(super) handlers: Handlers,
    pub(super) defaults: HashMap<String, KindDefaults>,
    /// The kinds whose handlers are code of this process.
    pub(super) native: HashSet<String>,
}

impl ServerBuilder {
    /// Creates the handlers of all kinds.
    pub(super) fn kinds(&self, callbacks: &Callbacks) -> Result<Kinds, ServeError> {
        let closures = Arc::new(Closures::default());
        let mut handlers = Handlers::new();
        let mut defaults = HashMap::new();
        // Every server runs the jobs of closures, if only to fail those of an earlier process as lost.
        handlers.insert(names::CLOSURE_KIND.into(), Arc::new(ClosureHandler(Arc::clone(&closures))));
        let once = KindDefaults { max_attempts: 1, ..KindDefaults::default() };
        defaults.insert(names::CLOSURE_KIND.to_owned(), once);
        let common = Common {
            command_guard: self.command_guard.as_ref(),
            commands_lock: match &self.settings.store {
                StoreSettings::Memory => None,
                StoreSettings::Folder(folder) => Some(commands_lock(folder)),
            },
            clock: &self.clock,
            callbacks,
        };
        for (kind, settings) in &self.settings.kinds {
            if settings.handler.wants_callbacks() && self.settings.metrics_listen.is_none() {
                return Err(ServeError::NoCallbacks { kind: kind.clone() });
            }
            let handler = common
                .handler(&settings.handler)
                .map_err(|source| ServeError::Handler { kind: kind.clone(), source })?;
            if let Some(handler) = handler {
                handlers.insert(kind.as_str().into(), handler);
            }
            defaults.insert(kind.clone(), settings.defaults.clone());
        }
        for (kind, kind_defaults, handler) in &self.handlers {
            names::check_free_kind_name(kind)
                .map_err(|source| ServeError::KindName { kind: kind.clone(), source })?;
            if handlers.insert(kind.as_str().into(), Arc::clone(handler)).is_some() {
                return Err(ServeError::KindTwice(kind.clone()));
            }
            defaults.insert(kind.clone(), kind_defaults.clone());
        }
        let native = self.handlers.iter().map(|(kind, ..)| kind.clone()).collect();
        Ok(Kinds { closures, handlers, defaults, native })
    }
}
