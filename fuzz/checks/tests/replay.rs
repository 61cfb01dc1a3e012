//! Every seed of every fuzz target, finds among them, on stable.

use std::fs;
use std::path::Path;

use callboard_checks::CHECKS;

#[test]
fn every_seed_passes_its_check() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for (target, check) in CHECKS {
        let folder = fs::read_dir(seeds.join(target)).unwrap_or_else(|e| panic!("no seeds for {target}: {e}"));
        let mut files: Vec<_> = folder.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no seeds for {target}");
        for file in files {
            println!("{}", file.display()); // so that a failure says which
            check(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_folder_of_seeds_and_every_target_has_its_check() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (folder, suffix) in [("seeds", ""), ("fuzz_targets", ".rs")] {
        let mut names: Vec<_> = fs::read_dir(fuzz.join(folder))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap().trim_end_matches(suffix).to_owned())
            .collect();
        let mut checks = CHECKS.map(|(name, _)| name);
        names.sort();
        checks.sort_unstable();
        assert_eq!(names, checks, "{folder}");
    }
}
