//! One rustls configuration for both kinds of session, meaning by each `sslmode` what libpq means.
//!
//! A mode that does not verify the certificate still verifies the handshake's signatures, so that the peer at least
//! owns the key it shows. Two differences from libpq remain, both stricter: a name counts only as subjectAltName,
//! and a certificate of X.509 version 1 is refused.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::conninfo::{ConnectionInfo, RootCertificates, SslMode, TlsVersions};
use crate::error::{Error, Result};

/// How far a server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Any certificate will do.
    Any,
    /// It must chain to a root certificate.
    Chain,
    /// It must chain to a root certificate and name the host.
    ChainAndName,
}

/// The TLS configuration for these connections, reading the files afresh so that renewed certificates are taken up.
/// `None` where TLS is never used.
///
/// # Errors
///
/// `Config` where a file is missing or holds no certificate or key, or where verification was asked for and there
/// is nothing to verify against.
pub fn client_config(info: &ConnectionInfo) -> Result<Option<Arc<ClientConfig>>> {
    if info.ssl_mode == SslMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = trust(info)?;
    let certificates = match trust {
        Trust::Any => Vec::new(),
        Trust::Chain | Trust::ChainAndName => root_certificates(&info.root_certificates)?,
    };
    let verifier = Verifier::new(trust, certificates, provider.clone());
    let versions: &[_] = match info.tls_versions {
        TlsVersions::Any => rustls::ALL_VERSIONS,
        TlsVersions::Only12 => &[&rustls::version::TLS12],
        TlsVersions::Only13 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Error::bug("ring lacks a TLS version").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &info.client_certificate {
        Some((certificate, key)) => {
            let (chain, key) = (read_certificates(certificate, "sslcert")?, read_key(key)?);
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::config("the client certificate and its key do not fit").because(error)
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = info.has_sni;
    if info.is_tls_direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(Some(Arc::new(config)))
}

/// libpq's table: modes below verify-ca verify the chain too once root certificates are there, "for backwards
/// compatibility" (<https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS>).
fn trust(info: &ConnectionInfo) -> Result<Trust> {
    match (info.ssl_mode, &info.root_certificates) {
        (SslMode::VerifyCa | SslMode::VerifyFull, RootCertificates::None) => {
            Err(Error::config("there is no root certificate to verify the server's certificate against")
                .hint(
                    "name a file with sslrootcert=…, or set sslrootcert=system for a certificate of a public \
                     authority",
                ))
        }
        (SslMode::VerifyFull, _) => Ok(Trust::ChainAndName),
        (SslMode::VerifyCa, _) => Ok(Trust::Chain),
        (_, RootCertificates::None) => Ok(Trust::Any),
        (_, RootCertificates::File(_) | RootCertificates::System) => Ok(Trust::Chain),
    }
}

fn root_certificates(source: &RootCertificates) -> Result<Vec<CertificateDer<'static>>> {
    match source {
        RootCertificates::None => Ok(Vec::new()),
        RootCertificates::File(path) => read_certificates(path, "sslrootcert"),
        RootCertificates::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(Error::config("the system has no root certificates for sslrootcert=system")
                    .hint("install the ca-certificates package, or name a file with sslrootcert=…"));
            }
            Ok(found.certs)
        }
    }
}

fn read_certificates(path: &Path, keyword: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("{keyword} {} cannot be read", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| Error::config(unreadable()).because(error))?;
    if certificates.is_empty() {
        return Err(Error::config(format!("{keyword} {} holds no certificate in PEM form", path.display())));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        Error::config(format!("sslkey {} cannot be read", path.display()))
            .hint("the key must be in PEM form and not encrypted")
            .because(error)
    })
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: Trust, certificates: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Verifier { trust, roots, certificates, provider }
    }

    fn verify_chain(
        &self,
        parsed: &ParsedCertificate<'_>,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, algorithms) {
            // Postgres' own instructions make a self-signed certificate that is server certificate and root in
            // one. webpki refuses it as server certificate after it has checked its dates; libpq takes it.
            Err(error) if is_ca_as_server(&error) && self.certificates.contains(certificate) => Ok(()),
            result => result,
        }
    }
}

/// rustls keeps this error only as opaque text. Should the text change, such certificates are refused.
fn is_ca_as_server(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
        if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trust == Trust::Any {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        self.verify_chain(&parsed, certificate, intermediates, now)?;
        if self.trust == Trust::ChainAndName {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(text: &str) -> Result<Trust> {
        trust(&ConnectionInfo::resolve_with(&format!("user=u {text}"), &|_| None).unwrap())
    }

    #[test]
    fn each_sslmode_trusts_as_libpq_does() {
        for mode in ["allow", "prefer", "require"] {
            assert_eq!(trusted(&format!("sslmode={mode}")).unwrap(), Trust::Any, "{mode}");
            assert_eq!(trusted(&format!("sslmode={mode} sslrootcert=/r")).unwrap(), Trust::Chain, "{mode}");
        }
        assert_eq!(trusted("sslmode=verify-ca sslrootcert=/r").unwrap(), Trust::Chain);
        assert_eq!(trusted("sslmode=verify-full sslrootcert=/r").unwrap(), Trust::ChainAndName);
        assert_eq!(trusted("sslrootcert=system").unwrap(), Trust::ChainAndName);
        for mode in ["verify-ca", "verify-full"] {
            let error = trusted(&format!("sslmode={mode}")).unwrap_err();
            assert!(error.hint_text().unwrap().contains("sslrootcert=system"), "{error:?}");
        }
    }

    #[test]
    fn disabled_tls_needs_no_files_and_a_named_missing_file_is_an_error() {
        let resolve = |text: &str| ConnectionInfo::resolve_with(text, &|_| None).unwrap();
        assert!(client_config(&resolve("user=u sslmode=disable sslrootcert=/absent")).unwrap().is_none());
        let error = client_config(&resolve("user=u sslmode=require sslrootcert=/absent")).unwrap_err();
        assert!(error.to_string().contains("sslrootcert /absent"), "{error:?}");
        let error = client_config(&resolve("user=u sslmode=require sslcert=/absent")).unwrap_err();
        assert!(error.to_string().contains("sslcert /absent"), "{error:?}");
        assert!(client_config(&resolve("user=u")).unwrap().is_some());
    }
}
