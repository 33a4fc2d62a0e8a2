//! One value of one kind: from what was typed (text) or what Python evaluated (JSON) to its one checked form.
//! Does not know where a value came from or what it is for.

use serde_json::{Map, Number, Value};

use super::error::Complaint;
use super::table::{Kind, Preset};
use super::{bind, network, units, worker_class};

/// The checked form of `raw`: numbers are numbers, lists are lists of text, words are known words.
///
/// # Errors
/// What the kind needs instead.
pub fn check(kind: Kind, raw: &Value) -> Result<Value, Complaint> {
    match kind {
        Kind::Switch | Kind::Unswitch => switch(raw),
        Kind::Whole(least, most) => whole(raw, least, most),
        Kind::Seconds => seconds(raw),
        Kind::Size => size(raw),
        Kind::Octal => octal(raw),
        Kind::Text | Kind::Path | Kind::Hook => text(raw).map(Value::from),
        Kind::List => list(raw).map(Value::from),
        Kind::Commas => commas(raw).map(Value::from),
        Kind::Pairs => pairs(raw),
        Kind::Choice(words, yes, no) => choice(raw, words, yes, no),
        Kind::Binds => binds(raw),
        Kind::Networks => networks(raw),
        Kind::Account => account(raw),
        Kind::WorkerClass => {
            let name = text(raw)?;
            worker_class::map(&name).map(|_| Value::from(name))
        }
        Kind::Opaque => Ok(raw.clone()),
    }
}

/// The preset as a value in checked form.
pub fn preset(preset: Preset) -> Value {
    match preset {
        Preset::Unset => Value::Null,
        Preset::Yes => Value::Bool(true),
        Preset::No => Value::Bool(false),
        Preset::Int(number) => Value::from(number),
        Preset::Word(word) => Value::from(word),
        Preset::Words(words) => Value::from(words),
        Preset::Texts(pairs) => pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Value::from(*v)))
            .collect(),
    }
}

fn switch(raw: &Value) -> Result<Value, Complaint> {
    let said = match raw {
        Value::Bool(yes) => Some(*yes),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    };
    said.map(Value::Bool)
        .ok_or_else(|| Complaint::new("needs True or False", "write True or False"))
}

fn whole(raw: &Value, least: i64, most: i64) -> Result<Value, Complaint> {
    let number = match raw {
        Value::Number(number) => number.as_i64(),
        // Booleans are numbers in Python.
        Value::Bool(yes) => Some(i64::from(*yes)),
        Value::String(text) => units::whole(text),
        _ => None,
    };
    match number {
        Some(number) if (least..=most).contains(&number) => Ok(Value::from(number)),
        _ => Err(Complaint::new(
            format!("needs a whole number from {least} to {most}"),
            format!("give a number from {least} to {most}"),
        )),
    }
}

fn seconds(raw: &Value) -> Result<Value, Complaint> {
    let seconds = match raw {
        Value::Number(number) => number
            .as_f64()
            .filter(|s| (0.0..=units::LONGEST_SECONDS).contains(s)),
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::String(text) => units::seconds(text),
        _ => None,
    };
    let Some(seconds) = seconds else {
        return Err(Complaint::new(
            "needs a number of seconds, 0 or more",
            "write 30, 30s, 1m or 500ms",
        ));
    };
    // gunicorn's hooks expect whole numbers to be ints.
    if seconds.fract() == 0.0 {
        return Ok(Value::from(seconds as i64));
    }
    Ok(Number::from_f64(seconds).map_or(Value::Null, Value::Number))
}

fn size(raw: &Value) -> Result<Value, Complaint> {
    let bytes = match raw {
        Value::Number(number) => number.as_u64().filter(|bytes| *bytes <= i64::MAX as u64),
        Value::String(text) => units::size(text),
        _ => None,
    };
    bytes.map(Value::from).ok_or_else(|| {
        Complaint::new(
            "needs a number of bytes, 0 or more",
            "write 1048576, 100M, 16MiB or 1G",
        )
    })
}

fn octal(raw: &Value) -> Result<Value, Complaint> {
    let bits = match raw {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => {
            let digits = text.trim().trim_start_matches("0o");
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            i64::from_str_radix(digits, 8).ok().filter(|_| plain)
        }
        _ => None,
    };
    let bits = bits.filter(|bits| (0..=0o7777).contains(bits));
    bits.map(Value::from).ok_or_else(|| {
        Complaint::new(
            "needs octal permission bits",
            "write 022 on the command line, 0o022 in Python",
        )
    })
}

fn text(raw: &Value) -> Result<String, Complaint> {
    let Value::String(text) = raw else {
        return Err(Complaint::new(
            "needs text",
            "write it in quotes, as a string",
        ));
    };
    if text.contains('\0') {
        return Err(Complaint::new("has a NUL character in it", "take it out"));
    }
    Ok(text.trim().to_owned())
}

fn list(raw: &Value) -> Result<Vec<String>, Complaint> {
    match raw {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::String(one) if one.is_empty() => Ok(Vec::new()),
        Value::String(_) => Ok(vec![text(raw)?]),
        _ => Err(Complaint::new(
            "needs a list of texts",
            "write it as [\"one\", \"two\"]",
        )),
    }
}

fn commas(raw: &Value) -> Result<Vec<String>, Complaint> {
    let items = match raw {
        Value::Array(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        Value::String(_) => text(raw)?
            .split(',')
            .map(|item| item.trim().to_owned())
            .collect(),
        _ => {
            return Err(Complaint::new(
                "needs text with commas between its parts",
                "write it as \"one,two\"",
            ));
        }
    };
    Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
}

fn pairs(raw: &Value) -> Result<Value, Complaint> {
    let complain = || {
        Complaint::new(
            "needs pairs",
            "write A=B for each (--static /static=./static), in Python {\"A\": \"B\"}",
        )
    };
    let mut map = Map::new();
    let mut add = |key: &str, value: String| match map.insert(key.trim().to_owned(), value.into()) {
        None => Ok(()),
        Some(_) => Err(Complaint::new(
            format!("names \"{key}\" twice"),
            "keep one of the two",
        )),
    };
    if let Value::Object(entries) = raw {
        for (key, value) in entries {
            add(key, text(value).map_err(|_| complain())?)?;
        }
    } else {
        for item in list(raw).map_err(|_| complain())? {
            let (key, value) = item.split_once('=').ok_or_else(complain)?;
            add(key, value.trim().to_owned())?;
        }
    }
    Ok(Value::Object(map))
}

fn choice(
    raw: &Value,
    words: &[&str],
    yes: Option<&str>,
    no: Option<&str>,
) -> Result<Value, Complaint> {
    let word = match raw {
        Value::Bool(true) => yes.map(str::to_owned),
        Value::Bool(false) => no.map(str::to_owned),
        Value::String(text) => Some(text.trim().to_ascii_lowercase()),
        _ => None,
    };
    // gunicorn reads "true" and "false" like the Python values, and uvicorn has a level below debug.
    let word = match (word.as_deref(), yes, no) {
        (Some("true"), Some(yes), _) => Some(yes.to_owned()),
        (Some("false"), _, Some(no)) => Some(no.to_owned()),
        (Some("trace"), ..) if words.contains(&"debug") => Some("debug".to_owned()),
        (Some("warn"), ..) if words.contains(&"warning") => Some("warning".to_owned()),
        _ => word,
    };
    match word {
        Some(word) if words.contains(&word.as_str()) => Ok(Value::from(word)),
        _ => {
            let all = words.join(", ");
            Err(Complaint::new(
                format!("needs one of {all}"),
                format!("write one of {all}"),
            ))
        }
    }
}

fn binds(raw: &Value) -> Result<Value, Complaint> {
    let addresses = match raw {
        Value::String(_) => vec![text(raw)?],
        _ => list(raw)?,
    };
    if addresses.is_empty() {
        return Err(Complaint::new(
            "names no address",
            "write bind = \"127.0.0.1:8000\"",
        ));
    }
    let mut seen = Vec::with_capacity(addresses.len());
    for address in &addresses {
        let address = bind::parse(address)?;
        if seen.contains(&address) {
            return Err(Complaint::new(
                "names the same address twice",
                "keep one of the two",
            ));
        }
        // Port 0 is another free port each time.
        if !matches!(address, bind::Address::Tcp { port: 0, .. }) {
            seen.push(address);
        }
    }
    Ok(Value::from(addresses))
}

fn networks(raw: &Value) -> Result<Value, Complaint> {
    let items = commas(raw)?;
    for item in items.iter().filter(|item| *item != "*") {
        network::parse(item)?;
    }
    Ok(Value::from(items))
}

fn account(raw: &Value) -> Result<Value, Complaint> {
    let complain = || {
        Complaint::new(
            "needs the name or the number of an account",
            "write a name as in /etc/passwd, or a number",
        )
    };
    match raw {
        Value::Number(number) => {
            let id = number.as_u64().filter(|id| *id < u64::from(u32::MAX));
            id.map(Value::from).ok_or_else(complain)
        }
        Value::String(name) => match name.trim() {
            // u32::MAX is "leave it as it is" to setresuid(2).
            digits if digits.parse::<u32>().is_ok_and(|id| id < u32::MAX) => {
                Ok(Value::from(units::whole(digits)))
            }
            name if name.is_empty() || name.starts_with(['-', '+']) => Err(complain()),
            name if name.contains([':', '/', '\0']) || name.contains(char::is_whitespace) => {
                Err(complain())
            }
            name => Ok(Value::from(name)),
        },
        _ => Err(complain()),
    }
}
