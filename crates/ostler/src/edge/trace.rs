//! W3C Trace Context (the recommendation of 2021-11-23): the trace that a request belongs to, as the app is told it.
//!
//! A trace that somebody has begun goes on, whoever it is, with a parent id of ours: browsers and other services begin
//! traces, the app's sampler decides what of them is kept, and an app without ostler would hear the same. What no trace
//! can be made of is left out, its `tracestate` too, and a new one begins. It is marked as sampled: the usual sampler of
//! an app (OpenTelemetry's `parentbased_always_on`) would record nothing otherwise. Knows no connection.

use std::sync::Mutex;

use rustix::rand::GetRandomFlags;

use super::lock;

/// `00-TRACE-PARENT-FLAGS`, in lower-case hexadecimal digits.
const LENGTH: usize = 55;

/// Where the trace id stands.
const TRACE: std::ops::Range<usize> = 3..35;

/// Where the parent id stands.
const PARENT: std::ops::Range<usize> = 36..52;

/// Where the flags stand.
const FLAGS: std::ops::Range<usize> = 53..55;

/// Bytes of a `tracestate` that is passed on: what everyone has to pass on at least (section 3.3.1.5).
const STATE: usize = 512;

/// Members of a `tracestate` (section 3.3.1.1).
const MEMBERS: usize = 32;

/// The fields of this standard: what clients say is not passed on, but what is made of it.
pub const FIELDS: [&str; 2] = ["traceparent", "tracestate"];

/// One request in one trace: a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace([u8; LENGTH]);

impl Trace {
    /// What is told to the app of what the client has said in its `traceparent` fields.
    pub fn of<'v>(mut said: impl Iterator<Item = &'v [u8]>, ids: &Ids) -> Self {
        let begun = said.next().and_then(Self::read);
        match begun.filter(|_| said.next().is_none()) {
            Some(begun) => begun.with_parent(ids.next()),
            None => {
                let mut trace = Self(*b"00-00000000000000000000000000000000-0000000000000000-01");
                hexadecimal(ids.next(), &mut trace.0[3..19]);
                hexadecimal(ids.next(), &mut trace.0[19..35]);
                trace.with_parent(ids.next())
            }
        }
    }

    /// Whether it is the one that the client has `said`, so that its `tracestate` goes along.
    pub fn goes_on<'v>(&self, mut said: impl Iterator<Item = &'v [u8]>) -> bool {
        let id = said.next().and_then(|value| value.trim_ascii().get(TRACE));
        id == Some(self.id())
    }

    /// Reads one of any version: those to come begin as version 00 does (section 4.3).
    fn read(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let known: [u8; LENGTH] = *value.first_chunk()?;
        let hex = |range: std::ops::Range<usize>| {
            let digits = &known[range];
            digits
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let dashes = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
        let zero = |range: std::ops::Range<usize>| known[range].iter().all(|byte| *byte == b'0');
        let good = hex(0..2)
            && hex(TRACE)
            && hex(PARENT)
            && hex(FLAGS)
            && dashes
            && !zero(TRACE)
            && !zero(PARENT)
            && match &known[..2] {
                b"ff" => false,
                b"00" => value.len() == LENGTH,
                _ => value.get(LENGTH).is_none_or(|next| *next == b'-'),
            };
        let mut trace = Self(known);
        // We speak version 00, of whose flags one has a meaning.
        let sampled = matches!(
            known[54],
            b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f'
        );
        trace.0[..2].copy_from_slice(b"00");
        trace.0[FLAGS].copy_from_slice(if sampled { b"01" } else { b"00" });
        good.then_some(trace)
    }

    fn with_parent(mut self, parent: u64) -> Self {
        hexadecimal(parent, &mut self.0[PARENT]);
        self
    }

    /// The field's value.
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// The id of the trace.
    pub fn id(&self) -> &[u8] {
        &self.0[TRACE]
    }
}

/// The `tracestate` that goes on; `None` when there is none, or none that can be.
pub fn state<'v>(said: impl Iterator<Item = &'v [u8]>) -> Option<Vec<u8>> {
    let (mut state, mut count) = (Vec::new(), 0);
    for member in said.flat_map(|value| value.split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        count += 1;
        let longer = state.len() + member.len() + usize::from(count > 1);
        if !is_member(member) || count > MEMBERS || longer > STATE {
            return None;
        }
        if count > 1 {
            state.push(b',');
        }
        state.extend_from_slice(member);
    }
    (count > 0).then_some(state)
}

/// `key=value` (section 3.3.1.3).
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', member) else {
        return false;
    };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let in_key =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let in_value = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    (1..=256).contains(&key.len())
        && (1..=256).contains(&value.len())
        && key.iter().all(in_key)
        && value.iter().all(in_value)
}

fn hexadecimal(number: u64, out: &mut [u8]) {
    for (place, digit) in out.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
    }
}

/// Random ids of one edge thread (xoroshiro128++): they have to differ, nobody has to be unable to guess them.
/// Its lock is never waited for: a thread has its own.
#[derive(Debug)]
pub struct Ids(Mutex<[u64; 2]>);

impl Ids {
    pub fn seeded() -> Self {
        let mut seed = [0; 16];
        // The kernel answers from its pool at once; should it ever not, the constants keep it going.
        let _ = rustix::rand::getrandom(&mut seed, GetRandomFlags::empty());
        let half = |at: usize| {
            seed[at..at + 8]
                .iter()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Self(Mutex::new([half(0) ^ 0x9E37_79B9_7F4A_7C15, half(8) | 1]))
    }

    /// Never 0, which is no id.
    fn next(&self) -> u64 {
        let mut state = lock(&self.0);
        let [one, two] = *state;
        let id = one.wrapping_add(two).rotate_left(17).wrapping_add(one);
        let mixed = two ^ one;
        *state = [
            one.rotate_left(49) ^ mixed ^ (mixed << 21),
            mixed.rotate_left(28),
        ];
        id.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const SAID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(said: &[&str]) -> (String, bool) {
        let values = || said.iter().map(|value| value.as_bytes());
        let trace = Trace::of(values(), &Ids::seeded());
        (
            String::from_utf8(trace.text().to_vec()).expect("ASCII"),
            trace.goes_on(values()),
        )
    }

    #[test]
    fn a_trace_goes_on_with_another_parent() {
        for (said, flags) in [
            (SAID, "01"),
            (&SAID.replace("-01", "-00"), "00"),
            (&SAID.replace("-01", "-ff"), "01"),
            (&SAID.replacen("00", "cc", 1), "01"),
            (&format!("{}-more", SAID.replacen("00", "01", 1)), "01"),
        ] {
            let (told, goes_on) = of(&[said]);
            assert!(goes_on, "{said}");
            assert_eq!(
                (&told[..36], &told[52..]),
                (&SAID[..36], &format!("-{flags}")[..])
            );
            assert_ne!(&told[PARENT], &SAID[PARENT]);
        }
    }

    #[test]
    fn what_is_no_trace_begins_one() {
        let mut seen = HashSet::new();
        for said in [
            &[][..],
            &[""],
            &[SAID, SAID],
            &[&SAID.to_uppercase()],
            &[&SAID[..54]],
            &[&format!("{SAID}-more")],
            &[&format!("{}x", SAID.replacen("00", "01", 1))],
            &[&SAID.replacen("00", "ff", 1)],
            &[&SAID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32))],
            &[&SAID.replace("00f067aa0ba902b7", &"0".repeat(16))],
            &[&SAID.replace("-01", "-0x")],
            &[&SAID.replace('-', "_")],
        ] {
            let (told, goes_on) = of(said);
            assert!(
                !goes_on && told.starts_with("00-") && told.ends_with("-01"),
                "{said:?}"
            );
            assert!(Trace::read(told.as_bytes()).is_some(), "{told}");
            assert!(seen.insert(told[TRACE].to_owned()));
        }
    }

    #[test]
    fn a_state_goes_on_whole_or_not_at_all() {
        let check = |said: &[&str], expected: Option<&str>| {
            let told = state(said.iter().map(|value| value.as_bytes()));
            assert_eq!(told.as_deref(), expected.map(str::as_bytes), "{said:?}");
        };
        check(&[], None);
        check(&["", " , "], None);
        check(&["a=1 , b@c=2", "", "d=x y"], Some("a=1,b@c=2,d=x y"));
        for bad in ["a", "=1", "a=", "A=1", "a=1,b=\u{7f}", "a=1=2"] {
            check(&[bad], None);
        }
        check(&[&"a=1,".repeat(32)], Some(&"a=1,".repeat(32)[..127]));
        check(&[&"a=1,".repeat(33)], None);
        let long = format!("a={0},b={0}", "x".repeat(256));
        check(&[&long], None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let trace = Trace::of([&bytes[..]].into_iter(), &Ids::seeded());
            prop_assert!(Trace::read(trace.text()).is_some());
            let _ = state([&bytes[..]].into_iter());
        }
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::seeded();
        let seen: HashSet<u64> = (0..100_000).map(|_| ids.next()).collect();
        assert_eq!(seen.len(), 100_000);
    }
}
