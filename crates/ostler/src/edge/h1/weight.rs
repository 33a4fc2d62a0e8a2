//! Weights of what a client likes (RFC 9110 section 12.4.2), as in `Accept` and `Accept-Encoding`.

/// Splits `token;q=0.5` into the token and its weight in thousandths. A weight that cannot be read counts
/// as 0: what the client did not clearly ask for, it does not get.
pub fn weighted(element: &[u8]) -> (&[u8], u16) {
    let mut parts = element.split(|&b| b == b';');
    let token = parts.next().unwrap_or_default().trim_ascii();
    for parameter in parts {
        let parameter = parameter.trim_ascii();
        if let [b'q' | b'Q', b'=', weight @ ..] = parameter {
            return (token, thousandths(weight).unwrap_or(0));
        }
    }
    (token, 1000)
}

/// `qvalue` of RFC 9110 section 12.4.2: at most three decimals, at most 1.
fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, fraction) = match weight {
        [whole @ (b'0' | b'1')] => (whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut value = u16::from(whole - b'0');
    for place in 0..3 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u16::from(digit - b'0');
    }
    (value <= 1000).then_some(value)
}
