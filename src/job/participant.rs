//! Participants and lanes: how the ready jobs of a queue are sorted apart from their priority and their order.

use super::request::RequestId;

/// A participant in the turns of a fair queue: the jobs with one value of the label, as a number that stands for it. Those
/// without the label are one participant, and so are all jobs of a queue that is not fair.
///
/// Jobs that wait for a place under limits are not among them: they are in *lanes* of their own, whose numbers are
/// negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Participant(pub i64);

impl Participant {
    /// The participant of jobs without the label.
    pub const NONE: Participant = Participant(0);

    /// Returns the participant of a value.
    #[must_use]
    pub fn of(value: &str) -> Participant {
        // A part of a SHA-256: no value can be chosen so that it shares its turn with a certain other one.
        Participant(number(RequestId::hash(&[b"jobmill turn", value.as_bytes()])) & i64::MAX)
    }

    /// Returns the lane with this hash.
    #[must_use]
    pub fn lane(hash: [u8; 16]) -> Participant {
        Participant(number(hash) | i64::MIN)
    }

    /// Returns whether it is a lane of jobs that wait for limits.
    #[must_use]
    pub fn is_lane(self) -> bool {
        self.0 < 0
    }
}

/// Returns a part of a hash as a number.
fn number([a, b, c, d, e, f, g, h, ..]: [u8; 16]) -> i64 {
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}
