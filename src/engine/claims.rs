//! Selection of the jobs that get the free slots of a queue.
//!
//! A lane holds the ready jobs of one kind in one queue, in their order. The store merges the heads of a queue's lanes
//! that have a handler, so that jobs of a kind without a handler never block others.

use std::iter::Peekable;

use crate::store::sets::SortKey;

/// Limit of the ready jobs that are read for free slots in a batch. All queues share it.
pub(super) const HEADS_MAX: usize = 2_048;

/// A job that can start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pick<S, N> {
    /// A job that was ready before the batch.
    Ready(S),
    /// A job that becomes ready with this batch.
    New(N),
}

/// Chooses at most `free` jobs of a queue, in its order. Among equals, jobs that were ready before go first. Both lists
/// are in order, the new jobs with their ranks. If the list of earlier jobs is truncated, no new job passes its end.
pub(super) fn choose<S, N>(
    free: usize,
    ready_jobs: impl IntoIterator<Item = (SortKey, S)>,
    is_cut: bool,
    new: impl IntoIterator<Item = (i8, N)>,
) -> Vec<Pick<S, N>> {
    let mut ready_jobs = ready_jobs.into_iter().peekable();
    let mut new = new.into_iter().peekable();
    let mut chosen = Vec::new();
    while chosen.len() < free {
        let pick = match (ready_jobs.peek(), new.peek()) {
            (Some((place, _)), Some((rank, _))) if place.rank > *rank => take_new(&mut new),
            (Some(_), _) => ready_jobs.next().map(|(_, job)| Pick::Ready(job)),
            (None, _) if is_cut => break,
            (None, _) => take_new(&mut new),
        };
        match pick {
            Some(pick) => chosen.push(pick),
            None => break,
        }
    }
    chosen
}

fn take_new<S, N>(new: &mut Peekable<impl Iterator<Item = (i8, N)>>) -> Option<Pick<S, N>> {
    new.next().map(|(_, job)| Pick::New(job))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn place(rank: i8, order: i64) -> (SortKey, i64) {
        (SortKey { rank, order, id: JobId::from_raw(order) }, order)
    }

    #[test]
    fn what_stood_in_line_goes_first_among_equals_and_a_more_urgent_newcomer_before_it() {
        let ready_jobs = [place(-1, 7), place(0, 1), place(0, 2)];
        let chosen = choose(5, ready_jobs, false, [(-2, "urgent"), (0, "same"), (1, "later")]);
        use Pick::{New, Ready};
        assert_eq!(chosen, [New("urgent"), Ready(7), Ready(1), Ready(2), New("same")]);
    }

    #[test]
    fn no_more_are_chosen_than_there_are_slots_or_jobs() {
        assert!(choose::<i64, &str>(0, [place(0, 1)], false, [(0, "new")]).is_empty());
        assert_eq!(choose::<i64, &str>(9, [place(0, 1)], false, [(0, "new")]).len(), 2);
        let cut = choose(9, [place(0, 1)], true, [(-1, "urgent"), (0, "new")]);
        assert_eq!(cut, [Pick::New("urgent"), Pick::Ready(1)], "more may stand before the other");
    }
}
