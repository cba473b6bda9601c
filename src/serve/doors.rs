//! Where a server is reached: the ports that it listens on.

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

/// The ports of a server, bound.
pub(super) struct Doors {
    pub(super) address: Option<SocketAddr>,
    pub(super) listening: Option<Listening>,
    pub(super) metrics_address: Option<SocketAddr>,
    pub(super) metrics_listener: Option<TcpListener>,
    /// Names by which the metrics may be called.
    pub(super) metrics_hosts: Hosts,
    pub(super) connections: Arc<ListenStats>,
    /// Has the credentials read again.
    pub(super) reload: Arc<Notify>,
    pub(super) audit: Arc<Audit>,
}

impl Doors {
    /// Binds the ports. Without credentials, none is for gRPC.
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
        Ok(Doors {
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

/// What it takes to serve gRPC.
pub(super) struct Listening {
    listener: Listener,
    gate: Gate,
    limits: LimitSettings,
    /// Ends with the rest.
    following: AbortOnDropHandle<Infallible>,
}

/// Listens, if there is an address for it, and says where.
async fn bind(address: Option<SocketAddr>) -> Result<(Option<TcpListener>, Option<SocketAddr>), ServeError> {
    let Some(address) = address else {
        return Ok((None, None));
    };
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let real = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(real)))
}

/// Serves gRPC until `stopping` is cancelled, or waits for that where there is no port to serve it on.
pub(super) async fn serve(
    core: Core,
    listening: Option<Listening>,
    stopping: CancellationToken,
) -> Result<(), ServeError> {
    match listening {
        Some(Listening { listener, gate, limits, following }) => tokio::select! {
            served = api::serve(core, gate, &limits, listener, stopping) => Ok(served?),
            _ = following => Err(ServeError::Ended("what reads the credentials again".into())),
        },
        None => {
            stopping.cancelled().await;
            Ok(())
        }
    }
}
