//! Names in `gunicorn.conf.py` that are no settings, hooks that are never called, settings without a meaning here, and
//! those that a reload does not take: what to warn about. Decides nothing else.

use serde_json::{Map, Value};

use super::bind::Bind;
use super::error::Warning;
use super::flags;
use super::layers::Merged;
use super::settings::Settings;
use super::table::{Kind, Level, Place};
use super::value;
use super::written::{Origin, Written, in_file};

/// How alike a name and a setting's must be (Jaro–Winkler, 1 is equal) before one is taken for a slip of the other.
const ALIKE: f64 = 0.93;

/// Most names that one warning lists.
const MOST_LISTED: usize = 12;

/// Every name that a config file may set, hooks included: for the process that evaluates the file.
pub fn file_names() -> impl Iterator<Item = &'static str> {
    flags::rows().filter(|row| in_file(row)).map(|row| row.name)
}

/// One warning for the hooks (by name, as the file defines them) that are never called here; `None` for none.
pub fn hook_warnings(hooks: &[String]) -> Option<Warning> {
    let moot = flags::rows().filter(|row| row.kind == Kind::Hook && row.level == Level::Moot);
    let found: Vec<String> = moot
        .filter(|row| hooks.iter().any(|hook| hook == row.name))
        .map(|row| format!("{} ({})", row.name, row.help))
        .collect();
    (!found.is_empty()).then(|| {
        Warning(format!(
            "hooks that are never called here: {}",
            found.join(", ")
        ))
    })
}

/// One warning for all the settings that somebody wrote and that do nothing here.
pub fn moot(merged: &Merged) -> Option<Warning> {
    let found: Vec<String> = flags::rows()
        .filter(|row| row.level == Level::Moot && merged.origins.contains_key(row.name))
        .filter(|row| merged.values.get(row.name) != Some(&value::preset(row.preset)))
        .map(|row| format!("{} ({})", row.name, row.help))
        .collect();
    (!found.is_empty()).then(|| {
        Warning(format!(
            "settings without a meaning here: {}",
            found.join(", ")
        ))
    })
}

/// One warning for what a project's config file sets although it is the machine's, under `ostler serve`.
pub fn machines(settings: &Settings) -> Option<Warning> {
    let found: Vec<&str> = flags::rows()
        .filter(|row| matches!(row.place, Place::Server(_)))
        .filter(|row| settings.origin(row.name) == Origin::File)
        .map(|row| row.name)
        .collect();
    (!found.is_empty()).then(|| {
        Warning(format!(
            "set in its config file, but the machine's under `ostler serve` ([server] in ostler.toml): {}",
            found.join(", ")
        ))
    })
}

/// One warning for what a reload changed and does not take; `started` is what ostler was started with.
pub fn not_reloaded(started: &Settings, reloaded: &Settings) -> Option<Warning> {
    let changed = |name: &str| started.values.get(name) != reloaded.values.get(name);
    let found: Vec<&str> = flags::rows()
        .filter(|row| row.at_start && changed(row.name))
        .map(|row| row.name)
        .collect();
    (!found.is_empty()).then(|| {
        Warning(format!(
            "changed, but taken only when ostler is started anew: {}",
            found.join(", ")
        ))
    })
}

/// The same for the machine of `ostler serve`, by the keys of `[server]`.
pub fn changed_at_start(started: &Settings, reloaded: &Settings) -> Option<Warning> {
    let written = |binds: &[Bind]| -> Vec<String> { binds.iter().map(Bind::to_string).collect() };
    let changed = |name: &str| started.values.get(name) != reloaded.values.get(name);
    let (before, after) = (&started.listening.tls_binds, &reloaded.listening.tls_binds);
    let tls = (written(before) != written(after)).then_some("listen_tls");
    let rows = flags::rows().filter(|row| row.at_start && changed(row.name));
    let rows = rows.filter_map(|row| match row.place {
        Place::Server(key) => Some(key),
        _ => None,
    });
    let found: Vec<String> = tls
        .into_iter()
        .chain(rows)
        .map(|key| format!("`{key}`"))
        .collect();
    let takes = if found.len() == 1 {
        "it takes"
    } else {
        "they take"
    };
    (!found.is_empty()).then(|| {
        Warning(format!(
            "{} of [server] changed; {takes} effect with `ostler upgrade` or a restart",
            found.join(", ")
        ))
    })
}

/// Warnings about names in the file that are no settings: one each for what looks like a slip, one for the rest,
/// which gunicorn ignores in silence (most are the file's own variables).
pub fn names(written: &Written, file: &Map<String, Value>, unknown: &[String]) -> Vec<Warning> {
    let foreign = file
        .keys()
        .filter(|name| !file_names().any(|known| known == name.as_str()));
    let mut rest = Vec::new();
    let mut warnings = Vec::new();
    let mut names: Vec<&str> = foreign.chain(unknown).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    for name in names.into_iter().filter(|name| !name.starts_with('_')) {
        match meant(name) {
            Some(setting) => warnings.push(Warning(format!(
                "{} sets {name}, which is no setting; did you mean {setting}?",
                written.config_name()
            ))),
            None => rest.push(name),
        }
    }
    if !rest.is_empty() {
        let more = if rest.len() > MOST_LISTED {
            ", …"
        } else {
            ""
        };
        rest.truncate(MOST_LISTED);
        warnings.push(Warning(format!(
            "{} sets names that are no settings and do nothing: {}{more}",
            written.config_name(),
            rest.join(", ")
        )));
    }
    warnings
}

/// The setting that a name was probably meant to be.
fn meant(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    // As people say it after the flags of the command line.
    let flagged = flags::rows().filter(|row| in_file(row)).find(|row| {
        let longs = flags::of(row).longs;
        longs
            .iter()
            .any(|long| long.trim_start_matches('-').replace('-', "_") == lower)
    });
    if let Some(row) = flagged {
        return Some(row.name);
    }
    let alike = file_names().map(|known| (strsim::jaro_winkler(&lower, known), known));
    let best = alike.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    // Within one or two letters of it, not only with the same beginning (`workers_per_core` is not `workers`).
    let near = strsim::damerau_levenshtein(&lower, best.1) <= 1 + best.1.len() / 8;
    (best.0 >= ALIKE && near).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_variables() {
        let check =
            |name: &str, expected: Option<&str>| assert_eq!(meant(name), expected, "{name}");
        check("keepallive", Some("keepalive"));
        check("keep_alive", Some("keepalive"));
        check("worker", Some("workers"));
        check("WORKERS", Some("workers"));
        check("preload", Some("preload_app"));
        check("access_logfile", Some("accesslog"));
        check("log_level", Some("loglevel"));
        check("time_out", Some("timeout"));
        check("max_request", Some("max_requests"));
        check("gracefull_timeout", Some("graceful_timeout"));
        for variable in [
            "host",
            "port",
            "cores",
            "workers_per_core",
            "web_concurrency",
            "use_loglevel",
            "max_request_size",
            "fd",
        ] {
            check(variable, None);
        }
    }

    #[test]
    fn unknown_names_are_listed_once() {
        let mut file = Map::new();
        file.insert("cores".to_owned(), 4.into());
        file.insert("workers".to_owned(), 4.into());
        let unknown = ["cores", "_private", "keepallive", "host"].map(str::to_owned);
        let warnings = names(&Written::default(), &file, &unknown);
        let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
        assert_eq!(
            texts,
            [
                "gunicorn.conf.py sets keepallive, which is no setting; did you mean keepalive?",
                "gunicorn.conf.py sets names that are no settings and do nothing: cores, host",
            ]
        );
    }

    #[test]
    fn hooks_without_meaning() {
        assert_eq!(hook_warnings(&["post_fork".to_owned()]), None);
        let warning =
            hook_warnings(&["post_fork".to_owned(), "ssl_context".to_owned()]).expect("warns");
        assert_eq!(
            warning.0,
            "hooks that are never called here: ssl_context (TLS does not run in Python)"
        );
    }
}
