//! JSON web tokens (RFC 7519), signed by somebody whose public keys are in a file or at a server (a JWK set, RFC 7517).

mod remote;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use rustls::ClientConfig;
use serde_json::{Map, Value};

use crate::client::Target;
use crate::config::serve::{KeyHash, TokenKeys, TokenSource};

use super::credential::Shown;
use super::follow::{Followed, LOOK, unreadable};
use super::hash::{Digest, Hasher};
use remote::{Fetcher, Remote};

/// Clocks may differ by so many seconds.
const LEEWAY: u64 = 30;

/// Most tokens that are remembered as good; when there are more, all are looked at anew. One takes about a KiB.
const MOST_KNOWN: usize = 1024;

/// Longest claim that is passed on, in bytes.
const LONGEST_CLAIM: usize = 4096;

/// Most keys of a set: an issuer has two or three.
const MOST_KEYS: usize = 32;

/// A token that names no key is tried with so many: each takes a stranger's 60 µs of ours.
const MOST_TRIED: usize = 4;

/// Who a token was made for, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub user: Arc<str>,
    /// Names in lower case, without `x-ostler-claim-`.
    pub claims: Vec<(String, String)>,
    /// Seconds since the epoch.
    expires: u64,
}

/// A public key, as its set has it.
struct Key {
    id: Option<String>,
    /// The only algorithm it is for, where it says so (RFC 7517 section 4.4).
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// The keys in force, and the tokens that they were found to have signed.
#[derive(Default)]
struct Set {
    keys: Vec<Key>,
    /// Guards the map alone.
    known: RwLock<HashMap<Digest, Arc<Bearer>>>,
}

/// What tokens of one issuer must be like.
pub struct Tokens {
    source: TokenSource,
    validation: Validation,
    hasher: Hasher,
    /// Guards the pointer alone.
    now: RwLock<Arc<Set>>,
    /// When they are at a server.
    remote: Option<Arc<Remote>>,
}

/// What a look at a token has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    Good(Arc<Bearer>),
    /// There is none, or it is nobody's.
    Nobodys,
    /// It names a key that is not in the set, which may be older than the key.
    UnknownKey,
}

/// Reads the keys of `source` and follows them as long as they are in use; `tls` says which servers are believed. With
/// `again` none is better than an error: nobody gets in. So it is while a server has not told them yet.
///
/// # Errors
/// Why there are none, for the log.
pub fn open(
    source: &TokenSource,
    tls: Option<Arc<ClientConfig>>,
    about: &str,
    again: bool,
) -> Result<Arc<Tokens>, String> {
    let url = match &source.keys {
        TokenKeys::File(path) => return in_file(source, path, about, again),
        TokenKeys::Url(url) => url.clone(),
    };
    let fetcher = Fetcher {
        target: Target::parse(&url)?,
        url,
        tls,
        issuers: source.issuer.clone(),
        about: about.to_owned(),
    };
    let remote = Arc::new(Remote::default());
    let tokens = Tokens::new(source, Set::default(), Some(Arc::clone(&remote)))
        .ok_or("the system gives no random bytes")?;
    let tokens = Arc::new(tokens);
    tokio::spawn(fetcher.run(Arc::downgrade(&tokens), remote));
    Ok(tokens)
}

fn in_file(
    source: &TokenSource,
    path: &Path,
    about: &str,
    again: bool,
) -> Result<Arc<Tokens>, String> {
    let mut file = Followed::new(path.to_owned());
    let read = file.read().map_err(|cause| unreadable(&file.path, &cause));
    let set = read.and_then(|text| {
        Set::parse(&text).map_err(|what| format!("{}: {what}", file.path.display()))
    });
    let set = set.or_else(|what| match again {
        true => {
            tracing::error!("{about}{what}; until then nobody gets in with a token");
            Ok(Set::default())
        }
        false => Err(what),
    })?;
    let tokens = Tokens::new(source, set, None).ok_or("the system gives no random bytes")?;
    let tokens = Arc::new(tokens);
    tokio::spawn(follow(file, Arc::downgrade(&tokens), about.to_owned()));
    Ok(tokens)
}

/// Takes what the file says when it changes. What is no set of keys keeps the old one.
async fn follow(mut file: Followed, tokens: Weak<Tokens>, about: String) {
    loop {
        tokio::time::sleep(LOOK).await;
        if tokens.strong_count() == 0 {
            return;
        }
        let looked = tokio::task::spawn_blocking(move || {
            let look = file.look();
            (file, look)
        });
        let Ok((followed, look)) = looked.await else {
            return;
        };
        file = followed;
        let (Some(look), Some(tokens)) = (look, tokens.upgrade()) else {
            continue;
        };
        let read = look.map_err(|cause| unreadable(&file.path, &cause));
        let set = read.and_then(|text| {
            Set::parse(&text).map_err(|what| format!("{}: {what}", file.path.display()))
        });
        match set {
            Ok(set) => {
                let count = set.keys.len();
                *tokens.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
                tracing::info!("{about}keys of tokens read anew: {count}");
            }
            Err(what) => tracing::error!("{about}{what}; the keys of tokens stay as they were"),
        }
    }
}

impl Set {
    fn parse(text: &str) -> Result<Self, String> {
        let set: Value =
            serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let listed = set.get("keys").and_then(Value::as_array);
        let listed = listed.ok_or("it is no JWK set: it has no list `keys`")?;
        if listed.len() > MOST_KEYS {
            return Err(format!("it has more than {MOST_KEYS} keys"));
        }
        let keys: Vec<_> = listed.iter().filter_map(key).collect();
        match keys.is_empty() {
            true => Err("it has no public key for signatures".to_owned()),
            false => Ok(Self {
                keys,
                known: RwLock::default(),
            }),
        }
    }
}

/// A public key for signatures; a set may hold others, which are passed over.
fn key(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let signs = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|usage| *usage == PublicKeyUse::Signature);
    // A secret in a file of public keys would let anyone who has that file sign.
    let public = value.get("kty").is_some_and(|kind| kind != "oct");
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let named = value.get("alg").and_then(Value::as_str);
    // One that nobody knows here is for nothing that is used here.
    let algorithm = named.map(str::parse).transpose().ok()?;
    (signs && public).then_some(Key {
        id: jwk.common.key_id,
        algorithm,
        key,
    })
}

impl Tokens {
    fn new(source: &TokenSource, set: Set, remote: Option<Arc<Remote>>) -> Option<Self> {
        let algorithms: Vec<Algorithm> = source
            .algorithms
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let mut validation = Validation::new(algorithms.first().copied()?);
        validation.algorithms = algorithms;
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&source.issuer);
        validation.set_audience(&source.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Some(Self {
            source: source.clone(),
            validation,
            hasher: Hasher::new(KeyHash::Sha256)?,
            now: RwLock::new(Arc::new(set)),
            remote,
        })
    }

    /// There is no key at all, so no token can be good.
    pub fn is_empty(&self) -> bool {
        let set = self.now.read().unwrap_or_else(PoisonError::into_inner);
        set.keys.is_empty()
    }

    /// Whose token is shown, if it is good `now` (seconds since the epoch).
    pub fn bearer(&self, shown: Shown<'_>, now: u64) -> Looked {
        let Some(token) = shown.bearer() else {
            return Looked::Nobodys;
        };
        let set = Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner));
        let quick = self.hasher.quick(token);
        let known = set
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&quick)
            .cloned();
        if let Some(known) = known {
            return match known.expires.saturating_add(LEEWAY) > now {
                true => Looked::Good(known),
                false => Looked::Nobodys,
            };
        }
        let Some(bearer) = self.verify(&set, token) else {
            return match self.names_unknown_key(&set, token) {
                true => Looked::UnknownKey,
                false => Looked::Nobodys,
            };
        };
        let bearer = Arc::new(bearer);
        let mut known = set.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(quick, Arc::clone(&bearer));
        Looked::Good(bearer)
    }

    fn names_unknown_key(&self, set: &Set, token: &[u8]) -> bool {
        let Some(header) = decode_header(token).ok() else {
            return false;
        };
        let taken = self.validation.algorithms.contains(&header.alg);
        let named = header.kid.is_some() && set.keys.iter().all(|key| key.id != header.kid);
        taken && (named || set.keys.is_empty())
    }

    fn verify(&self, set: &Set, token: &[u8]) -> Option<Bearer> {
        let header = decode_header(token).ok()?;
        // Whoever signs with what must be understood is not understood (RFC 7515 section 4.1.11).
        if header.crit.is_some() || !self.validation.algorithms.contains(&header.alg) {
            return None;
        }
        // One that is taken, as was just seen. (Of several the library wants all to be of one family.)
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let family = header.alg.family();
        let fits = |key: &&Key| {
            let named = header.kid.is_none() || key.id.is_none() || key.id == header.kid;
            let meant = key
                .algorithm
                .is_none_or(|algorithm| algorithm == header.alg);
            named && meant && key.key.family() == family
        };
        let mut keys = set.keys.iter().filter(fits).take(MOST_TRIED);
        let claims = keys.find_map(|key| {
            let found = decode::<Map<String, Value>>(token, &key.key, &validation).ok();
            found.map(|found| found.claims)
        })?;
        let user = claims.get(&self.source.user)?.as_str()?;
        let plain =
            (1..=256).contains(&user.len()) && user.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let passed = self.source.claims.iter().filter_map(|name| {
            let text = text(claims.get(name)?)?;
            Some((name.to_ascii_lowercase().replace('_', "-"), text))
        });
        plain.then(|| Bearer {
            user: user.into(),
            claims: passed.collect(),
            expires: claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0) as u64,
        })
    }
}

/// A claim as a field has it: text as it is, anything else as JSON. `None` for what no field can hold.
fn text(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let good =
        text.len() <= LONGEST_CLAIM && !text.contains(char::is_control) && text.trim() == text;
    good.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const NOW: u64 = 4_000_000_000;

    /// An issuer with a key of its own.
    struct Issuer {
        key: EncodingKey,
        set: Value,
    }

    impl Issuer {
        fn new(id: &str) -> Self {
            use aws_lc_rs::signature::{
                ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
            };
            let random = aws_lc_rs::rand::SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .expect("a key");
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
                    .expect("a key");
            let point = pair.public_key().as_ref();
            let set = json!({"keys": [
                {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
                {"kty": "strange"},
                {"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": base64url(&point[1..33]), "y": base64url(&point[33..])},
            ]});
            Self {
                key: EncodingKey::from_ec_der(document.as_ref()),
                set,
            }
        }

        fn token(&self, id: &str, claims: &Value) -> String {
            let mut header = Header::new(Algorithm::ES256);
            header.kid = Some(id.to_owned());
            encode(&header, claims, &self.key).expect("a token")
        }
    }

    fn base64url(bytes: &[u8]) -> String {
        const SIGNS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let bits = three
                .iter()
                .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            let signs =
                (0..=three.len()).map(|index| SIGNS[(bits >> (18 - 6 * index) & 63) as usize]);
            text.extend(signs.map(char::from));
        }
        text
    }

    fn tokens(issuer: &Issuer) -> Tokens {
        let text = |text: &str| text.to_owned();
        let source = TokenSource {
            keys: TokenKeys::File("jwks.json".into()),
            issuer: vec![text("https://id.test")],
            audience: vec![text("shop")],
            algorithms: vec![text("RS256"), text("ES256")],
            user: text("sub"),
            claims: vec![text("email"), text("is_admin"), text("odd")],
        };
        let set = Set::parse(&issuer.set.to_string()).expect("a set");
        Tokens::new(&source, set, None).expect("random bytes")
    }

    fn good() -> Value {
        json!({"iss": "https://id.test", "aud": "shop", "exp": NOW + 60, "sub": "ada", "email": "a@b.test", "is_admin": true, "odd": "a\r\nb"})
    }

    fn bearer(tokens: &Tokens, token: &str, now: u64) -> Option<Arc<Bearer>> {
        let authorization = format!("Bearer {token}");
        let shown = Shown {
            authorization: Some(authorization.as_bytes()),
            ..Shown::default()
        };
        match tokens.bearer(shown, now) {
            Looked::Good(bearer) => Some(bearer),
            Looked::Nobodys | Looked::UnknownKey => None,
        }
    }

    #[test]
    fn a_good_token_names_its_user_until_it_expires() {
        let issuer = Issuer::new("k1");
        let tokens = tokens(&issuer);
        let token = issuer.token("k1", &good());
        for _ in 0..2 {
            let found = bearer(&tokens, &token, NOW).expect("a good token");
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            assert_eq!(
                (&*found.user, &found.claims),
                (
                    "ada",
                    &vec![pair("email", "a@b.test"), pair("is-admin", "true")]
                )
            );
        }
        assert_eq!(
            bearer(&tokens, &token, NOW + 60 + LEEWAY),
            None,
            "remembered, and over"
        );
    }

    #[test]
    fn what_is_not_signed_for_us_is_nobodys() {
        let (issuer, other) = (Issuer::new("k1"), Issuer::new("k1"));
        let tokens = tokens(&issuer);
        let with = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            issuer.token("k1", &claims)
        };
        let without = |name: &str| {
            let mut claims = good();
            claims.as_object_mut().expect("claims").remove(name);
            issuer.token("k1", &claims)
        };
        let whole = issuer.token("k1", &good());
        let parts: Vec<&str> = whole.split('.').collect();
        let none = base64url(br#"{"alg":"none","typ":"JWT"}"#);
        let secret = encode(
            &Header::new(Algorithm::HS256),
            &good(),
            &EncodingKey::from_secret(b"secret"),
        )
        .expect("a token");
        for (token, why) in [
            (other.token("k1", &good()), "signed by another"),
            (issuer.token("k2", &good()), "another key id"),
            (with("iss", json!("https://evil.test")), "another issuer"),
            (with("aud", json!("blog")), "for another"),
            (with("exp", json!(1)), "over"),
            (with("nbf", json!(NOW + 9_000)), "not yet"),
            (with("sub", json!("a\nb")), "a user that no field holds"),
            (with("sub", json!(7)), "no text"),
            (without("iss"), "no issuer"),
            (without("aud"), "no audience"),
            (without("exp"), "without an end"),
            (without("sub"), "no user"),
            (format!("{none}.{}.", parts[1]), "not signed"),
            (
                format!("{}.{}.", parts[0], parts[1]),
                "the signature is gone",
            ),
            (
                format!("{}.{}.{}", parts[0], base64url(b"{}"), parts[2]),
                "other claims",
            ),
            (secret, "a secret that is in the set of public keys"),
            (String::new(), "nothing"),
            ("a.b.c".to_owned(), "no token"),
        ] {
            assert_eq!(bearer(&tokens, &token, NOW), None, "{why}");
        }
        assert!(bearer(&tokens, &whole, NOW).is_some());
    }

    #[test]
    fn what_is_no_set_is_told() {
        for (text, told) in [
            ("", "no JSON"),
            ("{}", "no list `keys`"),
            ("{\"keys\": []}", "no public key"),
            (
                "{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}",
                "no public key",
            ),
        ] {
            let what = Set::parse(text).map(drop).expect_err(text);
            assert!(what.contains(told), "{what}");
        }
    }
}
