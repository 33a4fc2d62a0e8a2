//! What holds on a route beside its app: who is let in, how much of it, and what is answered in the app's place.
//! Values that were checked; each struct is made of the keys of one section.

mod checks;
mod outward;
mod rate;
mod redirect;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::schema::KEY_FILE;
use super::shape::DraftRules;
use super::source::clean;
use super::upstreams::Upstreams;
use crate::config::network::{self, Network, Trust};

pub use checks::{
    algorithm, claim, field, field_name, method, origin, page, password, request_field,
};
pub use outward::{
    Authority, LONGEST_TIMEOUT, OFF, TIMEOUT, TokenKeys, authority, is_url, key_set,
};
pub use rate::{By, Rate, parse as rate};
pub use redirect::Redirect;

/// The rules of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub access: Access,
    pub limits: Limits,
    /// The first one that fits decides.
    pub redirects: Vec<Redirect>,
    pub headers: Headers,
    pub errors: Errors,
    pub cors: Option<Cors>,
    /// Who answers in the place of an app.
    pub upstreams: Option<Upstreams>,
    /// Everyone gets 503.
    pub maintenance: bool,
    /// The file of a static folder that answers for pages it does not have.
    pub fallback: Option<String>,
    /// Answers and files are compressed for clients that take that.
    pub compress: bool,
    /// The app is told the W3C trace of each request.
    pub trace_context: bool,
}

/// Who is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Only these addresses; `None`: all.
    pub allow: Option<Trust>,
    /// Not these, whatever `allow` says.
    pub deny: Vec<Network>,
    /// Only clients that have shown a certificate of the project's authorities.
    pub certified: bool,
    /// Where the API keys are; `None`: nobody is asked for one.
    pub keys: Option<KeySource>,
    /// Who signs tokens; `None`: nobody is asked for one.
    pub tokens: Option<TokenSource>,
    /// Names and password hashes for basic authentication; nobody is asked when there are none.
    pub users: Vec<(String, String)>,
    /// Who is asked about requests that show nothing of the above; `None`: nobody.
    pub authority: Option<Authority>,
    /// What browsers say that the password is for.
    pub realm: String,
}

/// Where API keys come from. Both sources together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeySource {
    /// Absolute.
    pub file: Option<PathBuf>,
    /// The file was named: then it must be there.
    pub named: bool,
    /// Name of the environment variable.
    pub variable: String,
    pub hash: KeyHash,
}

/// What a JSON web token must be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenSource {
    /// A JWK set.
    pub keys: TokenKeys,
    pub issuer: Vec<String>,
    pub audience: Vec<String>,
    pub algorithms: Vec<String>,
    /// The claim that names the user.
    pub user: String,
    /// The claims that the app is told.
    pub claims: Vec<String>,
}

/// What is kept of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyHash {
    Sha256,
    Sha512,
    Argon2id,
}

/// How much is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a request body, on top of what the app says.
    pub body: Option<u64>,
    pub rates: Vec<Rate>,
}

/// Fields of responses, and of requests on their way to the app. Names as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
    pub request_set: Vec<(String, String)>,
    pub request_remove: Vec<String>,
}

/// Pages in the place of errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// By status; one with `x` is for a hundred or ten of them: `404`, `50x`, `5xx`.
    pub pages: Vec<(String, PathBuf)>,
    /// Also for errors of the app that have no body.
    pub app: bool,
    pub maintenance: Option<PathBuf>,
}

/// Who may read answers from a page of another origin (the Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `None`: all.
    pub origins: Option<Vec<String>>,
    pub methods: Vec<String>,
    /// Request fields; `None`: any.
    pub headers: Option<Vec<String>>,
    pub expose: Vec<String>,
    pub credentials: bool,
    /// Seconds.
    pub max_age: u64,
}

impl Rules {
    /// `source` is the project's folder.
    pub fn of(draft: &DraftRules, source: &Path) -> Self {
        let path = |text: &str| clean(&source.join(text));
        let pages = draft.pairs("errors", "pages").into_iter();
        Self {
            access: access(draft, source),
            limits: Limits {
                body: draft.get("limits", "body").and_then(Json::as_u64),
                rates: draft
                    .list("limits", "rate")
                    .iter()
                    .filter_map(|text| rate(text).ok())
                    .collect(),
            },
            redirects: draft.redirects().unwrap_or_default().to_vec(),
            headers: Headers {
                set: draft.pairs("headers", "set"),
                add: draft.pairs("headers", "add"),
                remove: draft.list("headers", "remove"),
                request_set: draft.pairs("headers", "request_set"),
                request_remove: draft.list("headers", "request_remove"),
            },
            errors: Errors {
                pages: pages.map(|(status, file)| (status, path(&file))).collect(),
                app: draft.is("errors", "app"),
                maintenance: draft.text("errors", "maintenance").map(path),
            },
            cors: cors(draft),
            upstreams: Upstreams::of(draft, source),
            maintenance: draft.is("", "maintenance"),
            fallback: draft.text("", "fallback").map(str::to_owned),
            compress: draft.get("", "compress").and_then(Json::as_bool) != Some(false),
            trace_context: draft.get("", "trace_context").and_then(Json::as_bool) != Some(false),
        }
    }
}

fn access(draft: &DraftRules, source: &Path) -> Access {
    let networks = |key| -> Option<Trust> {
        draft.get("access", key)?;
        let texts = draft.list("access", key);
        match texts.iter().any(|text| text == "*") {
            true => Some(Trust::Everyone),
            false => Some(Trust::Networks(
                texts
                    .iter()
                    .filter_map(|text| network::parse(text).ok())
                    .collect(),
            )),
        }
    };
    Access {
        allow: networks("allow"),
        deny: match networks("deny") {
            Some(Trust::Networks(networks)) => networks,
            _ => Vec::new(),
        },
        certified: draft.is("access", "client_certificate"),
        keys: keys(draft, source),
        tokens: tokens(draft, source),
        authority: asked(draft),
        users: draft.pairs("access", "users"),
        realm: draft.text("access", "realm").unwrap_or(REALM).to_owned(),
    }
}

/// The realm when none is named.
pub const REALM: &str = "restricted";

/// Algorithms of tokens when none are named: those that issuers use. None with a shared secret: whoever could read
/// that could sign.
pub const ALGORITHMS: &[&str] = &["RS256", "ES256", "EdDSA"];

/// The claim that names the user when none is named.
pub const USER: &str = "sub";

fn tokens(draft: &DraftRules, source: &Path) -> Option<TokenSource> {
    let keys = draft.text("access", "jwt_keys")?;
    let algorithms = match draft.get("access", "jwt_algorithms") {
        Some(_) => draft.list("access", "jwt_algorithms"),
        None => ALGORITHMS.iter().map(|name| (*name).to_owned()).collect(),
    };
    Some(TokenSource {
        keys: match is_url(keys) {
            true => TokenKeys::Url(keys.to_owned()),
            false => TokenKeys::File(clean(&source.join(keys))),
        },
        issuer: draft.list("access", "jwt_issuer"),
        audience: draft.list("access", "jwt_audience"),
        algorithms,
        user: draft.text("access", "jwt_user").unwrap_or(USER).to_owned(),
        claims: draft.list("access", "jwt_claims"),
    })
}

fn asked(draft: &DraftRules) -> Option<Authority> {
    let url = draft
        .text("access", "forward_auth")
        .filter(|url| *url != OFF)?;
    let timeout = draft.get("access", "forward_auth_timeout");
    Some(Authority {
        url: url.to_owned(),
        user: draft.text("access", "forward_auth_user").map(str::to_owned),
        copy: draft.list("access", "forward_auth_copy"),
        timeout: Duration::from_secs_f64(timeout.and_then(Json::as_f64).unwrap_or(TIMEOUT as f64)),
    })
}

fn keys(draft: &DraftRules, source: &Path) -> Option<KeySource> {
    if !draft.is("access", "keys") {
        return None;
    }
    let file = draft.text("access", "key_file");
    Some(KeySource {
        file: Some(clean(&source.join(file.unwrap_or(KEY_FILE)))),
        named: file.is_some(),
        variable: draft
            .text("access", "key_variable")
            .unwrap_or("API_KEYS")
            .to_owned(),
        hash: match draft.text("access", "key_hash") {
            Some("sha512") => KeyHash::Sha512,
            Some("argon2id") => KeyHash::Argon2id,
            _ => KeyHash::Sha256,
        },
    })
}

/// Methods when none are named: those of the usual APIs.
pub const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Seconds that a browser remembers a preflight for: none remembers one for longer than two hours.
pub const MAX_AGE: u64 = 600;

fn cors(draft: &DraftRules) -> Option<Cors> {
    draft.get("cors", "origins")?;
    let unless_any = |list: Vec<String>| (!list.iter().any(|text| text == "*")).then_some(list);
    let methods = match draft.get("cors", "methods") {
        Some(_) => draft.list("cors", "methods"),
        None => METHODS.iter().map(|method| (*method).to_owned()).collect(),
    };
    let headers = draft
        .get("cors", "headers")
        .map(|_| draft.list("cors", "headers"));
    Some(Cors {
        origins: unless_any(draft.list("cors", "origins")),
        methods,
        headers: headers.and_then(unless_any),
        expose: draft.list("cors", "expose"),
        credentials: draft.is("cors", "credentials"),
        max_age: draft
            .get("cors", "max_age")
            .and_then(Json::as_f64)
            .map_or(MAX_AGE, |age| age as u64),
    })
}
