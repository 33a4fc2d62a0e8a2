//! Which of a file's precompressed neighbours a client would rather have (RFC 9110 section 12.5.3).
//!
//! Pure: it must not know where the neighbours lie or whether they are fresh.

use crate::edge::h1::weight::weighted;

/// A content coding that may lie beside a file, in the order ostler prefers them at equal wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `.br`
    Brotli,
    /// `.zst`
    Zstd,
    /// `.gz`
    Gzip,
}

impl Coding {
    /// Every coding, best first.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// What a neighbour's name has more than the file's.
    pub fn suffix(self) -> &'static [u8] {
        match self {
            Coding::Brotli => b".br",
            Coding::Zstd => b".zst",
            Coding::Gzip => b".gz",
        }
    }

    /// The token in `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// Its place in [`Coding::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    fn from_token(token: &[u8]) -> Option<Coding> {
        if token.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Coding::Gzip);
        }
        Coding::ALL
            .into_iter()
            .find(|c| token.eq_ignore_ascii_case(c.token().as_bytes()))
    }
}

/// The coding to send, or `None` for the file as it is.
///
/// `available` follows [`Coding::ALL`]. A client that accepts nothing that is there gets the file as it is:
/// an answer it may not like is of more use than 406.
pub fn choose(accept_encoding: Option<&[u8]>, available: [bool; 3]) -> Option<Coding> {
    if available == [false; 3] {
        return None;
    }
    let wishes = Wishes::parse(accept_encoding?);
    // Not named, identity is acceptable but last: a client that names codings wants one of them.
    let identity = wishes.identity.unwrap_or(0);
    let mut best = None;
    let mut best_q = 0;
    for coding in Coding::ALL {
        let q = wishes.codings[coding.index()].or(wishes.any).unwrap_or(0);
        if available[coding.index()] && q > best_q && q >= identity {
            best = Some(coding);
            best_q = q;
        }
    }
    best
}

/// Wishes in thousandths; `None` where the client said nothing.
#[derive(Default)]
struct Wishes {
    codings: [Option<u16>; 3],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Wishes {
    fn parse(value: &[u8]) -> Wishes {
        let mut wishes = Wishes::default();
        for element in value.split(|&b| b == b',') {
            let (token, q) = weighted(element);
            if token == b"*" {
                wishes.any = Some(q);
            } else if token.eq_ignore_ascii_case(b"identity") {
                wishes.identity = Some(q);
            } else if let Some(coding) = Coding::from_token(token) {
                wishes.codings[coding.index()] = Some(q);
            }
        }
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_gets_the_coding_it_likes_best() {
        use Coding::*;
        let all = [true; 3];
        let gzip_only = [false, false, true];
        for (accept, available, expected) in [
            (None, all, None),
            (Some(""), all, None),
            (Some("gzip"), all, Some(Gzip)),
            (Some("x-gzip"), all, Some(Gzip)),
            (Some("GZIP"), all, Some(Gzip)),
            (Some("gzip, deflate, br, zstd"), all, Some(Brotli)),
            (Some("gzip, deflate, br, zstd"), gzip_only, Some(Gzip)),
            (Some("gzip, deflate, br"), [false; 3], None),
            (Some("gzip;q=1.0, br;q=0.5"), all, Some(Gzip)),
            (Some("gzip;q=0.5, zstd;q=0.5"), all, Some(Zstd)),
            (Some("gzip;q=0"), all, None),
            (Some("*"), all, Some(Brotli)),
            (Some("*;q=0"), all, None),
            (Some("br;q=0, *"), all, Some(Zstd)),
            (Some("identity;q=0, gzip;q=0.1"), all, Some(Gzip)),
            (Some("identity;q=0"), gzip_only, None),
            (Some("identity, gzip;q=0.5"), all, None),
            (Some("identity;q=0.5, gzip;q=0.5"), all, Some(Gzip)),
            (Some("gzip;q=0.5, identity;q=0.2"), all, Some(Gzip)),
            (Some("br ; q=0.9 , gzip ; Q=1"), all, Some(Gzip)),
            (Some("gzip;q=nonsense"), all, None),
            (Some("gzip;q=1.001"), all, None),
            (Some("gzip;q=0.0001"), all, None),
            (Some("deflate"), all, None),
        ] {
            let got = choose(accept.map(str::as_bytes), available);
            assert_eq!(got, expected, "{accept:?} {available:?}");
        }
    }
}
