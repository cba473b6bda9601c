//! Reports: which apply, which are refused, and which are repeats.

use jobmill::{
    engine::transition::Refusal,
    job::{JobId, LeaseToken},
    store::Reader,
};

use super::{
    batch::{Gathered, Told},
    ledger::{Causes, Ledger, Violation, promise},
    program::AttemptReport,
    workers::Final,
};
use crate::store::batch::Applied;

impl Ledger {
    /// Takes in the answers to the reports of a batch, those of the server first.
    pub(super) fn hear_reports(
        &mut self,
        gathered: &Gathered,
        applied: &Applied,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        for ((id, lease, told, checkpoint), result) in gathered.reports.iter().zip(&applied.reports) {
            let holds = self.holds(*id, *lease, causes);
            promise!(
                result.is_ok() == holds,
                "a report of {id} under {lease:?} was {result:?}; held: {holds}"
            );
            if holds {
                hear_end(causes, *id, *told);
                self.hear_checkpoint(*id, *told, *checkpoint);
            }
        }
        let (told, answers) = (gathered.worker_reports.len(), applied.answers.len());
        promise!(told == answers, "{told} reports of workers have {answers} answers");
        for (told, answer) in gathered.worker_reports.iter().zip(&applied.answers) {
            let Told { id, lease, .. } = *told;
            let same = (answer.id, answer.lease, answer.checkpoint) == (id, lease, told.checkpoint);
            promise!(same && answer.is_final == told.is_final(), "{told:?} was answered {answer:?}");
            self.hear_worker_report(*told, answer.result, causes)?;
        }
        Ok(())
    }

    fn hear_worker_report(
        &mut self,
        told: Told,
        result: Result<(), Refusal>,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        let Told { worker, id, lease, checkpoint, .. } = told;
        let is_own = self.jobs.get(&id).is_some_and(|job| job.worker == Some(worker));
        if is_own && self.holds(id, lease, causes) {
            promise!(result.is_ok(), "{told:?} was {result:?} under its own lease");
            hear_end(causes, id, told.told);
            if told.is_final() {
                let released =
                    matches!(told.told, AttemptReport::Release { .. } | AttemptReport::Snooze { .. });
                // A release or a snooze is remembered until the next report that ends an attempt of the job.
                self.workers.finals.retain(|_, end| end.id != id || !end.released);
                let owner = self.workers.named(worker);
                self.workers.finals.insert(lease, Final { id, owner, released });
            }
            self.hear_checkpoint(id, told.told, checkpoint);
            return Ok(());
        }
        let ended = self.workers.finals.get(&lease).filter(|end| end.id == id && told.is_final());
        promise!(result.is_err() || ended.is_some(), "{told:?} was taken without a lease");
        self.workers.repeats += usize::from(result.is_ok());
        // A process that was replaced or forgotten may still send a report, or another one may have its number.
        let named = self.workers.named(worker);
        let is_own = ended.is_some_and(|end| end.owner == named);
        promise!(result.is_err() || is_own || named.is_none(), "{told:?} is a stranger's and was taken");
        let must = is_own && self.workers.is_known(worker) && self.is_certain(id, causes);
        promise!(result.is_ok() || !must, "{told:?} is a repeat and was {result:?}");
        Ok(())
    }

    fn hear_checkpoint(&mut self, id: JobId, told: AttemptReport, checkpoint: Option<i64>) {
        if checkpoint.is_some() && !matches!(told, AttemptReport::Success { .. }) {
            self.workers.checkpoints.insert(id, checkpoint);
        }
    }

    fn holds(&self, id: JobId, lease: LeaseToken, causes: &Causes) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.state.lease() == Some(lease)) && !causes.ended.contains(&id)
    }

    /// Checks that a store has the latest checkpoint of each job, and none of deleted ones.
    pub(crate) fn check_checkpoints(&mut self, reader: &dyn Reader) -> Result<(), Violation> {
        for (id, number) in &self.workers.checkpoints {
            let kept = reader.checkpoint(*id).map_err(|error| error.to_string())?.map(|kept| kept.number);
            let expected = number.filter(|_| self.jobs.contains_key(id));
            promise!(kept == expected, "the checkpoint of {id} is {kept:?}, not {expected:?}");
        }
        Ok(())
    }
}

fn hear_end(causes: &mut Causes, id: JobId, told: AttemptReport) {
    match told {
        AttemptReport::Progress | AttemptReport::Checkpoint => {}
        AttemptReport::Success { .. } => {
            causes.ended.insert(id);
        }
        AttemptReport::Failure { process_died, .. } => {
            causes.ended.insert(id);
            if process_died {
                causes.died.insert(id);
            }
        }
        AttemptReport::Snooze { .. } => {
            causes.ended.insert(id);
            causes.snoozed.insert(id);
        }
        AttemptReport::Release { .. } => {
            causes.ended.insert(id);
            causes.released.insert(id);
        }
    }
}
