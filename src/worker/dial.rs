//! Connections to the server.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::client::{Client, ClientBuilder, ClientError, root_cause, token_in};

/// Size of the windows for data from the server.
const WINDOW_BYTES: u32 = 1 << 20;

/// Makes connections.
pub(super) trait Dial: Send + 'static {
    /// Connects anew.
    fn dial(&mut self) -> impl Future<Output = Result<Client, ClientError>> + Send;

    /// Whether a refused token may be another one at the next call.
    fn rereads_token(&self) -> bool;
}

/// Connections to a server's address, whose name is resolved each time.
pub(super) struct Dialer {
    pub(super) builder: ClientBuilder,
    pub(super) token_file: Option<PathBuf>,
}

impl Dial for Dialer {
    async fn dial(&mut self) -> Result<Client, ClientError> {
        if let Some(path) = &self.token_file {
            match read_token(path) {
                Ok(token) => self.builder = self.builder.clone().token(token),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the token can't be read; the last one is used");
                }
            }
        }
        let (text, endpoint) = self.builder.endpoint()?;
        let endpoint =
            endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| ClientError::not_connected(text.clone(), root_cause(&error)))?;
        Ok(self.builder.clone().with_channel(text, channel))
    }

    fn rereads_token(&self) -> bool {
        self.token_file.is_some()
    }
}

/// Reads a token from a file.
pub(super) fn read_token(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let token = token_in(&text).map(str::to_owned);
    token.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file does not hold a token"))
}
