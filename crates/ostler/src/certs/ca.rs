//! The CA as the shell speaks to it: an account, and the order of one certificate. Turns what goes
//! wrong into whose trouble it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, ExternalAccountKey,
    Identifier, Key, NewAccount, NewOrder, Order, OrderStatus, Problem,
};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::disk::{AccountFile, Disk};
use super::http::Http;
use super::names::Names;
use super::settings::Settings;
use super::state::{Proof, Status, Trouble, View, Whose, Window};
use crate::config::serve::Challenge;

/// Our account at the CA, one connection, and the order that was looked at last.
pub struct Session {
    account: Account,
    http: Http,
    order: Option<Order>,
    /// URLs of the challenges that the CA was told of.
    announced: Vec<String>,
}

impl Session {
    /// Opens the account, and makes one where there is none. Call it for one account at a time.
    pub async fn open(
        settings: &Settings,
        disk: &Disk,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, Trouble> {
        let http = Http::new(tls);
        let file = match disk.account().map_err(on_disk)? {
            Some(file) => file,
            None => {
                // The key is on disk before the CA knows it: an account is never lost in between.
                let file = AccountFile {
                    key: KeyPair::generate().map_err(ours)?.serialize_pem(),
                    url: None,
                    contact: None,
                };
                disk.save_account(&file).map_err(on_disk)?;
                file
            }
        };
        let account = match &file.url {
            Some(url) => {
                let (_, key) = account_key(&file.key)?;
                let builder = Account::builder_with_http(Box::new(http.clone()));
                let account = builder.from_parts(url.clone(), key, settings.acme.directory.clone());
                account.await.map_err(|error| trouble(error, &http))?
            }
            None => register(settings, disk, &http, file.clone()).await?,
        };
        Ok(Self {
            account,
            http,
            order: None,
            announced: Vec::new(),
        })
    }

    /// When the CA's last answer said that one may ask again.
    pub fn retry_after(&self) -> Option<SystemTime> {
        self.http.retry_after()
    }

    /// A new order, and its URL. `replaces` is PEM of the certificate that it is to replace, which
    /// only CAs with renewal information are told (RFC 9773 section 5).
    pub async fn new_order(
        &mut self,
        names: &Names,
        replaces: Option<&str>,
        profile: Option<&str>,
    ) -> Result<String, Trouble> {
        let identifiers: Vec<Identifier> = names
            .iter()
            .map(|name| Identifier::Dns(name.to_owned()))
            .collect();
        let new = || match profile {
            Some(profile) => NewOrder::new(&identifiers).profile(profile),
            None => NewOrder::new(&identifiers),
        };
        let replaced = replaces.and_then(leaf);
        let id = replaced.as_ref().and_then(|leaf| leaf.try_into().ok());
        let ordered = match id {
            None => self.account.new_order(&new()).await,
            Some(id) => match self.account.new_order(&new().replaces(id)).await {
                Err(Error::Unsupported(_)) => self.account.new_order(&new()).await,
                ordered => ordered,
            },
        };
        let ordered = ordered.map_err(|error| trouble(error, &self.http))?;
        let url = ordered.url().to_owned();
        self.order = Some(ordered);
        Ok(url)
    }

    /// The order as it stands, with the challenges of kind `challenge` that are still to be answered.
    pub async fn read(&mut self, url: &str, challenge: Challenge) -> Result<View, Trouble> {
        let mut view = self.look(url).await?;
        if view.status == Status::Pending {
            let http = self.http.clone();
            let order = self.order(url).await?;
            let proofs = proofs(order, kind(challenge)).await;
            view.proofs = proofs.map_err(|error| trouble(error, &http))?;
        }
        Ok(view)
    }

    /// The order as it stands, and why if it is invalid.
    pub async fn look(&mut self, url: &str) -> Result<View, Trouble> {
        let http = self.http.clone();
        let order = self.order(url).await?;
        let told = order.refresh().await;
        told.map_err(|error| gone(trouble(error, &http)))?;
        let mut view = view(order);
        if view.status == Status::Invalid {
            // The challenges say which name it was; the order may say nothing at all.
            let found = refusals(order).await;
            let found = found.map_err(|error| trouble(error, &http))?;
            let why = found
                .or(view.why)
                .map(|why| format!("the CA refuses: {why}"));
            view.why = why;
        }
        Ok(view)
    }

    /// Tells the CA that the answers to its challenges are in place.
    pub async fn announce(&mut self, url: &str, challenge: Challenge) -> Result<(), Trouble> {
        let http = self.http.clone();
        let mut announced = std::mem::take(&mut self.announced);
        let order = self.order(url).await?;
        let told = announce(order, kind(challenge), &mut announced).await;
        self.announced = announced;
        told.map_err(|error| trouble(error, &http))
    }

    /// Sends the signing request (DER).
    pub async fn finalize(&mut self, url: &str, request: &[u8]) -> Result<View, Trouble> {
        let http = self.http.clone();
        let order = self.order(url).await?;
        let sent = order.finalize_csr(request).await;
        sent.map_err(|error| trouble(error, &http))?;
        Ok(view(order))
    }

    /// The certificate with its chain, as PEM.
    pub async fn chain(&mut self, url: &str) -> Result<String, Trouble> {
        let http = self.http.clone();
        let order = self.order(url).await?;
        let chain = order.certificate().await;
        let chain = chain.map_err(|error| trouble(error, &http))?;
        chain.ok_or_else(|| Trouble::new(Whose::Ca, "the CA has not issued after all"))
    }

    /// When to renew the certificate `pem`, if the CA says so, and when to ask again.
    pub async fn window(&self, pem: &str) -> Result<(Option<Window>, SystemTime), Trouble> {
        let now = SystemTime::now();
        let leaf = leaf(pem);
        let Some(id) = leaf.as_ref().and_then(|leaf| leaf.try_into().ok()) else {
            return Ok((None, now + SELDOM));
        };
        match self.account.renewal_info(&id).await {
            Ok((info, after)) => {
                let window = Window {
                    start: info.suggested_window.start.into(),
                    end: info.suggested_window.end.into(),
                };
                // RFC 9773 section 4.3: clients set limits of their own.
                Ok((Some(window), now + after.clamp(OFTEN, SELDOM)))
            }
            Err(Error::Unsupported(_)) => Ok((None, now + SELDOM)),
            Err(error) => Err(trouble(error, &self.http)),
        }
    }

    async fn order(&mut self, url: &str) -> Result<&mut Order, Trouble> {
        let known = self.order.take().filter(|order| order.url() == url);
        let order = match known {
            Some(order) => order,
            None => {
                let asked = self.account.order(url.to_owned()).await;
                asked.map_err(|error| gone(trouble(error, &self.http)))?
            }
        };
        Ok(self.order.insert(order))
    }
}

/// Renewal information is not asked for more often than this.
const OFTEN: Duration = Duration::from_secs(60);

/// A CA without renewal information, or one in no hurry, is asked this often.
const SELDOM: Duration = Duration::from_secs(24 * 3600);

/// Makes the account, or finds the one that was made before a crash: for a key that it knows a CA
/// answers with the account it has (RFC 8555 section 7.3).
async fn register(
    settings: &Settings,
    disk: &Disk,
    http: &Http,
    mut file: AccountFile,
) -> Result<Account, Trouble> {
    let contact: Vec<String> = settings
        .acme
        .email
        .iter()
        .map(|address| format!("mailto:{address}"))
        .collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let directory = settings.acme.directory.clone();
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let refused = |error| trouble(error, http);
    let account = match &settings.acme.eab {
        None => {
            let (key, der) = account_key(&file.key)?;
            let made = builder.create_from_key((key, der.into()), directory);
            let (account, _) = made.await.map_err(refused)?;
            if !contact.is_empty() {
                account.update_contacts(&contact).await.map_err(refused)?;
            }
            account
        }
        // With an external account the key is made where the account is, and is on disk only then:
        // a crash in between leaves an account at the CA that nobody uses.
        Some(eab) => {
            let external = ExternalAccountKey::new(eab.id.clone(), &mac_key(&eab.key)?);
            let new = NewAccount {
                contact: &contact,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let made = builder.create(&new, directory, Some(&external));
            let (account, credentials) = made.await.map_err(refused)?;
            let pair = KeyPair::try_from(credentials.private_key()).map_err(ours)?;
            file.key = pair.serialize_pem();
            account
        }
    };
    file.url = Some(account.id().to_owned());
    file.contact.clone_from(&settings.acme.email);
    disk.save_account(&file).map_err(on_disk)?;
    Ok(account)
}

/// The secret of an external account, from base64url (or base64, which some CAs show).
fn mac_key(text: &str) -> Result<Vec<u8>, Trouble> {
    let text = text.trim_end_matches('=');
    let decoded = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| BASE64_STANDARD_NO_PAD.decode(text));
    decoded.map_err(|_| {
        let text =
            "the key of the external account is no base64url; hint: copy it as the CA shows it";
        Trouble::new(Whose::Operator, text)
    })
}

fn account_key(pem: &str) -> Result<(Key, PrivatePkcs8KeyDer<'static>), Trouble> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|error| {
        let text = format!("the account's key is no PEM: {error}");
        Trouble::new(Whose::Account, text)
    })?;
    let key = Key::from_pkcs8_der(der.clone_key());
    let key = key.map_err(|error| {
        let text = format!("the account's key cannot be used: {error}");
        Trouble::new(Whose::Account, text)
    })?;
    Ok((key, der))
}

/// The certificate itself, of a PEM text with its chain (and its key).
fn leaf(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Dns01 => ChallengeType::Dns01,
    }
}

fn view(order: &mut Order) -> View {
    let state = order.state();
    let status = match state.status {
        OrderStatus::Pending => Status::Pending,
        OrderStatus::Ready => Status::Ready,
        OrderStatus::Processing => Status::Processing,
        OrderStatus::Valid => Status::Valid,
        OrderStatus::Invalid => Status::Invalid,
    };
    View {
        status,
        proofs: Vec::new(),
        why: state.error.as_ref().map(Problem::to_string),
    }
}

/// The answers to the challenges of `kind` that the CA still waits for.
async fn proofs(order: &mut Order, kind: ChallengeType) -> Result<Vec<Proof>, Error> {
    let mut proofs = Vec::new();
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
            continue;
        };
        let Some(challenge) = authorization.challenge(kind.clone()) else {
            return Err(Error::Unsupported("the challenge that is configured"));
        };
        let text = challenge.key_authorization();
        proofs.push(Proof {
            name,
            token: challenge.token.clone(),
            text: text.as_str().to_owned(),
            digest: text.dns_value(),
        });
    }
    Ok(proofs)
}

/// Tells the CA of every challenge of `kind` that it was not told of.
async fn announce(
    order: &mut Order,
    kind: ChallengeType,
    announced: &mut Vec<String>,
) -> Result<(), Error> {
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(kind.clone())
            && challenge.status == ChallengeStatus::Pending
            && !announced.contains(&challenge.url)
        {
            challenge.set_ready().await?;
            announced.push(challenge.url.clone());
        }
    }
    Ok(())
}

/// What the CA saw where it did not find our answers.
async fn refusals(order: &mut Order) -> Result<Option<String>, Error> {
    let mut found = Vec::new();
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let authorization = authorization?;
        let errors = authorization.challenges.iter();
        for error in errors.filter_map(|challenge| challenge.error.as_ref()) {
            found.push(format!("{}: {error}", authorization.identifier()));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("; ")))
}

/// Whose trouble an error is.
fn trouble(error: Error, http: &Http) -> Trouble {
    let Error::Api(problem) = &error else {
        let whose = match &error {
            // The directory has no such thing, so the settings must change.
            Error::Unsupported(_) => Whose::Operator,
            _ => Whose::Ca,
        };
        return Trouble {
            not_before: http.retry_after(),
            ..Trouble::new(whose, format!("the CA: {}", chain(&error)))
        };
    };
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind
        .strip_prefix("urn:ietf:params:acme:error:")
        .unwrap_or(kind);
    let status = problem.status.unwrap_or_default();
    let whose = match (kind, status) {
        ("rateLimited", _) | (_, 429) => Whose::Limit,
        ("accountDoesNotExist", _) => Whose::Account,
        ("badNonce" | "serverInternal" | "orderNotReady", _) | (_, 500..) => Whose::Ca,
        // Another order replaces the certificate already: the next one is asked for without.
        ("alreadyReplaced", _) => Whose::Ca,
        _ => Whose::Refused,
    };
    Trouble {
        whose,
        text: format!("the CA refuses: {problem}"),
        not_before: http.retry_after(),
        nonce: kind == "badNonce",
    }
}

/// An order that cannot be read is gone, unless the CA has no time.
fn gone(trouble: Trouble) -> Trouble {
    match trouble.whose {
        Whose::Refused => Trouble {
            whose: Whose::Order,
            ..trouble
        },
        _ => trouble,
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

fn on_disk(error: std::io::Error) -> Trouble {
    Trouble::new(Whose::Operator, error.to_string())
}

fn ours(error: rcgen::Error) -> Trouble {
    Trouble::new(Whose::Operator, format!("cannot make a key: {error}"))
}
