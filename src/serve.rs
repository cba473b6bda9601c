//! Wiring and shutdown: a server from its settings to its end.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{
    clock::Clock,
    config::{KindDefaults, Settings},
    execute::Handler,
};

/// A server that is being put together.
pub struct ServerBuilder {
    settings: Settings,
    clock: Clock,
    command_guard: Option<PathBuf>,
    handlers: Vec<(String, KindDefaults, Arc<dyn Handler>)>,
}

/// A running server.
pub struct Server {}

/// Stops a server from elsewhere, such as a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {}

/// Why a server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {}

impl Server {
    /// Begins a server with these settings.
    #[must_use]
    pub fn builder(settings: Settings) -> ServerBuilder {
        ServerBuilder { settings, clock: Clock::System, command_guard: None, handlers: Vec::new() }
    }

    /// Where it listens: the port is real even where the settings asked for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        unimplemented!()
    }

    /// Returns when the server has ended: OK after a drain, an error when it had to end by itself.
    ///
    /// # Errors
    /// The reason for which it ended by itself.
    pub async fn finished(self) -> Result<(), ServeError> {
        unimplemented!()
    }
}

impl Stopper {
    /// Begins the drain; [`Server::finished`] returns at its deadline at the latest.
    pub fn drain(&self) {
        unimplemented!()
    }

    /// Ends a drain at once: running attempts are cut off.
    pub fn force(&self) {
        unimplemented!()
    }
}

impl ServerBuilder {
    /// Runs jobs of `kind` by a Rust function.
    #[must_use]
    pub fn handler(mut self, kind: impl Into<String>, defaults: KindDefaults, handler: impl Handler) -> Self {
        self.handlers.push((kind.into(), defaults, Arc::new(handler)));
        self
    }

    /// Takes the present from another clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The program that guards commands: a `jobmill` binary, or one whose `main` calls
    /// [`crate::execute::command::guard_main`] first. Default: the running program.
    #[must_use]
    pub fn command_guard(mut self, program: impl Into<PathBuf>) -> Self {
        self.command_guard = Some(program.into());
        self
    }

    /// Opens the store, puts back what a crash left, and serves.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing listens then.
    pub async fn start(self) -> Result<Server, ServeError> {
        unimplemented!()
    }
}
