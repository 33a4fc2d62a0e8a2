//! What is wrong with `ostler.toml`, and how a person is told: what, where, and what to do. Finds nothing itself.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::source::{At, Sources};
use crate::config::error::Complaint;
use crate::config::written;

/// Most problems that are told: who has more has one cause for many of them.
pub const MOST_TOLD: usize = 50;

/// Most bytes of a file that one problem shows: a screen. A line of a hostile file may be all of it.
const LONGEST_SNIPPET: usize = 4096;

/// A place of a problem and its number there: 0 is the one at fault.
type Place<'a> = (usize, &'a (At, String));

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// "`workers` needs a whole number from 1 to 1000".
    pub what: String,
    /// The place at fault first, then others that belong to it, each with a few words about it or none.
    pub places: Vec<(At, String)>,
    /// What to do about it.
    pub hint: String,
}

/// All of it, with the texts of the files.
#[derive(Debug)]
pub struct Problems {
    pub sources: Sources,
    pub list: Vec<Problem>,
}

impl Problem {
    pub fn new(at: At, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem {
            what: what.into(),
            places: vec![(at, String::new())],
            hint: hint.into(),
        }
    }

    /// One that is in no file.
    pub fn nowhere(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem {
            what: what.into(),
            places: Vec::new(),
            hint: hint.into(),
        }
    }

    /// A complaint about the value of `name`.
    pub fn of(name: &str, at: At, complaint: Complaint) -> Self {
        Problem::new(at, format!("`{name}` {}", complaint.what), complaint.hint)
    }

    /// The same with words at its place.
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        if let Some((_, words)) = self.places.last_mut() {
            *words = label.into();
        }
        self
    }

    /// The same with another place that belongs to it.
    pub fn beside(mut self, at: At, label: impl Into<String>) -> Self {
        self.places.push((at, label.into()));
        self
    }
}

impl Problems {
    /// What a person reads, in the order of the files; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let mut list: Vec<&Problem> = self.list.iter().collect();
        list.sort_by_key(|problem| problem.places.first().map(|(at, _)| *at));
        let renderer = match colour {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut out = String::new();
        for problem in list.iter().take(MOST_TOLD) {
            out.push_str(&self.rendered(problem, &renderer));
            out.push_str("\n\n");
        }
        if let Some(more) = list.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
            out.push_str(&format!("and {more} more\n\n"));
        }
        out.pop();
        out
    }

    fn rendered(&self, problem: &Problem, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(plain(&problem.what)));
        let mut left: Vec<Place<'_>> = problem.places.iter().enumerate().collect();
        // One snippet for all that lies near each other.
        while let Some((_, (first, _))) = left.first().copied() {
            let (here, others) = left.into_iter().partition(|(_, (at, _))| {
                let far = at.from.abs_diff(first.from).max(at.to.abs_diff(first.to));
                at.file == first.file && far < LONGEST_SNIPPET
            });
            group = self.with_snippet(group, here);
            left = others;
        }
        if problem.places.is_empty() {
            return format!(
                "{}\n  = hint: {}",
                renderer.render(&[group]),
                plain(&problem.hint)
            );
        }
        let hint = Level::HELP.with_name("hint").message(plain(&problem.hint));
        renderer.render(&[group.element(hint)])
    }

    /// Adds the lines that have these places, all of one file; only the file's name and the line where they are long.
    fn with_snippet<'a>(&'a self, group: Group<'a>, places: Vec<Place<'a>>) -> Group<'a> {
        let all = places.iter().map(|(_, (at, _))| *at);
        let whole = all.reduce(|one, other| At {
            from: one.from.min(other.from),
            to: one.to.max(other.to),
            ..one
        });
        let Some(whole) = whole else {
            return group;
        };
        let source = self.sources.of(whole);
        let text = source.text.as_str();
        let first = boundary(text, whole.from);
        let start = text[..first].rfind('\n').map_or(0, |at| at + 1);
        let last = boundary(text, whole.to.max(first));
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at);
        let line = self.sources.line(At {
            from: start,
            ..whole
        });
        if end - start > LONGEST_SNIPPET {
            let column = 1 + text[start..first].chars().count();
            let origin = Origin::path(plain(&source.name)).line(line);
            return group.element(origin.char_column(column));
        }
        let annotations = places.into_iter().map(|(number, (at, words))| {
            let kind = match number {
                0 => AnnotationKind::Primary,
                _ => AnnotationKind::Context,
            };
            let from = boundary(text, at.from).clamp(start, end);
            let to = boundary(text, at.to).clamp(from, end);
            let label = (!words.is_empty()).then(|| plain(words));
            kind.span(from - start..to - start).label(label)
        });
        let snippet = Snippet::source(lines(&text[start..end]));
        group.element(
            snippet
                .path(plain(&source.name))
                .line_start(line)
                .annotations(annotations),
        )
    }
}

/// The place at or before `at` where a character begins.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

/// Lines of a file as the renderer takes them. It replaces the control characters of ASCII but not those behind them,
/// of which U+009B begins a terminal's sequences; what stands in their place takes two bytes too, so all places stay.
fn lines(text: &str) -> String {
    let second = |c: char| matches!(c, '\u{80}'..='\u{9F}');
    text.replace(second, "¿")
}

/// Text of a file in a message: a repository's file must not write on the operator's terminal, nor turn its lines round.
pub fn plain(text: &str) -> String {
    text.replace(is_unseen, "\u{FFFD}")
}

/// A character that moves what stands around it instead of being seen.
pub fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A name from a file, short enough for a sentence.
pub fn short(name: &str) -> String {
    written::cut(name)
}
