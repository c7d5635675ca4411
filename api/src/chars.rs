//! Texts in fields that libvirt declares as arrays of char (`model` of node_get_info, security labels).

/// The text up to the first NUL. Bytes that are no UTF-8 are replaced.
pub fn to_text(chars: &[i8]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|char| char.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text with a NUL at its end, for a field of variable length.
pub fn terminated(text: &str) -> Vec<i8> {
    text.bytes().chain([0]).map(u8::cast_signed).collect()
}

/// The text in a field of exactly `length`: cut so that a NUL follows it, filled up with NULs.
pub fn filled(text: &str, length: usize) -> Vec<i8> {
    let mut end = text.len().min(length.saturating_sub(1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut chars: Vec<i8> = text.bytes().take(end).map(u8::cast_signed).collect();
    chars.resize(length, 0);
    chars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_field() {
        assert_eq!(to_text(&filled("x86_64", 32)), "x86_64");
        assert_eq!(filled("x86_64", 32).len(), 32);
        assert_eq!(to_text(&terminated("système")), "système");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        // Seven bytes leave room for "aaaaa" and one half of the é.
        assert_eq!(filled("aaaaaéé", 7), [97, 97, 97, 97, 97, 0, 0]);
        assert_eq!(filled("", 0), Vec::<i8>::new());
    }
}
