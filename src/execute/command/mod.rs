//! Commands as handlers.
