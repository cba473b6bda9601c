//! Checks of the port, and of the server behind it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use jobmill::{
    client::{ClientError, Code},
    settings::Settings,
};

use super::{super::client, Finding, Global, ok, problem, text};

const PORT: &str = "port";
const SERVER: &str = "server";

/// Checks that a server could listen, or that one does and answers.
pub(super) async fn check(settings: &Settings, global: &Global) -> Vec<Finding> {
    let api = port(settings.listen);
    if let Err((listen, None)) = api {
        // A running server also holds the port of the metrics.
        return vec![server(listen, settings, global).await];
    }
    [Some(api), settings.metrics_listen.map(port)].into_iter().flatten().map(found).collect()
}

type Port = Result<SocketAddr, (SocketAddr, Option<io::Error>)>;

/// Checks whether an address is free to listen on. The error is `None` if another process listens there.
fn port(listen: SocketAddr) -> Port {
    // Bound for a moment only; no connection is accepted.
    match TcpListener::bind(listen) {
        Ok(_) => Ok(listen),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err((listen, None)),
        Err(error) => Err((listen, Some(error))),
    }
}

fn found(port: Port) -> Finding {
    match port {
        Ok(listen) if listen.port() == 0 => ok(PORT, "a free one will be taken"),
        Ok(listen) => ok(PORT, format!("{listen} is free; no server runs there")),
        Err((listen, None)) => {
            problem(PORT, format!("{listen} is taken by another process"), "stop it, or choose another port")
        }
        Err((listen, Some(error))) => problem(
            PORT,
            format!("{listen} can't be listened on: {error}"),
            "choose an address of this machine, and a port that this user may take",
        ),
    }
}

/// Checks the server that answers at the port of the API.
async fn server(listen: SocketAddr, settings: &Settings, global: &Global) -> Finding {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let at_listen = Global { server: format!("{scheme}://{listen}"), ..global.clone() };
    let client = match client(&at_listen) {
        Ok(client) => client,
        Err(failure) => {
            let what = failure.line().unwrap_or_default();
            return problem(SERVER, what, "name files that this user may read");
        }
    };
    // Without retries: a failure is reported, not waited for.
    let queues = match client.retry_for(Duration::ZERO).connect().await {
        Ok(client) => client.list_queues().await,
        Err(error) => Err(error),
    };
    match queues {
        Ok(queues) => {
            let noun = text::counted(queues.len() as u64, "queue");
            ok(SERVER, format!("answers at {listen}, with {noun}"))
        }
        Err(ClientError::Refused(refusal))
            if matches!(refusal.code, Code::Unauthenticated | Code::PermissionDenied) =>
        {
            ok(SERVER, format!("answers at {listen}, and asks for a token: {}", refusal.message))
        }
        Err(error) if settings.tls.is_some() => problem(
            SERVER,
            format!("something listens at {listen}, but this program can't use it: {error}"),
            "name certificates with --tls-ca, --tls-cert and --tls-key, or stop the process that listens there",
        ),
        Err(error) => problem(
            SERVER,
            format!("something listens at {listen}, but does not answer as jobmill: {error}"),
            "stop it, or set `listen` to another port",
        ),
    }
}
