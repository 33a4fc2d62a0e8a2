//! The text of one file → a tree of values that know their places, with `${NAME}` replaced. Knows no key.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Number, Value as Json};
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, short};
use super::source::At;

/// Most places of one file that are no TOML and are told: behind a few, the others only follow from them.
const MOST_BROKEN: usize = 10;

/// Keys and values.
#[derive(Clone, Debug, Default)]
pub struct Table(pub BTreeMap<String, Entry>);

/// A key and what stands behind it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key itself.
    pub key: At,
    pub node: Node,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Bool(bool),
    Number(Number),
    /// `text` is what it means, `written` what stood there before variables were replaced.
    Text {
        text: String,
        written: String,
    },
    List(Vec<Node>),
    Table(Table),
    /// A date, a time, "inf", "nan" or a number beyond 64 bits: no key takes one.
    Odd,
    /// Text that could not be completed; that has been said.
    Unknown,
}

/// Who is asked for the values of variables.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the text of file number `file`. Without `variables` none may be used.
///
/// # Errors
/// `None` when it is no TOML. What is wrong is put into `problems`.
pub fn read(
    file: usize,
    text: &str,
    variables: Option<Variables<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let good = errors.is_empty();
    problems.extend(errors.into_iter().take(MOST_BROKEN).map(|error| {
        let span = error.span().unwrap_or(0..0);
        let at = At {
            file,
            from: span.start,
            to: span.end,
        };
        match error.message() {
            "duplicate key" => Problem::new(at, "this key is set twice", "keep one of the two"),
            message => Problem::new(at, format!("this is no TOML: {message}"), HINT),
        }
    }));
    // What broken TOML says is guesswork.
    good.then(|| {
        Reader {
            file,
            text,
            variables,
            problems,
        }
        .table(table.get_ref())
    })
}

const HINT: &str = "write key = value, text in quotes, sections as [server]";

struct Reader<'a> {
    file: usize,
    text: &'a str,
    variables: Option<Variables<'a>>,
    problems: &'a mut Vec<Problem>,
}

impl Table {
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(name)
    }

    /// The section of this name; `None` where there is none or something else.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.get(name).and_then(|entry| entry.node.table())
    }
}

impl Node {
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// A list's items; a value that is no list is its own one.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The value alone; null for what no key takes.
    pub fn json(&self) -> Json {
        self.json_of(&Node::text)
    }

    /// The same as it is written: what variables say may be secret.
    pub fn written_json(&self) -> Json {
        self.json_of(&Node::written)
    }

    fn json_of(&self, text_of: &impl Fn(&Node) -> Option<&str>) -> Json {
        match &self.value {
            Value::Bool(yes) => Json::Bool(*yes),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text { .. } => Json::from(text_of(self)),
            Value::List(items) => items.iter().map(|item| item.json_of(text_of)).collect(),
            Value::Table(table) => table
                .0
                .iter()
                .map(|(name, entry)| (name.clone(), entry.node.json_of(text_of)))
                .collect(),
            Value::Odd | Value::Unknown => Json::Null,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text before variables were replaced.
    pub fn written(&self) -> Option<&str> {
        match &self.value {
            Value::Text { written, .. } => Some(written),
            _ => None,
        }
    }
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>) -> At {
        At {
            file: self.file,
            from: span.start,
            to: span.end,
        }
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let node = self.node(value.span(), value.get_ref());
            let key_at = self.at(key.span());
            entries.insert(key.get_ref().to_string(), Entry { key: key_at, node });
        }
        Table(entries)
    }

    fn node(&mut self, span: Range<usize>, value: &DeValue<'_>) -> Node {
        let at = self.at(span);
        let value = match value {
            DeValue::Boolean(yes) => Value::Bool(*yes),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Value::Number(number.into()),
                    Err(_) => Value::Odd,
                }
            }
            DeValue::Float(digits) => {
                let number = digits.as_str().parse().ok().and_then(Number::from_f64);
                number.map_or(Value::Odd, Value::Number)
            }
            DeValue::String(written) => match self.expanded(at, written) {
                Some(text) => Value::Text {
                    text,
                    written: written.to_string(),
                },
                None => Value::Unknown,
            },
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| self.node(item.span(), item.get_ref()))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Datetime(_) => Value::Odd,
        };
        Node { at, value }
    }

    /// `text` with `${NAME}` and `$$` replaced; `None` when that cannot be done, which it says.
    fn expanded(&mut self, at: At, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut complete = true;
        let mut rest = text;
        // Each variable is looked for behind the one before it.
        let mut from = at.from;
        while let Some(dollar) = rest.find('$') {
            out.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(behind) = rest.strip_prefix('$') {
                out.push('$');
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix('{') {
                let name = behind.split('}').next().unwrap_or(behind);
                let closed = name.len() < behind.len();
                let written = if closed {
                    format!("${{{name}}}")
                } else {
                    "${".to_owned()
                };
                let place = self.find(at, from, &written);
                from = place.to.max(from);
                match self.variable(name, closed) {
                    Ok(value) => out.push_str(&value),
                    Err((what, hint)) => {
                        self.problems.push(Problem::new(place, what, hint));
                        complete = false;
                    }
                }
                rest = behind.get(name.len() + 1..).unwrap_or("");
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        complete.then_some(out)
    }

    fn variable(&self, name: &str, closed: bool) -> Result<String, (String, String)> {
        let dollar = "write $$ for a dollar";
        if !closed {
            return Err((
                "`${` is not closed".to_owned(),
                format!("write ${{NAME}}; {dollar}"),
            ));
        }
        if !is_variable(name) {
            let what = format!("`${{{}}}` names no variable", short(name));
            return Err((
                what,
                format!("write ${{NAME}} with letters, digits and _; {dollar}"),
            ));
        }
        let Some(variables) = self.variables else {
            let what = "a repository's file cannot use variables of the operator's environment";
            let hint = format!(
                "set the key in the machine's file, or let the app read the variable; {dollar}"
            );
            return Err((what.to_owned(), hint));
        };
        variables(name).ok_or_else(|| {
            let what = format!("the variable `{name}` is not set");
            (
                what,
                format!("set {name} in the environment that ostler starts in; {dollar}"),
            )
        })
    }

    /// The next place of `written` within a value; all of it when escapes hide it.
    fn find(&self, at: At, from: usize, written: &str) -> At {
        let found = self
            .text
            .get(from..at.to)
            .and_then(|text| text.find(written));
        found.map_or(at, |found| At {
            from: from + found,
            to: from + found + written.len(),
            ..at
        })
    }
}

/// A name as POSIX has it for environment variables.
fn is_variable(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}
