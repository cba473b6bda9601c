//! TLS: from PEM files to the configuration of handshakes, and from a client's certificate to its name.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;
use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate, TbsCertificate,
    der::{Any, Decode, Tag, TagNumber, Tagged, asn1::ObjectIdentifier},
    time::Time,
};

use crate::{
    clock::Timestamp,
    settings::{Authorities, ClientAuth, TlsSettings},
};

/// Maximum size of a file with a certificate chain, a key or authorities.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Maximum length of a name from a certificate; longer names are cut.
const NAME_BYTES_MAX: usize = 256;

/// One of the TLS files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFile {
    /// [`TlsSettings::certificate`].
    Certificate,
    /// [`TlsSettings::key`].
    Key,
    /// [`TlsSettings::client_ca`].
    ClientCa,
}

/// Fault of a TLS file.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} {problem}")]
pub struct TlsError {
    /// The faulty file.
    pub file: TlsFile,
    path: PathBuf,
    problem: String,
}

/// Configuration of handshakes, as of the latest read of the files.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Arc<ServerConfig>,
    /// Start of the server certificate's validity.
    pub begins: Timestamp,
    /// End of the server certificate's validity.
    pub expires: Timestamp,
}

/// The present identity, which can be replaced while the server runs.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    with_http1: bool,
    identity: RwLock<Identity>,
}

impl Tls {
    /// Reads the files. Offers HTTP/2, and HTTP/1 too if `with_http1` is set, for browsers.
    ///
    /// # Errors
    /// The faults of all files.
    pub fn load(settings: TlsSettings, with_http1: bool) -> Result<Self, Vec<TlsError>> {
        let identity = RwLock::new(load(&settings, with_http1)?);
        Ok(Tls { settings, with_http1, identity })
    }

    /// Returns the settings, which name the files.
    #[must_use]
    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    /// Reads the files again. Open connections are not affected. If a file has a fault, the old identity stays in
    /// place.
    ///
    /// # Errors
    /// The faults of all files.
    pub fn reload(&self) -> Result<(), Vec<TlsError>> {
        *self.identity.write() = load(&self.settings, self.with_http1)?;
        Ok(())
    }

    /// Returns the start and the end of the server certificate's validity.
    #[must_use]
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        let identity = self.identity.read();
        (identity.begins, identity.expires)
    }

    /// Returns the acceptor for the next handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.identity.read().config))
    }
}

/// Reads the files.
///
/// # Errors
/// The faults of all files.
pub fn load(settings: &TlsSettings, with_http1: bool) -> Result<Identity, Vec<TlsError>> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(TlsFile::Certificate, &settings.certificate);
    let key = private_key(&settings.key);
    let clients =
        settings.client_ca.as_deref().map(|path| authorities(path, settings.client_auth, &provider));
    let mut errors = Vec::new();
    let mut keep = |error| errors.push(error);
    let chain = chain.map_err(&mut keep).ok();
    let key = key.map_err(&mut keep).ok();
    let clients = clients.map(|clients| clients.map_err(&mut keep).ok());
    let (Some(chain), Some(key), clients) = (chain, key, clients) else {
        return Err(errors);
    };
    let clients = match clients {
        Some(Some(verifier)) => verifier,
        Some(None) => return Err(errors),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let fault = |file, path: &Path, problem: String| vec![TlsError { file, path: path.to_owned(), problem }];
    let (begins, expires) = validity(&chain[0]).ok_or_else(|| {
        fault(TlsFile::Certificate, &settings.certificate, "has no valid certificate".into())
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            fault(TlsFile::Certificate, &settings.certificate, format!("can't be used: {error}"))
        })?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| {
            let problem = if matches!(error, rustls::Error::InconsistentKeys(_)) {
                format!("is not the key of the certificate in {:?}", settings.certificate)
            } else {
                format!("can't be used: {error}")
            };
            fault(TlsFile::Key, &settings.key, problem)
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    if with_http1 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    Ok(Identity { config: Arc::new(config), begins, expires })
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let fault = |problem| TlsError { file, path: path.to_owned(), problem };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(format!("can't be read: {error}; name a file that this user may read")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(format!("is over the limit of {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn certificates(file: TlsFile, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |problem: String| TlsError { file, path: path.to_owned(), problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file, path)?).collect();
    let found = found.map_err(|error| fault(format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(fault("has no certificate: it must have a block BEGIN CERTIFICATE".into()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let fault = |problem: String| TlsError { file: TlsFile::Key, path: path.to_owned(), problem };
    PrivateKeyDer::from_pem_slice(&read(TlsFile::Key, path)?).map_err(|_| {
        fault("has no private key: it must have a block BEGIN PRIVATE KEY, without a password".into())
    })
}

fn authorities(
    path: &Path,
    client_auth: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let fault = |problem: String| TlsError { file: TlsFile::ClientCa, path: path.to_owned(), problem };
    let authorities = Authorities::of(certificates(TlsFile::ClientCa, path)?).map_err(fault)?;
    let builder = WebPkiClientVerifier::builder_with_provider(authorities.store(), Arc::clone(provider));
    let builder = match client_auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| fault(format!("can't be used: {error}")))
}

fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    let instant = |time: Time| {
        let micros = i64::try_from(time.to_unix_duration().as_micros());
        Timestamp::from_micros(micros.unwrap_or(i64::MAX))
    };
    Some((instant(validity.not_before), instant(validity.not_after)))
}

/// The attribute of a common name.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// The extension of alternative names.
const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// The kinds of alternative names that identify a holder: mail address, DNS name, URI (RFC 5280, 4.2.1.6).
const NAME_TAGS: [u8; 3] = [1, 2, 6];

/// Returns the name of a client certificate's holder: its first URI, DNS name or mail address, else its common name,
/// else its whole subject as RFC 4514 writes it. A certificate that can't be read is named by its SHA-256.
pub(crate) fn name(certificate: &CertificateDer<'_>) -> Arc<str> {
    let name = match Certificate::from_der(certificate) {
        Ok(read) => holder(&read.tbs_certificate),
        Err(_) => {
            let digits = Sha256::digest(certificate).into_iter().map(|byte| format!("{byte:02x}"));
            format!("sha256:{}", digits.collect::<String>())
        }
    };
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].into()
}

fn holder(certificate: &TbsCertificate) -> String {
    let common = || {
        let mut attributes = certificate.subject.0.iter().flat_map(|part| part.0.iter());
        attributes.find_map(|attribute| text(&attribute.value).filter(|_| attribute.oid == COMMON_NAME))
    };
    let mut extensions = certificate.extensions.iter().flatten();
    let name = match extensions.find(|extension| extension.extn_id == ALTERNATIVE_NAMES) {
        // An authority's constraints on names need not bind the common name: it must not stand in for broken ones.
        Some(names) => match Vec::<Any>::from_der(names.extn_value.as_bytes()) {
            Ok(names) => names.iter().find_map(alternative).or_else(common),
            Err(_) => None,
        },
        None => common(),
    };
    name.unwrap_or_else(|| certificate.subject.to_string())
}

fn alternative(name: &Any) -> Option<String> {
    let identifies = NAME_TAGS.iter().any(|number| {
        name.tag() == Tag::ContextSpecific { constructed: false, number: TagNumber::new(*number) }
    });
    String::from_utf8(name.value().to_vec()).ok().filter(|_| identifies)
}

/// Returns the text of an attribute, in the encodings that are parts of UTF-8.
fn text(value: &Any) -> Option<String> {
    let is_text = matches!(
        value.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString
    );
    String::from_utf8(value.value().to_vec()).ok().filter(|_| is_text)
}

/// Returns the reason of a failed handshake, if it was a certificate: the client's, or the server's own, which the
/// client refused.
pub(crate) fn certificate_fault(error: &io::Error) -> Option<&'static str> {
    use rustls::{AlertDescription as Alert, CertificateError as Fault, Error};

    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let refused_by_the_client = matches!(
        error,
        Error::AlertReceived(
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
        )
    );
    if refused_by_the_client {
        Some("SERVER_CERTIFICATE_REFUSED")
    } else if let Error::InvalidCertificate(fault) = error {
        if matches!(fault, Fault::Expired | Fault::ExpiredContext { .. }) {
            Some("CERTIFICATE_EXPIRED")
        } else if matches!(fault, Fault::NotValidYet | Fault::NotValidYetContext { .. }) {
            Some("CERTIFICATE_NOT_VALID_YET")
        } else {
            Some("CERTIFICATE_INVALID")
        }
    } else {
        matches!(error, Error::NoCertificatesPresented).then_some("CERTIFICATE_MISSING")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn named(change: impl FnOnce(&mut CertificateParams)) -> Arc<str> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(certificate.der())
    }

    fn common(params: &mut CertificateParams) {
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.distinguished_name.push(DnType::CommonName, "worker 7");
    }

    #[test]
    fn holders_are_named_by_what_identifies_them() {
        let text = |text: &str| text.try_into().unwrap();
        let uri = || SanType::URI(text("spiffe://acme/mailer"));
        let dns = || SanType::DnsName(text("mailer.acme.test"));
        let mail = || SanType::Rfc822Name(text("mailer@acme.test"));
        let address = || SanType::IpAddress([127, 0, 0, 1].into());
        for (names, expected) in [
            (vec![address(), uri(), dns()], "spiffe://acme/mailer"),
            (vec![dns(), uri()], "mailer.acme.test"),
            (vec![mail()], "mailer@acme.test"),
            (vec![address()], "worker 7"),
            (vec![], "worker 7"),
        ] {
            let name = named(|params| {
                common(params);
                params.subject_alt_names = names;
            });
            assert_eq!(&*name, expected);
        }
        let organisation = named(|params| params.distinguished_name.push(DnType::OrganizationName, "Acme"));
        assert_eq!(&*organisation, "O=Acme");
    }

    #[test]
    fn a_common_name_does_not_stand_in_for_broken_alternative_names() {
        let name = named(|params| {
            common(params);
            let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x05, 0x86]);
            params.custom_extensions.push(broken);
        });
        assert!(name.contains("O=Acme") && name.contains("CN=worker 7"), "{name}");
    }

    #[test]
    fn names_are_cut_and_what_can_not_be_read_has_a_name_of_its_own() {
        let long = named(|params| params.distinguished_name.push(DnType::CommonName, "é".repeat(300)));
        assert_eq!((long.len(), long.chars().all(|letter| letter == 'é')), (NAME_BYTES_MAX, true));
        let unread = [name(&CertificateDer::from(&b"one"[..])), name(&CertificateDer::from(&b"two"[..]))];
        assert!(unread.iter().all(|name| name.starts_with("sha256:") && name.len() == 71), "{unread:?}");
        assert_ne!(unread[0], unread[1]);
    }
}
