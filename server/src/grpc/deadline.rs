//! The client's own deadline: the header `grpc-timeout`, counted from when the call arrived.
//!
//! The transport ends a call whose deadline has passed too, but as "cancelled". A call that watches its deadline
//! itself answers first, with the code that the client expects: it counts from a moment before the transport
//! begins to count, and of two timers that are due together the transport looks at the call first.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use std::time::Duration;

use tonic::{Request, Status};

use crate::clock::{self, Timestamp};
use crate::error::{InferError, SequenceFault};

/// When the head of a call arrived.
#[derive(Clone, Copy, Debug)]
struct ArrivedAt(Timestamp);

/// Marks a call with the time of its arrival; its messages may take long to follow.
///
/// # Errors
/// None; the transport asks for this form.
pub(super) fn stamp(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.extensions_mut().insert(ArrivedAt(clock::now()));
    Ok(request)
}

/// The moment at which the client stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Timestamp);

impl Deadline {
    /// The deadline of a call, if its client set one.
    pub(super) fn of<T>(request: &Request<T>) -> Option<Self> {
        let header = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        let timeout = parse_timeout(header?)?;
        let arrived_at = request.extensions().get::<ArrivedAt>().map_or_else(clock::now, |arrived| arrived.0);
        Some(Self(arrived_at.plus(timeout)))
    }

    /// The moment itself.
    pub(super) fn at(self) -> Timestamp {
        self.0
    }

    /// The time that is left.
    pub(super) fn left(self, now: Timestamp) -> Duration {
        self.0.since(now)
    }

    /// The error of a request that came to nothing: where the deadline has passed, that is the reason, and a queue
    /// may only have been the first to notice.
    pub(super) fn reason(self, error: InferError, now: Timestamp) -> InferError {
        let is_late = matches!(
            error.root(),
            InferError::Expired
                | InferError::Unreachable { .. }
                | InferError::Cancelled
                | InferError::Sequence(SequenceFault::Expired)
        );
        if is_late && now >= self.0 { InferError::DeadlineExceeded } else { error }
    }
}

/// Reads the header: up to eight digits and a unit. `None` for what is no timeout, as the transport also passes
/// over it.
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(amount.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse_timeout("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "1", "1s", "+1S", "-1S", "1.5S", "123456789S", "1\u{e9}", "\u{e9}"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_deadline_counts_from_the_arrival() {
        let mut request = Request::new(());
        assert_eq!(Deadline::of(&request), None);
        request.metadata_mut().insert("grpc-timeout", "5u".parse().unwrap());
        request.extensions_mut().insert(ArrivedAt(Timestamp::from_nanos(1000)));
        let deadline = Deadline::of(&request).unwrap();
        assert_eq!(deadline.left(Timestamp::from_nanos(2000)), Duration::from_nanos(4000));
        assert_eq!(deadline.left(Timestamp::from_nanos(9000)), Duration::ZERO);
        let (before, after) = (Timestamp::from_nanos(5999), Timestamp::from_nanos(6000));
        assert_eq!(deadline.reason(InferError::Expired, before), InferError::Expired);
        assert_eq!(deadline.reason(InferError::Expired, after), InferError::DeadlineExceeded);
        assert_eq!(deadline.reason(InferError::ServerNotReady, after), InferError::ServerNotReady);
    }
}
