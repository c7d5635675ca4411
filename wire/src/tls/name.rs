//! The name in a certificate as a text.
//!
//! X.509 writes a name as a sequence of sets of attributes, each an object identifier and a string. libvirt's lists of
//! allowed clients hold names in the certificate's own order, with RFC 4514's escapes.

use std::fmt::Write;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;

/// Attributes with a short name: the encoded identifier and the name.
const SHORT_NAMES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];

/// The text of a name (X.501, DER) whose outer tag and length have been taken off; `None` if it is none.
#[must_use]
pub fn text(mut name: &[u8]) -> Option<String> {
    let mut out = String::new();
    while !name.is_empty() {
        let mut set = take(&mut name, SET)?;
        let mut separator = if out.is_empty() { "" } else { "," };
        while !set.is_empty() {
            let mut attribute = take(&mut set, SEQUENCE)?;
            let kind = take(&mut attribute, OBJECT_IDENTIFIER)?;
            let (tag, value) = take_any(&mut attribute)?;
            out.push_str(separator);
            append_kind(&mut out, kind)?;
            out.push('=');
            append_value(&mut out, tag, value);
            separator = "+";
        }
    }
    Some(out)
}

fn take<'a>(input: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (tag, value) = take_any(input)?;
    (tag == wanted).then_some(value)
}

/// The next value of DER: a tag, a length in its shortest form, and so many bytes.
fn take_any<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut rest) = input.split_first_chunk::<2>()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81 | 0x82 => {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        }
        // Longer than any certificate that rustls takes.
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((tag, value))
}

fn append_kind(out: &mut String, kind: &[u8]) -> Option<()> {
    if let Some((_, name)) = SHORT_NAMES.iter().find(|(known, _)| *known == kind) {
        out.push_str(name);
        return Some(());
    }
    // The first number holds two; each goes on while the highest bit is set.
    let mut number = 0u64;
    let mut begun = false;
    for byte in kind {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if begun {
            write!(out, ".{number}").ok()?;
        } else {
            let first = (number / 40).min(2);
            write!(out, "{first}.{}", number - first * 40).ok()?;
            begun = true;
        }
        number = 0;
    }
    begun.then_some(())
}

fn append_value(out: &mut String, tag: u8, value: &[u8]) {
    let text = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(value).ok().map(str::to_owned),
        TELETEX_STRING => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        BMP_STRING => {
            let units: Vec<u16> =
                value.chunks(2).map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte))).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    };
    let Some(text) = text else {
        out.push('#');
        for byte in value {
            // Writing to a string does not fail.
            let _ = write!(out, "{byte:02x}");
        }
        return;
    };
    let last = text.chars().count().saturating_sub(1);
    for (index, char) in text.chars().enumerate() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => out.extend(['\\', char]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            '\0' => out.push_str("\\00"),
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        let der = |tag: u8, value: &[u8]| [&[tag, u8::try_from(value.len()).unwrap()][..], value].concat();
        der(SET, &der(SEQUENCE, &[der(OBJECT_IDENTIFIER, kind), der(tag, value)].concat()))
    }

    #[test]
    fn a_name_keeps_the_order_of_its_certificate() {
        let name = [
            attribute(&[0x55, 4, 6], PRINTABLE_STRING, b"GB"),
            attribute(&[0x55, 4, 10], UTF8_STRING, b"Acme, Inc. "),
            attribute(&[0x55, 4, 3], UTF8_STRING, b"#client"),
        ]
        .concat();
        assert_eq!(text(&name).unwrap(), "C=GB,O=Acme\\, Inc.\\ ,CN=\\#client");
    }

    #[test]
    fn what_has_no_name_is_shown_by_its_numbers() {
        // 1.2.840.113549.1.9.1, and a value that is no string.
        let email = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        let name = [attribute(&email, IA5_STRING, b"a@b"), attribute(&[0x55, 4, 3], 2, &[1, 0xff])].concat();
        assert_eq!(text(&name).unwrap(), "1.2.840.113549.1.9.1=a@b,CN=#01ff");
    }

    #[test]
    fn a_nul_in_a_name_is_visible() {
        let name = attribute(&[0x55, 4, 3], UTF8_STRING, b"root\0.example");
        assert_eq!(text(&name).unwrap(), "CN=root\\00.example");
    }

    #[test]
    fn no_cut_name_is_read() {
        let name =
            [attribute(&[0x55, 4, 6], PRINTABLE_STRING, b"GB"), attribute(&[0x55, 4, 3], BMP_STRING, b"\0a")].concat();
        assert_eq!(text(&name).unwrap(), "C=GB,CN=a");
        let whole = name.len() / 2;
        for length in (1..name.len()).filter(|length| *length != whole + 1) {
            // The end of the first attribute is the end of a shorter name.
            let cut = text(&name[..length]);
            assert!(cut.is_none() || cut.as_deref() == Some("C=GB"), "{length}: {cut:?}");
        }
        assert!(text(&[SET, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(text(&attribute(&[0x80], UTF8_STRING, b"x")).is_none());
    }
}
