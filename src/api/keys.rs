//! Unique keys: their validation, and the calls that list and release them.

use std::fmt::Display;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    convert,
    core::Core,
    held_key::is_held,
    needs::Needs,
    validate::{Field, Validator},
    verbs::{Target, Verb},
};
use crate::{
    admission::{rules, unique},
    engine::{Action, ControlRefusal, KeyDone, ReplySlot},
    job::{Canonical, Debounce, KeyHash, KeyName, OnConflict, UniqueKey, UniqueScope, When},
    proto::v1,
    settings::Role,
};

/// Maximum number of keys that a list call reads before it returns a short page.
const LIST_BUDGET: usize = 10_000;
/// Maximum number of keys that one read returns.
const READ_MAX: usize = 1_000;

impl Validator {
    /// Validates the unique key of a submission.
    pub(super) fn unique_key(
        &mut self,
        field: &dyn Display,
        key: Option<Box<v1::UniqueKey>>,
        start: Option<When>,
    ) -> Option<Box<UniqueKey>> {
        let v1::UniqueKey { key, scope, on_waiting, on_started, hold, debounce, throttle } = *key?;
        let of = Field { of: field, name: "unique_key" };
        let at = |name| Field { of: &of, name };
        let time = |validator: &mut Self, name, time: Option<prost_types::Duration>| {
            time.and_then(|time| validator.duration(at(name), &time, &unique::UNIQUE_TIMES))
        };
        let debounce = debounce.map(|debounce| {
            if debounce.quiet.is_none() {
                self.fault(
                    at("debounce.quiet"),
                    "is required: the time from the latest submission to the start",
                );
            }
            let quiet = time(self, "debounce.quiet", debounce.quiet);
            let max_wait = time(self, "debounce.max_wait", debounce.max_wait);
            // A default that has no fault of its own.
            Debounce { quiet: quiet.unwrap_or(*unique::UNIQUE_TIMES.start()), max_wait }
        });
        let unique = UniqueKey {
            key,
            scope: self.scope(at("scope"), scope),
            on_waiting: self.policy(at("on_waiting"), on_waiting),
            on_started: self.policy(at("on_started"), on_started),
            hold: time(self, "hold", hold),
            debounce,
            throttle: time(self, "throttle", throttle),
        };
        for (name, problem) in unique::unique(&unique, start) {
            self.fault(at(name), problem);
        }
        Some(Box::new(unique))
    }

    fn scope(&mut self, field: impl Display, number: i32) -> Option<UniqueScope> {
        match self.known(&field.to_string(), number) {
            v1::UniqueScope::Unspecified => None,
            v1::UniqueScope::Kind => Some(UniqueScope::Kind),
            v1::UniqueScope::Queue => Some(UniqueScope::Queue),
            v1::UniqueScope::Namespace => Some(UniqueScope::Namespace),
        }
    }

    fn policy(&mut self, field: impl Display, number: i32) -> Option<OnConflict> {
        match self.known(&field.to_string(), number) {
            v1::OnConflict::Unspecified => None,
            v1::OnConflict::ReturnExisting => Some(OnConflict::ReturnExisting),
            v1::OnConflict::Reject => Some(OnConflict::Reject),
            v1::OnConflict::Replace => Some(OnConflict::Replace),
            v1::OnConflict::Follow => Some(OnConflict::Follow),
            v1::OnConflict::Cancel => Some(OnConflict::Cancel),
        }
    }
}

/// Takes a unique key from its holder.
pub(super) struct ReleaseUniqueKey {
    said: UniqueKey,
    of: String,
    hash: KeyHash,
}

impl Verb for ReleaseUniqueKey {
    type Request = v1::ReleaseUniqueKeyRequest;
    type Response = v1::ReleaseUniqueKeyResponse;
    type Done = KeyDone;
    const NAME: &'static str = "ReleaseUniqueKey";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::ReleaseUniqueKeyRequest, validator: &mut Validator) -> Self {
        let v1::ReleaseUniqueKeyRequest { key, scope, of, .. } = request;
        validator.hold("key", unique::key(&key));
        let scope = validator.scope("scope", scope);
        let said = UniqueKey { key, scope, ..UniqueKey::default() };
        match said.scope() {
            UniqueScope::Kind => validator.hold("of", rules::kind(&of)),
            UniqueScope::Queue => validator.hold("of", rules::queue(&of)),
            UniqueScope::Namespace if !of.is_empty() => {
                validator.fault("of", "must be empty, because the key is of the namespace: leave it out");
            }
            UniqueScope::Namespace => {}
        }
        let hash = said.hash(&of, &of);
        ReleaseUniqueKey { said, of, hash }
    }

    fn target(&self) -> Target<'_> {
        Target::Key(self.hash, &self.said.key)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_number("scope", self.said.scope.map(|scope| scope as u8));
        said.put_text("of", &self.of);
    }

    fn action(&self, ask: ReplySlot<KeyDone, ControlRefusal>) -> Action {
        Action::ReleaseKey { hash: self.hash, key: self.said.key.clone(), ask }
    }

    async fn answer(self, _: &Core, done: KeyDone) -> Result<Response<v1::ReleaseUniqueKeyResponse>, Status> {
        let KeyDone { holder, successor, is_repeat } = done;
        let text = |id: Option<crate::job::JobId>| id.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ReleaseUniqueKeyResponse {
            holder_id: text(holder),
            successor_id: text(successor),
            repeated: is_repeat,
        }))
    }
}

/// Reads the token of a page of keys: the identity of the last key before it.
fn read_token(token: &str) -> Option<KeyHash> {
    Some(KeyHash(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?))
}

impl Core {
    /// Returns a page of unique keys.
    pub(super) async fn list_unique_keys(
        &self,
        call: Request<v1::ListUniqueKeysRequest>,
    ) -> Result<Response<v1::ListUniqueKeysResponse>, Status> {
        let caller = Caller::of(&call)?;
        let v1::ListUniqueKeysRequest { queue, key, page_size, page_token, namespace } = call.into_inner();
        let mut validator = Validator::new(self.clock.now(), &namespace);
        let page_size = validator.page_size(page_size);
        if !queue.is_empty() {
            validator.queue_name("queue", &queue);
        }
        if !key.is_empty() {
            validator.hold("key", unique::key(&key));
        }
        let mut after = read_token(&page_token);
        if after.is_none() && !page_token.is_empty() {
            validator.no_page_token();
        }
        validator.finish()?;
        if !queue.is_empty() {
            caller.on_queue(&queue)?;
        }
        let fits = |name: &KeyName| {
            caller.sees_queue(&name.queue)
                && (queue.is_empty() || name.queue == queue)
                && (key.is_empty() || name.key == key)
        };
        let (mut keys, mut budget) = (Vec::new(), LIST_BUDGET);
        let is_last = loop {
            // A page takes no more than it shows, so that its token is that of its last key.
            let limit = READ_MAX.min(page_size - keys.len()).min(budget);
            let page = self.shard.reads.read(move |reader| reader.unique_keys(after, limit)).await?;
            let is_last = page.len() < limit;
            budget -= limit;
            for (hash, held) in page {
                after = Some(hash);
                if let Some(name) = held.name.as_ref().filter(|name| is_held(self, &held) && fits(name)) {
                    keys.push(convert::unique_key(name, &held));
                }
            }
            if is_last || keys.len() >= page_size || budget == 0 {
                break is_last;
            }
        };
        let last = after.filter(|_| !is_last);
        let next_page_token = last.map(|hash| BASE64_URL_SAFE_NO_PAD.encode(hash.0)).unwrap_or_default();
        Ok(Response::new(v1::ListUniqueKeysResponse { keys, next_page_token }))
    }

    /// Returns the state of a job's unique key, if the job has one, as far as the caller may see it.
    pub(super) async fn key_status(
        &self,
        caller: &Caller,
        job: &crate::job::Job,
    ) -> Result<Option<v1::UniqueKeyStatus>, Status> {
        let (Some(hash), Some(name)) = (job.spec.key_hash(), job.spec.key_name()) else { return Ok(None) };
        let held = self.shard.reads.read(move |reader| reader.unique_key(hash)).await?;
        let held = held.filter(|held| is_held(self, held));
        let of = held.as_ref().and_then(|held| held.name.as_ref());
        Ok(Some(match (&held, of) {
            (Some(held), Some(of)) if caller.sees_queue(&of.queue) => convert::unique_key(of, held),
            // The holder is hidden from the caller, or there is none.
            (_, _) => v1::UniqueKeyStatus {
                key: name.key,
                scope: convert::scope(name.scope) as i32,
                ..Default::default()
            },
        }))
    }
}
