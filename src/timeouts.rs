//! Timeouts that a paused process does not use up.
//!
//! A process that was stopped (SIGSTOP, a frozen container) or starved wakes up with everything ready at once: the
//! results of work outside of it, and all timers that ran out meanwhile. A result often takes several polls to arrive,
//! so that a timer would win although the result came first. The timeouts here sleep in steps: a pause, however long,
//! counts as one step, and what was finished meanwhile has the other steps to arrive.
//!
//! The same holds for a future that blocks its thread: no more than one step passes meanwhile.
//!
//! The machine's own sleep does not count at all: on Linux, tokio's timers stand still in it.

use std::time::Duration;

/// Number of steps of a timeout.
const STEPS: u32 = 8;
/// Shortest step; timers are no finer than a millisecond.
const STEP_MIN: Duration = Duration::from_millis(10);

/// Returns once this process has run for `duration` while the future was polled.
pub(crate) async fn active(duration: Duration) {
    let step = (duration / STEPS).max(STEP_MIN);
    let mut left = duration;
    while !left.is_zero() {
        let nap = step.min(left);
        tokio::time::sleep(nap).await;
        left -= nap;
    }
}

/// Returns the result of `work`, or `None` if this process has run for `duration` without it.
pub(crate) async fn within<T>(duration: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = active(duration) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use tokio::{task::yield_now, time::advance};

    use super::*;

    const LONG: Duration = Duration::from_secs(80);

    #[tokio::test(start_paused = true)]
    async fn a_pause_counts_as_one_step_however_long_it_is() {
        let mut timeout = pin!(active(LONG));
        let mut is_over = || timeout.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        for _ in 0..STEPS {
            assert!(!is_over());
            advance(10 * LONG).await;
        }
        assert!(is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pause_it_takes_its_time_and_no_more() {
        for duration in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(95), LONG] {
            let start = tokio::time::sleep(Duration::ZERO).deadline();
            active(duration).await;
            let end = tokio::time::sleep(Duration::ZERO).deadline();
            let slack = STEPS * Duration::from_millis(1);
            assert!(
                (duration..=duration + slack).contains(&(end - start)),
                "{duration:?}: {:?}",
                end - start
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_takes_several_steps_to_be_heard_of_counts_after_a_pause() {
        let mut done = pin!(within(LONG, async {
            for _ in 0..100 {
                yield_now().await;
            }
        }));
        let mut poll = || done.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), Poll::Pending);
        advance(10 * LONG).await;
        let told = std::iter::repeat_with(poll).find_map(|polled| match polled {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        });
        assert_eq!(told, Some(Some(())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_ends_is_given_up() {
        assert_eq!(within(LONG, std::future::pending::<()>()).await, None);
    }
}
