//! One document by GET.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, CACHE_CONTROL, DATE, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use rustls::ClientConfig;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use super::{BoxedError, Target, chain, connect};

/// Redirects that are followed, all on one server.
const MOST_REDIRECTS: usize = 3;

/// A document.
#[derive(Debug)]
pub struct Fetched {
    pub body: Bytes,
    /// For so long its server says that it is good (`max-age`, RFC 9111 section 5.2.2.1).
    pub max_age: Option<Duration>,
    /// What time it is there.
    pub date: Option<SystemTime>,
}

/// Fetches what is at `target`, of `most` bytes at most, within `deadline`.
///
/// # Errors
/// Why there is none, for the operator.
pub async fn fetch(
    target: &Target,
    tls: Option<&Arc<ClientConfig>>,
    most: usize,
    deadline: Duration,
) -> Result<Fetched, String> {
    match timeout(deadline, follow(target.clone(), tls, most)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("no answer within {} s", deadline.as_secs())),
    }
}

async fn follow(
    mut target: Target,
    tls: Option<&Arc<ClientConfig>>,
    most: usize,
) -> Result<Fetched, String> {
    for _ in 0..=MOST_REDIRECTS {
        let answer = once(&target, tls, most).await;
        let answer = answer.map_err(|error| chain(&*error))?;
        let location = answer.headers().get(LOCATION);
        match (answer.status(), location.and_then(|to| to.to_str().ok())) {
            (StatusCode::OK, _) => {
                let control = answer.headers().get(CACHE_CONTROL);
                let date = answer.headers().get(DATE);
                return Ok(Fetched {
                    date: date.and_then(|date| time_of(date.to_str().ok()?)),
                    max_age: control.and_then(|control| max_age(control.to_str().ok()?)),
                    body: answer.into_body(),
                });
            }
            (status, Some(to)) if status.is_redirection() => target = target.redirected(to)?,
            (status, _) => return Err(format!("the answer is {status}")),
        }
    }
    Err(format!("more than {MOST_REDIRECTS} redirects"))
}

async fn once(
    target: &Target,
    tls: Option<&Arc<ClientConfig>>,
    most: usize,
) -> Result<Response<Bytes>, BoxedError> {
    let mut sender = connect(target, (target.host.as_str(), target.port), tls).await?;
    let request = Request::get(&target.path)
        .header(HOST, &target.authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("ostler/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, most).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// An HTTP date (RFC 9110 section 5.6.7).
fn time_of(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc2822).ok().map(Into::into)
}

fn max_age(control: &str) -> Option<Duration> {
    let mut directives = control.split(',').map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let wanted = name.eq_ignore_ascii_case("max-age");
        wanted.then(|| value.trim_matches('"').parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_document_is_good() {
        for (text, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"7\", must-revalidate", Some(7)),
            ("no-store", None),
            ("max-age=-1", None),
            ("s-maxage=5", None),
        ] {
            assert_eq!(max_age(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
