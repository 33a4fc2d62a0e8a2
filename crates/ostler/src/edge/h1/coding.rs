//! Which content coding a client would rather have (RFC 9110 section 12.5.3): the one negotiation, for files that
//! lie beside others, for those that we make and for what apps answer.
//!
//! Pure: it must not know where coded bytes come from.

use super::weight::weighted;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `.zst`
    Zstd,
    /// `.br`
    Brotli,
    /// `.gz`
    Gzip,
}

impl Coding {
    /// Every coding, best first, where somebody has paid for the coding already: Brotli may be a few percent smaller
    /// than Zstandard, but takes a client three times as long to read.
    pub const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    /// The same where each answer pays for itself. Brotli comes last: as fast as gzip it is no smaller
    /// (`edge/compress/engine.rs` has the figures).
    pub const QUICK: [Coding; 3] = [Coding::Zstd, Coding::Gzip, Coding::Brotli];

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

/// The coding to send of those that can be had, best first, or `None` for the bytes as they are. A client that accepts
/// nothing that is there gets them as they are, too: an answer it may not like is of more use than 406.
pub fn choose(
    accept_encoding: Option<&[u8]>,
    among: impl IntoIterator<Item = Coding>,
) -> Option<Coding> {
    let mut among = among.into_iter().peekable();
    among.peek()?;
    let wishes = Wishes::parse(accept_encoding?);
    // Not named, identity is acceptable but last: a client that names codings wants one of them.
    let identity = wishes.identity.unwrap_or(0);
    let mut best = None;
    let mut best_q = 0;
    for coding in among {
        let q = wishes.codings[coding.index()].or(wishes.any).unwrap_or(0);
        if q > best_q && q >= identity {
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_client_gets_the_coding_it_likes_best() {
        use Coding::{Brotli, Gzip, Zstd};
        let all = &Coding::ALL[..];
        for (accept, among, expected) in [
            (None, all, None),
            (Some(""), all, None),
            (Some("gzip"), all, Some(Gzip)),
            (Some("x-gzip"), all, Some(Gzip)),
            (Some("GZIP"), all, Some(Gzip)),
            (Some("gzip, deflate, br, zstd"), all, Some(Zstd)),
            (Some("gzip, deflate, br"), all, Some(Brotli)),
            (Some("gzip, deflate, br"), &Coding::QUICK, Some(Gzip)),
            (Some("br"), &Coding::QUICK, Some(Brotli)),
            (Some("gzip, deflate, br, zstd"), &[Gzip], Some(Gzip)),
            (Some("gzip, deflate, br"), &[], None),
            (Some("gzip;q=1.0, br;q=0.5"), all, Some(Gzip)),
            (Some("gzip;q=0.5, zstd;q=0.5"), all, Some(Zstd)),
            (Some("gzip;q=0"), all, None),
            (Some("*"), all, Some(Zstd)),
            (Some("*;q=0"), all, None),
            (Some("zstd;q=0, *"), all, Some(Brotli)),
            (Some("identity;q=0, gzip;q=0.1"), all, Some(Gzip)),
            (Some("identity;q=0"), &[Gzip], None),
            (Some("identity, gzip;q=0.5"), all, None),
            (Some("identity;q=0.5, gzip;q=0.5"), all, Some(Gzip)),
            (Some("gzip;q=0.5, identity;q=0.2"), all, Some(Gzip)),
            (Some("br ; q=0.9 , gzip ; Q=1"), all, Some(Gzip)),
            (Some("gzip;q=nonsense"), all, None),
            (Some("gzip;q=1.001"), all, None),
            (Some("gzip;q=0.0001"), all, None),
            (Some("deflate"), all, None),
        ] {
            let got = choose(accept.map(str::as_bytes), among.iter().copied());
            assert_eq!(got, expected, "{accept:?} {among:?}");
        }
    }

    proptest! {
        /// What is chosen was wished for by its name or by `*`, and can be had.
        #[test]
        fn nobody_gets_what_was_not_asked_for(
            members in proptest::collection::vec("(gzip|br|zstd|identity|[*]|x)( ?; ?q=(0|1|0[.][0-9]{1,3}|[a-z]))?", 0..1000),
            there in proptest::sample::subsequence(Coding::ALL.to_vec(), 0..=3),
        ) {
            let accept = members.join(",");
            if let Some(coding) = choose(Some(accept.as_bytes()), there.iter().copied()) {
                prop_assert!(there.contains(&coding));
                prop_assert!(accept.contains(coding.token()) || accept.contains('*'));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = choose(Some(&bytes), Coding::ALL);
        }
    }
}
