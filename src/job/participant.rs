//! Turns: how the jobs of one value of a label alternate with those of others in a fair queue.

use super::request::RequestId;

/// A participant in the turns of a fair queue: the jobs with one value of the label, as a number that stands for it. Those
/// without the label are one participant, and so are all jobs of a queue that is not fair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Participant(pub i64);

impl Participant {
    /// The participant of jobs without the label.
    pub const NONE: Participant = Participant(0);

    /// Returns the participant of a value.
    #[must_use]
    pub fn of(value: &str) -> Participant {
        // A part of a SHA-256: no value can be chosen so that it shares its turn with a certain other one.
        let [a, b, c, d, e, f, g, h, ..] = RequestId::hash(&[b"jobmill turn", value.as_bytes()]);
        Participant(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}
