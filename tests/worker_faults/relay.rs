//! A network between workers and their server that the test controls.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

const BUFFER_BYTES: usize = 64 << 10;

/// The fate of the bytes in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Direction {
    /// They arrive.
    #[default]
    Passes,
    /// They wait until the network is whole again, as the kernels' retransmissions do.
    Held,
    /// They get lost, as those to a machine that has vanished.
    Swallowed,
    /// The direction is closed in order.
    Closed,
}

#[derive(Clone, Default)]
struct Network {
    /// Number of the resets so far, each of which ends all connections.
    resets: u32,
    to_server: Direction,
    to_worker: Direction,
}

/// A TCP relay. It stops when it is dropped.
pub(crate) struct Relay {
    pub(crate) address: String,
    network: watch::Sender<Network>,
    accepting: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Relay {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (network, seen) = watch::channel(Network::default());
        let accepting = tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                // The server may be gone.
                let Ok(server) = TcpStream::connect(server).await else { continue };
                tokio::spawn(connection(worker, server, seen.clone()));
            }
        });
        Relay { address, network, accepting }
    }

    /// Sets the fate of the bytes to the server and to the worker.
    pub(crate) fn set(&self, to_server: Direction, to_worker: Direction) {
        self.network.send_modify(|network| {
            network.to_server = to_server;
            network.to_worker = to_worker;
        });
    }

    /// Makes the network whole again.
    pub(crate) fn heal(&self) {
        self.set(Direction::Passes, Direction::Passes);
    }

    /// Ends all connections by a reset. New ones are passed on.
    pub(crate) fn reset(&self) {
        self.network.send_modify(|network| {
            *network = Network { resets: network.resets + 1, ..Network::default() };
        });
    }
}

async fn connection(worker: TcpStream, server: TcpStream, seen: watch::Receiver<Network>) {
    // Closing a socket sends a reset.
    for socket in [&worker, &server] {
        socket.set_zero_linger().unwrap();
    }
    let ((from_worker, to_worker), (from_server, to_server)) = (worker.into_split(), server.into_split());
    tokio::join!(
        pump(from_worker, to_server, seen.clone(), |network| network.to_server),
        pump(from_server, to_worker, seen, |network| network.to_worker),
    );
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut seen: watch::Receiver<Network>,
    direction: fn(&Network) -> Direction,
) {
    let resets = seen.borrow().resets;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut has_lost, mut is_over) = (false, false);
    loop {
        let present = {
            let network = seen.borrow_and_update();
            if network.resets != resets {
                return;
            }
            direction(&network)
        };
        match present {
            // The rest of a connection that has lost bytes means nothing.
            Direction::Passes if has_lost => return,
            Direction::Closed => {
                // The peer may have closed it already.
                let _ = to.shutdown().await;
                is_over = true;
            }
            _ => {}
        }
        let reads = !is_over && matches!(present, Direction::Passes | Direction::Swallowed);
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer), if reads => match (read, present) {
                (Ok(0) | Err(_), Direction::Swallowed) => is_over = true,
                (Ok(0) | Err(_), _) => {
                    let _ = to.shutdown().await;
                    is_over = true;
                }
                (Ok(_), Direction::Swallowed) => has_lost = true,
                (Ok(count), _) => if to.write_all(&buffer[..count]).await.is_err() { return },
            },
        }
    }
}
