//! Answers to a CA's challenges, put in place and taken away: a token for HTTP-01, a certificate for
//! TLS-ALPN-01, a TXT record through the operator's program for DNS-01.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::sys::program;

use super::keys;
use super::shared::Shared;
use super::state::{Proof, Trouble, Whose};
use crate::config::serve::Challenge;

/// A hook program may wait until all of a zone's servers have the record.
const HOOK: Duration = Duration::from_secs(180);

/// Puts an answer in place; doing it twice does no harm.
pub async fn present(shared: &Shared, challenge: Challenge, proof: &Proof) -> Result<(), Trouble> {
    match challenge {
        Challenge::Http01 => shared
            .served
            .set_token(&proof.token, Some(proof.text.clone())),
        Challenge::TlsAlpn01 => {
            let key = certificate(proof).ok_or_else(|| {
                let text = format!(
                    "{}: no certificate for the challenge can be made",
                    proof.name
                );
                Trouble::new(Whose::Ca, text)
            })?;
            shared.served.answer(&proof.name, &key);
        }
        Challenge::Dns01 => hook(shared.settings.acme.hook.as_deref(), "present", proof).await?,
    }
    Ok(())
}

/// Takes an answer away.
pub async fn withdraw(shared: &Shared, challenge: Challenge, proof: &Proof) -> Result<(), Trouble> {
    forget(shared, challenge, proof);
    match challenge {
        Challenge::Http01 | Challenge::TlsAlpn01 => Ok(()),
        Challenge::Dns01 => hook(shared.settings.acme.hook.as_deref(), "cleanup", proof).await,
    }
}

/// Takes away what is in our memory.
pub fn forget(shared: &Shared, challenge: Challenge, proof: &Proof) {
    match challenge {
        Challenge::Http01 => shared.served.set_token(&proof.token, None),
        Challenge::TlsAlpn01 => shared.served.answer_no_more(&proof.name),
        Challenge::Dns01 => {}
    }
}

fn certificate(proof: &Proof) -> Option<Arc<rustls::sign::CertifiedKey>> {
    let digest = BASE64_URL_SAFE_NO_PAD.decode(&proof.digest).ok()?;
    let digest: [u8; 32] = digest.try_into().ok()?;
    keys::challenge(&proof.name, &digest).ok().map(Arc::new)
}

/// `PROGRAM present|cleanup NAME VALUE`: the TXT record NAME is to have VALUE among its values, or no
/// more. A name and its wildcard have the same record with two values.
async fn hook(program: Option<&Path>, what: &str, proof: &Proof) -> Result<(), Trouble> {
    let fail = |text: String| {
        let text = format!("{}: the program for DNS: {text}", proof.name);
        Trouble::new(Whose::Operator, text)
    };
    let program = program.ok_or_else(|| fail("there is none".to_owned()))?;
    let name = format!("_acme-challenge.{}", proof.name);
    let ran = program::run(program, &[what, &name, &proof.digest], HOOK).await;
    let ended = ran.map_err(|error: io::Error| fail(error.to_string()))?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(fail(format!(
            "`{} {what}`: {}; it said: {}",
            program.display(),
            ended.status,
            ended.output
        ))),
    }
}
