//! The ready jobs of a fair queue that run first, found by seeks: one for each participant, or for each job.

use std::{collections::BTreeMap, ops::Bound};

use super::{StoreError, sets::SortKey};
use crate::job::Participant;

/// The places of a lane's jobs, in order.
pub(super) trait Lane {
    /// Returns the first place of the next participant.
    fn first_of_next(&self, after: Bound<Participant>) -> Result<Option<SortKey>, StoreError>;

    /// Returns at most `limit` further places of a participant.
    fn next_of(&self, after: SortKey, limit: usize) -> Result<Vec<SortKey>, StoreError>;
}

/// Returns the places of at least the first `limit` jobs of a lane in turns. `last` had the turn before.
pub(super) fn first_in_turns(lane: &impl Lane, last: Participant, limit: usize) -> Result<Vec<SortKey>, StoreError> {
    let mut places = Vec::new();
    let (mut after, mut is_past_the_end) = (Bound::Excluded(last), false);
    while places.len() < limit {
        match lane.first_of_next(after)? {
            Some(place) if !is_past_the_end || place.participant <= last => {
                places.push(place);
                after = Bound::Excluded(place.participant);
            }
            None if !is_past_the_end => (after, is_past_the_end) = (Bound::Unbounded, true),
            Some(_) | None => break,
        }
    }
    // The participants that may have more, each with its last place.
    let mut ends = places.clone();
    while places.len() < limit && !ends.is_empty() {
        let share = (limit - places.len()).div_ceil(ends.len());
        for end in std::mem::take(&mut ends) {
            let more = lane.next_of(end, share)?;
            if more.len() == share {
                ends.extend(more.last());
            }
            places.extend(more);
        }
    }
    Ok(places)
}

/// Returns those of the places that come first in turns, in the order of their keys.
pub(super) fn cut_in_turns(mut places: Vec<SortKey>, last: Participant, limit: usize) -> Vec<SortKey> {
    places.sort_unstable();
    if places.len() <= limit {
        return places;
    }
    let mut rounds: BTreeMap<Participant, usize> = BTreeMap::new();
    let mut by_round: Vec<((usize, bool), SortKey)> = places
        .into_iter()
        .map(|place| {
            let round = rounds.entry(place.participant).or_default();
            *round += 1;
            ((*round, place.participant <= last), place)
        })
        .collect();
    by_round.sort_unstable();
    by_round.truncate(limit);
    let mut places: Vec<SortKey> = by_round.into_iter().map(|(_, place)| place).collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::job::JobId;

    struct Places(BTreeSet<SortKey>);

    fn place(participant: i64, order: i64) -> SortKey {
        SortKey { participant: Participant(participant), rank: 0, order, id: JobId::from_raw(order) }
    }

    impl Lane for Places {
        fn first_of_next(&self, after: Bound<Participant>) -> Result<Option<SortKey>, StoreError> {
            let is_after = |place: &&SortKey| match after {
                Bound::Excluded(participant) => place.participant > participant,
                Bound::Included(_) | Bound::Unbounded => true,
            };
            Ok(self.0.iter().find(is_after).copied())
        }

        fn next_of(&self, after: SortKey, limit: usize) -> Result<Vec<SortKey>, StoreError> {
            let of_participant = |place: &&SortKey| place.participant == after.participant && **place > after;
            Ok(self.0.iter().filter(of_participant).take(limit).copied().collect())
        }
    }

    fn first(places: &[SortKey], last: i64, limit: usize) -> Vec<SortKey> {
        let lane = Places(places.iter().copied().collect());
        cut_in_turns(first_in_turns(&lane, Participant(last), limit).unwrap(), Participant(last), limit)
    }

    #[test]
    fn each_participant_comes_once_before_any_comes_again_and_the_one_after_the_last_first() {
        let places = [place(1, 1), place(1, 2), place(1, 3), place(2, 4), place(2, 5), place(7, 6)];
        assert_eq!(first(&places, 1, 2), [place(2, 4), place(7, 6)]);
        assert_eq!(first(&places, 2, 2), [place(1, 1), place(7, 6)]);
        assert_eq!(first(&places, 9, 4), [place(1, 1), place(1, 2), place(2, 4), place(7, 6)]);
        assert_eq!(first(&places, 9, 5), [place(1, 1), place(1, 2), place(2, 4), place(2, 5), place(7, 6)]);
        assert_eq!(first(&places, 0, 99), places);
        assert_eq!(first(&places, 0, 0), []);
        assert_eq!(first(&[], 0, 5), []);
    }
}
