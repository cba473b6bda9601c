//! The port, and the server behind it.

use std::{io, net::TcpListener, time::Duration};

use jobmill::{
    client::{ClientError, Code},
    config::Settings,
};

use super::{super::client, Finding, Global, ok, problem, text};

const PORT: &str = "port";
const SERVER: &str = "server";

/// Whether a server could listen, or does.
pub(super) async fn check(settings: &Settings, global: &Global) -> Finding {
    let listen = settings.listen;
    if listen.port() == 0 {
        return ok(PORT, "a free one will be taken");
    }
    // Bound for an instant, and nothing is accepted.
    match TcpListener::bind(listen) {
        Ok(_) => return ok(PORT, format!("{listen} is free; no server runs there")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => {
            let way_out = "set `listen` to an address of this machine, and a port that this user may take";
            return problem(PORT, format!("{listen} can't be listened on: {error}"), way_out);
        }
    }
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let at_listen = Global { server: format!("{scheme}://{listen}"), ..global.clone() };
    let client = match client(&at_listen) {
        Ok(client) => client,
        Err(failure) => {
            let what = failure.line().unwrap_or_default();
            return problem(SERVER, what, "name files that this user may read");
        }
    };
    // What is wrong now is to be told, and not waited for.
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
            format!("something listens at {listen}, but not for this program: {error}"),
            "name what to trust, and what to show, with --tls-ca, --tls-cert and --tls-key; or stop what listens there",
        ),
        Err(error) => problem(
            SERVER,
            format!("something listens at {listen}, but does not answer as jobmill: {error}"),
            "stop it, or set `listen` to another port",
        ),
    }
}
