//! What is wrong with `ostler.toml`, and how a person is told: what, where, and what to do. Finds nothing itself.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::{At, Sources};
use crate::config::error::Complaint;
use crate::config::written;

/// Most problems that are told: who has more has one cause for many of them.
const MOST_TOLD: usize = 50;

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
        let mut left: Vec<(usize, &(At, String))> = problem.places.iter().enumerate().collect();
        // One snippet for each file.
        while let Some((_, (first, _))) = left.first() {
            let file = first.file;
            let (here, others) = left.into_iter().partition(|(_, (at, _))| at.file == file);
            group = group.element(self.snippet(here));
            left = others;
        }
        let hint = Level::HELP.with_name("hint").message(plain(&problem.hint));
        renderer.render(&[group.element(hint)])
    }

    /// The lines of one file that have these places.
    fn snippet(
        &self,
        places: Vec<(usize, &(At, String))>,
    ) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let whole = places
            .iter()
            .map(|(_, (at, _))| *at)
            .reduce(|one, other| At {
                from: one.from.min(other.from),
                to: one.to.max(other.to),
                ..one
            });
        let whole = whole.expect("a snippet has a place");
        let source = self.sources.of(whole);
        let text = source.text.as_str();
        let start = text[..boundary(text, whole.from)]
            .rfind('\n')
            .map_or(0, |at| at + 1);
        let last = boundary(text, whole.to.max(start));
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at);
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
        Snippet::source(&text[start..end])
            .path(plain(&source.name))
            .line_start(self.sources.line(At {
                from: start,
                ..whole
            }))
            .annotations(annotations)
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

/// Text of a file in a message: a repository's file must not write on the operator's terminal.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

/// A name from a file, short enough for a sentence.
pub fn short(name: &str) -> String {
    written::cut(name)
}
