//! Reads the tables of `api/table` and writes a documented, typed method for each call: `handles.rs`.

use std::{env, fs, path::Path, process::ExitCode};

/// The reader of the tables is api's own.
#[allow(dead_code)] // Parts of it serve api's generators only.
mod build {
    #[path = "../../api/build/docs.rs"]
    pub mod docs;
    pub mod handles;
    #[path = "../../api/build/parse.rs"]
    pub mod parse;
    #[path = "../../api/build/scan.rs"]
    pub mod scan;
    #[path = "../../api/build/table.rs"]
    pub mod table;
}

const API: &str = "../api";
/// The tables of libvirt's programs; what Bulkhead has besides is written by hand.
const TABLES: [&str; 3] = ["table/remote.api", "table/qemu.api", "table/lxc.api"];

fn main() -> ExitCode {
    for input in TABLES.iter().chain(&["build"]) {
        println!("cargo::rerun-if-changed={API}/{input}");
    }
    for input in ["build.rs", "build"] {
        println!("cargo::rerun-if-changed={input}");
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            println!("cargo::error={fault}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut programs = Vec::new();
    for file in TABLES {
        let text =
            fs::read_to_string(format!("{API}/{file}")).map_err(|error| format!("cannot read {file}: {error}"))?;
        let program = build::parse::parse(file, &text, &programs).map_err(|fault| fault.to_string())?;
        programs.push(program);
    }
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR is not set: {error}"))?;
    fs::write(Path::new(&out).join("handles.rs"), build::handles::all(&programs))
        .map_err(|error| format!("cannot write to {out}: {error}"))
}
