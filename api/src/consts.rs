//! libvirt's numbers as enums and flags, and the words that virsh prints for them.
//!
//! A number travels as an integer and becomes one of these where it is used: a newer peer may send one that is not
//! known here.

mod connect;
mod domain;
mod events;
mod flags;

pub use connect::*;
pub use domain::*;
pub use events::*;
pub use flags::*;

/// A number that an enum does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is no {ty}")]
pub struct UnknownValue {
    /// The enum.
    pub ty: &'static str,
    /// The number.
    pub value: i32,
}

/// An enum of numbers with a word for each.
macro_rules! numbers {
    ($(#[$doc:meta])* $ty:ident { $($variant:ident = $value:literal $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[repr(i32)]
        pub enum $ty {
            $(
                #[doc = concat!($name, " (", $value, ").")]
                $variant = $value,
            )*
        }

        impl $ty {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word that is printed for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Its number.
            pub fn number(self) -> i32 {
                self as i32
            }
        }

        impl From<$ty> for i32 {
            fn from(value: $ty) -> i32 {
                value as i32
            }
        }

        impl TryFrom<i32> for $ty {
            type Error = $crate::consts::UnknownValue;

            fn try_from(value: i32) -> Result<Self, $crate::consts::UnknownValue> {
                match value {
                    $($value => Ok(Self::$variant),)*
                    _ => Err($crate::consts::UnknownValue { ty: stringify!($ty), value }),
                }
            }
        }

        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
use numbers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways_and_unknown_ones_are_refused() {
        for state in DomainState::ALL {
            assert_eq!(DomainState::try_from(state.number()), Ok(*state));
        }
        assert_eq!(DomainState::try_from(8), Err(UnknownValue { ty: "DomainState", value: 8 }));
        assert_eq!(DomainState::try_from(-1).unwrap_err().to_string(), "-1 is no DomainState");
    }

    #[test]
    fn states_and_reasons_have_the_words_that_virsh_prints() {
        assert_eq!(DomainState::Shutdown.to_string(), "in shutdown");
        assert_eq!(DomainState::Blocked.to_string(), "idle");
        assert_eq!(reason_name(1, 1), "booted");
        assert_eq!(reason_name(3, 5), "I/O error");
        assert_eq!(reason_name(5, 8), "daemon");
        assert_eq!(reason_name(5, 9), "unknown");
        assert_eq!(reason_name(99, 0), "unknown");
    }

    #[test]
    fn details_of_events_belong_to_their_event() {
        assert_eq!(lifecycle_detail_name(2, 0), "Booted");
        assert_eq!(lifecycle_detail_name(5, 2), "Crashed");
        assert_eq!(lifecycle_detail_name(6, 2), "Host request");
        assert_eq!(lifecycle_detail_name(2, 77), "unknown");
    }

    #[test]
    fn flags_have_libvirts_bits() {
        assert_eq!(ListDomains::NO_CHECKPOINT.bits(), 1 << 15);
        assert_eq!(UndefineFlags::KEEP_TPM.bits(), 64);
        assert_eq!(CreateFlags::from_bits(0x40), None);
    }
}
