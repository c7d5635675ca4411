//! Enums whose values are words of a document.

/// Declares an enum with one word per variant, and the conversions both ways.
macro_rules! text_enum {
    ($(#[$outer:meta])* pub enum $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$inner])* $variant,)+ }

        impl $name {
            /// Every value, in libvirt's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The word of every value, in the same order.
            pub const ACCEPTED: &'static [&'static str] = &[$($text,)+];

            /// The word as it stands in a document.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value of a word; `None` for a word that is none of [`Self::ACCEPTED`].
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::text_enum::TextEnum for $name {
            const ACCEPTED: &'static [&'static str] = $name::ACCEPTED;
            fn from_text(text: &str) -> Option<Self> {
                $name::from_text(text)
            }
        }
    };
}
pub(crate) use text_enum;

/// What the reader needs of such an enum.
pub(crate) trait TextEnum: Sized {
    /// Every accepted word.
    const ACCEPTED: &'static [&'static str];
    /// The value of a word.
    fn from_text(text: &str) -> Option<Self>;
}
