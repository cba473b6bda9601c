//! Construction of handlers from the configuration.

use std::{io, path::PathBuf, sync::Arc};

#[cfg(feature = "http")]
use super::http::{HttpHandler, HttpHandlerError};
use super::{
    Callbacks, Handler,
    command::{self, CommandHandler},
};
use crate::{clock::Clock, settings::HandlerSettings};

/// Settings shared by all handlers of a server.
pub(crate) struct Common<'a> {
    /// The guard program for commands; the running program by default.
    pub(crate) command_guard: Option<&'a PathBuf>,
    /// Path of the lock file that is held while commands run, even after their server was killed.
    pub(crate) commands_lock: Option<PathBuf>,
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "command handlers use no clock"))]
    pub(crate) clock: &'a Clock,
    /// The register of attempts that endpoints may call back.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only endpoints call back"))]
    pub(crate) callbacks: &'a Callbacks,
}

/// A kind's handler can't be set up.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The path of the guard program for commands is unknown.
    #[error("can't find the program that guards commands")]
    CommandGuard(#[source] io::Error),
    /// The endpoint can't be called.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] HttpHandlerError),
}

impl Common<'_> {
    /// Creates the handler of a kind. Returns `None` for a kind that only remote workers run.
    pub(crate) fn handler(&self, settings: &HandlerSettings) -> Result<Option<Arc<dyn Handler>>, SetupError> {
        match settings {
            HandlerSettings::Command(settings) => {
                let guard = match self.command_guard {
                    Some(program) => program.clone(),
                    None => command::this_program().map_err(SetupError::CommandGuard)?,
                };
                let handler = CommandHandler::new(settings.clone(), guard, self.commands_lock.clone());
                Ok(Some(Arc::new(handler)))
            }
            #[cfg(feature = "http")]
            HandlerSettings::Http(settings) => {
                let handler = HttpHandler::new((**settings).clone(), self.clock.clone())?;
                Ok(Some(Arc::new(handler.callbacks(self.callbacks.clone()))))
            }
            HandlerSettings::Workers => Ok(None),
        }
    }
}

/// Creates the handler of a kind for a remote worker; `None` for a kind that is only declared for workers. A command
/// holds the lock file, if there is one, until it ends. Endpoints call running attempts back through `callbacks`.
///
/// # Errors
/// As [`SetupError`] says.
#[cfg(all(feature = "internals", feature = "worker"))]
pub fn configured_handler(
    settings: &HandlerSettings,
    commands_lock: Option<PathBuf>,
    callbacks: &Callbacks,
) -> Result<Option<Arc<dyn Handler>>, SetupError> {
    Common { command_guard: None, commands_lock, clock: &Clock::System, callbacks }.handler(settings)
}
