//! What must hold for any text at all, as a function that the tests and the fuzz target share. It panics when
//! something does not, and tells whether the text was accepted. Reads no file.

use super::problem::{Problem, Problems, is_unseen};
use super::read::Table;
use super::shape::{Draft, shape};
use super::source::{Source, Sources};
use super::{print, read};

/// Problems of a text that are rendered, which takes longer than all the rest.
const FEW: usize = 2;

/// What one text says.
struct Said {
    tree: Table,
    draft: Draft,
    problems: Problems,
}

/// Nothing panics; every problem has a place in the file; what is told holds no control character of the file; what
/// is printed says the same again.
pub fn check_config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Some(said) = said(text) else {
        return false;
    };
    if !said.problems.list.is_empty() {
        return false;
    }
    let printed = print::print(&said.tree, &said.problems.sources);
    assert!(is_plain(&printed), "{printed:?}");
    let again = self::said(&printed).unwrap_or_else(|| panic!("no TOML: {printed}"));
    let told = again.problems.render(false);
    assert!(again.problems.list.is_empty(), "{printed}\n{told}");
    for (name, value) in &said.draft.server {
        assert_eq!(again.draft.server.get(name), Some(value), "{printed}");
    }
    assert_eq!(again.draft.projects.len(), said.draft.projects.len());
    for (one, other) in again.draft.projects.iter().zip(&said.draft.projects) {
        let hosts = |project: &super::shape::DraftProject| {
            let hosts = project.hosts.iter().map(|(host, _)| host.clone());
            hosts.collect::<Vec<_>>()
        };
        assert_eq!((&one.name, hosts(one)), (&other.name, hosts(other)));
    }
    true
}

/// `None` when the text is no TOML.
fn said(text: &str) -> Option<Said> {
    let mut sources = Sources::default();
    let file = sources.add(Source {
        name: "ostler.toml".to_owned(),
        folder: "/srv".into(),
        text: text.to_owned(),
        checkout: None,
    });
    let variable = |name: &str| (name != "UNSET").then(|| name.to_lowercase());
    let mut list = Vec::new();
    let tree = read::read(file, text, Some(&variable), &mut list);
    let draft = tree.as_ref().map(|tree| shape(tree, &sources, &mut list));
    list.iter().for_each(|problem| has_place(problem, text));
    // Each is rendered by itself: the first few show as much as all of them.
    list.truncate(FEW);
    let problems = Problems { sources, list };
    let told = problems.render(false);
    assert!(is_plain(&told), "{told:?}");
    Some(Said {
        tree: tree?,
        draft: draft?,
        problems,
    })
}

fn has_place(problem: &Problem, text: &str) {
    assert!(!problem.places.is_empty(), "{problem:?}");
    for (at, _) in &problem.places {
        assert!(
            at.from <= at.to && at.to <= text.len(),
            "{problem:?} in {text:?}"
        );
    }
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !is_unseen(c))
}
