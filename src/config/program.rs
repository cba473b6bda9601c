//! Search for the program of a command, before the first job needs it.

use std::{env, ffi::OsStr, fs, path::Path};

use rustix::fs::{Access, access};

use super::rules::quote;

/// Returns the absolute path of `program`: an absolute path as it is, a bare name as found on `search_path`, a `PATH`.
///
/// The path found is what runs, so that a later change of `PATH` can't put another program in its place.
pub(super) fn find(program: &str, search_path: Option<&OsStr>) -> Result<String, String> {
    let shown = quote(program);
    let path = Path::new(program);
    if program.is_empty() {
        return Err("the program is empty; write its absolute path, or a name to be found on PATH".to_owned());
    }
    if path.is_absolute() {
        return match obstacle(path) {
            None => Ok(program.to_owned()),
            Some(obstacle) => Err(format!("{shown} {obstacle}")),
        };
    }
    if program.contains('/') {
        // The working folder of a service is rarely what its operator expects.
        return Err(format!(
            "{shown} is a relative path; write the absolute one, or a bare name that is on PATH"
        ));
    }
    let Some(search_path) = search_path else {
        return Err(format!("{shown} can't be found, because PATH is not set; write its absolute path"));
    };
    env::split_paths(search_path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|candidate| obstacle(candidate).is_none())
        .and_then(|path| path.into_os_string().into_string().ok())
        .ok_or_else(|| format!("{shown} was not found on PATH; install it, or write its absolute path"))
}

/// Returns why this process can't run a file, and the way out.
fn obstacle(path: &Path) -> Option<&'static str> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("can't be reached by this user; give the user access to its folder")
        }
        Err(_) => Some("does not exist; install it or correct the path"),
        Ok(metadata) if !metadata.is_file() => Some("is not a file; write the path of a program"),
        Ok(_) if access(path, Access::EXEC_OK).is_err() => {
            Some("is not executable by this user; use `chmod +x`")
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_found_or_the_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let text = dir.path().join("text");
        fs::write(&run, "#!/bin/sh\n").unwrap();
        fs::write(&text, "").unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        let path = env::join_paths([Path::new("relative"), Path::new("/nowhere"), dir.path()]).unwrap();
        let find = |program: &str| find(program, Some(&path));
        let inside = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();

        assert_eq!(find("run"), Ok(inside("run")));
        assert_eq!(find(&inside("run")), Ok(inside("run")));
        for (program, problem) in [
            ("", "the program is empty"),
            ("text", "was not found on PATH"),
            ("walk", "was not found on PATH"),
            ("./run", "is a relative path"),
            (&inside("text"), "is not executable"),
            (&inside("walk"), "does not exist"),
            (&inside(""), "is not a file"),
        ] {
            let refusal = find(program).expect_err(program);
            assert!(refusal.contains(problem), "{program}: {refusal}");
        }
        assert!(super::find("run", None).expect_err("no PATH").contains("PATH is not set"));
    }
}
