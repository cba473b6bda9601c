//! Unique keys that are held, as their callers may see them.

use tonic::Status;

use super::{caller::Caller, core::Core, errors};
use crate::{job::KeyHash, store::HeldKey};

/// Returns the queue of a key's holder, if the caller may change the key. The result is `None` if nothing holds the key, or
/// it is hidden from the caller, and the request has an id: it may be a repeat.
pub(super) async fn queue_of_key(
    core: &Core,
    caller: &Caller,
    (hash, key): (KeyHash, &str),
    request_id: &str,
) -> Result<Option<String>, Status> {
    let found = core.shard.reads.read(move |reader| reader.unique_key(hash)).await?;
    let queue = found.filter(|held| is_held(core, held)).and_then(|held| held.name).map(|name| name.queue);
    match queue.filter(|queue| caller.may_change(queue) || caller.sees_queue(queue)) {
        Some(queue) => {
            caller.on_queue(&queue)?;
            Ok(Some(queue))
        }
        None if request_id.is_empty() => Err(errors::key_not_found(key)),
        None => Ok(None),
    }
}

/// Returns whether a key's time is not over.
pub(super) fn is_held(core: &Core, held: &HeldKey) -> bool {
    !held.has_ended || held.held_until.is_some_and(|until| until > core.clock.now())
}
