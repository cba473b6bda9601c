//! The burdens that the bench knows.

use super::{
    super::session::Bench, due::DueJobs, leaving::LeavingCallers, purge::Purge, results::Results,
    retention::OverdueJobs,
};

impl Bench {
    /// Measures Submit beside each burden.
    pub(in super::super) async fn burdens(&mut self) -> anyhow::Result<()> {
        self.leaving_callers().await?;
        self.due_jobs().await?;
        self.large_results().await?;
        self.purge().await?;
        self.overdue_jobs().await
    }

    /// Measures Submit while callers that wait for room leave.
    pub(in super::super) async fn leaving_callers(&mut self) -> anyhow::Result<()> {
        let burden = LeavingCallers::new(self).await?;
        self.beside(burden).await
    }

    /// Measures Submit while jobs fall due.
    pub(in super::super) async fn due_jobs(&mut self) -> anyhow::Result<()> {
        let burden = DueJobs::new(self).await?;
        self.beside(burden).await
    }

    /// Measures Submit while large results come in.
    pub(in super::super) async fn large_results(&mut self) -> anyhow::Result<()> {
        let burden = Results::new(self).await?;
        self.beside(burden).await
    }

    /// Measures Submit while jobs are purged.
    pub(in super::super) async fn purge(&mut self) -> anyhow::Result<()> {
        let burden = Purge::new(self).await?;
        self.beside(burden).await
    }

    /// Measures Submit while retention is behind.
    pub(in super::super) async fn overdue_jobs(&mut self) -> anyhow::Result<()> {
        let burden = OverdueJobs::new(self).await?;
        self.beside(burden).await
    }
}
