//! TLS of the requests that go out over HTTP: to D1, and to a collector of spans. What enters is the system's root
//! certificates; which host is asked is the caller's matter.

use std::sync::{Arc, OnceLock};

use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::{Error, Result};

/// TLS by the system's root certificates, which are read once.
///
/// # Errors
/// The system has none.
pub(crate) fn tls() -> Result<TlsConfig> {
    static ROOTS: OnceLock<Arc<Vec<Certificate<'static>>>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        Arc::new(found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
    });
    if roots.is_empty() {
        return Err(Error::config("the system has no root certificates")
            .hint("install the ca-certificates package, or set SSL_CERT_FILE"));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(roots.clone()))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
