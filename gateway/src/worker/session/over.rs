//! How a session ends.

use wire::{WireError, stream::StreamError};

use super::super::streams::Broken;

/// Why a session has ended.
#[derive(Debug)]
pub enum Over {
    /// The client has left in good order.
    Left,
    /// It broke the rules, or its connection broke.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<WireError> for Over {
    fn from(error: WireError) -> Over {
        match error {
            WireError::Closed => Over::Left,
            error => Over::Broken(error.into()),
        }
    }
}

impl From<StreamError> for Over {
    fn from(error: StreamError) -> Over {
        Over::Broken(error.into())
    }
}

impl From<Broken> for Over {
    fn from(error: Broken) -> Over {
        match error {
            Broken::Stream(error) => error.into(),
            Broken::Wire(error) => error.into(),
        }
    }
}

/// What a client has done wrong without breaking a frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the client did not log in in time")]
    Silent,
    #[error("the client does not answer keepalive")]
    Dead,
    #[error("the client leaves {0} bytes unread")]
    Backlog(usize),
    #[error("the client does not read its last answers")]
    Unread,
    #[error("the driver's daemon did not come back, and events may have been missed")]
    NoEvents,
    #[error("events are missing after the last one that the client has seen")]
    Missed,
}
