//! The launcher holds the privilege, so it reads no document: what could parse one is not among its dependencies.

use std::process::Command;

/// Crates that read what a client, a guest or a document wrote.
const PARSERS: [&str; 6] = ["model", "roxmltree", "wire", "libclient", "control", "rustls"];

#[test]
fn nothing_that_parses_a_document_is_linked_into_the_launcher() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", "qemud"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"sandbox"), "the tree is read: {tree}");
    for parser in PARSERS {
        assert!(!names.contains(&parser), "the launcher depends on {parser}");
    }
}
