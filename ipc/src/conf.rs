//! The daemons' configuration files: lines of `key = value`, where `#` begins a comment.
//!
//! What the keys mean is each daemon's own; that a key is unknown or a value is none is an error with its line.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// No configuration file is larger.
pub const MAX_BYTES: u64 = 64 << 10;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large to be one.
    #[error("{} has {bytes} bytes; no configuration file is longer than {MAX_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The values do not go together.
    #[error("{}: {problem}", path.display())]
    Together {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        problem: String,
    },
    /// A line is not understood.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// The text of a file; none when there is no file.
///
/// # Errors
/// When it cannot be read or is too long.
pub fn read(path: &Path) -> Result<Option<String>, ConfError> {
    let failed = |source| ConfError::Read { path: path.to_path_buf(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(data) if data.len() > MAX_BYTES => {
            return Err(ConfError::TooLong { path: path.to_path_buf(), bytes: data.len() });
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Gives each key and its value to `set`, which says what is wrong with it. `path` is for messages.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str, path: &Path, mut set: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), ConfError> {
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let result = match line.split_once('=') {
            Some((key, value)) => set(key.trim(), value.trim()),
            None => Err("expected key = value".into()),
        };
        result.map_err(|problem| ConfError::Line { path: path.to_path_buf(), line: index + 1, problem })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_found_among_comments() {
        let mut found = Vec::new();
        let text = "# all\n\na = 1 # one\nb=x = y\n";
        parse(text, Path::new("/c"), |key, value| {
            found.push(format!("{key}:{value}"));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, ["a:1", "b:x = y"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let error = parse("a = 1\nb\n", Path::new("/c"), |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "/c, line 2: expected key = value");
        let error = parse("a = 1", Path::new("/c"), |key, _| Err(format!("unknown key '{key}'"))).unwrap_err();
        assert_eq!(error.to_string(), "/c, line 1: unknown key 'a'");
    }

    #[test]
    fn a_file_may_be_missing_but_not_huge() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.conf");
        assert!(read(&path).unwrap().is_none());
        fs::write(&path, "a = 1").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("a = 1"));
        fs::write(&path, vec![b'#'; 70_000]).unwrap();
        assert!(matches!(read(&path), Err(ConfError::TooLong { bytes: 70_000, .. })));
    }
}
