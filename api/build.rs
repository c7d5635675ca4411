//! Reads the tables of `table/*.api` and writes the Rust that the crate includes: types, operations, the driver trait.
//!
//! A fault in a table ends the build with `file:line: what is wrong`.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

mod build {
    pub mod check;
    pub mod docs;
    pub mod driver;
    pub mod expr;
    pub mod none;
    pub mod ops;
    pub mod parse;
    pub mod samples;
    pub mod scan;
    pub mod table;
    pub mod types;
}

use build::table::{Fault, Program};

/// The tables in the order in which they are read: a table may use the types of those before it.
const TABLES: [&str; 4] = ["table/remote.api", "table/qemu.api", "table/lxc.api", "table/bulkhead.api"];

fn main() -> ExitCode {
    for input in TABLES.iter().chain(&["build.rs", "build"]) {
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
    let out_dir = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR is not set: {error}"))?;
    let programs = read_tables().map_err(|fault| fault.to_string())?;
    write_all(Path::new(&out_dir), &programs).map_err(|error| format!("cannot write to {out_dir}: {error}"))
}

fn read_tables() -> Result<Vec<Program>, Fault> {
    let mut programs = Vec::new();
    for file in TABLES {
        let text = fs::read_to_string(file).map_err(|error| Fault::new(file, 0, format!("cannot read: {error}")))?;
        let program = build::parse::parse(file, &text, &programs)?;
        build::check::check(&program)?;
        programs.push(program);
    }
    build::check::check_together(&programs)?;
    Ok(programs)
}

fn write_all(out: &Path, programs: &[Program]) -> io::Result<()> {
    for program in programs {
        fs::write(out.join(format!("{}.rs", program.name)), build::types::program(program))?;
        fs::write(out.join(format!("{}_samples.rs", program.name)), build::samples::program(program))?;
    }
    fs::write(out.join("ops.rs"), build::ops::all(programs))?;
    fs::write(out.join("none.rs"), build::none::all(programs))?;
    fs::write(out.join("driver.rs"), build::driver::all(programs))?;
    fs::write(out.join("samples.rs"), build::samples::all(programs))
}
