//! How two sides agree on a layer by RFC 4752, once a mechanism has made them known to each other: the server offers what
//! it can do and the longest chunk that it takes, the client chooses one and says the same of itself. Both messages travel
//! protected from changes, so nobody between them takes an offer away.

use thiserror::Error;

use super::{MAX_PLAIN, MAX_WRAPPED};

/// No layer at all.
const NONE: u8 = 1;
/// Chunks that cannot be changed.
const INTEGRITY: u8 = 2;
/// Chunks that cannot be read either.
const CONFIDENTIALITY: u8 = 4;

/// What protection may add to a chunk: more than any mechanism of Kerberos does.
const ROOM: usize = 256;

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    layers: u8,
    max_wrapped: usize,
}

/// Why there is no agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OfferError {
    /// An offer is four bytes long.
    #[error("the server's offer of a security layer is {0} bytes long, not 4")]
    Malformed(usize),
    /// The way can be read along, and the server does not change that.
    #[error("the server offers no encryption on a connection that is not encrypted otherwise")]
    NoEncryption,
    /// The server wants no layer that the mechanism has.
    #[error("the server offers no security layer that can be had here")]
    NoLayer,
    /// A server that takes next to nothing.
    #[error("the server takes chunks of {0} bytes only")]
    TooShort(usize),
}

/// What a client chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: the way is secure as it is.
    None,
    /// A layer.
    Layer {
        /// It hides the bytes.
        confidential: bool,
        /// The longest chunk that the server takes.
        max_wrapped: usize,
    },
}

impl Offer {
    /// Reads a server's offer.
    ///
    /// # Errors
    /// [`OfferError::Malformed`].
    pub fn parse(message: &[u8]) -> Result<Offer, OfferError> {
        let &[layers, a, b, c] = message else { return Err(OfferError::Malformed(message.len())) };
        let max_wrapped = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Ok(Offer { layers, max_wrapped })
    }

    /// Chooses. On a way that is secure already as little as the server allows; on another one encryption, or nothing comes
    /// of it. `can_encrypt`: the mechanism is able to.
    ///
    /// # Errors
    /// Why there is no agreement.
    pub fn choose(self, way_is_secure: bool, can_encrypt: bool) -> Result<Protection, OfferError> {
        let offers = |layer: u8| self.layers & layer != 0;
        if way_is_secure && offers(NONE) {
            return Ok(Protection::None);
        }
        let confidential = offers(CONFIDENTIALITY) && can_encrypt;
        if !confidential && !way_is_secure {
            return Err(OfferError::NoEncryption);
        }
        if !confidential && !offers(INTEGRITY) {
            return Err(OfferError::NoLayer);
        }
        if self.max_wrapped <= 2 * ROOM {
            return Err(OfferError::TooShort(self.max_wrapped));
        }
        Ok(Protection::Layer { confidential, max_wrapped: self.max_wrapped })
    }
}

impl Protection {
    /// The client's answer, for a login under the own name.
    #[must_use]
    pub fn answer(self) -> [u8; 4] {
        let layer = match self {
            // No chunk will come, so the longest has no length.
            Protection::None => return [NONE, 0, 0, 0],
            Protection::Layer { confidential: true, .. } => CONFIDENTIALITY,
            Protection::Layer { confidential: false, .. } => INTEGRITY,
        };
        const { assert!(MAX_WRAPPED < 1 << 24) };
        let [.., a, b, c] = MAX_WRAPPED.to_be_bytes();
        [layer, a, b, c]
    }

    /// How much goes into a chunk, so that it is not longer than the server takes.
    #[must_use]
    pub fn max_plain(self) -> usize {
        match self {
            Protection::None => MAX_PLAIN,
            Protection::Layer { max_wrapped, .. } => max_wrapped.saturating_sub(ROOM).min(MAX_PLAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(layers: u8) -> Offer {
        Offer::parse(&[layers, 1, 0, 0]).unwrap()
    }

    #[test]
    fn a_way_that_can_be_read_along_is_encrypted_or_not_taken() {
        let layer = |confidential| Ok(Protection::Layer { confidential, max_wrapped: 65_536 });
        for (layers, secure, can_encrypt, chosen) in [
            (7, false, true, layer(true)),
            (4, false, true, layer(true)),
            (7, false, false, Err(OfferError::NoEncryption)),
            (3, false, true, Err(OfferError::NoEncryption)),
            (0, false, true, Err(OfferError::NoEncryption)),
            (7, true, true, Ok(Protection::None)),
            (1, true, false, Ok(Protection::None)),
            (6, true, true, layer(true)),
            (6, true, false, layer(false)),
            (2, true, true, layer(false)),
            (4, true, false, Err(OfferError::NoLayer)),
            (0, true, true, Err(OfferError::NoLayer)),
            (8, true, true, Err(OfferError::NoLayer)),
        ] {
            assert_eq!(offer(layers).choose(secure, can_encrypt), chosen, "{layers} {secure} {can_encrypt}");
        }
    }

    #[test]
    fn an_offer_has_four_bytes_and_room_for_something() {
        for message in [&[][..], &[4, 0, 1], &[4, 0, 1, 0, 0]] {
            assert_eq!(Offer::parse(message), Err(OfferError::Malformed(message.len())));
        }
        let tiny = Offer::parse(&[4, 0, 2, 0]).unwrap();
        assert_eq!(tiny.choose(false, true), Err(OfferError::TooShort(512)));
        let small = Offer::parse(&[4, 0, 16, 0]).unwrap().choose(false, true).unwrap();
        assert_eq!(small.max_plain(), 4096 - ROOM);
    }

    #[test]
    fn the_answer_says_what_is_chosen_and_what_is_taken() {
        assert_eq!(Protection::None.answer(), [1, 0, 0, 0]);
        let layer = |confidential| Protection::Layer { confidential, max_wrapped: 0xff_ffff };
        assert_eq!(layer(true).answer(), [4, 1, 0, 0]);
        assert_eq!(layer(false).answer(), [2, 1, 0, 0]);
        assert_eq!(layer(true).max_plain(), MAX_PLAIN);
    }
}
