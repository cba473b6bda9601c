//! The listening sockets of a server.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::Notify};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{credentials::Credentials, error::ServeError};
use crate::{
    api::{self, Core, Gate},
    audit::Audit,
    clock::Clock,
    listen::{Hosts, ListenStats, Listener},
    settings::{LimitSettings, Settings},
};

/// The bound sockets of a server.
pub(super) struct Listeners {
    pub(super) address: Option<SocketAddr>,
    pub(super) listening: Option<Listening>,
    pub(super) metrics_address: Option<SocketAddr>,
    pub(super) metrics_listener: Option<TcpListener>,
    /// Host names by which the metrics endpoint may be called.
    pub(super) metrics_hosts: Hosts,
    pub(super) connections: Arc<ListenStats>,
    /// Notified to reload the credentials.
    pub(super) reload: Arc<Notify>,
    pub(super) audit: Arc<Audit>,
}

impl Listeners {
    /// Binds the ports. Without credentials, no gRPC port is bound.
    pub(super) async fn open(
        settings: &Settings,
        credentials: Option<Arc<Credentials>>,
        clock: &Clock,
    ) -> Result<Self, ServeError> {
        let (listener, address) = bind(credentials.is_some().then_some(settings.listen)).await?;
        let (metrics_listener, metrics_address) = bind(settings.metrics_listen).await?;
        let metrics_hosts = match metrics_address {
            Some(address) if !address.ip().to_canonical().is_loopback() => Hosts::ANY,
            Some(_) | None => Hosts::local_and(&settings.hosts),
        };
        let connections = Arc::new(ListenStats::default());
        let reload = Arc::new(Notify::new());
        let audit = credentials.as_ref().map_or_else(|| Arc::new(Audit::off()), |files| files.audit());
        let listening = listener.zip(credentials).map(|(socket, credentials)| Listening {
            gate: credentials.gate(settings),
            listener: Listener::new(
                socket,
                settings.limits.clone(),
                credentials.tls.clone(),
                credentials.audit(),
                Arc::clone(&connections),
                clock.clone(),
            ),
            limits: settings.limits.clone(),
            following: AbortOnDropHandle::new(tokio::spawn(credentials.follow(Arc::clone(&reload)))),
        });
        Ok(Listeners {
            address,
            listening,
            metrics_address,
            metrics_listener,
            metrics_hosts,
            connections,
            reload,
            audit,
        })
    }
}

/// The gRPC listener and its settings.
pub(super) struct Listening {
    listener: Listener,
    gate: Gate,
    limits: LimitSettings,
    /// The task that reloads credentials; it ends when this is dropped.
    following: AbortOnDropHandle<Infallible>,
}

/// Binds an address, if there is one, and returns the socket with its actual address.
async fn bind(address: Option<SocketAddr>) -> Result<(Option<TcpListener>, Option<SocketAddr>), ServeError> {
    let Some(address) = address else {
        return Ok((None, None));
    };
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let real = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(real)))
}

/// Serves gRPC until `stopping` is cancelled; without a port it only waits for that.
pub(super) async fn serve(
    core: Core,
    listening: Option<Listening>,
    stopping: CancellationToken,
) -> Result<(), ServeError> {
    match listening {
        Some(Listening { listener, gate, limits, following }) => tokio::select! {
            served = api::serve(core, gate, &limits, listener, stopping) => Ok(served?),
            _ = following => Err(ServeError::Ended("the reloading of credentials".into())),
        },
        None => {
            stopping.cancelled().await;
            Ok(())
        }
    }
}
