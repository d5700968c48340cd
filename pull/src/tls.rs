//! TLS: the authorities of the host and those of the request.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Returns the settings of TLS.
pub(crate) fn config(authorities: &[String], insecure: bool) -> Result<TlsConfig, String> {
    let mut found: Vec<Certificate<'static>> = Vec::new();
    let mut store = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        if store.add(certificate.clone()).is_ok() {
            found.push(Certificate::from_der(certificate.as_ref()).to_owned());
        }
    }
    for text in authorities {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("a certificate is invalid: {error}"))?;
            store.add(certificate.clone()).map_err(|error| format!("a certificate is invalid: {error}"))?;
            found.push(Certificate::from_der(certificate.as_ref()).to_owned());
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::new_with_certs(&found))
        .disable_verification(insecure)
        .build())
}
