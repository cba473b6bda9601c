//! A store under test, and how its process dies.

use std::{fs, path::Path, sync::Arc};

use jobmill::store::{
    Applied, Batch, EngineSetup, Reader, Store, StoreError, memory::MemoryStore, sqlite::SqliteStore,
};
use tempfile::TempDir;

/// A store under test.
pub(crate) trait Subject {
    /// Applies a batch.
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError>;
    /// Reads what is committed.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Kills the process as `kill -9` does, and starts the next one.
    fn crash(&mut self, setup: EngineSetup) -> Result<(), StoreError>;
}

/// The model.
pub(crate) struct Memory(Option<MemoryStore>);

impl Memory {
    pub(crate) fn open(setup: EngineSetup) -> Self {
        Memory(Some(MemoryStore::open(setup).unwrap()))
    }
}

impl Subject for Memory {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.as_mut().unwrap().apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.0.as_ref().unwrap().reader()
    }

    fn crash(&mut self, setup: EngineSetup) -> Result<(), StoreError> {
        self.0 = Some(self.0.take().unwrap().reopen(setup)?);
        Ok(())
    }
}

/// SQLite in a folder of its own.
pub(crate) struct Sqlite {
    store: SqliteStore,
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn open(setup: EngineSetup) -> Self {
        let folder = TempDir::new().unwrap();
        Sqlite { store: SqliteStore::open(folder.path(), setup).unwrap(), folder }
    }

    /// What a disk would hold if the process died now.
    pub(crate) fn image(&self) -> TempDir {
        image_of(self.folder.path())
    }

    /// Goes on from an image, as the next process would.
    pub(crate) fn restart_from(&mut self, image: TempDir, setup: EngineSetup) -> Result<(), StoreError> {
        self.store = SqliteStore::open(image.path(), setup)?;
        self.folder = image;
        Ok(())
    }
}

/// Copies the files of an open store. To drop the store would close it properly, which a crash does not.
///
/// The database comes first: what a checkpoint writes to it meanwhile is in the log still, which is copied after it.
pub(crate) fn image_of(folder: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for file in ["jobmill.db", "jobmill.db-wal"] {
        fs::copy(folder.join(file), image.path().join(file)).unwrap();
    }
    image
}

impl Subject for Sqlite {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.store.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }

    fn crash(&mut self, setup: EngineSetup) -> Result<(), StoreError> {
        let image = self.image();
        self.restart_from(image, setup)
    }
}
