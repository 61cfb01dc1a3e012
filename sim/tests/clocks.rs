//! A wall clock that jumps can harm nobody who reads none.

use std::fs;
use std::path::Path;

/// What simulated houses run.
const CRATES: [&str; 7] = ["common", "net", "client", "server", "registry", "pubsub", "center"];

/// How old an answer in a file is when a program begins, no other clock can tell. Houses have no files.
const OUTLIVES: &str = "/server/src/answer_file";

#[test]
fn no_library_reads_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut read = 0;
    for each in CRATES {
        let mut folders = vec![root.join(each).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let source = fs::read_to_string(&path).unwrap();
                    let reads_it = source.contains("SystemTime") || source.contains("UNIX_EPOCH");
                    assert_eq!(reads_it, path.to_string_lossy().contains(OUTLIVES), "{}", path.display());
                    read += 1;
                }
            }
        }
    }
    assert!(read > 100, "{read} files were looked at");
}
