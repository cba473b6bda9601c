//! JSON of unique keys.

use serde_json::{Value, json};

use super::{Object, named};
use jobmill::proto::v1::{
    Debounce, OnConflict, ReleaseUniqueKeyResponse, UniqueKey, UniqueKeyStatus, UniqueScope,
};

/// Converts a unique key, as the client submitted it.
pub(super) fn said_key(unique: &UniqueKey) -> Value {
    let debounce = |debounce: &Debounce| {
        Object::default().duration("quiet", debounce.quiet).duration("maxWait", debounce.max_wait).done()
    };
    let policy = |policy: i32| (policy != 0).then(|| named::<OnConflict>(policy, OnConflict::as_str_name));
    Object::default()
        .put("key", unique.key.as_str())
        .maybe("scope", (unique.scope != 0).then(|| scope(unique.scope)))
        .maybe("onWaiting", policy(unique.on_waiting))
        .maybe("onStarted", policy(unique.on_started))
        .duration("hold", unique.hold)
        .maybe("debounce", unique.debounce.as_ref().map(debounce))
        .duration("throttle", unique.throttle)
        .done()
}

fn scope(number: i32) -> Value {
    named::<UniqueScope>(number, UniqueScope::as_str_name)
}

/// Converts a unique key that is held.
pub(in crate::cli) fn unique_key(key: &UniqueKeyStatus) -> Value {
    Object::default()
        .put("key", key.key.as_str())
        .put("scope", scope(key.scope))
        .text("holderId", &key.holder_id)
        .text("successorId", &key.successor_id)
        .time("heldUntil", key.held_until)
        .text("queue", &key.queue)
        .text("kind", &key.kind)
        .done()
}

/// Converts the answer to the release of a unique key.
pub(in crate::cli) fn released(answer: &ReleaseUniqueKeyResponse) -> Value {
    let released = Object::default()
        .text("holderId", &answer.holder_id)
        .text("successorId", &answer.successor_id)
        .put("repeated", answer.repeated)
        .done();
    json!({ "released": released })
}
