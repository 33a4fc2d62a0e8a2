//! Header rules: lines that every response of a site has, fields that none has, and the same for requests on their way
//! to the app. The names were checked with the configuration: none of them is about framing or the connection.

use std::sync::Arc;

use crate::config::serve::Headers;
use crate::edge::h1::left_out::Names;

/// The rules of one site.
#[derive(Default)]
pub struct Fields {
    /// With their CRLF.
    pub lines: Vec<u8>,
    /// Fields of the app, of files and of our own answers that are left out; `None` when there are none.
    pub drops: Option<Arc<Names>>,
    /// Fields of clients that do not reach the app.
    pub request_drops: Names,
    request_set: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fields {
    /// `others` and `request_others` are fields that the edge writes itself for this site.
    pub fn new(headers: &Headers, others: &[&str], request_others: &[&str]) -> Self {
        let mut lines = Vec::new();
        for (name, value) in headers.set.iter().chain(&headers.add) {
            lines.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let set = headers.set.iter().map(|(name, _)| name.as_str());
        let removed = headers.remove.iter().map(String::as_str);
        let drops = Names::new(set.chain(removed).chain(others.iter().copied()));
        let request_set = headers.request_set.iter();
        let lower = |text: &String| text.to_ascii_lowercase().into_bytes();
        let set = headers.request_set.iter().map(|(name, _)| name.as_str());
        let removed = headers.request_remove.iter().map(String::as_str);
        Self {
            lines,
            drops: (!drops.is_empty()).then(|| Arc::new(drops)),
            request_drops: Names::new(set.chain(removed).chain(request_others.iter().copied())),
            request_set: request_set
                .map(|(name, value)| (lower(name), value.clone().into_bytes()))
                .collect(),
        }
    }

    /// The app gets these from somebody else: neither a client nor a rule says them.
    pub fn yield_to<'n>(&mut self, names: impl Iterator<Item = &'n str> + Clone) {
        let theirs = Names::new(names.clone());
        self.request_set.retain(|(name, _)| !theirs.has(name));
        self.request_drops = self.request_drops.and(names);
    }

    /// Writes the fields that the app gets from us.
    pub fn tell_app(&self, mut write: impl FnMut(&[u8], &[u8])) {
        for (name, value) in &self.request_set {
            write(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_takes_the_place_of_what_was_said() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = Headers {
            set: vec![pair("X-A", "1")],
            add: vec![pair("X-B", "2")],
            remove: vec!["Server".to_owned()],
            ..Headers::default()
        };
        let fields = Fields::new(&headers, &["vary"], &["traceparent"]);
        assert!(fields.request_drops.has(b"traceparent"));
        assert_eq!(fields.lines, b"X-A: 1\r\nX-B: 2\r\n");
        let drops = fields.drops.expect("some");
        let mut kept = Vec::new();
        drops.sift(
            b"x-a: 9\r\nX-B: 8\r\nSERVER: x\r\nVary: y\r\nX-Ab: 7\r\n",
            &mut kept,
        );
        assert_eq!(kept, b"X-B: 8\r\nX-Ab: 7\r\n");
        assert!(Fields::new(&Headers::default(), &[], &[]).drops.is_none());
    }
}
