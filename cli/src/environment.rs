use std::env;
use std::ffi::OsString;

use anyhow::anyhow;
use callboard_center::{Config, Setting};

/// What a variable holds; an empty one counts as unset.
pub(crate) fn value(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The same where it has to be a text.
///
/// # Errors
/// It is not UTF-8.
pub(crate) fn text(name: &str) -> anyhow::Result<Option<String>> {
    let text = value(name).map(OsString::into_string).transpose();
    text.map_err(|value| anyhow!("{name}: \"{}\" is not UTF-8 text", value.display()))
}

/// Warns of each variable that looks like a setting and is none.
pub(crate) fn warn_of_unknown() {
    let set = env::vars_os().filter(|(_, value)| !value.is_empty());
    for (name, nearest) in unknown(set.map(|(name, _)| name.to_string_lossy().into_owned())) {
        tracing::warn!("{name} is no setting and does nothing; the nearest known one is {nearest}");
    }
}

/// The names that nobody reads, in order, each with the known one that takes the fewest changes to get to.
fn unknown(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<_> =
        PROGRAM.map(str::to_owned).into_iter().chain(Config::settings().map(Setting::variable)).collect();
    let mut strangers: Vec<_> = names.filter(|name| name.starts_with(PREFIX) && !known.contains(name)).collect();
    strangers.sort_unstable();
    let nearest = |name: &str| known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name)).cloned();
    strangers.into_iter().filter_map(|name| nearest(&name).map(|nearest| (name, nearest))).collect()
}

const PREFIX: &str = "CALLBOARD_";

pub(crate) const CENTER: &str = "CALLBOARD_CENTER";
pub(crate) const CONFIG: &str = "CALLBOARD_CONFIG";
pub(crate) const KEYS_STORE: &str = "CALLBOARD_KEYS_STORE";
pub(crate) const LOG: &str = "CALLBOARD_LOG";

/// What the program reads beside the settings of a center.
const PROGRAM: [&str; 4] = [CENTER, CONFIG, KEYS_STORE, LOG];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_with_the_nearest_known_name() {
        let set = ["CALLBOARD_LOOPZ", "CALLBOARD_LOOPS", "CALLBOARD_LOG", "HOME", "CALLBOARD_CONFI", "CALLBOARDS"];
        let told = unknown(set.into_iter().map(str::to_owned));
        let told: Vec<_> = told.iter().map(|(name, nearest)| (name.as_str(), nearest.as_str())).collect();
        assert_eq!(told, [("CALLBOARD_CONFI", CONFIG), ("CALLBOARD_LOOPZ", "CALLBOARD_LOOPS")]);
    }
}
