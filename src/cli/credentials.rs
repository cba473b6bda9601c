//! The credentials that this program presents to servers: certificates and tokens, always read from files.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use jobmill::client::{ClientBuilder, token_in};

use super::exit::Failure;

const PEM_BYTES_MAX: u64 = 1 << 20;
const TOKEN_BYTES_MAX: u64 = 4 << 10;

/// Options for TLS and authentication.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Credentials {
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, global = true, env = "JOBMILL_TLS_CA", value_name = "PATH", hide_env_values = true)]
    tls_ca: Option<PathBuf>,
    /// PEM file with the client certificate to present to the server
    #[arg(long, global = true, env = "JOBMILL_TLS_CERT", value_name = "PATH", hide_env_values = true)]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the client certificate
    #[arg(long, global = true, env = "JOBMILL_TLS_KEY", value_name = "PATH", hide_env_values = true)]
    tls_key: Option<PathBuf>,
    /// File with the token to send with each call
    #[arg(long, global = true, env = "JOBMILL_TOKEN_FILE", value_name = "PATH", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// Send the token even without TLS, for networks that are encrypted otherwise
    #[arg(long, global = true)]
    plaintext_token: bool,
}

impl Credentials {
    /// Returns the file with the token.
    pub(super) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Reads the files, and adds their content to a client.
    pub(super) fn add_to(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, Failure> {
        if let Some(path) = &self.tls_ca {
            builder = builder.ca_certificate(read("--tls-ca", path, PEM_BYTES_MAX)?);
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let certificate = read("--tls-cert", certificate, PEM_BYTES_MAX)?;
                builder = builder.identity(certificate, read("--tls-key", key, PEM_BYTES_MAX)?);
            }
            (None, None) => {}
            (Some(_), None) => return Err(Failure::usage("--tls-cert needs --tls-key")),
            (None, Some(_)) => return Err(Failure::usage("--tls-key needs --tls-cert")),
        }
        if let Some(path) = &self.token_file {
            let text = String::from_utf8(read("--token-file", path, TOKEN_BYTES_MAX)?).unwrap_or_default();
            let token = token_in(&text).ok_or_else(|| {
                // The error does not show the content, which may be a secret all the same.
                Failure::usage(format!("--token-file: {} does not hold a token", path.display()))
                    .with_next("Make one with `jobmill token new`.")
            })?;
            builder = builder.token(token);
        }
        Ok(builder.plaintext_token(self.plaintext_token))
    }
}

fn read(flag: &str, path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::usage(format!("{flag}: {} can't be read: {error}", path.display())))?;
    if bytes.len() as u64 > max {
        let message = format!("{flag}: {} is over the limit of {max} bytes", path.display());
        return Err(Failure::usage(message));
    }
    Ok(bytes)
}
