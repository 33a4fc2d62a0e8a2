//! What a certificate says: its names, how long it is valid, and how the CA calls it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::names::{self, NameError, Names};
use super::state::Held;

/// A certificate as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names of the subject alternative names, lower case.
    names: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    luck: u64,
}

impl Certificate {
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let hash = digest::digest(&digest::SHA256, der);
        let mut luck = [0; 8];
        luck.copy_from_slice(&hash.as_ref()[..8]);
        Ok(Self {
            names,
            not_before: time(&certificate.validity().not_before),
            not_after: time(&certificate.validity().not_after),
            luck: u64::from_be_bytes(luck),
        })
    }

    /// Whether it is for the host (or wildcard) `name`.
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|of| names::covers(of, name))
    }

    /// All host names it is for.
    pub fn all_names(&self) -> Result<Names, NameError> {
        Names::new(&self.names)
    }

    pub fn held(&self) -> Held {
        Held {
            not_before: self.not_before,
            // RFC 5280 section 4.1.2.5: the last second belongs to it.
            not_after: self.not_after + Duration::from_secs(1),
            luck: self.luck,
        }
    }
}

fn time(time: &ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
