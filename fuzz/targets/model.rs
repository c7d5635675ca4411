//! Documents that a client sends.

use model::{Domain, DumpOptions};

/// A domain's document: what can be read can be written, and that reads back as the same.
pub fn xml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = model::fast_identity(text);
    let _ = model::Capabilities::parse(text);
    let Ok(parsed) = Domain::parse(text) else { return };
    let written = parsed.value.to_xml(&DumpOptions::stored());
    match Domain::parse(&written) {
        Ok(again) => assert_eq!(again.value, parsed.value),
        Err(error) => panic!("{error}\n{written}"),
    }
    // And as a client sees it.
    drop(parsed.value.to_xml(&DumpOptions::default()));
    drop(parsed.value.sources());
}
