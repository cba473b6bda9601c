//! The VFS and its files in SQLite's C interface: <https://www.sqlite.org/c3ref/vfs.html>.
//!
//! A file's memory has our header first and the system's file behind it. Every call is forwarded to the system's file.

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    ptr, slice,
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use super::{Change, Faults, Image};

/// The header of a file.
#[repr(C)]
struct FaultyFile {
    base: sqlite3_file,
    faults: *const Faults,
    /// The file's path; null for temporary files, which SQLite deletes by itself.
    path: *mut PathBuf,
}

/// The private data of a VFS.
struct Data {
    system: *mut sqlite3_vfs,
    faults: &'static Faults,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Registers a VFS with SQLite for the rest of the process.
pub(super) fn register(name: &str, faults: &'static Faults) {
    // SAFETY: the default VFS lives as long as the process once SQLite is initialised, which this call does. Our VFS is
    // a copy of it with other functions; it, its name and its data are leaked.
    unsafe {
        ffi::sqlite3_initialize();
        let system = ffi::sqlite3_vfs_find(ptr::null());
        assert!(!system.is_null(), "SQLite has no VFS");
        let mut vfs = *system;
        vfs.szOsFile += size_of::<FaultyFile>() as c_int;
        vfs.pNext = ptr::null_mut();
        vfs.zName = CString::new(name).expect("no NUL in a name").into_raw();
        vfs.pAppData = Box::into_raw(Box::new(Data { system, faults })).cast();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        // The system's functions are called with the system's VFS, whose data they need.
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        let result = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0);
        assert_eq!(result, ffi::SQLITE_OK, "SQLite does not take the VFS");
    }
}

/// SAFETY: `vfs` is one of ours.
unsafe fn data(vfs: *mut sqlite3_vfs) -> &'static Data {
    // SAFETY: guaranteed by the caller; the data is leaked.
    unsafe { &*(*vfs).pAppData.cast::<Data>() }
}

/// SAFETY: `file` is one of ours, and open.
unsafe fn system(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite gave as much memory as `szOsFile` says: our header and the system's file.
    unsafe { file.cast::<u8>().add(size_of::<FaultyFile>()).cast() }
}

/// The faults of a file's disk and its path.
///
/// SAFETY: `file` is one of ours, and open.
unsafe fn of<'a>(file: *mut sqlite3_file) -> (&'a Faults, Option<&'a PathBuf>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let ours = file.cast::<FaultyFile>();
        (&*(*ours).faults, (*ours).path.as_ref())
    }
}

/// Forwards a method call to the system's file.
macro_rules! pass {
    ($method:ident, $file:expr $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls methods of open files only, and the system's files have all methods of version 2.
        unsafe {
            let file = system($file);
            match (*(*file).pMethods).$method {
                Some(method) => method(file $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a VFS of ours and enough memory for a file of ours; the name lives as long as the file.
    unsafe {
        let data = data(vfs);
        let ours = file.cast::<FaultyFile>();
        (*ours).base.pMethods = ptr::null();
        let result = match (*data.system).xOpen {
            Some(open) => open(data.system, name, system(file), flags, out_flags),
            None => ffi::SQLITE_CANTOPEN,
        };
        if result != ffi::SQLITE_OK {
            return result;
        }
        let path =
            (!name.is_null()).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())));
        if let Some(path) = &path {
            let mut state = data.faults.state.lock();
            state.files.entry(path.clone()).or_insert_with(|| {
                let flushed = std::fs::read(path).unwrap_or_default();
                Image { length: flushed.len() as u64, flushed, since: Vec::new() }
            });
        }
        (*ours).faults = data.faults;
        (*ours).path = path.map_or(ptr::null_mut(), |path| Box::into_raw(Box::new(path)));
        (*ours).base.pMethods = &METHODS;
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite gives a VFS of ours and a name that is null-terminated.
    unsafe {
        let data = data(vfs);
        let path = PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
        data.faults.state.lock().files.remove(&path);
        (*data.system).xDelete.map_or(ffi::SQLITE_IOERR, |delete| delete(data.system, name, sync))
    }
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are those of SQLite's own call.
    unsafe {
        let system = data(vfs).system;
        (*system).xAccess.map_or(ffi::SQLITE_IOERR, |access| access(system, name, flags, out))
    }
}

unsafe extern "C" fn full_pathname(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the arguments are those of SQLite's own call.
    unsafe {
        let system = data(vfs).system;
        (*system).xFullPathname.map_or(ffi::SQLITE_IOERR, |full| full(system, name, length, out))
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let result = pass!(xClose, file);
    // SAFETY: the path was made by `open`, and nothing uses a closed file.
    unsafe {
        let ours = file.cast::<FaultyFile>();
        if !(*ours).path.is_null() {
            drop(Box::from_raw((*ours).path));
            (*ours).path = ptr::null_mut();
        }
    }
    result
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    into: *mut c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    pass!(xRead, file, into, amount, at)
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: the file is ours and open.
    let (faults, path) = unsafe { of(file) };
    let Some(path) = path else { return pass!(xWrite, file, from, amount, at) };
    let mut state = faults.state.lock();
    if !state.fits(path, at as u64 + amount as u64) {
        return ffi::SQLITE_FULL;
    }
    let result = pass!(xWrite, file, from, amount, at);
    if result == ffi::SQLITE_OK {
        // SAFETY: SQLite passes a buffer of `amount` bytes.
        let bytes = unsafe { slice::from_raw_parts(from.cast::<u8>(), amount as usize) };
        state.files.entry(path.clone()).or_default().changed(Change::Write(at as u64, bytes.to_vec()));
    }
    result
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is ours and open.
    let (faults, path) = unsafe { of(file) };
    let result = pass!(xTruncate, file, size);
    if let Some(path) = path.filter(|_| result == ffi::SQLITE_OK) {
        faults.state.lock().files.entry(path.clone()).or_default().changed(Change::Truncate(size as u64));
    }
    result
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is ours and open.
    let (faults, path) = unsafe { of(file) };
    if path.is_some_and(|path| !faults.flush(path)) {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    // Power cuts are simulated, so that the real disk need not be flushed.
    let _ = flags;
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    pass!(xFileSize, file, size)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    pass!(xLock, file, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    pass!(xUnlock, file, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    pass!(xCheckReservedLock, file, out)
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    pass!(xFileControl, file, operation, argument)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    pass!(xSectorSize, file)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    pass!(xDeviceCharacteristics, file)
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    pass!(xShmMap, file, page, size, extend, out)
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    pass!(xShmLock, file, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: as for the other methods; this one returns nothing.
    unsafe {
        let file = system(file);
        if let Some(barrier) = (*(*file).pMethods).xShmBarrier {
            barrier(file);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    pass!(xShmUnmap, file, delete)
}
