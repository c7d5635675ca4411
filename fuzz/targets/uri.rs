//! What a person or a tool writes.

use libclient::Uri;

/// A connection URI.
pub fn uri(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(uri) = Uri::parse(&text) else { return };
    let written = uri.to_string();
    let again = Uri::parse(&written).unwrap_or_else(|error| panic!("{text:?} is written as {written:?}: {error}"));
    assert_eq!(again, uri, "{text:?} is written as {written:?}");
}
