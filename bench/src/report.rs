//! Writes the last full run into `docs/performance.md`: tables between two markers, so that the prose around them stays,
//! and plots beside it.
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::goals::{Goal, gaps, missed, table};
use crate::plots;
use crate::results::{Document, Session};
use crate::summary;

/// Writes the tables and the plots.
pub fn write(home: &Path, document: &Document, goals: &[Goal]) -> Result<()> {
    let docs = home.parent().context("no directory above")?.join("docs");
    let page = docs.join("performance.md");
    let plots = plots::draw(document)?;
    fs::create_dir_all(docs.join("performance"))?;
    for plot in &plots {
        fs::write(docs.join("performance").join(plot.file), &plot.svg)?;
    }
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let filled = between_markers(&text, "arena", &body(document, goals, &plots))?;
    Ok(fs::write(&page, filled)?)
}

/// Puts `body` between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
pub fn between_markers(text: &str, name: &str, body: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let Some((before, rest)) = text.split_once(&begin) else { bail!("no marker {begin}") };
    let Some((_, after)) = rest.split_once(&end) else { bail!("no marker {end} after {begin}") };
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", body.trim()))
}

fn body(document: &Document, goals: &[Goal], plots: &[plots::Plot]) -> String {
    let mut text = sessions(document);
    let (met, all) = (goals.len() - missed(goals), goals.len());
    let _ = write!(text, "### Goals\n\n{met} of {all} are met.\n\n{}\n", table(goals));
    for gap in gaps(goals) {
        let _ = writeln!(text, "- {gap}");
    }
    text.push('\n');
    for plot in plots {
        let _ = write!(text, "![{}](performance/{})\n\n", plot.title, plot.file);
    }
    text + &summary::markdown(document, 3)
}

fn sessions(document: &Document) -> String {
    let mut text: String = document.used().map(|(_, session)| line(session)).collect();
    if let Some(last) = document.sessions.last() {
        let versions: Vec<_> = last.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let _ = write!(text, "\nVersions: {}.\n\n", versions.join(", "));
    }
    text
}

fn line(session: &Session) -> String {
    let Session { date, command, commit, runs, secs, warm, machine, .. } = session;
    format!(
        "- `{command}` at commit {commit}, {date}: {runs} runs of {secs} s after {warm} s, on {} cores of {}, {} GiB, \
         Linux {}\n",
        machine.cores, machine.cpu, machine.memory_gib, machine.kernel
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prose_around_the_markers_stays() {
        let text = "# Title\n<!-- arena:begin -->\nold\n<!-- arena:end -->\nprose\n";
        let filled = between_markers(text, "arena", "\nnew\n").unwrap();
        assert_eq!(filled, "# Title\n<!-- arena:begin -->\n\nnew\n\n<!-- arena:end -->\nprose\n");
        assert_eq!(between_markers(&filled, "arena", "new").unwrap(), filled);
    }

    #[test]
    fn a_page_without_markers_is_left_alone() {
        for text in ["prose", "<!-- arena:begin -->", "<!-- arena:end --><!-- arena:begin -->"] {
            assert!(between_markers(text, "arena", "new").is_err(), "{text}");
        }
    }
}
