//! Which pages of other origins may use a site (the Fetch standard, "CORS protocol"). The edge alone says so where the
//! site has rules for it: what the app says about it is left out.

use crate::config::serve;
use crate::edge::connection::Connection;
use crate::edge::reason::Reason;
use crate::edge::sending::After;

/// Fields that the edge writes then.
pub const OURS: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
];

/// Longest list of fields that a preflight is told back, in bytes.
const LONGEST: usize = 1024;

/// The rules of one site.
#[derive(Debug)]
pub struct Cors {
    /// `None`: all.
    origins: Option<Vec<String>>,
    /// Lines of every answer to an allowed origin.
    lines: Vec<u8>,
    /// More lines of the answer to a preflight.
    preflight: Vec<u8>,
    /// The preflight is told back the fields it asks for.
    any_field: bool,
}

impl Cors {
    pub fn new(rules: &serve::Cors) -> Self {
        let mut lines = String::new();
        if rules.credentials {
            lines.push_str("Access-Control-Allow-Credentials: true\r\n");
        }
        if !rules.expose.is_empty() {
            lines.push_str(&format!(
                "Access-Control-Expose-Headers: {}\r\n",
                rules.expose.join(", ")
            ));
        }
        let mut preflight = format!(
            "Access-Control-Allow-Methods: {}\r\nAccess-Control-Max-Age: {}\r\n",
            rules.methods.join(", "),
            rules.max_age
        );
        if let Some(headers) = &rules.headers {
            preflight.push_str(&format!(
                "Access-Control-Allow-Headers: {}\r\n",
                headers.join(", ")
            ));
        }
        Self {
            origins: rules.origins.clone(),
            lines: lines.into_bytes(),
            preflight: preflight.into_bytes(),
            any_field: rules.headers.is_none(),
        }
    }

    /// The lines that an answer to this origin has, and whether it is allowed.
    fn lines(&self, origin: Option<&[u8]>) -> (Vec<u8>, bool) {
        let Some(origins) = &self.origins else {
            let allow = &b"Access-Control-Allow-Origin: *\r\n"[..];
            return ([allow, &self.lines].concat(), true);
        };
        // Caches must not give the answer for one origin to another.
        let vary = &b"Vary: Origin\r\n"[..];
        match origin.and_then(|origin| origins.iter().find(|known| known.as_bytes() == origin)) {
            None => (vary.to_vec(), false),
            Some(known) => {
                let allow = format!("Access-Control-Allow-Origin: {known}\r\n");
                ([vary, allow.as_bytes(), &self.lines].concat(), true)
            }
        }
    }

    /// More lines for a preflight that asks for these fields.
    fn preflight_lines(&self, asked: Option<&[u8]>) -> Vec<u8> {
        let mut lines = self.preflight.clone();
        let listed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
        if let Some(asked) = asked
            .filter(|asked| self.any_field && asked.len() <= LONGEST && asked.iter().all(listed))
        {
            lines.extend_from_slice(b"Access-Control-Allow-Headers: ");
            lines.extend_from_slice(asked);
            lines.extend_from_slice(b"\r\nVary: Access-Control-Request-Headers\r\n");
        }
        lines
    }
}

impl Connection {
    /// Says what other origins may do with the answer, and answers a browser that asks for that alone.
    pub async fn preflight(&mut self) -> Result<Option<After>, Reason> {
        let Some(cors) = &self.site.policy.cors else {
            return Ok(None);
        };
        let origin = self.head.field(b"origin");
        let (lines, allowed) = cors.lines(origin);
        let asks = self.head.method() == b"OPTIONS"
            && origin.is_some()
            && self.head.field(b"access-control-request-method").is_some();
        self.row.lines.extend_from_slice(&lines);
        if !asks {
            return Ok(None);
        }
        if !allowed {
            return Err(Reason::CorsOrigin);
        }
        let more = cors.preflight_lines(self.head.field(b"access-control-request-headers"));
        self.row.lines.extend_from_slice(&more);
        self.pass_over_body().await?;
        self.begin_answer(204, &[], false);
        Ok(Some(After::KeepAlive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> serve::Cors {
        serve::Cors {
            origins: Some(vec!["https://a.test".to_owned()]),
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: None,
            expose: vec!["X-Total".to_owned()],
            credentials: true,
            max_age: 60,
        }
    }

    #[test]
    fn only_a_named_origin_is_told_its_name() {
        let cors = Cors::new(&rules());
        let (lines, allowed) = cors.lines(Some(b"https://a.test"));
        let expected = "Vary: Origin\r\nAccess-Control-Allow-Origin: https://a.test\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-Total\r\n";
        assert_eq!((lines.as_slice(), allowed), (expected.as_bytes(), true));
        for other in [
            None,
            Some(&b"https://a.test.evil"[..]),
            Some(b"null"),
            Some(b"http://a.test"),
            Some(b"https://A.test"),
        ] {
            assert_eq!(cors.lines(other), (b"Vary: Origin\r\n".to_vec(), false));
        }
        let any = Cors::new(&serve::Cors {
            origins: None,
            credentials: false,
            expose: Vec::new(),
            ..rules()
        });
        assert_eq!(
            any.lines(Some(b"null")),
            (b"Access-Control-Allow-Origin: *\r\n".to_vec(), true)
        );
    }

    #[test]
    fn a_preflight_is_told_back_fields_and_nothing_else() {
        let cors = Cors::new(&rules());
        let told =
            |asked: &[u8]| String::from_utf8(cors.preflight_lines(Some(asked))).expect("text");
        assert!(
            told(b"content-type, x-api-key").contains("Allow-Headers: content-type, x-api-key\r\n")
        );
        for odd in [&b"x\r\nSet-Cookie: a=b"[..], b"a;b", &[b'a'; LONGEST + 1]] {
            assert!(!told(odd).contains("Allow-Headers"));
        }
        let few = Cors::new(&serve::Cors {
            headers: Some(vec!["X-A".to_owned()]),
            ..rules()
        });
        let lines = String::from_utf8(few.preflight_lines(Some(b"x-evil"))).expect("text");
        assert!(
            lines.contains("Access-Control-Allow-Headers: X-A\r\n") && !lines.contains("x-evil")
        );
    }
}
