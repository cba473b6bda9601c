//! CA certificates.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Certificates of the authorities that are trusted for the other end of a connection.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads certificates in PEM form: at least one.
    ///
    /// # Errors
    /// The problem with the certificates.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|error| format!("is not in PEM form: {error}"))?;
        if certificates.is_empty() {
            return Err("has no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned());
        }
        Authorities::of(certificates)
    }

    /// Collects certificates. An error reads as the continuation of their file's name.
    pub(crate) fn of(certificates: Vec<CertificateDer<'_>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| format!("has a certificate that can't be used: {error}"))?;
        }
        Ok(Authorities(Arc::new(roots)))
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.0)
    }
}
