//! Private keys, signing requests, and the certificates that we make ourselves.

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::names::Names;
use crate::config::serve::KeyKind;

/// A new private key as PEM (PKCS#8).
pub fn generate(kind: KeyKind) -> Result<String, rcgen::Error> {
    let algorithm = match kind {
        KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
    };
    Ok(KeyPair::generate_for(algorithm)?.serialize_pem())
}

/// The signing request for `names` (RFC 2986, DER), signed with `key` (PEM).
pub fn signing_request(names: &Names, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key)?;
    let request = params(names.iter().map(str::to_owned).collect())?.serialize_request(&key)?;
    Ok(request.der().to_vec())
}

/// A certificate that nobody trusts, for until there is one.
pub fn self_signed<S: AsRef<str>>(
    names: impl IntoIterator<Item = S>,
) -> Result<CertifiedKey, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = params(
        names
            .into_iter()
            .map(|name| name.as_ref().to_owned())
            .collect(),
    )?;
    let name = "ostler: no certificate yet";
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    certified(&params, &key)
}

/// The certificate that answers TLS-ALPN-01 for one name (RFC 8737 section 3). `digest` is the
/// SHA-256 of the key authorization.
pub fn challenge(name: &str, digest: &[u8; 32]) -> Result<CertifiedKey, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = params(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    certified(&params, &key)
}

/// Reads private key and chain from PEM and sees that they belong together.
pub fn from_pem(key: &str, chain: &str) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| format!("the private key is no PEM: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("the private key: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(error) => Err(format!(
            "certificate and private key do not belong together: {error}"
        )),
    }
}

fn params(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn certified(params: &CertificateParams, key: &KeyPair) -> Result<CertifiedKey, rcgen::Error> {
    let certificate = params.self_signed(key)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signer = any_supported_type(&der).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(CertifiedKey {
        cert: vec![certificate.der().clone()],
        key: signer,
        ocsp: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::certificate::Certificate;
    use super::*;

    #[test]
    fn a_key_and_its_certificate_belong_together() {
        let key = generate(KeyKind::P384).unwrap();
        let pair = KeyPair::from_pem(&key).unwrap();
        let names = vec!["a.example".to_owned()];
        let chain = params(names).unwrap().self_signed(&pair).unwrap().pem();
        assert!(from_pem(&key, &chain).is_ok());
        let other = generate(KeyKind::P256).unwrap();
        let error = from_pem(&other, &chain).unwrap_err();
        assert!(error.contains("belong together"), "{error}");
        assert!(from_pem(&key, "").unwrap_err().contains("no certificate"));
        assert!(from_pem("", &chain).unwrap_err().contains("private key"));
    }

    #[test]
    fn a_certificate_of_ours_is_for_its_names() {
        let names: Names = "a.example, *.b.example".parse().unwrap();
        let certified = self_signed(names.iter()).unwrap();
        let read = Certificate::read(&certified.cert[0]).unwrap();
        assert!(names.iter().all(|name| read.covers(name)));
        assert!(
            !signing_request(&names, &generate(KeyKind::P256).unwrap())
                .unwrap()
                .is_empty()
        );
    }
}
