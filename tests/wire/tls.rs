//! TLS: accepted connections, and the refusal of all others.

use std::{fs, path::PathBuf};

use jobmill::{
    client::{Client, ClientBuilder, ClientError},
    listen::RefusalReason,
    serve::Server,
    settings::{ClientAuth, Settings, TlsSettings},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{job, memory, simple, soon};

/// A certificate and its key, in PEM.
pub(crate) struct CertificatePair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn pair(&self, name: &str) -> CertificatePair {
        self.made(CertificateParams::new([name.to_owned()]).unwrap())
    }

    fn expired(&self, name: &str) -> CertificatePair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.made(params)
    }

    fn early(&self, name: &str) -> CertificatePair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2101, 1, 1);
        params.not_after = rcgen::date_time_ymd(2102, 1, 1);
        self.made(params)
    }

    fn made(&self, params: CertificateParams) -> CertificatePair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        CertificatePair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// The files of a server with TLS.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Home { dir: tempfile::tempdir().unwrap(), authority: Authority::new() };
        home.install(&home.authority.pair("localhost"));
        fs::write(home.path("clients.pem"), home.authority.pem()).unwrap();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn install(&self, pair: &CertificatePair) {
        fs::write(self.path("server.pem"), &pair.certificate).unwrap();
        fs::write(self.path("server.key"), &pair.key).unwrap();
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = memory();
        settings.tls = Some(TlsSettings {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: None,
            client_auth: ClientAuth::Required,
        });
        settings
    }

    fn mutual(&self, client_auth: ClientAuth) -> Settings {
        let mut settings = self.settings();
        let tls = settings.tls.as_mut().unwrap();
        tls.client_ca = Some(self.path("clients.pem"));
        tls.client_auth = client_auth;
        settings
    }

    /// Returns a builder of a client that trusts the authority.
    pub(crate) fn client(&self, server: &Server) -> ClientBuilder {
        let port = server.local_addr().unwrap().port();
        Client::builder(&format!("https://localhost:{port}"))
            .ca_certificate(self.authority.pem())
            .retry_for(std::time::Duration::ZERO)
    }
}

pub(crate) async fn start(settings: Settings) -> Server {
    soon(simple(settings).start()).await.expect("the server starts")
}

pub(crate) async fn stop(server: Server) {
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

async fn call(builder: ClientBuilder) -> Result<(), ClientError> {
    soon(async { builder.connect().await?.submit(job("echo")).await.map(|_| ()) }).await
}

async fn refused(builder: ClientBuilder) -> String {
    match call(builder).await.expect_err("refused") {
        error @ (ClientError::Unreachable { .. }
        | ClientError::Untrusted { .. }
        | ClientError::NotJobmill { .. }
        | ClientError::Failed { .. }) => error.to_string(),
        error => panic!("{error:?}"),
    }
}

/// Returns once the server has refused this many connections for this reason.
async fn counted(server: &Server, why: RefusalReason, count: u64) {
    let stats = server.connections();
    soon(async {
        while stats.refused_total(why) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stats.refused_total(why), count);
}

#[tokio::test]
async fn calls_over_tls_are_served_and_all_else_is_refused() {
    let home = Home::new();
    let mut settings = home.settings();
    settings.limits.handshake_timeout = std::time::Duration::from_millis(500);
    let server = start(settings).await;
    call(home.client(&server)).await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    // A probe, which sends nothing.
    drop(soon(TcpStream::connect(&address)).await.unwrap());
    counted(&server, RefusalReason::Left, 1).await;
    // A client without TLS.
    refused(Client::builder(&format!("http://{address}")).retry_for(std::time::Duration::ZERO)).await;
    counted(&server, RefusalReason::Handshake, 1).await;
    // A client that trusts another authority.
    let said = refused(home.client(&server).ca_certificate(Authority::new().pem())).await;
    assert!(said.contains("is not accepted"), "{said}");
    counted(&server, RefusalReason::Handshake, 2).await;
    // A TLS handshake that stops half-way.
    let mut half = soon(TcpStream::connect(&address)).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    let _ = soon(half.read_to_end(&mut Vec::new())).await;
    counted(&server, RefusalReason::TooSlow, 1).await;
    call(home.client(&server)).await.unwrap();
    stop(server).await;
}

#[tokio::test]
async fn clients_need_a_certificate_from_the_authority_named() {
    let home = Home::new();
    let mut settings = home.mutual(ClientAuth::Required);
    settings.audit_file = Some(home.path("audit"));
    let server = start(settings).await;
    let with =
        |pair: &CertificatePair| home.client(&server).identity(pair.certificate.clone(), pair.key.clone());
    call(with(&home.authority.pair("ada"))).await.unwrap();
    refused(home.client(&server)).await;
    refused(with(&Authority::new().pair("ada"))).await;
    refused(with(&home.authority.expired("ada"))).await;
    refused(with(&home.authority.early("ada"))).await;
    counted(&server, RefusalReason::Handshake, 4).await;
    stop(server).await;
    let audit = fs::read_to_string(home.path("audit")).unwrap();
    let audit: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let handshakes = audit.iter().filter(|line| line["rpc"] == "TLS handshake");
    let reasons: Vec<_> = handshakes.map(|line| line["reason"].as_str().unwrap()).collect();
    let expected =
        ["CERTIFICATE_MISSING", "CERTIFICATE_INVALID", "CERTIFICATE_EXPIRED", "CERTIFICATE_NOT_VALID_YET"];
    assert_eq!(reasons, expected);

    let server = start(home.mutual(ClientAuth::Optional)).await;
    call(home.client(&server)).await.unwrap();
    let stranger = Authority::new().pair("ada");
    refused(home.client(&server).identity(stranger.certificate, stranger.key)).await;
    stop(server).await;
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_clients_refuse_it() {
    let home = Home::new();
    home.install(&home.authority.expired("localhost"));
    let mut settings = home.settings();
    settings.audit_file = Some(home.path("audit"));
    let server = start(settings).await;
    let said = refused(home.client(&server)).await;
    assert!(said.contains("expired"), "{said}");
    counted(&server, RefusalReason::Handshake, 1).await;
    stop(server).await;
    let audit = fs::read_to_string(home.path("audit")).unwrap();
    assert!(audit.contains("SERVER_CERTIFICATE_REFUSED"), "{audit}");
}

/// Connects anew until the server's certificate is one that the authority has issued.
async fn until(home: &Home, server: &Server, authority: &Authority) {
    soon(async {
        while call(home.client(server).ca_certificate(authority.pem())).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn new_certificates_are_taken_and_broken_ones_are_not() {
    let home = Home::new();
    let clock = crate::support::manual_clock();
    let builder = simple(home.settings()).clock(jobmill::clock::Clock::Manual(clock.clone()));
    let server = soon(builder.start()).await.unwrap();
    let before = soon(home.client(&server).connect()).await.unwrap();
    soon(before.submit(job("echo"))).await.unwrap();

    let next = Authority::new();
    home.install(&next.pair("localhost"));
    // Without SIGHUP: the server checks the files every few seconds.
    soon(async {
        while call(home.client(&server).ca_certificate(next.pem())).await.is_err() {
            clock.advance(std::time::Duration::from_secs(5));
        }
    })
    .await;
    refused(home.client(&server)).await;

    fs::write(home.path("server.key"), "no key").unwrap();
    server.reloader().reload();
    call(home.client(&server).ca_certificate(next.pem())).await.unwrap();
    let last = Authority::new();
    home.install(&last.pair("localhost"));
    server.reloader().reload();
    until(&home, &server, &last).await;
    // Existing connections stay open.
    soon(before.submit(job("echo"))).await.unwrap();
    stop(server).await;
}

#[tokio::test]
async fn a_program_that_embeds_it_cannot_expose_it_by_mistake() {
    let home = Home::new();
    for mut settings in [memory(), home.settings()] {
        settings.listen = ([0, 0, 0, 0], 0).into();
        let refusal = soon(simple(settings).start()).await.expect_err("refused");
        assert!(matches!(refusal, jobmill::serve::ServeError::Exposed(_)), "{refusal}");
    }
    let mut broken = home.settings();
    fs::write(home.path("server.key"), "no key").unwrap();
    broken.tokens = Some(home.path("tokens.toml"));
    let refusal = soon(simple(broken).start()).await.expect_err("refused").to_string();
    assert!(refusal.contains("server.key"), "{refusal}");
}
