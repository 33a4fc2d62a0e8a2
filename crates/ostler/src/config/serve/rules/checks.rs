//! One value each: may it stand there? Knows no keys.

use crate::config::error::Complaint;

/// Fields that no rule touches: framing and the connection are the edge's (RFC 9110 section 7.6.1), and with the others
/// an answer would say what it is not.
const OURS: [&str; 16] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "content-length",
    "content-range",
    "content-encoding",
    "date",
    "host",
    "http2-settings",
    "x-accel-redirect",
    "x-sendfile",
    "x-accel-buffering",
];

/// Fields that say to an app who is asking, which is not for a rule to say.
const IDENTITY: [&str; 5] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-scheme",
    "expect",
];

/// Longest value of a field, in bytes: what clients take of one line.
const LONGEST: usize = 4096;

/// A name of a field that may be removed from responses.
///
/// # Errors
/// What is wrong with it.
pub fn field_name(name: &str) -> Result<(), Complaint> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Complaint::new(
            "is no name of a field",
            "write it as X-Frame-Options",
        ));
    }
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
        return Err(Complaint::new(
            "is ostler's own to write",
            "take it out: it follows from what is sent",
        ));
    }
    Ok(())
}

/// A name of a field that may be set or removed on the way to the app.
///
/// # Errors
/// What is wrong with it.
pub fn request_field(name: &str) -> Result<(), Complaint> {
    field_name(name)?;
    let lower = name.to_ascii_lowercase();
    let prefixes = ["x-forwarded-", "x-ostler-"];
    if IDENTITY.contains(&lower.as_str()) || prefixes.iter().any(|prefix| lower.starts_with(prefix))
    {
        return Err(Complaint::new(
            "says who is asking, which ostler writes itself",
            "take it out",
        ));
    }
    if name.contains('_') {
        return Err(Complaint::new(
            "has an underscore, which to WSGI apps is a dash",
            "write it with -",
        ));
    }
    Ok(())
}

/// A value of a field.
///
/// # Errors
/// What is wrong with it.
pub fn field(value: &str) -> Result<(), Complaint> {
    let printable = value
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if value.len() > LONGEST || !printable || value.trim() != value {
        let hint = "use printable ASCII on one line, without blanks around it, 4096 bytes at most";
        return Err(Complaint::new("is no value of a field", hint));
    }
    Ok(())
}

/// `https://example.com`, or `*`.
///
/// # Errors
/// What is wrong with it.
pub fn origin(text: &str) -> Result<(), Complaint> {
    let rest = text
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    let good = rest.is_some_and(|(_, rest)| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    });
    match good || text == "*" {
        true => Ok(()),
        false => Err(Complaint::new(
            "is no origin",
            "write it as browsers do: https://example.com in lower case, with its port if it is not the usual one, without a path; or *",
        )),
    }
}

/// A method, in upper case.
///
/// # Errors
/// It is none.
pub fn method(text: &str) -> Result<(), Complaint> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    good.then_some(())
        .ok_or_else(|| Complaint::new("is no method", "write it as GET, in upper case"))
}

/// An algorithm of tokens.
///
/// # Errors
/// It is none, or one with a shared secret.
pub fn algorithm(text: &str) -> Result<(), Complaint> {
    const KNOWN: [&str; 9] = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ];
    let good = KNOWN.contains(&text);
    good.then_some(()).ok_or_else(|| {
        Complaint::new(
            "is no algorithm that is taken",
            format!("write some of {}", KNOWN.join(", ")),
        )
    })
}

/// A claim that becomes the end of a field's name.
///
/// # Errors
/// It cannot.
pub fn claim(text: &str) -> Result<(), Complaint> {
    let good = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    good.then_some(()).ok_or_else(|| {
        Complaint::new(
            "has a claim that is no name of a field",
            "use letters, digits, - and _",
        )
    })
}

/// What a page is for: `404`, `50x`, `5xx`.
///
/// # Errors
/// It is none.
pub fn page(text: &str) -> Result<(), Complaint> {
    let good = match text.as_bytes() {
        [b'4' | b'5', b'x', b'x'] => true,
        [b'4' | b'5', b'0'..=b'9', last] => last.is_ascii_digit() || *last == b'x',
        _ => false,
    };
    good.then_some(()).ok_or_else(|| {
        Complaint::new(
            "is no status of an error",
            "write \"404\", or with x for any digit: \"50x\", \"4xx\"",
        )
    })
}

/// A password hash of Argon2, as a PHC string.
///
/// # Errors
/// It is none.
pub fn password(text: &str) -> Result<(), Complaint> {
    let parts: Vec<&str> = text.split('$').collect();
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=,-".contains(&byte);
    let whole = parts.len() == 6
        && parts[1..]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(sign));
    let good =
        whole && parts[0].is_empty() && matches!(parts[1], "argon2id" | "argon2i" | "argon2d");
    good.then_some(()).ok_or_else(|| {
        Complaint::new(
            "has a value that is no password hash",
            "write what `echo -n PASSWORD | argon2 $(openssl rand -hex 8) -id -e` prints, with $$ for each $, or ${NAME} for a variable that has it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stand_in_a_head() {
        for name in ["X-Frame-Options", "Cache-Control", "Server", "x!y"] {
            assert!(field_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "a b",
            "a:",
            "ä",
            "Content-Length",
            "TRANSFER-encoding",
            "Connection",
            "Sec-WebSocket-Accept",
            "a\r\nb",
        ] {
            assert!(field_name(name).is_err(), "{name}");
        }
        for name in [
            "X-Forwarded-For",
            "x-ostler-user",
            "Forwarded",
            "X_Y",
            "Host",
        ] {
            assert!(request_field(name).is_err(), "{name}");
        }
        assert!(request_field("X-Api-Version").is_ok());
        assert!(field("max-age=60, public").is_ok() && field("").is_ok());
        for value in ["a\r\nb", "a\0", "ä", " a", "a\n"] {
            assert!(field(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn origins_methods_and_statuses() {
        for text in [
            "https://a.test",
            "http://localhost:3000",
            "https://[::1]:8443",
            "*",
        ] {
            assert!(origin(text).is_ok(), "{text}");
        }
        for text in [
            "a.test",
            "https://a.test/",
            "https://A.test",
            "ftp://a.test",
            "null",
            "https://",
            "https://*.a.test",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
        assert!(method("PATCH").is_ok() && method("get").is_err() && method("").is_err());
        for text in ["404", "5xx", "50x"] {
            assert!(page(text).is_ok(), "{text}");
        }
        for text in ["200", "3xx", "4x4", "40", "4040", "xxx"] {
            assert!(page(text).is_err(), "{text}");
        }
    }

    #[test]
    fn passwords_are_hashes() {
        let good =
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";
        assert!(password(good).is_ok());
        for text in [
            "",
            "secret",
            "$2y$10$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
        ] {
            assert!(password(text).is_err(), "{text}");
        }
    }
}
