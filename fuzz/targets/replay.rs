//! Runs a target over its corpus, in the ordinary tests.

use std::{fs, path::Path};

/// Gives each file of `corpus/TARGET` to the target. A file that makes it panic is named.
pub fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|entry| entry.expect("an entry of the corpus").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        // Shown only if the test fails: the last one is the one.
        println!("{}", file.display());
        run(&bytes);
    }
}
