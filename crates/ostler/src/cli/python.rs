//! Finds the Python that runs the app. Starts nothing: whether it is one that ostler supports, it says itself.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

/// Where an interpreter may be named.
#[derive(Debug)]
pub struct Places<'a> {
    /// `--python`: an interpreter, a venv, or a name to look for in `path`.
    pub asked: Option<&'a str>,
    /// `$VIRTUAL_ENV`.
    pub virtual_env: Option<PathBuf>,
    /// `$PATH`.
    pub path: Option<OsString>,
    /// Where ostler was started; absolute.
    pub directory: &'a Path,
    /// Where the app will run; absolute.
    pub chdir: &'a Path,
}

/// The interpreter, as an absolute path whose links are not followed: a venv is known by its own path.
/// Tried in this order: `--python`, `$VIRTUAL_ENV`, `./.venv`, `python3` in `$PATH`.
///
/// # Errors
/// None is there; or the one that was named is not, and then no other is taken in its place.
pub fn find(places: &Places<'_>) -> Result<PathBuf, ConfigError> {
    if let Some(asked) = places.asked {
        return find_asked(places, asked);
    }
    if let Some(venv) = places
        .virtual_env
        .as_ref()
        .filter(|venv| !venv.as_os_str().is_empty())
    {
        let python = interpreter_of(&places.directory.join(venv));
        return if is_program(&python) {
            Ok(python)
        } else {
            Err(no_program("$VIRTUAL_ENV", &python))
        };
    }
    let local = interpreter_of(&places.chdir.join(".venv"));
    if is_program(&local) {
        return Ok(local);
    }
    in_path(places, "python3").ok_or_else(|| ConfigError {
        what: "no Python was found".to_owned(),
        seen: format!(
            "no $VIRTUAL_ENV, no {}, no python3 in $PATH",
            local.display()
        ),
        hint: "apt-get install python3, or name an interpreter or a venv with --python PATH"
            .to_owned(),
    })
}

fn find_asked(places: &Places<'_>, asked: &str) -> Result<PathBuf, ConfigError> {
    if !asked.contains('/') && !places.directory.join(asked).is_dir() {
        return in_path(places, asked).ok_or_else(|| ConfigError {
            what: "python was not found".to_owned(),
            seen: format!("no program `{asked}` in $PATH, from `--python {asked}`"),
            hint: "give the path of an interpreter or of a venv".to_owned(),
        });
    }
    let path = places.directory.join(asked);
    let path = if path.is_dir() {
        interpreter_of(&path)
    } else {
        path
    };
    if is_program(&path) {
        Ok(path)
    } else {
        Err(no_program("--python", &path))
    }
}

fn interpreter_of(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

fn in_path(places: &Places<'_>, name: &str) -> Option<PathBuf> {
    let path = places.path.as_ref()?;
    let mut found =
        std::env::split_paths(path).map(|entry| places.directory.join(entry).join(name));
    found.find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn no_program(source: &str, path: &Path) -> ConfigError {
    let what = if path.exists() {
        "is no program"
    } else {
        "is not there"
    };
    ConfigError {
        what: format!("{source} names a Python that {what}"),
        seen: path.display().to_string(),
        hint: match source {
            "--python" => "give the path of an interpreter or of a venv",
            _ => "activate the venv anew, unset VIRTUAL_ENV, or pass --python PATH",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with `programs` (relative paths) in it, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn with(name: &str, programs: &[&str]) -> Folder {
            let root =
                std::env::temp_dir().join(format!("ostler-python-{name}-{}", std::process::id()));
            for program in programs {
                let path = root.join(program);
                std::fs::create_dir_all(path.parent().expect("parent")).expect("create");
                std::fs::write(&path, "").expect("write");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                    .expect("chmod");
            }
            Folder(root)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn the_first_place_wins() {
        let folder = Folder::with(
            "order",
            &[
                "bin/python3",
                "bin/python3.12",
                "app/.venv/bin/python",
                "venv/bin/python",
            ],
        );
        let root = &folder.0;
        let places = |asked, venv: Option<&str>, chdir| Places {
            asked,
            virtual_env: venv.map(PathBuf::from),
            path: Some(root.join("bin").into_os_string()),
            directory: root,
            chdir,
        };
        let app = root.join("app");
        let check = |places: Places<'_>, expected: &str| {
            assert_eq!(
                find(&places).expect("found"),
                root.join(expected),
                "{places:?}"
            );
        };
        check(places(None, None, root), "bin/python3");
        check(places(None, None, &app), "app/.venv/bin/python");
        check(places(None, Some("venv"), &app), "venv/bin/python");
        check(places(None, Some(""), &app), "app/.venv/bin/python");
        check(
            places(Some("python3.12"), Some("venv"), &app),
            "bin/python3.12",
        );
        check(
            places(Some("./venv/bin/python"), None, &app),
            "venv/bin/python",
        );
        check(places(Some("venv"), None, &app), "venv/bin/python");
    }

    #[test]
    fn a_missing_one_is_named() {
        let folder = Folder::with("missing", &["bin/other"]);
        let root = &folder.0;
        std::fs::write(root.join("text"), "").expect("write");
        let check = |asked, venv: Option<&str>, expected: &str| {
            let places = Places {
                asked,
                virtual_env: venv.map(PathBuf::from),
                path: Some(root.join("bin").into_os_string()),
                directory: root,
                chdir: root,
            };
            let error = find(&places).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(None, None, "no Python was found: no $VIRTUAL_ENV");
        check(
            None,
            Some("gone"),
            "$VIRTUAL_ENV names a Python that is not there",
        );
        check(
            Some("./gone"),
            None,
            "--python names a Python that is not there",
        );
        check(
            Some("./text"),
            None,
            "--python names a Python that is no program",
        );
        check(Some("python9"), None, "no program `python9` in $PATH");
    }
}
